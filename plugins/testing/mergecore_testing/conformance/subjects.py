"""What a check of the kit is given: a plugin, what stands behind it, and what its author lends."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Write = Callable[[Path, Mapping[str, "Tensor"]], object]


@dataclass(frozen=True)
class Subject:
    """A plugin under test.

    Attributes:
        kind, name: of its entry point.
        loaded: the object behind it; of an architecture the content of its JSON.
        write: of a reader: writes a file with some tensors; None: a writer of the same name is asked.
        model: of an architecture: a folder with a real checkpoint of its class.
    """

    kind: str
    name: str
    loaded: Any
    write: Write | None = None
    model: Path | None = None

    def __str__(self) -> str:
        return f"{self.kind.removesuffix('s')} {self.name!r}"


Check = Callable[[Any], None]


@contextmanager
def folder() -> Iterator[Path]:
    """An empty folder for the time of a check."""
    with tempfile.TemporaryDirectory(prefix="mergecore-kit-") as path:
        yield Path(path)
