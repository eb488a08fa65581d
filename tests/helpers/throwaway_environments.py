"""Temporary virtual environments for installing packages the way a user would."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Environment:
    """A virtual environment with links to the libraries of the current one, but without mergecore."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.bin = folder / "bin"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "lib" / version / "site-packages"
        for item in Path(sysconfig.get_path("purelib")).iterdir():
            if "mergecore" not in item.name and not item.name.endswith(".pth"):
                (site / item.name).symlink_to(item)

    def pip(self, *arguments: str | Path) -> None:
        command = [self.bin / "python", "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
        subprocess.run(list(map(str, command)), check=True, cwd=ROOT)

    def install(self, *folders: Path) -> None:
        """Install packages from their source folders."""
        self.pip("install", "--no-index", "--no-build-isolation", *folders)

    def install_wheels(self, wheels: Path, *folders: Path) -> None:
        """Build a wheel of each source folder into `wheels`, and install what was built."""
        self.pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, *folders)
        self.pip("install", "--no-index", *sorted(wheels.glob("*.whl")))

    def call(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program from the environment, or from the system if the environment does not have it."""
        variables = {**os.environ, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
        return subprocess.run(
            list(map(str, command)), env=variables, cwd=cwd, capture_output=True, text=True, check=False
        )

    def mergecore(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the command line."""
        return self.call(self.bin / "mergecore", *arguments)
