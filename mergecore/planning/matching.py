"""Find the input tensors of each output weight, and check that every input tensor is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mergecore.api import DeltaMethod, Method
from mergecore.definitions import Module, Weight
from mergecore.errors import ModelError
from mergecore.models import Checkpoint, source_name, stored_name
from mergecore.planning.layer_stacks import LayerStacks, Stack
from mergecore.recipes import ModuleRecipe, Slice, Source


class Part(NamedTuple):
    """One source's contribution to an output weight."""

    model: int
    tensor: str
    weight: Weight
    source: Source


class Match(NamedTuple):
    """An output weight, its inputs, and the part of the recipe that defines them.

    Attributes:
        weight: the weight, with its name in the output.
        parts: inputs in recipe order. A base that the method treats separately comes first.
        lacking: source models that do not have this optional weight.
        has_base: True if `parts[0]` is a base that the method treats separately.
        lacks_base: True if there should be such a base, but it does not have this optional weight.
        t: relative position in the layers of the slice, from 0 to 1. 0 outside the layers.
        alone: True if no other model of the recipe has this module of the architecture.
    """

    weight: Weight
    parts: tuple[Part, ...]
    lacking: tuple[str, ...]
    has_base: bool
    lacks_base: bool
    t: float
    slice: Slice
    module: ModuleRecipe
    alone: bool

    def subtracts(self, method: type[Method]) -> bool:
        """Return True if the method gets differences from `parts[0]` instead of `parts[0]`."""
        return self.has_base and issubclass(method, DeltaMethod)


@dataclass(frozen=True)
class Matcher(LayerStacks):
    """Finds the inputs of every output weight of a recipe."""

    left_out: list[str] = field(default_factory=list)
    """Weights that the class ignores when it loads a model, and that too few models have to be merged."""

    def matches(self, module: Module, recipe: ModuleRecipe, stacks: Sequence[Stack]) -> Iterator[Match]:
        """Yield every output weight of a module in order: before the layers, each slice's layers, after the layers."""
        yield from self._outside(module.before, recipe, stacks[0])
        layer = 0
        for stack in stacks:
            for k in range(stack.layers):
                inputs = [module.in_layer(start + k) for start, _ in stack.ranges]
                self._check_groups(inputs, stack)
                t = k / (stack.layers - 1) if stack.layers > 1 else 1.0
                for index, weight in enumerate(module.in_layer(layer)):
                    yield from self._match(weight, [weights[index] for weights in inputs], recipe, stack, t)
                layer += 1
        yield from self._outside(module.after, recipe, [stack for stack in stacks if not stack.extra][-1])

    def _check_groups(self, inputs: Sequence[Sequence[Weight]], stack: Stack) -> None:
        """Check that a layer has either all or none of the optional weights in a group."""
        for model, weights in zip(stack.models, inputs):
            checkpoint = self.checkpoints[model]
            first: dict[str, tuple[Weight, bool]] = {}
            for weight in weights:
                if weight.group is None:
                    continue
                there = stored_name(checkpoint, weight) is not None
                other = first.setdefault(weight.group, (weight, there))
                if other[1] != there:
                    lacking, present = (other[0], weight) if there else (weight, other[0])
                    raise ModelError(
                        f"{checkpoint.folder}: has tensor {present.name!r} but not {lacking.name!r}, although"
                        f" {self.architecture.name} needs both together; download the complete checkpoint"
                    )

    def _outside(self, weights: Sequence[Weight], recipe: ModuleRecipe, stack: Stack) -> Iterator[Match]:
        """Match the weights outside the layers. A model of another class might not have them, such as a task head."""
        foreign = [self.is_foreign(source) for source in stack.sources]
        for weight in weights:
            inputs = [replace(weight, optional=True) if other else weight for other in foreign]
            yield from self._match(weight, inputs, recipe, stack, 0.0)

    def _match(
        self, weight: Weight, inputs: Sequence[Weight], recipe: ModuleRecipe, stack: Stack, t: float
    ) -> Iterator[Match]:
        checkpoints = [self.checkpoints[model] for model in stack.models]
        names = [stored_name(checkpoint, item) for checkpoint, item in zip(checkpoints, inputs)]
        if weight.may_lack and not any(names):
            return
        parts, lacking = [], []
        for model, checkpoint, item, source, found in zip(stack.models, checkpoints, inputs, stack.sources, names):
            name = found or source_name(checkpoint, item, self.architecture.name)
            if name is not None:
                parts.append(Part(model, name, item, source))
            elif item.optional:
                lacking.append(source)
            else:
                raise self._lacks(checkpoint, item)
        if not parts:
            raise self._lacks(checkpoints[0], weight)
        has_base = stack.has_base and parts[0].source is stack.sources[0]
        lacks_base = stack.has_base and not has_base
        several = weight.ignored and lacking and len(parts) > 1
        if several and (lacks_base or not self.are_enough(len(parts), has_base)):
            self.left_out.append(weight.name)
            return
        alone = (
            (weight.ignored and len(parts) == 1)
            or stack.alone
            or (len(parts) == 1 and bool(lacking) and all(map(self.is_foreign, lacking)))
        )
        yield Match(
            weight, tuple(parts), tuple(source.model for source in lacking), has_base, lacks_base, t, stack.slice,
            recipe, alone,
        )  # fmt: skip

    def _lacks(self, checkpoint: Checkpoint, weight: Weight) -> ModelError:
        needs = f"{weight.name!r}, which {self.architecture.name} needs"
        return ModelError(f"{checkpoint.folder}: has no tensor {needs}; download the complete checkpoint")

    def notes(self) -> list[str]:
        """Return notes about weights that only some models have, once all matches are made."""
        if not self.left_out:
            return self.extra
        named = f"{self.left_out[0]!r}{f' and {len(self.left_out) - 1} more' if len(self.left_out) > 1 else ''}"
        left_out = f"{self.architecture.name} ignores {named}, which not all models have: left out of the result"
        return [*self.extra, left_out]
