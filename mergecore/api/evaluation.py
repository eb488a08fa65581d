"""The interfaces of evaluators, which score models, and of optimizers, which search for better ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class Score:
    """One number that an evaluation measured for a model.

    Attributes:
        name: the metric, such as ``loss`` or ``accuracy``.
        value: mean over the samples.
        error: standard error of the mean, or 0.0 if the variation between samples is unknown.
        count: number of samples.
        higher_is_better: True for accuracies, False for losses.
    """

    name: str
    value: float
    error: float
    count: int
    higher_is_better: bool = False


class Subject(Protocol):
    """The model to evaluate, either in a folder or only in memory."""

    @property
    def name(self) -> str:
        """Display name of the model."""

    @property
    def model(self) -> Any:
        """The model as loaded by transformers, in evaluation mode. All evaluators share it, so do not modify it."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer as loaded by transformers."""

    @property
    def folder(self) -> Path:
        """Folder with all files of the model. A model in memory is written to disk on first access."""


class Evaluator:
    """Base class for evaluators, which are frozen dataclasses. As in methods, the fields are the parameters.

    A parameter can also be a `pathlib.Path`, which is relative to the recipe, or ``tuple[T, ...]``, which is a list.
    """

    runs_code: ClassVar[bool] = False
    """True if the parameters name programs or code to run. Recipes get shared, so they cannot use such evaluators."""

    def check(self) -> None:
        """Raise `InputError` if the parameters or their files are invalid. Called before any model is loaded."""

    def check_subject(self, subject: Subject) -> None:
        """Raise `InputError` if a model cannot be evaluated, for example because its tokenizer has no chat template.

        Called for all evaluations before the model is loaded, so use only its folder and tokenizer.
        """

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        """Return the scores of a model. A search uses the first one."""
        raise NotImplementedError


@dataclass(frozen=True)
class Evaluation:
    """One entry of `evaluate`: an evaluator with its parameters, and the name to report its scores under."""

    name: str
    evaluator: Evaluator


class Optimizer(Protocol):
    """Minimizes losses over the unit cube. The constructor is called as ``Kind(dimensions, seed, population)``.

    `population` is the number of points per call to `ask`, or 0 to let the optimizer choose. The same seed and losses
    must produce the same points, because a resumed search replays all calls with the losses it already has.
    """

    def ask(self) -> Sequence[Sequence[float]]:
        """Return the next points, each with one number from 0 to 1 per dimension."""

    def tell(self, points: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> None:
        """Receive the losses of the latest points: one row per point, one loss per objective, infinite on failure."""
