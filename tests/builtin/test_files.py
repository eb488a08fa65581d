"""Safetensors files are read and written exactly, and only the checkpoint files in a folder are used."""

import json
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

from mergecore.api import TensorInfo
from mergecore.builtin.safetensors import SafetensorsReader, SafetensorsWriter
from mergecore.discovery.registry import Registry
from mergecore.errors import ModelError
from mergecore.models.adapters import open_model
from mergecore.models.layout_reader import Span, with_layout

NORM = "model.norm.weight"


def test_a_file_that_shrinks_under_the_reader_is_an_error(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    reader = SafetensorsReader(path)
    with path.open("r+b") as file:
        file.truncate(500)
    with pytest.raises(ModelError, match="the file is truncated inside 'a'"):
        reader.read("a", 0, torch.empty(1000))


def test_any_run_of_elements_can_be_read(tmp_path):
    tensors = {
        "wide": torch.randn(7, 11, dtype=torch.float64),
        "flags": torch.arange(9) % 2 == 0,
        "half": torch.randn(33).bfloat16(),
        "one": torch.tensor(3, dtype=torch.int16),
        "none": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    reader = SafetensorsReader(tmp_path / "model.safetensors")
    for name, tensor in tensors.items():
        assert reader.tensors[name].shape == tuple(tensor.shape)
        for start in range(0, tensor.numel(), 4):
            out = torch.empty(min(5, tensor.numel() - start), dtype=tensor.dtype)
            reader.read(name, start, out)
            assert torch.equal(out, tensor.reshape(-1)[start : start + 5])


def test_what_the_writer_writes_safetensors_reads(tmp_path):
    tensors = {
        "b": torch.randn(5).bfloat16(),
        "odd": torch.tensor([1, 2, 3], dtype=torch.uint8),
        "c": torch.randn(3, 2, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
    }
    names = {torch.bfloat16: "BF16", torch.uint8: "U8", torch.float64: "F64", torch.float32: "F32"}
    infos = {name: TensorInfo(names[t.dtype], tuple(t.shape)) for name, t in tensors.items()}
    writer = SafetensorsWriter(tmp_path, infos, 10**9)
    for name, tensor in reversed(tensors.items()):
        for start in reversed(range(0, tensor.numel(), 2)):
            writer.write(name, start, tensor.reshape(-1)[start : start + 2].contiguous())
    writer.close()
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    loaded = load_file(tmp_path / "model.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_what_is_written_while_the_writer_syncs_is_synced_the_next_time(tmp_path, monkeypatch):
    writer, synced = SafetensorsWriter(tmp_path, {"a": TensorInfo("F32", (8,))}, 10**9), []
    monkeypatch.setattr("os.fsync", lambda file: (synced.append(file), len(synced) > 1 or writer.write("a", 0, ones)))
    ones = torch.ones(8)
    writer.write("a", 0, ones)
    for count in (1, 2, 2):
        writer.sync()
        assert len(synced) == count
    writer.close()


def test_a_writer_goes_on_with_what_one_of_the_same_layout_left(tmp_path):
    infos = {"a": TensorInfo("F32", (8,)), "b": TensorInfo("F32", (4,))}
    for name, info in infos.items():
        writer = SafetensorsWriter(tmp_path, infos, 10**9)
        writer.write(name, 0, torch.ones(info.elements))
        writer.close()
    assert all(tensor.eq(1).all() for tensor in load_file(tmp_path / "model.safetensors").values())


def test_stray_copies_beside_the_checkpoint_are_not_read(tmp_path):
    folder = write_model(tmp_path / "model", 1)
    save_file({"x": torch.ones(1)}, folder / "consolidated.safetensors")
    assert "x" not in open_model(str(folder), Registry(print)).tensors


def test_an_index_of_a_single_file_is_no_contradiction(tmp_path):
    folder = write_model(tmp_path / "model", 1)
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(names, "model.safetensors")})
    )
    assert open_model(str(folder), Registry(print)).tensors.keys() == names.keys()


def test_a_path_with_any_characters_is_a_path(tmp_path, monkeypatch):
    write_model(tmp_path / "a+b@c d", 1)
    monkeypatch.chdir(tmp_path)
    assert open_model("a+b@c d", Registry(print)).reference == "a+b@c d"


def test_a_pickled_checkpoint_opens_its_files_again_wherever_it_is(tmp_path, monkeypatch):
    write_model(tmp_path / "model", 0)
    monkeypatch.chdir(tmp_path)
    checkpoint = open_model("model", Registry(print))
    info = checkpoint.tensors[NORM]
    seen = with_layout(checkpoint, {"seen": TensorInfo("F32", (3,))}, {"seen": [Span(NORM, 5, 2), Span(NORM, 1, 1)]})
    pickled = pickle.dumps([checkpoint, seen])
    checkpoint.close()
    monkeypatch.chdir(tmp_path / "model")
    again, seen_again = pickle.loads(pickled)
    whole, view = torch.empty(info.elements), torch.empty(3)
    again.read(NORM, 0, whole)
    seen_again.read("seen", 0, view)
    assert torch.equal(whole, load_file("model.safetensors")[NORM])
    assert torch.equal(view, whole[[5, 6, 1]])
    assert seen_again.readers["seen"]._readers[NORM] is again.readers[NORM]
    again.close()


def test_a_writer_over_what_another_one_is_writing_keeps_it(tmp_path):
    tensors = {"a": TensorInfo("F32", (2,)), "b": TensorInfo("BF16", (3, 4))}
    one = SafetensorsWriter(tmp_path, tensors, 8)
    one.write("a", 0, torch.tensor([1.0, 2.0]))
    other = SafetensorsWriter(tmp_path, tensors, 8)
    other.write("b", 0, torch.arange(12, dtype=torch.bfloat16))
    one.close()
    other.close()
    stored = [load_file(path) for path in sorted(tmp_path.glob("*.safetensors"))]
    assert torch.equal(stored[0]["a"], torch.tensor([1.0, 2.0]))
    assert torch.equal(stored[1]["b"].flatten(), torch.arange(12, dtype=torch.bfloat16))
