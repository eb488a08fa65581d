"""Checks of what a method says of itself."""

from __future__ import annotations

import re

from mergecore.api import Method
from mergecore.discovery.contracts import check
from mergecore.discovery.parameters import convert, declared
from mergecore.documents import Place
from mergecore.errors import MergecoreError
from mergecore_testing.conformance.compare import expect


def check_is_a_method(method: type[Method]) -> None:
    """Core accepts the class, it is frozen, and a recipe may give every default."""
    check("methods", method)
    made_by = vars(method).get("__dataclass_params__")
    expect(made_by and made_by.frozen, f"{method.__name__}: put @dataclass(frozen=True, kw_only=True) above the class")
    for item in declared(method).values():
        if not item.required and item.default is not None:
            try:
                convert(item, Place(item.default, (item.name,)))
            except MergecoreError as error:
                raise AssertionError(f"{method.__name__}: the default of {error}") from None


def check_documented(method: type[Method]) -> None:
    """The docstring says in one line what the method does, then its paper or formula; every parameter is described."""
    lines = (method.__doc__ or "").strip().splitlines()
    expect(lines and lines[0].endswith("."), f"{method.__name__}: its docstring's first line must be a sentence")
    sourced = re.search("https?://|=", "".join(lines))
    expect(sourced, f"{method.__name__}: its docstring gives neither the paper's address nor a formula")
    for item in declared(method).values():
        expect(item.doc.strip(), f"{method.__name__}: parameter {item.name!r} has no description")
