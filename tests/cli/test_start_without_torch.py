"""A run whose methods are recorded, every plan, and every refused recipe do without torch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_llamas import write_model

from mergecore.discovery import Registry

TORCHLESS = "import sys; sys.modules['torch'] = None; from mergecore.cli import main; main()"
"""Runs the command with a torch that cannot be imported."""

BASE = "merge_method: {method}\nbase_model: a\ndtype: bfloat16\n"
PAIR = "models: [{{model: b, parameters: {p}}}, {{model: c, parameters: {p}}}]\n"
RECIPES = {
    "linear": "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n",
    "passthrough": "merge_method: passthrough\nmodels: [{model: a}]\n",
    "slerp": "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\nparameters: {t: 0.3}\n",
    "nearswap": "merge_method: nearswap\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.01}\n",
    "karcher": "merge_method: karcher\nmodels: [{model: a}, {model: b}, {model: c}]\n",
    "model_stock": "merge_method: model_stock\nbase_model: a\nmodels: [{model: b}, {model: c}]\n",
    "sce": "merge_method: sce\nbase_model: a\nmodels: [{model: b}, {model: c}]\n",
    "sce, the most different": "merge_method: sce\nbase_model: a\nmodels: [{model: b}, {model: c}]\n"
    "parameters: {select_topk: 0.3}\n",
    "ram": "merge_method: ram\nbase_model: a\nmodels: [{model: b}, {model: c}]\n",
    **{
        method: BASE.format(method=method) + PAIR.format(p=parameters)
        for method, parameters in {
            "task_arithmetic": "{weight: 0.5}",
            "nuslerp": "{weight: 0.5}",
            "multislerp": "{weight: 0.5}",
            "ties": "{weight: 0.5, density: 0.4}",
            "dare_linear": "{weight: 0.5, density: 0.4}",
            "dare_ties": "{weight: 0.5, density: 0.4}",
            "breadcrumbs": "{weight: 0.5, density: 0.8, gamma: 0.1}",
            "breadcrumbs_ties": "{weight: 0.5, density: 0.8, gamma: 0.1}",
        }.items()
    },
}  # fmt: skip

pytestmark = pytest.mark.skipif(Registry(print).kernels() is None, reason="mergecore-kernels is not installed")


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    for seed, name in enumerate("abc"):
        write_model(tmp_path / name, seed)

    def run(recipe: str, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "recipe.yml").write_text(recipe, "utf-8")
        line = [sys.executable, "-c", TORCHLESS, words[0], "recipe.yml", *words[1:]]
        return subprocess.run(line, check=False, cwd=tmp_path, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("method", RECIPES)
def test_a_run_needs_no_torch(
    method: str, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command(RECIPES[method], "run", "out")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "model.safetensors").stat().st_size


def test_neither_a_plan_nor_a_refusal_needs_torch(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = command(RECIPES["ties"], "plan")
    assert done.returncode == 0 and "output" in done.stderr, done.stderr
    done = command(RECIPES["ties"].replace("density", "densty"), "run", "out")
    assert done.returncode == 2 and "did you mean 'density'" in done.stderr


def test_what_torch_computes_still_imports_it(command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = command(BASE.format(method="della") + PAIR.format(p="{density: 0.5}"), "run", "out")
    assert done.returncode and "torch" in done.stderr  # so the tests above can fail
