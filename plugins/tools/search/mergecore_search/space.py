"""The open values of a recipe: numbers and choices marked ``{search: [...]}``, as points in a unit cube."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mergecore.tooling import Place

KEY = "search"


@dataclass(frozen=True)
class Dimension:
    """One open value: a number between two bounds, or one of several choices."""

    name: str
    path: tuple[str | int, ...]
    bounds: tuple[float, float] | None
    choices: tuple[Any, ...] = ()

    def at(self, share: float) -> Any:
        """Return the value at a fraction of the way (0 to 1) from the first to the last."""
        share = min(max(share, 0.0), 1.0)
        if self.bounds is None:
            return self.choices[min(math.floor(share * len(self.choices)), len(self.choices) - 1)]
        low, high = self.bounds
        return low + share * (high - low)

    def grid(self, steps: int) -> list[float]:
        """Return the fractions for a grid: `steps` numbers from end to end, or the center of each choice's interval."""
        if self.bounds is None:
            return [(index + 0.5) / len(self.choices) for index in range(len(self.choices))]
        return [index / (steps - 1) for index in range(steps)]


@dataclass(frozen=True)
class Space:
    """A recipe with its open values.

    Attributes:
        place: The recipe as written.
        dimensions: Its open values, in the order of the text.
    """

    place: Place
    dimensions: tuple[Dimension, ...]

    def at(self, point: Sequence[float]) -> Place:
        """Return the recipe with the values of a point in the unit cube. Errors still report their lines."""
        values = {one.path: one.at(share) for one, share in zip(self.dimensions, point, strict=True)}
        return replace(self.place, value=_filled(self.place.value, (), values))

    def values(self, point: Sequence[float]) -> dict[str, Any]:
        """Return the values of a point by name."""
        return {one.name: one.at(share) for one, share in zip(self.dimensions, point, strict=True)}


def find_space(place: Place) -> Space:
    """Find the open values of a recipe.

    Raises:
        RecipeError: A mark is invalid, or there are none.
    """
    dimensions = tuple(_dimensions(place))
    if not dimensions:
        raise place.error("has no open values; write a number as {search: [0, 1]}, or text as {search: [a, b]}")
    return Space(place, dimensions)


def _dimensions(place: Place) -> Iterator[Dimension]:
    value = place.value
    if isinstance(value, Mapping) and KEY in value:
        yield _dimension(place)
    elif isinstance(value, Mapping):
        for _, item in place.items():
            yield from _dimensions(item)
    elif isinstance(value, list):
        for item in place.elements():
            yield from _dimensions(item)


def _dimension(place: Place) -> Dimension:
    listed = place.child(KEY)
    if len(place.value) > 1:
        raise place.error("'search' must be the only key: {search: [0, 1]}")
    if not isinstance(listed.value, list) or len(listed.value) < 2:
        raise listed.error("must be two numbers, or two or more choices")
    if any(not isinstance(item, (int, float, str)) for item in listed.value):
        raise listed.error("must be numbers or text")
    numbers = [item for item in listed.value if isinstance(item, (int, float)) and not isinstance(item, bool)]
    name = ".".join(map(str, place.path))
    if len(numbers) == len(listed.value) == 2:
        if not (math.isfinite(numbers[0]) and math.isfinite(numbers[1]) and numbers[0] < numbers[1]):
            raise listed.error("must go from a lower to a higher number")
        return Dimension(name, place.path, (float(numbers[0]), float(numbers[1])))
    return Dimension(name, place.path, None, tuple(listed.value))


def _filled(value: Any, path: tuple[str | int, ...], values: Mapping[tuple[str | int, ...], Any]) -> Any:
    if path in values:
        return values[path]
    if isinstance(value, Mapping):
        return {key: _filled(item, (*path, key), values) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, (*path, index), values) for index, item in enumerate(value)]
    return value
