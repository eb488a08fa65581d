"""The streaming hash returns either the correct SHA-256 of a file or nothing."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch

from mergecore.api import TensorInfo
from mergecore.builtin.safetensors import SafetensorsWriter
from mergecore.models import fingerprints
from mergecore.running.streaming_hash import StreamingHash

TENSORS = {
    "model.norm": TensorInfo("F32", (3, 5)),
    "model.embed": TensorInfo("BF16", (700, 999)),
    "model.head": TensorInfo("BF16", (900, 1000)),
    "model.empty": TensorInfo("F32", (0, 4)),
    "model.bytes": TensorInfo("U8", (3,)),
}


def written(folder: Path, order: random.Random, skip: str = "", twice: str = "") -> tuple[StreamingHash, list[Path]]:
    """Write all tensors except one, in parts and in random order, with a streaming hash. Return the files."""
    writer = SafetensorsWriter(folder, TENSORS, 1_500_000)
    parts = []
    for name, info in TENSORS.items():
        data = torch.randint(0, 200, (info.elements * {"F32": 4, "BF16": 2, "U8": 1}[info.dtype],), dtype=torch.uint8)
        dtype = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8}[info.dtype]
        values = data.view(dtype)
        for start in range(0, info.elements, 100_000):
            if name != skip:
                parts += [(name, start, values[start : start + 100_000])] * (1 + (name == twice))
    order.shuffle(parts)
    with StreamingHash(writer.places, TENSORS) as follower:
        for name, start, values in parts:
            writer.write(name, start, values)
            follower.wrote(name, start, values.numel())
    writer.finish()
    writer.close()
    return follower, sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("seed", range(3))
def test_the_digest_of_a_file_is_its_sha256_in_whatever_order_its_parts_come(tmp_path: Path, seed: int) -> None:
    follower, files = written(tmp_path, random.Random(seed))
    assert len(files) == 3
    found = {path: digest for path, (_, digest) in follower.digests().items()}
    assert found == {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("what", ["skip", "twice"])
def test_a_file_that_was_not_seen_whole_or_was_written_over_has_no_digest(tmp_path: Path, what: str) -> None:
    follower, files = written(tmp_path, random.Random(0), **{what: "model.embed"})
    with_it = [path for path in files if b"model.embed" in path.read_bytes()[:1000]]
    assert sorted(follower.digests()) == [path for path in files if path not in with_it]


def test_large_tensors_come_first_in_a_file_and_each_is_aligned(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path, TENSORS, 10**9)
    writer.close()
    begins = {name: start for name, (_, start) in writer.places.items()}
    assert sorted(begins, key=begins.__getitem__)[:2] == ["model.head", "model.embed"]
    for name, start in begins.items():
        assert start % {"F32": 4, "BF16": 2, "U8": 1}[TENSORS[name].dtype] == 0


def test_a_run_does_not_read_its_weights_again_for_the_lock(
    linear_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mergecore

    read: list[str] = []
    sha256 = fingerprints.sha256
    monkeypatch.setattr(fingerprints, "sha256", lambda path: read.append(str(path)) or sha256(path))
    out = mergecore.run(linear_recipe, tmp_path / "out")
    lock = json.loads((out / "mergecore.lock.json").read_text("utf-8"))
    weights = out / "model.safetensors"
    assert lock["outputs"][weights.name]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert any("out.partial" in path for path in read)
    assert not any("out.partial" in path and path.endswith(weights.name) for path in read)
