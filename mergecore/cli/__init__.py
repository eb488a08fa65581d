"""The `mergecore` command line: its commands, options, progress, and tables."""

from mergecore.cli.app import main

__all__ = ["main"]
