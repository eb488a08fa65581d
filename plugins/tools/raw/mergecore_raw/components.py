"""Writes the components of a diffusers folder, and carries over what lies beside their weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mergecore.api import MergedModel, PostProcessor, TensorInfo, lies_within
from mergecore.builtin.safetensors import SafetensorsWriter

if TYPE_CHECKING:
    from torch import Tensor

NOT_CARRIED = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".onnx_data", ".msgpack", ".h5", ".gguf", ".py")
"""Suffixes of weights, which are merged or another copy of what is merged, and of code."""

LARGEST = 10**8
"""Bytes of a file that is carried over; tokenizers have a fraction of that."""


class ComponentsWriter:
    """Writes tensors called ``COMPONENT/STEM/NAME`` into ``COMPONENT/STEM.safetensors``; see `mergecore.api.Writer`."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None:
        groups: dict[tuple[str, str], dict[str, TensorInfo]] = {}
        for name, info in tensors.items():
            component, stem, own = name.split("/", 2)
            groups.setdefault((component, stem), {})[own] = info
        self._writers: dict[tuple[str, str], SafetensorsWriter] = {}
        try:
            for (component, stem), group in groups.items():
                (folder / component).mkdir(exist_ok=True)
                self._writers[component, stem] = SafetensorsWriter(folder / component, group, shard_bytes, stem)
        except BaseException:
            self.close()
            raise

    def write(self, name: str, start: int, data: Tensor) -> None:
        """See `mergecore.api.Writer.write`."""
        component, stem, own = name.split("/", 2)
        self._writers[component, stem].write(own, start, data)

    def sync(self) -> None:
        """See `mergecore.api.Writer.sync`."""
        for writer in self._writers.values():
            writer.sync()

    def finish(self) -> None:
        """Write an index for every component of several files."""
        for writer in self._writers.values():
            writer.finish()

    def close(self) -> None:
        """See `mergecore.api.Writer.close`."""
        for writer in self._writers.values():
            writer.close()


class Carry(PostProcessor):
    """Copies what lies beside the weights in the donor's folder: model_index.json, configs, tokenizers, schedulers."""

    def run(self, model: MergedModel) -> None:
        donor = model.models[model.donor].folder
        for source in beside(donor, model.warn):
            target = model.folder / source.relative_to(donor)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def beside(folder: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """The files of a diffusers folder that are neither weights nor code; what cannot be taken is named."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if len(parts) > 3 or any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if path.suffix in NOT_CARRIED or ".index" in path.suffixes or path.name == "README.md":
            continue
        if not lies_within(folder, path):
            warn(f"{path}: is a link that leads out of the model's folder, so it is not copied")
        elif path.stat().st_size > LARGEST:
            warn(f"{path}: is larger than {LARGEST / 1e6:.0f} MB, so it is not copied")
        else:
            yield path
