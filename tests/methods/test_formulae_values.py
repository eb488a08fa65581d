"""Installed methods and their reference formulas produce known results for small tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from method_formulae import FORMULAE, Given
from torch import Tensor

from mergecore import merge_tensors
from mergecore.discovery.entry_points import list_plugins

B = [[0.5, -0.25, 1.0], [0.05, 0.75, -1.0]]
M = [[0.71, -0.36, 1.5], [-0.22, 0.72, -1.15]]
N = [[0.43, 0.14, 1.2], [0.33, 0.69, -0.55]]
N_LIKE_B = [[0.43, -0.25, 1.2], [0.33, 0.69, -0.55]]
W = {"weight": [0.6, 0.4]}
SAME = {"weight": [0.6, 0.6]}
HALF = {**W, "density": 0.5}
BAND = {**HALF, "gamma": 0.2}
ROWS = {**W, "nuslerp_flatten": False}

Values = Sequence[Any]
Case = tuple[str, dict[str, Any], Values | None, Values, Values]

MATRICES: list[Case] = [  # (method, parameters, base, models, result)
    ("linear", W, None, [M, N], [[0.598, -0.16, 1.38], [0.0, 0.708, -0.91]]),
    ("linear", {**SAME, "normalize": False}, None, [M, N], [[0.684, -0.132, 1.62], [0.066, 0.846, -1.02]]),
    ("slerp", {"t": 0.3}, M, [N], [[0.639489, -0.213274, 1.441401], [-0.054566, 0.727208, -0.99039]]),
    ("nuslerp", W, None, [M, N], [[0.613183, -0.163314, 1.415649], [0.000969, 0.726508, -0.932799]]),
    ("nuslerp", ROWS, None, [M, N], [[0.606007, -0.161749, 1.398797], [0.001764, 0.741486, -0.951239]]),
    (
        "nuslerp",
        {**ROWS, "nuslerp_row_wise": True},
        None,
        [M, N],
        [[0.667918, -0.166987, 1.388255], [0.004585, 0.747111, -0.91528]],
    ),
    ("nuslerp", W, B, [M, N], [[0.642599, -0.085886, 1.587342], [-0.004925, 0.682318, -0.831507]]),
    ("multislerp", W, None, [M, N], [[0.605651, -0.127243, 1.425997], [0.045032, 0.741744, -0.907403]]),
    ("multislerp", W, B, [M, N], [[0.66225, -0.126164, 1.603013], [-0.046315, 0.685451, -0.879488]]),
    ("karcher", {}, None, [M, N], [[0.577222, -0.074477, 1.397168], [0.103463, 0.740118, -0.845667]]),
    ("karcher", {}, None, [B, M, N], [[0.554395, -0.138837, 1.265443], [0.085606, 0.751097, -0.909861]]),
    ("task_arithmetic", {**W, "lambda": 0.8}, B, [M, N], [[0.5784, -0.178, 1.304], [0.01, 0.7164, -0.928]]),
    ("task_arithmetic", {**SAME, "normalize": True}, B, [M, N], [[0.57, -0.11, 1.35], [0.055, 0.705, -0.85]]),
    ("ties", W, B, [M, N], [[0.71, 0.14, 1.38], [-0.22, 0.708, -0.55]]),
    ("ties", HALF, B, [M, N], [[0.71, 0.14, 1.5], [-0.22, 0.75, -0.55]]),
    (
        "ties",
        {**HALF, "rescale": True},
        B,
        [M, N],
        [[0.772143, 0.254911, 1.647959], [-0.299898, 0.75, -0.417411]],
    ),
    ("ties", {**HALF, "normalize": False}, B, [M, N], [[0.626, -0.094, 1.3], [-0.112, 0.75, -0.82]]),
    ("breadcrumbs", BAND, B, [M, N], [[0.626, -0.094, 1.08], [0.0, 0.75, -1.09]]),
    ("breadcrumbs_ties", BAND, B, [M, N], [[0.626, -0.094, 1.08], [-0.112, 0.75, -1.09]]),
    ("sce", {"select_topk": 1}, B, [M, N], [[0.71, 0.14, 1.336595], [0.33, 0.70366, -0.55]]),
    ("sce", {"select_topk": 0.5}, B, [M, N], [[0.5, 0.14, 1.0], [0.33, 0.75, -0.55]]),
    ("model_stock", {}, B, [M, N], [[0.459435, -0.331129, 0.797177], [0.047103, 0.776077, -1.086924]]),
    (
        "model_stock",
        {"filter_wise": True},
        B,
        [M, N],
        [[0.520611, -0.208778, 1.103054], [-0.008337, 1.275029, -2.750101]],
    ),
    ("nearswap", {"t": 0.1}, M, [N], [[0.61, -0.26, 1.4], [-0.12, 0.69, -1.05]]),
    ("arcee_fusion", {}, M, [N], [[0.71, -0.36, 1.5], [-0.22, 0.72, -0.55]]),
    ("ram", {}, B, [M, N], [[0.57, -0.11, 1.35], [0.055, 0.705, -0.85]]),
    ("ramplus_tl", {"r": 0.5, "alpha": 1}, B, [M, N_LIKE_B], [[0.57, -0.415, 1.35], [0.055, 0.705, -0.85]]),
    ("ramplus_tl", {"epsilon": 0.07}, B, [M, N], [[0.7142, -0.11, 1.35], [0.055, 0.75, -0.85]]),
    ("passthrough", {"scale": 2}, None, [M], [[1.42, -0.72, 3.0], [-0.44, 1.44, -2.3]]),
    # At density 1 nothing is dropped at random.
    ("dare_linear", W, B, [M, N], [[0.598, -0.16, 1.38], [0.0, 0.708, -0.91]]),
    ("dare_ties", {**W, "normalize": True}, B, [M, N], [[0.71, 0.14, 1.38], [-0.22, 0.708, -0.55]]),
    ("della", W, B, [M, N], [[0.71, 0.14, 1.38], [-0.22, 0.708, -0.55]]),
    ("della_linear", W, B, [M, N], [[0.598, -0.16, 1.38], [0.0, 0.708, -0.91]]),
]

ONE_TO_TEN = [float(number) for number in range(1, 11)]
FOUR_TO_EIGHT = [float(number) * (4 <= number <= 8) for number in range(1, 11)]
NEARLY_PARALLEL = [(1 + math.cos(0.03)) / 2, math.sin(0.03) / 2]
"""The midpoint of the straight line between two directions that are 0.03 apart."""
APART = [[1.0, 0.0], [-0.5, math.sqrt(0.75)]]
"""Two directions whose cosine is -0.5."""

EDGES: list[Case] = [
    ("slerp", {"t": 0.5}, [0.0, 0.0], [[3.0, -4.0]], [3 * math.sqrt(0.5), -4 * math.sqrt(0.5)]),  # no direction
    ("slerp", {"t": 0.25}, [-1.0], [[1.0]], [-0.5]),  # opposite: a straight line
    ("slerp", {"t": 0.5}, [1.0, 0.0], [[math.cos(0.04), math.sin(0.04)]], [math.cos(0.02), math.sin(0.02)]),
    ("slerp", {"t": 0.5}, [1.0, 0.0], [[math.cos(0.03), math.sin(0.03)]], NEARLY_PARALLEL),
    ("slerp", {"t": 1.5}, [1.0, 0.0], [[0.0, 1.0]], [-math.sqrt(0.5), math.sqrt(0.5)]),  # t is outside [0, 1]
    ("nuslerp", {"weight": [0.25, 0.75]}, None, [[-1.0], [1.0]], [0.5]),  # opposite: a straight line
    ("task_arithmetic", {"weight": [1.0, -1.0], "normalize": True}, [0.0], [[1.0], [2.0]], [-1.0]),
    ("ties", {"weight": [1.0, -1.0]}, [0.0], [[1.0], [2.0]], [2.0]),
    ("ties", {**W, "density": [0.0, 1.0]}, [1.0, 1.0], [[9.0, 9.0], [2.0, 0.5]], [2.0, 0.5]),  # density 0
    ("ties", {"density": 0.1}, [0.0, 0.0, 0.0], [[1.0, -3.0, 2.0]], [0.0, -3.0, 0.0]),  # one element is kept
    ("ties", {"density": 0.5}, [0.0] * 4, [[2.0, -2.0, 2.0, 1.0]], [2.0, -2.0, 0.0, 0.0]),  # ties
    ("ties", {}, [0.0], [[1.0], [-1.0]], [1.0]),  # a tie becomes positive
    ("karcher", {}, None, [[1.0, 0.0], [0.0, 2.0]], [1.5 * math.sqrt(0.5)] * 2),
    ("breadcrumbs", {"density": 0.5, "gamma": 0.2}, [0.0] * 10, [ONE_TO_TEN], FOUR_TO_EIGHT),
    ("nearswap", {"t": 0.1}, [1.0], [[3.0]], [1.1]),
    ("model_stock", {}, [0.0, 0.0], APART, [-0.5, -math.sqrt(0.75)]),  # t = -2
]


def of_tool(name: str, parameters: dict[str, Any], base: Values | None, models: Values) -> Tensor:
    """Result of the installed method in float32."""
    tensors = [torch.tensor(values) for values in ([] if base is None else [base]) + list(models)]
    return merge_tensors(tensors, name, parameters, base=None if base is None else 0).double()


def of_formula(name: str, parameters: dict[str, Any], base: Values | None, models: Values) -> Tensor:
    """Result of the formula in float64."""

    def each(key: str, default: Any) -> list[Any]:
        value = parameters.get(key, default)
        return value if isinstance(value, list) else [value] * len(models)

    arrays = [np.array(values, dtype=np.float64) for values in models]
    given = Given(parameters.get, each, lambda model: np.zeros(arrays[model].size))
    return torch.from_numpy(FORMULAE[name](None if base is None else np.array(base), arrays, given))


@pytest.mark.parametrize("answer", [of_tool, of_formula])
@pytest.mark.parametrize(("name", "parameters", "base", "models", "expected"), MATRICES + EDGES)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_known_results(
    answer: Callable[..., Tensor],
    name: str,
    parameters: dict[str, Any],
    base: Values | None,
    models: Values,
    expected: Values,
) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(answer(name, parameters, base, models), wanted, rtol=1e-6, atol=1e-6)


def test_every_method_has_known_results() -> None:
    assert {name for name, *_ in MATRICES} == {plugin.name for plugin in list_plugins("methods")}


def test_bfloat16_is_rounded_once() -> None:
    zero, one = torch.zeros(1, dtype=torch.bfloat16), torch.ones(1, dtype=torch.bfloat16)
    merged = merge_tensors([zero, one], "task_arithmetic", {"weight": 0.3}, base=0)
    assert merged.dtype == torch.bfloat16 and merged.item() == 0.30078125
