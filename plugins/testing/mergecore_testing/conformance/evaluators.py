"""Checks of evaluators: what they measure and every parameter is described, and can be changed by nobody."""

from __future__ import annotations

from mergecore.discovery.parameters import declared
from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject


def check_says_what_it_measures(subject: Subject) -> None:
    """It has a docstring, each parameter a description, and an instance stays as it was made."""
    documented = subject.loaded.__doc__ and not subject.loaded.__doc__.startswith(f"{subject.loaded.__name__}(")
    expect(documented, f"{subject}: needs a docstring that says what it measures")
    mute = [name for name, item in declared(subject.loaded).items() if not item.doc]
    expect(not mute, f"{subject}: parameters without a description: {', '.join(mute)}")
    expect(subject.loaded.__dataclass_params__.frozen, f"{subject}: put @dataclass(frozen=True) above the class")
