"""The input of a check: a plugin, its loaded object, and test data from its author."""

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
        kind, name: kind and name of the plugin.
        loaded: the loaded object, or the content of the JSON of an architecture.
        write: for a reader: writes a file with tensors. If None, the writer of the same name is used.
        model: for an architecture: a folder with a real checkpoint of its class.
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
    """Create an empty temporary folder for a check."""
    with tempfile.TemporaryDirectory(prefix="mergecore-kit-") as path:
        yield Path(path)
