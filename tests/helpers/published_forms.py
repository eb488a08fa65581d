"""Recipes written after public ones that run: slices, adapters, anchors, stages, and tokenizers.

They have the forms of recipes in model cards, issues, and manuals, with tiny models in place of the published ones.
"""

MORE: dict[str, str] = {
    "a frankenmerge": """\
dtype: float16
merge_method: passthrough
slices:
- sources:
  - layer_range: [0, 3]
    model: code
- sources:
  - layer_range: [1, 4]
    model: prose
""",
    "a model stacked on itself": """\
slices:
  - sources: [{model: base, layer_range: [0, 2]}]
  - sources: [{model: base, layer_range: [0, 2]}]
  - sources: [{model: base, layer_range: [2, 4]}]
merge_method: passthrough
""",
    "layers that start as nothing": """\
slices:
  - sources:
      - {model: base, layer_range: [0, 4]}
  - sources:
      - model: base
        layer_range: [3, 4]
        parameters:
          scale:
            - {filter: o_proj, value: 0.0}
            - {filter: down_proj, value: 0.0}
            - {value: 1.0}
merge_method: passthrough
dtype: bfloat16
""",
    "a slice with a residual weight": """\
slices:
  - sources:
      - {model: base, layer_range: [0, 4]}
      - {model: code, layer_range: [0, 4]}
    residual_weight: 0.5
    parameters: {t: 0.5}
merge_method: slerp
base_model: base
""",
    "slices of several methods' parameters": """\
slices:
  - sources:
      - {model: base, layer_range: [0, 2]}
      - {model: code, layer_range: [0, 2], parameters: {weight: 0.5, density: 0.2}}
  - sources:
      - {model: base, layer_range: [2, 4]}
      - {model: code, layer_range: [2, 4], parameters: {weight: 0.9, density: 0.8, gamma: 0.1}}
merge_method: dare_ties
base_model: base
""",
    "an adapter baked in": """\
models:
  - model: base+adapter
merge_method: passthrough
dtype: bfloat16
""",
    "adapters as mappings": """\
base_model: {model: {path: base}}
models:
  - model: {model: base, lora: adapter}
    parameters: {weight: 0.5}
  - model: code
merge_method: task_arithmetic
""",
    "a revision of a local folder": """\
base_model: {path: base, revision: main}
models:
  - model: code@v1.0
  - {model: {model: {path: prose, revision: 0123abc}}}
merge_method: ties
""",
    "anchors under x-": """\
x-common: &common {weight: 0.5, density: 0.6}
x-base: &base base
models:
  - {model: code, parameters: *common}
  - {model: prose, parameters: {<<: *common, weight: 0.3}}
merge_method: ties
base_model: *base
""",
    "anchors under custom names": """\
defaults: &defaults
  density: 0.5
  weight: 0.5
filters: &filters
  - {filter: self_attn, value: 0.7}
  - {value: 0.2}
ours:
  - &code code
  - &prose prose
models:
  - {model: *code, parameters: *defaults}
  - {model: *prose, parameters: {<<: *defaults, weight: *filters}}
merge_method: dare_ties
base_model: base
""",
    "anchors in the recipe itself": """\
base_model: &base base
models:
  - model: *base
  - model: code
    parameters: &same {weight: 1}
  - {model: prose, parameters: *same}
merge_method: ties
""",
    "stages as in the manual": """\
name: first-merge
merge_method: linear
models:
  - model: code
  - model: prose
parameters:
  weight: 0.5
---
name: second-merge
merge_method: slerp
base_model: first-merge  # a reference to the merge before
models:
  - model: math
parameters:
  t: 0.5
---
# the last one has no name
merge_method: dare_ties
base_model: base
models:
  - {model: second-merge, parameters: {density: 0.6, weight: 0.5}}
  - {model: code, parameters: {density: 0.8, weight: 0.5}}
""",
    "stages that all have names": """\
---
models: [{model: code}, {model: prose}]
merge_method: linear
parameters: {weight: 0.5}
name: a
---
models: [{model: a}, {model: math}]
merge_method: linear
parameters: {weight: 0.5}
name: b
---
""",
    "a chat template by name": """\
models: [{model: code}, {model: prose}]
merge_method: linear
parameters: {weight: 0.5}
chat_template: chatml
tokenizer: {source: union, pad_to_multiple_of: 8}
""",
    "tokens with their sources": """\
models: [{model: code}, {model: prose}]
merge_method: linear
parameters: {weight: 0.5}
tokenizer:
  source: base
  tokens:
    w1: {source: prose, force: true}
    w2:
      source: {kind: model_token, model: code, token: w3}
    w4:
      source: {kind: zero}
base_model: base
""",
    "modules": """\
modules:
  default:
    slices:
      - sources:
          - {model: base, layer_range: [0, 4]}
          - {model: code, layer_range: [0, 4]}
    parameters: {t: 0.3}
merge_method: slerp
base_model: base
""",
    "numbers as text": """\
models: [{model: code, parameters: {weight: "0.5"}}, {model: prose, parameters: {weight: 1e-1}}]
merge_method: linear
parameters: {normalize: 1}
""",
    "keys in capitals of YAML 1.1": """\
models: [{model: code}]
merge_method: task_arithmetic
base_model: base
parameters: {normalize: yes, weight: 1}
""",
    "a base that is not among the models": """\
models: [{model: code, parameters: {weight: 1}}]
merge_method: ties
base_model: base
parameters: {density: 1, normalize: true, int8_mask: true}
""",
    "everything null": """\
models: [{model: code, parameters: null}, {model: prose, parameters: }]
merge_method: karcher
parameters: null
""",
    "a filter of everything": """\
models: [{model: code, parameters: {weight: {filter: "*", value: 1}}}]
merge_method: linear
""",
    "a name in a single recipe": """\
name: my-merge
models: [{model: code}]
merge_method: passthrough
""",
}
