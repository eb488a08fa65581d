"""Tiny models, and an evaluator with a known best mixture of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_llamas import write_model

sys.path.insert(0, str(Path(__file__).parent))

TARGET = """
from collections.abc import Sequence
from dataclasses import dataclass
from mergecore.api import Evaluator, Score, param

@dataclass(frozen=True, kw_only=True)
class Target(Evaluator):
    '''Squared distance of one weight from that of a known mixture.'''
    first: float = param(0.3, "Weight of the first task vector.")
    second: float = param(0.7, "Weight of the second.")
    base: str = param(doc="Folder of the base.")
    models: tuple[str, ...] = param(doc="Folders of the models.")
    slow: float = param(0.0, "Seconds to wait.")

    def evaluate(self, subject):
        import time
        from safetensors.torch import load_file
        time.sleep(self.slow)
        name = "model.layers.1.mlp.up_proj.weight"
        base, one, two = (load_file(f"{folder}/model.safetensors")[name] for folder in (self.base, *self.models))
        wanted = base + self.first * (one - base) + self.second * (two - base)
        found = dict(subject.model.named_parameters())[name].detach()
        return [Score("distance", float((found - wanted).square().mean()), 0.0, 1)]
"""


@pytest.fixture
def target(plugin_env: Any) -> Any:
    files = {"mod_target.py": TARGET}
    plugin_env.add("mergecore-target", {"evaluators": {"target": "mod_target:Target"}}, files)
    return plugin_env


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    return [write_model(tmp_path / name, seed) for seed, name in enumerate(("base", "one", "two"))]
