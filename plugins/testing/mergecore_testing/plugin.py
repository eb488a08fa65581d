"""The pytest plugin; it imports nothing of mergecore until it is used, so that every pytest run stays quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mergecore_testing.environment import PluginEnv


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--mergecore DIST`, and the failures that are expected of it."""
    group = parser.getgroup("mergecore")
    text = "check everything that the installed distribution DIST registers with mergecore; no test file is needed"
    group.addoption("--mergecore", action="append", default=[], metavar="DIST", help=text)
    about = "checks of --mergecore that a plugin cannot pass, one a line: methods NAME check_nan_shows: the reason"
    parser.addini("mergecore_expected_failures", about, type="linelist", default=[])


def pytest_configure(config: pytest.Config) -> None:
    """With --mergecore alone, no test files are looked for."""
    if config.getoption("--mergecore") and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args = []


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the checks of the distributions that --mergecore names."""
    if config.getoption("--mergecore"):
        from mergecore_testing import collecting

        items += collecting.items(session, config.getoption("--mergecore"), config.getini(collecting.INI))


@pytest.fixture
def plugin_env(tmp_path: Path) -> PluginEnv:
    """Plugins that exist for one test; see `mergecore_testing.PluginEnv`."""
    from mergecore_testing.environment import PluginEnv

    folder = tmp_path / "plugin-env"
    folder.mkdir()
    return PluginEnv(folder)


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """A maker of tiny checkpoint folders of any installed architecture; needs no transformers.

    ``tiny_model("LlamaForCausalLM", seed=1)`` is the folder of one with random weights. More arguments are those of
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
    """A runner of recipes: ``run_recipe({"merge_method": ..., ...})`` or a path; gives the output folder.

    More arguments are those of `mergecore.run`.
    """
    made: list[Path] = []

    def run(recipe: Path | str | Mapping[str, Any], **options: Any) -> Path:
        import mergecore

        made.append(mergecore.run(recipe, tmp_path / f"out-{len(made)}", **options))
        return made[-1]

    return run
