"""The checks of an adapter's folder: its weights by themselves, and on the base model if that is a local folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mergecore.api import read_json
from mergecore.tooling import MergecoreError, Registry, open_adapter, open_model
from mergecore_verify.content import check_finite
from mergecore_verify.findings import Finding, skipped
from mergecore_verify.vocabulary import CONFIG_LIMIT

CONFIG = "adapter_config.json"


def is_adapter(folder: Path) -> bool:
    """Return whether a folder has an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def examine_adapter(folder: Path, base: str, registry: Registry) -> Iterator[Finding]:
    """Check an adapter.

    Args:
        folder: the adapter.
        base: its base model, or empty for the one that it names.
        registry: the plugins.

    Yields:
        A finding for each check, as soon as it is done.
    """
    try:
        checkpoint = open_adapter(folder, registry)
    except MergecoreError as error:
        yield Finding("files", False, str(error))
        return
    try:
        yield Finding("files", True, f"{len(checkpoint.tensors)} tensors in {next(iter(checkpoint.stamps)).name}")
        yield check_finite(checkpoint)
        yield _check_base(folder, base, registry)
    finally:
        checkpoint.close()


def _check_base(folder: Path, base: str, registry: Registry) -> Finding:
    """Check that the base has a tensor of the right shape for every part of the adapter."""
    try:
        named = base or read_json(folder / CONFIG, CONFIG_LIMIT).get("base_model_name_or_path")
        if not isinstance(named, str) or not (base or Path(named).is_dir()):
            what = f"{named} is not a folder here" if named else f"{CONFIG} names no base"
            return skipped("base", f"{what}; to check it, run mergecore verify BASE+{folder}")
        checkpoint = open_model(f"{named}+{folder}", registry)
    except MergecoreError as error:
        return Finding("base", False, str(error))
    checkpoint.close()
    (added,) = checkpoint.adapters
    return Finding("base", True, f"{added.summary} fits {added.tensors} tensors of {named}")
