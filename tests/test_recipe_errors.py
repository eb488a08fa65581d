"""Every way to get a recipe wrong: exit 2, one sentence with file, line and path, and no output folder."""

import re
import shutil

import pytest
from llamas import write_model

HEAD = "merge_method: ties\nbase_model: base\n"
MODELS = "models:\n  - model: code\n    parameters: {weight: 0.5, density: 0.5}\n  - model: prose\n"
GOOD = HEAD + MODELS

WRONG = {
    # name: (recipe, line, path, words that must appear)
    "not yaml": ("merge_method: [ties\nmodels: x", 2, None, "not valid YAML"),
    "empty": ("", None, None, "must be a mapping"),
    "a list": ("- merge_method: ties\n", 1, None, "must be a mapping"),
    "two documents": (GOOD + "---\n" + GOOD, 7, None, "not valid YAML"),
    "python tag": (GOOD + "dtype: !!python/name:os.system x\n", 7, "dtype", "not allowed"),
    "key twice": (GOOD + "base_model: code\n", 7, "base_model", "written twice"),
    "unknown top key": (GOOD + "parmeters: {}\n", 7, "parmeters", "did you mean 'parameters'"),
    "no method": (MODELS, 1, None, "'merge_method' is missing"),
    "method is a number": (GOOD.replace("ties", "5"), 1, "merge_method", "must be text, not 5"),
    "method misspelt": (GOOD.replace("ties", "tis"), 1, "merge_method", "did you mean 'ties'"),
    "no models": (HEAD, 1, None, "'models', 'slices', 'modules' is missing"),
    "models and slices": (GOOD + "slices: [{sources: [{model: code, layer_range: [0, 1]}]}]\n", 7, "slices", "exclude"),
    "models empty": (HEAD + "models: []\n", 3, "models", "at least 1"),
    "models is text": (HEAD + "models: code\n", 3, "models", "must be a list, not 'code'"),
    "unknown key in a model": (GOOD + "    weight: 0.3\n", 7, "models[1].weight", "unknown key 'weight'"),
    "model without a name": (HEAD + "models:\n  - parameters: {weight: 1}\n", 4, "models[0]", "'model' is missing"),
    "model is a number": (HEAD + "models:\n  - model: 3\n", 4, "models[0].model", "must be text"),
    "no such model": (GOOD.replace("code", "coed"), 4, "models[0].model", "coed: there is no such folder"),
    "adapter syntax": (GOOD.replace("code", "{model: code, lora: x}"), 4, "models[0].model.lora", "not supported"),
    "unknown parameter": (GOOD + "parameters: {densty: 1}\n", 7, "parameters.densty", "did you mean 'density'"),
    "parameter is text": (GOOD + "parameters: {lambda: much}\n", 7, "parameters.lambda", "a number, not 'much'"),
    "parameter is empty": (GOOD + "parameters: {lambda: }\n", 7, "parameters.lambda", "has no value"),
    "parameter is nan": (GOOD + "parameters: {lambda: .nan}\n", 7, "parameters.lambda", "must be a number, not nan"),
    "flag is a half": (GOOD + "parameters: {normalize: 0.5}\n", 7, "parameters.normalize", "true or false, not 0.5"),
    "above its range": (GOOD.replace("density: 0.5", "density: 1.5"), 5, "models[0].parameters.density", "at most 1"),
    "below its range": (GOOD + "parameters: {density: [0.5, -1]}\n", 7, "parameters.density[1]", "at least 0"),
    "shared under a model": (
        GOOD.replace("weight: 0.5", "normalize: true"), 5, "models[0].parameters.normalize", "one value for all models",
    ),
    "value without filter key": (
        GOOD + "parameters:\n  density:\n    - {filtr: mlp, value: 1}\n", 9, "parameters.density[0].filtr", "'filter'",
    ),
    "value missing": (GOOD + "parameters: {density: {filter: mlp}}\n", 7, "parameters.density", "'value' is missing"),
    "mixed list": (
        GOOD + "parameters: {density: [{value: 1}, 0.5]}\n", 7, "parameters.density[1]", "like its neighbours",
    ),
    "filter is a number": (
        GOOD + "parameters: {density: {value: 1, filter: 3}}\n", 7, "parameters.density.filter", "must be text",
    ),
    "required missing": (
        "merge_method: slerp\nbase_model: base\nmodels:\n  - model: code\n", 3, "models", "'t' is missing",
    ),
    "required missing for one model": (
        "merge_method: linear\nmodels:\n  - model: code\n    parameters: {weight: 1}\n  - model: prose\n",
        5, "models[1]", "'weight' is missing for model 'prose'",
    ),
    "parameters is a list": (GOOD + "parameters: [1]\n", 7, "parameters", "must be a mapping"),
    "dtype unknown": (GOOD + "dtype: bflaot16\n", 7, "dtype", "did you mean 'bfloat16'"),
    "dtype is whole": (GOOD + "dtype: int64\n", 7, "dtype", "must be one of"),
    "no base": (MODELS.replace("models", "merge_method: ties\nmodels", 1), 1, None, "needs a base model"),
    "too many models": (
        GOOD.replace("ties", "slerp").replace("weight: 0.5, density: 0.5", ""), 3, "models", "exactly 2 model(s)",
    ),
    "too few models": ("merge_method: ties\nbase_model: base\nmodels: [{model: base}]\n", 3, "models", "at least 1"),
    "range too far": (
        "merge_method: passthrough\nslices:\n  - sources: [{model: code, layer_range: [0, 3]}]\n",
        3, "slices[0].sources[0].layer_range", "has 2 layers",
    ),
    "range reversed": (
        "merge_method: passthrough\nslices:\n  - sources: [{model: code, layer_range: [2, 1]}]\n",
        3, "slices[0].sources[0].layer_range", "lower to a higher",
    ),
    "range of three": (
        "merge_method: passthrough\nslices:\n  - sources: [{model: code, layer_range: [0, 1, 2]}]\n",
        3, "slices[0].sources[0].layer_range", "at most 2",
    ),
    "range negative": (
        "merge_method: passthrough\nslices:\n  - sources: [{model: code, layer_range: [-1, 1]}]\n",
        3, "slices[0].sources[0].layer_range[0]", "at least 0",
    ),
    "unequal lengths": (
        "merge_method: linear\nparameters: {weight: 1}\nslices:\n  - sources:\n"
        "      - {model: code, layer_range: [0, 2]}\n      - {model: prose, layer_range: [0, 1]}\n",
        4, "slices[0]", "same number of layers",
    ),
    "base not in the slice": (
        HEAD + "slices:\n  - sources: [{model: code, layer_range: [0, 2]}]\n", 4, "slices[0]", "one of the sources",
    ),
    "unknown module": (
        "merge_method: passthrough\nmodules: {text: {models: [{model: code}]}}\n", 2, "modules.text", "no module",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the models that the recipes name."""
    path = tmp_path_factory.mktemp("wrong")
    for seed, name in enumerate(("base", "code", "prose")):
        write_model(path / name, seed)
    return path


@pytest.fixture
def run(folder, monkeypatch):
    """Run a recipe there; gives the exit status and what was printed."""
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "out", ignore_errors=True)

    def run_text(text, capfd):
        from mergecore import cli

        (folder / "recipe.yml").write_text(text, "utf-8")
        monkeypatch.setattr("sys.argv", ["mergecore", "run", "recipe.yml", "out", "--quiet"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capfd.readouterr().err

    return run_text


def test_the_recipe_that_they_are_made_from_is_right(run, capfd):
    status, text = run(GOOD, capfd)
    assert status == 0, text


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_refused_in_one_sentence(run, folder, capfd, name):
    recipe, line, path, words = WRONG[name]
    status, text = run(recipe, capfd)
    assert status == 2, text
    assert words in text
    assert text.startswith("error: ") and text.count("\n") == 1 and "Traceback" not in text
    if line is not None:
        assert text.startswith(f"error: recipe.yml:{line}: ")
    if path is not None:
        assert re.search(rf": {re.escape(path)}: ", text)
    assert not list(folder.glob("out*"))


def test_there_are_at_least_thirty_ways():
    assert len(WRONG) >= 30


def test_a_recipe_that_is_not_there_is_an_error_too(run, folder, capfd, monkeypatch):
    from mergecore import cli

    monkeypatch.setattr("sys.argv", ["mergecore", "plan", "nowhere.yml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code, capfd.readouterr().err) == (2, "error: nowhere.yml: there is no such file\n")


def test_an_alias_bomb_is_refused(run, capfd):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefg", "bcdefgh")]
    status, text = run("\n".join(lines) + "\n", capfd)
    assert status == 2 and "aliases expand" in text
