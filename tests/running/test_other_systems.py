"""Plan, run, resume, and verify on systems without what only Linux has, and with the rules of Windows for open files.

This imitates them on the system that the tests run on. It does not replace a test on a real one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiny_llamas import write_model

HELPER = Path(__file__).parents[1] / "helpers" / "bare_system.py"
RECIPE = """merge_method: ties
base_model: a
models: [{model: b, parameters: {weight: 0.5, density: 0.4}}, {model: c, parameters: {weight: 0.3, density: 0.7}}]
dtype: bfloat16
"""
HOLD = """import sys
from pathlib import Path
from mergecore.running.output_folder import OutputFolder
with OutputFolder(Path("out")).hold():
    print("held", flush=True)
    sys.stdin.read()
"""
WRITE = """from pathlib import Path
from mergecore.cli.whole_file import write_whole
write_whole(Path("page.html"), "{}")
"""
SYSTEMS = pytest.mark.parametrize("system", [[], ["--windows"]], ids=["bare", "windows"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc"):
        write_model(tmp_path / name, seed)
    (tmp_path / "recipe.yml").write_text(RECIPE, "utf-8")
    return tmp_path


def command(folder: Path, system: list[str], *words: str) -> str:
    """Run mergecore in a folder, and return what it prints."""
    line = [sys.executable, str(HELPER), *system, *words]
    done = subprocess.run(line, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def left_over(folder: Path) -> list[str]:
    """Return the entries of a folder that an unfinished run leaves."""
    return sorted(path.name for pattern in ("*.lock", "*.partial") for path in folder.glob(pattern))


@SYSTEMS
def test_the_result_is_the_same(folder: Path, system: list[str]) -> None:
    subprocess.run([sys.executable, "-m", "mergecore", "run", "recipe.yml", "usual"], check=True, cwd=folder)
    for _ in range(2):  # the second replaces the first
        command(folder, system, "run", "recipe.yml", "out", "--force")
    assert (folder / "usual/model.safetensors").read_bytes() == (folder / "out/model.safetensors").read_bytes()
    assert left_over(folder) == []


@SYSTEMS
def test_a_killed_run_resumes(folder: Path, system: list[str]) -> None:
    line = [sys.executable, str(HELPER), *system, "run", "recipe.yml", "out"]
    killed = subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE)
    while not (folder / "out.partial").exists():
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    assert left_over(folder) == ["out.lock", "out.partial"]
    if not system:  # no lock tells whether the run is still alive
        (folder / "out.lock").unlink()
    command(folder, system, "run", "recipe.yml", "out")
    assert (folder / "out/config.json").exists()
    assert left_over(folder) == []


@SYSTEMS
def test_two_runs_do_not_write_to_one_folder(folder: Path, system: list[str]) -> None:
    line = [sys.executable, str(HELPER), *system, "-c", HOLD]
    with subprocess.Popen(line, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == b"held\n"
        second = subprocess.run([sys.executable, str(HELPER), *system, "run", "recipe.yml", "out"], check=False,
                                cwd=folder, capture_output=True, text=True)  # fmt: skip
        assert second.returncode == 2
        assert f"process {holder.pid} on " in second.stderr
        assert ("is" if system else "might be") + " writing there" in second.stderr
        holder.stdin.close()
    assert left_over(folder) == []
    command(folder, system, "run", "recipe.yml", "out")


@SYSTEMS
def test_a_file_is_written_as_a_whole(folder: Path, system: list[str]) -> None:
    for text in ("one", "two"):
        command(folder, system, "-c", WRITE.format(text))
        assert (folder / "page.html").read_text("utf-8") == text
    assert not list(folder.glob(".*"))
