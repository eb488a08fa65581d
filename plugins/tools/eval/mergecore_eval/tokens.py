"""Token IDs of texts from a stranger's tokenizer and chat template, in a process with limits on memory and time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mergecore.api import TOKENIZER_FILES, InputError, Subject, run_bounded

MEMORY, PER_BYTE, PER_CHARACTER = 3 * 10**8, 20, 1000
"""Limits of the process: bytes, and bytes for each byte of the tokenizer's files and each character of text."""
SECONDS, SPEED = 120, 10_000
"""Limit of its time, and the characters per second that it should tokenize at least."""


@dataclass(frozen=True)
class Tokens:
    """The token IDs that a text starts with, and those of each text."""

    start: list[int]
    ids: list[list[int]]


def tokenize(subject: Subject, texts: Sequence[str], form: str = "plain") -> Tokens:
    """Return the token IDs of texts. Equal requests are answered from memory.

    Args:
        subject: The model with the tokenizer.
        texts: The texts.
        form: ``plain`` for the texts alone, ``special`` with the special tokens that the tokenizer adds, or ``chat``
            for user messages in the tokenizer's chat template.

    Raises:
        InputError: The tokenizer cannot be loaded or used within the limits.
    """
    return check_tokenizer(getattr(subject, "home", None) or subject.folder, texts, form)


def check_tokenizer(folder: Path, texts: Sequence[str] = (), form: str = "plain") -> Tokens:
    """Tokenize texts, or only check that the tokenizer in a folder can be loaded within the limits. See `tokenize`."""
    paths = [folder / "config.json", *(path for pattern in TOKENIZER_FILES for path in sorted(folder.glob(pattern)))]
    found = [(path, path.stat()) for path in paths if path.is_file()]
    stamp = tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in found)
    return _tokenized(folder.absolute(), stamp, tuple(texts), form)


@lru_cache(maxsize=64)
def _tokenized(folder: Path, stamp: Sequence[tuple[str, int, int]], texts: Sequence[str], form: str) -> Tokens:
    length = sum(map(len, texts))
    done = run_bounded(
        "mergecore_eval.limited_tokenizer:answers",
        {"folder": str(folder), "texts": texts, "form": form},
        memory=MEMORY + PER_BYTE * sum(size for _, size, _ in stamp) + PER_CHARACTER * length,
        seconds=SECONDS + length / SPEED,
        environment={"HF_HUB_OFFLINE": "1"},
    )
    if done.cause:
        raise InputError(f"{folder}: its tokenizer cannot be used: {done.cause}; evaluate another model")
    if "error" in done.values[-1]:
        raise InputError(done.values[-1]["error"])
    first, *others = done.values
    return Tokens(first["start"], [item["ids"] for item in others])
