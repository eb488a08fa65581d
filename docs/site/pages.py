"""A mkdocs hook that adds the repository files that pages link to, and the generated reference pages, to docs/."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import methods
import reference
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>(?!https?:|mailto:|#)[^)#\s]+)(?P<anchor>#[^)]*)?\)")
CODE = re.compile(r"<pre.*?</pre>|<code>(?P<words>[^<]*)</code>", re.DOTALL)

MADE = {
    "plugins/methods": "reference/methods/index.md",
    "mergecore/api": "reference/api.md",
    "mergecore/hookspecs.py": "reference/hooks.md",
    "mergecore/definitions/architecture.schema.json": "reference/architecture-files.md",
    **methods.folders(),
}
"""The generated pages that replace links to these files and folders of the repository."""


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the home page, the linked files outside docs/, and the generated pages."""
    for source in sorted(outside()):
        files.append(File.generated(config, site_path(source), abs_src_path=str(source)))
    shown = methods.pages()
    for path, content in {**reference.pages(), **shown}.items():
        files.append(File.generated(config, path, content=content))
    (section,) = (part["Reference"] for part in config.nav if "Reference" in part)
    (entry,) = (part for part in section if "Methods" in part)
    entry["Methods"] = [path for path in shown if path.endswith(".md")]
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links to files outside docs/ as links within the site."""
    origin = {site_path(path): path for path in outside()}
    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # it would list only this page
    source = origin.get(page.file.src_uri, DOCS / page.file.src_uri)
    return LINK.sub(lambda link: rewritten(link, source), markdown) if source.exists() else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Keep each word of inline code on one line, because browsers would split options after their hyphens."""
    return CODE.sub(lambda code: code[0] if code["words"] is None else f"<code>{unsplit(code['words'])}</code>", html)


def unsplit(words: str) -> str:
    """Mark the words with hyphens so that site.css can keep them on one line."""
    return re.sub(r"[^\s/]*-[^\s/]*", lambda word: f'<span class="word">{word[0]}</span>', words)


def rewritten(link: re.Match[str], source: Path) -> str:
    """Return a link as the site needs it; a link to a folder without a README is replaced by its text."""
    file = linked(source, link["target"])
    if file.is_dir() and site_path(file) not in MADE.values():
        return link["text"]
    target = os.path.relpath(site_path(file), os.path.dirname(site_path(source)) or ".")
    return f"{link['image']}[{link['text']}]({target}{link['anchor'] or ''})"


def outside() -> set[Path]:
    """Return the README, and every file outside docs/ that the pages link to, directly or indirectly."""
    found: set[Path] = set()
    queue = [ROOT / "README.md", *DOCS.rglob("*.md")]
    while queue:
        page = queue.pop()
        if not page.is_relative_to(DOCS):
            found.add(page)
        queue.extend(file for file in links(page) if not file.is_relative_to(DOCS) and file not in found)
    return found


def links(page: Path) -> Iterator[Path]:
    """Yield the files of the repository that a page links to."""
    if page.suffix == ".md":
        for link in LINK.finditer(page.read_text("utf-8")):
            file = linked(page, link["target"])
            if file.is_file() and site_path(file) not in MADE.values():
                yield file


def linked(source: Path, target: str) -> Path:
    """Return the target of a link; for a folder with a README, that is the README."""
    file = Path(os.path.normpath(source.parent / target))
    return file / "README.md" if (file / "README.md").exists() else file


def site_path(source: Path) -> str:
    """Return the path of a repository file in the site."""
    if source == ROOT / "README.md":
        return "index.md"
    path = source.relative_to(ROOT).as_posix()
    page = re.sub(r"/README\.md$", ".md", path)  # as README.md, it would become the index of its section
    return MADE.get(path, page.removeprefix("docs/"))
