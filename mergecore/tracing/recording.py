"""Stand-ins for tensors that record the operations of a method, which works on them as on float32 tensors."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from mergecore.api.random import stream_keys
from mergecore.tracing.nodes import Node, Untraceable, Value
from mergecore.tracing.operations import OPERATIONS, converted, numbers_of, tensor_of


class Offset:
    """The flat index of a tile. It is not known while recording, so only operations that expect it can use it."""

    def _refuse(self, *_: Any) -> Any:
        raise Untraceable("uses ctx.offset as a number")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __floordiv__ = __mod__ = _refuse
    __divmod__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = __index__ = _refuse


class _Dtype:
    """A stand-in for a dtype of torch, to compare and to pass on."""

    def __init__(self, name: str) -> None:
        self._name = f"torch.{name}"

    def __str__(self) -> str:
        return self._name

    def __eq__(self, other: object) -> bool:
        return str(other) == self._name

    def __hash__(self) -> int:
        return hash(self._name)

    def __getattr__(self, name: str) -> Any:
        raise Untraceable(f"uses {name!r} of a dtype")


def _called(name: str, *args: Any, **options: Any) -> Recorded:
    try:
        made = OPERATIONS[name](*args, **options)
    except TypeError as error:
        raise Untraceable(f"calls {name} with other arguments ({error})") from None
    return Recorded(made.node, made.mask)


def _in_place(name: str, target: Any, *args: Any, **options: Any) -> Any:
    return _rebound(target, _called(name, target, *args, **options))


def _rebound(target: Any, made: Value) -> Any:
    """Give a tensor other values, as an operation in place does. It keeps its dtype, so a mask becomes numbers."""
    if tensor_of(target).mask and not made.mask:
        raise Untraceable("writes numbers into the result of a comparison")
    target.node = made.node
    return target


def _method(name: str) -> Any:
    return lambda self, *args: _called(name, self, *args)


def _method_in_place(name: str) -> Any:
    return lambda self, *args: _in_place(name, self, *args)


class Recorded(Value):
    """A tensor whose elements are not known. It has the methods of `torch.Tensor` that kernels can run.

    An operation in place gives the same object a new node.
    """

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and name[:-1] in OPERATIONS:
            return partial(_in_place, name[:-1], self)
        if name in OPERATIONS:
            return partial(_called, name, self)
        if name.startswith("__"):
            raise AttributeError(name)  # of protocols that Python and libraries look for
        raise Untraceable(f"uses {name!r} of a tensor")

    @classmethod
    def __torch_function__(cls, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Record a call of a function of torch."""
        name, options = str(getattr(function, "__name__", function)), dict(kwargs or {})
        if name.endswith("_") and name[:-1] in OPERATIONS:
            return _in_place(name[:-1], *args, **options)
        if name not in OPERATIONS:
            raise Untraceable(f"calls torch.{name}")
        out = options.pop("out", None)
        made = _called(name, *args, **options)
        return made if out is None else _rebound(out, made)

    @property
    def dtype(self) -> Any:
        """The dtype of torch, or a stand-in if nobody has imported torch yet."""
        name = "bool" if self.mask else "float64" if self.node.wide else "float32"
        torch = sys.modules.get("torch")
        return getattr(torch, name) if torch else _Dtype(name)

    def to(self, dtype: Any, copy: bool = False) -> Recorded:
        """Convert between float32 and float64."""
        name = str(dtype).removeprefix("torch.")
        if name not in ("float32", "float64"):
            raise Untraceable(f"converts to {dtype}")
        return Recorded(converted(self, name == "float64"))

    def double(self) -> Recorded:
        """Convert to float64."""
        return Recorded(converted(self, True))

    def float(self) -> Recorded:
        """Convert to float32."""
        return Recorded(converted(self, False))

    def uniform(self, key: str, offset: object) -> Recorded:
        """Record uniform random numbers at the positions of this tile. See `mergecore.api.Context.random`."""
        if not isinstance(offset, Offset):
            raise Untraceable("draws random numbers for other positions")
        return Recorded(Node("random", keys=stream_keys(key)))

    def keep_largest(self, threshold: Any, last: int, offset: object) -> Recorded:
        """Record a selection: keep |x| > threshold, and |x| == threshold up to the flat index `last`."""
        if not isinstance(offset, Offset):
            raise Untraceable("selects by other positions")
        if self.node.wide:
            return Recorded(Node("wide_keep", (self.node,), (threshold,), last=last))
        return Recorded(Node("keep", (numbers_of(self),), (threshold,), last=last))

    def _refuse(self, *_: Any) -> Any:
        raise Untraceable("uses the value of an element")

    __bool__ = __float__ = __int__ = __index__ = __len__ = __iter__ = __getitem__ = __setitem__ = _refuse
    __add__ = __radd__ = _method("add")
    __sub__, __rsub__ = _method("sub"), _method("rsub")
    __mul__ = __rmul__ = _method("mul")
    __truediv__, __rtruediv__ = _method("div"), _method("rdiv")
    __neg__, __abs__, __pow__ = _method("neg"), _method("abs"), _method("pow")
    __invert__, __and__, __or__ = _method("logical_not"), _method("logical_and"), _method("logical_or")
    __lt__, __le__, __gt__, __ge__ = _method("lt"), _method("le"), _method("gt"), _method("ge")
    __eq__, __ne__ = _method("eq"), _method("ne")
    __iadd__, __isub__ = _method_in_place("add"), _method_in_place("sub")
    __imul__, __itruediv__ = _method_in_place("mul"), _method_in_place("div")
    __hash__ = None  # type: ignore[assignment]


def record(function: Callable[[Sequence[Any]], Sequence[Any]], count: int, wide: bool = False) -> list[Node]:
    """Return the operations whose results are those of a function of `count` tensors. `wide` allows float64 results.

    Raises:
        Untraceable: the function does something that cannot be recorded.
    """
    made = function([Recorded(Node("load", keys=(slot,))) for slot in range(count)])
    return [tensor.node if wide and tensor_of(tensor).node.wide else numbers_of(tensor) for tensor in made]
