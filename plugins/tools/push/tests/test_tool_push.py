"""Tests for push: a finished result is uploaded in one commit, and an unfinished one is rejected."""

import json

import cli_processes
import fake_hub
import pytest
from tiny_llamas import write_adapter, write_model

import mergecore
from mergecore.recipes import LOCK_NAME
from mergecore.running.ownership import MARKER


@pytest.fixture
def hub():
    with fake_hub.running() as server:
        yield server


@pytest.fixture
def push(hub, tmp_path):
    """Run mergecore push as a user with write access. Return the exit status and the output."""

    def run(*arguments, token="writer"):
        variables = hub.environment(tmp_path, HF_TOKEN=token, HF_HUB_DISABLE_XET="1")
        return cli_processes.start(tmp_path / "home", "push", *arguments, environment=variables).ended()

    return run


@pytest.fixture
def out(tmp_path):
    folder = write_model(tmp_path / "out", 0)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# out\n")
    return folder


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_pushed_is_the_folder_and_can_be_merged_from_there(hub, push, out, tmp_path):
    expected = files(out)
    for name in (".DS_Store", "out.lock"):
        (out / name).write_text("left behind")
    status, said = push(out, "me/merged", "--private")
    assert status == 0, said
    repo = hub.repos["me/merged"]
    pushed = repo.commits[repo.refs["main"]]
    assert {name: data for name, data in pushed.items() if name != ".gitattributes"} == expected
    assert repo.private and repo.messages == ["Upload a merged model"]
    assert f"out: uploaded to me/merged at commit {repo.refs['main']}" in said
    recipe = tmp_path / "recipe.yml"
    recipe.write_text("{merge_method: passthrough, models: [{model: me/merged}]}")
    variables = hub.environment(tmp_path, HF_TOKEN="writer")
    status, said = cli_processes.start(
        tmp_path / "home", "run", recipe, tmp_path / "again", environment=variables
    ).ended()
    assert status == 0, said


def test_the_lock_file_is_uploaded_without_the_paths_of_this_machine(hub, push, tmp_path):
    models = [write_model(tmp_path / name, seed) for seed, name in enumerate("ab")]
    recipe = {"merge_method": "passthrough", "models": [{"model": f"{models[0]}+{write_adapter(tmp_path / 'lora')}"}]}
    out = mergecore.run(recipe, tmp_path / "out")
    status, said = push(out, "me/merged")
    assert status == 0, said
    repo = hub.repos["me/merged"]
    pushed = repo.commits[repo.refs["main"]]
    ours, theirs = (json.loads(data) for data in ((out / LOCK_NAME).read_bytes(), pushed[LOCK_NAME]))
    assert (ours["inputs"][0]["folder"], ours["inputs"][0]["adapters"]) == ("../a", ["../lora"])
    assert (theirs["inputs"][0]["folder"], theirs["inputs"][0]["adapters"]) == (None, ["lora"])
    assert theirs["outputs"] == ours["outputs"] and theirs["recipe"] == ours["recipe"]
    assert not [name for name, data in pushed.items() if str(tmp_path).encode() in data or b'"../' in data]
    assert MARKER not in pushed


def test_what_is_listed_is_what_is_uploaded(hub, push, out):
    (out / "sub" / ".hidden").mkdir(parents=True)
    for name in ("sub/a.txt", "sub/.hidden/b", "sub/c.lock", ".env"):
        (out / name).write_text("mine")
    status, said = push(out, "me/merged", "--dry-run")
    assert status == 0 and hub.seen == []
    listed = sorted(line.split("MB  ")[1] for line in said.splitlines())
    assert listed == ["README.md", "config.json", "model.safetensors", "sub/a.txt"]
    assert push(out, "me/merged")[0] == 0
    repo = hub.repos["me/merged"]
    assert sorted(set(repo.commits[repo.refs["main"]]) - {".gitattributes"}) == listed


def test_on_a_branch_the_weights_of_another_result_make_room(hub, push, out):
    hub.repos["me/merged"] = fake_hub.Repo()
    first = hub.repos["me/merged"].commit({"model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"})
    status, said = push(out, "me/merged", "--revision", "v2", "--message", "Again")
    assert status == 0, said
    repo = hub.repos["me/merged"]
    assert repo.refs["main"] == first and repo.messages == ["Again"]
    assert sorted(repo.commits[repo.refs["v2"]]) == ["README.md", "config.json", "model.safetensors", "notes.txt"]


def test_what_is_not_finished_is_refused_before_anything_is_asked(hub, push, out, tmp_path):
    partial = tmp_path / "out.partial"
    out.rename(partial)
    assert push(partial, "me/merged") == (2, f"error: {partial}: belongs to an unfinished run; run its recipe again"
                                             " to finish it, then push OUT\n")  # fmt: skip
    partial.rename(out)
    whole = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(whole[:-1])
    status, said = push(out, "me/merged")
    assert status == 2 and "truncated" in said
    for folder, name, words in ((tmp_path / "none", "me/merged", "no such folder"), (out, "merged", "use org/name")):
        status, said = push(folder, name)
        assert status == 2 and words in said
    assert hub.seen == []


def test_a_token_that_may_not_write_is_said_to_be_one(hub, push, out):
    status, said = push(out, "me/merged", token="reader")
    assert (status, said.count("error: "), said.count("Traceback")) == (2, 1, 0)
    assert "me/merged: http" in said and "does not accept the token for this model; set HF_TOKEN to a different" in said
