"""Post-processor that writes config.json and copies the other model files, such as the tokenizer, from one model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mergecore.api import TOKENIZER_FILES, MergedModel, ModelError, ModelInfo, PostProcessor, lies_within, read_text

CARRIED = (
    "generation_config.json",
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
"""Patterns of the files to copy, relative to the model folder. Besides tokenizer files, no others are copied."""

MODULE_FILES = ("*.json", "*.txt")
"""Files of sentence-transformers modules that follow the merged transformer. Their weights are merged as well."""

MODULES = "modules.json"
MODULES_LIMIT = 10**6
"""Maximum size of modules.json in bytes. It lists only a few modules."""


class Config(PostProcessor):
    """Write config.json and copy tokenizer, processor, and code files from the config source. Keep existing files."""

    of_stages = True

    def run(self, model: MergedModel) -> None:
        config = model.folder / "config.json"
        if not config.exists():
            config.write_text(json.dumps(dict(model.config), indent=2) + "\n", "utf-8")
        config_source = model.models[model.config_source]
        for source, name in carried_files(config_source, model.warn):
            target = model.folder / name
            if not target.exists():
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(source, target)
        folder = config_source.folder.resolve()
        if _root(folder) != folder:
            _move_transformer(model.folder / MODULES, folder.name)


def carried_files(info: ModelInfo, warn: Callable[[str], None]) -> Iterator[tuple[Path, Path]]:
    """Yield the regular files of a model to copy with the merged weights, and their paths in the output.

    Warn about links that leave the model.
    """
    folder, words = info.folder.resolve(), info.tokenizer_folder.resolve()
    root = _root(folder)
    patterns = [*CARRIED, *(f"{module}/{pattern}" for module in _modules(root) for pattern in MODULE_FILES)]
    places = [(place, pattern, root) for place in {root, folder} for pattern in patterns]
    places += [(words, pattern, root if words == folder else words) for pattern in TOKENIZER_FILES]
    found = {path.relative_to(place): (path, home) for place, pattern, home in places for path in place.glob(pattern)}
    for name, (path, home) in sorted(found.items()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if lies_within(home, path):
            yield path, name
        else:
            warn(f"{path}: is a link to a file outside the model's folder, so it is not copied")


def _root(folder: Path) -> Path:
    """Return the folder with modules.json. Older sentence-transformers put the transformer in a folder inside it."""
    inside = not (folder / MODULES).exists() and folder.name in (path for path, _ in _listed(folder.parent))
    return folder.parent if inside else folder


def _move_transformer(file: Path, path: str) -> None:
    """Change modules.json so that the transformer is in the model's folder, as newer versions write it."""
    modules = json.loads(file.read_text("utf-8"))
    moved = [{**module, "path": ""} if module["path"] == path else module for module in modules]
    file.write_text(json.dumps(moved, indent=2) + "\n", "utf-8")


def _listed(folder: Path) -> list[tuple[str, str]]:
    """Return the path and class of each module of a sentence-transformers model. There are none in other models."""
    try:
        modules = json.loads(read_text(folder / MODULES, MODULES_LIMIT))
        return [(str(module["path"]), str(module["type"])) for module in modules]
    except (ModelError, ValueError, TypeError, KeyError, RecursionError):
        return []


def _modules(folder: Path) -> Iterator[str]:
    """Yield the module folders of a sentence-transformers model, except the transformer, whose files are copied."""
    for path, kind in _listed(folder):
        # Only plain names, so that nothing outside the two folders is read or written and no name is a glob pattern.
        if path.replace("_", "").isalnum() and not kind.endswith("Transformer"):
            yield path
