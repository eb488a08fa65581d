"""The pytest plugin; it imports nothing of mergecore until a fixture is used, so that every pytest run stays quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mergecore_testing.environment import PluginEnv


@pytest.fixture
def plugin_env(tmp_path: Path) -> PluginEnv:
    """Plugins that exist for one test; see `mergecore_testing.PluginEnv`."""
    from mergecore_testing.environment import PluginEnv

    folder = tmp_path / "plugin-env"
    folder.mkdir()
    return PluginEnv(folder)
