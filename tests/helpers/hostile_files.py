"""Broken and malicious files: safetensors headers, model folders, PyTorch archives, and recipes."""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

Damage = Callable[[Path], Any]
"""A function that damages a valid model folder."""


def safetensors(entries: Any, data: bytes = b"") -> bytes:
    """A file with an arbitrary header."""
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(begin: Any, end: Any, shape: Any = (2,), dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": shape if isinstance(shape, (str, dict)) else list(shape),
        "data_offsets": [begin, end],
    }


def one(**changes: Any) -> bytes:
    """A file with one valid tensor and some changes."""
    return safetensors({"a": {**entry(0, 8), **changes}}, bytes(8))


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
CUT, DAMAGED, ODD = "is truncated", "header is damaged", "entry for 'a' is damaged"

HEADERS = {
    "empty": (b"", "is empty"),
    "two bytes": (b"\x01\x02", CUT),
    "a git-LFS pointer": (LFS, "is a Git LFS pointer instead of the file; download it with: git lfs pull"),
    "a page of HTML": (b"<!DOCTYPE html><html>please log in</html>", CUT),
    "cut in the header": (one()[:20], CUT),
    "cut in the data": (one()[:-1], "truncated"),
    "header longer than the file": (struct.pack("<Q", 10**6) + b"{}", CUT),
    "header of 2^64 bytes": (b"\xff" * 8 + b"{}", CUT),
    "header not UTF-8": (safetensors(b'{"\xff": 1}'), DAMAGED),
    "half a surrogate pair in a name": (safetensors({"\ud800": entry(0, 8)}, bytes(8)), DAMAGED),
    "header in UTF-16": (safetensors(json.dumps({"a": entry(0, 8)}).encode("utf-16")), DAMAGED),
    "header not JSON": (safetensors(b"{{{{"), DAMAGED),
    "header a list": (safetensors([1]), DAMAGED),
    "header a number of a million digits": (safetensors(b"1" * 10**6), DAMAGED),
    "header nested without end": (safetensors(b"[" * 10**6), DAMAGED),
    "entry nested without end": (safetensors(b'{"a":' * 10**5 + b"}" * 10**5), DAMAGED),
    "name twice": (safetensors(b'{"a": null,"a": null}', bytes(8)), DAMAGED),
    "key twice in an entry": (
        safetensors(b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [2], "data_offsets": [0, 8]}}', bytes(8)),
        DAMAGED,
    ),
    "entry a list": (safetensors({"a": []}), ODD),
    "entry without offsets": (safetensors({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)), ODD),
    "three offsets": (one(data_offsets=[0, 8, 8]), ODD),
    "offsets a mapping": (one(data_offsets={"0": 0, "8": 8}), ODD),
    "negative offsets": (one(data_offsets=[-8, 0]), DAMAGED),
    "offsets with a point": (one(data_offsets=[0.0, 8.0]), DAMAGED),
    "infinite offsets": (one(data_offsets=[0, float("inf")]), DAMAGED),
    "offsets beyond 64 bits": (one(data_offsets=[2**64, 2**64 + 8]), ODD),
    "negative shape": (one(shape=[-2]), DAMAGED),
    "shape of text": (one(shape="22"), ODD),
    "shape a mapping": (one(shape={}), ODD),
    "true as a size": (one(shape=[True]), ODD),
    "shape of a million axes": (one(shape=[1] * 10**6), ODD),
    "shape that overflows": (one(shape=[2**62, 8]), "does not match its shape"),
    "shape that overflows to the right size": (one(shape=[2**62 + 2]), "does not match its shape"),
    "shape and bytes differ": (one(shape=[3]), "does not match its shape"),
    "ends before it begins": (one(data_offsets=[8, 0]), "does not match its shape"),
    "beyond the end": (one(data_offsets=[8, 16]), "truncated"),
    "dtype that no one knows": (one(dtype="F33"), "is stored as 'F33', which cannot be merged"),
    "dtype a list": (one(dtype=[]), ODD),
    "complex": (one(dtype="C64"), "is stored as 'C64'"),
    "mxfp4's scales": (one(dtype="F8_E8M0"), "is stored as 'F8_E8M0'"),
    "overlap": (safetensors({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)), "'b' overlaps another tensor"),
    "same bytes for two": (safetensors({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)), "'b' overlaps another tensor"),
    "a gap": (safetensors({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)), "'b' starts after a gap"),
    "bytes of no tensor": (one() + bytes(1), "has extra bytes after the last tensor"),
}  # fmt: skip
"""Name → the bytes of model.safetensors, and text in the error."""

NAMES = [
    "../../../etc/passwd", "/etc/passwd", "a/b", "", " ", "x\nerror: all is well", "\x1b[2J\x1b[31mred",
    "\u202egnp.live", "\x00", "\u200b", "\x9b31m", "[bold]x[/bold]", "%s%n", "x" * 5000,
]  # fmt: skip
"""Tensor names that look like paths, contain terminal commands, or use invisible characters."""


def configured(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Change config.json."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def written(name: str, content: str | bytes) -> Damage:
    """Write a file into the folder, or replace its content."""
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def replaced(name: str, make: Callable[[Path], Any]) -> Damage:
    """Replace a file with something else."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return damage


def sparse(name: str, size: int, start: bytes = b"{") -> Damage:
    """A sparse file of `size` bytes."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(start)
        os.truncate(folder / name, size)

    return damage


def moved_out(name: str, link: bool = True) -> Damage:
    """Move a file out of its folder, optionally with a link to it."""

    def damage(folder: Path) -> None:
        target = folder.parent / f"elsewhere-{name}"
        (folder / name).rename(target)
        if link:
            (folder / name).symlink_to(target)

    return damage


def indexed(change: Callable[[dict[str, Any]], Any] = lambda places: places, shard: str = "part.safetensors") -> Damage:
    """Put the weights into a shard with an index that has a modified weight_map."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        places = change(dict.fromkeys(stored_names(folder / "part.safetensors"), shard))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return damage


def stored_names(path: Path) -> list[str]:
    data = path.read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return [name for name in header if name != "__metadata__"]


def both(*damages: Damage) -> Damage:
    """Apply several changes in order."""
    return lambda folder: [damage(folder) for damage in damages]


class Bomb:
    """An object that creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


def archive(
    change: Callable[[str, bytes], bytes] = lambda name, data: data,
    packing: int = zipfile.ZIP_STORED,
    content: Any = None,
    after: Callable[[bytes], bytes] = lambda data: data,
) -> Damage:
    """Store the weights as pytorch_model.bin, then change its records and its bytes."""

    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        saved = io.BytesIO()
        torch.save({"x": torch.ones(1000)} if content is None else content(folder), saved)
        out = io.BytesIO()
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(out, "w", packing) as new:
            for info in old.infolist():
                new.writestr(info.filename, change(info.filename, old.read(info)))
        (folder / "pytorch_model.bin").write_bytes(after(out.getvalue()))

    return damage


def claiming(data: bytes, size: int) -> bytes:
    """An archive whose directory claims that every record has `size` bytes."""
    place = data.find(b"PK\x01\x02")
    while place >= 0:
        data = data[: place + 20] + struct.pack("<II", size, size) + data[place + 28 :]
        place = data.find(b"PK\x01\x02", place + 1)
    return data


def legacy(folder: Path) -> None:
    """A legacy pickle file that contains a bomb."""
    (folder / "model.safetensors").unlink()
    content = {"x": torch.ones(2), "y": Bomb(folder / "hit")}
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def bare_pickle(folder: Path) -> None:
    """A pickle file that is only a bomb."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(folder / "hit")))


def quantised(names: dict[str, torch.Tensor]) -> Damage:
    """Add tensors of a quantized checkpoint."""

    def damage(folder: Path) -> None:
        save_file(names, folder / "model.safetensors")

    return damage


def with_quantiser(**settings: Any) -> Damage:
    return configured(lambda config: config.update(quantization_config=settings))


CONFIG, INDEX, WEIGHTS, BIN = "config.json", "model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"
UNQUANTISED = "merge the model's unquantized checkpoint"
REFUSED = "loading it would run"
FP8 = torch.ones(4, 4).to(torch.float8_e4m3fn)

BOTTOMLESS = '{"a":' + "[" * 10**5 + "]" * 10**5 + "}"
TOO_DEEP = "is nested too deeply (more than 50 levels)"

FOLDERS: dict[str, tuple[Damage, str, str]] = {
    # config.json
    "no config": (lambda folder: (folder / CONFIG).unlink(), "code", "has weights but no config.json"),
    "config empty": (written(CONFIG, ""), CONFIG, "is empty"),
    "config not JSON": (written(CONFIG, "{"), CONFIG, "cannot be parsed as JSON"),
    "config not UTF-8": (written(CONFIG, b'{"a": "\xff"}'), CONFIG, "cannot be read as text"),
    "config a list": (written(CONFIG, "[1]"), CONFIG, "must contain a JSON object"),
    "config a git-LFS pointer": (written(CONFIG, LFS), CONFIG, "git lfs pull"),
    "config nested a million deep": (written(CONFIG, '{"a":' + "[" * 10**6 + "]" * 10**6 + "}"), CONFIG, TOO_DEEP),
    "config nested in hundreds": (written(CONFIG, '{"a":' + "[" * 100 + "]" * 100 + "}"), CONFIG, TOO_DEEP),
    "config of 10 GB": (sparse(CONFIG, 10**10), CONFIG, "is larger than the limit of 10 MB"),
    "config a folder": (replaced(CONFIG, Path.mkdir), CONFIG, "is a folder, pipe, or device"),
    "config a pipe": (replaced(CONFIG, os.mkfifo), CONFIG, "is a folder, pipe, or device"),
    "config a socket": (
        replaced(CONFIG, lambda path: socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))),
        CONFIG, "is a folder, pipe, or device",
    ),
    "config a link out": (moved_out(CONFIG), CONFIG, "is a link to a file outside the model's folder"),
    "config a link to itself": (replaced(CONFIG, lambda path: path.symlink_to(CONFIG)), CONFIG, "cannot be read"),
    "config without architectures": (configured(lambda c: c.pop("architectures")), "code", "must name one model class"),
    "config with an architecture of no name": (configured(lambda c: c.update(architectures=[[]])), "code", "one model"),
    "config with a path for an architecture": (
        configured(lambda c: c.update(architectures=["../../x\x1b[2J"])), "code",
        r"'../../x\x1b[2J' is not a class name",
    ),
    "config with a billion layers": (configured(lambda c: c.update(num_hidden_layers=10**9)), "code", "num_hidden"),
    "config with no layer count": (configured(lambda c: c.update(num_hidden_layers="2")), "code", "num_hidden_layers"),
    # the files
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "code", "has no weight files"),
    "weights a folder": (replaced(WEIGHTS, Path.mkdir), WEIGHTS, "is a folder, pipe, or device"),
    "weights a pipe": (replaced(WEIGHTS, os.mkfifo), WEIGHTS, "is a folder, pipe, or device"),
    "weights a link out": (moved_out(WEIGHTS), WEIGHTS, "is a link to a file outside"),
    "weights a link to a device": (
        replaced(WEIGHTS, lambda path: path.symlink_to("/dev/zero")), WEIGHTS, "is a link to a file outside",
    ),
    "weights a link to nothing": (replaced(WEIGHTS, lambda path: path.symlink_to("gone")), WEIGHTS, "no such file"),
    "weights a circle of links": (
        replaced(WEIGHTS, lambda path: (path.symlink_to("a"), (path.parent / "a").symlink_to(path.name))),
        WEIGHTS, "cannot be read",
    ),
    "header of 150 MB": (sparse(WEIGHTS, 2 * 10**8, struct.pack("<Q", 15 * 10**7)), WEIGHTS, "than the format allows"),
    "several files and no index": (
        lambda folder: [(folder / WEIGHTS).rename(folder / "a.safetensors"), (folder / "b.safetensors").touch()],
        "code", "has 2 .safetensors files but no index",
    ),
    "an adapter": (
        both(lambda folder: (folder / WEIGHTS).rename(folder / "adapter_model.safetensors"),
             written("adapter_config.json", "{}")),
        "code", "is an adapter, not a model",
    ),
    "a format without a reader": (
        lambda folder: (folder / WEIGHTS).rename(folder / "model.gguf"), "code", "has only model.gguf, but no reader",
    ),
    # the index
    "index not JSON": (both(indexed(), written(INDEX, "weight_map")), INDEX, "cannot be parsed as JSON"),
    "index nested without end": (both(indexed(), written(INDEX, BOTTOMLESS)), INDEX, TOO_DEEP),
    "tokenizer nested without end": (written("tokenizer.json", BOTTOMLESS), "tokenizer.json", TOO_DEEP),
    "index without weight_map": (both(indexed(), written(INDEX, "{}")), INDEX, "'weight_map' must map"),
    "index of lists": (indexed(lambda places: [*places]), INDEX, "'weight_map' must map"),
    "index of numbers": (indexed(lambda places: dict.fromkeys(places, 1)), INDEX, "'weight_map' must map"),
    "index of 1 GB": (both(indexed(), sparse(INDEX, 10**9)), INDEX, "is larger than the limit of 100 MB"),
    "index a pipe": (both(indexed(), replaced(INDEX, os.mkfifo)), INDEX, "is a folder, pipe, or device"),
    "index a link out": (both(indexed(), moved_out(INDEX)), INDEX, "is a link to a file outside"),
    "index next to a single file": (
        both(indexed(), lambda folder: (folder / WEIGHTS).symlink_to("part.safetensors")), "code", "has both",
    ),
    "shard missing": (
        indexed(shard="gone.safetensors"), "gone.safetensors", f"is listed in {INDEX} but does not exist",
    ),
    "shard above": (both(indexed(shard="../elsewhere-part.safetensors"), moved_out("part.safetensors", False)), INDEX,
                    "outside its folder"),
    "shard below": (indexed(shard="a/../part.safetensors"), INDEX, "outside its folder"),
    "shard with an absolute path": (indexed(shard="/dev/zero.safetensors"), INDEX, "outside its folder"),
    "shard with a zero byte": (indexed(shard="\0.safetensors"), INDEX, "outside its folder"),
    "shard with no name": (indexed(shard=""), INDEX, "which is not a .safetensors file"),
    "shard that is the folder": (indexed(shard=".."), INDEX, "which is not a .safetensors file"),
    "shard of another format": (indexed(shard="part.bin"), INDEX, "which is not a .safetensors file"),
    "shard a link out": (
        both(indexed(), moved_out("part.safetensors")), "part.safetensors", "is a link to a file outside",
    ),
    "shard empty": (both(indexed(), written("part.safetensors", "")), "part.safetensors", "is empty"),
    "index with a tensor too many": (
        indexed(lambda places: {**places, "x": "part.safetensors"}), INDEX, "does not match its files for 'x'",
    ),
    "index with a tensor too few": (
        indexed(lambda places: dict([*places.items()][1:])), INDEX, "does not match its files",
    ),
    "index with a tensor in the wrong shard": (
        both(indexed(lambda places: {**places, "model.norm.weight": "b.safetensors", "x": "b.safetensors"}),
             lambda folder: save_file({"x": torch.ones(1)}, folder / "b.safetensors")),
        INDEX, "does not match its files for 'model.norm.weight'",
    ),
    "tensor in two shards": (
        both(indexed(lambda places: {**places, "x": "b.safetensors"}),
             lambda f: save_file({"x": torch.ones(1), "model.norm.weight": torch.ones(8)}, f / "b.safetensors")),
        "b.safetensors", "'model.norm.weight' is also in another file",
    ),
    # PyTorch archives
    "bin that runs code": (archive(content=lambda folder: {"x": Bomb(folder / "hit")}), BIN, REFUSED),
    "bin that is code": (archive(content=lambda folder: Bomb(folder / "hit")), BIN, REFUSED),
    "bin of the old format": (legacy, BIN, "from before 2020"),
    "bin a bare pickle": (bare_pickle, BIN, "from before 2020"),
    "bin empty": (archive(after=lambda data: b""), BIN, "is empty"),
    "bin a git-LFS pointer": (archive(after=lambda data: LFS), BIN, "git lfs pull"),
    "bin a pipe": (both(archive(), replaced(BIN, os.mkfifo)), BIN, "is a folder, pipe, or device"),
    "truncated bin": (archive(after=lambda data: data[:-50]), BIN, "or is truncated"),
    "bin of zeros, packed": (archive(lambda name, data: data + bytes(10**6), zipfile.ZIP_DEFLATED), BIN, "compressed"),
    "bin that claims 4 GB": (archive(after=lambda data: claiming(data, 2**32 - 2)), BIN, "claim more bytes than"),
    "bin with too little data": (archive(lambda n, d: d[:99] if n.endswith("/0") else d), BIN, "cannot be read"),
    "bin with a tensor of 2^50": (archive(content=lambda f: {"x": torch.ones(1).expand(2**50)}), BIN, "do not fit"),
    "bin with its pickle cut": (archive(lambda n, d: d[:-1] if n.endswith(".pkl") else d), BIN, "cannot be read"),
    "bin with fp8 and no scale": (archive(content=lambda folder: {"x": FP8}), "code", UNQUANTISED),
    # quantized
    "quantized with GPTQ": (with_quantiser(quant_method="gptq", bits=4), CONFIG, "quantized ('gptq'); " + UNQUANTISED),
    "quantized with AWQ": (with_quantiser(quant_method="awq"), CONFIG, "quantized ('awq'); " + UNQUANTISED),
    "quantized with mxfp4": (with_quantiser(quant_method="mxfp4"), CONFIG, "quantized ('mxfp4'); " + UNQUANTISED),
    "quantized with an unnamed tool": (with_quantiser(load_in_4bit=True), CONFIG, "quantized; " + UNQUANTISED),
    "quantized with a list": (configured(lambda c: c.update(quantization_config=[])), CONFIG, UNQUANTISED),
    "GPTQ's tensors": (quantised({"a.qweight": torch.ones(2).int()}), "code", "with GPTQ or AWQ; " + UNQUANTISED),
    "bitsandbytes' tensors": (quantised({"a.weight.absmax": torch.ones(2)}), "code", "bitsandbytes; " + UNQUANTISED),
    "MXFP4's tensors": (quantised({"a_blocks": torch.ones(2), "a_scales": torch.ones(2)}), "code", "with MXFP4; "),
    "fp8 without scales": (quantised({"a.weight": FP8}), "code", "without a scale; " + UNQUANTISED),
    "fp8 with scales of whole numbers": (
        quantised({"a.weight": FP8, "a.weight_scale": torch.ones(1).int()}), "code", "without a scale; " + UNQUANTISED,
    ),
    "fp8 in blocks of unknown size": (
        quantised({"a.weight": FP8, "a.weight_scale_inv": torch.ones(2, 2)}), "code", "has no weight_block_size",
    ),
    "fp8 in blocks of odd size": (
        both(quantised({"a.weight": FP8, "a.weight_scale_inv": torch.ones(2, 2)}),
             with_quantiser(quant_method="fp8", weight_block_size=[0, -1])),
        "code", "has no weight_block_size",
    ),
    "fp8 with one block's scale for all": (
        both(quantised({"a.weight": FP8, "a.weight_scale_inv": torch.ones(1, 1)}),
             with_quantiser(quant_method="fp8", weight_block_size=[2, 2])),
        "code", "which does not match",
    ),
    "fp8 with too few scales": (
        both(quantised({"a.weight": FP8, "a.weight_scale_inv": torch.ones(2, 2)}),
             with_quantiser(quant_method="fp8", weight_block_size=[1, 2])),
        "code", "which does not match",
    ),
}  # fmt: skip
"""Name → the damage, the file or folder that the error must name, and text in the error."""

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)
GOOD = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: code}, {model: prose}]\n"

RECIPES: dict[str, tuple[str | bytes, str]] = {
    "binary": (bytes(range(256)), "cannot be read as text"),
    "zero bytes": (GOOD + "\0", "special characters are not allowed"),
    "a billion laughs": (LAUGHS + GOOD, "aliases expand to too many values"),
    "an alias in itself": (GOOD + "x: &x [*x]\n", "aliases expand to too many values"),
    "nested without end": ("[" * 10**5, "nested too deeply"),
    "nested a hundred deep": (GOOD + "x: " + "[" * 100 + "]" * 100, "nested too deeply (more than 50 levels)"),
    "a lock nested without end": ('{"mergecore_lock": 1, "a": ' + BOTTOMLESS + "}", "nested too deeply"),
    "a command in a tag": (GOOD + "x: !!python/object/apply:os.mkdir [hit]\n", "is not allowed here"),
    "a command in a mapping's tag": (GOOD + "x: !!python/object/new:os.mkdir {args: [hit]}\n", "is not allowed here"),
    "a name in a tag": (GOOD + "x: !!python/name:os.system ''\n", "is not allowed here"),
    "a module in a tag": (GOOD + "x: !!python/module:os ''\n", "is not allowed here"),
    "an unknown tag": (GOOD + "x: !run ls\n", "is not allowed here"),
    "bytes": (GOOD + "x: !!binary aGVsbG8=\n", "is not allowed here"),
    "key twice": (GOOD + "merge_method: ties\n", "duplicate key"),
    "a key that is a list": (GOOD + "? [a]\n: 1\n", "must be a string"),
    "a number beyond 64 bits": (GOOD + f"seed: {10**30}\n", "is too large"),
    "a number of ten thousand digits": (GOOD + "seed: " + "9" * 10**4 + "\n", "cannot be parsed as"),
    "a hexadecimal number without end": (GOOD + "seed: 0x" + "f" * 10**5 + "\n", "cannot be parsed as"),
    "a time of day without end": (GOOD + "seed: 1" + ":1" * 10**5 + "\n", "cannot be parsed as"),
    "a number that is empty": (GOOD + "seed: !!int ''\n", "cannot be parsed as"),
    "a truth that is neither": (GOOD + "seed: !!bool maybe\n", "cannot be parsed as"),
    "a character beyond Unicode": (GOOD + 'x: "\\U00110000"\n', "not valid YAML"),
    "a character beyond all numbers": (GOOD + 'x: "\\UFFFFFFFF"\n', "not valid YAML"),
    "a key of control characters": (GOOD + '"\\e[2J\\r\\nok": 1\n', "unknown key"),
    "a key of one hundred thousand letters": (GOOD + "? " + "x" * 10**5 + "\n: 1\n", "unknown key"),
    "a model with control characters": (GOOD.replace("code", '"\\e[31m\\u202e"'), r"\x1b[31m\u202e: no such folder"),
    "a model with a zero byte": (GOOD.replace("code", '"a\\0b"'), "no such folder"),
    "a model of five thousand letters": (GOOD.replace("code", "x" * 5000), "no such folder"),
    "a model of no user": (GOOD.replace("code", "~no-such-user/x"), "no such folder"),
    "a model that is a file": (GOOD.replace("code", "recipe.yml"), "no such folder"),
    "a method with control characters": (GOOD.replace("linear", '"\\e[2J"'), "is not installed"),
}
"""Name → a recipe with valid models next to it, and text in the error."""
