"""Phrases of translated English and British spellings do not return to docs, docstrings, comments, and messages."""

import io
import re
import tokenize
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path

import pytest
from doc_blocks import ROOT

PHRASES = {
    r"go(es|ne)? on with|goes on\b": "resume, continue",
    r"anew\b": "start over",
    r"before (a person's|people's) eyes": "with progress",
    r"holds? nobody up": "does not block anyone",
    r"no one's\b": "padding rows",
    r"(models|those) that see\b": "vision models",
    r"not as (it|they) (was|were)\b": "changed",
    r"whole or not at all": "atomically",
    r"mend(s|ed|ing)?\b": "fix",
    r"may stand\b|stands? (in|where|for|beside)\b": "is, is in, can be used in place of",
    r"beside\b": "next to, alongside, compared with",
    r"(is|are|was|were) told\b|tells of\b": "is reported, reports",
    r"comes? along\b": "is included, is copied",
    r"(by|for|of) itself\b|by hand\b": "on its own, manually",
    r"in silence\b": "silently",
    r"without a word\b": "without a warning",
    r"(and|or) the like\b": "name the things",
    r"(an?|the) \w+ of which\b|of which (each|one|the)\b": "rewrite the clause",
    r"who(so)?ever\b|whatever\b": "name the thing",
    r"(hence|thus|whence|therein|thereof|wherein|hereby)\b": "cut it, or write so",
    r"cut short\b": "interrupted, truncated",
    r"tak(es?|en|ing) over\b": "copies, uses",
    r"looked at\b": "checked, inspected",
    r"(is|are) wanted\b": "is required, is requested",
    r"sort of\b": "type of",
    r"is the merge well\b": "is the merge healthy",
    r"what cures it\b": "how to fix it",
    r"(the first|each) of them\b": "the first, each",
    r"(words )?of one's own\b": "its own, your own",
    r"licences?\b": "license",
    r"(mis)?behaviou?r(?<=our)": "behavior",
    r"(colou?r|favou?r|neighbou?r|honou?r|labou?r)(?<=our)": "color, favor, neighbor, honor",
    r"(de|re|un)?(normal|quant|organ|recogn|optim|initial|serial|summar|minim|maxim|general|token|random|real|special|util|vector|categor)"
    r"is(e[ds]?|er|ers|ing|ations?)\b": "-ize",
    r"analys(e|ed|ing)\b": "analyze",
    r"cent(re|res|red)\b": "center",
    r"grey\b": "gray",
    r"(labell|cancell|modell|signall|travell)(ed|ing)\b": "one l",
    r"artefacts?\b": "artifact",
    r"(learnt|spelt|burnt)\b": "-ed",
    r"(to|after|back|down|up)wards\b(?! compat)": "-ward",
    r"whilst\b|amongst\b": "while, among",
}
"""What must not return, as regular expressions that start at a word, with what to write instead."""

REWRITES = [(re.compile(phrase.replace(" ", r"\s+")), instead) for phrase, instead in PHRASES.items()]
ANY = re.compile(rf"\b(?:{'|'.join(PHRASES)})".replace(" ", r"\s+"), re.IGNORECASE)
NOT_OURS = {".venv", ".work", ".envs", "build", "results", ".git", "__pycache__", "examples/smollm2/models"}
QUOTES = re.compile(r"^[a-zA-Z]*('''|\"\"\"|'|\")|('''|\"\"\"|'|\")$")
DESCRIPTIONS = {
    ".json": re.compile(r'"description": "((?:[^"\\]|\\.)*)"'),
    ".toml": re.compile(r'^description = "(.*)"|#(.*)', re.MULTILINE),
    ".txt": re.compile(r"#(.*)"),
}
"""Prose in files that are not prose."""

Passage = list[tuple[int, str]]
"""Adjacent strings or comment lines: the line of each, and its text."""


def files(folder: Path) -> Iterator[Path]:
    """Yield the files with prose under a folder, without generated and installed ones."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not {path.name, path.relative_to(ROOT).as_posix()} & NOT_OURS and not path.name.startswith(".venv"):
                yield from files(path)
        elif path.suffix in (".py", ".md") or path.name.endswith((".schema.json", "pyproject.toml", "-dev.txt")):
            yield path


def without_fields(text: str) -> str:
    """Return an f-string with its fields, which are code, replaced by spaces. Other text does not change."""
    return re.sub(r"\{[^{}\n]*\}", lambda field: " " * len(field[0]), text) if re.match(r"[rR]?[fF]", text) else text


def python_passages(text: str) -> Iterator[Passage]:
    """Yield the comments and the strings with spaces in a Python file. Adjacent ones belong together."""
    passage: Passage = []
    last = None
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.STRING and " " not in token.string:
            continue  # a name, not prose
        if token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1), tokenize.COMMENT):
            if passage and token.type != last:
                yield passage
                passage = []
            last = token.type
            passage.append((token.start[0], QUOTES.sub("", without_fields(token.string)).lstrip("#")))
        elif passage and token.type != tokenize.NL:
            yield passage
            passage = []
    if passage:
        yield passage


def passages(path: Path, text: str) -> Iterator[Passage]:
    """Yield the prose of a file. Skip Python files that do not contain any phrase, because parsing them is slow."""
    if path.suffix == ".md":
        yield [(1, text)]
    elif path.suffix in DESCRIPTIONS:
        for match in DESCRIPTIONS[path.suffix].finditer(text):
            yield [(text.count("\n", 0, match.start()) + 1, next(filter(None, match.groups()), ""))]
    elif ANY.search(re.sub(r"[\"']?\s*\n[\s#]*(?:[a-zA-Z]{0,2}[\"'])?", " ", text)):
        yield from python_passages(text)


def findings(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield each phrase in a file with its line and what to write instead."""
    for passage in passages(path, text):
        starts = [0]
        for _, part in passage:
            starts.append(starts[-1] + len(part) + 1)
        joined = " ".join(part for _, part in passage)
        for match in ANY.finditer(joined):
            place = bisect(starts, match.start()) - 1
            line = passage[place][0] + joined.count("\n", starts[place], match.start())
            found = " ".join(match[0].lower().split())
            yield line, found, next(instead for phrase, instead in REWRITES if phrase.fullmatch(found))


def test_prose_reads_as_american_english() -> None:
    wrong = []
    for path in (path for path in [*files(ROOT), ROOT / "dev"] if path != Path(__file__)):
        kind = path if path.suffix else path.with_suffix(".py")
        for line, found, instead in findings(kind, path.read_text("utf-8")):
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {found!r}; write: {instead}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.md", "One.\nIt starts\nanew, in silence.\n", [(3, "anew"), (3, "in silence")]),
        ("a.py", 'x = 1\ny = f("the run is gone "\n      "on with")\n', [(2, "gone on with")]),
        ("a.py", "# a dead process holds\n# nobody up\nnormalise = 1\n", [(1, "holds nobody up")]),
        ("a.py", 'def f():\n    """Do.\n\n    Appears whole or not\n    at all."""\n', [(4, "whole or not at all")]),
        ("a.schema.json", '{\n "grey": 1, "description": "the colour"}\n', [(2, "colour")]),
        ("a.toml", 'name = "grey"\ndescription = "Merge towards it."\n', [(2, "towards")]),
        ("a.py", 'x = "CANCELLED", "behaviour", f"a {whoever} b"\n', []),
        ("a.py", '"recommend, analysis, a besides, realistic, forgone, color"\n', []),
    ],
)
def test_a_phrase_is_found_in_prose_only(name: str, text: str, expected: list[tuple[int, str]]) -> None:
    assert [(line, found) for line, found, _ in findings(Path(name), text)] == expected
