"""Select the layers of each model that a recipe merges, and check that they fit together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from mergecore.api import Base, DeltaMethod, Method
from mergecore.definitions import Architecture, Module
from mergecore.models import Checkpoint, stored_name
from mergecore.recipes import ModuleRecipe, Recipe, Slice, Source


@dataclass(frozen=True)
class Stack:
    """A slice of the recipe with the models and layer ranges of its sources. A separate base comes first.

    `alone` is True if the slice has several sources, but only one has this module of the architecture or these layers.
    `extra` is True for layers that not all sources of the slice have.
    """

    slice: Slice
    sources: tuple[Source, ...]
    models: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]
    has_base: bool
    alone: bool
    extra: bool = False

    @property
    def layers(self) -> int:
        return self.ranges[0][1] - self.ranges[0][0]


@dataclass(frozen=True)
class LayerStacks:
    """The layers that a recipe selects from the models."""

    recipe: Recipe
    method: type[Method]
    architecture: Architecture
    checkpoints: Sequence[Checkpoint]
    positions: dict[str, int]
    """Model reference → position in `checkpoints`."""
    config_source: int
    """Index of the model whose class the output has."""
    extra: list[str] = field(default_factory=list)
    """Notes about layers that only some models have."""

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
            yield module, recipe, [stack for slice_ in recipe.slices for stack in self._stacks(module, recipe, slice_)]

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

    def _stacks(self, module: Module, recipe: ModuleRecipe, slice_: Slice) -> Iterator[Stack]:
        """Yield the layers of a slice: first those that all sources have, then layers that only some of them have.

        Only layers that the config does not count, such as layers for multi-token prediction, can be missing.
        """
        stack = self._stack(module, recipe, slice_)
        counts = [module.counted(self.checkpoints[at].config, "") for at in stack.models]
        if len({end - start for start, end in stack.ranges}) == 1 or not recipe.whole or len(set(counts)) > 1:
            self._check_lengths(module, stack)
            yield stack
            return
        count = counts[0]
        yield replace(stack, ranges=tuple((0, count) for _ in stack.ranges))
        having = [index for index, (_, end) in enumerate(stack.ranges) if end > count]
        some = replace(
            stack,
            sources=tuple(stack.sources[index] for index in having),
            models=tuple(stack.models[index] for index in having),
            ranges=tuple((count, stack.ranges[index][1]) for index in having),
            has_base=stack.has_base and having[0] == 0,
            alone=len(having) == 1,
            extra=True,
        )
        self._check_lengths(module, some)
        enough = self.are_enough(len(some.sources), some.has_base)
        taken = some.alone or (stack.has_base is some.has_base and enough)
        if taken:
            yield some
        what = "copied" if some.alone else "merged" if taken else "left out of the result"
        names = ", ".join(source.model for source in some.sources)
        self.extra.append(f"layers from {count} on are for multi-token prediction and only in {names}: {what}")

    def are_enough(self, count: int, has_base: bool) -> bool:
        """Return True if the method can merge this number of models, which includes the base if there is one."""
        return count - (has_base and issubclass(self.method, DeltaMethod)) >= self.method.models[0]

    def _check_lengths(self, module: Module, stack: Stack) -> None:
        """Check that all sources have the same number of layers."""
        if len({end - start for start, end in stack.ranges}) == 1:
            return

        def described(source: Source, start: int, end: int) -> str:
            counted = module.counted(self.checkpoints[self._at(source)].config, source.model)
            more = f" ({end - counted} of them for multi-token prediction)" if end > counted else ""
            return f"{source.model}: {end - start}{more}"

        spans = ", ".join(described(source, *span) for source, span in zip(stack.sources, stack.ranges))
        raise stack.slice.place.error(f"all models of a slice must have the same number of layers, not {spans}")

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
        return Stack(slice_, tuple(sources), tuple(map(self._at, sources)), tuple(ranges), apart, alone)

    def _at(self, source: Source) -> int:
        return self.positions[source.model]

    def _takes_part(self, module: Module, source: Source) -> bool:
        """Return True if a model has this module. A model of another class might not, such as a vision tower."""
        checkpoint = self.checkpoints[self._at(source)]
        if not self.is_foreign(source):
            return True
        weights = module.weights(module.layer_count(checkpoint.config, source.model))
        return any(stored_name(checkpoint, weight) for weight in weights)

    def is_foreign(self, source: Source) -> bool:
        """Return True if a model's class differs from the output's."""
        own, kept = (self.checkpoints[at] for at in (self._at(source), self.config_source))
        lacks_modules = bool(kept.modules) and not own.modules
        return lacks_modules or own.config.get("architectures") != kept.config.get("architectures")

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
