"""Properties that must hold for any weight file and any recipe text, used by the tests and by `./dev fuzz`."""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path

import safetensors

from mergecore.builtin.safetensors import SafetensorsReader
from mergecore.discovery.registry import Registry
from mergecore.documents import load_yaml
from mergecore.errors import MergecoreError, ModelError
from mergecore.planning.planner import make_plan
from mergecore.recipes.composition import parse_stages

COUNTS: Counter[str] = Counter()
"""Number of cases in this process, by outcome."""


def try_header(content: bytes, path: Path) -> None:
    """Check that a weight file is rejected with a message, or read exactly as by the safetensors library."""
    path.write_bytes(content)
    try:
        reader = SafetensorsReader(path)
    except ModelError as error:
        assert str(error).startswith(f"{path}: ") and str(error).isprintable()
        COUNTS["headers refused"] += 1
        return
    reader.close()
    theirs = {name: (entry["dtype"], tuple(entry["shape"]), len(entry["data"])) for name, entry in
              safetensors.deserialize(content)}  # fmt: skip
    assert theirs == {name: (info.dtype, info.shape, info.nbytes) for name, info in reader.tensors.items()}
    COUNTS["headers read"] += 1


def try_parsing(text: str) -> None:
    """Check that a recipe is parsed, or rejected with a message that names it. Its models are not opened."""
    try:
        parse_stages(load_yaml(text, "recipe.yml"), text)
    except MergecoreError as error:
        assert all(line.startswith("recipe.yml:") and line.isprintable() for line in str(error).split("\n"))


def try_recipe(text: str, registry: Registry) -> None:
    """Check that a recipe is planned, or rejected with a message, and that no file stays open."""
    opened = len(os.listdir("/dev/fd"))
    try:
        plan = make_plan(parse_stages(load_yaml(text, "recipe.yml"), text), registry, 10**9)
    except MergecoreError as error:
        assert all(line.isprintable() for line in str(error).split("\n")) and error.exit_code == 2
        COUNTS["recipes refused"] += 1
    else:
        plan.close()
        assert all(0 <= math.prod(info.shape) < 10**6 for info in plan.tensors.values())
        COUNTS["recipes planned"] += 1
    assert len(os.listdir("/dev/fd")) == opened


def summary() -> str:
    """Return the counts in one line."""
    return f"{COUNTS.total():,} cases: " + ", ".join(f"{count:,} {kind}" for kind, count in sorted(COUNTS.items()))
