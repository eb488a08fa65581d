"""The hash that writing threads compute of a file is that of its bytes, however they were written."""

from __future__ import annotations

import hashlib
import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mergecore.api import TensorInfo, torch_dtype
from mergecore.api.memory import as_bytes
from mergecore.builtin.safetensors import SafetensorsWriter
from mergecore.discovery import Registry
from mergecore.errors import RunError
from mergecore.models import fingerprints
from mergecore.models.fingerprints import block_digests, tree_hash
from mergecore.recipes import LOCK_KEY, LOCK_NAME, read_lock
from mergecore.running import block_hashes, lock_writer
from mergecore.running.block_hashes import BlockHashes

TENSORS = {
    "model.norm": TensorInfo("F32", (3, 5)),
    "model.embed": TensorInfo("BF16", (700, 999)),
    "model.head": TensorInfo("BF16", (900, 1000)),
    "model.empty": TensorInfo("F32", (0, 4)),
    "model.bytes": TensorInfo("U8", (3,)),
}


def tree(data: bytes) -> str:
    blocks = [data[start : start + 65536] for start in range(0, len(data), 65536)]
    return hashlib.sha256(b"".join(hashlib.sha256(block).digest() for block in blocks)).hexdigest()


@pytest.mark.parametrize("native", [False, True], ids=["hashlib", "native"])
@pytest.mark.parametrize("case", ["in order", "in any order", "one unseen", "one twice", "nothing seen", "by threads"])
@pytest.mark.parametrize("step", [1000, 65536 // 2, 100_000])
def test_the_hash_is_that_of_the_bytes(tmp_path: Path, case: str, step: int, native: bool) -> None:
    order = random.Random(step)
    writer = SafetensorsWriter(tmp_path, TENSORS, 1_500_000)
    hashes = BlockHashes(writer.places, TENSORS, Registry(print).kernels() if native else None)
    parts = []
    for name, info in TENSORS.items():
        data = torch.randint(0, 200, (info.nbytes,), dtype=torch.uint8)
        values = data.view(torch_dtype(info.dtype))
        for start in range(0, info.elements, step):
            twice = name == "model.embed" and case == "one twice"
            parts += [(name, start, values[start : start + step])] * (1 + twice)
    if case != "in order":
        order.shuffle(parts)

    def put(name: str, start: int, values: torch.Tensor) -> None:
        writer.write(name, start, values)
        if case != "nothing seen" and not (case == "one unseen" and name == "model.embed"):
            hashes.wrote(name, start, as_bytes(values))

    with ThreadPoolExecutor(4 if case == "by threads" else 1) as pool:
        list(pool.map(lambda part: put(*part), parts))
    writer.finish()
    writer.close()
    found = {path: digest for path, (_, digest) in hashes.digests().items()}
    assert found == {path: tree(path.read_bytes()) for path in tmp_path.glob("*.safetensors")} and len(found) == 3
    assert found == {path: tree_hash(path) for path in found}


def test_blocks_that_were_hashed_in_order_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"a": TensorInfo("U8", (300_000,)), "b": TensorInfo("U8", (300_000,))}
    writer = SafetensorsWriter(tmp_path, tensors, 10**9)
    hashes = BlockHashes(writer.places, tensors)
    for name in tensors:
        for start in range(0, 300_000, 50_000):
            part = torch.zeros(50_000, dtype=torch.uint8)
            writer.write(name, start, part)
            hashes.wrote(name, start, as_bytes(part))
    read: list[int] = []
    note = lambda path, blocks: read.extend(blocks) or block_digests(path, blocks)  # noqa: E731
    monkeypatch.setattr(block_hashes, "block_digests", note)
    hashes.digests()
    writer.close()
    assert read == [0]  # the header is there


def test_large_tensors_come_first_in_a_file_and_each_is_aligned(tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path, TENSORS, 10**9)
    writer.close()
    begins = {name: start for name, (_, start) in writer.places.items()}
    assert sorted(begins, key=begins.__getitem__)[:2] == ["model.head", "model.embed"]
    for name, start in begins.items():
        assert start % {"F32": 4, "BF16": 2, "U8": 1}[TENSORS[name].dtype] == 0


def test_a_lock_has_the_tree_hash_of_large_files_and_old_locks_still_work(
    linear_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mergecore

    old = mergecore.run(linear_recipe, tmp_path / "old")
    lock = json.loads((old / LOCK_NAME).read_text("utf-8"))
    weights = (old / "model.safetensors").read_bytes()
    assert lock["outputs"]["model.safetensors"]["sha256"] == hashlib.sha256(weights).hexdigest()
    (old / LOCK_NAME).write_text(json.dumps({**lock, LOCK_KEY: 1}), "utf-8")
    for module in (fingerprints, lock_writer):
        monkeypatch.setattr(module, "WHOLE", 2**10)  # so that the weights are a large file
    new = mergecore.run(old / LOCK_NAME, tmp_path / "new")  # it raises RunError if the result differs
    assert json.loads((new / LOCK_NAME).read_text("utf-8"))["outputs"]["model.safetensors"]["tree"] == tree(weights)
    (new / "model.safetensors").write_bytes(weights[:-1] + b"!")
    for folder, changed in ((old, []), (new, ["model.safetensors"])):
        found = read_lock(folder / LOCK_NAME)
        assert found is not None and found.changed_outputs(2) == changed
    lock["outputs"]["model.safetensors"]["sha256"] = "0" * 64
    (old / LOCK_NAME).write_text(json.dumps(lock), "utf-8")
    with pytest.raises(RunError, match="these files differ from"):
        mergecore.run(old / LOCK_NAME, tmp_path / "again")
