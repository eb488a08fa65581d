"""Tasks from EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from mergecore.api import Evaluator, InputError, Score, Subject, param


@dataclass(frozen=True, kw_only=True)
class LmEval(Evaluator):
    """Run tasks of lm-eval (https://github.com/EleutherAI/lm-evaluation-harness), built in or from a folder."""

    runs_code: ClassVar[bool] = True  # a task's YAML can refer to Python functions

    tasks: tuple[str, ...] = param(doc="Names of tasks or task groups.")
    folder: Path | None = param(None, "A folder with YAML files of additional tasks.")
    shots: int | None = param(None, "Number of few-shot examples. By default, the task decides.", minimum=0)
    limit: int | None = param(None, "Maximum number of samples per task.", minimum=1)
    batch: int = param(4, "Number of sequences in one forward pass.", minimum=1)

    def check(self) -> None:
        if find_spec("lm_eval") is None:
            raise InputError("evaluator 'lm_eval' requires the lm-eval package: pip install 'mergecore-eval[lm-eval]'")
        known = self._manager().all_tasks
        if unknown := [task for task in self.tasks if task not in known]:
            raise InputError(f"lm-eval has no task {unknown[0]!r}; to list all tasks, run: lm_eval ls tasks")

    def _manager(self) -> Any:
        from lm_eval.tasks import TaskManager

        return TaskManager(include_path=str(self.folder) if self.folder else None)

    def evaluate(self, subject: Subject) -> Sequence[Score]:
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=subject.model, tokenizer=subject.tokenizer, batch_size=self.batch),
            tasks=list(self.tasks),
            num_fewshot=self.shots,
            limit=self.limit,
            task_manager=self._manager(),
            bootstrap_iters=0,
        )
        assert found is not None
        return [score for task in found["results"] for score in _scores(task, found)]


def _scores(task: str, found: Mapping[str, Any]) -> Iterator[Score]:
    """Yield a score for each metric of a task. Keys of lm-eval are like ``acc,none`` and ``acc_stderr,none``."""
    results = found["results"][task]
    count = found.get("n-samples", {}).get(task, {}).get("effective", 0)
    higher = found.get("higher_is_better", {}).get(task, {})
    for key, value in results.items():
        metric, _, kind = key.partition(",")
        if kind and not metric.endswith("_stderr") and isinstance(value, (int, float)):
            error = results.get(f"{metric}_stderr,{kind}", 0.0)
            name = f"{task}/{metric}" if kind == "none" else f"{task}/{metric}/{kind}"
            error = float(error) if isinstance(error, (int, float)) else 0.0
            yield Score(name, float(value), error, count, bool(higher.get(metric, True)))
