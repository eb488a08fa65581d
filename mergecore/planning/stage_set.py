"""The planned stages of a recipe, each exposed as a checkpoint, with a temporary folder for their files."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from mergecore.discovery import Registry
from mergecore.errors import MergecoreError, RecipeError
from mergecore.models import Checkpoint
from mergecore.planning.plan import Plan
from mergecore.planning.stage_checkpoint import open_stage


class StageSet:
    """The stages planned so far.

    Attributes:
        plans: their plans, by reference.
        scratch: temporary folder with a subfolder for each stage, which has all of its files except the weights.
    """

    def __init__(self, registry: Registry) -> None:
        self.plans: dict[str, Plan] = {}
        self.scratch: TemporaryDirectory[str] | None = None
        self._registry = registry

    def expose(self, reference: str, plan: Plan) -> Checkpoint:
        """Add a stage and return it as a checkpoint."""
        self.scratch = self.scratch or TemporaryDirectory(prefix="mergecore-")
        self.plans[reference], model = open_stage(reference, plan, Path(self.scratch.name), self._registry)
        return model

    def needed_by(self, recipe_stages: list[str]) -> dict[str, Plan]:
        """Return the plans of these stages and of the stages that they are built from."""
        found: dict[str, Plan] = {}
        for reference in recipe_stages:
            found |= {**self.plans[reference].stages, reference: self.plans[reference]}
        return found

    def explain(self, error: MergecoreError) -> MergecoreError:
        """Replace the temporary folders of stages in an error message with the names of the stages."""
        if self.scratch is not None:
            for item in error.errors if isinstance(error, RecipeError) else (error,):
                item.args = tuple(str(text).replace(f"{self.scratch.name}/", "stage ") for text in item.args)
        return error

    def close(self) -> None:
        """Remove the temporary folder."""
        if self.scratch is not None:
            self.scratch.cleanup()
