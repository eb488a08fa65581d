"""Checks for post-processors: they add to the output folder, change nothing else, and can run again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mergecore.api import MergedModel
from mergecore.planning.plan import merged_model
from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject, folder
from mergecore_testing.sandbox import Sandbox, models, recipe


def check_its_order_can_be_read(subject: Subject) -> None:
    """`after` is a tuple of names, and the class needs no arguments."""
    after = subject.loaded().after
    right = isinstance(after, tuple) and all(isinstance(name, str) for name in after)
    expect(right, f"{subject}: 'after' must be a tuple of names, not {after!r}")
    expect(subject.name not in after, f"{subject}: cannot run after itself")


def check_leaves_the_weights_and_the_models_alone(subject: Subject) -> None:
    """It changes neither the merged weights nor any file of an input model."""
    with _merged() as merged:
        before = [_content(path) for path in merged.kept]
        subject.loaded().run(merged.model)
        for path, content in zip(merged.kept, before):
            expect(path.exists() and _content(path) == content, f"{subject}: changes {path.name}, which is off limits")


def check_runs_again(subject: Subject) -> None:
    """A second run, as in a resumed merge, leaves the same files."""
    with _merged() as merged:
        subject.loaded().run(merged.model)
        first = {path.relative_to(merged.model.folder) for path in merged.model.folder.rglob("*")}
        subject.loaded().run(merged.model)
        second = {path.relative_to(merged.model.folder) for path in merged.model.folder.rglob("*")}
        expect(first == second, f"{subject}: a second run leaves different files: {sorted(map(str, first ^ second))}")


@dataclass(frozen=True)
class _Merged:
    model: MergedModel
    kept: list[Path]
    """The files that the post-processor must not change."""


@contextmanager
def _merged() -> Iterator[_Merged]:
    with folder() as there:
        two, sandbox = models(there / "models", 2), Sandbox()
        task = recipe("kit-mean", two)
        out = sandbox.run(task, there / "out")
        plan = sandbox.plan(task)
        try:
            model = merged_model(plan, out, "merged", sandbox.problems.append)
            yield _Merged(model, [path for path in there.rglob("*") if path.is_file()])
        finally:
            plan.close()


def _content(path: Path) -> bytes:
    return path.read_bytes()
