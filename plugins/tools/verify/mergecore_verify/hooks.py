"""Refuse a plan whose result its class in transformers could not load."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mergecore.api import InputError, ModelInfo, TensorInfo, hookimpl

LEFT_OUT = "the result is not checked against its class before the merge"
CURE = "change the layers or the parts in the recipe"


@hookimpl
def mergecore_after_plan(
    tensors: Mapping[str, TensorInfo], notes: list[str], config: Mapping[str, Any], source: ModelInfo | None
) -> None:
    if source is None or not config.get("architectures"):
        return
    from mergecore_verify.asking import Answer, ask
    from mergecore_verify.findings import few

    answer = ask(config, tensors)
    if answer.unknown:
        notes.append(f"{LEFT_OUT}: {answer.unknown}")
        return
    fits = answer.loads and not answer.ignored
    before = Answer() if fits else ask(source.config, source.tensors)  # what is wrong there is not our doing
    if answer.error and answer.error == before.error:
        notes.append(f"{LEFT_OUT}: {answer.error}")
    elif answer.error:
        raise InputError(f"the result would not load: {answer.error}; {CURE}")
    wrong = [
        f"{few(names)} {word}"
        for names, word in (
            (_new(answer.missing, before.missing), "would be missing"),
            (_new(answer.different, before.different), "would have another shape"),
            (_new(answer.ignored, before.ignored), "would not be used"),
        )
        if names
    ]
    if wrong:
        raise InputError(f"the result would not load as {answer.by}: {' and '.join(wrong)}; {CURE}")
    if answer.ignored:
        notes.append(f"{answer.by} ignores {few(answer.ignored)}")


def _new(names: Iterable[str], before: Iterable[str]) -> list[str]:
    """Return the names that are not in `before`, in any layer."""
    known = {re.sub(r"\d+", "0", name) for name in before}
    return [name for name in names if re.sub(r"\d+", "0", name) not in known]
