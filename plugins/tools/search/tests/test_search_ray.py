"""A search on a Ray cluster equals a search in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from opened import open_recipe


@pytest.mark.slow
def test_a_cluster_finds_what_one_process_finds(
    target: Any, three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(target.folder))  # the evaluator, as if installed on the node
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        recipe = open_recipe(tmp_path, three, "{search: [0, 1]}", "{search: [0, 1]}")
        options = ("--with", tmp_path / "eval.yml", "--evaluations", 8)
        for name, more in (("alone", ()), ("ray", ("--ray", "auto", "--workers", 2))):
            result = target.mergecore("evolve", recipe, tmp_path / name, *options, *more)
            assert result.returncode == 0, result.stderr
    finally:
        cluster.shutdown()
    for file in ("history.jsonl", "best.yml"):
        alone, ray = ((tmp_path / f"{name}.search" / file).read_bytes() for name in ("alone", "ray"))
        assert alone == ray
