"""Check that transformers can load the folder and match every key, on the meta device without reading weights."""

from __future__ import annotations

from mergecore.api import read_json
from mergecore.tooling import Checkpoint
from mergecore_verify.asking import ask
from mergecore_verify.findings import Finding, few, skipped
from mergecore_verify.vocabulary import CONFIG_LIMIT

NAME = "loading"


def check_loading(checkpoint: Checkpoint) -> Finding:
    """Check that the class in config.json loads exactly the stored names and shapes.

    Code from the folder is never run, so a class that transformers does not have is not checked.
    """
    answer = ask(read_json(checkpoint.folder / "config.json", CONFIG_LIMIT), checkpoint.tensors)
    if answer.unknown:
        return skipped(NAME, answer.unknown)
    wrong = [
        f"{few(names)} {word}"
        for names, word in (
            (answer.missing, "missing"),
            (answer.ignored, "unexpected"),
            (answer.different, "of a different shape"),
        )
        if names
    ]
    if answer.error or wrong:
        return Finding(NAME, False, f"{answer.by}: {'; '.join([*wrong, *([answer.error] if answer.error else [])])}")
    return Finding(NAME, True, f"{answer.by} loads every tensor, with none missing")
