"""Find the input tensors of each output weight, and check that every input tensor is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from mergecore.api import Base, DeltaMethod, Method
from mergecore.definitions import Architecture, Module, Weight
from mergecore.errors import ArchitectureError, ModelError
from mergecore.models import Checkpoint, source_name, stored_name
from mergecore.planning.class_errors import check_heads
from mergecore.recipes import ModuleRecipe, Recipe, Slice, Source


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
class Stack:
    """A slice of the recipe with the models and layer ranges of its sources. A separate base comes first.

    `alone` is True if the slice has several sources, but only one has this module of the architecture.
    """

    slice: Slice
    sources: tuple[Source, ...]
    models: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    has_base: bool
    alone: bool

    @property
    def layers(self) -> int:
        return self.ranges[0][1] - self.ranges[0][0]


@dataclass(frozen=True)
class Matcher:
    """Finds the inputs of every output weight of a recipe."""

    recipe: Recipe
    method: type[Method]
    architecture: Architecture
    checkpoints: Sequence[Checkpoint]
    positions: dict[str, int]
    """Model reference → position in `checkpoints`."""
    config_source: int
    """Index of the model whose class the output has."""
    left_out: list[str] = field(default_factory=list)
    """Weights that the class ignores when it loads a model, and that too few models have to be merged."""

    def modules(self) -> Iterator[tuple[Module, ModuleRecipe, list[Stack]]]:
        """Yield the architecture's modules with their recipes and slices.

        Raises:
            RecipeError: if a module is unknown or missing, or the sources, layers, or base of a slice are invalid.
        """
        recipes = self.recipe.modules
        for name, item in recipes.items():
            if name is not None and name not in self.architecture.modules:
                known = ", ".join(self.architecture.modules)
                raise item.place.error(f"{self.architecture.name} has no module {name!r}; its modules are: {known}")
        for name, module in self.architecture.modules.items():
            recipe = recipes.get(name, recipes.get(None))
            if recipe is None:
                raise self.recipe.place.child("modules").error(
                    f"the module {name!r} is missing; add its models or slices"
                )
            self._check_sliceable(name, module, recipe)
            yield module, recipe, [self._stack(module, recipe, slice_) for slice_ in recipe.slices]

    def _check_sliceable(self, name: str, module: Module, recipe: ModuleRecipe) -> None:
        """Check that layers are selected only if the module has layers and it is clear which module is meant."""
        if recipe.whole:
            return
        if None in self.recipe.modules and len(self.architecture.modules) > 1:
            known = ", ".join(self.architecture.modules)
            raise recipe.place.error(
                f"{self.architecture.name} has several modules; put 'slices' under 'modules' for: {known}"
            )
        if not module.layers_key and any(source.layer_range for slice_ in recipe.slices for source in slice_.sources):
            raise recipe.place.error(
                f"the module {name!r} of {self.architecture.name} has no layers to select; use 'models' instead"
            )

    def _stack(self, module: Module, recipe: ModuleRecipe, slice_: Slice) -> Stack:
        base = slice_.base_model or self.recipe.base_model
        sources = list(slice_.sources)
        own = next((s for s in sources if base is not None and self._at(s) == self.positions[base]), None)
        if base is not None and own is None and recipe.whole:
            own = Source(base, None, None, self.recipe.place.child("base_model"))
            sources.append(own)
        apart = self.method.base is not Base.INPUT and base is not None
        if self.method.base is Base.REQUIRED and base is None:
            bare = {source.model for source in slice_.sources if source.parameters is None}
            name = bare.pop() if len(bare) == 1 < len(slice_.sources) else "MODEL"
            raise self.recipe.place.error(f"method {self.recipe.method!r} needs a base model; add base_model: {name}")
        if apart:
            if own is None:
                raise slice_.place.error(f"the base model {base!r} must be one of the sources of the slice")
            sources.remove(own)
            sources.insert(0, own)
        self._check_count(slice_, len(sources), apart, own is not None)
        count = len(sources)
        sources = [source for source in sources if self._takes_part(module, source)]
        apart = apart and self._at(sources[0]) == self.positions[base or ""]
        alone = len(sources) == 1 < count
        ranges = [self._range(module, source) for source in sources]
        if len({end - start for start, end in ranges}) > 1:
            spans = ", ".join(f"{source.model}: {end - start}" for source, (start, end) in zip(sources, ranges))
            raise slice_.place.error(f"all models of a slice must have the same number of layers, not {spans}")
        return Stack(slice_, tuple(sources), tuple(map(self._at, sources)), tuple(ranges), apart, alone)

    def _at(self, source: Source) -> int:
        return self.positions[source.model]

    def _takes_part(self, module: Module, source: Source) -> bool:
        """Return True if a model has this module. A model of another class might not, such as a vision tower."""
        checkpoint = self.checkpoints[self._at(source)]
        if not self._is_foreign(source):
            return True
        weights = module.weights(module.layer_count(checkpoint.config, source.model))
        return any(stored_name(checkpoint, weight) for weight in weights)

    def _is_foreign(self, source: Source) -> bool:
        """Return True if a model's class differs from the output's."""
        config, config_source = (self.checkpoints[at].config for at in (self._at(source), self.config_source))
        return config.get("architectures") != config_source.get("architectures")

    def _check_count(self, slice_: Slice, count: int, apart: bool, based: bool) -> None:
        low, high = self.method.models
        subtracted = apart and issubclass(self.method, DeltaMethod)
        taken = count - 1 if subtracted else count
        if taken < low or (high is not None and taken > high):
            base = " plus the base model" if subtracted else ", including the base model" if based else ""
            wanted = f"at least {low}" if high is None else f"exactly {low}" if low == high else f"{low} to {high}"
            models = "model" if wanted.endswith(" 1") else "models"
            raise slice_.place.error(f"method {self.recipe.method!r} takes {wanted} {models}{base}, not {taken}")

    def _range(self, module: Module, source: Source) -> tuple[int, int]:
        checkpoint = self.checkpoints[self._at(source)]
        count = module.layer_count(checkpoint.config, source.model)
        start, end = source.layer_range or (0, count)
        if end > count:
            place = source.place.child("layer_range")
            raise place.error(f"{source.model} has {count} layers, so the range can end at {count} at most, not {end}")
        return start, end

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
        yield from self._outside(module.after, recipe, stacks[-1])

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
        foreign = [self._is_foreign(source) for source in stack.sources]
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
        if weight.ignored and lacking and len(parts) > 1:
            taken = len(parts) - (has_base and issubclass(self.method, DeltaMethod))
            if lacks_base or taken < self.method.models[0]:
                self.left_out.append(weight.name)
                return
        alone = (
            (weight.ignored and len(parts) == 1)
            or stack.alone
            or (len(parts) == 1 and bool(lacking) and all(map(self._is_foreign, lacking)))
        )
        yield Match(
            weight, tuple(parts), tuple(source.model for source in lacking), has_base, lacks_base, t, stack.slice,
            recipe, alone,
        )  # fmt: skip

    def _lacks(self, checkpoint: Checkpoint, weight: Weight) -> ModelError:
        needs = f"{weight.name!r}, which {self.architecture.name} needs"
        return ModelError(f"{checkpoint.folder}: has no tensor {needs}; download the complete checkpoint")

    def notes(self) -> list[str]:
        """Return a note about weights that are left out, once all matches are made."""
        if not self.left_out:
            return []
        named = f"{self.left_out[0]!r}{f' and {len(self.left_out) - 1} more' if len(self.left_out) > 1 else ''}"
        return [f"{self.architecture.name} ignores {named}, which not all models have: left out of the result"]

    def check_accounted(self) -> None:
        """Check that the architecture knows every tensor of every input. See `check_accounted`."""
        check_accounted(self.architecture, self.checkpoints, self.config_source)


def check_accounted(architecture: Architecture, checkpoints: Sequence[Checkpoint], config_source: int) -> None:
    """Check that the architecture of the config source knows every tensor of every checkpoint.

    Raises:
        ArchitectureError: if there are unknown tensors. The message names the first one.
    """
    for checkpoint in checkpoints:
        known = set(architecture.labels(checkpoint.config, checkpoint.reference))
        unknown = sorted(name for name in checkpoint.tensors if name not in known)
        if unknown:
            check_heads(checkpoint, checkpoints[config_source], unknown)
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            own, wanted = (item.config.get("architectures") for item in (checkpoint, checkpoints[config_source]))
            cure = "install or write the architecture of this checkpoint"
            if own != wanted:
                cure = f"{' '.join(map(str, own or ['a model without a class']))} cannot be merged into it"
            raise ArchitectureError(
                f"{checkpoint.folder}: contains {unknown[0]!r}{more}, unknown to {architecture.name}; mergecore never"
                f" drops tensors silently: {cure}"
            )
