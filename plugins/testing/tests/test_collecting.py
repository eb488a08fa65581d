"""`pytest --mergecore DIST` checks every plugin of a distribution and runs no test files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mergecore_testing import PluginEnv, collecting
from safetensors.torch import load_file

Made = Callable[..., Path]

METHOD = """
from dataclasses import dataclass
from mergecore.api import *

@dataclass(frozen=True, kw_only=True)
class Squashed(WeightMethod):
    '''Mean of the values that are not NaN: result = mean(model).'''
    tile = Tile.ELEMENTS
    def merge(self, weights, ctx):
        return sum(weight.nan_to_num() for weight in weights) / len(weights)
"""
HOOKS = "from mergecore.api import hookimpl\n@hookimpl\ndef mergecore_after_write(folder):\n    pass\n"
COMMAND = """
import torch
def shout(word: str) -> None:
    '''Print WORD in capitals.'''
    print(word.upper())
"""


@pytest.fixture
def house(plugin_env: PluginEnv) -> PluginEnv:
    plugin_env.add(
        "mergecore-house",
        {"methods": {"squashed": "house:Squashed"}, "hooks": {"house": "hooks"}, "commands": {"shout": "shout:shout"}},
        {"house.py": METHOD, "hooks.py": HOOKS, "shout.py": COMMAND},
    )
    return plugin_env


def test_each_check_of_each_plugin_is_a_test_and_expected_failures_are_strict(house: PluginEnv, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmergecore_expected_failures =\n    methods squashed check_nan_shows: NaN counts as zero\n"
        "    methods squashed check_documented: no reason\n"
    )
    (tmp_path / "test_other.py").write_text("def test_other():\n    assert False\n")
    options = ("-m", "pytest", "--mergecore", "house", "-p", "no:cacheprovider", "-rA", "--tb=short")
    said = house.python(*options, cwd=tmp_path).stdout
    assert "2 failed, 18 passed, 1 xfailed" in said, said
    assert "XFAIL mergecore-house::method squashed: nan_shows - NaN counts as zero" in said
    assert "FAILED mergecore-house::method squashed: documented" in said and "[XPASS(strict)] no reason" in said
    assert "PASSED mergecore-house::hook house: watches_a_run" in said
    assert "importing it imports numpy torch" in said and "test_other" not in said


@pytest.mark.parametrize(
    ("distribution", "lines", "words"),
    [
        ("mergecore", ["readers safetensors check_nan: why"], "unknown check 'check_nan'"),
        ("mergecore", ["readers safetensors check_reads_from_threads:"], "give a reason why"),
        ("mergecore", ["safetensors reads_from_threads: why"], "write 'methods NAME check_nan_shows: the reason'"),
        ("nowhere", [], "--mergecore nowhere: no installed distribution of this name has plugins"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    request: pytest.FixtureRequest, distribution: str, lines: list[str], words: str
) -> None:
    with pytest.raises(pytest.UsageError, match=re.escape(words)):
        list(collecting.items(request.session, [distribution], lines))


def test_fixtures_make_models_and_run_recipes(tiny_model: Made, run_recipe: Made) -> None:
    models = [tiny_model("Qwen3MoeForCausalLM", seed=seed, dtype="bfloat16", layers=2) for seed in range(2)]
    listed = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    out = run_recipe({"merge_method": "linear", "models": listed})
    one, other, got = (load_file(folder / "model.safetensors") for folder in (*models, out))
    assert got.keys() == one.keys() and "model.layers.1.mlp.experts.gate_up_proj" in got
    for name, tensor in got.items():
        mean = (one[name].float() * 0.5 + other[name].float() * 0.5).bfloat16()
        assert torch.equal(tensor, mean)
