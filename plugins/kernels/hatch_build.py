"""Compile the native library, with the system's compiler if there is one, and otherwise with clang from `ziglang`."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-DNDEBUG")
X86 = {"baseline": (), "avx2": ("-mavx2", "-mfma", "-mf16c")}
SHA = ("-msha", "-mssse3", "-msse4.1")
X86["avx512"] = (*X86["avx2"], "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")

TARGETS = {
    "manylinux_2_17_x86_64": "x86_64-linux-gnu.2.17",
    "manylinux_2_17_aarch64": "aarch64-linux-gnu.2.17",
    "macosx_11_0_arm64": "aarch64-macos.11.0",
    "win_amd64": "x86_64-windows-gnu",
}
"""Platforms to build wheels for, and clang's names of them."""

PLATFORM = "MERGECORE_KERNELS_PLATFORM"
"""The environment variable with one of these platforms. Without it, the wheel is for this machine."""


def compiler() -> list[str] | None:
    """Return the command of a C++ compiler, or None if there is none."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found = next((name for name in names if name and shutil.which(name.split()[0])), None)
    return found.split() if found else None


def build(out: Path, extra: tuple[str, ...] = (), wanted: str = "") -> None:
    """Compile the library, with an interpreter for each instruction set of the processor.

    Args:
        out: The library.
        extra: Additional flags.
        wanted: A platform in `TARGETS`, or empty for this machine.
    """
    zig = [sys.executable, "-m", "ziglang", "c++"]
    command = [*zig, "-target", TARGETS[wanted]] if wanted else compiler() or zig
    native = Path(__file__).parent / "native"
    x86 = (TARGETS[wanted] if wanted else platform.machine().lower()).startswith(("x86_64", "amd64"))
    sets: dict[str, tuple[str, ...]] = X86 if x86 else {"baseline": ()}
    position = () if out.suffix == ".dll" else ("-fPIC",)
    with TemporaryDirectory() as folder:
        objects = []
        for name, options in {"kernels": (), "sha256": SHA if x86 else (), **sets}.items():
            objects.append(str(Path(folder) / f"{name}.o"))
            source = str(native / f"{name}.cpp")
            flags = [*FLAGS, *position, *extra, *options]
            subprocess.run([*command, *flags, "-c", source, "-o", objects[-1]], check=True)
        link = ["-shared", "-s"] if wanted else ["-shared", "-static-libstdc++"] if out.suffix == ".so" else ["-shared"]
        made = Path(folder) / f"made{out.suffix}"
        subprocess.run([*command, *extra, *link, *objects, "-o", str(made)], check=True)
        shutil.copyfile(made, out.with_name(f".{out.name}"))
        os.replace(out.with_name(f".{out.name}"), out)  # a running process keeps its library


def suffix(wanted: str) -> str:
    """Return the suffix of libraries on a platform."""
    system = wanted or {"Windows": "win", "Darwin": "macosx"}.get(platform.system(), "")
    return ".dll" if system.startswith("win") else ".dylib" if system.startswith("macosx") else ".so"


class CustomBuildHook(BuildHookInterface):
    """Adds the library to the wheel."""

    def dependencies(self) -> list[str]:
        """Return what the build needs besides hatchling."""
        return [] if compiler() and not os.environ.get(PLATFORM) else ["ziglang >=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        wanted = os.environ.get(PLATFORM, "")
        here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        out = Path(self.root) / "mergecore_kernels" / f"_kernels{suffix(wanted)}"
        build(out, wanted=wanted)
        build_data["artifacts"].append(f"mergecore_kernels/{out.name}")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{wanted or here}"


def main() -> None:
    """Build a wheel for every platform into a folder, from a copy of the sources: python hatch_build.py FOLDER."""
    target = Path(sys.argv[1]).absolute()
    for wanted in TARGETS:
        with TemporaryDirectory() as folder:
            copy = Path(folder) / "kernels"
            shutil.copytree(Path(__file__).parent, copy, ignore=shutil.ignore_patterns("_kernels.*", "__pycache__"))
            command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)]
            subprocess.run(command, check=True, cwd=copy, env={**os.environ, PLATFORM: wanted})


if __name__ == "__main__":
    main()
