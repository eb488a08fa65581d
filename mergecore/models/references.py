"""Resolve model references with adapters to local folders or, if there is no such folder, to commits on the Hub."""

from __future__ import annotations

import os
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

from mergecore.errors import ModelError, closest
from mergecore.models import hub

ALIKE = 0.8
"""Minimum similarity of the first part of ``org/name`` to a local folder to count as a typo of the folder."""


class LocatedModel(NamedTuple):
    """A model that is used only for its small files: its reference, folder, and commit if it is on the Hub."""

    reference: str
    folder: Path
    snapshot: hub.Snapshot | None


def locate_model(reference: str) -> tuple[Path, hub.Snapshot | None]:
    """Return a model's folder, and its commit if it is on the Hub, with its small files already downloaded.

    A revision of a local folder is ignored.

    Raises:
        ModelError: if there is no such model. A mistyped path is not looked for on the Hub.
    """
    if (folder := _folder(reference)) is not None:
        return folder, None
    check_path(reference)
    try:
        snapshot = hub.find_snapshot(reference)
    except ModelError as error:
        if (close := _similar(reference)) is None:
            raise
        raise ModelError(f"{error}; did you mean {close!r}?") from None
    return snapshot.folder, snapshot


def check_path(reference: str) -> None:
    """Raise `ModelError` if a reference is neither a folder nor the name of a model on the Hub.

    A name that could be both is a mistyped path if the first part of it is a local folder, or if a folder with a
    similar name contains the rest of it.
    """
    if _folder(reference) is not None:
        return
    close = _similar(reference)
    on_hub = hub.is_hub_reference(reference) and not _exists(reference)
    if on_hub and ("@" in reference or not _is_mistyped(reference, close)):
        return
    hint = "use the path of a model folder with a config.json, or the org/name of a model on the Hub"
    if on_hub:
        hint = f"if you mean the model on the Hub, write {reference}@main"
    raise ModelError(f"{reference}: no such folder; " + (f"did you mean {close!r}? {hint}" if close else hint))


def _folder(reference: str) -> Path | None:
    """Return the local folder that a reference names, with or without a revision."""
    for name in (reference, reference.partition("@")[0]):
        try:
            folder = Path(name).expanduser()
            if folder.is_dir():
                return folder
        except (OSError, ValueError, RuntimeError):  # the name is too long or invalid, or has an unknown ~user
            return None
    return None


def _is_mistyped(reference: str, close: str | None) -> bool:
    """Return True if a name like ``org/name`` more likely means a local folder."""
    head, _, tail = reference.partition("/")
    if os.path.isdir(head):
        return True
    near, _, rest = (close or "").partition("/")
    return rest == tail and SequenceMatcher(None, head, near).ratio() >= ALIKE


def _exists(reference: str) -> bool:
    try:
        return os.path.lexists(Path(reference).expanduser())
    except (OSError, ValueError, RuntimeError):
        return True


def _similar(reference: str) -> str | None:
    """Return the path of an existing folder that differs from a reference only by typos, if there is one."""
    try:
        path = Path(reference).expanduser()
    except RuntimeError:  # an unknown ~user
        return None
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        try:
            names = [part] if (found / part).is_dir() else [item.name for item in os.scandir(found) if item.is_dir()]
        except (OSError, ValueError):
            return None
        close = closest(part, names)
        if close is None:
            return None
        found /= close
    return str(found) if str(found) not in (".", reference) else None


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


def find_adapter(reference: str) -> Path:
    """Return the folder of an adapter. An adapter on the Hub is downloaded completely, because it is small.

    Raises:
        ModelError: if there is no such folder or repository.
    """
    folder, snapshot = locate_model(reference)
    for name in snapshot.names_in("") if snapshot else ():
        if snapshot and name.startswith("adapter_") and not snapshot.has(name):
            snapshot.fetch(name, lambda count: None)
    return folder
