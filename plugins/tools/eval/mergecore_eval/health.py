"""Looks at a merge beside its parents, in a process of its own, and says in words whether it is well."""

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
from mergecore.models.references import split
from mergecore_eval.figures import TOKENS, Figures, Verdict, judge, table

FILE = "mergecore_health.json"
"""What the model card is made of."""
SECONDS = 300
"""How long a check may take; what has been measured by then counts."""


class LeftOut(Exception):
    """Why there is no health check, as words after "because"."""


class Health(PostProcessor):
    """Compares the result with its parents on a small text and a chat, where transformers can load them."""

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
            model.tell(f"{name} is not compared: {cause}")
        if verdict.word == "healthy":
            model.tell(f"{model.name} is {verdict}")
        else:
            model.warn(f"{model.name} is {verdict}")


def check(model: MergedModel) -> tuple[Verdict, list[Figures], dict[str, str]]:
    """The verdict, the figures of the merge and of its parents, and why those that are not measured are not.

    Raises:
        LeftOut: the merge cannot be measured.
    """
    if find_spec("transformers") is None:
        raise LeftOut("transformers is not installed; type: pip install transformers")
    if not any(next(model.folder.glob(pattern), None) for pattern in ("tokenizer.json", *VOCABULARY_FILES)):
        raise LeftOut("the model has no tokenizer")
    models, missing, room = _chosen(model)
    beside = f" beside {len(models) - 1} parent(s)" if len(models) > 1 else ""
    model.tell(f"health check: {model.name}{beside}")
    answers, cause = _measured(models, room)
    if not answers or "error" in answers[0]:
        raise LeftOut(answers[0]["error"] if answers else cause)
    if "nonfinite" in answers[0]:
        return Verdict("broken", f"not finite from {answers[0]['nonfinite']} on"), [], missing
    figures = [Figures(**item["figures"]) for item in answers if "figures" in item]
    for (name, _), item in zip(models, answers):
        if "figures" not in item:
            missing[name] = item.get("error", "its logits are not finite")
    missing |= {name: cause for name, _ in models[len(answers) :]}
    return judge(figures[0], figures[1:]), figures, missing


def _chosen(model: MergedModel) -> tuple[list[tuple[str, Path]], dict[str, str], int]:
    """The merge and the parents that are measured, why others are not, and the bytes that a model may take.

    Raises:
        LeftOut: the merge itself would not fit.
    """
    # The vocabulary has no more rows than the largest matrix; four float32 numbers for each token at each place.
    rows = max((info.shape[0] for info in model.tensors.values() if len(info.shape) == 2), default=0)
    work = 4 * 4 * TOKENS * rows
    room, allowed = model.memory - work, f"{model.memory / 1e9:.2g} GB (--memory)"
    if (size := stored(model.folder)) > room:
        raise LeftOut(f"it would take {(size + work) / 1e9:.2g} GB of memory, of which it may take {allowed}")
    models, missing = [(model.name, model.folder)], {}
    for name, folder, adapters in parents(model):
        if adapters:
            missing[name] = "it is made with an adapter"
        elif stored(folder) > room:
            missing[name] = f"it would not fit into {allowed}"
        else:
            models.append((name, folder))
    return models, missing, room


def parents(model: MergedModel) -> Iterator[tuple[str, Path, bool]]:
    """Name, folder and whether adapters are added of each model in files that a merge and its stages are made of."""
    waiting, seen = list(model.models), set()
    while waiting:
        info = waiting.pop(0)
        if info.stage:
            waiting += info.stage.models
        elif info.reference not in seen:
            seen.add(info.reference)
            base, adapters = split(info.reference)
            local = Path(base).expanduser().is_dir()
            names = [Path(part).name if local else part for part in (base, *adapters)]
            yield "+".join(names), info.folder, bool(adapters)


def stored(folder: Path) -> int:
    """Bytes of a model's weight files."""
    files = list(folder.glob("*.safetensors")) or list(folder.glob("*.bin"))
    return sum(file.stat().st_size for file in files)


def _measured(models: Sequence[tuple[str, Path]], room: int) -> tuple[list[dict[str, Any]], str]:
    """What another process found out about models, and why it is not about all of them.

    In another process no fault of a library, and no model that is too large after all, ends the run.
    """
    # Twice the bytes are enough for float32, whatever larger than a byte is stored.
    dtype = "float32" if 2 * max(stored(folder) for _, folder in models) <= room else "auto"
    request = [{"name": name, "folder": str(folder.absolute()), "dtype": dtype} for name, folder in models]
    program = "from mergecore_eval.checkup import main; main()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(request).encode(),
            capture_output=True,
            timeout=SECONDS,
            cwd=Path(__file__).parent.parent,  # Python looks for modules there first
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        out, cause = done.stdout, f"its process ended with {done.returncode}"
        if done.returncode == -9:
            cause = "its process was killed, most likely for want of memory"
    except subprocess.TimeoutExpired as late:
        out, cause = late.stdout or b"", f"it took longer than {SECONDS} s"
    except OSError as error:
        out, cause = b"", f"no process can be started: {error}"
    *lines, _ = out.decode("ascii").split("\n")  # a line that was cut does not count
    return [json.loads(line) for line in lines], cause
