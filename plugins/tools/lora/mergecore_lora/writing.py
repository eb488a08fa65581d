"""Write an adapter's folder atomically, saving each tensor as soon as it is computed."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mergecore.api import ITEM_BYTES, RunError, TensorInfo, torch_dtype
from mergecore.api.files import TORCH_NAMES
from mergecore.tooling import OutputFolder, PublicNames, as_bytes, check_unchanged
from mergecore_lora.keys import PREFIX
from mergecore_lora.settings import CONFIG, WEIGHTS

REPORT = "mergecore_lora.json"
"""Report on how the adapter was created."""

CARD = """---
library_name: peft
{base}---
# {name}

A LoRA adapter created by mergecore-lora, {how}. See `{report}` for the error of each tensor.
"""

_NAMES = {name: key for key, name in TORCH_NAMES.items()}


class TensorFile:
    """A safetensors file whose tensors can be added one by one from any thread. It is assembled at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spool: BinaryIO = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115  closed by `close`
        self._places: dict[str, tuple[TensorInfo, int]] = {}
        self._factors: dict[str, tuple[int, int, int]] = {}
        """The axis of a factor with the rank, and the number of elements before and after the rank."""
        self._rank: int | None = None
        self._turn = threading.Lock()

    def add_factors(
        self, name: str, right: Tensor, left: Tensor, *, embedding: bool = False, matrices: int = 1
    ) -> None:
        """Save the factors of a low-rank change.

        Args:
            name: Name of the module or parameter in the base model.
            right: A (rank, in). For several matrices, (matrices · rank, in).
            left: B (out, rank). For several matrices, (out, rank · matrices).
            embedding: Whether the module is an embedding.
            matrices: Number of matrices that share the two factors.
        """
        names = [f"{name}.lora_embedding_{part}" if embedding else f"{name}.lora_{part}.weight" for part in "AB"]
        self._factors[PREFIX + names[0]] = (0, matrices, right.shape[1])
        self._factors[PREFIX + names[1]] = (1, left.shape[0], matrices)
        self.add(names[0], right)
        self.add(names[1], left)

    def fill_up(self, rank: int) -> None:
        """Write all factors with this rank, filled up with zeros, because few programs read several ranks."""
        self._rank = rank

    def add(self, name: str, tensor: Tensor) -> None:
        """Save a tensor under a name from the base model, with PEFT's prefix."""
        info = TensorInfo(_NAMES[str(tensor.dtype).removeprefix("torch.")], tuple(tensor.shape))
        data = as_bytes(tensor.contiguous().view(-1))
        with self._turn:
            self._places[PREFIX + name] = (info, self._spool.tell())
            self._spool.write(data)

    def rename(self, name: str, new: str) -> None:
        """Rename a saved tensor."""
        self._places[PREFIX + new] = self._places.pop(PREFIX + name)
        if factor := self._factors.pop(PREFIX + name, None):
            self._factors[PREFIX + new] = factor

    def finish(self) -> None:
        """Assemble the file in a deterministic order, so that the same tensors produce the same file."""
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, (stored, _) in sorted(
            self._places.items(), key=lambda item: (-ITEM_BYTES[item[1][0].dtype], item[0])
        ):
            info = TensorInfo(stored.dtype, self._shape(name, stored))
            header[name] = {"dtype": info.dtype, "shape": info.shape, "data_offsets": [end, end + info.nbytes]}
            end += info.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(self._path, "wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in list(header)[1:]:
                info, start = self._places[name]
                if self._shape(name, info) == info.shape:
                    self._copy(start, info.nbytes, out)
                else:
                    out.write(self._filled(name, info, start))

    def close(self) -> None:
        """Remove the tensors that are not in the assembled file."""
        self._spool.close()

    def _shape(self, name: str, info: TensorInfo) -> tuple[int, ...]:
        """Return the shape of a tensor in the assembled file."""
        if self._rank is None or name not in self._factors:
            return info.shape
        axis, before, after = self._factors[name]
        return (before, self._rank * after) if axis else (before * self._rank, after)

    def _filled(self, name: str, info: TensorInfo, start: int) -> memoryview:
        """Return a factor filled up with zeros to the rank of the file."""
        self._spool.seek(start)
        _, before, after = self._factors[name]
        assert self._rank is not None
        stored = torch.frombuffer(bytearray(self._spool.read(info.nbytes)), dtype=torch_dtype(info.dtype))
        stored = stored.view(before, -1, after)
        filled = stored.new_zeros(before, self._rank, after)
        filled[:, : stored.shape[1]] = stored
        return as_bytes(filled.view(-1))

    def _copy(self, start: int, count: int, out: BinaryIO) -> None:
        self._spool.seek(start)
        while count:
            data = self._spool.read(min(count, 2**24))
            out.write(data)
            count -= len(data)


def write_adapter(
    out: Path,
    inputs: Iterable[Path],
    stamps: Mapping[Path, Any],
    force: bool,
    fill: Callable[[TensorFile], tuple[Mapping[str, Any], Mapping[str, Any]]],
) -> Mapping[str, Any]:
    """Write an adapter's folder.

    Args:
        out: The folder, which is written atomically.
        inputs: Folders that it must not replace.
        stamps: Stamps of the files that it is computed from, which must not have changed.
        force: Replace the folder if it exists.
        fill: Function that adds the tensors and returns the adapter's config and the report.

    Returns:
        The report.

    Raises:
        InputError: The folder already exists, or another run is writing it.
        RunError: The folder cannot be written, or an input changed.
    """
    target, inputs = OutputFolder(out), list(inputs)
    target.check(inputs, 0, force)
    with target.hold():
        target.restore()
        target.check(inputs, 0, force)
        try:
            target.start()
            with closing(TensorFile(target.result / WEIGHTS[0])) as file:
                config, report = fill(file)
                file.finish()
            (target.result / CONFIG).write_text(json.dumps(config, indent=2) + "\n", "utf-8")
            names = PublicNames([str(report["base"]), *map(str, inputs)])
            text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
            (target.result / REPORT).write_text(names.text(text), "utf-8", errors="replace")
            (target.result / "README.md").write_text(names.text(_card(report, out)), "utf-8", errors="replace")
            check_unchanged(stamps)
            target.publish(force)
        except OSError as error:
            where = error.filename or target.partial
            raise RunError(f"{where}: {error.strerror or error}; fix this and run again") from error
        finally:
            target.clear()
    return report


def _card(report: Mapping[str, Any], out: Path) -> str:
    """Return the text of README.md. It names a base on the Hub only, because a folder's name means nothing there."""
    base = report["base"]
    line = f"base_model: {json.dumps(base)}\n" if base and not Path(os.path.expanduser(base)).exists() else ""
    return CARD.format(base=line, name=out.name, how=report["how"], report=REPORT)


def peft_config(
    base: str,
    task: str | None,
    ranks: Mapping[str, int],
    parameters: Mapping[str, int],
    every: Iterable[str],
    **rest: Any,
) -> Any:
    """Return the PEFT config of an adapter whose scale is 1 everywhere.

    Args:
        base: Reference of the base model.
        task: PEFT's task name for the class.
        ranks: Ranks by module.
        parameters: Ranks of the parameters that are direct targets.
        every: All modules of the model that could be targets, used to shorten target names.
        rest: Additional keys.
    """
    all_ranks = {**ranks, **parameters}
    counts = [*all_ranks.values()]
    usual = max(set(counts), key=lambda rank: (counts.count(rank), rank), default=8)
    others = {name: rank for name, rank in all_ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": base,
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": _targets(list(ranks), list(every)),
        "target_parameters": list(parameters) or None,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        **rest,
    }


def _targets(modules: list[str], every: list[str]) -> list[str]:
    """Shorten module names to their last part if all modules with that last part are targets."""
    chosen, found = set(modules), []
    for module in modules:
        last = module.rpartition(".")[2]
        alike = [other for other in every if other == last or other.endswith(f".{last}")]
        found.append(last if chosen.issuperset(alike) else module)
    return sorted(set(found))
