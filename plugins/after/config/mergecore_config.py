"""Writes config.json and carries over from one model what belongs beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mergecore.api import TOKENIZER_FILES, MergedModel, ModelError, PostProcessor, lies_within, read_text

CARRIED = (
    "generation_config.json",
    *TOKENIZER_FILES,
    # Processors of images, sound and video.
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    # Code that config.json or the tokenizer's config names in `auto_map`, with what it imports.
    "*.py",
    # sentence-transformers; the modules' folders come on top.
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
)
"""Patterns of the files, relative to the model folder, that are taken over; all others stay behind."""

MODULE_FILES = ("*.json", "*.txt", "model.safetensors", "pytorch_model.bin")
"""Of a sentence-transformers module after the merged transformer: a Dense head does not load without its weights."""


MODULES_LIMIT = 10**6
"""Bytes that modules.json may have; it lists a handful."""


class Config(PostProcessor):
    """Writes the result's config.json; tokenizer, processor and the like are the donor's. Files already there stay."""

    of_stages = True

    def run(self, model: MergedModel) -> None:
        config = model.folder / "config.json"
        if not config.exists():
            config.write_text(json.dumps(dict(model.config), indent=2) + "\n", "utf-8")
        donor = model.models[model.donor].folder.resolve()
        for source in carried_files(donor, model.warn):
            target = model.folder / source.relative_to(donor)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target)


def carried_files(folder: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """The regular files of a model folder that belong beside merged weights; links that lead out of it are named."""
    patterns = [*CARRIED, *(f"{module}/{pattern}" for module in _modules(folder) for pattern in MODULE_FILES)]
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        if path.name.startswith(".") or not path.is_file():
            continue
        if lies_within(folder, path):
            yield path
        else:
            warn(f"{path}: is a link that leads out of the model's folder, so it is not copied")


def _modules(folder: Path) -> Iterator[str]:
    """The folders of a sentence-transformers model's modules, without the transformer, whose weights were merged."""
    try:
        modules = json.loads(read_text(folder / "modules.json", MODULES_LIMIT))
        found = [(str(module["path"]), str(module["type"])) for module in modules]
    except (ModelError, ValueError, TypeError, KeyError, RecursionError):
        return
    for path, kind in found:
        # Plain names only: nothing is read or written outside the two folders, and no name is a pattern.
        if path.replace("_", "").isalnum() and not kind.endswith("Transformer"):
            yield path
