"""Read the license and language from a model card, and compare licenses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergecore.api.reading import lies_within, read_text
from mergecore.errors import ModelError

KEYS = ("license", "license_name", "license_link", "language")
"""The front matter keys to read from a card: https://huggingface.co/docs/hub/model-cards."""

CARD_LIMIT = 10**7
"""Maximum size of a card in bytes. Some cards list the results of hundreds of benchmarks."""

ENTRIES_LIMIT = 20_000
"""Maximum total length of the `KEYS` entries in characters. PyYAML takes a minute to parse a megabyte."""

FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?)\n---[ \t]*(\n|\Z)", re.DOTALL)
ENTRIES = re.compile(rf"^(?:{'|'.join(KEYS)})[ \t]*:.*(?:\n(?:[ \t-].*)?$)*", re.MULTILINE)
"""A front matter entry: the line with the key, plus the lines below it that are indented or begin with a dash."""

PERMISSIVE = re.compile(
    r"apache-2\.0|mit(-0)?|0bsd|bsd(-[234]-clause(-clear)?)?|isc|zlib|unlicense|wtfpl|cc0-1\.0|cc-by-\d\.\d|pddl|odc-by"
    r"|afl-3\.0|artistic-2\.0|bsl-1\.0|ecl-2\.0|ncsa|postgresql|cdla-permissive-\d\.\d|c-uda"
)
SHARE_ALIKE = re.compile(
    r"[al]?gpl(-.*|lr)?|mpl-.*|epl-.*|eupl-.*|osl-3\.0|odbl|gfdl|ofl-1\.1|lppl-.*|cdla-sharing-.*|cc-by-sa-.*"
)
NON_COMMERCIAL = re.compile(r"(.*[-_ ])?nc([-_ ].*)?|.*non-?commercial.*|.*research.*")
"""Licenses, by the names that the Hub and SPDX use."""


def read_card(folder: Path) -> dict[str, Any]:
    """Return the values of `KEYS` in the front matter of a model's README.md, each a string or a list of strings.

    Return an empty dict if the card is missing or unreadable. A bad README never stops a merge.
    """
    import yaml

    path = folder / "README.md"
    try:
        text = read_text(path, CARD_LIMIT).replace("\r\n", "\n") if lies_within(folder, path) else ""
        found = FRONT_MATTER.match(text)
        entries = "\n".join(item[0] for item in ENTRIES.finditer(found[1])) if found else ""
        # Load strings only: PyYAML fails in many ways on malformed numbers and dates.
        stated = yaml.load(entries, Loader=yaml.BaseLoader) if len(entries) <= ENTRIES_LIMIT else None
    except (ModelError, yaml.YAMLError, ValueError, OverflowError, RecursionError):
        return {}
    return {key: stated[key] for key in KEYS if _is_plain(stated.get(key))} if isinstance(stated, dict) else {}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, str) for item in value)
    )


def hub_reference(folder: Path) -> str:
    """Return ``org/name@commit`` for a model folder in a cache of the Hub. Return an empty string for any other."""
    if folder.parent.name != "snapshots" or not folder.parents[1].name.startswith("models--"):
        return ""
    return f"{folder.parents[1].name.removeprefix('models--').replace('--', '/', 1)}@{folder.name}"


def license_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Return the license entries of a card. Empty if it states no license, more than one, or ``unknown``."""
    found = {key: value for key in KEYS[:3] if isinstance(value := card.get(key), str)}
    return found if found.get("license", "").lower() not in ("", "unknown") else {}


def license_kind(card: Mapping[str, Any]) -> str:
    """Return ``permissive``, ``share-alike``, ``non-commercial``, ``custom`` (its own terms), or ``unknown``."""
    found = license_of(card)
    if not found:
        return "unknown"
    label = found["license"].lower()
    if any(NON_COMMERCIAL.fullmatch(found.get(key, "").lower()) for key in KEYS[:2]):
        return "non-commercial"
    return "permissive" if PERMISSIVE.fullmatch(label) else "share-alike" if SHARE_ALIKE.fullmatch(label) else "custom"


def license_words(card: Mapping[str, Any], folder: Path) -> str:
    """Describe a model's license for display: its name, followed by its type unless it is permissive."""
    found = license_of(card)
    if not found:
        file = next((name for name in ("LICENSE", "LICENSE.txt", "LICENSE.md") if (folder / name).is_file()), None)
        return f"unknown, see its {file}" if file else "unknown"
    name, kind = found.get("license_name") or found["license"], license_kind(card)
    return name if kind == "permissive" else f"{name} ({kind})"


def licenses_agree(cards: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if all cards state the same license."""
    found = [license_of(card) for card in cards]
    return bool(found[0]) and all(item == found[0] for item in found)


def licenses_conflict(cards: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if the licenses could conflict, that is, if they differ and not all are permissive.

    Models that all state no license do not conflict.
    """
    kinds = {license_kind(card) for card in cards}
    return not licenses_agree(cards) and kinds not in ({"permissive"}, {"unknown"})
