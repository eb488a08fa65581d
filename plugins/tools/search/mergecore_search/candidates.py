"""Merge candidates in memory, by letting the jobs of a plan write into a loaded model."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from mergecore_eval.subjects import Folder

from mergecore.api import TILE_ELEMENTS, Input, InputError, RunError, Subject, Work, as_tensor
from mergecore.tooling import (
    Listener,
    Options,
    Place,
    Plan,
    Recipe,
    Registry,
    ThreadsExecutor,
    input_identity,
    is_finite,
    load_postprocessors,
    make_plan,
    merged_model,
    parse_stages,
    run_plan,
)
from mergecore_search.keeping import Keeping, Kept

if TYPE_CHECKING:
    from torch import Tensor


def recipe_of(place: Place) -> Recipe:
    """Return the recipe in a document, without its `evaluate` key."""
    value = {key: item for key, item in place.value.items() if key != "evaluate"}
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    return parse_stages([Place(value, (), place.file, place.marks)], text)


@dataclass
class Maker:
    """Merge one candidate after another, reusing the loaded model.

    Args:
        registry: The plugins.
        memory: Bytes available for merging and for data kept for the next candidate.
        workers: Number of merging threads.
        warn: Called with warnings.
    """

    registry: Registry
    memory: int
    workers: int
    warn: Callable[[str], None]

    def __post_init__(self) -> None:
        self.kept = Kept()
        self._loaded: tuple[Any, dict[str, Tensor]] | None = None
        self._kind = ""
        self._scratch = Path(tempfile.mkdtemp(prefix="mergecore-search-"))

    @contextmanager
    def candidate(self, place: Place, name: str) -> Iterator[Subject]:
        """Provide the merged model of a recipe for the duration of the `with` block.

        Raises:
            InputError: The recipe cannot be merged.
            RunError: The merge failed, or produced NaN or infinity.
        """
        plan = make_plan(recipe_of(place), self.registry, self.memory)
        folder = self._scratch / "candidate"
        try:
            target = self._target(plan, folder)
            if target is None:
                self._write(plan, folder)
                yield Folder(folder, name)
            else:
                model, flat = target
                self._fill(plan, flat)
                yield InMemory(name, model, folder, partial(self._write, plan))
        finally:
            plan.close()

    def close(self) -> None:
        """Delete the temporary files."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _target(self, plan: Plan, folder: Path) -> tuple[Any, dict[str, Tensor]] | None:
        """Return a model with the plan's config, and its weights by name. None if transformers uses different names."""
        key = _kind(plan)
        if self._kind != key:
            self._loaded, self._kind = None, ""
            shutil.rmtree(folder, ignore_errors=True)
            self._finish(plan, folder)
            model = _empty_model(folder)
            state = {name: tensor for name, tensor in model.state_dict().items() if name in plan.tensors}
            if any(name not in state or state[name].shape != info.shape for name, info in plan.tensors.items()):
                self.warn(
                    "transformers and the model's files differ in weight names, so each candidate is written to disk"
                )
            else:
                self._loaded = model, {name: tensor.view(-1) for name, tensor in state.items()}
            self._kind = key  # set last, so that a failure repeats for every candidate
        return self._loaded

    def _finish(self, plan: Plan, folder: Path) -> None:
        """Write the config and tokenizer files."""
        folder.mkdir(parents=True)
        steps = load_postprocessors(self.registry, self.warn)
        for name in ("config", "tokenizer"):
            if name in steps:
                steps[name].run(merged_model(plan, folder, folder.name, self.warn))

    def _fill(self, plan: Plan, flat: dict[str, Tensor]) -> None:
        def read(item: Input, start: int, out: Tensor | memoryview) -> None:
            plan.checkpoints[item.model].read(item.tensor, start, out)

        def write(name: str, start: int, data: Tensor | memoryview) -> None:
            if isinstance(data, memoryview):
                data = as_tensor(data, plan.tensors[name].dtype)
            if not is_finite(data):
                raise RunError(f"{name}: contains NaN or infinity")
            flat[name][start : start + data.numel()].copy_(data)

        needed = self.workers * max((job.memory(TILE_ELEMENTS) for job in plan.jobs), default=0)
        in_flight = min(self.memory, needed)
        self.kept.limit(self.memory - in_flight)
        work = Work(plan.jobs, read, write, lambda count: None, lambda job: None, in_flight, self.workers)
        ThreadsExecutor(merger=partial(Keeping, kept=self.kept, models=_models(plan))).run(work)

    def _write(self, plan: Plan, folder: Path) -> None:
        """Write a candidate to files."""
        shutil.rmtree(folder, ignore_errors=True)
        options = Options(self.memory, self.workers, without=("health",))
        run_plan(plan, folder, self.registry, options, Listener(self.warn))


@dataclass
class InMemory:
    """A candidate whose weights are in memory. See `mergecore.api.Subject`."""

    name: str
    model: Any
    home: Path
    """Folder with its config and tokenizer."""
    write: Callable[[Path], None]
    """Writes the whole candidate to a folder."""

    @property
    def tokenizer(self) -> Any:
        return Folder(self.home, self.name).tokenizer

    @cached_property
    def folder(self) -> Path:
        whole = self.home.with_name("written")
        self.write(whole)
        return whole


def _kind(plan: Plan) -> str:
    """Return a digest of everything about a candidate except the values of its weights."""
    shapes = {name: info.shape for name, info in plan.tensors.items()}
    files = {name: hashlib.sha256(data).hexdigest() for name, data in (plan.tokenizer_files or {}).items()}
    text = json.dumps(
        [plan.config, shapes, files, plan.checkpoints[plan.config_source].reference], sort_keys=True, default=str
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _models(plan: Plan) -> list[Hashable]:
    """Return a key for each model that is equal across candidates if its tensors are the same."""
    seen = hashlib.sha256(json.dumps(input_identity(plan), sort_keys=True).encode()).hexdigest()
    return [(seen, checkpoint.reference, checkpoint.origin) for checkpoint in plan.checkpoints]


def _empty_model(folder: Path) -> Any:
    """Create a float32 model from a folder's config, with weights that will be overwritten."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # transformers can raise anything on an unusual config
        raise InputError(f"transformers cannot create a model from the merge's config: {error}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
