"""Merge LoRA files exactly, by concatenating their factors, and add them to checkpoints."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from mergecore.api import InputError, ModelError, TensorInfo, torch_dtype
from mergecore.api.files import TORCH_NAMES
from mergecore.tooling import Added, Checkpoint, Place, Recipe, parse_recipe, with_changes
from mergecore_raw.factors import Change, changes, has_factors

if TYPE_CHECKING:
    from torch import Tensor

SUMS = ("linear", "task_arithmetic")
"""Methods that only add up weighted changes."""

HELD = 4
"""Number of changes to keep in memory, because the pieces of a tensor are read one after the other."""

LABELS = {
    "unet": ("lora_unet_",), "transformer": ("lora_transformer_", "lora_unet_"),
    "text_encoder": ("lora_te_", "lora_te1_"), "text_encoder_2": ("lora_te2_",), "text_encoder_3": ("lora_te3_",),
}  # fmt: skip
"""What kohya's scripts put before the names of a component."""

HOMES = {
    "model.diffusion_model.": "unet", "diffusion_model.": "transformer",
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder", "conditioner.embedders.1.model.": "text_encoder_2",
    "conditioner.embedders.1.transformer.": "text_encoder_2",
}  # fmt: skip
"""The components of a checkpoint in a single file, by the start of their names."""


def are_lora_files(checkpoints: Mapping[str, Checkpoint]) -> bool:
    """Return whether the models of a recipe are LoRA files.

    Raises:
        InputError: only some of them are.
    """
    kinds = {name: has_factors(checkpoint.tensors) for name, checkpoint in checkpoints.items()}
    if any(kinds.values()) and not all(kinds.values()):
        lora, other = (next(name for name, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise InputError(
            f"{lora}: is a LoRA file, but {other} is not; to add it to a checkpoint, write CHECKPOINT+{lora}"
        )
    return any(kinds.values())


def merged_loras(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> tuple[Recipe, dict[str, Checkpoint]]:
    """Return the weighted sum of LoRA files as a model in memory, and a recipe that copies it.

    Raises:
        InputError: the method is not a weighted sum, or a file has changes that are not low-rank products.
    """
    try:
        held = Held(_merged_factors(recipe, checkpoints))
    finally:
        for checkpoint in checkpoints.values():
            checkpoint.close()
    first = next(iter(checkpoints.values()))
    stamps = {path: stamp for item in checkpoints.values() for path, stamp in item.stamps.items()}
    readers = dict.fromkeys(held.tensors, held)
    model = replace(first, tensors=held.tensors, readers=readers, files=(), stamps=stamps)
    value = {"merge_method": "passthrough", "models": [{"model": first.reference}]}
    return parse_recipe(Place(value), ""), {first.reference: model}


class Held:
    """A `mergecore.api.Reader` of tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        names = {f"torch.{name}": key for key, name in TORCH_NAMES.items()}
        self.tensors = {key: TensorInfo(names[str(t.dtype)], tuple(t.shape)) for key, t in tensors.items()}
        self._values = {key: tensor.contiguous().view(-1) for key, tensor in tensors.items()}

    def read(self, name: str, start: int, out: Tensor) -> None:
        """See `mergecore.api.Reader.read`."""
        out.copy_(self._values[name][start : start + len(out)])

    def close(self) -> None:
        """Do nothing."""


def _merged_factors(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Tensor]:
    """Return the tensors of the weighted sum. Its change is exactly the sum of the files' changes."""
    weights = _weights(recipe, list(checkpoints))
    found = {name: changes(item) for name, item in checkpoints.items()}
    result: dict[str, Tensor] = {}
    for place in dict.fromkeys(place for modules in found.values() for place in modules):
        there = [(weights[name], modules[place]) for name, modules in found.items() if place in modules]
        if all(change.is_low_rank for _, change in there):
            result.update(_concatenated(place[0], there))
        elif all(change.keys.keys() == {"diff"} for _, change in there):
            result.update(_summed(place[0], there))
        else:
            change = next(change for _, change in there if not change.is_low_rank)
            raise InputError(
                f"{change.source}: {change.module!r} is not a product of two matrices, so files like it cannot be"
                f" merged into one; add each to a checkpoint: CHECKPOINT+{change.source}"
            )
    return result


def _weights(recipe: Recipe, names: list[str]) -> dict[str, float]:
    """Return the factor of each file in the sum."""
    value = recipe.place.value
    if recipe.method not in SUMS or recipe.base_model or "models" not in value:
        raise recipe.place.child("merge_method").error(
            f"{recipe.method!r} works on whole weights, and LoRA files have only factors of changes; use linear, or add"
            " each file to a checkpoint: CHECKPOINT+LORA"
        )
    shared = value.get("parameters") or {}
    own = {item["model"]: {**shared, **(item.get("parameters") or {})} for item in value["models"]}
    weights = {}
    for name in names:
        weight = own.get(name, shared).get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise recipe.place_of(name).error("the weight of a LoRA file must be one number")
        weights[name] = float(weight)
    scale = float(shared.get("lambda", 1.0))
    if recipe.method == "linear" and shared.get("normalize", True):
        total = math.fsum(weights.values())
        if not total:
            raise recipe.place.error("the weights add up to 0 and cannot be normalized; set normalize: false")
        scale = 1 / total
    return {name: scale * weight for name, weight in weights.items()}


def _summed(module: str, there: list[tuple[float, Change]]) -> dict[str, Tensor]:
    """Return the sum of changes that are stored whole."""
    dense = [weight * change.load("diff") for weight, change in there]
    _check_same(module, [tensor.shape for tensor in dense], there)
    first = there[0][1]
    return {first.keys["diff"]: sum(dense[1:], dense[0]).to(_dtype(first, "diff"))}


def _check_same(module: str, shapes: Iterable[object], there: list[tuple[float, Change]]) -> None:
    if len(set(shapes)) > 1:
        sources = ", ".join(change.source for _, change in there)
        raise ModelError(f"{module}: has different shapes in {sources}; these files are for different models")


def _concatenated(module: str, there: list[tuple[float, Change]]) -> dict[str, Tensor]:
    """Return the tensors of a module's sum, with the keys of the first file that has it."""
    import torch

    ups, downs = [], []
    for weight, change in there:
        up, down = change.load("up"), change.load("down")
        ups.append(weight * change.scale(down.shape[0]) * up)
        downs.append(down)
    first = there[0][1]
    _check_same(module, [(up.shape[0], down.shape[1:]) for up, down in zip(ups, downs)], there)
    dtypes = {part: _dtype(first, part) for part in first.keys}
    result = {
        first.keys["up"]: torch.cat(ups, 1).to(dtypes["up"]),
        first.keys["down"]: torch.cat(downs).to(dtypes["down"]),
    }
    if "alpha" in first.keys:
        result[first.keys["alpha"]] = torch.tensor(float(result[first.keys["down"]].shape[0])).to(dtypes["alpha"])
    return result


def _dtype(change: Change, part: str) -> Any:
    return torch_dtype(change.file.tensors[change.keys[part]].dtype)


def with_lora(checkpoint: Checkpoint, lora: Checkpoint) -> Checkpoint:
    """Add the changes of a LoRA file to the weights of a checkpoint, when they are read.

    Raises:
        ModelError: the file has no factors, or a module that the checkpoint does not have.
    """
    if not has_factors(lora.tensors):
        raise ModelError(f"{lora.reference}: is not a LoRA file, so it cannot be added to {checkpoint.reference}")
    known = _spellings(checkpoint.tensors)
    placed: dict[str, Change] = {}
    missing = []
    for (module, of_bias), change in changes(lora).items():
        name = next((known[own] for own in _candidates(module) if own in known), None)
        name = f"{name.removesuffix('.weight')}.bias" if name and of_bias else name
        if name not in checkpoint.tensors:
            missing.append(module)
        else:
            placed[name] = change
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{lora.reference}: changes {missing[0]!r}{more}, which {checkpoint.reference} does not have under that"
            " name; was it trained for another model, or for this model in another layout?"
        )
    changed = with_changes(
        checkpoint, {name: Dense(change, name, checkpoint.tensors[name].shape) for name, change in placed.items()}
    )
    return replace(
        changed,
        files=[*checkpoint.files, *lora.files],
        stamps={**checkpoint.stamps, **lora.stamps},
        adapters=(*checkpoint.adapters, Added(lora.folder, "LoRA file", len(placed))),
    )


def _candidates(module: str) -> Iterator[str]:
    """Yield what the weight of a LoRA file's module can be called, without separators."""
    spelt = [module]
    if old := re.fullmatch(r"(.+)\.processor\.(\w+)_lora", module):  # diffusers before 2023, on attention processors
        spelt = [f"{old[1]}.{old[2]}.0", f"{old[1]}.{old[2]}"]
    for name in spelt:
        yield _plain(name)
        yield _plain(name.partition(".")[2])


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _spellings(names: Iterable[str]) -> dict[str, str]:
    """Return every name that a LoRA file can use for a weight's module, mapped to the weight."""
    found: dict[str, str] = {}
    for name in names:
        label, _, own = name.rpartition("/")
        stem = own.removesuffix(".weight")
        component = label.partition("/")[0]
        for start, home in HOMES.items():
            if stem.startswith(start):
                stem, component = stem.removeprefix(start), home
                break
        labels = LABELS.get(component) or ("lora_unet_", "lora_te_", "lora_transformer_")
        for start in ("", f"{component}_" if component else "", *labels):
            found.setdefault(_plain(start + stem), name)
        found.setdefault(_plain(own.removesuffix(".weight")), name)
    return found


@dataclass(frozen=True)
class Dense:
    """Adds the change of a module to a tensor. See `mergecore.api.Change`.

    Attributes:
        change: the change.
        name: the tensor.
        shape: its shape.
    """

    change: Change
    name: str
    shape: Sequence[int]

    def apply(self, start: int, values: Tensor, read: Callable[[int, Tensor], None]) -> None:
        """See `mergecore.api.Change.apply`."""
        dense = _dense(self.change)
        if dense.numel() != math.prod(self.shape) or dense.shape[0] != self.shape[0]:
            raise ModelError(
                f"{self.change.source}: the change of {self.change.module!r} has shape {list(dense.shape)}, but"
                f" {self.name!r} has {list(self.shape)}; was it trained for another model?"
            )
        values += dense.reshape(-1)[start : start + len(values)]


@lru_cache(maxsize=HELD)
def _dense(change: Change) -> Tensor:
    return change.dense()
