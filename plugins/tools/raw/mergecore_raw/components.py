"""Write the components of a diffusers folder, and copy the other files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mergecore.api import MergedModel, PostProcessor, TensorInfo, lies_within
from mergecore.tooling import FolderWriter, SafetensorsWriter

NOT_CARRIED = (".safetensors", ".bin", ".ckpt", ".pt", ".pth", ".onnx", ".onnx_data", ".msgpack", ".h5", ".gguf", ".py")
"""Suffixes of files that are not copied: weights, which are merged or duplicates of merged ones, and code."""

LARGEST = 10**8
"""Maximum size in bytes of a copied file. Tokenizers are far smaller."""


class ComponentsWriter(FolderWriter):
    """Write ``COMPONENT/STEM/NAME`` tensors to ``COMPONENT/STEM.safetensors``. See `mergecore.api.Writer`."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None:
        def split(name: str) -> tuple[str, str]:
            component, stem, own = name.split("/", 2)
            return f"{component}/{stem}/", own

        def opened(label: str, own: Mapping[str, TensorInfo]) -> SafetensorsWriter:
            component, stem, _ = label.split("/")
            (folder / component).mkdir(exist_ok=True)
            return SafetensorsWriter(folder / component, own, shard_bytes, stem)

        super().__init__(tensors, split, opened)


class Carry(PostProcessor):
    """Copy model_index.json, configs, tokenizers, and schedulers from the folder of the config source."""

    def run(self, model: MergedModel) -> None:
        config_source = model.models[model.config_source].folder
        for source in beside(config_source, model.warn):
            target = model.folder / source.relative_to(config_source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def beside(folder: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files of a diffusers folder that are neither weights nor code. Warn about files that are skipped."""
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if len(parts) > 3 or any(part.startswith(".") for part in parts) or not path.is_file():
            continue
        if path.suffix in NOT_CARRIED or ".index" in path.suffixes or path.name == "README.md":
            continue
        if not lies_within(folder, path):
            warn(f"{path}: is a link that points outside the model's folder, so it is not copied")
        elif path.stat().st_size > LARGEST:
            warn(f"{path}: is larger than {LARGEST / 1e6:.0f} MB, so it is not copied")
        else:
            yield path
