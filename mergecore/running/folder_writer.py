"""Write tensors to weight files in several folders, such as those of sentence-transformers modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from mergecore.api import BytesWriter, PlacedWriter, TensorInfo, Writer
from mergecore.api.memory import write_from


class FolderWriter(BytesWriter):
    """Gives the tensors of each label to their own writer. See `mergecore.api.Writer`.

    Args:
        tensors: all tensors.
        split: returns the label of a tensor, which its name starts with, and the rest of its name.
        make: opens the files of a label for the tensors with their own names.
    """

    places: Mapping[str, tuple[Path, int]]

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        split: Callable[[str], tuple[str, str]],
        make: Callable[[str, Mapping[str, TensorInfo]], Writer],
    ) -> None:
        self._tensors = tensors
        self._split = {name: split(name) for name in tensors}
        groups: dict[str, dict[str, TensorInfo]] = {}
        for name, (label, own) in self._split.items():
            groups.setdefault(label, {})[own] = tensors[name]
        self._writers: dict[str, Writer] = {}
        places: dict[str, tuple[Path, int]] = {}
        try:
            for label, group in groups.items():
                writer = self._writers[label] = make(label, group)
                if isinstance(writer, PlacedWriter):
                    places.update({label + name: place for name, place in writer.places.items()})
        except BaseException:
            self.close()
            raise
        self.places = places

    def write_bytes(self, name: str, start: int, data: memoryview) -> None:
        """See `mergecore.api.BytesWriter.write_bytes`."""
        label, own = self._split[name]
        write_from(self._writers[label], own, start, data, self._tensors[name].dtype)

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


def module_writer(
    make: Callable[[Path, Mapping[str, TensorInfo], int], Writer],
    modules: Collection[str],
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    shard_bytes: int,
) -> FolderWriter:
    """Open the files of a sentence-transformers model.

    Args:
        make: opens the files of a folder.
        modules: folders of modules. Names of tensors that belong there start with ``FOLDER/``.
        folder: folder of the model.
        tensors: all tensors.
        shard_bytes: see `mergecore.api.Writer`.
    """

    def split(name: str) -> tuple[str, str]:
        path, slash, rest = name.partition("/")
        return (f"{path}/", rest) if slash and path in modules else ("", name)

    def opened(label: str, own: Mapping[str, TensorInfo]) -> Writer:
        (folder / label).mkdir(exist_ok=True)
        return make(folder / label, own, 2**62 if label else shard_bytes)  # the library reads one file of a module

    return FolderWriter(tensors, split, opened)
