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

FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-DNDEBUG")
X86 = {"baseline": (), "avx2": ("-mavx2", "-mfma", "-mf16c")}
X86["avx512"] = (*X86["avx2"], "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512")
SUFFIX = {"Windows": ".dll", "Darwin": ".dylib"}.get(platform.system(), ".so")


def compiler() -> list[str] | None:
    """Return the command of a C++ compiler, or None if there is none."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    found = next((name for name in names if name and shutil.which(name.split()[0])), None)
    return found.split() if found else None


def build(out: Path, extra: tuple[str, ...] = ()) -> None:
    """Compile the library with a file of its own for each instruction set of this kind of processor."""
    command = compiler() or [sys.executable, "-m", "ziglang", "c++"]
    native = Path(__file__).parent / "native"
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    sets: dict[str, tuple[str, ...]] = X86 if x86 else {"baseline": ()}
    with TemporaryDirectory() as folder:
        objects = []
        for name, options in {"kernels": (), **sets}.items():
            objects.append(str(Path(folder) / f"{name}.o"))
            source = str(native / f"{name}.cpp")
            subprocess.run([*command, *FLAGS, *extra, *options, "-c", source, "-o", objects[-1]], check=True)
        link = ["-shared", "-static-libstdc++"] if SUFFIX == ".so" else ["-shared"]
        made = Path(folder) / f"made{SUFFIX}"
        subprocess.run([*command, *extra, *link, *objects, "-o", str(made)], check=True)
        shutil.copyfile(made, out.with_name(f".{out.name}"))
        os.replace(out.with_name(f".{out.name}"), out)  # a running process keeps its library


class CustomBuildHook(BuildHookInterface):
    """Adds the library to the wheel."""

    def dependencies(self) -> list[str]:
        """Return what the build needs besides hatchling."""
        return [] if compiler() else ["ziglang >=0.13"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See hatchling."""
        out = Path(self.root) / "mergecore_kernels" / f"_kernels{SUFFIX}"
        build(out)
        build_data["artifacts"].append(f"mergecore_kernels/{out.name}")
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
