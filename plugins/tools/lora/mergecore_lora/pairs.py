"""A fine-tune beside its base: the same tensors under the names that they have in transformers, and of what kind."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import torch
from torch import Tensor

from mergecore.api import FLOATS, ModelError, TensorInfo, torch_dtype
from mergecore.definitions.definition import Architecture
from mergecore.discovery.registry import Registry
from mergecore.models.adapters import open_model, tied_heads
from mergecore.models.architecture_lookup import find
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.layout_reader import as_whole, renamed

EMBEDDING = re.compile(r"(^|[._])(w[tp]e|\w*emb(ed)?(ding)?s?(_\w+)?|relative_attention_bias|\w*position\w*)\.weight$")
"""How the weights of embeddings are called that do not hold tokens."""

ROUTER = re.compile(r"(^|\.)(gate|router|layer|classifier)\.weight$")
"""How the weights of routers are called, in layers with experts: modules of many classes, which PEFT leaves alone."""

PIECE = 2**22
"""Elements of the base that are read at a time."""


class Kind(str, Enum):
    """What a tensor is to an adapter."""

    LINEAR = "linear"
    EMBEDDING = "embedding"
    HEAD = "head"
    BIAS = "bias"
    EXPERTS = "experts"
    OTHER = "other"
    """The weight of a module that has no low-rank form here: a norm, a convolution, a router, positions."""
    LOOSE = "loose"
    """A parameter that is not the weight or bias of a module of its own."""


@dataclass(frozen=True)
class Entry:
    """A tensor of both models.

    Attributes:
        name: in transformers.
        kind: what it is to an adapter.
        finetune, base: the tensors' names in the two models; a tied head's is its embedding's.
        info: of the rows that count: all of the base's, and those that only the fine-tune has where they are saved.
        transposed: whether a linear layer stores (in, out).
        matrices: whether it holds a linear layer for each expert, along its first axis.
        grown: whether it has rows for tokens that the base lacks.
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
    """A fine-tune and its base, opened; close both.

    Attributes:
        entries: their tensors.
        tied: the heads that are an embedding in both, as transformers calls them, by the embedding's name.
    """

    finetune: Checkpoint
    base: Checkpoint
    entries: tuple[Entry, ...]
    tied: Mapping[str, str]

    def close(self) -> None:
        self.finetune.close()
        self.base.close()

    def difference(self, entry: Entry) -> Tensor:
        """fine-tune - base in float32, of the entry's shape; rows that the base lacks count as 0 there."""
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
        """The fine-tune's tensor as it is read, of the entry's shape."""
        dtype = self.finetune.tensors[entry.finetune].dtype
        out = torch.empty(entry.info.shape, dtype=torch_dtype(dtype))
        self.finetune.read(entry.finetune, 0, out.view(-1))
        return out


def open_pair(finetune: str, base: str, registry: Registry, added: str) -> Pair:
    """Open a fine-tune and its base.

    Args:
        finetune, base: model references; the base's class says what the tensors are.
        registry: the plugins.
        added: what becomes of rows that only the fine-tune has: ``refuse``, ``drop`` or ``save``.

    Raises:
        ModelError: the two do not have the same tensors.
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
    definition, _ = find(base, registry, {})
    ours, bound = as_whole(renamed(finetune, definition)[0], definition)
    theirs, _ = as_whole(renamed(base, definition)[0], definition)
    heads = [tied_heads(bound, checkpoint) for checkpoint in (ours, theirs)]
    names = [{**{name: name for name in c.tensors}, **head} for c, head in zip((ours, theirs), heads)]
    for name in sorted(names[0].keys() ^ names[1].keys()):
        has, lacks = (ours, theirs) if name in names[0] else (theirs, ours)
        raise ModelError(f"{has.folder}: has {name!r}, which {lacks.folder} lacks; give a fine-tune and its own base")
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
"""What transformers calls the head of every language model, whatever checkpoints call it."""


def _places(bound: Architecture) -> dict[str, tuple[Kind, str]]:
    """The embeddings and heads: weights with one row a token, before the layers and after them, as they are called."""
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
                f"{entry.name}: {shapes}: the fine-tune has added tokens; --added-tokens save stores all rows whole,"
                " for a base that is resized before the adapter is loaded, and --added-tokens drop leaves them out"
            )
        return replace(entry, info=ours, grown=True) if added == "save" else entry
    raise ModelError(f"{entry.name}: {shapes}; give a fine-tune and its own base")


def _turned(entries: list[Entry]) -> Iterator[Entry]:
    """The entries, with linear layers that store (in, out) marked: a bias has one element for each output."""
    biases = {entry.module: entry.info.shape for entry in entries if entry.kind is Kind.BIAS}
    outputs = {entry.name: biases[entry.module][0] for entry in entries if entry.module in biases}
    shapes = {e.name: e.info.shape for e in entries if e.kind is Kind.LINEAR and e.name in outputs}
    seen = {name for name, shape in shapes.items() if shape[0] != shape[1] and shape[1] == outputs[name]}
    straight = {name for name, shape in shapes.items() if shape[0] != shape[1] and shape[0] == outputs[name]}
    for entry in entries:
        square = entry.name in shapes and entry.info.shape[0] == entry.info.shape[1]
        turned = entry.name in seen or (square and len(seen) > len(straight))
        yield replace(entry, transposed=True) if turned else entry
