"""The built-in plugins pass the checks for their kinds, and every check detects a faulty plugin."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from mergecore_testing.checkpoints import write_checkpoint
from mergecore_testing.conformance import architectures, conformance
from mergecore_testing.conformance.kinds import CHECKS, apply
from mergecore_testing.conformance.subjects import Subject
from mergecore_testing.sandbox import DEFINITION, Mean
from torch import Tensor

from mergecore.api import (
    ITEM_BYTES,
    Evaluator,
    Executor,
    InputError,
    MergedModel,
    PostProcessor,
    TensorInfo,
    Work,
    as_tensor,
    hookimpl,
)
from mergecore.builtin.safetensors import SafetensorsReader, SafetensorsWriter
from mergecore.builtin.threads import ThreadsExecutor
from mergecore.models.architecture_lookup import Findings
from mergecore.planning import planner

test_reader = conformance("safetensors", "readers")
test_writer = conformance("safetensors", "writers")
test_executor = conformance("threads", "executors")
test_architecture = conformance("LlamaForCausalLM", "architectures")
test_postprocessor = conformance("config", "postprocessors")


class Shifted(SafetensorsReader):
    """Reads one element too late."""

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        super().read_bytes(name, start + (start == 11), out)


class Shared(SafetensorsReader):
    """Keeps the position between two calls, where other threads can change it."""

    def read_bytes(self, name: str, start: int, out: memoryview) -> None:
        self.place, info = start, self.tensors[name]
        time.sleep(0.001)
        super().read_bytes(name, min(self.place, info.elements - len(out) // ITEM_BYTES[info.dtype]), out)


class Unpicklable(SafetensorsReader):
    """Holds an object that cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle")


class Blunt(SafetensorsReader):
    """Passes OS errors through."""

    def __init__(self, path: Path) -> None:
        path.read_bytes() if not path.is_fifo() else None
        super().__init__(path)


class Lenient(SafetensorsReader):
    """Reads missing data at the end of a file as zeros."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        if end < len(content):
            header = json.loads(content[8:end])
            ends = [entry["data_offsets"][1] for entry in header.values() if "data_offsets" in entry]
            path.write_bytes(content.ljust(end + max(ends), b"\0"))
        super().__init__(path)


class InOrder(SafetensorsWriter):
    """Expects the pieces of a tensor in order."""

    def write_bytes(self, name: str, start: int, data: memoryview) -> None:
        self.ends, item = {**getattr(self, "ends", {})}, ITEM_BYTES[self._tensors[name].dtype]
        start, self.ends[name] = self.ends.get(name, 0), self.ends.get(name, 0) + len(data) // item
        super().write_bytes(name, start, data)


class Truncating(SafetensorsWriter):
    """Starts over in a folder that is not empty."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None:
        for path in folder.iterdir():
            path.unlink()
        super().__init__(folder, tensors, shard_bytes)


class OneFile(SafetensorsWriter):
    """Writes a single file of any size."""

    def __init__(self, folder: Path, tensors: Mapping[str, TensorInfo], shard_bytes: int) -> None:
        super().__init__(folder, tensors, 2**50)


class Misplacing(SafetensorsWriter):
    """Reports offsets of tensors that are too large."""

    def finish(self) -> None:
        super().finish()
        self.places = {name: (path, start + 4) for name, (path, start) in self.places.items()}


def executor(change: Callable[[Work], Work]) -> type[Executor]:
    """Return the built-in executor with modified work."""

    class Changed(ThreadsExecutor):
        def run(self, work: Work) -> None:
            super().run(change(work))

    return Changed


def louder(work: Work) -> Work:
    def write(name: str, start: int, data: Tensor | memoryview) -> None:
        dtype = next(job.info.dtype for job in work.jobs if job.name == name)
        work.write(name, start, (as_tensor(data, dtype) if isinstance(data, memoryview) else data) * 1.5)

    return Work(**{**vars(work), "write": write})


def silent(work: Work) -> Work:
    return Work(**{**vars(work), "advance": lambda count: None})


class Swallowing(ThreadsExecutor):
    """Ignores errors, as if all jobs were done."""

    def run(self, work: Work) -> None:
        try:
            super().run(work)
        except Exception:
            for job in work.jobs:
                work.done(job)


def after(run: Callable[[MergedModel], object], names: Any = ()) -> type[PostProcessor]:
    """Return a post-processor that runs one function."""
    return type("After", (PostProcessor,), {"after": names, "run": lambda self, model: run(model)})


def hooks(**functions: Any) -> ModuleType:
    """Return a module with hooks."""
    module = ModuleType("hooks_under_test")
    vars(module).update(functions)
    return module


@hookimpl
def refuse(recipe: Any) -> None:
    raise InputError("company rule: no")


@hookimpl
def answer(name: str) -> Any:
    return object


@hookimpl
def change(recipe: Any) -> None:
    recipe["seed"] = 1


@hookimpl
def fail(name: str) -> None:
    raise KeyError(name)


class Wide:
    """Proposes points outside the cube."""

    edge = 2.0

    def __init__(self, dimensions: int, seed: int, population: int) -> None:
        self.dimensions = dimensions

    def ask(self) -> list[list[float]]:
        return [[self.edge] * self.dimensions]

    def tell(self, points: Any, losses: Any) -> None:
        pass


class Fickle(Wide):
    """Proposes points that depend on the clock."""

    def ask(self) -> list[list[float]]:
        return [[time.time_ns() % 1000 / 1000] * self.dimensions]


class Brittle(Wide):
    """Fails on an infinite loss."""

    def tell(self, points: Any, losses: Any) -> None:
        [int(loss) for row in losses for loss in row]


PATCHES: dict[str, tuple[Any, str, Any]] = {
    "knows_its_model": (architectures, "compare_names", lambda *given: Findings(["x"], [], [])),
    "merges_every_tensor": (Mean, "merge", lambda self, weights, ctx: weights[0]),
    "keeps_the_first_layers": (planner, "layer_config", lambda *given: {}),
}
"""Faults in mergecore itself, which no definition can have."""
FAULTS: dict[str, list[tuple[str, Any, str]]] = {
    "follows_the_format": [("two layouts", {**DEFINITION, "layers": {}}, "'count' is missing")],
    "knows_its_model": [("unknown", DEFINITION, "does not know")],
    "merges_every_tensor": [("one model", DEFINITION, "are not the mean")],
    "keeps_the_first_layers": [("count not written", DEFINITION, "with two layers says [3]")],
    "reads_every_dtype_at_any_place": [("one off", Shifted, "is wrong")],
    "reads_from_threads": [("shares its place", Shared, "with several threads")],
    "opens_again_in_another_process": [("unpicklable", Unpicklable, "cannot pickle")],
    "refuses_what_it_cannot_read": [("lets errors through", Blunt, "not a ModelError")],
    "refuses_what_is_cut_short": [("lenient", Lenient, "without an error")],
    "pieces_come_in_any_order": [("in order", InOrder, "differs from what was written")],
    "what_was_synced_stays": [("starts over", Truncating, "differs from what was written")],
    "small_shards_give_several_files": [("one file", OneFile, "as many files as one shard")],
    "places_are_where_tensors_are": [("later", Misplacing, "is not at its location in `places`")],
    "same_bytes_as_threads": [("louder", executor(louder), "differs from threads with 1 worker")],
    "tells_of_every_byte": [("silent", executor(silent), "reports 0 of")],
    "an_error_ends_the_run": [("swallows", Swallowing, "without an error")],
    "its_order_can_be_read": [
        ("text", after(print, "config"), "tuple of names"),
        ("itself", after(print, ("it",)), "after itself"),
    ],
    "leaves_the_weights_and_the_models_alone": [
        ("weights", after(lambda model: (model.folder / "model.safetensors").write_bytes(b"")), "changes model.safe"),
        ("models", after(lambda model: (model.models[1].folder / "config.json").unlink()), "changes config.json"),
    ],
    "says_what_it_measures": [("mute", dataclass(frozen=True)(type("Mute", (Evaluator,), {})), "needs a docstring")],
    "asks_for_points_of_the_cube": [("wide", Wide, "outside the cube")],
    "seeds_decide_the_points": [("fickle", Fickle, "produces different points")],
    "goes_on_after_failures": [("brittle", Brittle, "infinity")],
    "runs_again": [("a new file", after(lambda m: (m.folder / str(time.time_ns())).touch()), "leaves different files")],
    "every_hook_is_marked": [
        ("unmarked", hooks(mergecore_after_write=refuse, mergecore_before_plan=lambda recipe: None), "no @hookimpl"),
        ("none", hooks(), "no function"),
    ],
    "leaves_other_plugins_to_others": [("answers all", hooks(mergecore_provide_reader=answer), "returns")],
    "the_recipe_stays_as_it_is": [("changes", hooks(mergecore_before_plan=change), "changes the recipe")],
    "watches_a_run": [("fails", hooks(mergecore_after_tensor=fail), "is disabled")],
}
KIND_OF = {check.__name__: kind for kind, checks in CHECKS.items() for check in checks}
CASES = [(name, fault, plugin, words) for name, faults in FAULTS.items() for fault, plugin, words in faults]


@pytest.mark.parametrize(("name", "fault", "plugin", "words"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_check_finds_the_fault_that_it_is_for(
    name: str, fault: str, plugin: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = KIND_OF[f"check_{name}"]
    check = next(check for check in CHECKS[kind] if check.__name__ == f"check_{name}")
    if name in PATCHES:
        monkeypatch.setattr(*PATCHES[name])
    names = {"readers": "safetensors", "writers": "safetensors", "architectures": "TinyForCausalLM"}
    with pytest.raises(Exception, match=words.replace("[", r"\[")):
        apply(check, Subject(kind, names.get(kind, "it"), plugin))


def test_every_check_has_its_fault() -> None:
    of_commands_and_methods = {check.__name__ for kind in ("commands", "methods") for check in CHECKS[kind]}
    assert set(KIND_OF) - of_commands_and_methods == {f"check_{name}" for name in FAULTS}


def test_hooks_that_refuse_everything_are_sound() -> None:
    for check in CHECKS["hooks"]:
        apply(check, Subject("hooks", "house", hooks(mergecore_before_plan=refuse)))


def test_a_definition_of_another_model_is_told_by_a_real_one(tmp_path: Path) -> None:
    other = {**DEFINITION, "layer": [*DEFINITION["layer"], "gate.weight"]}
    model = write_checkpoint(tmp_path / "model", "TinyForCausalLM", other)
    with pytest.raises(AssertionError, match=r"gate\.weight"):
        architectures.check_knows_a_real_model(Subject("architectures", "Tiny", DEFINITION, model=model))
