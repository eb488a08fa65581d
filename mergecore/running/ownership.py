"""Tell the files that mergecore wrote from all others, so that it never replaces or removes anything else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

MARKER = ".mergecore.json"
"""A hidden file in every result. It lists the files of the result and is newer than all of them."""


def marker_for(file: Path) -> Path:
    """Return the marker of a result that is a single file. It is next to the file."""
    return file.with_name(f".{file.name}{MARKER}")


def draft_for(path: Path) -> Path:
    """Return the hidden file next to a path that replaces it once it is complete."""
    return path.with_name(f".{path.name}.new")


def write_marker(marker: Path, names: Iterable[str]) -> None:
    """Replace a marker atomically. `names` are the files of the result, relative to its folder."""
    draft = draft_for(marker)
    draft.write_text(json.dumps({"written_by": "mergecore", "files": sorted(names)}, indent=2) + "\n", "utf-8")
    os.replace(draft, marker)


def read_marker(marker: Path) -> list[str] | None:
    """Return the files that a marker lists. Return None if mergecore did not write it."""
    try:
        value = json.loads(marker.read_text("utf-8"))
        return [str(name) for name in value["files"]] if value["written_by"] == "mergecore" else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def foreign_entries(folder: Path) -> list[str]:
    """Return the entries of a folder that mergecore did not write, relative to it.

    This includes files that were changed after mergecore wrote them, because they might be a user's work.
    """
    names = read_marker(folder / MARKER)
    if names is None:
        return sorted(entry.name for entry in os.scandir(folder))
    marked = (folder / MARKER).stat().st_mtime_ns
    parents = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    drafts = {draft_for(Path(name)).as_posix() for name in (*names, MARKER)}
    return sorted(_foreign(folder, "", {*names, MARKER, *drafts}, parents, marked))


def is_foreign_file(file: Path) -> bool:
    """Return True if mergecore did not write a file, or if somebody changed it since."""
    marker = marker_for(file)
    return read_marker(marker) != [file.name] or file.stat().st_mtime_ns > marker.stat().st_mtime_ns


def _foreign(folder: Path, within: str, names: set[str], parents: set[str], marked: int) -> Iterator[str]:
    for entry in os.scandir(folder / within):
        name = within + entry.name
        if entry.is_dir(follow_symlinks=False):
            if name not in parents:
                yield f"{name}/"
            else:
                yield from _foreign(folder, f"{name}/", names, parents, marked)
        elif name not in names:
            yield name
        elif entry.stat(follow_symlinks=False).st_mtime_ns > marked:
            yield f"{name} (changed since)"
