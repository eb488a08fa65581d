"""Parameters declared by a method, and their settings in a recipe."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mergecore.api import Evaluator, Method
from mergecore.api.parameters import SPEC, ParamSpec
from mergecore.documents import Place, show
from mergecore.errors import nearest
from mergecore.validation import explain

NO_VALUE = object()
"""The value of a setting if none of its filters match."""

JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One declared parameter: its names, allowed values, and default (NO_VALUE if it is required)."""

    name: str
    attribute: str
    doc: str
    schema: Mapping[str, Any]
    default: Any
    per_model: bool

    @property
    def required(self) -> bool:
        return self.default is NO_VALUE


def declared(method: type[Method | Evaluator]) -> Mapping[str, Parameter]:
    """Return the parameters of a method or evaluator class, by their names in recipes.

    Raises:
        TypeError: if the class is not a dataclass, or an annotation is not bool, int, float, str, Path, or Literal,
            optionally with None or in PerModel.
    """
    if not dataclasses.is_dataclass(method):
        raise TypeError(
            f"{method.__qualname__} must be a dataclass: decorate it with @dataclass(frozen=True, kw_only=True)"
        )
    hints = typing.get_type_hints(method)
    fields = [field for field in dataclasses.fields(method) if SPEC in field.metadata]
    parameters = [_parameter(field, hints[field.name], method) for field in fields]
    return {parameter.name: parameter for parameter in parameters}


def _parameter(field: dataclasses.Field[Any], hint: Any, method: type) -> Parameter:
    spec: ParamSpec = field.metadata[SPEC]
    per_model = typing.get_origin(hint) is tuple
    if per_model:
        hint = typing.get_args(hint)[0]
    schema = {**_schema(hint, f"{method.__qualname__}.{field.name}")}
    bounds = {"minimum": spec.minimum, "maximum": spec.maximum, "enum": list(spec.enum) if spec.enum else None}
    schema.update({rule: bound for rule, bound in bounds.items() if bound is not None})
    default = NO_VALUE if field.default is dataclasses.MISSING else field.default
    return Parameter(spec.alias or field.name, field.name, spec.doc, schema, default, per_model)


def _schema(hint: Any, where: str) -> Mapping[str, Any]:
    if hint in JSON_TYPES:
        return {"type": JSON_TYPES[hint]}
    if hint is Path:
        return {"type": "string", "format": "path"}
    if typing.get_origin(hint) is typing.Literal:
        return {"enum": list(typing.get_args(hint))}
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(hint) if option is not type(None)]
        if len(options) == 1:
            return _schema(options[0], where)
    raise TypeError(f"{where}: must be bool, int, float, str, Path, Literal, or PerModel of these, not {hint}")


def convert(parameter: Parameter, place: Place) -> Any:
    """Convert a value to the parameter's type. Accept ``1e-5`` (a string in YAML), ``1`` for true, and ``3.0`` for 3.

    Raises:
        RecipeError: if the value has the wrong type or is out of range.
    """
    value, kind = _lenient(place.value, parameter.schema.get("type")), parameter.schema.get("type")
    if kind == "number" and isinstance(value, float) and not math.isfinite(value):
        raise place.error(f"must be a finite number, not {show(place.value)}")
    for rule, wanted in parameter.schema.items():
        if not _obeys(rule, wanted, value):
            raise place.error(explain(rule, wanted, place.value))
    return value


def _lenient(value: Any, kind: str | None) -> Any:
    if kind == "boolean" and not isinstance(value, bool) and value in (0, 1):
        return bool(value)
    if kind == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "number" and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except ValueError:
            return value
        except OverflowError:  # only for whole numbers, since others become infinite
            return math.inf
    return value


def _obeys(rule: str, wanted: Any, value: Any) -> bool:
    if rule == "type":
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return {
            "boolean": isinstance(value, bool),
            "string": isinstance(value, str),
            "integer": number and isinstance(value, int),
            "number": number,
        }[wanted]
    if rule == "enum":
        return value in wanted
    if rule == "format":  # code that knows the recipe's folder checks the file later
        return bool(value)
    return bool(value >= wanted) if rule == "minimum" else bool(value <= wanted)


@dataclasses.dataclass(frozen=True)
class Rule:
    """`values` for weights whose name contains `filter`. Several values form a gradient over the layers."""

    filter: str | None
    values: tuple[Any, ...]
    gradient: bool
    place: Place

    def matches(self, name: str) -> bool:
        return self.filter in (None, "*") or str(self.filter) in name

    def at(self, parameter: Parameter, t: float) -> Any:
        if not self.gradient:
            return self.values[0]
        position = t * (len(self.values) - 1)
        low = math.floor(position)
        if any(isinstance(value, (bool, str)) for value in self.values):
            return self.values[low]
        high, share = min(len(self.values) - 1, low + 1), position - low
        mixed = (1 - share) * self.values[low] + share * self.values[high]
        if parameter.schema.get("type") == "integer" and not mixed.is_integer():
            raise self.place.error(f"the gradient has {mixed:g} between its values; only whole numbers are allowed")
        return convert(parameter, dataclasses.replace(self.place, value=mixed))


Setting = tuple[Rule, ...]


def parse_setting(parameter: Parameter, place: Place) -> Setting:
    """Parse a setting: a value, a list of values (gradient), a ``{value, filter}`` mapping, or a list of mappings."""
    value = place.value
    if isinstance(value, Mapping):
        return (_conditional(parameter, place),)
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return tuple(_conditional(parameter, item) for item in place.elements())
    return _rules(parameter, None, place)


def _conditional(parameter: Parameter, place: Place) -> Rule:
    value = place.value
    if not isinstance(value, Mapping):
        raise place.error(f"must be a mapping with 'value' and 'filter' like the other items, not {show(value)}")
    for key in value:
        if key not in ("value", "filter"):
            hint = nearest(key, ["value", "filter"]) or "; known keys: value, filter"
            raise place.child(key).error(f"unknown key {key!r}{hint}", key=True)
    if "value" not in value:
        raise place.error("'value' is missing")
    pattern = value.get("filter")
    if pattern is not None and not isinstance(pattern, str):
        raise place.child("filter").error(f"must be a string that is part of a weight's name, not {show(pattern)}")
    return _rules(parameter, pattern, place.child("value"))[0]


def _rules(parameter: Parameter, pattern: str | None, place: Place) -> Setting:
    if place.value is None:
        raise place.error(f"parameter {parameter.name!r} has no value; write one or remove the line")
    if isinstance(place.value, Mapping):
        raise place.error("must be a value or a list of values, not a mapping")
    gradient = isinstance(place.value, list)
    if not place.value and gradient:
        raise place.error("must not be empty")
    values = tuple(convert(parameter, item) for item in place.elements()) if gradient else (convert(parameter, place),)
    return (Rule(pattern, values, gradient, place),)
