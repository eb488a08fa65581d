"""Resolve model references with adapters to local folders or, if there is no such folder, to commits on the Hub."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from mergecore.errors import ModelError
from mergecore.models import hub


class LocatedModel(NamedTuple):
    """A model that is used only for its small files: its reference, folder, and commit if it is on the Hub."""

    reference: str
    folder: Path
    snapshot: hub.Snapshot | None


def locate_model(reference: str) -> tuple[Path, hub.Snapshot | None]:
    """Return a model's folder, and its commit if it is on the Hub, with its small files already downloaded.

    A revision of a local folder is ignored.

    Raises:
        ModelError: if there is no such model.
    """
    try:
        folder = Path(reference).expanduser()
        if folder.is_dir():
            return folder, None
        there = os.path.lexists(folder)
    except (OSError, ValueError, RuntimeError):  # the name is too long or invalid, or has an unknown ~user
        there = True
    name, _, revision = reference.partition("@")
    if not there and revision and (folder := Path(name).expanduser()).is_dir():
        return folder, None
    snapshot = None if there else hub.find_snapshot(reference)
    if snapshot is None:
        raise ModelError(
            f"{reference}: no such folder; use the path of a model folder with a config.json, or the org/name"
            " of a model on the Hub"
        )
    return snapshot.folder, snapshot


def split_adapters(reference: str) -> tuple[str, list[str]]:
    """Split a reference into the base and the adapters. A plus sign inside the name of a folder does not split."""
    parts, found = reference.split("+"), []
    while parts:
        counts = range(len(parts), 1, -1)
        count = next((n for n in counts if os.path.isdir(os.path.expanduser("+".join(parts[:n])))), 1)
        found.append("+".join(parts[:count]))
        parts = parts[count:]
    return found[0], found[1:]


def listed_names(folder: Path) -> set[str]:
    """Return the names of all entries in a local folder.

    Raises:
        ModelError: if it cannot be read.
    """
    try:
        return set(os.listdir(folder))
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read: {error.strerror}") from None
