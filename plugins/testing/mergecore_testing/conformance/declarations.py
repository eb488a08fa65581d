"""Checks of a method's declarations."""

from __future__ import annotations

import re

from mergecore.api import Method
from mergecore.discovery.contracts import check_contract
from mergecore.discovery.parameters import convert, declared
from mergecore.documents import Place
from mergecore.errors import MergecoreError
from mergecore_testing.conformance.compare import expect


def check_is_a_method(method: type[Method]) -> None:
    """mergecore accepts the class, the class is frozen, and every default is valid in a recipe."""
    check_contract("methods", method)
    made_by = vars(method).get("__dataclass_params__")
    expect(made_by and made_by.frozen, f"{method.__name__}: add @dataclass(frozen=True, kw_only=True) above the class")
    for item in declared(method).values():
        if not item.required and item.default is not None:
            try:
                convert(item, Place(item.default, (item.name,)))
            except MergecoreError as error:
                raise AssertionError(f"{method.__name__}: the default of {error}") from None


def check_documented(method: type[Method]) -> None:
    """The docstring has a one-line summary and a paper link or formula, and every parameter has a description."""
    lines = (method.__doc__ or "").strip().splitlines()
    expect(lines and lines[0].endswith("."), f"{method.__name__}: the first line of its docstring must be a sentence")
    sourced = re.search("https?://|=", "".join(lines))
    expect(sourced, f"{method.__name__}: its docstring has neither a paper link nor a formula")
    for item in declared(method).values():
        expect(item.doc.strip(), f"{method.__name__}: parameter {item.name!r} has no description")
