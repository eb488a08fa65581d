"""Odd surroundings: names, disks, users, limits, and other runs. Each works, or is refused in one sentence."""

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cli_processes
import pytest
import yaml
from mergecore_diff import survey
from mergecore_lora.extracting import Extractor
from mergecore_lora.merging import Merger
from mergecore_search import mixing
from stage_recipes import content
from tiny_llamas import write_model

import mergecore
from mergecore.errors import InputError
from mergecore.running.locks import hold_lock

SCRIPT = Path(sys.executable).with_name("mergecore")
NAMES = ["two words", 'o\'ne "two"', "line\nbreak", os.fsdecode(b"\xff\xfe"), "-dash", "~", "~nobody", "{0}%s", "é😀"]


@pytest.fixture
def recipe(models, tmp_path):
    path = tmp_path / "recipe.yml"
    listed = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    path.write_text(yaml.safe_dump({"merge_method": "linear", "models": listed}), "utf-8")
    return path


def ended(tmp_path, *arguments, send=None):
    """Run the command line, and return its status and its last line."""
    status, said = cli_processes.start(tmp_path / "home", *arguments).ended(send)
    assert "Traceback" not in said and "bug in mergecore" not in said, said
    return status, (said.splitlines() or [""])[-1]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_model_a_recipe_and_a_result_works(name, recipe, models, tmp_path):
    expected = content(mergecore.run(recipe, tmp_path / "plain"))
    place = tmp_path / name
    place.mkdir()
    renamed = [model.rename(place / f"{name}{model.name}") for model in models]
    listed = [{"model": str(model), "parameters": {"weight": 0.5}} for model in renamed]
    if "\udcff" not in name:  # YAML has no bytes
        recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": listed}, allow_unicode=True), "utf-8")
        recipe = recipe.rename(place / name)
        assert content(mergecore.run(recipe, place / f"{name}out")) == expected
    out = place / f"{name}adapter"
    status, said = ended(tmp_path, "lora", "extract", renamed[1], renamed[0], out, "--quiet")
    assert (status, said) == (0, "")
    assert not list(place.glob("*.partial")) and not list(place.glob("*.lock"))


@pytest.mark.parametrize("out", ["o" * 250, "o" * 255, "/".join(["d" * 200] * 25)])
def test_a_name_that_is_too_long_is_refused_before_the_start(out, recipe, tmp_path):
    before = set(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="the name is too long; use a shorter one"):
        mergecore.run(recipe, tmp_path / out)
    assert set(tmp_path.rglob("*")) == before


def test_a_user_that_does_not_exist_is_no_bug(models, tmp_path):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(model), "parameters": {"weight": 1}} for model in models],
    }
    for key, value in {"architectures": ["~nosuch/a.json"], "chat_template": "~nosuch/t.jinja"}.items():
        with pytest.raises(InputError, match="~nosuch"):
            mergecore.run({**recipe, key: value}, tmp_path / "out")


def test_a_link_to_another_disk_stays_one(recipe, tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    other = memory / f"mergecore-{os.getpid()}"
    try:
        (tmp_path / "out").symlink_to(other / "out")
        expected = content(mergecore.run(recipe, tmp_path / "plain"))
        for _ in range(2):
            assert content(mergecore.run(recipe, tmp_path / "out", force=True)) == expected
        assert (tmp_path / "out").is_symlink() and os.listdir(other) == ["out"]
    finally:
        shutil.rmtree(other, ignore_errors=True)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
@pytest.mark.parametrize("place", ["its own folder", "a folder of root"])
def test_a_user_without_rights_a_home_and_a_name_reads_read_only_models(place, recipe, models, tmp_path):
    for model in models:
        for file in model.iterdir():
            file.chmod(0o444)
        model.chmod(0o555)
    for folder in [folder for folder in tmp_path.parents if folder != Path("/")][:3] + [tmp_path]:
        folder.chmod(0o755)
    work = tmp_path / "work"
    work.mkdir()
    if place == "its own folder":
        os.chown(work, 54321, 54321)
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_DATA_HOME")}
    become = ["setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups"]
    result = subprocess.run([*become, SCRIPT, "run", recipe, "out", "--quiet"], cwd=work, env=environment,
                            check=False, capture_output=True, text=True)  # fmt: skip
    if place == "its own folder":
        assert (result.returncode, result.stderr) == (0, "")
        assert content(work / "out") == content(mergecore.run(recipe, tmp_path / "out"))
    else:
        assert result.returncode == 2
        assert result.stderr.endswith("out.lock: cannot be written: Permission denied; choose another output folder\n")
    page = subprocess.run(
        [*become, SCRIPT, "diff", *models, "--html", tmp_path / "page.html"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert page.returncode == 2 and page.stderr.endswith("is read-only; use another one\n")
    board = subprocess.run(
        [*become, SCRIPT, "board"], cwd=work, env=environment, check=False, capture_output=True, text=True
    )
    assert (board.returncode, "you have no home folder" in board.stderr) == (2, True)


@pytest.mark.parametrize("megabytes", [60, 300, 700])
def test_an_address_space_limit_is_named(megabytes, recipe, tmp_path):
    limited = [
        "bash",
        "-c",
        f'ulimit -v {megabytes * 1000}; exec "$@"',
        "bash",
        SCRIPT,
        "run",
        recipe,
        tmp_path / "out",
    ]
    result = subprocess.run(limited, check=False, capture_output=True, text=True)
    said = result.stderr.splitlines()[-1]
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert re.fullmatch(
        r"error: out of memory: .* limits the address space to \d+ MB; raise .*: ulimit -v unlimited", said
    )
    assert not list(tmp_path.glob("out*"))


def test_diff_ends_cleanly_on_sigterm(tmp_path):
    models = [write_model(tmp_path / name, seed, num_hidden_layers=400) for seed, name in enumerate("ab")]
    before = set(os.listdir(tmp_path))
    run = cli_processes.start(tmp_path / "home", "diff", *models, "--html", tmp_path / "page.html", "--quiet")
    threads = Path(f"/proc/{run.process.pid}/task")
    while run.process.is_alive() and len(os.listdir(threads)) == 1:  # until it measures
        time.sleep(0.001)
    children = (threads / str(run.process.pid) / "children").read_text()
    assert run.ended(signal.SIGTERM) == (143, "stopped\n")
    assert children == "" and set(os.listdir(tmp_path)) == before | {"home"}


@pytest.mark.parametrize("command", ["lora", "evolve"])
def test_two_of_one_command_into_one_folder_the_second_is_refused(command, models, tmp_path):
    opened = {
        "merge_method": "linear",
        "models": [{"model": str(models[0]), "parameters": {"weight": {"search": [0, 1]}}}],
    }
    (tmp_path / "open.yml").write_text(yaml.safe_dump(opened))
    (tmp_path / "text.txt").write_text("text")
    loss = {"evaluator": "loss", "parameters": {"files": [str(tmp_path / "text.txt")]}}
    (tmp_path / "eval.yml").write_text(yaml.safe_dump({"evaluate": [loss]}))
    lock, arguments = {
        "lora": ("out.lock", ("lora", "extract", models[1], models[0], tmp_path / "out")),
        "evolve": (
            "out.search.lock",
            ("evolve", tmp_path / "open.yml", tmp_path / "out", "--with", tmp_path / "eval.yml"),
        ),
    }[command]
    with hold_lock(tmp_path / lock):
        status, said = ended(tmp_path, *arguments)
    assert status == 2 and f"{lock}: process {os.getpid()} on " in said and "is writing there; wait for it" in said
    assert not list(tmp_path.glob("out*"))


def test_errors_of_the_system_are_no_bugs(tmp_path, monkeypatch, inside):
    def full(*args):
        raise OSError(errno.EIO, "Input/output error", "/some/file")

    monkeypatch.setattr("mergecore.recipes.load_recipe", full)
    result = inside.mergecore("plan", tmp_path / "recipe.yml")
    assert (result.returncode, result.stderr) == (1, "error: /some/file: Input/output error\n")


def changing(monkeypatch, owner, name, edit):
    """Change an input right before the first call of a function."""
    original, edits = getattr(owner, name), [edit]

    def call(*args, **options):
        if edits:
            edits.pop()()
        return original(*args, **options)

    monkeypatch.setattr(owner, name, call)


def replaced(path):
    shutil.copyfile(path, f"{path}.new")
    os.replace(f"{path}.new", path)


EDITS = {"cut": lambda path: os.truncate(path, 2000), "replaced": replaced, "removed": os.unlink, "touched": os.utime}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("command", ["lora extract", "lora merge", "diff", "cocktail"])
def test_an_input_that_changes_under_a_command_is_named(command, edit, models, tmp_path, monkeypatch, inside):
    adapters = [tmp_path / name for name in ("one", "two")]
    for adapter, model in zip(adapters, models[1:]):
        assert inside.mergecore("lora", "extract", model, models[0], adapter, "--keep", "drop").returncode == 0
    scored = {"evaluator": "command", "parameters": {"run": "true {model}"}}
    (tmp_path / "eval.yml").write_text(yaml.safe_dump({"evaluate": [scored]}))
    monkeypatch.setattr(mixing, "losses_of_each", lambda setup, found: [(1.0,)] * len(found))
    owner, name, words, more = {
        "lora extract": (Extractor, "_outcome", ("lora", "extract", *models[1::-1], "out"), ()),
        "lora merge": (Merger, "fill", ("lora", "merge", *adapters, "out"), ()),
        "diff": (survey, "measure", ("diff", *models, "--html", "out.html"), ()),
        "cocktail": (mixing, "losses_of_each", ("cocktail", *models, "out"), ("--with", "eval.yml")),
    }[command]
    path = adapters[1] / "adapter_model.safetensors" if command == "lora merge" else models[1] / "model.safetensors"
    changing(monkeypatch, owner, name, lambda: EDITS[edit](path))
    result = inside.mergecore(*words, *more, cwd=tmp_path)
    said = result.stderr.splitlines()[-1]
    assert result.returncode in (1, 2) and re.search(rf"{path}: (was changed|the file is truncated)", said), said
    assert not list(tmp_path.glob("out")) and not list(tmp_path.glob("out.html"))
