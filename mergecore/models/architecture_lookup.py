"""Find a model's architecture in the recipe's files, a folder, or installed packages, or infer it from headers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergecore.api import TensorInfo
from mergecore.definitions import (
    Architecture,
    Weight,
    class_name,
    extra_counts,
    get_key,
    infer_definition,
    is_extra,
    is_ignored,
    leaves,
    parse_definition,
    with_keys,
)
from mergecore.discovery import Registry, known_plugins
from mergecore.errors import MergecoreError, ModelError
from mergecore.models.checkpoint import Checkpoint
from mergecore.models.layout_reader import convert_layout, rename_tensors
from mergecore.models.sentence_modules import check_modules
from mergecore.models.tied_weights import tied_heads

LAYER = re.compile(r".*?\.\d+\.")
"""Start of the name of a weight in a layer."""


def find_architecture(
    checkpoint: Checkpoint, registry: Registry, own: Mapping[str, Any], others: Sequence[Checkpoint] = ()
) -> tuple[Architecture, list[str]]:
    """Find the architecture of a checkpoint. Return it with notes about where it comes from.

    Args:
        checkpoint: the checkpoint, whose config.json names its class.
        registry: the plugins.
        own: definitions that take precedence over all others.
        others: models of the same recipe. If the architecture is inferred, it includes weights that only these have and
            that the class ignores when it loads a model.
    """
    name = class_name(checkpoint.config, str(checkpoint.folder))
    kinds = [value for key, value in leaves(checkpoint.config) if key.split(".")[-1] == "model_type"]
    for label in (*(f"{name}/{kind}" for kind in kinds), name):
        definition = own.get(label) or registry.definitions.get(label) or registry.provide("architectures", label)
        if definition is not None:
            return _with_modules(parse_definition(name, definition, f"for {checkpoint.folder}"), checkpoint), []
    alike = [other for other in others if other.config.get("architectures") == checkpoint.config.get("architectures")]
    extra = {
        key: info
        for other in alike
        for key, info in other.tensors.items()
        if key not in checkpoint.tensors and (is_ignored(other.config, key) or is_extra(other.config, key))
    }
    counts = {key: count for other in alike for key, count in extra_counts(other.config).items()}
    missing = {key: count for key, count in counts.items() if get_key(checkpoint.config, key) is None}
    whole = replace(checkpoint, config=with_keys(checkpoint.config, missing))
    return infer_architecture(whole, name, extra)


def _with_modules(architecture: Architecture, checkpoint: Checkpoint) -> Architecture:
    """Add the weights of the modules of a sentence-transformers model. Models without modules do not have them."""
    names = sorted(filter(checkpoint.in_module, checkpoint.tensors))
    if not names:
        return architecture
    modules = dict(architecture.modules)
    last = next(reversed(modules))
    after = (*modules[last].after, *(Weight(name, optional=True) for name in names))
    return replace(architecture, modules={**modules, last: replace(modules[last], after=after)})


def infer_architecture(
    checkpoint: Checkpoint, name: str, extra: Mapping[str, TensorInfo] | None = None
) -> tuple[Architecture, list[str]]:
    """Infer the architecture of a checkpoint from its headers and config. Return it with a note that says so.

    `extra` contains more tensors that the class can have.
    """
    own = {key: info for key, info in checkpoint.tensors.items() if not checkpoint.in_module(key)}
    definition = infer_definition(checkpoint.config, {**own, **(extra or {})})
    architecture = replace(parse_definition(name, definition, f"inferred from {checkpoint.folder}"), inferred=True)
    stacks = [module for module in architecture.modules.values() if module.layers_key]
    seen = ", ".join(
        f"{module.layer_count(checkpoint.config, checkpoint.reference)} layers in {module.layer_prefix!r}"
        for module in stacks
    )
    package = known_plugins().get("architectures", {}).get(name)
    hint = f"; to install its definition: pip install {package}" if package else ""
    architecture = _with_modules(architecture, checkpoint)
    return architecture, [f"{name}: no definition is installed, so its weights are inferred from the headers"
                          f" ({seen or 'no separate layers'}){hint}"]  # fmt: skip


def fit_checkpoints(
    own: Mapping[str, Any], registry: Registry, checkpoints: Sequence[Checkpoint], config_source: int
) -> tuple[Architecture, list[Checkpoint], list[str]]:
    """Find the architecture of the output, and convert all checkpoints to its names and the config source's layout.

    Args:
        own: definitions that come before all others, such as the recipe's.
        registry: the plugins.
        checkpoints: the models.
        config_source: position of the model whose class the output has.

    Raises:
        ArchitectureError: if there is no class name, or a definition is invalid.
        ModelError: if a checkpoint cannot be converted to the layout, or sentence-transformers models have different
            modules.
    """
    _check_modules(checkpoints, config_source)
    definition, notes = find_architecture(checkpoints[config_source], registry, own, checkpoints)
    kept, used = rename_tensors(checkpoints[config_source], definition)
    bound = definition.bind(kept.config, kept.reference, kept.tensors)
    fitted = []
    for index, checkpoint in enumerate(checkpoints):
        item, prefixes = (kept, used) if index == config_source else _renamed(checkpoint, definition, kept)
        fitted.append(item if index == config_source else convert_layout(item, definition, bound, kept))
        for there, here in prefixes.items():
            begin = f"name prefix {there!r} is replaced by {here!r}" if there else f"prefix {here!r} is added to names"
            notes.append(f"{checkpoint.reference}: {begin}")
        if fitted[-1].tensors.keys() != item.tensors.keys():
            notes.append(f"{checkpoint.reference}: converted to the layout of {kept.reference}")
    return bound, fitted, notes


def contains(own: Mapping[str, Any], registry: Registry, whole: Checkpoint, part: Checkpoint) -> bool:
    """Return whether a model of another class, or with modules, has every weight of a model, and others elsewhere.

    Args:
        own: definitions that come before all others, such as the recipe's.
        registry: the plugins.
        whole: the model that can contain the other, such as a vision-language model, or a model with a head.
        part: the model that can be a part of it.
    """
    more_modules = whole.modules and not part.modules
    if whole.config.get("architectures") == part.config.get("architectures") and not more_modules:
        return False
    try:
        definition, _ = find_architecture(whole, registry, own)
        kept, _ = rename_tensors(whole, definition)
        item, _ = _renamed(part, definition, kept)
        labels = set(definition.bind(kept.config, kept.reference, kept.tensors).labels(kept.config, kept.reference))
    except MergecoreError:  # reported when the models are matched
        return False
    known = _known_shapes(definition, kept)
    if any(known.get(name, info.shape) != info.shape or name not in labels for name, info in item.tensors.items()):
        return False
    layers = {match[0] for match in map(LAYER.match, item.tensors) if match}
    if any(name not in item.tensors and name.startswith(tuple(layers)) for name in kept.tensors):
        return False  # another kind of layer
    # A tied head is not stored, so only the prefix of the names shows which of two models has a head.
    sizes = [(len(names), sum(map(len, names))) for names in (kept.tensors, part.tensors)]
    return sizes[0] > sizes[1]


def _renamed(checkpoint: Checkpoint, definition: Architecture, kept: Checkpoint) -> tuple[Checkpoint, dict[str, str]]:
    """Rename the tensors of a model to those of the config source, if they fit into it. See `rename_tensors`."""
    item, prefixes = rename_tensors(checkpoint, definition)
    if found := _fitting_prefixes(item, definition, kept):
        return rename_tensors(checkpoint, replace(definition, prefixes={**found, **definition.prefixes}))
    return item, prefixes


def _known_shapes(definition: Architecture, kept: Checkpoint) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's weights by name, with heads that are not stored because they are tied."""
    heads = tied_heads(definition, kept)
    return {name: kept.tensors[heads.get(name, name)].shape for name in (*kept.tensors, *heads)}


def _fitting_prefixes(renamed: Checkpoint, definition: Architecture, kept: Checkpoint) -> dict[str, str]:
    """Return the prefixes to replace so that a definition knows the weights of a model that the config source contains.

    A language model fits into a model that contains it if replacing prefixes gives every weight the name of a weight of
    the same shape.

    Args:
        renamed: the model, with the names of the definition where it knows them.
        definition: the definition of the config source.
        kept: the config source.
    """
    if renamed.config.get("architectures") == kept.config.get("architectures"):
        return {}
    known = _known_shapes(definition, kept)
    waiting = {name: info.shape for name, info in renamed.tensors.items() if name not in known}
    found: dict[str, str] = {}
    while waiting:
        name = max(waiting, key=lambda name: name.count("."))  # a name in a layer says most
        rules = {rule for other in known if (rule := _rule(name, other))}
        fits = {rule: _fitting(rule, waiting, known) for rule in rules}
        most = max(map(len, fits.values()), default=0)
        best = [rule for rule in rules if len(fits[rule]) == most]
        if not most or len(best) > 1:
            return {}
        found.update(best)
        waiting = {name: shape for name, shape in waiting.items() if name not in fits[best[0]]}
    return found


def _rule(name: str, other: str) -> tuple[str, str] | None:
    """Return the prefix to replace in a name, and its replacement, to get another name that ends alike."""
    ours, theirs = name.split("."), other.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    if name.count(".") - len(ours) < 1 or any(part.isdigit() for part in (*ours, *theirs)):
        return None
    return "".join(f"{part}." for part in ours), "".join(f"{part}." for part in theirs)


def _fitting(rule: tuple[str, str], names: Mapping[str, Sequence[int]], known: Mapping[str, Sequence[int]]) -> set[str]:
    """Return the names that become those of weights of the same shape."""
    there, here = rule
    renamed = {name: here + name.removeprefix(there) for name in names if name.startswith(there)}
    return {name for name, target in renamed.items() if known.get(target) == names[name]}


def _check_modules(checkpoints: Sequence[Checkpoint], config_source: int) -> None:
    """Check that sentence-transformers models have the same modules. Other models do not restrict them."""
    kept = checkpoints[config_source]
    for other in checkpoints:
        if other.modules and kept.modules:
            check_modules(other.reference, other.modules, kept.reference, kept.modules)
            for one, two in ((kept, other), (other, kept)):
                if name := next((name for name in filter(one.in_module, one.tensors) if name not in two.tensors), None):
                    raise ModelError(
                        f"{two.reference}: has no tensor {name!r}, but {one.reference} has; download it again"
                    )
        elif (name := next(filter(other.in_module, other.tensors), None)) and other is not kept:
            module = name.partition("/")[0]
            raise ModelError(
                f"{other.reference}: has the trained module {module}, but {kept.reference}, which supplies the other"
                f" files, is not a sentence-transformers model; make {other.reference} the base or first model"
            )


@dataclass(frozen=True)
class Findings:
    """The result of comparing an architecture with a checkpoint: tensors that the architecture does not know, required
    weights that are missing, and optional weights that are absent."""

    unknown: list[str]
    missing: list[str]
    absent: list[str]


def compare_names(definition: Architecture, checkpoint: Checkpoint) -> Findings:
    """Compare the weight names of an architecture with those of a checkpoint."""
    checkpoint, _ = rename_tensors(checkpoint, definition)
    bound = definition.bind(checkpoint.config, checkpoint.reference, frozenset(checkpoint.tensors))
    weights = list(bound.weights(checkpoint.config, checkpoint.reference))
    known = {name for weight in weights for name in (weight.name, *weight.aliases)}
    lacking = [w for w in weights if not any(name in checkpoint.tensors for name in (w.name, *w.aliases))]
    return Findings(
        unknown=sorted(set(checkpoint.tensors) - known),
        missing=[weight.name for weight in lacking if not weight.may_lack],
        absent=[weight.name for weight in lacking if weight.may_lack],
    )
