"""ACME's merge policy: all models need a permissive license in their model card, and every merge is logged."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mergecore.api import InputError, ModelError, hookimpl, read_text

PERMISSIVE = {"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0"}
CARD_LIMIT = 10**6
parents: dict[str, str] = {}
"""The models of this run and their licenses."""


@hookimpl
def mergecore_before_plan(recipe: Mapping[str, Any]) -> None:
    """Refuse models without a model card or without a permissive license."""
    parents.clear()
    for model in dict.fromkeys(references(recipe)):
        parents[model] = license = license_of(model)
        if license not in PERMISSIVE:
            allowed = ", ".join(sorted(PERMISSIVE))
            raise InputError(f"ACME policy: {model} has the license {license!r}; allowed licenses: {allowed}")


@hookimpl
def mergecore_after_write(folder: Path) -> None:
    """Append a line to the audit log, which is `ACME_AUDIT` or audit.jsonl next to the output."""
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "out": str(folder), "parents": parents}
    with open(os.environ.get("ACME_AUDIT", folder.parent / "audit.jsonl"), "a", encoding="utf-8") as record:
        record.write(json.dumps(line) + "\n")


def references(value: Any) -> Iterator[str]:
    """Yield every model in a recipe, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("model", "base_model", "path") and isinstance(item, str):
                yield item
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def license_of(model: str) -> str:
    """Return the license in a model card's front matter, between its two ``---`` lines."""
    card = Path(model).expanduser() / "README.md"
    unknown = f"ACME policy: {model} has no known license; add a {card.name} that starts with ---, license: ..., ---"
    try:
        head = read_text(card, CARD_LIMIT).split("---")
        facts = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else None
    except (ModelError, yaml.YAMLError):
        raise InputError(unknown) from None
    if not isinstance(facts, dict) or not isinstance(facts.get("license"), str):
        raise InputError(unknown)
    return facts["license"].lower()
