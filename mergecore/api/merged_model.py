"""The interface of post-processors, which get the merged model in its folder and the models it was merged from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mergecore.api.evaluation import Evaluation
from mergecore.api.files import TensorInfo


@dataclass(frozen=True)
class ModelInfo:
    """An input model.

    Attributes:
        reference: the model as written in the recipe.
        folder: folder with its files. For a stage, all files except the weights.
        config: contents of its config.json.
        card: license and language from its README.md, for `license_kind`. See `mergecore.api.read_card`.
        revision: commit hash of a model from the Hub.
        stage: the merge that produces it, if it is a stage that is not written to disk. None for a model in files.
        tensors: its tensors.
        name: the reference without paths of this machine, for files of the result, which users share.
        tokenizer: folder of its tokenizer, if that is not `folder` because an adapter has its own.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    card: Mapping[str, Any] = field(default_factory=dict)
    revision: str | None = None
    stage: MergedModel | None = None
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    name: str = ""
    tokenizer: Path | None = None

    @property
    def tokenizer_folder(self) -> Path:
        """Folder of its tokenizer files."""
        return self.tokenizer or self.folder


@dataclass(frozen=True)
class MergedModel:
    """The merged model, passed to post-processors once the weights are written.

    Attributes:
        name: final name of the output folder.
        folder: folder to write to. It becomes the output folder when all post-processors are done.
        recipe: YAML text of the recipe.
        method: entry-point name of the merge method.
        method_doc: docstring of the method.
        models: the input models, in the order of the recipe.
        config_source: index in `models` of the config source, whose config and other files the output uses.
        architecture: name of the model class, as in config.json.
        config: contents of the output's config.json.
        tensors: the output's tensors.
        base: index in `models` of the recipe's base model, if it names one.
        tokenizer_files: every tokenizer file of the output, by name. None copies the files of the config source.
        evaluations: the evaluations that the recipe requests.
        command: the ``mergecore`` command that merged the recipe. If it has several words, it is the whole command
            line of a tool that takes no recipe.
        warn: shows a warning to the user.
        tell: prints a line for the user, unless the run is quiet.
        memory: memory budget of the run in bytes, which the post-processor must respect.
        owns: called with the name of each file that `put` writes, before and after, to record that it is not a user's.
        choices: what the user chose for post-processors, by their names, such as ``{"health": "full"}``.
    """

    name: str
    folder: Path
    recipe: str
    method: str
    method_doc: str
    models: tuple[ModelInfo, ...]
    config_source: int
    architecture: str
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    base: int | None = None
    tokenizer_files: Mapping[str, bytes] | None = None
    evaluations: Sequence[Evaluation] = ()
    command: str = "run"
    warn: Callable[[str], None] = warnings.warn
    tell: Callable[[str], None] = lambda text: None
    memory: int = 0
    owns: Callable[[str], None] = lambda name: None
    choices: Mapping[str, str] = field(default_factory=dict)

    def put(self, name: str, text: str) -> None:
        """Write a file into `folder`, or replace it as a whole, so that nobody ever sees half of it.

        Invalid Unicode, which names of folders can contain, is replaced.
        """
        self.owns(name)
        path = self.folder / name
        new = path.with_name(f".{path.name}.new")
        with new.open("wb") as file:
            file.write(text.encode("utf-8", "replace"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
        self.owns(name)


class PostProcessor:
    """Base class for steps after the weights are written, such as config, tokenizer, model card, check, or upload."""

    after: ClassVar[tuple[str, ...]] = ()
    """Names of post-processors that must run before this one."""
    of_stages: ClassVar[bool] = False
    """Whether it also runs for stages, during planning and without weights. This is needed for files that a merge
    takes from its models, such as the tokenizer."""

    def run(self, model: MergedModel) -> None:
        """Add files to `model.folder`."""
        raise NotImplementedError

    def after_publish(self, model: MergedModel) -> None:
        """Add files to the finished output folder, which is `model.folder` now, or replace them with `model.put`.

        This is for steps that should not delay the output, such as a check of the model. The lock file does not list
        these files. A failure is shown as a warning, and the output is kept.
        """
