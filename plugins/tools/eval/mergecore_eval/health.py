"""Compare a merge with its parents in a separate process, and report whether it is healthy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergecore.api import VOCABULARY_FILES, MergedModel, PostProcessor
from mergecore.tooling import split_adapters
from mergecore_eval.figures import TOKENS, Figures, Verdict, judge, table

FILE = "mergecore_health.json"
"""Results of the check, which the model card uses."""
SECONDS = 300
"""Time limit of a check. Models measured by then still count."""


class LeftOut(Exception):
    """The health check is skipped. The message is the reason."""


class Health(PostProcessor):
    """Compare the result with its parents on a short text and a chat, if transformers can load them."""

    after = ("config", "tokenizer")

    def run(self, model: MergedModel) -> None:
        try:
            verdict, figures, missing = check(model)
        except LeftOut as reason:
            model.tell(f"no health check: {reason}")
            return
        found = {
            "verdict": verdict.word,
            "reason": verdict.reason,
            "models": [asdict(item) for item in figures],
            "left_out": missing,
        }
        (model.folder / FILE).write_text(json.dumps(found, indent=2) + "\n", "utf-8")
        for line in table(figures) if figures else ():
            model.tell(line)
        for name, cause in missing.items():
            model.tell(f"{name} was not compared: {cause}")
        if verdict.word == "healthy":
            model.tell(f"{model.name} is {verdict}")
        else:
            model.warn(f"{model.name} is {verdict}")


def check(model: MergedModel) -> tuple[Verdict, list[Figures], dict[str, str]]:
    """Return the verdict, the figures of the merge and its parents, and why any parents were not measured.

    Raises:
        LeftOut: The merge cannot be measured.
    """
    if find_spec("transformers") is None:
        raise LeftOut("transformers is not installed; type: pip install transformers")
    if not any(next(model.folder.glob(pattern), None) for pattern in ("tokenizer.json", *VOCABULARY_FILES)):
        raise LeftOut("the model has no tokenizer")
    models, missing, room = _chosen(model)
    beside = f" and {len(models) - 1} parent(s)" if len(models) > 1 else ""
    model.tell(f"health check: {model.name}{beside}")
    answers, cause = _measured(models, room)
    if not answers or "error" in answers[0]:
        raise LeftOut(answers[0]["error"] if answers else cause)
    if "nonfinite" in answers[0]:
        return Verdict("broken", f"NaN or infinity, starting at {answers[0]['nonfinite']}"), [], missing
    figures = [Figures(**item["figures"]) for item in answers if "figures" in item]
    for (name, _), item in zip(models, answers):
        if "figures" not in item:
            missing[name] = item.get("error", "its logits contain NaN or infinity")
    missing |= {name: cause for name, _ in models[len(answers) :]}
    return judge(figures[0], figures[1:]), figures, missing


def _chosen(model: MergedModel) -> tuple[list[tuple[str, Path]], dict[str, str], int]:
    """Return the merge and the parents to measure, why others are skipped, and the bytes that a model may take.

    Raises:
        LeftOut: The merge would not fit.
    """
    # The vocabulary has no more rows than the largest matrix. Each token needs four float32 numbers per position.
    rows = max((info.shape[0] for info in model.tensors.values() if len(info.shape) == 2), default=0)
    work = 4 * 4 * TOKENS * rows
    room, allowed = model.memory - work, f"{model.memory / 1e9:.2g} GB (--memory)"
    if (size := stored(model.folder)) > room:
        raise LeftOut(f"it needs {(size + work) / 1e9:.2g} GB of memory, but is limited to {allowed}")
    models, missing = [(model.name, model.folder)], {}
    for name, folder, adapters in parents(model):
        if adapters:
            missing[name] = "it has an adapter"
        elif stored(folder) > room:
            missing[name] = f"it does not fit into {allowed}"
        else:
            models.append((name, folder))
    return models, missing, room


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


def stored(folder: Path) -> int:
    """Return the size of a model's weight files in bytes."""
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files)


def _measured(models: Sequence[tuple[str, Path]], room: int) -> tuple[list[dict[str, Any]], str]:
    """Measure models in a subprocess. Return the results, and the reason why some could be missing.

    A crash in a library, or a model that turns out to be too large, then cannot end the run.
    """
    # Twice the bytes are enough for float32, as long as the stored dtype is wider than one byte.
    dtype = "float32" if 2 * max(stored(folder) for _, folder in models) <= room else "auto"
    request = [{"name": name, "folder": str(folder.absolute()), "dtype": dtype} for name, folder in models]
    program = "from mergecore_eval.checkup import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=SECONDS,
            cwd=Path(__file__).parent.parent,  # Python searches for modules there first
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        out, cause = done.stdout, f"its process exited with status {done.returncode}"
        if done.returncode == -9:
            cause = "its process was killed, most likely because it ran out of memory"
    except subprocess.TimeoutExpired as late:
        out, cause = late.stdout or b"", f"it took longer than {SECONDS} s"
    except OSError as error:
        out, cause = b"", f"its process cannot be started: {error}"
    *lines, _ = out.decode("ascii").split("\n")  # ignore an incomplete last line
    return [json.loads(line) for line in lines], cause
