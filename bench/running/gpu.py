"""Measure merging on a GPU without files, relative to its memory bandwidth and the host-to-device bandwidth."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from mergecore_cuda import TILE_ELEMENTS, CudaExecutor

from mergecore.api import Input, Job, TensorInfo, Work
from mergecore.discovery.entry_points import find_plugin, load_plugin
from mergecore.inmemory import with_parameters

ELEMENTS, TENSORS = 2**26, 16
METHODS: dict[str, tuple[int, bool, dict[str, Any]]] = {
    "linear": (3, False, {"weight": 0.3}),
    "slerp": (2, False, {"t": 0.4}),
    "task_arithmetic": (3, True, {"weight": 0.6}),
    "ties": (3, True, {"density": 0.5}),
    "dare_ties": (3, True, {"density": 0.5, "rescale": False}),
}
"""Number of inputs, whether the first is a base to subtract, and the parameters."""


def seconds(action: Callable[[], object], times: int = 5) -> float:
    """Return the shortest time of an action on the GPU."""
    best = float("inf")
    for _ in range(times + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        action()
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


def limits() -> tuple[float, float]:
    """Return GB/s of copies from pinned memory to the GPU and within GPU memory, where reads and writes both count."""
    pinned = torch.empty(TILE_ELEMENTS, pin_memory=True)
    there = torch.empty(TILE_ELEMENTS, device="cuda")
    other = torch.empty_like(there)
    size = pinned.nbytes / 1e9
    up = seconds(lambda: there.copy_(pinned, non_blocking=True))
    return size / up, 2 * size / seconds(lambda: other.copy_(there))


def jobs(name: str) -> list[Job]:
    """Return jobs of one method on bfloat16 models."""
    count, has_base, parameters = METHODS[name]
    method = with_parameters(load_plugin(find_plugin("methods", name)), parameters, count - has_base)
    info = TensorInfo("BF16", (ELEMENTS,))
    inputs = tuple(Input(model, "x", info) for model in range(count))
    return [Job(f"x.{number}", info, inputs, method, has_base) for number in range(TENSORS)]


def measured(name: str, way: float, memory: float) -> str:
    """Return a row of the table."""
    data = torch.randn(ELEMENTS).bfloat16()

    def read(_item: Input, start: int, out: torch.Tensor) -> None:
        out.copy_(data[start : start + len(out)])

    def nothing(*_: object) -> None:
        """Do nothing, because neither files nor progress are measured."""

    made = jobs(name)
    work = Work(made, read, nothing, nothing, nothing, 8 * 2**30, torch.get_num_threads())
    whole = seconds(lambda: CudaExecutor().run(work), times=1)
    uploaded = sum(item.info.nbytes for job in made for item in job.inputs) / 1e9
    job, flat = made[0], [torch.randn(TILE_ELEMENTS, device="cuda") for _ in made[0].inputs]
    ctx = job.context([[tensor.cpu() for tensor in job.models(flat)]])
    tile = (len(flat) + 1) * flat[0].nbytes / 1e9
    here = seconds(lambda: job.merge(flat, ctx))
    rates = uploaded / whole, uploaded / whole / way, tile / here, tile / here / memory
    return "| {} | {:.1f} | {:.0%} | {:.0f} | {:.0%} |".format(name, *rates)


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no GPU, so there is nothing to measure; run this on a machine with a GPU.")
    way, memory = limits()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {torch.cuda.device_count()} GPU")
    print(f"copies to the GPU: {way:.1f} GB/s, within its memory: {memory:.0f} GB/s\n")
    print("| method | uploaded, GB/s | of copies to the GPU | merged, GB/s | of copies in its memory |")
    print("|---|---|---|---|---|")
    for name in METHODS:
        print(measured(name, way, memory), flush=True)


if __name__ == "__main__":
    main()
