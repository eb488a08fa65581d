"""The `.bin` reader reads any torch.save file correctly, rejects other files with an error, and never runs code."""

from __future__ import annotations

import json
import math
import os
import pickle
import shlex
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mergecore_pytorch import BinReader, copy_elements
from torch import Tensor

import mergecore
from mergecore.api import ITEM_BYTES, InputError, ModelError, torch_dtype


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def whole(reader: BinReader, name: str, tile: int = 5) -> Tensor:
    """Return a tensor read in tiles of `tile` elements."""
    info = reader.tensors[name]
    out = torch.empty(info.elements, dtype=torch_dtype(info.dtype))
    for start in range(0, info.elements, tile):
        reader.read(name, start, out[start : start + tile])
    return out.view(info.shape)


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        BinReader(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_every_dtype_of_the_format_is_read_exactly(tmp_path: Path, dtype: str) -> None:
    data = torch.arange(24, dtype=torch.float64).to(torch_dtype(dtype)).view(2, 3, 4)
    reader = BinReader(saved(tmp_path / "w.bin", {"x": data}))
    assert (reader.tensors["x"].dtype, reader.tensors["x"].shape) == (dtype, (2, 3, 4))
    assert torch.equal(whole(reader, "x"), data)


def test_parameters_views_shared_storage_and_odd_shapes(tmp_path: Path) -> None:
    big = torch.randn(8, 6)
    content = {
        "parameter": torch.nn.Parameter(torch.randn(3, 3)),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "transposed": big.t(),
        "gaps": big[1::2, ::3],
        "inner": big[2:5],
        "expanded": torch.randn(1, 4).expand(3, 4),
        "tied": big,
    }
    reader = BinReader(saved(tmp_path / "w.bin", content))
    for name, tensor in content.items():
        got = whole(reader, name)
        assert torch.equal(got, tensor.detach()), name
        assert not got.requires_grad


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_run_of_any_view_is_its_row_major_order(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    steps = data.draw(st.lists(st.integers(1, 3), min_size=len(shape), max_size=len(shape)))
    order = data.draw(st.permutations(range(len(shape))))
    stored = [n * step for n, step in zip(shape, steps)]
    gaps = tuple(slice(None, None, step) for step in steps)
    view = torch.arange(math.prod(stored)).view(stored)[gaps].permute(order)
    start = data.draw(st.integers(0, view.numel()))
    count = data.draw(st.integers(0, view.numel() - start))
    out = torch.full((count,), -1)
    copy_elements(view, start, out)
    assert torch.equal(out, view.reshape(-1)[start : start + count])


def test_a_trainers_checkpoint_is_read_from_its_state_dict(tmp_path: Path) -> None:
    content = {"state_dict": {"x": torch.ones(3)}, "epoch": 4, "optimizer": {"lr": 0.1, "state": [torch.zeros(2)]}}
    reader = BinReader(saved(tmp_path / "w.bin", content))
    assert list(reader.tensors) == ["x"]
    assert torch.equal(whole(reader, "x"), torch.ones(3))


def test_a_pickled_reader_opens_its_file_again(tmp_path: Path) -> None:
    reader = BinReader(saved(tmp_path / "w.bin", {"x": torch.arange(9.0)}))
    again = pickle.loads(pickle.dumps(reader))
    reader.close()
    assert torch.equal(whole(again, "x"), torch.arange(9.0))


def test_threads_read_one_file_at_once(tmp_path: Path) -> None:
    data = torch.randn(400, 100)
    reader = BinReader(saved(tmp_path / "w.bin", {"plain": data, "view": data.t()}))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda name: whole(reader, name, 999), ["plain", "view"] * 20))
    assert all(torch.equal(got, data if index % 2 == 0 else data.t()) for index, got in enumerate(results))


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("place", [lambda bomb: bomb, lambda bomb: {"x": torch.ones(2), "y": bomb}])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, bool], place: Callable[[Bomb], Any]
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    message = refusal(saved(tmp_path / "w.bin", place(Bomb(tmp_path / "hit")), **options))
    assert options or ("os.mkdir" in message.replace("posix", "os") and "safetensors" in message)
    assert not (tmp_path / "hit").exists()


def test_a_whole_pickled_module_is_refused_by_name(tmp_path: Path) -> None:
    assert "torch.nn.modules.linear.Linear" in refusal(saved(tmp_path / "w.bin", torch.nn.Linear(2, 2)))


def rewritten(message: str, path: Path) -> BinReader:
    """Run the command in the message and return the converted file."""
    program, option, code = shlex.split(message[message.index("python -c ") :])
    assert (program, option) == ("python", "-c")
    exec(code, {})
    return BinReader(path)


def test_old_format_names_the_command_that_mends_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "it's old.bin", {"x": torch.ones(3)}, _use_new_zipfile_serialization=False)
    assert torch.equal(whole(rewritten(refusal(path), path), "x"), torch.ones(3))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("entry", [7, "text", None, [1.0], {"x": torch.ones(1)}])
def test_an_entry_that_is_no_tensor_is_refused_by_name(tmp_path: Path, entry: Any, nested: bool) -> None:
    weights = {"x": torch.ones(3), "global_step": entry}
    path = saved(tmp_path / "w.bin", {"state_dict": weights, "epoch": 1} if nested else weights)
    message = refusal(path)
    assert f"'global_step' is {type(entry).__name__}" in message
    if entry == 7:
        assert list(rewritten(message, path).tensors) == ["x"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.ones(3, dtype=torch.complex64), "complex64"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8), "qint8"),
        (lambda: torch.ones(3).to_sparse(), "to_dense"),
        (lambda: torch.ones(3, device="meta"), "to_dense"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "to_dense"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, make: Callable[[], Tensor], kind: str) -> None:
    message = refusal(saved(tmp_path / "w.bin", {"fine": torch.ones(1), "odd.one": make()}))
    assert "'odd.one'" in message and kind in message


@pytest.mark.parametrize("content", [torch.ones(3), [torch.ones(3)], 5, {1: torch.ones(3)}])
def test_what_is_no_dict_of_named_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    assert "tensor" in refusal(saved(tmp_path / "w.bin", content))


def test_files_that_are_damaged_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "w.bin"
    good = saved(path, {"x": torch.ones(1000)}).read_bytes()
    for content in (
        good[:-30],
        good[: len(good) // 2],
        good[:10],
    ):
        path.write_bytes(content)
        assert "download the file again" in refusal(path)
    path.write_bytes(b"")
    assert "is empty; download it again" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes/hello.txt", "hello")
    assert "download the file again" in refusal(path)
    path.unlink()
    assert "no such file" in refusal(path)


def repacked(path: Path, compression: int, change: Callable[[str, bytes], bytes]) -> Path:
    """Return the archive with each record changed."""
    with zipfile.ZipFile(path) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records:
            archive.writestr(name, change(name, data))
    return path


def test_an_archive_whose_data_cannot_be_mapped_gives_no_wrong_values(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.bin", {"x": torch.arange(64.0), "y": torch.ones(64)})
    assert torch.equal(
        whole(BinReader(repacked(path, zipfile.ZIP_STORED, lambda _, data: data)), "x"), torch.arange(64.0)
    )
    repacked(path, zipfile.ZIP_DEFLATED, lambda _, data: data)
    assert torch.equal(whole(rewritten(refusal(path), path), "x"), torch.arange(64.0))
    message = refusal(repacked(path, zipfile.ZIP_STORED, lambda name, data: data[:99] if name.endswith("/0") else data))
    assert "do not fit" in message


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.filterwarnings("ignore")
def test_a_changed_byte_is_refused_or_changes_values_only(
    place: float, value: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "w.bin"
    damaged = bytearray(saved(path, {"x": torch.ones(2, 3), "y": torch.ones(3).half()}).read_bytes())
    damaged[int(place * len(damaged))] = value
    path.write_bytes(damaged)
    try:
        reader = BinReader(path)
    except ModelError:
        return
    for name in reader.tensors:
        whole(reader, name)


def llama(folder: Path, seed: int, as_bin: bool) -> None:
    """Create a real checkpoint with a tied head, as safetensors or as two .bin shards with an index."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    if not as_bin:
        return
    (folder / "model.safetensors").unlink()
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    places = {name: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, name in enumerate(weights)}
    for file in set(places.values()):
        saved(folder / file, {name: weights[name] for name in weights if places[name] == file})
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def test_a_merge_of_bin_shards_is_that_of_safetensors_byte_for_byte(tmp_path: Path) -> None:
    for kind in ("bin", "safetensors"):
        for seed in (1, 2):
            llama(tmp_path / kind / str(seed), seed, kind == "bin")
        models = [{"model": str(tmp_path / kind / str(seed)), "parameters": {"weight": seed}} for seed in (1, 2)]
        mergecore.run({"merge_method": "linear", "models": models}, tmp_path / f"out-{kind}")
    assert not list((tmp_path / "bin").rglob("*.safetensors"))
    results = [(tmp_path / f"out-{kind}" / "model.safetensors").read_bytes() for kind in ("bin", "safetensors")]
    assert results[0] == results[1]


def test_a_bomb_in_a_model_folder_stops_the_plan(tmp_path: Path) -> None:
    llama(tmp_path / "a", 1, True)
    saved(tmp_path / "a" / "pytorch_model-00002-of-00002.bin", {"x": Bomb(tmp_path / "hit")})
    with pytest.raises(InputError, match="is rejected"):
        mergecore.plan(
            {"merge_method": "linear", "models": [{"model": str(tmp_path / "a"), "parameters": {"weight": 1}}]}
        )
    assert not (tmp_path / "hit").exists()


@pytest.mark.parametrize("view", ["plain", "transposed"])
@pytest.mark.parametrize("change", ["cut", "replaced", "removed"])
def test_a_file_that_changes_under_the_reader_is_named(tmp_path: Path, view: str, change: str) -> None:
    data = torch.randn(400, 1000)
    path = saved(tmp_path / "w.bin", {"x": data if view == "plain" else data.t()})
    reader = BinReader(path)
    if change == "cut":
        os.truncate(path, 4096)  # reading the map beyond this would kill the process
    elif change == "replaced":
        saved(tmp_path / "new.bin", {"x": data}).replace(path)
    else:
        path.unlink()
    with pytest.raises(ModelError, match=rf"{path}: (was changed while it was being read|no such file)"):
        whole(reader, "x", 2**18)


def test_contiguous_tensors_are_read_past_the_map(tmp_path: Path) -> None:
    shared = torch.randn(600, 600)
    tensors = {"x": shared[3:7], "y": shared, "z": torch.arange(7), "empty": torch.empty(0)}
    content = {"state_dict": tensors, "optimizer": [torch.zeros(300), torch.ones(5)]}
    reader = BinReader(saved(tmp_path / "w.bin", content))
    for mapped in reader._tensors.values():  # nothing of the map is read, so it may hold anything
        mapped.fill_(-1)
    for name, tensor in tensors.items():
        assert torch.equal(whole(reader, name, 999), tensor), name
