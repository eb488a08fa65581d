"""`pytest --mergecore DIST`: run every check for every plugin of a distribution, without a test file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pytest

from mergecore.discovery import entry_points
from mergecore.discovery.entry_points import Plugin, normalized_name
from mergecore_testing.conformance.face import check_reasons
from mergecore_testing.conformance.kinds import CHECKS, apply, loaded
from mergecore_testing.conformance.subjects import Check, Subject

INI = "mergecore_expected_failures"
Failures = Mapping[tuple[str, str], Mapping[str, str]]
"""(kind, plugin) → check → reason."""


def items(session: pytest.Session, distributions: Iterable[str], failures: Iterable[str]) -> Iterator[pytest.Item]:
    """Yield the tests of distributions. The expected `failures` are the lines of the ini option.

    Raises:
        pytest.UsageError: a distribution has no plugins, or an expected failure matches no check.
    """
    expected = expected_failures(failures)
    for distribution in distributions:
        found = registered(distribution)
        if not found:
            raise pytest.UsageError(f"--mergecore {distribution}: no installed distribution of this name has plugins")
        parent = Distribution.from_parent(session, name=found[0].distribution, nodeid=found[0].distribution)
        for plugin in found:
            reasons = expected.get((plugin.kind, plugin.name), {})
            checks = {check.__name__: check for check in CHECKS[plugin.kind]}
            try:
                check_reasons(reasons, list(checks))
            except ValueError as error:
                raise pytest.UsageError(f"{INI}: {plugin.kind} {plugin.name}: {error}") from None
            for name, check in checks.items():
                label = f"{plugin.kind.removesuffix('s')} {plugin.name}: {name.removeprefix('check_')}"
                item = CheckItem.from_parent(parent, name=label, plugin=plugin, check=check)
                if name in reasons:
                    item.add_marker(pytest.mark.xfail(reason=reasons[name], strict=True))
                yield item


def registered(distribution: str) -> list[Plugin]:
    """Return every plugin of a distribution. The prefixes ``mergecore-`` and ``mergecore-arch-`` are optional."""
    every = [plugin for kind in entry_points.KINDS for plugin in entry_points.list_plugins(kind)]
    for prefix in ("", "mergecore-", "mergecore-arch-"):
        name = normalized_name(prefix + distribution)
        if found := [plugin for plugin in every if normalized_name(plugin.distribution) == name]:
            return found
    return []


def expected_failures(lines: Iterable[str]) -> Failures:
    """Parse the lines of the ini option: ``methods my_method check_nan_shows: the reason``."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        words, _, reason = line.partition(":")
        kind, name, check = (words.split() + [""] * 3)[:3]
        if kind not in CHECKS or len(words.split()) != 3:
            raise pytest.UsageError(f"{INI}: write 'methods NAME check_nan_shows: the reason', not {line!r}")
        found.setdefault((kind, name), {})[check] = reason.strip()
    return found


class Distribution(pytest.Collector):
    """Parent of a distribution's checks in the pytest collection tree."""

    def collect(self) -> list[pytest.Item]:
        return []


class CheckItem(pytest.Item):
    """One check of one plugin."""

    def __init__(self, *, plugin: Plugin, check: Check, **rest: Any) -> None:
        super().__init__(**rest)
        self.plugin, self.check = plugin, check

    def runtest(self) -> None:
        found = self.plugin
        apply(self.check, Subject(found.kind, found.name, loaded(found.kind, found.name, found.distribution)))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Show a failed check as a sentence, and any other error with its traceback."""
        if isinstance(excinfo.value, AssertionError):
            return f"{self.plugin}: {excinfo.value}\n\n{(self.check.__doc__ or '').strip()}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[str, None, str]:
        return self.plugin.distribution, None, self.name
