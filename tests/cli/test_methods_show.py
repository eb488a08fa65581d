"""`methods show` prints everything that recipe authors need to know about each installed method."""

import json
import re

import pytest

from mergecore.api import Base, DeltaMethod
from mergecore.cli import render
from mergecore.discovery.entry_points import list_plugins, load_plugin
from mergecore.discovery.parameters import declared


@pytest.mark.parametrize("plugin", list_plugins("methods"), ids=lambda plugin: plugin.name)
def test_a_method_is_shown_whole(plugin, capsys):
    method = load_plugin(plugin)
    render.show_method(plugin.name, method, as_json=False)
    text = capsys.readouterr().out
    name, _, idea, *_ = text.splitlines()
    assert name == plugin.name and idea.endswith(".")
    assert re.search(r"https?://|result = ", text)
    assert re.search(r"^models      \d( or more| to \d)?", text, re.MULTILINE)
    assert re.search(r"^base_model  (required|optional)", text, re.MULTILINE)
    assert (" plus the base model" in text) == (issubclass(method, DeltaMethod) and method.base is not Base.INPUT)
    for item in declared(method).values():
        traits, doc = re.search(rf"^  {item.name}  (.*)\n      (.*)", text, re.MULTILINE).groups()
        assert doc.endswith(".")
        assert traits.endswith("required" if item.required else f"default {json.dumps(item.default)}")
        assert ("per model" in traits) == item.per_model
        for rule, words in (("minimum", "at least"), ("maximum", "at most")):
            assert (words in traits) == (rule in item.schema)
    assert all(f"  {ignored}  accepted, but has no effect" in text for ignored in method.ignored)


@pytest.mark.parametrize("plugin", list_plugins("methods"), ids=lambda plugin: plugin.name)
def test_json_tells_the_same(plugin, capsys):
    method = load_plugin(plugin)
    render.show_method(plugin.name, method, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["doc"].split() == method.__doc__.split()
    assert (shown["base_model"], shown["models"]) == (method.base.value, list(method.models))
    assert shown["ignored"] == list(method.ignored)
    for name, item in declared(method).items():
        told = shown["parameters"][name]
        assert told["description"] == item.doc and told["per_model"] == item.per_model
        assert {**item.schema}.items() <= told.items()
        assert ("default" in told) != item.required
