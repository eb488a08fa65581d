"""Convert checkpoints to the tensor names and the layout of one architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from mergecore.api import ITEM_BYTES, BytesReader, Reader, TensorInfo
from mergecore.api.memory import read_into
from mergecore.definitions import Architecture, Module, Weight, fill, first_of, numbers, with_keys, written_key
from mergecore.errors import ModelError
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.tied_weights import without_copies


@dataclass(frozen=True)
class Span:
    """A contiguous range of elements of a stored tensor."""

    tensor: str
    start: int
    elements: int


class LayoutReader(BytesReader):
    """A `mergecore.api.Reader` whose tensors are concatenated spans of the tensors of other readers."""

    def __init__(
        self, readers: Mapping[str, Reader], tensors: Mapping[str, TensorInfo], spans: Mapping[str, Sequence[Span]]
    ) -> None:
        self.tensors = tensors
        self._readers, self._spans = readers, spans

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        """See `mergecore.api.BytesReader.read_bytes`."""
        item = ITEM_BYTES[self.tensors[name].dtype]
        for span in self._spans[name]:
            count = min(span.elements - start, len(out) // item)
            if count > 0:
                read_into(self._readers[span.tensor], span.tensor, span.start + start, out[: count * item])
                out = out[count * item :]
            start = max(start - span.elements, 0)

    def parts(self, name: str) -> list[tuple[Reader, str, int]]:
        """Return the readers, tensors, and numbers of elements that a tensor is read from."""
        return [(self._readers[span.tensor], span.tensor, span.elements) for span in self._spans[name]]

    def close(self) -> None:
        """Close the files."""
        for reader in set(self._readers.values()):
            reader.close()


def rename_tensors(checkpoint: Checkpoint, definition: Architecture) -> tuple[Checkpoint, dict[str, str]]:
    """Rename tensors that the definition does not know, by replacing their prefix according to the definition.

    Also adjust counts in the config to the tensors that are stored, such as additional layers, and drop stored copies
    of tied weights.

    Returns:
        The checkpoint, and the prefixes that were replaced, mapped to their replacements.
    """
    checkpoint = _without_absent_layers(_completed(checkpoint, definition), definition)
    known = set(_labels(definition, checkpoint))
    names: dict[str, str] = {}
    used: dict[str, str] = {}
    for name in checkpoint.tensors:
        if name not in known:
            for there, here in definition.prefixes.items():
                there_too = here + name.removeprefix(there)
                if name.startswith(there) and there_too in known and there_too not in checkpoint.tensors:
                    names[name], used[there] = there_too, here
                    break
    if len(set(names.values())) < len(names):
        raise ModelError(f"{checkpoint.folder}: contains a weight under two names; download the checkpoint again")
    renamed = _viewed(checkpoint, names) if names else checkpoint
    unique, moved = without_copies(renamed, definition)
    return _viewed(unique, moved) if moved else unique, used


def _without_absent_layers(checkpoint: Checkpoint, definition: Architecture) -> Checkpoint:
    """Set the number of additional layers in the config to 0 if none are stored, as after fine-tuning."""
    changes = {}
    for module in definition.modules.values():
        if first_of(checkpoint.config, module.extra_key):
            prefix = module.prefix(module.counted(checkpoint.config, checkpoint.reference))
            if not any(name.startswith(prefix) for name in checkpoint.tensors):
                changes[written_key(checkpoint.config, module.extra_key)] = 0
    return replace(checkpoint, config=with_keys(checkpoint.config, changes)) if changes else checkpoint


def _completed(checkpoint: Checkpoint, definition: Architecture) -> Checkpoint:
    """Add missing counts to the config, because composite models can leave them to the defaults of their parts.

    Layers are counted by their names. For a model of another class, missing counts are 0.
    """
    config, counts = checkpoint.config, dict[str, int]()
    foreign = config.get("architectures") != [definition.name]
    for module in definition.modules.values():
        if module.layers_key and first_of(config, module.layers_key) is None:
            count = _count_layers(checkpoint, definition, module)
            if count or foreign:
                counts[written_key(config, module.layers_key)] = count
        for weight in (*module.before, *module.layer, *module.after):
            for keys in weight.each.values():
                if foreign and first_of(config, keys) is None:
                    counts[written_key(config, keys)] = 0
    return replace(checkpoint, config=with_keys(config, counts)) if counts else checkpoint


def _count_layers(checkpoint: Checkpoint, definition: Architecture, module: Module) -> int:
    starts = [("", ""), *definition.prefixes.items()]
    names = (here + name.removeprefix(there) for there, here in starts for name in checkpoint.tensors
             if name.startswith(there))  # fmt: skip
    pattern = re.compile(re.escape(module.layer_prefix).replace(r"\{layer\}", r"(\d+)"))
    return len({found[1] for name in names if (found := pattern.match(name))})


def _labels(definition: Architecture, checkpoint: Checkpoint) -> Iterator[str]:
    """Yield every name that a definition knows for a checkpoint with this config, in all layouts."""
    for stored in (EVERYTHING, frozenset[str]()):
        bound = definition.bind(checkpoint.config, checkpoint.reference, stored)
        yield from bound.labels(checkpoint.config, checkpoint.reference)


class _Everything(frozenset[str]):
    """A set of names that contains every name."""

    def __contains__(self, name: object) -> bool:
        return True


EVERYTHING = _Everything()


def _viewed(checkpoint: Checkpoint, names: Mapping[str, str]) -> Checkpoint:
    """Rename some tensors of a checkpoint."""
    tensors = {names.get(name, name): info for name, info in checkpoint.tensors.items()}
    spans = {names.get(name, name): [Span(name, 0, info.elements)] for name, info in checkpoint.tensors.items()}
    return with_layout(checkpoint, tensors, spans)


def with_layout(
    checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo], spans: Mapping[str, Sequence[Span]]
) -> Checkpoint:
    """Replace the tensors of a checkpoint by views of them."""
    views = LayoutReader(checkpoint.readers, tensors, spans)
    return replace(checkpoint, tensors=tensors, readers=dict.fromkeys(tensors, views))


@dataclass(frozen=True)
class Whole:
    """A tensor that other layouts store as parts. The parts are consecutive in its memory.

    Attributes:
        blocks: number of groups of parts that are stacked along the first axis. 0 if the parts are concatenated.
        examples: the names of the parts with a placeholder for the layer number.
    """

    name: str
    parts: tuple[str, ...]
    blocks: int
    examples: tuple[str, ...]


def convert_layout(
    checkpoint: Checkpoint, definition: Architecture, bound: Architecture, like: Checkpoint
) -> Checkpoint:
    """Convert a checkpoint to the layout of another, by splitting fused tensors or joining split ones.

    Args:
        checkpoint: the checkpoint, with the names of the definition.
        definition: the unbound definition, which has the `parts` of its weights.
        bound: the definition bound to `like`.
        like: the checkpoint with the target layout.

    Raises:
        ModelError: if the size of a tensor does not match its parts.
    """
    tensors, spans = dict(checkpoint.tensors), dict[str, list[Span]]()

    def spans_of(name: str) -> list[Span]:
        return spans.pop(name, None) or [Span(name, 0, checkpoint.tensors[name].elements)]

    for key, module in definition.modules.items():
        for whole in _wholes(module, bound.modules[key], checkpoint, tensors):
            if whole.name not in tensors:
                if all(part in tensors for part in whole.parts):
                    tensors[whole.name] = _joined(whole, [tensors.pop(part) for part in whole.parts])
                    spans[whole.name] = [span for part in whole.parts for span in spans_of(part)]
            else:
                info, start = tensors.pop(whole.name), 0
                for part, piece in zip(whole.parts, _cut(whole, info, module, checkpoint, like)):
                    tensors[part], spans[part] = piece, [Span(whole.name, start, piece.elements)]
                    start += piece.elements
    if tensors.keys() == checkpoint.tensors.keys():
        return checkpoint
    return with_layout(checkpoint, tensors, {name: spans_of(name) for name in tensors})


def join_parts(checkpoint: Checkpoint, definition: Architecture) -> tuple[Checkpoint, Architecture]:
    """Join all weights of a checkpoint that are stored in parts. It must have the names of the definition."""
    bound = definition.bind(checkpoint.config, checkpoint.reference, EVERYTHING)
    return convert_layout(checkpoint, definition, bound, checkpoint), bound


def _wholes(
    module: Module, bound: Module, checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo]
) -> Iterator[Whole]:
    """Yield every weight with parts that is either in `tensors` or in the target layout `bound`, but not in both.

    The counts are those in the checkpoint's config.
    """
    outside = {weight.name for weight in (*bound.before, *bound.after)}
    inside = {weight.name for weight in bound.layer}
    places = [("", "", (*module.before, *module.after), outside)]
    for index in range(module.layer_count(checkpoint.config, checkpoint.reference)):
        places.append((module.prefix(index), module.layer_prefix, module.layer, inside))
    for prefix, pattern, weights, wanted in places:
        for weight in weights:
            if weight.parts:
                for values, whole in _as_wholes(weight, prefix, pattern, checkpoint):
                    name = fill(weight.name, values)
                    if (name in wanted) is not (prefix + name in tensors):
                        yield whole()


def _as_wholes(
    weight: Weight, prefix: str, pattern: str, checkpoint: Checkpoint
) -> Iterator[tuple[Mapping[str, int], Callable[[], Whole]]]:
    """Yield the numbers in the name of each whole tensor of a weight, and a function that lists its parts."""
    counts = {word: weight.count(word, checkpoint.config, checkpoint.reference) for word in weight.each}
    outer = [word for word in counts if f"{{{word}}}" in weight.name]
    inner = {word: count for word, count in counts.items() if word not in outer}

    def made(values: Mapping[str, int]) -> Whole:
        blocks = list(numbers(inner))
        parts = [fill(part, {**values, **block}) for block in blocks for part in weight.parts]
        return Whole(
            prefix + fill(weight.name, values),
            tuple(prefix + part for part in parts),
            len(blocks) if inner else 0,
            tuple(pattern + part for part in parts),
        )

    for values in numbers({word: counts[word] for word in outer}):
        yield values, partial(made, values)


def _joined(whole: Whole, infos: Sequence[TensorInfo]) -> TensorInfo:
    """Return dtype and shape of a joined tensor. Rows are concatenated per block, and blocks are stacked."""
    in_block = len(infos) // (whole.blocks or 1)
    rows = sum(info.shape[0] for info in infos[:in_block])
    shape = (rows, *infos[0].shape[1:])
    alike = {(info.dtype, info.shape[1:]) for info in infos}
    total = sum(info.elements for info in infos)
    info = replace(infos[0], shape=(whole.blocks, *shape) if whole.blocks else shape)
    if len(alike) > 1 or info.elements != total:
        raise ModelError(f"parts like {whole.parts[0]} cannot be joined to {whole.name}: their shapes differ")
    return info


def _cut(
    whole: Whole, info: TensorInfo, module: Module, checkpoint: Checkpoint, like: Checkpoint
) -> Iterator[TensorInfo]:
    """Yield dtype and shape of a tensor's parts, with the shapes from the checkpoint that has the target layout."""
    layers = range(module.layer_count(like.config, like.reference))
    found = []
    for example in whole.examples:
        names = (fill(example, {"layer": index}) for index in layers) if "{layer}" in example else iter([example])
        found.append(next((like.tensors[name].shape for name in names if name in like.tensors), None))
    shapes = [shape for shape in found if shape is not None]
    if len(shapes) < len(found) or sum(map(math.prod, shapes)) != info.elements:
        raise ModelError(
            f"{checkpoint.folder}: {whole.name!r} {list(info.shape)} cannot be split into parts like {whole.parts[0]!r}"
            f" as in {like.reference}; the models have different shapes"
        )
    return (replace(info, shape=shape) for shape in shapes)
