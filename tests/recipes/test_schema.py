"""The schema for editors accepts every valid recipe and rejects invalid ones in the same way as core."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator
from method_recipes import RECIPES
from more_method_recipes import MORE
from wrong_recipe_parameters import NAMES, VALUES

from mergecore.discovery.registry import Registry
from mergecore.recipes.recipe_schema import recipe_schema, schema_text

ROOT = Path(__file__).resolve().parents[2]
WRITTEN = ROOT / "docs/recipe.schema.json"
MADE = ROOT / "examples" / "smollm2" / "models"
EXAMPLES = [
    path
    for path in (ROOT / "examples").rglob("*.yml")
    if re.search("^merge_method:", path.read_text("utf-8"), re.MULTILINE) and not path.is_relative_to(MADE)
    if "{search:" not in path.read_text("utf-8")  # open values are filled in by searches
]
RIGHT = {
    f"{method} {label}": {"merge_method": method, **recipe}
    for made in (RECIPES, MORE)
    for method, recipes in made.items()
    for label, recipe in recipes(["base", "a", "b", "c"], 4).items()
}


def wrong(document):
    """Return the schema errors of a recipe."""
    found = Draft202012Validator(json.loads(WRITTEN.read_text("utf-8"))).iter_errors(document)
    return [error.message for error in found]


def test_it_is_a_schema_with_every_installed_method():
    assert schema_text(recipe_schema(Registry(pytest.fail).all_methods())) == WRITTEN.read_text("utf-8"), (
        "run ./dev sync"
    )
    Draft202012Validator.check_schema(json.loads(WRITTEN.read_text("utf-8")))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_example_begins_with_the_schema_and_follows_it(path):
    text = path.read_text("utf-8")
    (named,) = re.findall(r"\A# yaml-language-server: \$schema=(.*)\n", text)
    assert (path.parent / named).resolve() == WRITTEN
    for document in yaml.safe_load_all(text):
        assert wrong(document) == []


@pytest.mark.parametrize("label", RIGHT)
def test_recipes_that_merge_are_right(label):
    assert wrong(json.loads(json.dumps(RIGHT[label]))) == []


def test_numbers_that_yaml_takes_for_text_are_numbers():
    recipe = {"merge_method": "ram", "models": [{"model": "a"}, {"model": "b"}], "base_model": "base"}
    assert wrong({**recipe, "parameters": {"epsilon": "1e-5"}}) == []
    assert wrong({**recipe, "parameters": {"epsilon": "small"}})


@pytest.mark.parametrize("label", [*NAMES, *VALUES])
def test_names_and_values_that_core_refuses_are_wrong(label):
    case = {**NAMES, **VALUES}[label]
    beyond = ("finite", "'-1e-5'", "cannot be parsed as")  # cannot be expressed in JSON Schema
    assert wrong(yaml.safe_load(case.recipe)) or any(words in case.words for words in beyond)
