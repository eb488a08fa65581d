"""The method classes, and the oracle that checks them elsewhere, give known numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import oracle
import pytest
import torch
from mergecore_linear import Linear
from mergecore_passthrough import Passthrough
from mergecore_slerp import Slerp
from mergecore_task_arithmetic import TaskArithmetic
from mergecore_ties import Ties
from torch import Tensor

from mergecore.api import Context, DeltaMethod, WeightMethod

METHODS: dict[str, type[WeightMethod | DeltaMethod]] = {
    "linear": Linear,
    "slerp": Slerp,
    "task_arithmetic": TaskArithmetic,
    "ties": Ties,
    "passthrough": Passthrough,
}
B = [[0.5, -0.25, 1.0], [0.05, 0.75, -1.0]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]
W = {"weight": (0.6, 0.4)}
HALF = {**W, "density": (0.5, 0.5)}

Values = Sequence[Any]
Case = tuple[str, dict[str, Any], Values, Values]

MATRICES: list[Case] = [  # (method, parameters, models with a base first, result)
    ("linear", W, [M, N], [[0.598, -0.16, 1.38], [0.0, 0.708, -0.91]]),
    (
        "linear",
        {"weight": (0.6, 0.6), "normalize": False},
        [M, N],
        [[0.684, -0.132, 1.62], [0.066, 0.846, -1.02]],
    ),
    ("slerp", {"t": 0.3}, [M, N], [[0.639489, -0.213274, 1.441401], [-0.054566, 0.727208, -0.99039]]),
    ("task_arithmetic", {**W, "lambda_": 0.8}, [B, M, N], [[0.5784, -0.178, 1.304], [0.01, 0.7164, -0.928]]),
    (
        "task_arithmetic",
        {"weight": (0.6, 0.6), "normalize": True},
        [B, M, N],
        [[0.57, -0.11, 1.35], [0.055, 0.705, -0.85]],
    ),
    ("ties", {**W, "density": (1.0, 1.0)}, [B, M, N], [[0.71, 0.14, 1.38], [-0.22, 0.708, -0.55]]),
    ("ties", HALF, [B, M, N], [[0.71, 0.14, 1.5], [-0.22, 0.75, -0.55]]),
    (
        "ties",
        {**HALF, "rescale": True},
        [B, M, N],
        [[0.772143, 0.254911, 1.647959], [-0.299898, 0.75, -0.417411]],
    ),
    ("ties", {**HALF, "normalize": False}, [B, M, N], [[0.626, -0.094, 1.3], [-0.112, 0.75, -0.82]]),
    ("passthrough", {"scale": (2.0,)}, [M], [[1.42, -0.72, 3.0], [-0.44, 1.44, -2.3]]),
]

NEARLY_PARALLEL = [(1 + math.cos(0.03)) / 2, math.sin(0.03) / 2]
"""The middle of the straight line between two directions 0.03 apart."""

EDGES: list[Case] = [
    ("slerp", {"t": 0.5}, [[0.0, 0.0], [3.0, -4.0]], [3 * math.sqrt(0.5), -4 * math.sqrt(0.5)]),  # no direction
    ("slerp", {"t": 0.25}, [[-1.0], [1.0]], [-0.5]),  # opposite: a straight line
    ("slerp", {"t": 0.5}, [[1.0, 0.0], [math.cos(0.04), math.sin(0.04)]], [math.cos(0.02), math.sin(0.02)]),
    ("slerp", {"t": 0.5}, [[1.0, 0.0], [math.cos(0.03), math.sin(0.03)]], NEARLY_PARALLEL),
    ("slerp", {"t": 1.5}, [[1.0, 0.0], [0.0, 1.0]], [-math.sqrt(0.5), math.sqrt(0.5)]),  # t goes beyond the models
    ("linear", {"weight": (1.0, -1.0)}, [[1.0], [2.0]], [-math.inf]),  # weights that cancel
    ("task_arithmetic", {"weight": (1.0, -1.0), "normalize": True}, [[0.0], [1.0], [2.0]], [-1.0]),
    ("ties", {"weight": (1.0, -1.0), "density": (1.0, 1.0)}, [[0.0], [1.0], [2.0]], [2.0]),
    ("ties", {**W, "density": (0.0, 1.0)}, [[1.0, 1.0], [9.0, 9.0], [2.0, 0.5]], [2.0, 0.5]),  # density 0
    ("ties", {"weight": (1.0,), "density": (0.1,)}, [[0.0, 0.0, 0.0], [1.0, -3.0, 2.0]], [0.0, -3.0, 0.0]),  # one stays
    (
        "ties",
        {"weight": (1.0,), "density": (0.5,)},
        [[0.0] * 4, [2.0, -2.0, 2.0, 1.0]],
        [2.0, -2.0, 0.0, 0.0],
    ),  # equals
    ("ties", {"weight": (1.0, 1.0), "density": (1.0, 1.0)}, [[0.0], [1.0], [-1.0]], [1.0]),  # a draw is positive
]


def of_class(name: str, parameters: dict[str, Any], models: Values) -> Tensor:
    """The method's own answer, called as core calls it: flat float32 tensors, the base taken off and put back."""
    method, shape = METHODS[name](**parameters), torch.tensor(models[0]).shape
    tensors = [torch.tensor(model).flatten() for model in models]
    base = tensors[0] if isinstance(method, DeltaMethod) else torch.zeros(())
    inputs = [tensor - base for tensor in tensors[1:]] if isinstance(method, DeltaMethod) else tensors
    ctx = Context(shape=tuple(shape))
    ctx = replace(ctx, measured=method.measure([inputs], ctx))
    return (base + method.merge(inputs, ctx)).reshape(shape).double()


def of_oracle(name: str, parameters: dict[str, Any], models: Values) -> Tensor:
    """The oracle's answer."""
    values = {key.removesuffix("_"): value for key, value in parameters.items()}
    arrays = [torch.tensor(model).double().numpy() for model in models]
    base, others = (None, arrays) if name in ("linear", "passthrough") else (arrays[0], arrays[1:])
    result = oracle.FORMULAE[name](base, others, values.get, values.get)
    return torch.from_numpy(result)


@pytest.mark.parametrize("answer", [of_class, of_oracle])
@pytest.mark.parametrize(("name", "parameters", "models", "expected"), MATRICES + EDGES)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_known_results(
    answer: Callable[..., Tensor], name: str, parameters: dict[str, Any], models: Values, expected: Values
) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(answer(name, parameters, models), wanted, rtol=1e-6, atol=1e-6)
