"""A lock file reproduces the same bytes in a fresh environment with different threads, tiles, and hash seeds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from throwaway_environments import ROOT, Environment
from tiny_llamas import write_model

import mergecore

pytestmark = pytest.mark.slow

PACKAGES = (
    "", "plugins/numerics", "plugins/methods/dare", "architectures/llama", "plugins/after/config",
    "plugins/after/model_card", "plugins/after/tokenizer", "plugins/tools/verify",
)  # fmt: skip
AGAIN = """
import sys, mergecore
from mergecore.builtin.threads import ThreadsExecutor
ThreadsExecutor.__init__.__defaults__ = (2**14, None)
mergecore.run(sys.argv[1], sys.argv[2], workers=3, memory=10**7)
"""


def test_a_lock_makes_the_same_bytes_in_another_environment(tmp_path: Path) -> None:
    sizes = {"vocab_size": 10_000}  # several tiles
    models = [write_model(tmp_path / name, seed, dtype="bfloat16", **sizes) for seed, name in enumerate("abc")]
    entries = [{"model": str(m), "parameters": {"weight": 0.6, "density": [0.9, 0.3]}} for m in models[1:]]
    recipe = {"merge_method": "dare_ties", "base_model": str(models[0]), "models": entries, "seed": 5}
    first = mergecore.run(recipe, tmp_path / "first", workers=1, shard_bytes=10_000)
    environment = Environment(tmp_path / "env")
    environment.install(*(ROOT / package for package in PACKAGES))
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(
        [environment.bin / "python", "-c", AGAIN, first / "mergecore.lock.json", tmp_path / "again"],
        check=True,
        cwd=tmp_path / "elsewhere",
        env={**os.environ, "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "3"},
    )
    # The card has the name of the folder, and the lock file has the packages of each environment.
    names = {path.name for path in first.iterdir()}
    assert len(names) > 5 and names == {path.name for path in (tmp_path / "again").iterdir()}
    for name in names - {"README.md", "mergecore.lock.json"}:
        assert (first / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert environment.mergecore("verify", tmp_path / "again", "--sample", "5").returncode == 0
