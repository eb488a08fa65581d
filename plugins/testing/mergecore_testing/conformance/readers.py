"""Checks for readers: exact reads at any offset, from any thread and process, and errors for invalid files."""

from __future__ import annotations

import os
import pickle
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from mergecore.api import TensorInfo, torch_dtype
from mergecore.discovery import entry_points
from mergecore.errors import MergecoreError, ModelError
from mergecore_testing.checkpoints import random_tensors
from mergecore_testing.conformance.compare import expect, same
from mergecore_testing.conformance.subjects import Subject, folder
from mergecore_testing.tiling import STORED

if TYPE_CHECKING:
    from torch import Tensor

SHAPES = {"a": (5, 7), "b": (300, 41), "c": (1,), "d": (2, 3, 4)}
GARBAGE = {
    "empty": b"",
    "text": b"this is no checkpoint\n" * 50,
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


def sample(subject: Subject, path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a file with tensors in the reader's format. Skip the check if there is no writer for it."""
    import pytest

    if subject.write is not None:
        subject.write(path, tensors)
        return path
    if not any(plugin.name == subject.name for plugin in entry_points.list_plugins("writers")):
        pytest.skip(f"no writer for .{subject.name}: use conformance({subject.name!r}, kind='readers', write=...)")
    write_folder(
        entry_points.load_plugin(entry_points.find_plugin("writers", subject.name)), path.parent / "written", tensors
    )
    (file,) = (path.parent / "written").glob(f"*.{subject.name}")
    return Path(shutil.move(file, path))


def write_folder(make_writer: object, out: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write whole tensors with a writer."""
    infos = {
        name: TensorInfo(STORED[str(t.dtype).removeprefix("torch.")], tuple(t.shape)) for name, t in tensors.items()
    }
    out.mkdir(exist_ok=True)
    writer = make_writer(out, infos, 2**40)  # type: ignore[operator]
    try:
        for name, tensor in tensors.items():
            writer.write(name, 0, tensor.reshape(-1))
        writer.finish()
    finally:
        writer.close()


def check_reads_every_dtype_at_any_place(subject: Subject) -> None:
    """Names, dtypes, shapes, and every range of elements are correct for float dtypes."""
    for dtype in ("F32", "BF16", "F16"):
        tensors = random_tensors(SHAPES, dtype, 1)
        with folder() as there:
            reader = subject.loaded(sample(subject, there / f"x.{subject.name}", tensors))
            try:
                found = {name: (info.dtype, info.shape) for name, info in reader.tensors.items()}
                given = {name: (dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
                expect(found == given, f"{subject}: reads the header as {found}, not {given}")
                for name, tensor in tensors.items():
                    for start, stop in ((0, tensor.numel()), (tensor.numel() // 3, tensor.numel() // 2 + 1)):
                        got = _read(reader, name, start, stop)
                        expect(
                            same(got, tensor.reshape(-1)[start:stop]),
                            f"{subject}: [{start}:{stop}] of {name!r} is wrong",
                        )
            finally:
                reader.close()


def check_reads_from_threads(subject: Subject) -> None:
    """Many threads can read at the same time, and each gets the right elements."""
    tensors = random_tensors(SHAPES, "F32", 2)
    with folder() as there, ThreadPoolExecutor(4) as pool:
        reader = subject.loaded(sample(subject, there / f"x.{subject.name}", tensors))
        try:
            flat = tensors["b"].reshape(-1)
            spans = [(start, min(start + 97, flat.numel())) for start in range(0, flat.numel(), 97)] * 3
            results = list(pool.map(lambda span: _read(reader, "b", *span), spans))
        finally:
            reader.close()
    wrong = [span for span, got in zip(spans, results) if not same(got, flat[slice(*span)])]
    expect(not wrong, f"{subject}: wrong values with several threads: {wrong[:3]}")


def check_opens_again_in_another_process(subject: Subject) -> None:
    """A pickled reader reopens its file after unpickling."""
    tensors = random_tensors(SHAPES, "F32", 3)
    with folder() as there:
        first = subject.loaded(sample(subject, there / f"x.{subject.name}", tensors))
        text = pickle.dumps(first)
        first.close()
        again = pickle.loads(text)
        try:
            got = _read(again, "b", 0, tensors["b"].numel())
        finally:
            again.close()
    expect(same(got, tensors["b"].reshape(-1)), f"{subject}: reads different values after unpickling")


def check_refuses_what_it_cannot_read(subject: Subject) -> None:
    """Missing, empty, foreign, and special files raise a ModelError that includes the path."""
    with folder() as there:
        for name, content in GARBAGE.items():
            (there / f"{name}.{subject.name}").write_bytes(content)
        (there / f"folder.{subject.name}").mkdir()
        os.mkfifo(there / f"pipe.{subject.name}")
        for name in (*GARBAGE, "folder", "pipe", "missing"):
            _expect_refused(subject, there / f"{name}.{subject.name}")


def check_refuses_what_is_cut_short(subject: Subject) -> None:
    """A truncated file raises an error when it is opened or when missing data is read."""
    tensors = random_tensors(SHAPES, "F32", 4)
    with folder() as there:
        content = sample(subject, there / f"x.{subject.name}", tensors).read_bytes()
        for share in (0.01, 0.5, 0.99):
            path = there / f"cut.{subject.name}"
            path.write_bytes(content[: int(len(content) * share)])
            try:
                reader = subject.loaded(path)
                for name, tensor in tensors.items():
                    _read(reader, name, 0, tensor.numel())
            except MergecoreError:
                continue
            expect(False, f"{subject}: reads a file truncated to {share:.0%} without an error")


def _read(reader: object, name: str, start: int, stop: int) -> Tensor:
    import torch

    out = torch.empty(stop - start, dtype=torch_dtype(reader.tensors[name].dtype))  # type: ignore[attr-defined]
    reader.read(name, start, out)  # type: ignore[attr-defined]
    return out


def _expect_refused(subject: Subject, path: Path) -> None:
    problems: list[BaseException | None] = []

    def attempt() -> None:
        try:
            subject.loaded(path).close()
            problems.append(None)
        except BaseException as error:
            problems.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(10)
    expect(problems, f"{subject}: hangs on {path.name}; open files with mergecore.api.open_file")
    error = problems[0]
    expect(isinstance(error, ModelError), f"{subject}: {path.name} raises {error!r}, not a ModelError")
    expect(str(path) in str(error), f"{subject}: the error for {path.name} does not include its path: {error}")
