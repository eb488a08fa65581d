"""A run from a lock file produces the same bytes, and reports anything that has changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path

import fake_hub
import pytest
from tiny_llamas import VOCABULARY, write_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import mergecore
from mergecore.api import license_kind
from mergecore.errors import InputError, RunError
from mergecore.models import fingerprints
from mergecore.models.fingerprints import fingerprint, known_sha256
from mergecore.recipes.lockfile import LOCK_NAME
from mergecore.running.ownership import MARKER


@pytest.fixture
def made(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The result of a recipe with random numbers, several files, and relative paths."""
    monkeypatch.chdir(tmp_path)
    entries = "".join(f"  - {{model: {model.name}, parameters: {{density: 0.6}}}}\n" for model in models[1:])
    Path("recipe.yml").write_text(f"merge_method: dare_ties\nseed: 7\nbase_model: base\nmodels:\n{entries}", "utf-8")
    return mergecore.run("recipe.yml", "out", shard_bytes=3000).resolve()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def edit(lock: Path, **values: object) -> Path:
    lock.write_text(json.dumps({**json.loads(lock.read_text("utf-8")), **values}), "utf-8")
    return lock


def test_it_says_what_the_result_was_made_of(made: Path, models: list[Path]) -> None:
    lock = json.loads((made / LOCK_NAME).read_text("utf-8"))
    assert (lock["seed"], lock["shard_size"]) == (7, 3000)
    assert lock["recipe"] == Path("recipe.yml").read_text("utf-8") and lock["recipe_file"] == "../recipe.yml"
    assert {"mergecore", "torch", "numpy", "mergecore-dare", "mergecore-config"} <= set(lock["packages"])
    assert [(item["reference"], item["folder"]) for item in lock["inputs"]] == [
        (name, f"../{name}") for name in ("code", "prose", "base")
    ]
    parents = [(models[0].parent / item["reference"], item["files"]) for item in lock["inputs"]]
    for folder, files in [(made, lock["outputs"]), *parents]:
        for name, entry in files.items():
            data = (folder / name).read_bytes()
            assert entry == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert set(lock["outputs"]) == {path.name for path in made.iterdir()} - {"README.md", LOCK_NAME, MARKER}
    assert str(models[0].parent) not in (made / LOCK_NAME).read_text("utf-8"), "no path on this machine"


def test_a_run_from_it_makes_the_same_bytes_wherever_it_is_called_what_it_may(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(made / LOCK_NAME, made / "as-it-was.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    expected = content(made)
    again = mergecore.run(made / "as-it-was.json", tmp_path / "again", workers=1, memory=10**8)
    assert content(again) == {name: data for name, data in expected.items() if name != "as-it-was.json"}
    tmp_path.rename(tmp_path.parent / "moved")
    mergecore.run(tmp_path.parent / "moved" / "out" / LOCK_NAME, tmp_path.parent / "moved" / "third")
    (tmp_path.parent / "moved").rename(tmp_path)
    assert content(tmp_path / "third") == content(again)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_changed_input_is_refused_by_name(made: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "code" / name
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"vocab', b' "vocab') if path.suffix == ".json" else data[:-1] + b"?")
    with pytest.raises(InputError, match=rf"code/{name}: is not the file recorded in .*out/{LOCK_NAME}"):
        mergecore.plan(made / LOCK_NAME)


def test_a_model_that_is_gone_is_asked_for(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "code").rename(tmp_path / "moved")
    with pytest.raises(InputError, match=rf"out/{LOCK_NAME}: the model code is not in {tmp_path}/code; move it there"):
        mergecore.plan(made / LOCK_NAME)
    lock = json.loads((made / LOCK_NAME).read_text("utf-8"))
    lock["inputs"][0]["folder"] = "../moved"
    mergecore.plan(edit(made / LOCK_NAME, inputs=lock["inputs"])).close()


def test_other_versions_are_named(made: Path, tmp_path: Path) -> None:
    packages = json.loads((made / LOCK_NAME).read_text("utf-8"))["packages"]
    edit(made / LOCK_NAME, packages={**packages, "torch": "1.0", "mergecore-gone": "1.0"})
    with pytest.warns(UserWarning, match=rf"created with torch 1.0 \(now {packages['torch']}".replace("+", r"\+")):
        mergecore.run(made / LOCK_NAME, tmp_path / "again")


def test_a_plan_that_is_another_is_named(made: Path, tmp_path: Path) -> None:
    edit(made / LOCK_NAME, plan="0" * 64)
    with pytest.warns(UserWarning, match="the plan has changed"):
        mergecore.run(made / LOCK_NAME, tmp_path / "again")


def test_a_change_that_a_sample_misses_shows_in_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear_recipe: Path, models: list[Path]
) -> None:
    for name, value in {"WHOLE": 1000, "HEAD": 10, "BLOCK": 1, "BLOCKS": 2}.items():
        monkeypatch.setattr(fingerprints, name, value)
    out = mergecore.run(linear_recipe, tmp_path / "out")
    files = json.loads((out / LOCK_NAME).read_text("utf-8"))["inputs"][0]["files"]
    assert set(files["model.safetensors"]) == {"size", "sample"} and "sha256" in files["config.json"]
    path = models[1] / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 3] ^= 64
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"again: was written, but these files differ from .*: model\.safetensors"):
        mergecore.run(out / LOCK_NAME, tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").exists()
    whole = mergecore.run(linear_recipe, tmp_path / "whole", hash_inputs=True)
    files = json.loads((whole / LOCK_NAME).read_text("utf-8"))["inputs"][0]["files"]
    assert files["model.safetensors"] == {"size": len(data), "tree": fingerprints.tree_hash(path)}


def test_a_sample_tells_files_of_one_layout_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "WHOLE", 0)
    one, other = (write_model(tmp_path / str(seed), seed) / "model.safetensors" for seed in (1, 2))
    assert fingerprint(one)["size"] == fingerprint(other)["size"]
    assert fingerprint(one)["sample"] != fingerprint(other)["sample"]
    shutil.copy(one, tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == fingerprint(one)


def test_what_the_hub_has_hashed_is_not_hashed_again(tmp_path: Path) -> None:
    """Hashes in file names of the huggingface_hub cache, and in metadata next to downloads to a folder."""
    digest = "ab" * 32
    blob = tmp_path / "models--a--b" / "blobs" / digest
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    link = tmp_path / "models--a--b" / "model.safetensors"
    link.symlink_to(blob)
    assert fingerprint(link) == {"size": 7, "sha256": digest}
    file = tmp_path / "download" / "model.safetensors"
    note = file.parent / ".cache" / "huggingface" / "download" / "model.safetensors.metadata"
    note.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    note.write_text(f"{'c' * 40}\n{digest}\n{time.time()}\n")
    assert known_sha256(file) == digest
    os.utime(file, (time.time() + 60, time.time() + 60))
    assert known_sha256(file) is None, "changed since it was downloaded"
    note.write_text(f"{'c' * 40}\n{'d' * 40}\n{time.time() + 99}\n")
    assert known_sha256(file) is None, "a git hash"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"mergecore_lock": 3}, "is a lock file of version 3: pip install --upgrade mergecore"),
        ({"mergecore_lock": 1}, "'recipe' is missing"),
        ({"inputs": [{"reference": 5}]}, "inputs"),
        ({"outputs": {"a": {"size": -1, "sha256": ""}}}, "outputs.a.size: must be at least 0"),
        ({"recipe": "merge_method: linear"}, "recipe.yml.*'models'"),
    ],
)
def test_a_lock_that_is_none_is_refused_with_a_sentence(made: Path, value: dict[str, object], said: str) -> None:
    if value.keys() == {"mergecore_lock"}:
        (made / LOCK_NAME).write_text(json.dumps(value), "utf-8")
    else:
        edit(made / LOCK_NAME, **value)
    with pytest.raises(InputError, match=said):
        mergecore.plan(made / LOCK_NAME)


def test_a_recipe_of_two_stages_runs_again_from_its_lock(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    half = {"parameters": {"weight": 0.5}}
    stage = {"name": "mix", "merge_method": "linear", "models": [{"model": "code", **half}, {"model": "prose", **half}]}
    output = {
        "merge_method": "linear",
        "models": [{"model": name, **half} for name in ("mix", "./code", "code", "base")],
    }
    out = mergecore.run([stage, output], "out", keep=["mix"]).resolve()
    lock = json.loads((out / LOCK_NAME).read_text("utf-8"))
    assert {(item["reference"], item["folder"]) for item in lock["inputs"]} == {
        (name, f"../{Path(name).name}") for name in ("base", "code", "./code", "prose")
    }
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for folder in (out, tmp_path / "out-mix"):
        again = mergecore.run(folder / LOCK_NAME, tmp_path / f"{folder.name}-again", workers=1)
        assert content(again) == content(folder)
    (tmp_path / "prose" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(InputError, match=r"prose/model.safetensors: "):
        mergecore.plan(out / LOCK_NAME)


def test_a_model_of_the_hub_is_locked_to_its_commit(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, code, prose = models
    for model in models:
        Tokenizer(WordLevel({f"w{n}": n for n in range(VOCABULARY)}, unk_token="w0")).save(
            str(model / "tokenizer.json")
        )
    (code / "README.md").write_text("---\nlicense: mit\n---\n")
    with fake_hub.running() as hub:
        commits = {f"org/{model.name}": hub.add(f"org/{model.name}", model) for model in models}
        hub.used_here(monkeypatch, tmp_path / "one")
        entries = [{"model": name, "parameters": {"weight": 0.5}} for name in ("org/code@main", str(prose))]
        what = {"merge_method": "linear", "models": entries, "tokenizer": {"source": "org/base"}}
        out = mergecore.run(what, tmp_path / "out")
        inputs = {item["reference"]: item for item in json.loads((out / LOCK_NAME).read_text("utf-8"))["inputs"]}
        assert {name: (item["folder"], item["revision"]) for name, item in inputs.items()} == {
            "org/code@main": (None, commits["org/code"]),
            "prose": ("../prose", None),
            "org/base": (None, commits["org/base"]),
        }
        assert set(inputs["org/code@main"]["files"]) == {"config.json", "tokenizer.json", "model.safetensors"}
        assert set(inputs["org/base"]["files"]) == {"config.json", "tokenizer.json"}
        for model in (base, code):  # the branches now point to another model
            hub.add(f"org/{model.name}", write_model(tmp_path / f"new-{model.name}", 9))
        hub.used_here(monkeypatch, tmp_path / "other")
        plan = mergecore.plan(out / LOCK_NAME)
        plan.close()
        assert [license_kind(model.card) for model in plan.models] == ["permissive", "unknown"]
        assert plan.download == (code / "model.safetensors").stat().st_size
        assert content(mergecore.run(out / LOCK_NAME, tmp_path / "again")) == content(out)


def test_a_pipe_or_a_folder_among_its_files_is_not_waited_for(made: Path, tmp_path: Path) -> None:
    lock = json.loads((made / LOCK_NAME).read_text("utf-8"))
    os.mkfifo(tmp_path / "pipe")
    lock["inputs"][0]["files"]["../pipe"] = {"size": 0, "sha256": "0" * 64}
    with pytest.raises(InputError, match="pipe: is not the file"):
        mergecore.plan(edit(made / LOCK_NAME, inputs=lock["inputs"]))
