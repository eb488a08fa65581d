"""Plot what each method does to the changes of two synthetic fine-tunes, weight by weight."""

from __future__ import annotations

import io
from typing import Any

import torch

from mergecore.api import Base, DeltaMethod, Method
from mergecore.discovery.parameters import declared
from mergecore.inmemory import merge_tensors

SIDE = 24
"""Rows and columns of the matrix."""
CHANGED = 0.7
"""The fraction of weights that a fine-tune changes."""
SIZE = 0.3
"""Standard deviation of the changes, where that of the base's weights is 1."""
SHOWN = {"density": 0.5, "gamma": 0.1, "select_topk": 0.5, "t": 0.3, "weight": 1.0}
"""Values by parameter name that show what a method does, for parameters whose default does not or that have none."""


def settings(method: type[Method]) -> dict[str, Any]:
    """Return the parameters for which the plot does not use the default."""
    return {
        name: SHOWN[name] for name, item in declared(method).items() if name in SHOWN and item.default != SHOWN[name]
    }


def models_of(method: type[Method]) -> int:
    """Return the number of fine-tunes in the plot: two if the method accepts that many in addition to the base."""
    high = method.models[1]
    beside = method.base is Base.REQUIRED and not issubclass(method, DeltaMethod)
    return 2 if high is None else min(2, high - beside)


def plot(name: str, method: type[Method]) -> bytes:
    """Return the plot as SVG: the merged change against A's change, colored by B's change."""
    import matplotlib
    from matplotlib.figure import Figure

    base, a, b, merged = example(name, method)
    matplotlib.rcParams.update({"svg.hashsalt": "mergecore", "svg.fonttype": "none", "font.family": "sans-serif"})
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    limit = 3.2 * SIZE
    axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    axes.plot([-limit, limit], [-limit, limit], color="0.5", linewidth=0.8, linestyle="--", zorder=0)
    colors = {"c": b.flatten(), "cmap": "coolwarm", "vmin": -2 * SIZE, "vmax": 2 * SIZE}
    dots = axes.scatter(a.flatten(), (merged - base).flatten(), s=11, linewidths=0.2, edgecolors="0.4",
                        **(colors if models_of(method) == 2 else {"color": "#00897b"}))  # fmt: skip
    axes.set(xlabel="change in A", ylabel="change in the merged model", xlim=(-limit, limit))
    if models_of(method) == 2:
        figure.colorbar(dots, label="change in B")
    out = io.BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def example(name: str, method: type[Method]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the base, A's change, B's change, and the merged matrix."""
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(SIDE, SIDE, generator=generator)
    shared, *own = torch.randn(3, SIDE, SIDE, generator=generator)
    a, b = (
        (shared + change) / 2**0.5 * SIZE * (torch.rand(SIDE, SIDE, generator=generator) < CHANGED) for change in own
    )
    tuned = [base + change for change in (a, b)[: models_of(method)]]
    if method.base is Base.INPUT:
        return base, a, b, merge_tensors(tuned, method, settings(method), name=name)
    return base, a, b, merge_tensors([base, *tuned], method, settings(method), base=0, name=name)
