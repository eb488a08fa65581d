"""The pytest plugin. It imports mergecore only on first use, to keep other pytest runs fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mergecore_testing.environment import PluginEnv


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--mergecore DIST` and the ini option for its expected failures."""
    group = parser.getgroup("mergecore")
    text = "run the conformance checks for every mergecore plugin of the installed distribution DIST"
    group.addoption("--mergecore", action="append", default=[], metavar="DIST", help=text)
    about = "expected failures of --mergecore checks, one per line: methods NAME check_nan_shows: the reason"
    parser.addini("mergecore_expected_failures", about, type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """Collect no test files if --mergecore is given without paths."""
    if config.getoption("--mergecore") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the checks of the distributions passed with --mergecore."""
    if config.getoption("--mergecore"):
        from mergecore_testing import collecting

        items += collecting.items(session, config.getoption("--mergecore"), config.getini(collecting.INI))


@pytest.fixture
def plugin_env(tmp_path: Path) -> PluginEnv:
    """Return an environment for plugins that exist for one test. See `mergecore_testing.PluginEnv`."""
    from mergecore_testing.environment import PluginEnv

    folder = tmp_path / "plugin-env"
    folder.mkdir()
    return PluginEnv(folder)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """Return a factory for tiny checkpoint folders of any installed architecture. Does not need transformers.

    ``tiny_model("LlamaForCausalLM", seed=1)`` returns a folder with random weights. Other arguments are passed to
    `mergecore_testing.checkpoints.write_checkpoint`.
    """
    made: list[Path] = []

    def make(architecture: str, **options: Any) -> Path:
        from mergecore_testing.checkpoints import write_checkpoint
        from mergecore_testing.conformance.kinds import loaded

        folder = tmp_path / f"{architecture.replace('/', '-')}-{len(made)}"
        made.append(write_checkpoint(folder, architecture, loaded("architectures", architecture), **options))
        return folder

    return make


@pytest.fixture
def run_recipe(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that runs a recipe, given as a dict or a path, and returns the output folder.

    Other arguments are passed to `mergecore.run`.
    """
    made: list[Path] = []

    def run(recipe: Path | str | Mapping[str, Any], **options: Any) -> Path:
        import mergecore

        made.append(mergecore.run(recipe, tmp_path / f"out-{len(made)}", **options))
        return made[-1]

    return run
