"""Declare the parameters of a method as dataclass fields with `param`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

PerModel = tuple[T, ...]
"""Annotation of a parameter with one value per tensor passed to `merge`, in the same order."""

SPEC = "mergecore"
"""Key of the `ParamSpec` in the metadata of its dataclass field."""


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """The arguments of `param` other than the default: description, range, choices, and name in recipes."""

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
        default: value if the recipe does not set one. If omitted, the parameter is required. For a
            `PerModel[T]` parameter, this is the default for each model.
        doc: one-sentence description for `methods show` and the documentation.
        minimum, maximum: inclusive range of a number.
        enum: the allowed values.
        alias: the name in recipes if it is not a valid Python name, such as `lambda` for `lambda_`.
    """
    choices = None if enum is None else tuple(enum)
    spec = ParamSpec(doc=doc, minimum=minimum, maximum=maximum, enum=choices, alias=alias)
    return dataclasses.field(default=default, metadata={SPEC: spec})
