"""Recipes written after public ones that are refused, each with its sentence.

They have the forms of recipes in model cards, issues, and manuals, with tiny models in place of the published ones.
"""

REFUSED: dict[str, tuple[str, str]] = {
    "normalize at the top": ("""\
models: [{model: code, parameters: {weight: 0.5}}]
merge_method: ties
base_model: base
normalize: true
""", "normalize: unknown key 'normalize'; put it under 'parameters:'"),
    "density next to the model": ("""\
models:
  - model: code
    density: 0.5
    weight: 0.5
merge_method: ties
base_model: base
""", "models[0].density: unknown key 'density'; put it under 'parameters:'"),
    "select_topk at the top": ("""\
models: [{model: code}, {model: prose}]
merge_method: sce
base_model: base
select_topk: 0.1
""", "select_topk: unknown key 'select_topk'; put it under 'parameters:'"),
    "t of a slice without parameters": ("""\
slices:
  - sources: [{model: base, layer_range: [0, 4]}, {model: code, layer_range: [0, 4]}]
    t: 0.5
merge_method: slerp
base_model: base
""", "slices[0].t: unknown key 't'; put it under 'parameters:'"),
    "dtype under parameters": ("""\
models: [{model: code}]
merge_method: ties
base_model: base
parameters: {dtype: bfloat16}
""", "parameters.dtype: is not a parameter; write 'dtype' at the top level"),
    "tokenizer_source under parameters": ("""\
models: [{model: code, parameters: {weight: 1}}]
merge_method: linear
parameters: {tokenizer_source: union}
""", "is not a parameter; write 'tokenizer_source' at the top level"),
    "random_seed under parameters": ("""\
models: [{model: code, parameters: {weight: 0.4, density: 0.5}}]
merge_method: dare_ties
base_model: base
parameters: {int8_mask: true, random_seed: 145}
""", "parameters.random_seed: is not a parameter; write 'seed' at the top level"),
    "random_seed at the top": ("""\
models: [{model: code}]
merge_method: dare_ties
base_model: base
random_seed: 145
""", "unknown key 'random_seed'; write 'seed' at the top level"),
    "layer_range of a model": ("""\
models:
  - model: base
    layer_range: [0, 4]
  - model: code
    layer_range: [0, 4]
merge_method: slerp
base_model: base
parameters: {t: 0.5}
""", "models[0].layer_range: unknown key 'layer_range'; only a source under 'slices: - sources:' can have it"),
    "a parameter that nobody has": ("""\
models: [{model: code, parameters: {weight: 1, densty: 0.5}}]
merge_method: ties
base_model: base
""", "models[0].parameters.densty: the method has no parameter 'densty'; did you mean 'density'?"),
    "a method with a hyphen": ("""\
models: [{model: code}]
merge_method: dare-ties
base_model: base
""", "method 'dare-ties' is not installed; did you mean 'dare_ties'?"),
    "a misspelt key": ("""\
models: [{model: code}]
merge_method: ties
base_modle: base
""", "base_modle: unknown key 'base_modle'; did you mean 'base_model'?"),
    "weights without values": ("""\
models: [{model: code, parameters: {weight: []}}, {model: prose, parameters: {weight: 1}}]
merge_method: linear
""", "models[0].parameters.weight: must not be empty"),
    "ties without a base": ("""\
models:
  - model: base
  - model: code
    parameters: {weight: 0.5, density: 0.5}
  - model: prose
    parameters: {weight: 0.5, density: 0.5}
merge_method: ties
""", "method 'ties' needs a base model; add base_model: base"),
    "slerp of three": ("""\
models: [{model: base}, {model: code}, {model: prose}]
merge_method: slerp
base_model: base
parameters: {t: 0.5}
""", "method 'slerp' takes exactly 2 models, including the base model, not 3"),
    "linear without weights": ("""\
models: [{model: code}, {model: prose}]
merge_method: linear
dtype: bfloat16
""", "parameter 'weight' is missing"),
    "weights that cancel": ("""\
models: [{model: code, parameters: {weight: 1}}, {model: prose, parameters: {weight: -1}}]
merge_method: linear
""", "add up to 0 and cannot be normalized; change them or set normalize: false"),
    "a density in percent": ("""\
models: [{model: code, parameters: {weight: 1, density: 50}}]
merge_method: ties
base_model: base
""", "density: must be at most 1, not 50"),
    "layers beyond the model": ("""\
slices: [{sources: [{model: code, layer_range: [0, 32]}]}]
merge_method: passthrough
""", "code has 4 layers, so the range can end at 4 at most, not 32"),
    "models of other depths": ("""\
models: [{model: code}, {model: deep}]
merge_method: linear
parameters: {weight: 0.5}
""", "all models of a slice must have the same number of layers, not code: 4, deep: 6"),
    "a type that is short for another": ("""\
models: [{model: code}]
merge_method: passthrough
dtype: bf16
""", "dtype: must be one of float32, float16, bfloat16, float64"),
    "a genome": ("""\
genome:
  models: [code, prose]
  merge_method: dare_ties
  base_model: base
  layer_granularity: 2
tasks: [{name: arc, weight: 1.0}]
""", "a file with 'genome' is not a recipe; run: mergecore evolve recipe.yml OUT"),
    "a mixture of experts": ("""\
base_model: base
gate_mode: hidden
dtype: bfloat16
experts:
  - {source_model: code, positive_prompts: ["write code"]}
  - {source_model: prose, positive_prompts: ["tell a story"]}
""", "a file with 'experts' is not a recipe; run: mergecore moe recipe.yml OUT"),
    "models as a list of names": ("""\
models: [code, prose]
merge_method: linear
parameters: {weight: 0.5}
""", "models[0]: must be a mapping, not 'code'"),
    "a path that is mistyped": ("""\
models: [{model: ./cdoe}]
merge_method: passthrough
""", "./cdoe: no such folder; did you mean 'code'?"),
    "an adapter as a model": ("""\
models: [{model: code}, {model: adapter}]
merge_method: linear
parameters: {weight: 0.5}
""", "is an adapter, not a model; add it to its base model as BASE+adapter"),
    "a tokenizer twice": ("""\
models: [{model: code}]
merge_method: passthrough
tokenizer_source: base
tokenizer: {source: union}
""", "'tokenizer' and 'tokenizer_source' cannot be used together; keep one"),
    "models and slices": ("""\
models: [{model: code}]
slices: [{sources: [{model: code, layer_range: [0, 4]}]}]
merge_method: passthrough
""", "'models' and 'slices' cannot be used together; keep one"),
    "an anchor that nothing uses": ("""\
weights: &weights {weight: 1}
models: [{model: code, parameters: {weight: 1}}]
merge_method: linear
""", "unknown key 'weights'"),
    "a tab": ("models:\n\t- model: code\nmerge_method: passthrough\n", "this is not valid YAML: found character '\\t'"),
}  # fmt: skip
