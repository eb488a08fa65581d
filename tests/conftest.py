"""Fixtures for models and recipes shared by many tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_in_process import inside  # noqa: F401
from tiny_llamas import write_model

os.environ["HF_HUB_OFFLINE"] = "1"  # never ask a real server for a missing model, only the one in the tests


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Three tiny Llamas of the same shape."""
    return [write_model(tmp_path / name, seed) for seed, name in enumerate(("base", "code", "prose"))]


@pytest.fixture
def linear_recipe(models: list[Path], tmp_path: Path) -> Path:
    """A recipe that averages two of the models."""
    recipe = tmp_path / "recipe.yml"
    lines = [f"  - model: {model}\n    parameters: {{weight: 0.5}}\n" for model in models[1:]]
    recipe.write_text("merge_method: linear\nmodels:\n" + "".join(lines), "utf-8")
    return recipe


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let a worker of pytest-xdist report how much it fuzzed."""
    fuzzing = sys.modules.get("fuzz_properties")
    if fuzzing is not None and hasattr(session.config, "workeroutput"):
        session.config.workeroutput["fuzzed"] = dict(fuzzing.COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add up what the workers fuzzed."""
    import fuzz_properties

    fuzz_properties.COUNTS.update(getattr(node, "workeroutput", {}).get("fuzzed", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report how many cases were fuzzed."""
    fuzzing = sys.modules.get("fuzz_properties")
    if fuzzing is not None and fuzzing.COUNTS:
        terminalreporter.write_line(f"fuzzed {fuzzing.summary()}")
