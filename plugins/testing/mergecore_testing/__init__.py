"""Test kit for mergecore plugins: conformance checks, and fixtures that pytest finds automatically."""

from mergecore_testing.environment import PluginEnv

__all__ = ["PluginEnv"]
