"""Create the method with its parameters for one weight, from the four levels of a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from mergecore.api import Job, Method
from mergecore.discovery import NO_VALUE, Parameter, Rule, Setting, declared, missing, parse_level, value_for
from mergecore.documents import Place
from mergecore.errors import InputError, RecipeError, nearest, raise_all
from mergecore.planning.matching import Match, Part
from mergecore.recipes import Recipe, json_schema

Level = Mapping[str, Setting]


class ParameterValues:
    """Parses all `parameters` of a recipe once, and then resolves them for each weight.

    Raises:
        RecipeError: all parameters that are unknown, invalid, or for the whole merge but set for one model.
    """

    def __init__(self, recipe: Recipe, method: type[Method]) -> None:
        self._recipe, self._method = recipe, method
        self._parameters = declared(method)
        self._levels: dict[int, Level] = {}
        self._ignored: dict[str, None] = {}
        self._base_given: dict[str, None] = {}
        self._made: dict[Any, Method] = {}
        self._errors: list[RecipeError] = []
        self._parse(recipe.parameters)
        for module in recipe.modules.values():
            self._parse(module.parameters)
            for piece in module.slices:
                self._parse(piece.parameters)
                for source in piece.sources:
                    self._parse(source.parameters, of_model=True)
        raise_all(self._errors)

    def _parse(self, place: Place | None, of_model: bool = False) -> None:
        if place is None:
            return
        try:
            keys = json_schema()["properties"]
            self._levels[id(place)] = parse_level(self._method, place, keys, of_model)
        except RecipeError as error:
            self._errors.append(error)
        self._ignored.update(dict.fromkeys(name for name in place.value if name not in self._parameters))

    def _level(self, place: Place | None) -> Level:
        return self._levels[id(place)] if place is not None else {}

    @cached_property
    def _is_uniform(self) -> bool:
        """Whether no parameter depends on a weight's name or layer."""
        return not any(rule.gradient or rule.filter not in (None, "*") for rule in self._rules())

    def _rules(self) -> Iterator[Rule]:
        return (rule for level in self._levels.values() for setting in level.values() for rule in setting)

    def method_for(self, match: Match) -> Method:
        """Return the method's instance for one output weight. Weights with the same values share one.

        See `_method_for`.
        """
        if not self._is_uniform:
            return self._method_for(match)
        key = (id(match.slice), id(match.module), match.has_base, *(id(part.source) for part in match.parts))
        if key not in self._made:
            self._made[key] = self._method_for(match)
        return self._made[key]

    def _method_for(self, match: Match) -> Method:
        """Create the method's instance for one output weight.

        Raises:
            RecipeError: if a required parameter has no value, or the method rejects the values.
        """
        shared = [
            self._level(match.slice.parameters),
            self._level(match.module.parameters),
            self._level(self._recipe.parameters),
        ]
        subtracted = match.subtracts(self._method)
        if subtracted and match.parts[0].source.parameters is not None:
            self._base_given[match.parts[0].source.model] = None
        parts = match.parts[1:] if subtracted else match.parts
        values: dict[str, Any] = {}
        for parameter in self._parameters.values():
            if parameter.per_model:
                values[parameter.attribute] = tuple(self._value(parameter, shared, match, part) for part in parts)
            else:
                values[parameter.attribute] = self._value(parameter, shared, match, None)
        try:
            return self._method(**values)
        except InputError as error:
            raise match.slice.place.error(f"{error} (for {match.weight.name})") from None

    def copied(self, match: Match) -> Part:
        """Return the part that a weight is copied from if it cannot be merged.

        It is the only model with a weight other than 0 of several, else the base, else the first model.
        """
        shared = [match.slice.parameters, match.module.parameters, self._recipe.parameters]
        weight, parts = self._parameters.get("weight"), match.parts[match.has_base :]
        if weight is not None and weight.per_model and len(parts) > 1:
            levels = [[self._level(place) for place in (part.source.parameters, *shared)] for part in parts]
            values = [value_for(weight, given, part.weight.name, match.t) for given, part in zip(levels, parts)]
            if len(chosen := [part for part, value in zip(parts, values) if value]) == 1:
                return chosen[0]
        base = match.slice.base_model or self._recipe.base_model
        return next((part for part in match.parts if part.source.model == base), match.parts[0])

    def _value(self, parameter: Parameter, shared: Sequence[Level], match: Match, part: Part | None) -> Any:
        """Return one value of a parameter, for one model's part of the weight or for the whole merge."""
        levels = [self._level(part.source.parameters), *shared] if part else shared
        name = part.weight.name if part else match.weight.name
        value = value_for(parameter, levels, name, match.t)
        if value is not NO_VALUE:
            return value
        place = part.source.place if part else match.slice.place
        raise missing(parameter, levels, place, name, part.source.model if part else None)

    def notes(self, jobs: Sequence[Job]) -> Iterator[str]:
        """Yield notes on parameters without effect: ignored ones, those of the base, and filters without a match."""
        for name in self._ignored:
            hint = nearest(name, self._parameters)
            yield f"parameter {name!r} has no effect for method {self._recipe.method!r}{hint}"
        slices = (piece for module in self._recipe.modules.values() for piece in module.slices)
        if any("residual_weight" in piece.place.value for piece in slices):
            yield "residual_weight has no effect"
        for model in self._base_given:
            yield f"the parameters of the base model {model} are not used"
        rules = [rule for rule in self._rules() if rule.filter not in (None, "*")]
        names = {name for job in jobs for name in (job.name, *(item.tensor for item in job.inputs))} if rules else ()
        for rule in rules:
            if not any(rule.matches(name) for name in names):
                yield f"the filter {rule.filter!r} matches no weight"
