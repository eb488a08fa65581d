"""Post-processor that writes config.json and copies the other model files, such as the tokenizer, from one model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mergecore.api import TOKENIZER_FILES, MergedModel, ModelError, PostProcessor, lies_within, read_text

CARRIED = (
    "generation_config.json",
    *TOKENIZER_FILES,
    # Image, audio, and video processors.
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    # Custom code referenced by `auto_map` in config.json or tokenizer_config.json, and its imports.
    "*.py",
    # sentence-transformers. The folders of its modules are added separately.
    "modules.json",
    "config_sentence_transformers.json",
    "sentence_*_config.json",
)
"""Patterns of the files to copy, relative to the model folder. No other files are copied."""

MODULE_FILES = ("*.json", "*.txt", "model.safetensors", "pytorch_model.bin")
"""Files of sentence-transformers modules that follow the merged transformer. A Dense head needs its weights to load."""


MODULES_LIMIT = 10**6
"""Maximum size of modules.json in bytes. It lists only a few modules."""


class Config(PostProcessor):
    """Write config.json and copy tokenizer, processor, and code files from the config source. Keep existing files."""

    of_stages = True

    def run(self, model: MergedModel) -> None:
        config = model.folder / "config.json"
        if not config.exists():
            config.write_text(json.dumps(dict(model.config), indent=2) + "\n", "utf-8")
        config_source = model.models[model.config_source].folder.resolve()
        for source in carried_files(config_source, model.warn):
            target = model.folder / source.relative_to(config_source)
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target)


def carried_files(folder: Path, warn: Callable[[str], None]) -> Iterator[Path]:
    """Yield the regular files of a model folder to copy with the merged weights. Warn about links out of the folder."""
    patterns = [*CARRIED, *(f"{module}/{pattern}" for module in _modules(folder) for pattern in MODULE_FILES)]
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
        if path.name.startswith(".") or not path.is_file():
            continue
        if lies_within(folder, path):
            yield path
        else:
            warn(f"{path}: is a link to a file outside the model's folder, so it is not copied")


def _modules(folder: Path) -> Iterator[str]:
    """Yield the module folders of a sentence-transformers model, except the transformer, whose weights were merged."""
    try:
        modules = json.loads(read_text(folder / "modules.json", MODULES_LIMIT))
        found = [(str(module["path"]), str(module["type"])) for module in modules]
    except (ModelError, ValueError, TypeError, KeyError, RecursionError):
        return
    for path, kind in found:
        # Only plain names, so that nothing outside the two folders is read or written and no name is a glob pattern.
        if path.replace("_", "").isalnum() and not kind.endswith("Transformer"):
            yield path
