"""Invalid recipes with several stages, each with the expected error."""

from wrong_recipe_documents import Wrong

STAGE = "name: mix\nmerge_method: linear\nparameters: {weight: 1}\nmodels: [{model: code}, {model: prose}]\n---\n"
LAST = "merge_method: ties\nbase_model: base\n"


def later(text: str, line: int, path: str | None, words: str) -> Wrong:
    """A recipe after the stage `mix`. Line numbers start at the recipe."""
    return Wrong(STAGE + text, 5 + line, path, words)


def named(name: str, words: str) -> Wrong:
    """A stage with an invalid name, on line 1."""
    return Wrong(STAGE.replace("mix", name, 1) + f"{LAST}models: [{{model: code}}]\n", 1, "name", words)


def nested(text: str, path: str, words: str) -> Wrong:
    """A recipe nested in a recipe, on line 3."""
    return Wrong(f"{LAST}models: [{{model: code}}, {{model: {text}}}]\n", 3, f"models[1].model{path}", words)


def made_of(**models: str) -> str:
    """One-line recipes, each of which uses another one."""
    lines = [f"{{name: {name}, merge_method: passthrough, models: [{{model: {model}}}]}}\n" for name, model in
             models.items()]  # fmt: skip
    return "---\n".join(lines)


STAGES: dict[str, Wrong] = {
    "two recipes without a name": later(f"{LAST}models: [{{model: mix}}]\n---\n{LAST}models: [{{model: code}}]\n", 5,
                                        None, "two recipes in this file have no name"),
    "two recipes of one name": later(f"name: mix\n{LAST}models: [{{model: code}}]\n", 1, "name",
                                     "'mix' is also the name of another recipe"),
    "a nested recipe of another's name": later(
        f"{LAST}models:\n- model: {{name: mix, merge_method: passthrough, models: [{{model: code}}]}}\n", 4,
        "models[0].model.name", "'mix' is also the name of another recipe"),
    "a name that is a folder": named("code", "'code' is ambiguous, because there is a folder"),
    "a name that is a number": named("5", "must be a string, not 5"),
    "a name that is empty": named("", "must be a string, not empty"),
    "a name of no letters": named("''", "must not be empty"),
    "a name that is a path": named("a/b", "'a/b' is not a valid recipe name"),
    "a name that leads upward": named("..", "'..' is not a valid recipe name"),
    "a name like an adapter's": named("a+b", "'a+b' is not a valid recipe name"),
    "a name with a line break": named('"a\\nb"', r"'a\nb' is not a valid recipe name"),
    "a name that nobody has": later(f"{LAST}models: [{{model: mxi}}]\n", 3, "models[0].model",
                                    "mxi: no such folder; use the path of a model folder with a"
                                    " config.json, or the org/name of a model on the Hub; did you mean 'mix'?"),
    "a base that nobody has": later("merge_method: ties\nbase_model: mixx\nmodels: [{model: mix}]\n", 2, "base_model",
                                    "did you mean 'mix'?"),
    "made from itself": Wrong(made_of(a="a"), 1, "models[0].model", "cannot be merged from itself: 'a' from 'a'"),
    "made from itself and an adapter": Wrong(made_of(a="a+x"), 1, "models[0].model", "from itself: 'a' from 'a'"),
    "made from each other": Wrong(made_of(a="b", b="a"), 3, "models[0].model", "itself: 'a' from 'b' from 'a'"),
    "a circle of three": Wrong(made_of(a="b", b="c", c="a"), 5, "models[0].model", "'a' from 'b' from 'c' from 'a'"),
    "a circle that the output is not in": Wrong(made_of(a="b", b="a", c="code"), 3, "models[0].model", "from itself"),
    "endless stages": Wrong(made_of(**{f"s{n}": f"s{n + 1}" for n in range(60)}, s60="code"), 101, "models[0].model",
                            "more than 50 levels"),
    "a wrong key later": later(f"{LAST}models: [{{model: mix}}]\nparmeters: {{}}\n", 4, "parmeters", "unknown key"),
    "a wrong method later": later("merge_method: tis\nmodels: [{model: mix}]\n", 1, "merge_method", "mean 'ties'?"),
    "a wrong value later": later(f"{LAST}models:\n- model: mix\n  parameters: {{density: 2}}\n", 5,
                                 "models[0].parameters.density", "must be at most 1"),
    "a wrong method before": Wrong(STAGE.replace("linear", "liner") + f"{LAST}models: [{{model: mix}}]\n", 2,
                                   "merge_method", "did you mean 'linear'?"),
    "a stage of nothing": Wrong(made_of(a="nowhere", b="a"), 1, "models[0].model", "nowhere: no such folder"),
    "a stage that nobody wants": Wrong(f"name: x\nmerge_method: ties\nmdels: []\n---\n{STAGE}", 3, "mdels", "unknown"),
    "a bracket that stays open later": later("merge_method: [ties\nmodels: x", 2, None, "not valid YAML"),
    "an alias of another document": Wrong(STAGE.replace("[", "&m [", 1) + f"{LAST}models: *m\n", 8, None,
                                          "undefined alias 'm'"),
    "a list later": later("- merge_method: ties\n", 1, None, "must be a mapping"),
    "a key twice later": later(f"{LAST}base_model: code\nmodels: []\n", 3, "base_model", "duplicate key"),
    "layers beyond a stage": later("merge_method: passthrough\nslices:\n"
                                   "- sources: [{model: mix, layer_range: [0, 3]}]\n", 3,
                                   "slices[0].sources[0].layer_range", "mix has 2 layers, so the range can end at 2"),
    "a stage of another depth": later("merge_method: linear\nmodels: [{model: mix}, {model: deep}]\n", 2, "models",
                                      "must have the same number of layers, not mix: 2, deep: 3"),
    "a nested key misspelt": nested("{merge_method: linear, moels: []}", ".moels", "did you mean 'models'?"),
    "a nested method misspelt": nested("{merge_method: liner, models: [{model: code}]}", ".merge_method", "'linear'?"),
    "a nested recipe of nothing": nested("{merge_method: linear}", "",
                                         "list the models to merge under one of 'models', 'slices', 'modules'"),
    "a nested model that is not there": nested("{merge_method: linear, models: [{model: coed}]}", ".models[0].model",
                                               "coed: no such folder"),
    "a nested recipe without a method": nested("{models: [{model: code}]}", ".models", "'models' is not supported"),
    "a nested recipe without a base": nested("{merge_method: ties, models: [{model: code}]}", "", "needs a base model"),
    "a nested recipe with a folder's name": nested("{name: prose, merge_method: linear, models: [{model: code}]}",
                                                   ".name", "'prose' is ambiguous, because there is a folder"),
}  # fmt: skip
