"""How a method declares its parameters: dataclass fields made by `param`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

PerModel = tuple[T, ...]
"""Annotation of a parameter with one value for each tensor that `merge` gets, in the same order."""

SPEC = "mergecore"
"""Key of a `ParamSpec` in the metadata of its dataclass field."""


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """What `param` was told beyond the default: its description, range, choices and recipe name."""

    doc: str
    minimum: float | None
    maximum: float | None
    enum: tuple[Any, ...] | None
    alias: str | None


def param(
    default: Any = dataclasses.MISSING,
    doc: str = "",
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    enum: Sequence[Any] | None = None,
    alias: str | None = None,
) -> Any:
    """Declare one parameter of a method.

    Args:
        default: value where no recipe level gives one; left out, the parameter is required. For a
            `PerModel[T]` parameter it is the default of each model.
        doc: one sentence for `methods show` and the documentation.
        minimum, maximum: inclusive range of a number.
        enum: the only values allowed.
        alias: the name in recipes where Python forbids it, as `lambda` for `lambda_`.
    """
    choices = None if enum is None else tuple(enum)
    spec = ParamSpec(doc=doc, minimum=minimum, maximum=maximum, enum=choices, alias=alias)
    return dataclasses.field(default=default, metadata={SPEC: spec})
