"""Write the tensors of sentence-transformers modules to weight files in the folders of the modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergecore.api import PlacedWriter, TensorInfo, Writer

if TYPE_CHECKING:
    from torch import Tensor


class ModuleWriter:
    """Gives each folder its own writer. See `mergecore.api.Writer`.

    Args:
        make: opens the files of a folder.
        modules: folders of modules. Names of tensors that belong there start with ``FOLDER/``.
        folder: folder of the model.
        tensors: all tensors.
        shard_bytes: see `mergecore.api.Writer`.
    """

    places: Mapping[str, tuple[Path, int]]

    def __init__(
        self,
        make: Callable[[Path, Mapping[str, TensorInfo], int], Writer],
        modules: Collection[str],
        folder: Path,
        tensors: Mapping[str, TensorInfo],
        shard_bytes: int,
    ) -> None:
        self._split = {name: _split(name, modules) for name in tensors}
        self._writers: dict[str, Writer] = {}
        places: dict[str, tuple[Path, int]] = {}
        try:
            for path in dict.fromkeys(path for path, _ in self._split.values()):
                (folder / path).mkdir(exist_ok=True)
                own = {rest: tensors[name] for name, (there, rest) in self._split.items() if there == path}
                # sentence-transformers reads only one file of a module.
                writer = self._writers[path] = make(folder / path, own, 2**62 if path else shard_bytes)
                if isinstance(writer, PlacedWriter):
                    label = f"{path}/" if path else ""
                    places.update({label + name: place for name, place in writer.places.items()})
        except BaseException:
            self.close()
            raise
        self.places = places

    def write(self, name: str, start: int, data: Tensor) -> None:
        """See `mergecore.api.Writer.write`."""
        path, own = self._split[name]
        self._writers[path].write(own, start, data)

    def sync(self) -> None:
        """See `mergecore.api.Writer.sync`."""
        for writer in self._writers.values():
            writer.sync()

    def finish(self) -> None:
        """See `mergecore.api.Writer.finish`."""
        for writer in self._writers.values():
            writer.finish()

    def close(self) -> None:
        """See `mergecore.api.Writer.close`."""
        for writer in self._writers.values():
            writer.close()


def _split(name: str, modules: Collection[str]) -> tuple[str, str]:
    """Return the folder of a tensor and its name there."""
    path, slash, rest = name.partition("/")
    return (path, rest) if slash and path in modules else ("", name)
