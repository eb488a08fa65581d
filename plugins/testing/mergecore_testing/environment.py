"""Plugins that exist for one test: fake distributions in a folder that a subprocess searches first."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

GROUP = "mergecore.v1."


@dataclass(frozen=True)
class PluginEnv:
    """A folder of fake distributions in addition to the installed ones, and a way to run Python with them."""

    folder: Path

    def add(
        self,
        distribution: str,
        entry_points: Mapping[str, Mapping[str, str]],
        files: Mapping[str, str] | None = None,
        version: str = "1.0",
    ) -> None:
        """Add a distribution.

        Args:
            distribution: name of the distribution.
            entry_points: group → name → value. Short groups such as ``methods`` mean ``mergecore.v1.methods``.
            files: text of module or data files, by path.
            version: version of the distribution.
        """
        info = self.folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", "utf-8")
        lines = []
        for group, entries in entry_points.items():
            lines.append(f"[{group if '.' in group else GROUP + group}]")
            lines += [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n", "utf-8")
        for path, text in (files or {}).items():
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(text, "utf-8")

    def python(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run Python with the fake distributions and return its status and output."""
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "COLUMNS": "200",
        }
        command = [sys.executable, *arguments]
        return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)

    def mergecore(self, *arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the mergecore command line."""
        return self.python("-m", "mergecore", *map(str, arguments), cwd=cwd)
