"""--force replaces results of mergecore and nothing else, and neighbors that it did not write stay as they are."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_llamas import write_adapter
from tokenizer_models import byte_level, model

import mergecore
from mergecore.errors import InputError
from mergecore.running import exchange, output_folder
from mergecore.running.ownership import MARKER, write_marker

ARCHITECTURE = Path(__file__).parents[2] / "architectures" / "llama" / "mergecore_arch_llama" / "llama.json"

PLUGIN = """
from dataclasses import dataclass
from mergecore.api import WeightMethod

@dataclass(frozen=True, kw_only=True)
class Mine(WeightMethod):
    \"\"\"The first model.\"\"\"
    def merge(self, weights, ctx):
        return weights[0]
"""

FOREIGN = (
    "import sys; from pathlib import Path; from mergecore.running.ownership import foreign_entries as f;"
    " print(f(Path(sys.argv[1])))"
)

pytestmark = pytest.mark.filterwarnings("ignore:.*run the same recipe again to resume")


@pytest.fixture
def recipe(models: list[Path]) -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": str(models[0])}]}


def tree(folder: Path) -> dict[str, bytes]:
    """The contents of every file in a folder, except those that Python adds next to a plugin file."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_a_result_is_replaced_by_the_next_one(recipe: dict[str, Any], models: list[Path], tmp_path: Path) -> None:
    out = mergecore.run(recipe, tmp_path / "out", shard_bytes=2000)
    recipe["models"][0]["model"] = str(models[1])
    mergecore.run(recipe, out, force=True)
    fresh = mergecore.run(recipe, tmp_path / "fresh")
    ours, theirs = tree(out), tree(fresh)
    assert ours.keys() == theirs.keys() and ours["model.safetensors"] == theirs["model.safetensors"]
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]


ADDED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a file": (lambda out: (out / "notes.txt").write_text("mine"), "notes.txt"),
    "a file below": (lambda out: (out / "sub").mkdir() or (out / "sub" / "a").write_text("mine"), "sub/"),
    "an empty folder": (lambda out: (out / "empty").mkdir(), "empty/"),
    "a link": (lambda out: (out / "link").symlink_to("/"), "link"),
    "a link in place of a file": (
        lambda out: ((out / "config.json").unlink(), (out / "config.json").symlink_to("/etc/passwd")),
        r"config.json \(changed since\)",
    ),
    "an edited card": (lambda out: (out / "README.md").write_text("mine"), r"README.md \(changed since\)"),
    "weights trained further": (
        lambda out: os.utime(out / "model.safetensors"),
        r"model.safetensors \(changed since\)",
    ),
    "seven files": (lambda out: [(out / str(i)).touch() for i in range(7)], "0, 1, 2, 3, 4 and 2 more"),
}


@pytest.mark.parametrize("what", ADDED)
def test_what_was_added_to_a_result_or_changed_in_it_is_never_removed(
    what: str, recipe: dict[str, Any], tmp_path: Path
) -> None:
    out = mergecore.run(recipe, tmp_path / "out")
    add, named = ADDED[what]
    add(out)
    before = tree(out)
    line = rf"mergecore did not write everything in it \(it contains {named}\).*run: rm -r {out}$"
    with pytest.raises(InputError, match=line):
        mergecore.run(recipe, out, force=True)
    assert tree(out) == before


LATE = """
from mergecore.api import PostProcessor

class Late(PostProcessor):
    def run(self, model):
        pass
    def after_publish(self, model):
        assert not (model.folder.parent / "out.partial").exists()
        model.put("late.json", "{}")
        model.put("README.md", "new")
"""


def test_files_written_after_publishing_belong_to_the_result(
    recipe: dict[str, Any], tmp_path: Path, inside: Any
) -> None:
    (tmp_path / "late.py").write_text(LATE)
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    out = tmp_path / "out"
    for force in ((), ("--force",)):
        done = inside.mergecore("run", tmp_path / "recipe.yml", out, "--plugin", tmp_path / "late.py", *force)
        assert done.returncode == 0, done.stderr
        assert (out / "late.json").read_text() == "{}" and (out / "README.md").read_text() == "new"
    (out / "late.json").write_text("mine")
    with pytest.raises(InputError, match=r"it contains late.json \(changed since\)"):
        mergecore.run(recipe, out, force=True)


def test_a_folder_that_mergecore_did_not_make_is_refused_with_the_line_that_removes_it(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "my folder"
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"was not written by mergecore \(it contains thesis.tex\)") as refused:
        mergecore.run(recipe, out, force=True)
    assert (out / "thesis.tex").read_text() == "mine"
    subprocess.run(str(refused.value).rpartition("run: ")[2], shell=True, check=True)
    mergecore.run(recipe, out)


def test_a_marker_of_another_program_marks_nothing(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for text in ("", "[]", "{}", json.dumps({"written_by": "somebody", "files": []})):
        (out / MARKER).write_text(text)
        with pytest.raises(InputError, match="was not written by mergecore"):
            mergecore.run(recipe, out, force=True)


def plant(kind: str, recipe: dict[str, Any], out: Path) -> list[str]:
    """Put something that the run reads into OUT. Return the additional arguments of the command line."""
    base = recipe["models"][0]["model"]
    if kind in ("a model", "the model of the tokenizer"):
        model(out / "deep" / "model", 4, byte_level("sea"))
    if kind == "a model":
        recipe["models"][0]["model"] = str(out / "deep" / "model")
    elif kind == "a model, through a link":
        shutil.move(base, out / "base")
        Path(base).symlink_to(out / "base")
    elif kind == "an adapter":
        write_adapter(out / "deep" / "adapter")
        recipe["models"][0]["model"] = f"{base}+{out}/deep/adapter"
    elif kind == "the model of the tokenizer":
        recipe["models"][0]["model"] = str(model(out.parent / "chatty", 5, byte_level("code")))
        recipe["tokenizer_source"] = str(out / "deep" / "model")
    elif kind == "the chat template":
        recipe["models"][0]["model"] = str(model(out.parent / "chatty", 5, byte_level("sea")))
        (out / "chat.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
        recipe["chat_template"] = str(out / "chat.jinja")
    elif kind == "the architecture file":
        shutil.copy(ARCHITECTURE, out / "arch.json")
        recipe["architectures"] = [str(out / "arch.json")]
    elif kind == "an evaluation file":
        (out / "text.txt").write_text("The sea.")
        recipe["evaluate"] = [{"evaluator": "loss", "parameters": {"files": str(out / "text.txt")}}]
    elif kind == "the plugin file":
        (out / "mine.py").write_text(PLUGIN)
        return ["--plugin", str(out / "mine.py")]
    elif kind == "a folder of architectures":
        (out / "definitions").mkdir()
        return ["--arch-dir", str(out / "definitions")]
    return []


KINDS = (
    "a model", "a model, through a link", "an adapter", "the model of the tokenizer", "the chat template",
    "the architecture file", "an evaluation file", "the plugin file", "a folder of architectures", "the recipe",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_the_run_reads_is_replaced(
    kind: str, recipe: dict[str, Any], models: list[Path], tmp_path: Path, inside: Any
) -> None:
    out = mergecore.run({**recipe, "models": [{"model": str(models[1])}]}, tmp_path / "out")
    arguments = plant(kind, recipe, out)
    file = (out if kind == "the recipe" else tmp_path) / "mine.yml"
    file.write_text(json.dumps(recipe))
    names = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file() and path.name != MARKER]
    write_marker(out / MARKER, names)  # so that only what the run reads is in the way
    before = tree(out)
    done = inside.mergecore("run", file, out, "--force", *arguments)
    assert done.returncode == 2 and f"{out}: is or contains {out}" in done.stderr.replace(str(models[0]), str(out))
    assert done.stderr.endswith("which this run reads; choose another output folder\n"), done.stderr
    assert tree(out) == before


def test_the_lock_file_of_a_result_does_not_replace_it(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = mergecore.run(recipe, tmp_path / "out")
    with pytest.raises(InputError, match=f"is or contains {out}/mergecore.lock.json, which this run reads"):
        mergecore.run(out / "mergecore.lock.json", out, force=True)


def test_the_folder_you_work_in_is_not_replaced(recipe: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    out = mergecore.run(recipe, tmp_path / "out")
    (out / "below").mkdir()
    for folder in (out, out / "below"):
        monkeypatch.chdir(folder)
        with pytest.raises(InputError, match="is or contains the working folder"):
            mergecore.run(recipe, out, force=True)


MOUNTED = """
mount --bind {real} {other} || exit 77
exec {python} -m mergecore run {recipe} {other}/out --force --quiet
"""


def test_a_model_is_not_replaced_through_a_bind_mount(
    recipe: dict[str, Any], models: list[Path], tmp_path: Path
) -> None:
    real, other = tmp_path / "real", tmp_path / "other"
    real.mkdir()
    other.mkdir()
    recipe["models"][0]["model"] = str(shutil.copytree(models[0], real / "out"))
    write_marker(real / "out" / MARKER, [path.name for path in (real / "out").iterdir()])
    (tmp_path / "recipe.yml").write_text(json.dumps(recipe))
    script = MOUNTED.format(real=real, other=other, python=sys.executable, recipe=tmp_path / "recipe.yml")
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode in (1, 77) and "mergecore" not in done.stderr:
        pytest.skip(f"this system does not allow mounts: {done.stderr}")
    assert done.returncode == 2 and f"{other}/out: is or contains {real}/out, which this run reads" in done.stderr
    assert (real / "out" / "model.safetensors").exists()


def test_a_mounted_folder_inside_a_result_is_seen(recipe: dict[str, Any], tmp_path: Path) -> None:
    out = mergecore.run(recipe, tmp_path / "out")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "mine").write_text("mine")
    (out / "sub").mkdir()
    script = f"mount --bind {tmp_path}/real {out}/sub || exit 77; {sys.executable} -c '{FOREIGN}' {out}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode in (1, 77):
        pytest.skip(f"this system does not allow mounts: {done.stderr}")
    assert done.stdout == "['sub/']\n"


@pytest.mark.parametrize("swaps", [True, False])
def test_the_old_result_has_its_name_until_the_new_one_takes_it(
    swaps: bool, recipe: dict[str, Any], models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = mergecore.run(recipe, tmp_path / "out")
    old, seen = tree(out), []
    if not swaps:  # as on an old kernel or another system
        monkeypatch.setattr(output_folder, "exchange", lambda one, other: False)
    monkeypatch.setattr(shutil, "rmtree", spy(shutil.rmtree, lambda folder: seen.append((folder, tree(out)))))
    recipe["models"][0]["model"] = str(models[1])
    mergecore.run(recipe, out, force=True)
    assert seen[-1][0].parent == tmp_path / "out.partial" and seen[-1][1] == tree(out) != old
    assert all(content == old for _, content in seen[:-1]), "nothing is removed before"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux swaps folders")
def test_a_swap_is_one_step_and_what_cannot_swap_says_so(tmp_path: Path) -> None:
    (tmp_path / "a" / "x").mkdir(parents=True)
    (tmp_path / "b" / "y").mkdir(parents=True)
    assert exchange.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "y").exists() and (tmp_path / "b" / "x").exists()
    with pytest.raises(FileNotFoundError):
        exchange.exchange(tmp_path / "a", tmp_path / "gone")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", ["a folder", "a file", "a link", "like ours", "with an addition"])
def test_a_partial_folder_of_somebody_else_stays_and_is_named(
    kind: str, force: bool, recipe: dict[str, Any], tmp_path: Path
) -> None:
    partial, holder = tmp_path / "out.partial", tmp_path / "holder"
    if kind == "a file":
        partial.write_text("mine")
    elif kind == "a link":
        holder.mkdir()
        (holder / "mine").write_text("mine")
        partial.symlink_to(holder)
    else:
        (partial / "result").mkdir(parents=True)
        (partial / "result" / "mine").write_text("mine")
        (partial / "notes" if kind != "like ours" else partial / "journal").write_text("mine")
        if kind == "with an addition":
            write_marker(partial / MARKER, [])
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"out\.partial: was not written by mergecore.*; rename it, or choose another"):
        mergecore.run(recipe, tmp_path / "out", force=force)
    assert tree(tmp_path) == before


def test_an_empty_partial_folder_is_used(recipe: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()  # as left by a run that was killed right after creating it
    mergecore.run(recipe, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]


def spy(call: Any, before: Callable[[Path], Any]) -> Callable[..., Any]:
    """A function that looks first if its path exists."""

    def called(path: Path, *args: Any, **options: Any) -> Any:
        if Path(path).exists():
            before(Path(path))
        return call(path, *args, **options)

    return called
