"""Recipes with invalid YAML, structure, models, or layers, each with the expected error."""

from typing import NamedTuple


class Wrong(NamedTuple):
    """A recipe, and the line, path, and text of its error. None if the error has no line or path."""

    recipe: str
    line: int | None
    path: str | None
    words: str


HEAD = "merge_method: ties\nbase_model: base\n"
MODELS = "models:\n  - model: code\n    parameters: {weight: 0.5, density: 0.5}\n  - model: prose\n"
GOOD = HEAD + MODELS
LINEAR = "merge_method: linear\nparameters: {weight: 1}\n"
COPY = "merge_method: passthrough\n"
MODULE = COPY + "modules:\n  default:\n"


def top(line: str, path: str | None, words: str) -> Wrong:
    """A valid recipe with an additional seventh line."""
    return Wrong(f"{GOOD}{line}\n", 7, path, words)


def entry(model: str, path: str, words: str) -> Wrong:
    """A recipe with an invalid entry in `models`, on line 3."""
    return Wrong(f"{HEAD}models: [{model}]\n", 3, f"models[0]{path}", words)


def source(text: str, path: str, words: str) -> Wrong:
    """A recipe with an invalid source in a slice, on line 3."""
    return Wrong(f"{COPY}slices:\n  - sources: [{text}]\n", 3, f"slices[0].sources[0]{path}", words)


def layers(span: str, words: str, index: str = "") -> Wrong:
    """A recipe with an invalid layer range, on line 3."""
    return source(f"{{model: code, layer_range: {span}}}", f".layer_range{index}", words)


def base(model: str, path: str, words: str) -> Wrong:
    """A recipe with an invalid base model, on line 2."""
    return Wrong(f"merge_method: ties\nbase_model: {model}\n{MODELS}", 2, f"base_model{path}", words)


def method(name: str, words: str) -> Wrong:
    """A recipe with an invalid method, on line 1."""
    return Wrong(f"merge_method: {name}\nbase_model: base\n{MODELS}", 1, "merge_method", words)


def count(name: str, models: str, words: str) -> Wrong:
    """A recipe with too few or too many models, on line 3."""
    listed = ", ".join(f"{{model: {model}}}" for model in models.split())
    text = f"merge_method: {name}\nbase_model: base\nmodels: [{listed}]\n"
    return Wrong(text, 3, "models", f"method {name!r} takes {words}")


DOCUMENTS: dict[str, Wrong] = {
    "a bracket that stays open": Wrong("merge_method: [ties\nmodels: x", 2, None, "not valid YAML"),
    "a quote that stays open": Wrong("merge_method: 'ties\n", 2, None, "not valid YAML"),
    "a tab that indents": Wrong("merge_method: ties\nmodels:\n\t- model: code\n", 3, None, "not valid YAML"),
    "two colons": Wrong("merge_method: ties: x\n", 1, None, "not valid YAML"),
    "an alias of nothing": Wrong("merge_method: *nowhere\n", 1, None, "undefined alias 'nowhere'"),
    "an unprintable character": Wrong(GOOD + "\0", None, None, "not valid YAML"),
    "nested beyond all measure": Wrong("a: " + "[" * 700, None, None, "nested too deeply"),
    "empty": Wrong("", None, None, "the file is empty; a recipe needs at least 'merge_method' and 'models'"),
    "nothing but a comment": Wrong("# later\n", None, None, "is empty"),
    "a list": Wrong("- merge_method: ties\n", 1, None, "must be a mapping"),
    "a word": Wrong("ties\n", 1, None, "must be a mapping, not 'ties'"),
    "a Python object": top("dtype: !!python/name:os.system x", "dtype", "is not allowed here"),
    "a tag that does not fit": top("seed: !!bool maybe", "seed", "'maybe' cannot be parsed as"),
    "a date that is none": top("seed: 2024-13-41", "seed", "is not allowed here"),
    "a key that is a number": top("5: x", None, "the key 5 must be a string; put it in quotes"),
    "a key that is a list": top("? [a]\n: x", None, "the key ['a'] must be a string"),
    "a key with a line break": top('"a\\nb": x', None, "unknown key 'a\\nb'"),
    "a merge key of a number": top("parameters: {<<: 3}", "parameters", "'<<' takes a mapping"),
    "a key twice": top("base_model: code", "base_model", "duplicate key; keep only one"),
    "a parameter twice": top("parameters: {lambda: 1, lambda: 2}", "parameters.lambda", "duplicate key"),
    "an unknown key": top("parmeters: {}", "parmeters", "unknown key 'parmeters'; did you mean 'parameters'?"),
    "a key in other case": top("Dtype: float32", "Dtype", "did you mean 'dtype'?"),
    "a key like no other": top("xyzzy: 1", "xyzzy", "unknown key 'xyzzy'; known keys: merge_method, models,"),
    "no method": Wrong(MODELS, 1, None, "'merge_method' is missing"),
    "a method under another key": Wrong("method: ties\n" + MODELS, 1, "method", "did you mean 'merge_method'?"),
    "a method that is a number": method("5", "must be a string, not 5"),
    "a method that is empty": method("", "must be a string, not empty"),
    "a method of no letters": method("''", "must not be empty"),
    "a method misspelt": method("tis", "method 'tis' is not installed; did you mean 'ties'?"),
    "a method in capitals": method("TIES", "did you mean 'ties'?"),
    "a method with a hyphen": method("task-arithmetic", "did you mean 'task_arithmetic'?"),
    "a method like no other": method("xyzzy", "method 'xyzzy' is not installed; installed: arcee_fusion, "),
    "no models": Wrong(HEAD, 1, None,
                       "list the models to merge under one of 'models', 'slices', 'modules'; none is present"),
    "models and slices": top("slices: [{sources: [{model: code, layer_range: [0, 1]}]}]", "slices",
                             "cannot be used together"),
    "models and modules": top("modules: {default: {models: [{model: code}]}}", "modules", "cannot be used together"),
    "models empty": Wrong(HEAD + "models: []\n", 3, "models", "must not be empty"),
    "models not given": Wrong(HEAD + "models:\n", 3, "models", "must be a list, not empty"),
    "models a word": Wrong(HEAD + "models: code\n", 3, "models", "must be a list, not 'code'"),
    "models a mapping": Wrong(HEAD + "models: {code: {weight: 1}}\n", 3, "models", "must be a list, not a mapping"),
    "a model without its key": entry("code", "", "must be a mapping, not 'code'"),
    "a model's key misspelt": entry("{modle: code}", ".modle", "did you mean 'model'?"),
    "a parameter next to the model": entry("{model: code, weight: 1}", ".weight", "put it under 'parameters:'"),
    "layers outside of slices": entry("{model: code, layer_range: [0, 1]}", ".layer_range", "unknown key"),
    "parameters without a model": entry("{parameters: {weight: 1}}", "", "'model' is missing"),
    "a model that is a number": entry("{model: 3}", ".model", "must be a string or a mapping, not 3"),
    "a model that is a list": entry("{model: [code]}", ".model", "must be a string or a mapping, not ['code']"),
    "a model's path that is a number": entry("{model: {path: 3}}", ".model.path",
                                             "must be a string or a mapping, not 3"),
    "a model's path that is empty": entry("{model: {path: ''}}", ".model.path", "must not be empty"),
    "no such adapter": entry("{model: {model: code, lora: x}}", ".model", "x: no such folder"),
    "two sorts of adapter": entry("{model: {model: code, lora: x, adapter: y}}", ".model", "{adapter: ...} with one"),
    "no such model": entry("{model: coed}", ".model", "coed: no such folder; did you mean 'code'? use the path"),
    "a file for a folder": entry("{model: code/config.json}", ".model", "no such folder"),
    "a folder without a model": entry("{model: .}", ".model", "not a model, but a folder with 4 of them"),
    "a revision that is no text": entry("{model: {path: a/b, revision: 3}}", ".model", "revision: ...}"),
    "a revision of nothing": entry("{model: {revision: main}}", ".model", "must be a string, {path: ...}"),
    "a name too long for a folder": entry(f"{{model: {300 * 'x'}}}", ".model", "no such folder"),
    "a name with a line break": entry('{model: "a\\nb"}', ".model", r"a\nb: no such folder"),
    "a model's parameters a number": entry("{model: code, parameters: 3}", ".parameters", "a mapping or empty, not 3"),
    "parameters a list": top("parameters: [1]", "parameters", "must be a mapping or empty, not [1]"),
    "a dtype misspelt": top("dtype: bflaot16", "dtype", "did you mean 'bfloat16'?"),
    "a dtype in capitals": top("dtype: BFloat16", "dtype", "did you mean 'bfloat16'?"),
    "a dtype of whole numbers": top("dtype: int64", "dtype", "must be one of float32, float16, bfloat16, float64"),
    "a dtype that is a number": top("dtype: 16", "dtype", "must be a string, not 16"),
    "an output dtype misspelt": top("out_dtype: torch.flaot32", "out_dtype", "did you mean 'torch.float32'?"),
    "a seed that is a half": top("seed: 0.5", "seed", "must be a whole number, not 0.5"),
    "a seed that is a word": top("seed: random", "seed", "must be a whole number, not 'random'"),
}  # fmt: skip

STACKS: dict[str, Wrong] = {
    "a base that is empty": base("", "", "must be a string or a mapping, not empty"),
    "a base that is a list": base("[base]", "", "must be a string or a mapping, not ['base']"),
    "a base of two keys": base("{model: base, path: base}", "", "must be a string, {path: ...}, {path: ..., revision"),
    "a base that is not there": base("bse", "", "bse: no such folder"),
    "no base": Wrong(f"merge_method: ties\n{MODELS}", 1, None, "'ties' needs a base model; add base_model: prose"),
    "three models for slerp": count("slerp", "base code prose", "exactly 2 models, including the base model, not 3"),
    "two models plus slerp's base": count("slerp", "code prose", "exactly 2 models, including the base model, not 3"),
    "one model for slerp": count("slerp", "base", "exactly 2 models, including the base model, not 1"),
    "three models for arcee_fusion": count("arcee_fusion", "base code prose", "exactly 2 models, including the"),
    "two models plus nearswap's base": count("nearswap", "code prose", "exactly 1 model plus the base model"),
    "no model plus nearswap's base": count("nearswap", "base", "exactly 1 model plus the base model, not 0"),
    "one model for nuslerp": count("nuslerp", "code", "exactly 2 models plus the base model, not 1"),
    "three models for nuslerp": count("nuslerp", "code prose code", "exactly 2 models plus the base model"),
    "two models for model_stock": count("model_stock", "base code", "at least 2 models plus the base model, not 1"),
    "a base alone for ties": count("ties", "base", "at least 1 model plus the base model, not 0"),
    "a base alone for sce": count("sce", "base", "at least 1 model plus the base model, not 0"),
    "a base for passthrough": count("passthrough", "code", "exactly 1 model, including the base model, not 2"),
    "two models for passthrough": Wrong(f"{COPY}models: [{{model: code}}, {{model: prose}}]\n", 2, "models",
                                        "'passthrough' takes exactly 1 model, not 2"),
    "models of other depths": Wrong(f"{LINEAR}models: [{{model: code}}, {{model: deep}}]\n", 3, "models",
                                    "must have the same number of layers, not code: 2, deep: 3"),
    "no slices": Wrong(f"{COPY}slices: []\n", 2, "slices", "must not be empty"),
    "slices a mapping": Wrong(f"{COPY}slices: {{}}\n", 2, "slices", "must be a list, not a mapping"),
    "a slice that is a list": Wrong(f"{COPY}slices:\n  - [{{model: code}}]\n", 3, "slices[0]", "must be a mapping"),
    "a slice without sources": Wrong(f"{COPY}slices:\n  - {{}}\n", 3, "slices[0]", "'sources' is missing"),
    "a slice with no sources": Wrong(f"{COPY}slices:\n  - sources: []\n", 3, "slices[0].sources", "must not be empty"),
    "sources misspelt": Wrong(f"{COPY}slices:\n  - source: []\n", 3, "slices[0].source", "did you mean 'sources'?"),
    "a source without layers": source("{model: code}", "", "'layer_range' is missing"),
    "layers a number": layers("3", "must be a list, not 3"),
    "layers as text": layers("0-2", "must be a list, not '0-2'"),
    "layers a mapping": layers("{start: 0, end: 1}", "must be a list, not a mapping"),
    "layers of one number": layers("[0]", "must have at least 2 items, not [0]"),
    "layers of three numbers": layers("[0, 1, 2]", "must have at most 2 items, not [0, 1, 2]"),
    "half a layer": layers("[0, 1.5]", "must be a whole number, not 1.5", "[1]"),
    "layers in words": layers("[zero, 1]", "must be a whole number, not 'zero'", "[0]"),
    "layers below zero": layers("[-1, 1]", "must be at least 0, not -1", "[0]"),
    "layers reversed": layers("[2, 1]", "the end must be greater than the start, not [2, 1]; the end is exclusive"),
    "no layers": layers("[1, 1]", "the end must be greater than the start"),
    "layers beyond the model": layers("[0, 3]", "code has 2 layers, so the range can end at 2 at most, not 3"),
    "slices of other lengths": Wrong(
        f"{LINEAR}slices:\n  - sources:\n      - {{model: code, layer_range: [0, 2]}}\n"
        "      - {model: prose, layer_range: [0, 1]}\n",
        4, "slices[0]", "must have the same number of layers, not code: 2, prose: 1"),
    "a base outside the slice": Wrong(
        f"{HEAD}slices:\n  - sources: [{{model: code, layer_range: [0, 2]}}]\n",
        4, "slices[0]", "the base model 'base' must be one of the sources of the slice"),
    "a slice's base that is not there": Wrong(
        f"{HEAD}slices:\n  - sources: [{{model: code, layer_range: [0, 2]}}]\n    base_model: nobody\n",
        5, "slices[0].base_model", "nobody: no such folder"),
    "no modules": Wrong(f"{COPY}modules: {{}}\n", 2, "modules", "must not be empty"),
    "modules a list": Wrong(f"{COPY}modules: []\n", 2, "modules", "must be a mapping, not []"),
    "an unknown module": Wrong(f"{COPY}modules: {{text: {{models: [{{model: code}}]}}}}\n", 2, "modules.text",
                               "LlamaForCausalLM has no module 'text'; its modules are: default"),
    "a module's key misspelt": Wrong(f"{MODULE}    modles: []\n", 4, "modules.default.modles", "mean 'models'?"),
    "a module of nothing": Wrong(f"{MODULE}    parameters: {{}}\n", 3, "modules.default", "one of 'models', 's"),
    "a module of models and slices": Wrong(
        f"{MODULE}    models: [{{model: code}}]\n    slices: [{{sources: [{{model: code, layer_range: [0, 1]}}]}}]\n",
        5, "modules.default.slices", "'models' and 'slices' cannot be used together; keep one"),
}  # fmt: skip
