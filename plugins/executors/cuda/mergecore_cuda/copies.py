"""Copies between pinned memory and a GPU, with one stream per direction. On the CPU, nothing is copied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Copies:
    """Copies to and from one device, for the single thread that computes on it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"
        self._up, self._down = [torch.cuda.Stream(device) if self._cuda else None for _ in range(2)]

    def room(self) -> int | None:
        """Return the free device memory in bytes, or None if the device has no separate memory."""
        return torch.cuda.mem_get_info(self.device)[0] if self._cuda else None

    def buffer(self, elements: int, dtype: torch.dtype) -> Tensor:
        """Return host memory that supports asynchronous copies."""
        return torch.empty(elements, dtype=dtype, pin_memory=self._cuda)

    def upload(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], Callable[[], None]]:
        """Return the tensors on the device, ordered before later work, and a function that waits for the copies."""
        if self._up is None:
            return list(tensors), _nothing
        with torch.cuda.stream(self._up):
            copies = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
            copied = self._up.record_event()
        computing = torch.cuda.current_stream(self.device)
        computing.wait_event(copied)
        for copy in copies:
            copy.record_stream(computing)  # so that its memory is not reused before the computation is done
        return copies, copied.synchronize

    def download(self, tensor: Tensor, out: Tensor) -> Callable[[], None]:
        """Copy a computed tensor to `out` and return a function that waits for the copy."""
        if self._down is None:
            out.copy_(tensor)
            return _nothing
        self._down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._down):
            out.copy_(tensor, non_blocking=True)
            copied = self._down.record_event()
        tensor.record_stream(self._down)
        wait: Callable[[], None] = copied.synchronize
        return wait

    def brought(self, value: Any) -> Any:
        """Return a measured value with its tensors on the device, including those in tuples, lists, and dicts."""
        if isinstance(value, Tensor):
            return value.to(self.device)
        if isinstance(value, dict):
            return {key: self.brought(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [self.brought(item) for item in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value


def _nothing() -> None:
    """Return at once, because there is nothing to wait for."""
