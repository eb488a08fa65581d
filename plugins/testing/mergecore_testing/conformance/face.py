"""The one function that authors call: a test of a plugin, one case for each check, failures expected or shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import pytest

from mergecore.api import Method
from mergecore.errors import nearest
from mergecore_testing.conformance import architectures, claims
from mergecore_testing.conformance.kinds import CHECKS as OF_KINDS
from mergecore_testing.conformance.kinds import apply, loaded
from mergecore_testing.conformance.subjects import Check, Subject, Write

CHECKS = OF_KINDS["methods"]
"""What every method is held to."""

IDENTICAL = {
    "rounded": claims.check_identical_models_give_that_model,
    "exact": claims.check_identical_models_give_that_model_exactly,
}
CLAIMS: tuple[Check, ...] = (*IDENTICAL.values(), claims.check_order_of_models_is_irrelevant)
"""What those methods are held to that claim it."""


def conformance(
    plugin: str | type[Method],
    kind: str = "methods",
    *,
    identical: Literal["exact", "rounded"] | None = None,
    symmetric: bool = False,
    model: Path | str | None = None,
    write: Write | None = None,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Check], None]:
    """A test of a plugin, to be assigned to a name that pytest collects; one case for each check.

    What it is tried with is made from what it declares. What cannot be known from there is said here:

    Args:
        plugin: entry-point name of an installed plugin, or a method's class.
        kind: entry-point group, such as ``architectures``.
        identical: of a method: "rounded" or "exact": by default parameters identical models give that model.
        symmetric: of a method: the order of the models is irrelevant.
        model: of an architecture: a folder with a real model of its class, whose every tensor it must know.
        write: of a reader: writes a file (path, tensors by name) for it to read; default: the writer of the same name.
        expected_failures: checks that the plugin cannot pass, by name, each with the reason. One that is passed
            nevertheless fails the test.

    Raises:
        mergecore.errors.PluginError: no plugin of that name can be loaded.
        ValueError: there is no such kind, or `expected_failures` names a check that this plugin is not held to, or
            gives no reason.
    """
    if kind not in OF_KINDS:
        raise ValueError(f"there is no kind {kind!r}; write one of: {', '.join(OF_KINDS)}")
    tested = loaded(kind, plugin) if isinstance(plugin, str) else plugin
    name = plugin if isinstance(plugin, str) else plugin.__name__
    subject = Subject(kind, name, tested, write, Path(model) if model else None)
    claimed: list[Check] = [IDENTICAL[identical]] if identical else []
    claimed += [claims.check_order_of_models_is_irrelevant] if symmetric else []
    claimed += [architectures.check_knows_a_real_model] if model else []
    checks = {check.__name__: check for check in (*OF_KINDS[kind], *claimed)}
    reasons = expected_failures or {}
    check_reasons(reasons, list(checks))
    params = [
        pytest.param(
            check,
            id=label.removeprefix("check_"),
            marks=[pytest.mark.xfail(reason=reasons[label], strict=True)] if label in reasons else [],
        )
        for label, check in checks.items()
    ]

    @pytest.mark.parametrize("check", params)
    def test(check: Check) -> None:
        apply(check, subject)

    return test


def check_reasons(reasons: Mapping[str, str], checks: list[str]) -> None:
    """Raise ValueError unless every expected failure is one of the checks and has a reason."""
    for name, reason in reasons.items():
        if name not in checks:
            raise ValueError(f"expected_failures: there is no check {name!r}{nearest(name, checks)}")
        if not reason:
            raise ValueError(f"expected_failures: say why {name!r} cannot be passed")
