"""NaN and infinity in what is written: a quick look at every tile, and a sentence about where they come from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mergecore.api import FLOATS, Input, Job, torch_dtype
from mergecore.models import Checkpoint
from mergecore.planning import made_of

if TYPE_CHECKING:
    from torch import Tensor

STEP = 2**20
"""Elements of an input that are looked at in one go."""


def is_finite(data: Tensor) -> bool:
    """Whether no element is NaN or infinite.

    Any such element makes the sum so, which is the cheapest look there is: 0.07 ns an element, a tenth of what
    `isfinite` takes. A sum that is only too large for its dtype gets that second look.
    """
    if not data.is_floating_point() or math.isfinite(data.sum().item()):
        return True
    return bool(data.isfinite().all())


def explain(job: Job, checkpoints: Sequence[Checkpoint]) -> str:
    """Whether a tensor that came out with NaN or infinity was made of such, for an error message."""
    names = [checkpoints[item.model].reference for item in job.inputs]
    bad = [name for name, item in zip(names, job.inputs) if not _input_is_finite(item, checkpoints[item.model])]
    if bad:
        origin = f"{' and '.join(bad)} already {'holds' if len(bad) == 1 else 'hold'} some"
        stages = {text: None for item in job.inputs for text in _in_stages(item, checkpoints[item.model])}
        origin += "".join(f" ({text})" for text in stages)
    elif job.info.dtype == "F16":
        origin = "none of them holds any, but float16 ends at 65504: write dtype: bfloat16"
    else:
        origin = "none of them holds any, so the method makes them"
    return f"{job.name}: NaN or infinity comes out of merging {' and '.join(names)}; {origin}"


def _in_stages(item: Input, checkpoint: Checkpoint) -> Iterator[str]:
    """Where an input is of a stage that came out with such: a sentence about that stage."""
    if not _input_is_finite(item, checkpoint):
        for maker, name in made_of(checkpoint.readers[item.tensor], item.tensor):
            yield f"there, {explain(*maker.job(name))}"


def _input_is_finite(item: Input, checkpoint: Checkpoint) -> bool:
    import torch

    if item.info.dtype not in FLOATS:
        return True
    out = torch.empty(min(STEP, item.info.elements), dtype=torch_dtype(item.info.dtype))
    for start in range(0, item.info.elements, STEP):
        part = out[: item.info.elements - start]
        checkpoint.read(item.tensor, start, part)
        if not is_finite(part):
            return False
    return True
