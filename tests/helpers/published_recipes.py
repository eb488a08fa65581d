"""Recipes written after public ones that run: one method each.

They have the forms of recipes in model cards, issues, and manuals, with tiny models in place of the published ones.
"""

RUNS: dict[str, str] = {
    "slerp with gradients by filter": """\
slices:
  - sources:
      - model: base
        layer_range: [0, 4]
      - model: code
        layer_range: [0, 4]
merge_method: slerp
base_model: base
parameters:
  t:
    - filter: self_attn
      value: [0, 0.5, 0.3, 0.7, 1]
    - filter: mlp
      value: [1, 0.5, 0.7, 0.3, 0]
    - value: 0.5 # everything else
dtype: bfloat16
""",
    "slerp with an old switch": """\
models:
  - model: base
  - model: code
merge_method: slerp
base_model: base
tokenizer_source: union
parameters:
  t: [0.1, 0.9]
  embed_slerp: true
dtype: float16
""",
    "slerp with weights that it does not have": """\
models:
- model: base
  parameters: {weight: 0.6}
- model: code
  parameters: {weight: 0.4}
merge_method: slerp
base_model: base
parameters: {t: 0.4, normalize: true, int8_mask: true}
""",
    "ties as in the manual": """\
models:
  - model: base
    # no parameters necessary for base model
  - model: code
    parameters: {density: 0.5, weight: 0.5}
  - model: prose
    parameters: {density: 0.5, weight: 0.3}
merge_method: ties
base_model: base
parameters:
  normalize: false
  int8_mask: true
dtype: float16
""",
    "ties with gradients": """\
models:
  - model: code
    parameters: {density: [1, 0.7, 0.1], weight: 1.0}
  - model: prose
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: math
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: base
parameters: {normalize: true}
""",
    "ties with parameters of the base": """\
models:
  - {model: base, parameters: {weight: 1, density: 1}}
  - {model: code, parameters: {weight: 1, density: 1}}
merge_method: ties
base_model: base
parameters: {weight: 1, density: 1, normalize: true, int8_mask: true}
tokenizer_source: code
dtype: bfloat16
""",
    "dare_ties of three": """\
models:
  - model: base
    # No parameters necessary for base model
  - model: code
    parameters: {density: 0.53, weight: 0.4}
  - model: prose
    parameters: {density: 0.53, weight: 0.3}
  - model: math
    parameters: {density: 0.53, weight: 0.3}
merge_method: dare_ties
base_model: base
parameters: {int8_mask: true}
dtype: bfloat16
""",
    "dare_linear without rescaling": """\
models:
  - model: "code"
    parameters: {weight: 1.0, density: 1.0}
  - model: "prose"
    parameters: {weight: 0.846, density: 1.0}
base_model: "base"
merge_method: dare_linear
dtype: bfloat16
parameters: {lambda: 1.0, rescale: false}
""",
    "della": """\
models:
  - {model: code, parameters: {density: 0.5, weight: 0.5, epsilon: 0.1}}
merge_method: della
base_model: base
parameters: {density: 0.5, weight: 1}
""",
    "della with everything": """\
models:
  - {model: code, parameters: {weight: 1, density: 0.55}}
  - {model: prose, parameters: {weight: 0.5, density: 0.45}}
base_model: base
merge_method: della_linear
parameters: {normalize: true, int8_mask: true, lambda: 1.0, epsilon: 0.05}
dtype: bfloat16
tokenizer: {source: union}
""",
    "breadcrumbs_ties with filters": """\
base_model: base
dtype: bfloat16
merge_method: breadcrumbs_ties
tokenizer:
  source: union
parameters:
  int8_mask: true
  #normalize: true
models:
  - model: code
    parameters:
      weight:
        - {filter: lm_head, value: 0.0}
        - {filter: self_attn.o_proj, value: 0.0}
        - {value: 0.42}
      density: 0.9
      gamma: 0.01
  - model: prose
    parameters: {weight: 0.33, density: 0.9, gamma: 0.01}
""",
    "task arithmetic with a density": """\
models:
  - {model: code, parameters: {weight: 0.35, density: 0.5}}
  - {model: prose, parameters: {weight: 0.25}}
base_model: base
merge_method: task_arithmetic
parameters: {normalize: true, rescale: true}
dtype: bfloat16
""",
    "task arithmetic that takes away": """\
merge_method: task_arithmetic
base_model: base
models:
  - {model: code, parameters: {weight: -0.5}}
dtype: float32
""",
    "linear with tokenizer_source": """\
models:
  - model: code
    parameters:
      weight: 1.0
  - model: prose
    parameters:
      weight: 1.0
  - model: math
    parameters:
      weight: 1.0
merge_method: linear
tokenizer_source: union
dtype: float16
""",
    "linear with a density of TIES": """\
models:
  - {model: code, parameters: {weight: 0.5, density: 0.5}}
  - {model: prose, parameters: {weight: 0.5, density: 0.5}}
merge_method: linear
parameters: {normalize: true, int8_mask: true}
dtype: torch.bfloat16
""",
    "linear with a base": """\
models: [{model: code}, {model: prose}]
merge_method: linear
base_model: base
parameters: {weight: 0.3}
""",
    "model_stock": """\
models:
  - model: code
  - model: prose
  - model: math
base_model: base
merge_method: model_stock
dtype: bfloat16
""",
    "model_stock with parameters of others": """\
models:
  - {model: code, parameters: {weight: 1, density: 0.5}}
  - {model: prose}
base_model: base
merge_method: model_stock
parameters: {filter_wise: false, normalize: false, int8_mask: true, select_topk: 0.1}
""",
    "sce": """\
models: [{model: code}, {model: prose}]
merge_method: sce
base_model: base
parameters: {select_topk: 0.1}
dtype: bfloat16
""",
    "karcher with a weight": """\
models:
  - {model: code, parameters: {weight: 0.5}}
  - {model: prose}
merge_method: karcher
parameters: {max_iter: 1000, tol: 1e-9}
""",
    "nuslerp": """\
models:
  - {model: code, parameters: {weight: 0.5}}
  - {model: prose, parameters: {weight: 0.5}}
base_model: base
merge_method: nuslerp
parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}
""",
    "multislerp": """\
models:
  - {model: code, parameters: {weight: [0.2, 0.8]}}
  - {model: prose, parameters: {weight: 0.5}}
  - {model: math, parameters: {weight: 0.3}}
merge_method: multislerp
parameters: {normalize_weights: true, eps: 1e-8}
""",
    "nearswap": """\
models: [{model: code}]
merge_method: nearswap
base_model: base
parameters: {t: 0.001}
""",
    "arcee_fusion": """\
models: [{model: base}, {model: code}]
merge_method: arcee_fusion
base_model: base
dtype: bfloat16
""",
    "ram": """\
models: [{model: code}, {model: prose}]
merge_method: ramplus_tl
base_model: base
parameters: {r: 0.1, alpha: 0.2, epsilon: 1e-5}
""",
}
