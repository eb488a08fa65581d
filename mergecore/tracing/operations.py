"""How to record each method of `torch.Tensor` and function of torch that the kernels can run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mergecore.tracing.nodes import Node, Untraceable, Value


def tensor_of(value: Any) -> Value:
    """Return a recorded tensor."""
    if not isinstance(value, Value):
        raise Untraceable(f"combines a tile with a {type(value).__name__}")
    return value


def numbers_of(value: Any) -> Node:
    """Return the node of a tensor of float32 numbers."""
    tensor = tensor_of(value)
    if tensor.mask:
        raise Untraceable("calculates with the result of a comparison")
    if tensor.node.wide:
        raise Untraceable("calculates in float64 what the kernels do not know there")
    return tensor.node


def converted(value: Value, wide: bool) -> Node:
    """Return the node of a tensor as float64 or float32. The numbers of a mask are 1 and 0."""
    return value.node if value.node.wide is wide else Node("widen" if wide else "narrow", (value.node,))


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, or a tensor without dimensions, which counts like one in torch."""
    if isinstance(value, (Value, bool)):
        return False
    return isinstance(value, (int, float)) or getattr(value, "ndim", None) == 0


def _filled(value: Any) -> Node:
    """Return the node of a tensor of numbers, or one that is filled with a number."""
    return Node("fill", numbers=(float(value),)) if _is_number(value) else numbers_of(value)


def _operation(name: str, a: Any, b: Any, swapped: str = "") -> Value:
    """Record an operation on two tensors, or on a tensor and a number. `swapped` is that of a number and a tensor."""
    if isinstance(a, Value) and a.node.wide:
        return _wide_operation(name, a, b)
    if _is_number(b):
        node, number = numbers_of(a), float(b)
        exact = name in ("mul", "div") and number == 1  # changes nothing
        return Value(node if exact else Node(f"{name}_x", (node,), (number,)))
    if swapped and _is_number(a):
        return Value(Node(swapped, (numbers_of(b),), (float(a),)))
    return Value(Node(name, (numbers_of(a), numbers_of(b))))


WIDE = ("add", "sub", "mul")
"""Operations on float64 tensors."""


def _wide_operation(name: str, a: Value, b: Any) -> Value:
    """Record an operation on two float64 tensors, or on one and a number."""
    if name == "ne" and _is_number(b):
        return Value(Node("ne_x_of_wide", (a.node,), (float(b),)))
    if name not in WIDE or (isinstance(b, Value) and not b.node.wide):
        raise Untraceable(f"calls {name} with float64, which the kernels do not know there")
    if _is_number(b):
        return Value(Node(f"wide_{name}_x", (a.node,), (float(b),)))
    return Value(Node(f"wide_{name}", (a.node, tensor_of(b).node)))


def _add(a: Any, b: Any, alpha: float = 1) -> Value:
    if alpha != 1:
        return Value(Node("fma", (_filled(a), _filled(b)), (float(alpha),)))
    return _operation("add", a, b, "add_x")


def _sub(a: Any, b: Any, alpha: float = 1) -> Value:
    if alpha != 1:
        return _add(a, b, -alpha)
    return _operation("add", a, -b) if _is_number(b) else _operation("sub", a, b, "rsub_x")


def _mul(a: Any, b: Any) -> Value:
    if isinstance(b, Value) and b.mask:  # 1 and 0, as torch converts them
        return Value(Node("mul", (numbers_of(a), b.node)))
    if isinstance(a, Value) and a.mask:
        return _mul(b, a)
    return _operation("mul", a, b, "mul_x")


def _pow(a: Any, power: Any) -> Value:
    if power != 2:
        raise Untraceable(f"calls pow with {power!r}")
    return Value(Node("mul", (numbers_of(a), numbers_of(a))))


def _clamp(a: Any, min: Any = None, max: Any = None) -> Value:
    low, high = (value if value is None else float(value) for value in (min, max))
    limits = (-float("inf") if low is None else low, float("inf") if high is None else high)
    return Value(Node("clamp", (numbers_of(a),), limits))


def _compare(name: str, a: Any, b: Any) -> Value:
    return Value(_operation(name, a, b).node, mask=True)


def _where(mask: Any, a: Any, b: Any) -> Value:
    if not tensor_of(mask).mask:
        raise Untraceable("chooses by numbers")
    return Value(Node("where", (mask.node, _filled(a), _filled(b))))


def _logical(name: str, *masks: Any) -> Value:
    if not all(tensor_of(mask).mask for mask in masks):
        raise Untraceable(f"calls {name} with numbers")
    nodes = [mask.node for mask in masks]
    made = {
        "logical_not": lambda: Node("eq_x", (nodes[0],), (0.0,)),
        "logical_and": lambda: Node("minimum", tuple(nodes)),
        "logical_or": lambda: Node("maximum", tuple(nodes)),
    }
    return Value(made[name](), mask=True)


def _unary(name: str, a: Any) -> Value:
    return Value(Node(name, (numbers_of(a),)))


def _like(value: float, a: Any, *_: Any, **options: Any) -> Value:
    if options.keys() - {"memory_format"}:
        raise Untraceable("makes a tensor of another dtype or device")
    tensor_of(a)
    return Value(Node("fill", numbers=(value,)))


def _addcmul(a: Any, b: Any, c: Any, value: float = 1) -> Value:
    return Value(Node("muladd", (numbers_of(a), numbers_of(b), numbers_of(c)), (float(value),)))


OPERATIONS: dict[str, Callable[..., Value]] = {
    "add": _add,
    "sub": _sub,
    "subtract": _sub,
    "rsub": lambda a, b, alpha=1: _sub(b, a, alpha),
    "mul": _mul,
    "multiply": _mul,
    "div": lambda a, b: _operation("div", a, b, "rdiv_x"),
    "divide": lambda a, b: _operation("div", a, b, "rdiv_x"),
    "true_divide": lambda a, b: _operation("div", a, b, "rdiv_x"),
    "rdiv": lambda a, b: _mul(_operation("rdiv", a, 1.0), b),  # as torch does
    "reciprocal": lambda a: _operation("rdiv", a, 1.0),
    "addcmul": _addcmul,
    "pow": _pow,
    "square": lambda a: _pow(a, 2),
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp,
    "clamp_max": lambda a, max: _clamp(a, None, max),
    "hardshrink": lambda a, lambd=0.5: Value(Node("hardshrink", (numbers_of(a),), (float(lambd),))),
    "where": _where,
    "masked_fill": lambda a, mask, value: _where(mask, value, a),
    "clone": lambda a: Value(tensor_of(a).node, a.mask),
    "zeros_like": partial(_like, 0.0),
    "ones_like": partial(_like, 1.0),
    "empty_like": partial(_like, 0.0),
    "zero": partial(_like, 0.0),
    "fill": lambda a, value: _like(float(value), a),
    "copy": lambda _, source: Value(numbers_of(source)),
    **{name: partial(_unary, code) for name, code in (
        ("neg", "neg"), ("negative", "neg"), ("abs", "abs"), ("absolute", "abs"), ("sign", "sign"), ("sgn", "sign"),
        ("sqrt", "sqrt"), ("relu", "relu"),
    )},
    **{name: partial(_operation, name) for name in ("minimum", "maximum")},
    **{name: partial(_compare, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    **{name: partial(_logical, name) for name in ("logical_not", "logical_and", "logical_or")},
}  # fmt: skip
"""How to record each method of `torch.Tensor` and function of torch."""
