"""Pair the tensors of a fine-tune and its base, with their names in transformers and their kinds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from mergecore.api import FLOATS, ModelError, TensorInfo, torch_dtype
from mergecore.tooling import (
    Architecture,
    Checkpoint,
    Registry,
    find_architecture,
    join_parts,
    open_model,
    rename_tensors,
    tied_heads,
)

EMBEDDING = re.compile(r"(^|[._])(w[tp]e|\w*emb(ed)?(ding)?s?(_\w+)?|relative_attention_bias|\w*position\w*)\.weight$")
"""Names of embedding weights that do not hold tokens."""

ROUTER = re.compile(r"(^|\.)(gate|router|layer|classifier)\.weight$")
"""Names of router weights in layers with experts. Their modules have many classes, and PEFT does not adapt them."""

PIECE = 2**22
"""Number of elements of the base to read at a time."""


class Kind(str, Enum):
    """The kinds of tensors that an adapter distinguishes."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    HEAD = "head"
    BIAS = "bias"
    EXPERTS = "experts"
    OTHER = "other"
    """The weight of a module without a low-rank form: a norm, a convolution, a router, or positions."""
    LOOSE = "loose"
    """A parameter that is not the weight or bias of a separate module."""


@dataclass(frozen=True)
class Entry:
    """A tensor that both models have.

    Attributes:
        name: Name in transformers.
        kind: Kind of tensor.
        finetune, base: Names of the tensor in the two models. For a tied head, the name of its embedding.
        info: Shape and dtype. Covers the rows of the base, and rows that only the fine-tune has if they are saved.
        transposed: Whether a linear layer is stored as (in, out).
        matrices: Whether the tensor holds one linear layer per expert along its first axis.
        grown: Whether the tensor has rows for tokens that the base does not have.
    """

    name: str
    kind: Kind
    finetune: str
    base: str
    info: TensorInfo
    transposed: bool = False
    matrices: bool = False
    grown: bool = False

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Pair:
    """An opened fine-tune and its base, which must be closed.

    Attributes:
        entries: The tensors of both models.
        tied: Names in transformers of the heads that are tied in both models, by the name of the embedding.
    """

    finetune: Checkpoint
    base: Checkpoint
    entries: tuple[Entry, ...]
    tied: Mapping[str, str]

    def close(self) -> None:
        self.finetune.close()
        self.base.close()

    def difference(self, entry: Entry) -> Tensor:
        """Return fine-tune - base in float32, in the entry's shape. Rows missing from the base count as 0."""
        values = self.value(entry).to(torch.float32)
        info = self.base.tensors[entry.base]
        buffer = torch.empty(min(PIECE, info.elements), dtype=torch_dtype(info.dtype))
        flat = values.view(-1)[: info.elements]
        for start in range(0, flat.numel(), PIECE):
            piece = buffer[: flat.numel() - start]
            self.base.read(entry.base, start, piece)
            flat[start : start + PIECE] -= piece
        return values

    def value(self, entry: Entry) -> Tensor:
        """Return the fine-tune's tensor in its stored dtype, in the entry's shape."""
        dtype = self.finetune.tensors[entry.finetune].dtype
        out = torch.empty(entry.info.shape, dtype=torch_dtype(dtype))
        self.finetune.read(entry.finetune, 0, out.view(-1))
        return out


def open_pair(finetune: str, base: str, registry: Registry, added: str) -> Pair:
    """Open a fine-tune and its base.

    Args:
        finetune, base: Model references. The base's class determines what the tensors are.
        registry: The plugins.
        added: How to handle rows that only the fine-tune has: ``refuse``, ``drop``, or ``save``.

    Raises:
        ModelError: The two models do not have the same tensors.
    """
    first = open_model(finetune, registry)
    try:
        second = open_model(base, registry)
        try:
            return _paired(first, second, registry, added)
        except BaseException:
            second.close()
            raise
    except BaseException:
        first.close()
        raise


def _paired(finetune: Checkpoint, base: Checkpoint, registry: Registry, added: str) -> Pair:
    definition, _ = find_architecture(base, registry, {})
    ours, bound = join_parts(rename_tensors(finetune, definition)[0], definition)
    theirs, _ = join_parts(rename_tensors(base, definition)[0], definition)
    heads = [tied_heads(bound, checkpoint) for checkpoint in (ours, theirs)]
    names = [{**{name: name for name in c.tensors}, **head} for c, head in zip((ours, theirs), heads)]
    for name in sorted(names[0].keys() ^ names[1].keys()):
        has, lacks = (ours, theirs) if name in names[0] else (theirs, ours)
        raise ModelError(f"{has.folder}: has {name!r}, but {lacks.folder} does not; use a fine-tune and its own base")
    both_tied = heads[0].keys() & heads[1].keys()
    placed = _places(bound)
    entries = []
    for name in names[1].keys() - both_tied:
        pair = ours.tensors[names[0][name]], theirs.tensors[names[1][name]]
        kind, shown = placed.get(name) or (_kind(name, pair[1], theirs), name)
        entry = Entry(shown, kind, names[0][name], names[1][name], pair[1])
        entries.append(_sized(entry, *pair, ours, theirs, added))
    entries.sort(key=lambda entry: entry.name)
    tied = {heads[1][name]: placed[name][1] for name in both_tied if name in placed}
    return Pair(ours, theirs, tuple(_turned(entries)), tied)


HEAD = "lm_head.weight"
"""The name of every language model's head in transformers, regardless of its name in checkpoints."""


def _places(bound: Architecture) -> dict[str, tuple[Kind, str]]:
    """Return the kind and name of embeddings and heads: weights with one row per token before or after the layers."""
    found = {}
    for module in bound.modules.values():
        for kind, weights in ((Kind.EMBEDDING, module.before), (Kind.HEAD, module.after)):
            for weight in weights:
                names = (weight.name, *weight.aliases)
                if weight.vocabulary_axis == 0 and weight.name.endswith(".weight"):
                    found.update({name: (kind, HEAD if HEAD in names else name) for name in names})
    return found


def _kind(name: str, info: TensorInfo, base: Checkpoint) -> Kind:
    axes = len(info.shape)
    if name.endswith(".weight"):
        experts = any(".experts" in other or "_experts" in other for other in base.tensors)
        router = experts and ROUTER.search(name) and not name.startswith("classifier")
        other = router or EMBEDDING.search(name) or "norm" in name.split(".")[-2]
        return Kind.LINEAR if axes == 2 and not other else Kind.OTHER
    if name.endswith(".bias"):
        return Kind.BIAS
    return Kind.EXPERTS if ".experts" in f".{name}" or "experts." in name else Kind.LOOSE


def _sized(
    entry: Entry, ours: TensorInfo, theirs: TensorInfo, finetune: Checkpoint, base: Checkpoint, added: str
) -> Entry:
    if ours.shape == theirs.shape and (ours.dtype in FLOATS) is (theirs.dtype in FLOATS):
        return entry
    shapes = f"{list(ours.shape)} in {finetune.reference}, {list(theirs.shape)} in {base.reference}"
    tokens = entry.kind in (Kind.EMBEDDING, Kind.HEAD) and ours.dtype in FLOATS
    if tokens and ours.shape[1:] == theirs.shape[1:] and ours.shape[0] > theirs.shape[0]:
        if added == "refuse":
            raise ModelError(
                f"{entry.name}: {shapes}: the fine-tune has added tokens; pass --added-tokens save to store the whole"
                " tensor (resize the base before loading the adapter), or --added-tokens drop to discard them"
            )
        return replace(entry, info=ours, grown=True) if added == "save" else entry
    raise ModelError(f"{entry.name}: {shapes}; use a fine-tune and its own base")


def _turned(entries: list[Entry]) -> Iterator[Entry]:
    """Yield the entries, marking linear layers stored as (in, out) by comparing their shapes with the biases."""
    biases = {entry.module: entry.info.shape for entry in entries if entry.kind is Kind.BIAS}
    outputs = {entry.name: biases[entry.module][0] for entry in entries if entry.module in biases}
    shapes = {e.name: e.info.shape for e in entries if e.kind is Kind.LINEAR and e.name in outputs}
    seen = {name for name, shape in shapes.items() if shape[0] != shape[1] and shape[1] == outputs[name]}
    straight = {name for name, shape in shapes.items() if shape[0] != shape[1] and shape[0] == outputs[name]}
    for entry in entries:
        square = entry.name in shapes and entry.info.shape[0] == entry.info.shape[1]
        turned = entry.name in seen or (square and len(seen) > len(straight))
        yield replace(entry, transposed=True) if turned else entry
