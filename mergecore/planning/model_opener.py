"""Open the stored models of a recipe and its stages, each once, from their places in the lock file if there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mergecore.definitions import recipe_definitions
from mergecore.discovery import Registry
from mergecore.errors import InputError, nearest
from mergecore.models import Checkpoint, LocatedModel, find_adapter, locate_model, open_model
from mergecore.recipes import Lock, Recipe

Opening = Callable[[str, Registry], Checkpoint]
"""A function that opens a model reference from a recipe."""


class ModelOpener:
    """Opens each stored model once across all recipes.

    Args:
        registry: the plugins.
        lock: the lock file that the recipe comes from, if any. Models must be as recorded there.
        opening: opens the models, for tools that do not use model folders.

    Attributes:
        tokenizer_sources: the models used only for their tokenizers, by reference.
    """

    def __init__(self, registry: Registry, lock: Lock | None, opening: Opening | None) -> None:
        self.tokenizer_sources: dict[str, LocatedModel] = {}
        self._registry, self._lock, self._opening = registry, lock, opening
        self._opened: dict[str, Checkpoint] = {}

    def open(self, recipe: Recipe, reference: str) -> Checkpoint:
        """Open a model that a recipe refers to.

        Raises:
            RecipeError: if it cannot be opened. The error names the place in the recipe.
            InputError: if it differs from the lock file.
        """
        try:
            opened = self._open(recipe, self._where(reference))
        except InputError as error:
            hint = nearest(reference, recipe.others) if "did you mean" not in str(error) else ""
            raise recipe.place_of(reference).error(f"{error}{hint}") from None
        known = self._opened.setdefault(opened.origin, opened)
        if known is not opened:
            opened.close()
        self._check(reference, known)
        return replace(known, reference=reference)

    def locate_adapters(self, references: Sequence[str]) -> list[LocatedModel]:
        """Find the folders of adapters."""
        found = [LocatedModel(name, find_adapter(self._where(name)), None) for name in references]
        for adapter in found:
            self._check(adapter.reference, adapter)
        return found

    def locate_tokenizer(self, reference: str) -> Path:
        """Find the folder of a model used only for its tokenizer. See `find` in `mergecore.api.TokenizerRequest`."""
        source = self.tokenizer_sources[reference] = LocatedModel(reference, *locate_model(self._where(reference)))
        self._check(reference, source)
        return source.folder

    def close_with(self, reference: str, checkpoint: Checkpoint) -> None:
        """Close another checkpoint together with the models."""
        self._opened[reference] = checkpoint

    def close(self) -> None:
        """Close all files."""
        for checkpoint in self._opened.values():
            checkpoint.close()

    def _open(self, recipe: Recipe, reference: str) -> Checkpoint:
        if self._opening is not None:
            return self._opening(reference, self._registry)
        return open_model(reference, self._registry, recipe_definitions(recipe.architectures))

    def _where(self, reference: str) -> str:
        return self._lock.where(reference) if self._lock else reference

    def _check(self, reference: str, model: Checkpoint | LocatedModel) -> None:
        if self._lock:
            self._lock.check_input(reference, model.folder, model.snapshot is not None)
