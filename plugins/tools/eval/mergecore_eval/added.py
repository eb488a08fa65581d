"""Give models with adapters a folder, because transformers loads models from folders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from mergecore.api import InputError
from mergecore.tooling import (
    Place,
    Registry,
    make_plan,
    parse_recipe,
    run_options,
    run_with_progress,
    split_adapters,
    warn,
)


def check_models(references: list[str]) -> None:
    """Raise InputError unless each is a model folder, with or without adapters."""
    for reference in references:
        base, _ = split_adapters(reference)
        if not (Path(base) / "config.json").is_file():
            raise InputError(f"{base}: not a model folder; it has no config.json")


@contextmanager
def model_folder(reference: str) -> Iterator[Path]:
    """Yield the folder of a model. For ``BASE+ADAPTER``, it is a temporary one of the size of the base.

    Raises:
        MergecoreError: An adapter does not fit the model, or the disk of the temporary folders is too small.
    """
    if not split_adapters(reference)[1]:
        yield Path(reference).absolute()
        return
    recipe = parse_recipe(Place({"merge_method": "passthrough", "models": [{"model": reference}]}), "")
    registry, options = Registry(warn), run_options(no_health=True)
    with TemporaryDirectory(prefix="mergecore-") as folder:
        plan = make_plan(recipe, registry, options.memory)
        run_with_progress(plan, Path(folder) / "model", registry, options, quiet=True, as_json=False)
        yield Path(folder) / "model"
