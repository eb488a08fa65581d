"""What an evaluator is given and gives back: a model in, named scores out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol


@dataclass(frozen=True)
class Score:
    """One number that an evaluation found out about a model.

    Attributes:
        name: what was measured, such as ``loss`` or ``accuracy``.
        value: its mean over the samples.
        error: standard error of that mean; 0.0 where nothing says how samples vary.
        count: samples that the mean is of.
        higher_is_better: for accuracies, not for losses.
    """

    name: str
    value: float
    error: float
    count: int
    higher_is_better: bool = False


class Subject(Protocol):
    """A model that is evaluated: a folder, or one in memory that no file holds yet."""

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def model(self) -> Any:
        """The model as transformers loads it, in evaluation mode; shared by all evaluators, so leave it as it is."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer as transformers loads it."""

    @property
    def folder(self) -> Path:
        """A folder with all its files; a model in memory is written there when it is first asked for."""


class Evaluator:
    """Scores models; a frozen dataclass whose fields are its parameters, as a method's are.

    A parameter may also be a `pathlib.Path`, a file named relative to the recipe, and ``tuple[T, ...]``, a list.
    """

    runs_code: ClassVar[bool] = False
    """Whether the parameters name programs or code to run; recipes, which are shared, cannot ask for such ones."""

    def check(self) -> None:
        """Raise `InputError` for what is wrong with the parameters and their files; no model has been loaded yet."""

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        """The scores of a model, the one that a search looks at first."""
        raise NotImplementedError


@dataclass(frozen=True)
class Evaluation:
    """One entry of `evaluate`: an evaluator with its parameters, under the name that its scores have."""

    name: str
    evaluator: Evaluator
