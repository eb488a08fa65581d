"""Reference formulas of every method in NumPy float64, written independently from papers and the recipe documentation.

Each formula takes the base (or None), the other models, and `Given`, and returns the merged tensor. Random methods
get their uniform numbers as an input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Given:
    """The inputs of a formula other than the tensors.

    Attributes:
        one: returns the value of a parameter by name and default.
        each: returns the values of a parameter for each model.
        uniform: returns the flat numbers in [0, 1) that a random method draws for a model, by its index.
    """

    one: Callable[[str, Any], Any]
    each: Callable[[str, Any], list[Any]]
    uniform: Callable[[int], Array]


def linear(base: Array | None, models: Sequence[Array], given: Given) -> Array:
    weights = given.each("weight", None)
    total = sum(w * x for w, x in zip(weights, models, strict=True))
    return total / sum(weights) if given.one("normalize", True) else total


def passthrough(base: Array | None, models: Sequence[Array], given: Given) -> Array:
    (model,), (scale,) = models, given.each("scale", 1.0)
    return scale * model


def slerp(base: Array, models: Sequence[Array], given: Given) -> Array:
    (other,), t = models, given.one("t", None)
    norms = [norm if norm > 1e-8 else 1.0 for norm in (np.linalg.norm(base), np.linalg.norm(other))]
    cosine = np.clip(np.sum(base / norms[0] * (other / norms[1])), -1, 1)
    if abs(cosine) > 0.9995:
        return (1 - t) * base + t * other
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * base + np.sin(t * angle) * other) / np.sin(angle)


def nuslerp(base: Array | None, models: Sequence[Array], given: Given) -> Array:
    start = 0.0 if base is None else base
    one, other = (x - start for x in models)
    first, second = given.each("weight", 1.0)
    t = 0.5 if abs(first + second) < 1e-6 else second / (first + second)
    axis = None if given.one("nuslerp_flatten", True) or one.ndim < 2 else -1
    if axis is not None and given.one("nuslerp_row_wise", False):
        axis = 0
    product, squares = (one * other).sum(axis, keepdims=True), (one**2).sum(axis, keepdims=True)
    norms = np.sqrt(squares * (other**2).sum(axis, keepdims=True))
    cosine = np.clip(product / np.where(norms == 0, 1.0, norms), -1, 1)
    straight = (cosine == 1) | (cosine < -0.9995)
    angle = np.where(straight, 1.0, np.arccos(cosine))
    arc = (np.sin((1 - t) * angle) * one + np.sin(t * angle) * other) / np.sin(angle)
    return start + np.where(straight, (1 - t) * one + t * other, arc)


def multislerp(base: Array | None, models: Sequence[Array], given: Given) -> Array:
    if len(models) == 1:
        return models[0]
    start, eps = 0.0 if base is None else base, given.one("eps", 1e-8)
    weights = np.array(given.each("weight", 1.0))
    if given.one("normalize_weights", True):
        weights = weights / weights.sum()
    moved = [x - start for x in models]
    norms = [np.linalg.norm(y) for y in moved]
    directions = [y / (norm + eps) for y, norm in zip(moved, norms, strict=True)]
    mean = sum(w * u for w, u in zip(weights, directions, strict=True))
    mean = mean / np.linalg.norm(mean)
    tangent = sum(w * (u - np.sum(u * mean) * mean) for w, u in zip(weights, directions, strict=True))
    length = np.linalg.norm(tangent) + eps
    point = mean * np.cos(length) + tangent * (np.sin(length) / length)
    return start + point * sum(w * norm for w, norm in zip(weights, norms, strict=True))


def karcher(base: Array | None, models: Sequence[Array], given: Given) -> Array:
    norms = [np.linalg.norm(x) for x in models]
    directions = [x / norm for x, norm in zip(models, norms, strict=True)]
    mean, tol = sum(directions) / len(models), given.one("tol", 1e-5)
    mean = mean / np.linalg.norm(mean)
    for _ in range(int(given.one("max_iter", 10))):
        tangent = np.zeros_like(mean)
        for u in directions:
            cosine = np.clip(np.sum(mean * u), -1, 1)
            angle = np.arccos(cosine)
            if angle >= tol:
                tangent += angle / np.sin(angle) * (u - cosine * mean) / len(models)
        length = np.linalg.norm(tangent)
        if length < tol:
            break
        mean = np.cos(length) * mean + np.sin(length) * tangent / length
        mean = mean / np.linalg.norm(mean)
    return mean * sum(norms) / len(models)


def _rescaled(delta: Array, kept: Array, rescale: bool) -> Array:
    """Keep part of a task vector and optionally restore the L1 norm of the whole."""
    before, after = np.abs(delta).sum(), np.abs(kept).sum()
    return kept * (before / after) if rescale and min(before, after) >= 1e-7 else kept


def _sum(base: Array, deltas: Sequence[Array], given: Given, elect: bool, normalize: bool) -> Array:
    """Add up the weighted task vectors, optionally only with the elected sign, then apply normalize and lambda."""
    weights = np.array(given.each("weight", 1.0))
    weighted = np.stack([w * x for w, x in zip(weights, deltas, strict=True)])
    agrees = np.ones_like(weighted, dtype=bool)
    if elect:
        agrees = np.sign(weighted) == np.where(weighted.sum(0) >= 0, 1.0, -1.0)
    total = np.where(agrees, weighted, 0.0).sum(0)
    if given.one("normalize", normalize):
        share = np.tensordot(weights, agrees.astype(np.float64), 1)
        total = total / np.where(np.abs(share) <= (0 if elect else 1e-8), 1.0, share)
    return base + given.one("lambda", 1.0) * total


def task_arithmetic(base: Array, models: Sequence[Array], given: Given) -> Array:
    return _sum(base, [x - base for x in models], given, elect=False, normalize=False)


def _largest(delta: Array, density: float) -> Array:
    """Select the largest magnitudes, and the first ones among ties."""
    count = 0 if density <= 0 else max(1, int(density * delta.size))
    kept = np.zeros(delta.size)
    places = np.argsort(-np.abs(delta.ravel()), kind="stable")[:count]
    kept[places] = delta.ravel()[places]
    return kept.reshape(delta.shape)


def ties(base: Array, models: Sequence[Array], given: Given) -> Array:
    deltas, rescale = [x - base for x in models], given.one("rescale", False)
    kept = [_rescaled(x, _largest(x, d), rescale) for x, d in zip(deltas, given.each("density", 1.0), strict=True)]
    return _sum(base, kept, given, elect=True, normalize=True)


def _band(delta: Array, density: float, gamma: float) -> Array:
    """Drop the largest and the smallest magnitudes."""
    if density >= 1:
        return delta
    size = delta.size
    count, top = int(density * size), int(gamma * size)
    bottom = max(0, size - count - top)
    places = np.argsort(np.abs(delta.ravel()), kind="stable")[bottom : bottom + count]
    kept = np.zeros(size)
    kept[places] = delta.ravel()[places]
    return kept.reshape(delta.shape)


def _breadcrumbs(base: Array, models: Sequence[Array], given: Given, elect: bool) -> Array:
    deltas, shares = [x - base for x in models], zip(given.each("density", 1.0), given.each("gamma", 0.01), strict=True)
    kept = [_band(x, *share) for x, share in zip(deltas, shares, strict=True)]
    rescaled = [_rescaled(x, y, given.one("rescale", False)) for x, y in zip(deltas, kept, strict=True)]
    return _sum(base, rescaled, given, elect, normalize=False)


def _dropped(base: Array, models: Sequence[Array], given: Given, elect: bool, normalize: bool, chances: Any) -> Array:
    """DARE and DELLA: keep an element if its uniform number is below its probability."""
    deltas = [x - base for x in models]
    kept = []
    for model, (delta, density) in enumerate(zip(deltas, given.each("density", 1.0), strict=True)):
        drawn = given.uniform(model).reshape(delta.shape)
        stays = np.where(drawn < chances(model, delta, density), delta, 0.0)
        kept.append(delta if density >= 1 else _rescaled(delta, stays, given.one("rescale", True)))
    return _sum(base, kept, given, elect, normalize)


def _dare(base: Array, models: Sequence[Array], given: Given, elect: bool) -> Array:
    return _dropped(base, models, given, elect, False, lambda model, delta, density: density)


def _della(base: Array, models: Sequence[Array], given: Given, elect: bool) -> Array:
    epsilons = given.each("epsilon", 0.15)

    def chances(model: int, delta: Array, density: float) -> Array | float:
        if density <= 0:
            return 0.0
        ranks = np.argsort(np.argsort(np.abs(delta), axis=-1, kind="stable"), axis=-1)  # 0 is the smallest
        return density - epsilons[model] + 2 * epsilons[model] * ranks / (delta.shape[-1] - 1)

    return _dropped(base, models, given, elect, elect, chances)


def sce(base: Array, models: Sequence[Array], given: Given) -> Array:
    deltas = np.stack([x - base for x in models])
    share = given.one("select_topk", 1.0)
    if share < 1:
        variance = deltas.var(0).ravel()
        places = np.argsort(-variance, kind="stable")[: int(share * np.count_nonzero(variance))]
        chosen = np.zeros(variance.size)
        chosen[places] = 1
        deltas = deltas * chosen.reshape(base.shape)
    energy = (deltas**2).reshape(len(models), -1).sum(1)
    energy = energy / energy.sum() if energy.sum() > 0 else np.full(len(models), 1 / len(models))
    agrees = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1.0, -1.0)
    share = np.tensordot(energy, agrees.astype(np.float64), 1)
    return base + np.tensordot(energy, deltas * agrees, 1) / np.where(share == 0, 1.0, share)


def model_stock(base: Array, models: Sequence[Array], given: Given) -> Array:
    deltas, count = [x - base for x in models], len(models)
    axis = -1 if given.one("filter_wise", False) and base.ndim else None
    cosine = 0.0
    for one, other in itertools.combinations(deltas, 2):
        norms = np.sqrt((one**2).sum(axis, keepdims=True) * (other**2).sum(axis, keepdims=True))
        product = (one * other).sum(axis, keepdims=True) / np.where(norms == 0, 1.0, norms)
        cosine = cosine + product / (count * (count - 1) / 2)
    divisor = 1 + (count - 1) * cosine
    t = np.where(np.abs(divisor) < 1e-6, 0.0, count * cosine / np.where(divisor == 0, 1.0, divisor))
    return t * sum(models) / count + (1 - t) * base


def nearswap(base: Array, models: Sequence[Array], given: Given) -> Array:
    (other,) = models
    distance = np.abs(base - other)
    share = np.clip(given.one("t", None) / np.where(distance == 0, 1.0, distance), 0, 1)
    return share * other + (1 - share) * base


def arcee_fusion(base: Array, models: Sequence[Array], given: Given) -> Array:
    (other,) = models

    def softmax(x: Array) -> Array:
        powers = np.exp(x - x.max(-1, keepdims=True))
        return powers / powers.sum(-1, keepdims=True) + 1e-8

    p, q = softmax(other), softmax(base)
    importance = np.abs(other - base) * np.maximum((p * np.log(p / q)).sum(-1, keepdims=True), 0)
    low, middle, high = np.sort(importance.ravel())[[int(part * (base.size - 1)) for part in (0.25, 0.5, 0.75)]]
    return np.where(importance >= middle + 1.5 * (high - low), other, base)


def _ram(base: Array, models: Sequence[Array], given: Given, strengthen: bool) -> Array:
    epsilon, deltas = given.one("epsilon", 1e-5), np.stack([x - base for x in models])
    changes = np.abs(deltas) > epsilon
    count = changes.sum(0)
    total = np.zeros_like(base)
    for delta, change in zip(deltas, changes, strict=True):
        factor = 1.0
        if strengthen:
            shared, alone = (change & (count > 1)).sum(), (change & (count == 1)).sum()
            ratio = min(shared / max(alone, epsilon), given.one("alpha", 0.2)) if alone else 0.0  # any of them
            factor = 1 + given.one("r", 0.1) * ratio
        total += np.where(change, delta, 0.0) * np.where(count == 1, factor, 1 / np.maximum(count, 1))
    return base + total


def _variant(formula: Callable[..., Array], switch: bool) -> Callable[..., Array]:
    return lambda base, models, given: formula(base, models, given, switch)


FORMULAE: Mapping[str, Callable[[Any, Sequence[Array], Given], Array]] = {
    **{item.__name__: item for item in (linear, passthrough, slerp, nuslerp, multislerp, karcher)},
    **{item.__name__: item for item in (task_arithmetic, ties, sce, model_stock, nearswap, arcee_fusion)},
    "dare_linear": _variant(_dare, False),
    "dare_ties": _variant(_dare, True),
    "della": _variant(_della, True),
    "della_linear": _variant(_della, False),
    "breadcrumbs": _variant(_breadcrumbs, False),
    "breadcrumbs_ties": _variant(_breadcrumbs, True),
    "ram": _variant(_ram, False),
    "ramplus_tl": _variant(_ram, True),
}
"""The formulas, by method name."""
