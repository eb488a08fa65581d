"""A merge of more files than the system lets a process open, and what happens to files while they are closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

from mergecore.api import TensorInfo
from mergecore.builtin import open_files
from mergecore.builtin.safetensors import SafetensorsReader, SafetensorsWriter
from mergecore.errors import RunError

SHARDS = 169


def in_shards(folder: Path, seed: int) -> Path:
    """Create a model with one tensor in each of its 169 files and the rest in the last."""
    write_model(folder, seed, num_hidden_layers=20)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {}
    names = list(tensors)
    for number in range(SHARDS):
        own = names[number : number + 1] if number < SHARDS - 1 else names[number:]
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        save_file({name: tensors[name] for name in own}, folder / file)
        places |= dict.fromkeys(own, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}), "utf-8")
    return folder


def merged(recipe: Path, out: Path, limit: int) -> dict[str, bytes]:
    """Merge a recipe in a process with a hard limit of open files. Return the weight files of the result."""
    command = [sys.executable, "-m", "mergecore", "run", recipe, out, "--shard-size", "200", "--no-health", "--quiet"]
    limited = ["bash", "-c", f'ulimit -n {limit} && exec "$@"', "bash", *map(str, command)]
    done = subprocess.run(limited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors")}


def test_seven_models_of_169_shards_merge_with_256_open_files(tmp_path):
    models = [{"model": str(in_shards(tmp_path / f"model-{seed}", seed))} for seed in range(7)]
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"merge_method": "linear", "models": models, "parameters": {"weight": 1.0}}), "utf-8")
    few = merged(recipe, tmp_path / "few", 256)
    assert len(few) > SHARDS
    assert few == merged(recipe, tmp_path / "many", 4096)


def files(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number}.safetensors" for number in range(count)]
    for number, path in enumerate(paths):
        save_file({"a": torch.full((1000,), float(number))}, path)
    return paths


def value(reader: SafetensorsReader) -> float:
    out = torch.empty(1000)
    reader.read("a", 0, out)
    assert (out == out[0]).all()
    return out[0].item()


def test_threads_read_more_files_than_are_open(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files, "MOST", 3)
    monkeypatch.setattr(open_files, "_OPEN", {})  # without the files of other tests
    before = len(os.listdir("/proc/self/fd"))
    readers = [SafetensorsReader(path) for path in files(tmp_path, 20)]
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.is_set():
            most[0] = max(most[0], len(os.listdir("/proc/self/fd")))

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(8) as pool:
        numbers = [(7 * turn) % 20 for turn in range(4000)]
        found = list(pool.map(lambda number: value(readers[number]), numbers))
    stop.set()
    watching.join()
    assert found == numbers
    assert most[0] <= before + 8 + 2  # one for each thread, and what opens and lists
    for reader in readers:
        reader.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("change", ["replaced", "overwritten", "removed", "a pipe"])
def test_a_file_that_changed_while_it_was_closed_is_reported(tmp_path, monkeypatch, change):
    monkeypatch.setattr(open_files, "MOST", 1)
    first, second = (SafetensorsReader(path) for path in files(tmp_path, 2))
    path = tmp_path / "0.safetensors"
    if change == "overwritten":
        path.write_bytes(path.read_bytes())
    else:
        path.rename(tmp_path / "elsewhere")
    if change == "replaced":
        save_file({"a": torch.zeros(1000)}, path)
    if change == "a pipe":
        os.mkfifo(path)
    with pytest.raises(RunError, match=f"^{path}: was (changed|removed) while it was being merged; run again"):
        value(first)
    assert value(second) == 1


def test_what_is_written_survives_that_its_file_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(open_files, "MOST", 1)
    writer = SafetensorsWriter(tmp_path, {name: TensorInfo("F32", (2,)) for name in "abc"}, 8)
    for start in (0, 1):
        for number, name in enumerate("abc"):
            writer.write(name, start, torch.tensor([10.0 * number + start]))
    writer.sync()
    writer.close()
    for number, name in enumerate("abc"):
        path = tmp_path / f"model-0000{number + 1}-of-00003.safetensors"
        assert load_file(path)[name].tolist() == [10.0 * number, 10.0 * number + 1]
