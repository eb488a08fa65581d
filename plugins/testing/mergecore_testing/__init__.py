"""Tests of mergecore plugins: `conformance` for methods, and the fixture `plugin_env`, which pytest finds by itself."""

from mergecore_testing.environment import PluginEnv

__all__ = ["PluginEnv"]
