"""The heatmaps as a PNG, drawn with matplotlib."""

from __future__ import annotations

import importlib.util
import io
import math

from mergecore.api import InputError
from mergecore.tooling import printable
from mergecore_diff.panels import Panel, panels
from mergecore_diff.report import Report


def check_matplotlib() -> None:
    """Raise `InputError` if matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InputError('--png requires matplotlib: pip install "mergecore-diff[png]"; --html does not')


def picture(found: Report) -> bytes:
    """Return a PNG with all heatmaps side by side.

    Raises:
        InputError: The models have no layers to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    layers, kinds = list(found.survey.layers), list(found.survey.kinds)
    if not layers:
        raise InputError("--png: the models share no weights in any layer, so there is nothing to draw")
    drawn = panels(found)
    columns = min(len(drawn), 4)
    rows = math.ceil(len(drawn) / columns)
    size = (1.2 + 0.34 * len(kinds) + 1.2, 1.6 + 0.16 * len(layers))
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    for index, panel in enumerate(drawn):
        _draw(figure.add_subplot(rows, columns, index + 1), panel, layers, kinds)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    return stream.getvalue()


def _draw(axes, panel: Panel, layers: list[str], kinds: list[str]) -> None:  # type: ignore[no-untyped-def]
    below = min((value for row in panel.values for value in row if math.isfinite(value)), default=0.0)
    signed = below < 0 or panel.limit == 1.0
    image = axes.imshow(
        panel.values,
        aspect="auto",
        cmap="RdBu" if signed else "Blues",
        vmin=-panel.limit if signed else 0.0,
        vmax=panel.limit or 1.0,
    )
    axes.set_title(printable(panel.title).replace("$", r"\$"), fontsize=8)
    axes.set_xticks(
        range(len(kinds)), [printable(kind).replace("$", r"\$") for kind in kinds], rotation=60, ha="right", fontsize=6
    )
    axes.set_yticks(range(len(layers)), layers, fontsize=5)
    axes.figure.colorbar(image, ax=axes).ax.tick_params(labelsize=6)
