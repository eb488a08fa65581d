"""Models on the Hub are planned from headers and downloaded shard by shard to the shared cache."""

import json
import pickle
import shutil
import signal
import struct
import threading
from pathlib import Path

import cli_processes
import fake_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

from mergecore.discovery.registry import Registry
from mergecore.errors import ModelError
from mergecore.models.adapters import open_model

LAYERS = 4
REST = f"model-{LAYERS}.safetensors"
"""The largest file of a model, which contains everything except the layers."""


def sharded(folder: Path, seed: int, **damage: float) -> Path:
    """A model with one file per layer, one for the rest, and many other files."""
    write_model(folder, seed, num_hidden_layers=LAYERS, vocab_size=4000)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    tensors["model.norm.weight"][0] = damage.get("norm", 1.0)
    layer = {name: name.split(".")[2] if ".layers." in name else LAYERS for name in tensors}
    places = {name: f"model-{number}.safetensors" for name, number in layer.items()}
    for file in dict.fromkeys(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "generation_config.json").write_text('{"temperature": 0.7}')
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    modules = {"": "Transformer", "2_Dense": "Dense"}
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules.items()]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "2_Dense").mkdir()
    save_file({"linear.weight": torch.ones(200, 100)}, folder / "2_Dense" / "model.safetensors")
    for name in ("pytorch_model.bin", "model-q4.gguf", "onnx/model.onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(100_000))
    return folder


@pytest.fixture
def hub():
    with fake_hub.running() as server:
        yield server


class User:
    """Runs mergecore with a Hub server and a separate cache."""

    def __init__(self, hub: fake_hub.Hub, home: Path) -> None:
        self.hub, self.home = hub, home
        home.mkdir()

    def start(self, *arguments, **variables) -> cli_processes.Run:
        return cli_processes.start(self.home, *arguments, environment=self.hub.environment(self.home, **variables))

    def run(self, *arguments, status=0, **variables) -> str:
        got, said = self.start(*arguments, **variables).ended()
        assert got == status, said
        return said

    def average(self, *models) -> Path:
        """Write a recipe that averages models."""
        inputs = [{"model": model, "parameters": {"weight": 0.5}} for model in models]
        return self.recipe({"merge_method": "linear", "models": inputs})

    def recipe(self, recipe) -> Path:
        path = self.home / "recipe.yml"
        path.write_text(yaml.safe_dump(recipe))
        return path


@pytest.fixture
def user(hub, tmp_path):
    return User(hub, tmp_path / "user")


def load_header(path: Path) -> int:
    """Return the number of bytes before the weights in a file."""
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


def content(folder: Path) -> dict[str, bytes]:
    """Read every file except those that contain model names."""
    named = ("README.md", "mergecore_recipe.yml", "mergecore.lock.json")
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in named
    }


def test_a_plan_reads_headers_alone_and_a_run_fetches_each_shard_once(hub, user, tmp_path):
    folders = [sharded(tmp_path / name, seed) for seed, name in enumerate("ab")]
    commits = [hub.add(f"org/{folder.name}", folder) for folder in folders]
    recipe = user.average("org/a", {"model": {"path": "org/b", "revision": "main"}})
    assert "1 MB in 12 file(s)" in user.run("plan", recipe)
    assert hub.sent(".safetensors") < 20_000 and hub.fetched(".safetensors") == []
    said = user.run("run", recipe, tmp_path / "out")
    assert "downloading 100%" in said and f"commit {commits[0][:8]}" in said
    assert hub.fetched("model-0.safetensors") == ["model-0.safetensors"] and hub.sent(REST) < 2 * 257_000
    assert [hub.sent(kind) for kind in (".bin", ".gguf", ".onnx")] == [0, 0, 0]
    assert hub.fetched("2_Dense/model.safetensors"), "trained modules are merged as well"
    user.run("run", user.average(*map(str, folders)), tmp_path / "local")
    assert content(tmp_path / "out") == content(tmp_path / "local")
    assert "base_model:\n- org/a\n- org/b\n" in (tmp_path / "out" / "README.md").read_text()
    hub.seen.clear()
    user.run("run", user.average("org/a", "org/b"), tmp_path / "again")
    assert hub.sent(".safetensors") == 0
    said = user.run("run", user.average("org/a", "org/b"), tmp_path / "offline", HF_HUB_OFFLINE="1")
    assert f"org/a: using commit {commits[0][:8]} from the cache, because HF_HUB_OFFLINE" in " ".join(said.split())
    assert content(tmp_path / "again") == content(tmp_path / "offline") == content(tmp_path / "local")


def test_of_a_sliced_model_only_the_shards_of_its_layers_are_fetched(hub, user, tmp_path):
    commit = hub.add("org/a", sharded(tmp_path / "a", 0))
    slices = [{"sources": [{"model": f"org/a@{commit}", "layer_range": [1, 3]}]}]
    recipe = user.recipe({"merge_method": "passthrough", "slices": slices})
    user.run("run", recipe, tmp_path / "out")
    assert hub.fetched("a/resolve") == [] and hub.fetched(".safetensors") == [
        "2_Dense/model.safetensors", "model-1.safetensors", "model-2.safetensors", REST
    ]  # fmt: skip
    said = user.run("plan", recipe, status=2, HF_HUB_OFFLINE="1")
    assert "model-0.safetensors: is listed in model.safetensors.index.json but does not exist" in said
    assert "HF_HUB_OFFLINE" in said


def test_a_dropped_connection_is_taken_up_where_it_broke(hub, user, tmp_path):
    folder = write_model(tmp_path / "a", 0, vocab_size=400_000)
    hub.add("org/a", folder)
    header = load_header(folder / "model.safetensors")
    hub.drops["model.safetensors"] = [8, header, 15_000_000]
    user.run("run", user.average("org/a"), tmp_path / "out")
    ranges = [item.range for item in hub.seen if item.path.endswith("/model.safetensors") and item.method == "GET"]
    assert ranges[2:] == [None, "bytes=10485760-"], "huggingface_hub keeps complete chunks of 10 MiB"
    expected = load_file(folder / "model.safetensors")
    assert all(
        torch.equal(tensor, expected[name])
        for name, tensor in load_file(tmp_path / "out" / "model.safetensors").items()
    )


def test_a_run_killed_while_it_fetches_begins_again(hub, user, tmp_path):
    hub.add("org/a", sharded(tmp_path / "a", 0))
    hub.held[REST] = threading.Event()
    run = user.start("run", user.average("org/a"), tmp_path / "out")
    assert hub.held[REST].wait(60)
    assert run.ended(signal.SIGKILL)[0] == -signal.SIGKILL and not (tmp_path / "out").exists()
    hub.held.clear()
    user.run("run", user.average("org/a"), tmp_path / "out")


def test_a_run_goes_on_with_the_same_commit_wherever_it_is_cached_and_anew_with_another(hub, user, tmp_path):
    hub.add("org/a", sharded(tmp_path / "a", 0, norm=float("nan")))
    recipe = user.average("org/a")
    assert "has 39 of 40 tensors" in user.run("run", recipe, tmp_path / "out", status=1)
    shutil.rmtree(user.home / "hf")
    said = user.run("run", recipe, tmp_path / "out", status=1, HF_HUB_CACHE=str(tmp_path / "other"))
    assert "resuming: 39 of 40 tensors are done" in said
    hub.add("org/a", sharded(tmp_path / "fixed", 0))
    said = user.run("run", recipe, tmp_path / "out")
    assert "starting over because org/a/model-" in said and "resuming" not in said


def test_bin_files_are_fetched_to_be_looked_into_and_a_note_says_so(hub, user, tmp_path):
    folder = write_model(tmp_path / "a", 0)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    user.run("run", user.average(str(folder)), tmp_path / "local")
    (folder / "model.safetensors").unlink()
    hub.add("org/a", folder)
    said = " ".join(user.run("run", user.average("org/a"), tmp_path / "out").split())
    assert "org/a: has no .safetensors files with readable headers" in said and "so planning downloaded its" in said
    assert content(tmp_path / "out") == content(tmp_path / "local")


@pytest.fixture
def here(hub, tmp_path, monkeypatch):
    """A function that opens a model from the Hub in this process."""
    hub.used_here(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    return lambda reference: open_model(reference, Registry(print))


def test_a_local_folder_comes_first(here, hub, tmp_path):
    write_model(tmp_path / "org" / "a", 0)
    assert here("org/a").revision is None and hub.seen == []


def test_the_commit_is_known(here, hub, tmp_path):
    folder = write_model(tmp_path / "a", 0)
    first, second = hub.add("org/a", folder), hub.add("org/a", folder, "refs/pr/1")
    for reference, commit in {"org/a": first, f"org/a@{first}": first, "org/a@refs/pr/1": second}.items():
        model = here(reference)
        assert (model.reference, model.revision, model.origin) == (reference, commit, f"org/a@{commit}")


def test_a_server_without_ranges_is_read_no_further_than_the_header(here, hub, tmp_path):
    hub.add("org/a", sharded(tmp_path / "a", 0))
    hub.ranges = False
    assert len(here("org/a").tensors) == 40


def private(hub):
    hub.repos["org/a"].token = "secret"


def gated(hub):
    private(hub)
    hub.repos["org/a"].gated = True


def away(hub):
    from huggingface_hub import constants

    constants.ENDPOINT = "http://127.0.0.1:9"


def offline(hub):
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def answering(status, text):
    return lambda hub: setattr(hub, "answer", (status, {}, text))


def holding(**files):
    """Replace or remove files of the model."""

    def change(hub):
        commit = next(iter(hub.repos["org/a"].commits.values()))
        commit.update({name.replace("__", "."): data for name, data in files.items()})
        for name in [name for name, data in commit.items() if data is None]:
            del commit[name]

    return change


FAULTS = {
    "private": ("org/a", private, "org/a: no such folder, and no such model at http"),
    "gated": ("org/a", gated, "org/a: is gated; accept its license at .*/org/a, and set HF_TOKEN"),
    "no such revision": ("org/a@v2", lambda hub: None, "org/a: has no revision 'v2' at"),
    "no network": ("org/a", away, "no such folder, not in .*hub, and http://127.0.0.1:9 cannot be reached"),
    "offline": ("org/a", offline, "HF_HUB_OFFLINE does not allow requests to .* for org/a; unset it, or use the path"),
    "a page of HTML": ("org/a", answering(200, b"<html>"), "does not respond like a Hub .*check HF_ENDPOINT"),
    "a list": ("org/a", answering(200, b"[]"), "does not respond like a Hub"),
    "no commit": ("org/a", answering(200, b'{"id": "org/a", "sha": "../../x"}'), "does not respond like a Hub"),
    "out of order": ("org/a", answering(500, b""), "returned status 500 for org/a; try again later"),
    "too many requests": ("org/a", answering(429, b""), "returned status 429 for org/a; try again later"),
    "no config": ("org/a", holding(config__json=None), "has no config.json at .*, so it cannot be merged"),
    "no weights": ("org/a", holding(model__safetensors=None), "has no weight files, such as model.safetensors"),
    "a truncated file": ("org/a", holding(model__safetensors=b"{}"), "org/a@.*/model.safetensors: .*is truncated"),
    "an empty file": ("org/a", holding(model__safetensors=b""), "returned status 416"),
    "a header of 2^64 bytes": ("org/a", holding(model__safetensors=b"\xff" * 5000), "org/a@.*is truncated"),
    "a header above the limit": (
        "org/a", holding(model__safetensors=struct.pack("<Q", 100_000_001) + bytes(100_000_001)), "is larger than"
    ),
    "an index that leads out": (
        "org/a", holding(model__safetensors__index__json=b'{"weight_map": {"a": "../b.safetensors"}}'), "outside its"
    ),
    "three words": ("a/b/c", lambda hub: None, "the path of a model folder .*, or the org/name of a model on the Hub"),
    "a revision that leads out": ("org/a@../../x", lambda hub: None, "no such folder; use the path"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_hub_is_one_sentence(fault, here, hub, tmp_path):
    reference, change, words = FAULTS[fault]
    hub.add("org/a", write_model(tmp_path / "a", 0))
    change(hub)
    with pytest.raises(ModelError, match=words) as caught:
        here(reference)
    assert "\n" not in str(caught.value)
    assert hub.sent("model.safetensors") < 10_000


def test_the_sentence_is_what_the_command_line_says(hub, user, tmp_path):
    said = user.run("plan", user.average("org/none"), status=2)
    assert f"recipe.yml:3: models[0].model: org/none: no such folder, and no such model at {hub.url}" in said


def test_files_that_lie_outside_of_the_model_are_left_there(here, hub, tmp_path):
    hub.add("org/a", write_model(tmp_path / "a", 0))
    holding(**{"../../evil.json": b"{}", "/evil.json": b"{}", "a\\evil.json": b"{}"})(hub)
    here("org/a")
    assert hub.sent("evil.json") == 0 and not list(tmp_path.rglob("*evil.json"))


def test_a_file_that_is_not_what_its_header_said_is_refused(here, hub, tmp_path):
    from mergecore.models.remote_files import Shard

    hub.add("org/a", write_model(tmp_path / "a", 0))
    model = here("org/a")
    holding(model__safetensors=hub.repos["org/a"].commits[model.revision]["model.safetensors"].replace(b"F32", b"I32"))(
        hub
    )
    shard = model.files[0]
    assert isinstance(shard, Shard) and not shard.here
    with pytest.raises(ModelError, match="read before it was downloaded"):
        model.read("model.norm.weight", 0, torch.empty(1))
    assert not pickle.loads(pickle.dumps(shard)).here
    with pytest.raises(ModelError, match="does not match the header that was read"):
        shard.fetch(lambda count: None)
