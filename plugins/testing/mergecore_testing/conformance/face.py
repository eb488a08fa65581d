"""One line of test that puts a method through every check, each as a pytest case of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import pytest

from mergecore import plugins
from mergecore.api import Method
from mergecore.errors import nearest
from mergecore_testing.conformance import bits, claims, declarations, values

Check = Callable[[type[Method]], None]

CHECKS: tuple[Check, ...] = (
    declarations.check_is_a_method,
    declarations.check_documented,
    values.check_shape_and_dtype_kept,
    values.check_numbers_of_models,
    values.check_ends_of_ranges_stay_finite,
    values.check_zeros_and_opposites_stay_finite,
    values.check_zero_deltas_give_the_base,
    values.check_nan_shows,
    bits.check_inputs_unchanged,
    bits.check_randomness,
    bits.check_tiles_change_no_bit,
    bits.check_order_of_tiles_changes_no_bit,
    bits.check_threads_change_no_bit,
)
"""What every method is held to."""

IDENTICAL = {
    "rounded": claims.check_identical_models_give_that_model,
    "exact": claims.check_identical_models_give_that_model_exactly,
}
CLAIMS: tuple[Check, ...] = (*IDENTICAL.values(), claims.check_order_of_models_is_irrelevant)
"""What those methods are held to that claim it."""


def conformance(
    method: str | type[Method],
    *,
    identical: Literal["exact", "rounded"] | None = None,
    symmetric: bool = False,
    expected_failures: Mapping[str, str] | None = None,
) -> Callable[[Check], None]:
    """A test of a method, to be assigned to a name that pytest collects; one case for each check.

    Parameters and inputs come from what the method declares. Two promises depend on its formula and are checked where
    they are made:

    Args:
        method: entry-point name of an installed method, or its class.
        identical: "rounded" or "exact": by default parameters identical models give that model.
        symmetric: the order of the models is irrelevant.
        expected_failures: checks that the method cannot pass, by name, each with the reason. One that is passed
            nevertheless fails the test.

    Raises:
        mergecore.errors.PluginError: no method of that name can be loaded.
        ValueError: `expected_failures` names a check that this method is not held to, or gives no reason.
    """
    tested = plugins.load(plugins.find("methods", method)) if isinstance(method, str) else method
    claimed = [IDENTICAL[identical]] if identical else []
    claimed += [claims.check_order_of_models_is_irrelevant] if symmetric else []
    checks = {check.__name__: check for check in (*CHECKS, *claimed)}
    reasons = expected_failures or {}
    for name, reason in reasons.items():
        if name not in checks:
            raise ValueError(f"expected_failures: there is no check {name!r}{nearest(name, checks)}")
        if not reason:
            raise ValueError(f"expected_failures: say why {name!r} cannot be passed")
    params = [
        pytest.param(
            check,
            id=name.removeprefix("check_"),
            marks=[pytest.mark.xfail(reason=reasons[name], strict=True)] if name in reasons else [],
        )
        for name, check in checks.items()
    ]

    @pytest.mark.parametrize("check", params)
    def test(check: Check) -> None:
        with bits.threads(1):  # as the executor does
            check(tested)

    return test
