"""Checks for commands: they start quickly, have help texts, and reject unknown options with a clear error."""

from __future__ import annotations

import subprocess
import sys

from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject

HEAVY = ("torch", "transformers", "numpy")

LOOK = """
import sys
from mergecore.discovery import find_plugin, load_plugin
from mergecore.cli.external_commands import command

def walk(name, found):
    assert found.help, f"{name} has no docstring that describes it"
    for child, item in getattr(found, "commands", {}).items():
        walk(f"{name} {child}", item)

name = sys.argv[1]
walk(name, command(name, load_plugin(find_plugin("commands", name))))
print(*sorted(set(sys.argv[2:]) & set(sys.modules)))
"""


def check_starts_without_torch(subject: Subject) -> None:
    """Importing the command loads no large library, which keeps --help fast. Every command has a description."""
    result = _python("-c", LOOK, subject.name, *HEAVY)
    lines = result.stderr.strip().splitlines()
    expect(result.returncode == 0, f"{subject}: {lines[-1] if lines else 'cannot be imported'}")
    loaded = result.stdout.strip()
    expect(not loaded, f"{subject}: importing it imports {loaded}; move that import into the functions that need it")


def check_help_works(subject: Subject) -> None:
    """``mergecore NAME --help`` prints the usage."""
    result = _python("-m", "mergecore", subject.name, "--help")
    expect(result.returncode == 0 and "Usage" in result.stdout, f"{subject}: --help fails: {result.stderr}")


def check_refuses_with_a_sentence(subject: Subject) -> None:
    """An unknown option exits with status 2 and an error message."""
    result = _python("-m", "mergecore", subject.name, "--no-such-option")
    expect(result.returncode == 2, f"{subject}: an unknown option exits with status {result.returncode}, not 2")
    expect("Traceback" not in result.stderr, f"{subject}: an unknown option prints a traceback")


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
