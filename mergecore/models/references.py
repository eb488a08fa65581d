"""Where a model reference leads: to a local folder, which comes first, or to a commit on the Hub; with adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mergecore.errors import ModelError
from mergecore.models import hub


class Source(NamedTuple):
    """A model that only small files are taken from: its reference, its folder, and its commit if it is on the Hub."""

    reference: str
    folder: Path
    snapshot: hub.Snapshot | None


def locate(reference: str) -> tuple[Path, hub.Snapshot | None]:
    """A model's folder, and its commit where it is one on the Hub; its small files are in the folder then.

    Raises:
        ModelError: there is no such model.
    """
    try:
        folder = Path(reference).expanduser()
        if folder.is_dir():
            return folder, None
        there = os.path.lexists(folder)
    except (OSError, ValueError, RuntimeError):  # a name that is too long or no name, or a user's who is not there
        there = True
    name, _, revision = reference.partition("@")
    if not there and revision and Path(name).is_dir():
        raise ModelError(f"{reference}: {name} is a local folder, which has no revisions; leave @{revision} out")
    snapshot = None if there else hub.find(reference)
    if snapshot is None:
        raise ModelError(
            f"{reference}: there is no such folder; give the path of a model folder with its config.json, or org/name"
            " of a model on the Hub"
        )
    return snapshot.folder, snapshot


def split(reference: str) -> tuple[str, list[str]]:
    """The base and the adapters of a reference; of the parts between plus signs, as many as name a folder together."""
    parts, found = reference.split("+"), []
    while parts:
        counts = range(len(parts), 1, -1)
        count = next((n for n in counts if os.path.isdir(os.path.expanduser("+".join(parts[:n])))), 1)
        found.append("+".join(parts[:count]))
        parts = parts[count:]
    return found[0], found[1:]


def listed_names(folder: Path) -> set[str]:
    """The names of all that is in a local folder.

    Raises:
        ModelError: it cannot be read.
    """
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror}") from None
