"""Checks for evaluators: the class and every parameter have a description, and instances are immutable."""

from __future__ import annotations

from mergecore.discovery.parameters import declared
from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject


def check_says_what_it_measures(subject: Subject) -> None:
    """The class has a docstring, every parameter has a description, and the dataclass is frozen."""
    documented = subject.loaded.__doc__ and not subject.loaded.__doc__.startswith(f"{subject.loaded.__name__}(")
    expect(documented, f"{subject}: needs a docstring that describes what it measures")
    mute = [name for name, item in declared(subject.loaded).items() if not item.doc]
    expect(not mute, f"{subject}: parameters without a description: {', '.join(mute)}")
    expect(subject.loaded.__dataclass_params__.frozen, f"{subject}: add @dataclass(frozen=True) above the class")
