"""A throwaway virtual environment."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Environment:
    """A virtual environment with this one's libraries (linked, not copied) and nothing of mergecore."""

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
        self.pip("install", "--no-index", "--no-build-isolation", *folders)

    def mergecore(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(self.bin / "mergecore"), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)
