"""Recipes with invalid parameters, each with the expected error."""

from wrong_recipe_documents import GOOD, HEAD, Wrong


def value(method: str, parameters: str, path: str, words: str) -> Wrong:
    """A recipe with invalid top-level parameters, on line 2."""
    models = "models: [{model: code}, {model: prose}]\nbase_model: base\n"
    return Wrong(f"merge_method: {method}\nparameters: {{{parameters}}}\n{models}", 2, f"parameters.{path}", words)


def lacking(method: str, parameters: str, models: str, words: str, path: str = "models") -> Wrong:
    """A recipe without a required value. Its models are on line 3."""
    head = f"merge_method: {method}\nparameters: {{{parameters}}}\n"
    return Wrong(f"{head}models: [{models}]\nbase_model: base\n", 3 if path != "base_model" else 4, path, words)


def of_model(method: str, name: str, words: str = "applies to all models; move it to the") -> Wrong:
    """A recipe with a parameter for the whole merge under one model, on line 4."""
    text = f"merge_method: {method}\nbase_model: base\nmodels:\n  - {{model: code, parameters: {{{name}: 1}}}}\n"
    return Wrong(text, 4, f"models[0].parameters.{name}", words)


EMBEDDING = "model.embed_tokens.weight"
CHANCES = "which must be strictly between 0 and 1; set epsilon below"

NAMES: dict[str, Wrong] = {
    f"{method}'s {name} misspelt": value(method, f"{name}: 1", name, f"has no parameter {name!r}; {hint}")
    for method, name, hint in [
        ("linear", "wieght", "did you mean 'weight'?"),
        ("linear", "temperature", "it takes: weight, normalize"),
        ("slerp", "T", "did you mean 't'?"),
        ("nuslerp", "nuslerp_flaten", "did you mean 'nuslerp_flatten'?"),
        ("multislerp", "normalise_weights", "did you mean 'normalize_weights'?"),
        ("karcher", "max_iters", "did you mean 'max_iter'?"),
        ("karcher", "steps", "it takes: max_iter, tol"),
        ("passthrough", "scael", "did you mean 'scale'?"),
        ("task_arithmetic", "lamda", "did you mean 'lambda'?"),
        ("ties", "densty", "did you mean 'density'?"),
        ("dare_linear", "re_scale", "did you mean 'rescale'?"),
        ("dare_ties", "drop_rate", "it takes: weight, density, normalize, rescale, lambda"),
        ("della", "epsilom", "did you mean 'epsilon'?"),
        ("breadcrumbs", "gama", "did you mean 'gamma'?"),
        ("sce", "select_top_k", "did you mean 'select_topk'?"),
        ("model_stock", "filterwise", "did you mean 'filter_wise'?"),
        ("arcee_fusion", "threshold", "it takes no parameters"),
        ("ram", "beta", "it takes: epsilon"),
        ("ramplus_tl", "Alpha", "did you mean 'alpha'?"),
    ]
}

VALUES: dict[str, Wrong] = {
    f"{method} of {{{parameters}}}": value(method, parameters, path, words)
    for method, parameters, path, words in [
        ("linear", "weight: heavy", "weight", "must be a number, not 'heavy'"),
        ("linear", "weight: 50%", "weight", "must be a number, not '50%'"),
        ("linear", "weight: true", "weight", "must be a number, not true"),
        ("linear", "weight: 2024-01-01", "weight", "is not allowed here"),
        ("linear", "weight: ", "weight", "parameter 'weight' has no value; write one or remove the line"),
        ("linear", "weight: .nan", "weight", "must be a finite number, not nan"),
        ("linear", "weight: nan", "weight", "must be a finite number, not 'nan'"),
        ("linear", "weight: -.inf", "weight", "must be a finite number, not -inf"),
        ("linear", "weight: 1e400", "weight", "must be a finite number, not '1e400'"),
        ("linear", f"weight: {400 * '9'}", "weight", "cannot be parsed as"),
        ("linear", "weight: [1, heavy]", "weight[1]", "must be a number, not 'heavy'"),
        ("linear", "weight: [1, null]", "weight[1]", "must be a number, not empty"),
        ("linear", "weight: [[1, 2], [3, 4]]", "weight[0]", "must be a number, not [1, 2]"),
        ("linear", "weight: {code: 1, prose: 2}", "weight.code", "unknown key 'code'; known keys: value, filter"),
        ("linear", "weight: {}", "weight", "'value' is missing"),
        ("linear", "weight: {filter: mlp}", "weight", "'value' is missing"),
        ("linear", "weight: {filter: mlp, value: []}", "weight.value", "must not be empty"),
        ("linear", "weight: {filter: mlp, value: {value: 1}}", "weight.value", "a value or a list of values, not a"),
        ("linear", "weight: {fliter: mlp, value: 1}", "weight.fliter", "did you mean 'filter'?"),
        (
            "linear",
            "weight: {filter: 3, value: 1}",
            "weight.filter",
            "must be a string that is part of a weight's name, not 3",
        ),
        (
            "linear",
            "weight: {filter: [mlp], value: 1}",
            "weight.filter",
            "must be a string that is part of a weight's name",
        ),
        ("linear", "weight: [{filter: mlp, value: 1}, 0.5]", "weight[1]", "like the other items, not 0.5"),
        ("linear", "weight: [0.5, {filter: mlp, value: 1}]", "weight[0]", "like the other items, not 0.5"),
        ("linear", "weight: [{value: 1}, {value: x}]", "weight[1].value", "must be a number, not 'x'"),
        ("linear", "normalize: 0.5", "normalize", "must be true or false, not 0.5"),
        ("linear", "normalize: 'true'", "normalize", "must be true or false, not 'true'"),
        ("linear", "normalize: [true, 0.3]", "normalize[1]", "must be true or false, not 0.3"),
        ("linear", "normalize: [[true]]", "normalize[0]", "must be true or false, not [true]"),
        ("slerp", "t: half", "t", "must be a number, not 'half'"),
        ("slerp", "t: [0, .inf]", "t[1]", "must be a finite number, not inf"),
        ("nuslerp", "nuslerp_flatten: 2", "nuslerp_flatten", "must be true or false, not 2"),
        ("multislerp", "eps: -1", "eps", "must be at least 0, not -1"),
        ("karcher", "max_iter: -1", "max_iter", "must be at least 0, not -1"),
        ("karcher", "max_iter: 2.5", "max_iter", "must be a whole number, not 2.5"),
        ("karcher", "max_iter: true", "max_iter", "must be a whole number, not true"),
        ("karcher", "tol: -1e-5", "tol", "must be at least 0, not '-1e-5'"),
        ("passthrough", "scale: [1, big]", "scale[1]", "must be a number, not 'big'"),
        ("task_arithmetic", "lambda: [1, .nan]", "lambda[1]", "must be a finite number, not nan"),
        ("ties", "density: 2", "density", "must be at most 1, not 2"),
        ("ties", "density: [0.5, -0.1]", "density[1]", "must be at least 0, not -0.1"),
        ("dare_linear", "density: 1.2", "density", "must be at most 1, not 1.2"),
        ("dare_ties", "rescale: maybe", "rescale", "must be true or false, not 'maybe'"),
        ("della", "epsilon: 0.6", "epsilon", "must be at most 0.5, not 0.6"),
        ("della_linear", "epsilon: -0.1", "epsilon", "must be at least 0, not -0.1"),
        ("breadcrumbs", "gamma: 1.5", "gamma", "must be at most 1, not 1.5"),
        ("breadcrumbs_ties", "gamma: {filter: mlp, value: -1}", "gamma.value", "must be at least 0, not -1"),
        ("sce", "select_topk: 1.5", "select_topk", "must be at most 1, not 1.5"),
        ("model_stock", "filter_wise: rows", "filter_wise", "must be true or false, not 'rows'"),
        ("nearswap", "t: -0.1", "t", "must be at least 0, not -0.1"),
        ("ram", "epsilon: -1", "epsilon", "must be at least 0, not -1"),
        ("ramplus_tl", "r: high", "r", "must be a number, not 'high'"),
    ]
}

PLACES: dict[str, Wrong] = {
    **{f"{name} under a model of {method}": of_model(method, name) for method, name in [
        ("slerp", "t"), ("linear", "normalize"), ("ties", "lambda"), ("dare_ties", "rescale"), ("sce", "select_topk"),
        ("multislerp", "normalize_weights"), ("nearswap", "t"), ("ram", "epsilon"),
    ]},
    "an unknown parameter under a model": of_model("ties", "densty", "has no parameter 'densty'; did you mean"),
    "a wrong value under a model": Wrong(
        GOOD.replace("density: 0.5", "density: 1.5"), 5, "models[0].parameters.density", "must be at most 1, not 1.5"),
    "a wrong value in a slice": Wrong(
        f"{HEAD}slices:\n  - parameters: {{density: x}}\n    sources: [{{model: base, layer_range: [0, 2]}}]\n",
        4, "slices[0].parameters.density", "must be a number, not 'x'"),
    "a wrong value in a source": Wrong(
        f"{HEAD}slices:\n  - sources: [{{model: base, layer_range: [0, 2], parameters: {{density: x}}}}]\n",
        4, "slices[0].sources[0].parameters.density", "must be a number, not 'x'"),
    "a wrong name in a module": Wrong(
        f"{HEAD}modules:\n  default:\n    models: [{{model: code}}]\n    parameters: {{lamda: 1}}\n",
        6, "modules.default.parameters.lamda", "did you mean 'lambda'?"),
    "no t for slerp": lacking("slerp", "", "{model: code}", f"parameter 't' is missing (needed for {EMBEDDING})"),
    "no t for nearswap": lacking("nearswap", "", "{model: code}", "parameter 't' is missing"),
    "an empty gradient for slerp": value("slerp", "t: []", "t", "must not be empty"),
    "no weight for linear": lacking(
        "linear", "", "{model: code, parameters: {weight: 1}}, {model: prose}",
        f"parameter 'weight' is missing (needed for {EMBEDDING} of model 'prose')", "models[1]"),
    "no weight for linear's base": lacking(
        "linear", "", "{model: code, parameters: {weight: 1}}", "is missing (needed for model.embed_tokens.weight of"
        " model 'base')", "base_model"),
    "filters that leave a weight out": lacking(
        "slerp", "t: {filter: mlp, value: 0.5}", "{model: code}",
        f"parameter 't' has no value for {EMBEDDING}: none of its filters match; add an entry without a filter"),
    "filters that leave a model's weight out": lacking(
        "linear", "", "{model: code, parameters: {weight: [{filter: mlp, value: 1}, {filter: attn, value: 2}]}}",
        f"parameter 'weight' has no value for {EMBEDDING} of model 'code': none of its filters match", "models[0]"),
    "a gradient of whole numbers with halves between": Wrong(
        "merge_method: karcher\nparameters: {max_iter: [1, 4]}\nmodels: [{model: deep}]\n",
        2, "parameters.max_iter", "the gradient has 2.5 between its values; only whole numbers are allowed"),
    "della's chances below 0": lacking("della", "density: 0.1", "{model: code}", f"{CHANCES} 0.1"),
    "della's chances above 1": lacking("della", "density: 0.9", "{model: code}", f"{CHANCES} 0.1"),
    "della_linear's chances above 1 in a later layer": lacking(
        "della_linear", "density: [0.5, 0.95]", "{model: code}", "(for model.layers.1.input_layernorm.weight)"),
    "multislerp's weights that cancel": lacking(
        "multislerp", "", "{model: code, parameters: {weight: 1}}, {model: prose, parameters: {weight: -1}}",
        "the weights 1.0, -1.0 add up to 0 and cannot be normalized"),
}  # fmt: skip
