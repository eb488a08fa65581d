"""The compared tools: how to install each in a separate environment and the command that runs a merge."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.running.recipes import Merge

HERE = Path(__file__).parents[1]
ENVS = HERE / ".envs"
TORCH = "torch==2.13.0"  # same version for all tools, installed first so that no tool installs another one


@dataclass(frozen=True)
class Settings:
    """User settings for a run. `memory` is mergecore's --memory."""

    memory: str = "256MB"


def _own_environment(name: str, requirement: str) -> str:
    """Return the interpreter of bench/.envs/NAME. Create it with pip if needed. Raise SystemExit if pip fails."""
    folder = ENVS / name
    python = folder / "bin" / "python"
    stamp = folder / "ready"
    wanted = f"{TORCH} {requirement}"
    if stamp.exists() and stamp.read_text() == wanted:
        return str(python)
    print(f"Creating the environment for {name} (only once, takes a few minutes)...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    for packages in (TORCH, requirement):
        if subprocess.run([str(python), "-m", "pip", "install", "--quiet", packages], check=False).returncode:
            others = ",".join(tool for tool in TOOLS if tool != name)
            raise SystemExit(f"pip could not install {packages} for {name}; continue without it: --tools {others}")
    stamp.write_text(wanted)
    return str(python)


def _this_interpreter() -> str:
    return sys.executable


def _mergekit() -> str:
    return _own_environment("mergekit", "mergekit==0.1.5")


def _sd_mecha() -> str:
    return _own_environment("sd-mecha", "sd-mecha==1.1.8")


def _run_mergecore(merge: Merge, out: Path, settings: Settings) -> list[str]:
    options = ["--memory", settings.memory, "--quiet", "--force"]
    return ["-m", "mergecore", "run", str(merge.recipe), str(out), *options]


def _run_mergekit(merge: Merge, out: Path, _: Settings) -> list[str]:
    script = str(ENVS / "mergekit" / "bin" / "mergekit-yaml")
    return [script, str(merge.recipe), str(out), "--quiet", "--no-copy-tokenizer"]  # these models have no tokenizer


def _run_sd_mecha(merge: Merge, out: Path, _: Settings) -> list[str]:
    return [str(HERE / "running/sd_mecha_merge.py"), str(merge.recipe), str(out)]


def _import_torch(*_: object) -> list[str]:
    return ["-c", "import torch"]


def _run_raw_copy(merge: Merge, out: Path, _: Settings) -> list[str]:
    return [str(HERE / "running/raw_copy.py"), str(out), str(merge.bytes_out), *map(str, merge.inputs)]


@dataclass(frozen=True)
class Tool:
    """One tool: its interpreter (created on demand), its arguments, and whether its output is a model (`merges`)."""

    name: str
    python: Callable[[], str]
    arguments: Callable[[Merge, Path, Settings], list[str]]
    merges: bool = True

    def command(self, merge: Merge, out: Path, settings: Settings) -> list[str]:
        """Return the full command line that merges into `out`."""
        return [self.python(), *self.arguments(merge, out, settings)]


OURS, PEER, COPY = "mergecore", "mergekit", "raw-copy"
TOOLS = {
    tool.name: tool
    for tool in (
        Tool(OURS, _this_interpreter, _run_mergecore),
        Tool(PEER, _mergekit, _run_mergekit),
        Tool("sd-mecha", _sd_mecha, _run_sd_mecha),
        Tool(COPY, _this_interpreter, _run_raw_copy, merges=False),
    )
}
# Runs only with the tiny model: the start-up time that no torch-based tool can avoid.
IMPORT_TORCH = Tool("import torch", _this_interpreter, _import_torch, merges=False)


def choose(names: str) -> list[Tool]:
    """Return the tools in a comma-separated list, or raise SystemExit with the known names."""
    wanted = names.split(",")
    if unknown := [name for name in wanted if name not in TOOLS]:
        raise SystemExit(f"Unknown tool {unknown[0]!r}; choose from: {','.join(TOOLS)}.")
    return [TOOLS[name] for name in wanted]
