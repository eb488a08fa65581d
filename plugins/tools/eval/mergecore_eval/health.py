"""Check a finished merge in a separate process, alone or compared with its parents, and report if it is healthy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergecore.api import (
    TOKENIZER_FILES,
    VOCABULARY_FILES,
    Bounded,
    MergedModel,
    PostProcessor,
    run_bounded,
)
from mergecore.tooling import split_adapters
from mergecore_eval.figures import TOKENS, Figures, Verdict, judge, table

FILE = "mergecore_health.json"
"""Results of the check, which the model card uses."""
SECONDS = {"quick": 20, "full": 300}
"""Time limit of all checks of a run, by the choice of the user. Models measured by then still count."""
LIBRARIES = 3 * 10**8
"""Private memory in bytes that torch and transformers take when they are imported. 0.25 GB were measured."""
SLACK = 2 * 10**8
"""Bytes for everything that does not depend on the size of a model. 0.13 GB were measured for a tiny one."""
PARSED = 20
"""Bytes that a loaded tokenizer takes for each byte of its files. 16 were measured for 250,000 tokens."""


class LeftOut(Exception):
    """The health check is skipped. The message is the reason."""


class Health(PostProcessor):
    """Check that the finished model writes text, alone or compared with its parents, if transformers can load it."""

    after = ("config", "tokenizer")

    def __init__(self) -> None:
        self._spent = 0.0

    def run(self, model: MergedModel) -> None:
        """Do nothing yet. The check never delays the output."""

    def after_publish(self, model: MergedModel) -> None:
        mode, begun = model.choices.get("health", "quick"), time.monotonic()
        try:
            left = SECONDS[mode] - self._spent
            if left <= 0:
                raise LeftOut(f"the checks of other results took the {SECONDS[mode]} s of this run")
            found = check(model, mode == "full", left)
        except LeftOut as reason:
            model.tell(f"no health check: {reason}")
            return
        finally:
            self._spent += time.monotonic() - begun
        model.put(FILE, json.dumps(found.plain(), indent=2) + "\n")
        for line in table(found.figures) if found.figures else ():
            model.tell(line)
        for name, cause in found.missing.items():
            model.tell(f"{name} was not compared: {cause}")
        wrong = found.verdict.word in ("broken", "doubtful")
        (model.warn if wrong else model.tell)(f"{model.name} is {found.verdict}")
        if found.verdict.word == "inconclusive" and mode == "quick":
            model.tell("to compare a merge with its parents, use --health full")


@dataclass(frozen=True)
class Checked:
    """The verdict, the figures of the merge and its parents, and why any parents were not measured."""

    verdict: Verdict
    figures: list[Figures]
    missing: dict[str, str]

    def plain(self) -> dict[str, Any]:
        """Return the content of `FILE`."""
        return {
            "verdict": self.verdict.word,
            "reason": self.verdict.reason,
            "models": [asdict(item) for item in self.figures],
            "left_out": self.missing,
        }


def check(model: MergedModel, full: bool, seconds: float) -> Checked:
    """Measure a merge and, if `full`, its parents.

    Raises:
        LeftOut: The merge cannot be measured.
    """
    if find_spec("transformers") is None:
        raise LeftOut("transformers is not installed; run: pip install transformers")
    if not any(next(model.folder.glob(pattern), None) for pattern in ("tokenizer.json", *VOCABULARY_FILES)):
        raise LeftOut("the model has no tokenizer")
    models, missing = _chosen(model, full)
    beside = f" and {len(models) - 1} parent(s)" if len(models) > 1 else ""
    model.tell(f"health check: {model.name}{beside}")
    done = _measured(models, model, seconds)
    answers: list[dict[str, Any]] = [{} for _ in models]
    for value in done.values:
        answers[value["model"]] |= value
    for answer in answers:
        if done.cause and "error" not in answer:
            answer["error"] = f"{done.cause}, {answer['doing']}" if "doing" in answer else done.cause
    merge, *others = answers
    if "nonfinite" in merge:
        return Checked(Verdict("broken", f"NaN or infinity, starting at {merge['nonfinite']}"), [], missing)
    if "figures" not in merge:
        if not done.cause:
            raise LeftOut(merge["error"])
        return Checked(Verdict("inconclusive", merge["error"]), [], missing)
    figures = [_figures(item) for item in answers if "figures" in item]
    for (name, _), item in zip(models[1:], others):
        if "figures" not in item:
            missing[name] = item.get("error", "its logits contain NaN or infinity")
    return Checked(judge(figures[0], figures[1:]), figures, missing)


def _figures(answer: dict[str, Any]) -> Figures:
    """Return a model's figures, with the reason if they are incomplete."""
    figures = Figures(**answer["figures"])
    return figures if figures.answer is not None else replace(figures, trouble=answer["error"])


def _chosen(model: MergedModel, full: bool) -> tuple[list[tuple[str, Path]], dict[str, str]]:
    """Return the merge and the parents to measure, and why others are skipped.

    Raises:
        LeftOut: The merge would not fit.
    """
    room, rows, allowed = model.memory - LIBRARIES, vocabulary(model), f"{model.memory / 1e9:.2g} GB (--memory)"
    if (size := needed(model.folder, rows)) > room:
        raise LeftOut(f"it needs {(size + LIBRARIES) / 1e9:.2g} GB of memory, but is limited to {allowed}")
    models, missing = [(model.name, model.folder)], {}
    for name, folder, adapters in parents(model) if full else ():
        if adapters:
            missing[name] = "it has an adapter"
        elif needed(folder, rows) > room:
            missing[name] = f"it does not fit into {allowed}"
        else:
            models.append((name, folder))
    return models, missing


def parents(model: MergedModel) -> Iterator[tuple[str, Path, bool]]:
    """Yield the name, folder, and whether adapters are added, for each model on disk in a merge and its stages."""
    waiting, seen = list(model.models), set()
    while waiting:
        info = waiting.pop(0)
        if info.stage:
            waiting += info.stage.models
        elif info.reference not in seen:
            seen.add(info.reference)
            base, adapters = split_adapters(info.reference)
            local = Path(base).expanduser().is_dir()
            names = [Path(part).name if local else part for part in (base, *adapters)]
            yield "+".join(names), info.folder, bool(adapters)


def vocabulary(model: MergedModel) -> int:
    """Return the number of rows of the largest matrix. The vocabulary has no more."""
    return max((info.shape[0] for info in model.tensors.values() if len(info.shape) == 2), default=0)


def needed(folder: Path, rows: int, wide: bool = False) -> int:
    """Return the private bytes that measuring a model takes, besides the libraries.

    Args:
        folder: The model.
        rows: Number of rows of the vocabulary.
        wide: Whether the weights are loaded as float32 instead of in their stored dtype.
    """
    weights, copies = list(folder.glob("*.safetensors")), 1
    if not weights:
        weights, copies = list(folder.glob("*.bin")), 2  # these are read into memory as a whole
    stored, tokenizer = _size(weights), [path for pattern in TOKENIZER_FILES for path in folder.glob(pattern)]
    # Twice the bytes are enough for float32, as long as the stored dtype is wider than one byte. While transformers
    # converts them, it holds the stored ones too. Later, each token has four float32 numbers per position.
    loading, measuring = stored * wide, 4 * 4 * TOKENS * rows
    return (copies + wide) * stored + max(loading, measuring) + PARSED * _size(tokenizer) + SLACK


def _size(files: Sequence[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _measured(models: Sequence[tuple[str, Path]], model: MergedModel, seconds: float) -> Bounded:
    """Measure models in a subprocess, so that a library that crashes or a hostile model cannot end the run."""
    rows = vocabulary(model)
    wide = max(needed(folder, rows, wide=True) for _, folder in models) <= model.memory - LIBRARIES
    request = [
        {"name": name, "folder": str(folder.absolute()), "dtype": "float32" if wide else "auto"}
        for name, folder in models
    ]
    return run_bounded(
        "mergecore_eval.checkup:check",
        request,
        memory=max(needed(folder, rows, wide) for _, folder in models),
        seconds=seconds,
        environment={"HF_HUB_OFFLINE": "1"},
    )
