"""Load the evaluations in a recipe or a separate file, and check them before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.api import Evaluation, Evaluator
from mergecore.discovery import Parameter, Registry, convert, declared
from mergecore.documents import Place, load_file
from mergecore.errors import InputError, MergecoreError, nearest
from mergecore.recipes.recipe import json_schema
from mergecore.validation import check


def load_evaluations(path: Path, registry: Registry) -> tuple[Evaluation, ...]:
    """Load the evaluations under the key ``evaluate`` in a YAML file, which can be a recipe.

    Raises:
        InputError: if the file cannot be read, or for the reasons listed in `parse_evaluations`.
    """
    place, _ = load_file(path)
    whole: Mapping[str, Any] = {
        "type": "object",
        "required": ["evaluate"],
        "properties": {"evaluate": {"$ref": "#/$defs/evaluate"}},
        "additionalProperties": isinstance(place.value, Mapping) and "merge_method" in place.value,
        "$defs": json_schema()["$defs"],
    }
    check(place, whole)
    return parse_evaluations(place.child("evaluate"), registry, may_run_code="merge_method" not in place.value)


def parse_evaluations(place: Place, registry: Registry, may_run_code: bool = False) -> tuple[Evaluation, ...]:
    """Create evaluators with their parameters from a list that has already been validated against the schema.

    Raises:
        InputError: if an evaluator is not installed, a parameter or file is invalid, or a name is used twice.
    """
    found: dict[str, Evaluation] = {}
    for item in place.elements():
        name = str(item.value.get("name", item.value["evaluator"]))
        if name in found:
            raise item.error(f"two evaluations are named {name!r}; give one of them a different 'name'")
        found[name] = Evaluation(name, _evaluator(item, registry, may_run_code))
    return tuple(found.values())


def _evaluator(place: Place, registry: Registry, may_run_code: bool) -> Evaluator:
    name = place.child("evaluator")
    try:
        kind: type[Evaluator] = registry.provide("evaluators", name.value)
    except MergecoreError as error:
        raise name.error(str(error)) from None
    if kind.runs_code and not may_run_code:
        cure = "put it in a separate file and run: mergecore eval OUT --with FILE"
        raise name.error(f"evaluator {name.value!r} runs code, which is not allowed in a recipe; {cure}")
    given = place.child("parameters") if place.value.get("parameters") else None
    evaluator = kind(**_parameters(declared(kind), given, place))
    try:
        evaluator.check()
    except InputError as error:
        raise place.error(str(error)) from None
    return evaluator


def _parameters(known: Mapping[str, Parameter], given: Place | None, place: Place) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, item in given.items() if given is not None else ():
        if name not in known:
            hint = nearest(name, known) or f"; it takes: {', '.join(known) or 'none'}"
            raise item.error(f"the evaluator has no parameter {name!r}{hint}")
        values[known[name].attribute] = _value(known[name], item)
    for parameter in known.values():
        if parameter.attribute not in values and parameter.required:
            raise (given or place).error(f"parameter {parameter.name!r} is missing: {parameter.doc}")
    return values


def _value(parameter: Parameter, place: Place) -> Any:
    if not parameter.per_model:
        return _one(parameter, place)
    if not isinstance(place.value, list):
        return (_one(parameter, place),)
    return tuple(_one(parameter, item) for item in place.elements())


def _one(parameter: Parameter, place: Place) -> Any:
    value = convert(parameter, place)
    if parameter.schema.get("format") != "path":
        return value
    path = place.folder / Path(os.path.expanduser(value))
    if not path.exists():
        raise place.error(f"{path}: no such file")
    return path.absolute()
