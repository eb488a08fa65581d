"""The entry point for plugin authors: a parametrized test with one case per check."""

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
"""Checks for every method."""

IDENTICAL = {
    "rounded": claims.check_identical_models_give_that_model,
    "exact": claims.check_identical_models_give_that_model_exactly,
}
CLAIMS: tuple[Check, ...] = (*IDENTICAL.values(), claims.check_order_of_models_is_irrelevant)
"""Checks for methods that make the corresponding claim."""


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
    """Return a test of a plugin with one case per check. Assign it to a name that pytest collects.

    Test inputs are derived from the plugin's declarations. The arguments supply everything else:

    Args:
        plugin: entry-point name of an installed plugin, or the class of a method.
        kind: kind of plugin, such as ``architectures``.
        identical: for a method: merging identical models with default parameters returns that model.
        symmetric: for a method: the order of the models is irrelevant.
        model: for an architecture: a folder with a real model of its class. Every tensor must be known.
        write: for a reader: writes a file to read (path, tensors by name). Defaults to the writer of the same name.
        expected_failures: reasons by name for checks that the plugin cannot pass. If such a check passes, the test
            fails.

    Raises:
        mergecore.errors.PluginError: no plugin of that name can be loaded.
        ValueError: the kind does not exist, or `expected_failures` contains a check that does not apply to this
            plugin or a check without a reason.
    """
    if kind not in OF_KINDS:
        raise ValueError(f"unknown kind {kind!r}; use one of: {', '.join(OF_KINDS)}")
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
    """Raise ValueError if an expected failure is not one of the checks or has no reason."""
    for name, reason in reasons.items():
        if name not in checks:
            raise ValueError(f"expected_failures: unknown check {name!r}{nearest(name, checks)}")
        if not reason:
            raise ValueError(f"expected_failures: give a reason why {name!r} fails")
