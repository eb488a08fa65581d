"""Test cases for a method, derived from its declarations: parameters, numbers of models, and tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mergecore.api import Base, Context, DeltaMethod, Method, WeightMethod
from mergecore.discovery.parameters import Parameter, declared
from mergecore.errors import InputError
from mergecore.inmemory import merge_tensors, with_parameters
from mergecore_testing.tiling import Tiled

if TYPE_CHECKING:
    from torch import Tensor

SHARES = (0.4, 0.35, 0.45, 0.3, 0.5)
"""Positions of per-model values within a parameter's range: all different, and away from the ends."""


@dataclass(frozen=True)
class Case:
    """A method, its parameters by recipe name, the number of tensors for `merge`, and whether there is a base."""

    method: type[Method]
    parameters: Mapping[str, Any]
    count: int
    based: bool

    def __str__(self) -> str:
        given = ", ".join(f"{name}={value}" for name, value in self.parameters.items()) or "its defaults"
        models = "1 model" if self.count == 1 else f"{self.count} models"
        return f"{self.method.__name__} with {given}, {models}{' and a base' if self.subtracts else ''}"

    @property
    def subtracts(self) -> bool:
        """Whether mergecore subtracts a base from the models before calling `merge`."""
        return self.based and issubclass(self.method, DeltaMethod)

    @property
    def allowed(self) -> bool:
        """Whether the method accepts this combination of parameters."""
        try:
            self.made()
        except InputError:
            return False
        return True

    def made(self) -> Method:
        """Return an instance of the method with these parameters."""
        return with_parameters(self.method, self.parameters, self.count)

    def tensors(self, *shape: int, coarse: bool = False) -> list[Tensor]:
        """Return a tensor per model, after any subtracted base. With `coarse`, many values and deltas are equal."""
        import torch

        draw = torch.Generator().manual_seed(len(shape))
        first = torch.randn(shape, generator=draw)
        rest = (first + 0.5 * torch.randn(shape, generator=draw) for _ in range(self.count + self.subtracts - 1))
        return [(tensor * 4).round() / 4 if coarse else tensor for tensor in (first, *rest)]

    def merge(self, tensors: Sequence[Tensor], *, name: str = "tensor", seed: int = 0) -> Tensor:
        """Merge whole tensors in memory."""
        return merge_tensors(
            tensors, self.method, self.parameters, base=0 if self.based else None, name=name, seed=seed
        )

    def merge_tile(self, tile: Sequence[Tensor], ctx: Context) -> Tensor:
        """Return the method's result for a tile."""
        return self.merge_prepared(self.made().prepare(tile, ctx), ctx)

    def merge_prepared(self, prepared: Sequence[Tensor], ctx: Context) -> Tensor:
        """Return the method's result for a prepared tile."""
        method = self.made()
        assert isinstance(method, (WeightMethod, DeltaMethod))
        return method.merge(prepared, ctx)

    def tiled(self, tensors: Sequence[Tensor], elements: int) -> Tiled:
        """Return the same merge in pieces of about `elements` elements."""
        base, models = (tensors[0], tensors[1:]) if self.subtracts else (None, tensors)
        return Tiled.of(self.made(), models, elements, base=base)


def cases(method: type[Method], count: int | None = None) -> Iterator[Case]:
    """Yield all valid settings with and without a base, for `count` models or else as close to 3 as possible."""
    low, high = method.models
    count = count or max(low, min(3, high or 3))
    for default in by_default(method, count):
        yield default
        others = (replace(default, parameters=given) for given in settings(method, count))
        yield from (case for case in others if case.parameters != default.parameters and case.allowed)


def everywhere(method: type[Method]) -> Iterator[Case]:
    """Yield all cases, and variants with one parameter at an end of its range if the method allows it."""
    for case in cases(method):
        yield case
        for name, item in declared(method).items():
            at_ends = (replace(case, parameters={**case.parameters, name: end}) for end in ends(item))
            yield from (other for other in at_ends if other.allowed)


def by_default(method: type[Method], count: int) -> list[Case]:
    """Return cases with default parameters, with and without a base. Required parameters get a value in range."""
    bases = {Base.REQUIRED: [True], Base.OPTIONAL: [False, True], Base.INPUT: [False]}[method.base]
    given = {name: inside(item) for name, item in declared(method).items() if item.required}
    return [Case(method, given, count, based) for based in bases]


def counts(method: type[Method]) -> list[int]:
    """Return the numbers among 1, 2, and 5 that the method accepts, or its minimum if it accepts none of them."""
    low, high = method.models
    return [count for count in (1, 2, 5) if low <= count <= (high or count)] or [low]


def settings(method: type[Method], count: int) -> Iterator[dict[str, Any]]:
    """Yield settings with different numbers per model, then with each switch changed, then with all changed."""
    known = declared(method).values()
    numbers = {
        item.name: spread(item, count) if item.per_model else inside(item)
        for item in known
        if item.required or is_number(item)
    }
    turned = [{item.name: value} for item in known for value in choices(item) if value != item.default]
    yield numbers
    yield from ({**numbers, **switch} for switch in turned)
    if len(turned) > 1:
        yield {**numbers, **{name: value for switch in turned for name, value in switch.items()}}


def spread(item: Parameter, count: int) -> list[Any]:
    """Return a value for each model."""
    return [inside(item, SHARES[model % len(SHARES)]) for model in range(count)]


def inside(item: Parameter, share: float = SHARES[0]) -> Any:
    """Return a number at this fraction of its range, or the first choice."""
    if not is_number(item):
        return (choices(item) or ["text"])[0]
    low, high = item.schema.get("minimum"), item.schema.get("maximum")
    if low is not None and high is not None:
        value = low + share * (high - low)
    else:
        limit = next((bound for bound in (low, high) if bound is not None), 0)
        reach = 2 * (item.default - limit) if isinstance(item.default, (int, float)) else 0
        value = limit + share * (reach or (1 if high is None else -1))
    return round(value) if item.schema["type"] == "integer" else value


def is_number(item: Parameter) -> bool:
    """Return whether the parameter is a number and not a choice."""
    return item.schema.get("type") in ("integer", "number") and not choices(item)


def choices(item: Parameter) -> list[Any]:
    """Return all values of a switch or choice, or an empty list for a number or free text."""
    return [False, True] if item.schema.get("type") == "boolean" else list(item.schema.get("enum", ()))


def ends(item: Parameter) -> list[Any]:
    """Return all values of a switch or choice, or the limits of a number."""
    return choices(item) or [item.schema[rule] for rule in ("minimum", "maximum") if rule in item.schema]
