"""Checks for executors: the same bytes as `threads`, complete progress reports, and propagated errors."""

from __future__ import annotations

from pathlib import Path

from mergecore.errors import MergecoreError
from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject, folder
from mergecore_testing.sandbox import Sandbox, models, recipe


def check_same_bytes_as_threads(subject: Subject) -> None:
    """Methods with and without measurements produce the same files as with the built-in executor."""
    with folder() as there:
        three = models(there, 3, dtype="bfloat16", layers=2)
        tasks = {"mean": recipe("kit-mean", three), "loudest": recipe("kit-loudest", three[1:2], base_model=three[0])}
        for name, task in tasks.items():
            expected = _weights(Sandbox().run(task, there / f"{name}-threads"))
            for workers in (1, 3):
                out = _sandbox(subject).run(task, there / f"{name}-{workers}", executor=subject.name, workers=workers)
                expect(
                    _weights(out) == expected,
                    f"{subject}: differs from threads with {workers} worker(s) ({name})",
                )


def check_tells_of_every_byte(subject: Subject) -> None:
    """The bytes reported as written add up to the output size, even with minimal memory."""
    with folder() as there:
        task, told = recipe("kit-mean", models(there, 2)), list[int]()
        sandbox = _sandbox(subject)
        sandbox.run(task, there / "out", executor=subject.name, advance=told.append, memory=2**22)
        plan = sandbox.plan(task)
        plan.close()
        expect(sum(told) == plan.bytes_out, f"{subject}: reports {sum(told)} of {plan.bytes_out} bytes")


def check_an_error_ends_the_run(subject: Subject) -> None:
    """An error raised by a method is raised by the run."""
    with folder() as there:
        try:
            _sandbox(subject).run(recipe("kit-broken", models(there, 2)), there / "out", executor=subject.name)
        except (ValueError, MergecoreError) as error:
            expect("always fails" in str(error), f"{subject}: raises {error!r}, which hides the original error")
            return
        expect(False, f"{subject}: a failing method produces a result without an error")


def _sandbox(subject: Subject) -> Sandbox:
    return Sandbox({("executors", subject.name): subject.loaded})


def _weights(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.safetensors*")}
