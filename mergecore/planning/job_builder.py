"""Create the job of each output weight: check shapes and dtypes, and resolve parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from mergecore.api import FLOAT8, FLOATS, Input, Job, Method
from mergecore.api.files import common_dtype, shared_info
from mergecore.errors import ModelError
from mergecore.models import VOCABULARY_CURE, Checkpoint
from mergecore.planning.matching import Match, Part
from mergecore.planning.parameter_values import ParameterValues
from mergecore.planning.stage_reader import read_cost
from mergecore.planning.vocabulary import Aligned
from mergecore.recipes import Recipe

QUANTIZED = "weight"
"""Part of the last word in the names of quantized weights, which are whole numbers but cannot be copied like masks."""


def model_input(model: int, checkpoint: Checkpoint, tensor: str) -> Input:
    """Return a tensor of a checkpoint as the input of a job. `model` is the position of the checkpoint in the plan."""
    scratch = read_cost(checkpoint.readers[tensor], tensor).memory
    return Input(model, tensor, checkpoint.tensors[tensor], scratch)


@dataclass
class JobBuilder:
    """Converts matches to jobs. Checks shapes and dtypes, and resolves parameters."""

    recipe: Recipe
    method: type[Method]
    values: ParameterValues
    aligned: Aligned
    jobs: list[Job] = field(default_factory=list)
    tables: list[Job] = field(default_factory=list)
    """The jobs of weights with one row per token."""
    _copied: dict[str, list[str]] = field(default_factory=dict)
    _lacking: Counter[tuple[str, ...]] = field(default_factory=Counter)

    def add(self, match: Match) -> None:
        """Add the job of one output weight."""
        inputs = tuple(self._input(part) for part in match.parts)
        self._check_shapes(match, inputs)
        if match.lacking:
            self._lacking[match.lacking] += 1
        self.jobs.append(self._job(match, inputs))
        if match.weight.vocabulary_axis == 0:
            self.tables.append(self.jobs[-1])

    def _input(self, part: Part) -> Input:
        checkpoint = self.aligned.checkpoints[part.model]
        if self.recipe.stages:
            return model_input(part.model, checkpoint, part.tensor)
        return Input(part.model, part.tensor, checkpoint.tensors[part.tensor])  # nothing is computed from stages

    def _job(self, match: Match, inputs: tuple[Input, ...]) -> Job:
        name, shape = match.weight.name, inputs[0].info.shape
        shown = self.aligned.dtypes
        dtypes = {shown.get((item.model, item.tensor), item.info.kept) if shown else item.info.kept for item in inputs}
        if not dtypes.issubset(FLOATS):
            return self._copy(match, inputs, dtypes)
        info = shared_info(self.recipe.dtype or common_dtype(dtypes), shape)
        if self._is_lone(match):
            return Job(name, info, inputs[:1], None)
        method = self.values.method_for(match)
        return Job(name, info, inputs, method, match.subtracts(self.method), self.recipe.seed)

    def _copy(self, match: Match, inputs: tuple[Input, ...], dtypes: set[str]) -> Job:
        """Return the job of a tensor that is not merged, such as a counter or a mask."""
        name, chosen = match.weight.name, self.values.copied(match)
        if len(inputs) > 1:
            if not dtypes.isdisjoint(FLOATS):
                raise ModelError(f"{name}: has dtypes {' and '.join(sorted(dtypes))} in different models")
            if not dtypes.isdisjoint(FLOAT8) or QUANTIZED in name.rpartition(".")[2]:
                found = " and ".join(sorted(dtypes))
                raise ModelError(f"{name}: has dtype {found}, which cannot be merged; convert it to a float dtype")
            self._copied.setdefault(chosen.source.model, []).append(name)
        item = inputs[match.parts.index(chosen)]
        return Job(name, item.info, (item,), None)

    def _check_shapes(self, match: Match, inputs: Sequence[Input]) -> None:
        if all(item.info.shape == inputs[0].info.shape for item in inputs):
            return
        shapes: dict[tuple[int, ...], str] = {}
        for item in inputs:
            shapes.setdefault(item.info.shape, self.aligned.checkpoints[item.model].reference)
        found = ", ".join(f"{list(shape)} in {model}" for shape, model in shapes.items())
        axis = match.weight.vocabulary_axis
        widths = {shape[:axis] + shape[axis + 1 :] for shape in shapes} if axis is not None else shapes
        cure = "only models of the same sizes can be merged" if len(widths) > 1 else VOCABULARY_CURE
        raise ModelError(f"{match.weight.name}: the models have different shapes: {found}; {cure}")

    def _is_lone(self, match: Match) -> bool:
        """Return True if only one model has the weight and it is copied from there."""
        if match.alone:
            return True
        low = self.method.models[0]
        subtracted = match.subtracts(self.method)
        if len(match.parts) - subtracted >= low and not match.lacks_base:
            return False
        if len(match.parts) == 1 and (subtracted or self.method.copies_lone):
            return True
        lacking = ", ".join(match.lacking)
        raise ModelError(
            f"{match.weight.name}: is missing from {lacking}, but method {self.recipe.method!r} needs it;"
            " use models that all have it"
        )

    def notes(self) -> list[str]:
        """Return notes about unusual jobs."""
        copied = [
            f"{len(names)} tensor(s) of whole numbers, such as {names[0]}, copied from {model}"
            for model, names in self._copied.items()
        ]
        return copied + [
            f"{count} optional weight(s) missing from {', '.join(models)}: merged from the models that have them"
            for models, count in self._lacking.items()
        ]
