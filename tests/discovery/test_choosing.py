"""Selection of plugins for a run: files on the command line, preferred distributions, and disabled plugins."""

import json

import pytest
from safetensors.torch import load_file
from tiny_llamas import write_model

METHOD = '''
from dataclasses import dataclass
from mergecore.api import *

@dataclass(frozen=True, kw_only=True)
class {name}(WeightMethod):
    """Take one model, scaled."""
    factor: float = param({factor}, "What to multiply by.")
    def merge(self, weights, ctx):
        return weights[0] * self.factor
'''
MORE = '''
class Signature(PostProcessor):
    """Sign."""
    def run(self, model):
        (model.folder / "signature.txt").write_text(model.method)

@hookimpl
def mergecore_before_plan(recipe):
    print("hook of the file")
'''


@pytest.fixture
def recipe(tmp_path):
    model = write_model(tmp_path / "model", 0)

    def write(method, rest=""):
        (tmp_path / "recipe.yml").write_text(f"merge_method: {method}\nmodels: [model: {model}]\n{rest}")
        return tmp_path / "recipe.yml"

    return write


def scale(tmp_path, out="out"):
    """Return the factor that the output was multiplied by."""
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", out))
    return float((after["model.norm.weight"] / before["model.norm.weight"]).mean())


def install(inside, distribution, factor, name="scaled"):
    module = distribution.replace("-", "_")
    text = METHOD.format(name="Scaled", factor=factor)
    inside.add(distribution, {"methods": {name: f"{module}:Scaled"}}, {f"{module}.py": text})


def test_a_file_named_on_the_command_line_brings_its_plugins(inside, recipe, tmp_path):
    house = tmp_path / "house.py"
    house.write_text(METHOD.format(name="HouseMean", factor=3.0) + METHOD.format(name="Ties", factor=5.0) + MORE)
    shown = inside.mergecore("methods", "show", "house_mean", "--plugin", house)
    assert "Take one model, scaled." in shown.stdout and "default 3.0" in shown.stdout
    for method, factor in (("house_mean", 3), ("ties", 5)):  # the file takes precedence over mergecore-ties
        result = inside.mergecore("run", recipe(method), tmp_path / method, "--plugin", house, "--no-hooks")
        assert result.returncode == 0 and "hook of the file" in result.stdout, result.stderr
        assert scale(tmp_path, method) == pytest.approx(factor)
        assert (tmp_path / method / "signature.txt").read_text() == method
    assert inside.mergecore("plan", recipe("house_mean"), "--plugin", house).returncode == 0


def test_a_recipe_cannot_name_a_file(inside, recipe, tmp_path):
    (tmp_path / "house.py").write_text("print('run')\n" + METHOD.format(name="HouseMean", factor=3.0))
    result = inside.mergecore("plan", recipe("house_mean", "plugin: house.py\n"))
    assert result.returncode == 2 and "unknown key 'plugin'" in result.stderr and "run" not in result.stdout


def test_a_run_with_a_changed_file_begins_anew(inside, recipe, tmp_path):
    house, out = tmp_path / "house.py", tmp_path / "out"
    failing = "\nclass Last(PostProcessor):\n    def run(self, model):\n        raise OSError('full')\n"
    house.write_text(METHOD.format(name="HouseMean", factor=3.0) + failing)
    first = inside.mergecore("run", recipe("house_mean"), out, "--plugin", house)
    assert first.returncode == 1 and "has 21 of 21" in first.stderr
    house.write_text(METHOD.format(name="HouseMean", factor=4.0))
    second = inside.mergecore("run", recipe("house_mean"), out, "--plugin", house)
    assert second.returncode == 0 and "house.py changed from" in " ".join(second.stderr.split())
    assert scale(tmp_path) == pytest.approx(4)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("x = 1\n", "contains no method, post-processor, evaluator, or function with @hookimpl"),
        ("import os\n\nos.nothing()\n", "house.py:3: cannot be used (AttributeError"),
        ("def broken(:\n", "house.py:1: cannot be used (SyntaxError"),
        ("import sys\nsys.exit(3)\n", "house.py:2: cannot be used (SystemExit"),
        (METHOD.format(name="M", factor=1.0).replace('"""Take one model, scaled."""', ""), "needs a docstring"),
        ("from mergecore.api import hookimpl\n@hookimpl\ndef mergecore_befor_plan(recipe): pass\n", "befor_plan"),
    ],
)
def test_a_file_that_is_no_plugin_is_said_to_be_none(inside, recipe, tmp_path, text, words):
    house = tmp_path / "house.py"
    if text is not None:
        house.write_text(text)
    result = inside.mergecore("plan", recipe("linear"), "--plugin", house)
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1


def test_the_preferred_distribution_answers_where_two_have_a_name(inside, recipe, tmp_path):
    install(inside, "house-one", 2.0)
    install(inside, "house-two", 7.0)
    refused = inside.mergecore("run", recipe("scaled"), tmp_path / "out")
    assert refused.returncode == 2 and "prefer: [house-one]" in refused.stderr
    for number, (prefer, factor) in enumerate([("[House_Two]", 7), ("[house-one, house-two]", 2)]):
        result = inside.mergecore("run", recipe("scaled", f"prefer: {prefer}\n"), tmp_path / str(number))
        assert result.returncode == 0, result.stderr
        assert scale(tmp_path, str(number)) == pytest.approx(factor)
    missing = inside.mergecore("run", recipe("scaled", "prefer: [house-three]\n"), tmp_path / "out")
    assert missing.returncode == 2 and "recipe.yml:3: prefer: " in missing.stderr
    assert "pip install house-three" in missing.stderr


def test_only_the_preferred_one_is_imported(inside, recipe, tmp_path):
    install(inside, "house-one", 2.0)
    inside.add("house-bad", {"methods": {"scaled": "house_bad:M"}}, {"house_bad.py": "raise SystemExit(3)"})
    result = inside.mergecore("run", recipe("scaled", "prefer: [house-one]\n"), tmp_path / "out")
    assert result.returncode == 0, result.stderr


def test_an_organisation_answers_first_with_a_hook(inside, recipe, tmp_path):
    text = METHOD.format(name="House", factor=9.0) + (
        "\n@hookimpl\ndef mergecore_provide_method(name):\n    return House if name == 'linear' else None\n"
    )
    inside.add("house", {"hooks": {"house": "house_hooks"}}, {"house_hooks.py": text})
    assert inside.mergecore("run", recipe("linear"), tmp_path / "out").returncode == 0
    assert scale(tmp_path) == pytest.approx(9)
    without = recipe("linear", "parameters: {weight: 1}\n")
    assert inside.mergecore("run", without, tmp_path / "plain", "--no-hooks").returncode == 0
    assert scale(tmp_path, "plain") == 1


@pytest.mark.parametrize("named", ["scaled", "House_One", "linear, scaled"])
def test_what_is_disabled_is_as_if_it_were_not_installed(inside, recipe, tmp_path, monkeypatch, named):
    install(inside, "house-one", 2.0)
    monkeypatch.setenv("MERGECORE_DISABLE", named)
    result = inside.mergecore("run", recipe("scaled"), tmp_path / "out")
    assert result.returncode == 2 and "'scaled' is disabled by MERGECORE_DISABLE" in result.stderr
    assert "scaled" not in inside.mergecore("methods", "list").stdout


def test_disabling_one_of_two_lets_the_other_answer(inside, recipe, tmp_path, monkeypatch):
    install(inside, "house-one", 2.0)
    install(inside, "house-two", 7.0)
    monkeypatch.setenv("MERGECORE_DISABLE", "house-one,hosue-two")
    result = inside.mergecore("run", recipe("scaled"), tmp_path / "out")
    assert result.returncode == 0 and scale(tmp_path) == pytest.approx(7)
    assert "contains 'hosue-two', which is not an installed plugin" in result.stderr


BROKEN = {
    "hook": ({"hooks": {"bad": "mod_bad"}}, "raise ValueError('boom')"),
    "observer": (
        {"hooks": {"bad": "mod_bad"}},
        "from mergecore.api import hookimpl\n@hookimpl\ndef mergecore_after_tensor():\n    raise ValueError('boom')",
    ),
    "postprocessor": ({"postprocessors": {"bad": "mod_bad:P"}}, "raise ValueError('boom')"),
}


@pytest.mark.parametrize("sort", BROKEN)
def test_a_strict_run_leaves_nothing_out(inside, recipe, tmp_path, sort):
    entry_points, text = BROKEN[sort]
    inside.add("house-bad", entry_points, {"mod_bad.py": text})
    lax = inside.mergecore("run", recipe("passthrough"), tmp_path / "lax")
    assert lax.returncode == 0 and "boom" in lax.stderr
    strict = inside.mergecore("run", recipe("passthrough"), tmp_path / "strict", "--strict-plugins")
    assert strict.returncode == 2 and "boom" in strict.stderr and not (tmp_path / "strict").exists()
    assert "house-bad" in strict.stderr and "(--strict-plugins)" in strict.stderr
    if sort != "postprocessor":
        assert "boom" not in inside.mergecore("run", recipe("passthrough"), tmp_path / "n", "--no-hooks").stderr


def test_a_plugin_that_is_listed_twice_is_told_by_the_doctor(inside):
    install(inside, "house-one", 2.0)
    install(inside, "house-two", 7.0)
    found = json.loads(inside.mergecore("plugins", "doctor", "--json").stdout)
    causes = [finding["cause"] for finding in found if finding["plugin"]["name"] == "scaled"]
    assert len(causes) == 2 and all("must choose one with prefer" in cause for cause in causes)
