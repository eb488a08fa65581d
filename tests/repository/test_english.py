"""Phrases that read like a translation, and British spellings, do not come back."""

import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[2]
PHRASES = {
    r"\bgo(?:es|ne|ing)? on with\b": "resume, continue",
    r"\bbeg[iu]ns? anew\b": "start over",
    r"\bbefore a person's eyes\b": "with progress",
    r"\bholds? nobody up\b": "stale locks are ignored",
    r"\bno one's\b": "padding rows",
    r"\b(?:models|those) that see\b": "vision models",
    r"\bnot as (?:it|they) (?:was|were)\b": "what changed",
    r"\bwhole or not at all\b": "atomically",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bmay stand\b": "can be used",
    r"\bstands? (?:where|in the place|beside|for itself)\b": "is, is in, is used as",
    r"\b(?:lies?|lying) beside\b": "is next to",
    r"\bin silence\b": "silently",
    r"\bwithout a word\b": "silently, without a warning",
    r"\bor the like\b|\band the like\b": "name the thing, or cut it",
    r"\bof which (?:each|one|the)\b": "rewrite the sentence",
    r"\bwhosoever\b|\bhence\b|\bthus\b|\btherein\b|\bthereof\b|\bwherein\b": "cut it",
    r"\bis told\b|\bare told\b": "is reported",
    r"\bwords? of one's own\b": "its own words",
    r"\bis the merge well\b": "is the merge healthy",
    r"\bwhat (?:mends|cures) it\b": "how to fix it",
    r"\blicence": "license",
    r"(?:behavi|col|fav|neighb|hon|lab)our": "-or",
    r"(?:normal|quant|organ|recogn|optim|initial|serial|summar|general|random|special|minim|maxim|util|vector|categor)is"
    r"(?:e[sdr]?|ing|ation)\b": "-ize",
    r"\banalys(?:e[sd]?|ing)\b": "analyze",
    r"\bcent(?:re|red|res)\b": "center",
    r"\bgrey\b": "gray",
    r"\b(?:label|model|cancel|travel)l(?:ed|ing)\b": "one l",
    r"\bartefact": "artifact",
    r"\b(?:to|for|back|down|up)wards\b(?! compatible)": "-ward",
    r"\bwhilst\b|\bamongst\b": "while, among",
    r"\borganisation": "organization",
}
PATTERN = re.compile("|".join(f"(?P<p{number}>{phrase})" for number, phrase in enumerate(PHRASES)), re.IGNORECASE)

FOREIGN = ("LICENCE*",)
"""Words of others, such as the names of their files."""
FOLDERS = (".", ".ci", "architectures", "bench", "docs", "examples", "mergecore", "plugins", "tests")
SKIPPED = ("bench/results", "bench/.work", "bench/.envs", "examples/smollm2/models")
"""Folders of measured and built files."""


def files(pattern: str) -> list[Path]:
    """Return the files of the repository with this name, without folders of built and measured files."""
    return [
        path
        for folder in FOLDERS
        for path in (ROOT / folder).glob(pattern if folder == "." else f"**/{pattern}")
        if not path.relative_to(ROOT).as_posix().startswith(SKIPPED) and path != Path(__file__)
    ]


def prose_of_python(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the comments of a file, and its strings that have a space, with their lines."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", None)) and " " in token.string:
            for number, line in enumerate(token.string.splitlines()):
                yield token.start[0] + number, line


def prose_of_page(path: Path) -> Iterator[tuple[int, str]]:
    yield from enumerate(path.read_text("utf-8").splitlines(), 1)


def prose_of_project(path: Path) -> Iterator[tuple[int, str]]:
    yield 0, str(tomllib.loads(path.read_text("utf-8")).get("project", {}).get("description", ""))


def prose_of_schema(path: Path) -> Iterator[tuple[int, str]]:
    def descriptions(value: object) -> Iterator[str]:
        items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if isinstance(value, dict) and isinstance(value.get("description"), str):
            yield value["description"]
        for item in items:
            yield from descriptions(item)

    yield from ((0, text) for text in descriptions(json.loads(path.read_text("utf-8"))))


SOURCES = {"*.py": prose_of_python, "*.md": prose_of_page, "pyproject.toml": prose_of_project,
           "*.schema.json": prose_of_schema}  # fmt: skip


def faults(text: str) -> Iterator[tuple[str, str]]:
    """Yield the phrases in a text that should not be there, with what to write instead."""
    for name in FOREIGN:
        text = text.replace(name, "")
    for match in PATTERN.finditer(text):
        yield match[0], list(PHRASES.values())[int(match.lastgroup[1:])]


def test_prose_is_plain_american_english():
    found = [
        f"{path.relative_to(ROOT)}:{line}: {phrase!r}: write {instead}"
        for pattern, prose in SOURCES.items()
        for path in files(pattern)
        for line, text in prose(path)
        for phrase, instead in faults(text)
    ]
    assert not found, "\n" + "\n".join(found)


def test_the_phrases_are_found():
    assert [phrase for phrase, _ in faults("A recipe may stand where a model does, and it begins anew.")] == [
        "may stand",
        "begins anew",
    ]
    assert not list(faults("LICENCE*"))
