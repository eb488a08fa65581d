"""Tests of mergecore plugins: installed by itself, it gives pytest the fixture `plugin_env`."""

from mergecore_testing.environment import PluginEnv

__all__ = ["PluginEnv"]
