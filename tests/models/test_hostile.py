"""Malicious files cannot run code, hang, leave files, or forge output. Each is rejected with one message."""

import json
import os
import shutil
import signal

import pytest
import torch
from hostile_files import BOTTOMLESS, FOLDERS, GOOD, HEADERS, NAMES, RECIPES, TOO_DEEP, moved_out, safetensors
from safetensors.torch import load_file
from tiny_llamas import write_model

from mergecore import cli
from mergecore.running.ownership import MARKER, write_marker


@pytest.fixture(scope="module")
def good_models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    for seed, name in enumerate(("code", "prose")):
        write_model(folder / name, seed)
    return folder


@pytest.fixture
def place(good_models, tmp_path, monkeypatch):
    """A folder for a merge with two valid models, a recipe, and an older result in the output folder."""
    shutil.copytree(good_models, tmp_path, dirs_exist_ok=True)
    (tmp_path / "recipe.yml").write_text(GOOD)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    write_marker(tmp_path / "out" / MARKER, ["mine.txt"])
    monkeypatch.chdir(tmp_path)
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it hangs"))
    signal.alarm(120)  # opening a pipe blocks forever, and so would the tests
    yield tmp_path
    signal.alarm(0)


@pytest.fixture
def merge(place, monkeypatch, capfd):
    """Run the recipe. Return the exit status and the output."""

    def run(*options):
        monkeypatch.setattr("sys.argv", ["mergecore", "run", "recipe.yml", "out", "--force", *options])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capfd.readouterr().err

    return run


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_symlink() or path.exists())


def check_refused(place, merge, named, words):
    before = listing(place)
    status, printed = merge("--quiet")
    assert status == 2, printed
    assert printed.startswith("error: ") and printed.endswith("\n")
    assert all(line.isprintable() for line in printed.split("\n")), "no control characters"
    assert all(line.startswith(("  ", "error: ")) for line in printed[:-1].split("\n")), (
        "errors with their lines of YAML"
    )
    assert named in printed and words in printed, printed[:1000]
    assert "bug in mergecore" not in printed
    assert listing(place) == before, "no result, no partial result, and nothing created by a payload"
    assert (place / "out" / "mine.txt").read_text() == "mine"


def test_the_models_that_they_are_made_from_are_right(place, merge):
    assert merge("--quiet") == (0, "")
    assert "model.safetensors" in listing(place / "out")


@pytest.mark.parametrize("name", HEADERS)
def test_a_weight_file_is_refused(name, place, merge):
    content, words = HEADERS[name]
    (place / "code" / "model.safetensors").write_bytes(content)
    check_refused(place, merge, "code/model.safetensors: ", words)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_folder_is_refused(name, place, merge):
    damage, named, words = FOLDERS[name]
    damage(place / "code")
    check_refused(place, merge, f"{named}: ", words)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_refused(name, place, merge):
    content, words = RECIPES[name]
    (place / "recipe.yml").write_bytes(content if isinstance(content, bytes) else content.encode())
    check_refused(place, merge, "recipe.yml", words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: os.truncate(path, 10**8), "the file exceeds the limit of 1 MB"),
        (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is empty"),
        (lambda path: (path.unlink(), path.symlink_to("/dev/zero")), "the file exceeds the limit of 1 MB"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "Too many levels of symbolic links"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_a_recipe_that_is_no_small_file_is_refused(make, words, place, merge):
    make(place / "recipe.yml")
    check_refused(place, merge, "recipe.yml: ", words)


@pytest.mark.parametrize("name", NAMES)
def test_a_tensors_name_is_only_a_name(name, place, merge):
    entries = {name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    (place / "code" / "model.safetensors").write_bytes(safetensors(entries, bytes(8)))
    check_refused(place, merge, "code: ", f"contains {name!r}, unknown to LlamaForCausalLM")


@pytest.mark.parametrize("file", ["recipe.yml", "code/config.json", "code/model.safetensors"])
def test_a_file_that_may_not_be_read_is_named(file, place, merge, monkeypatch):
    real = os.open

    def refuse(path, *rest, **options):
        if str(path).endswith(file):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr("os.open", refuse)  # the tests might run as root, who can read everything
    check_refused(place, merge, f"{file}: ", "Permission denied")


def test_an_adapter_nested_without_end_is_refused(place, merge):
    (place / "adapter").mkdir()
    (place / "adapter" / "adapter_config.json").write_text(BOTTOMLESS)
    (place / "recipe.yml").write_text(GOOD.replace("code", "code+adapter"))
    check_refused(place, merge, "adapter/adapter_config.json: ", TOO_DEEP)


def test_an_architecture_nested_without_end_is_refused(place, merge):
    (place / "deep.json").write_text(BOTTOMLESS)
    (place / "recipe.yml").write_text(f"{GOOD}architectures: [deep.json]\n")
    check_refused(place, merge, "deep.json: ", TOO_DEEP)


@pytest.mark.parametrize("wanted", ["tokenizer: {source: base}", "chat_template: chatml"])
def test_tokenizer_settings_nested_without_end_are_refused(wanted, place, merge):
    (place / "code" / "tokenizer_config.json").write_text(BOTTOMLESS)
    (place / "code" / "vocab.txt").write_text("a\nb\n")
    (place / "recipe.yml").write_text(f"{GOOD}{wanted}\n")
    check_refused(place, merge, "tokenizer_config.json: ", TOO_DEEP)


def test_what_models_say_of_themselves_cannot_forge_the_plans_lines(place, merge):
    config = json.loads((place / "code" / "config.json").read_text())
    config["\x1b[2J\rmerged\u202e [bold]x[/bold]"] = 1
    (place / "code" / "config.json").write_text(json.dumps(config))
    status, printed = merge()
    assert status == 0
    assert r"\x1b[2J\rmerged\u202e [bold]x[/bold]" in printed.replace("\n", "").replace("  ", "")
    assert all(char.isprintable() or char == "\n" for char in printed)


def test_a_model_folder_may_be_a_link(place, merge):
    (place / "code").rename(place / "elsewhere")
    (place / "code").symlink_to(place / "elsewhere")
    assert merge("--quiet")[0] == 0


@pytest.mark.parametrize("store", ["models--x--code/blobs", "blobs"])
def test_a_snapshot_in_a_hub_cache_links_to_its_blobs(store, place, merge):
    snapshot = place / "hub/models--x--code/snapshots/0a1b"
    blobs = place / "hub" / store
    snapshot.parent.mkdir(parents=True)
    blobs.mkdir(parents=True)
    (place / "code").rename(snapshot)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(os.path.relpath(blobs / str(number), snapshot))
    (place / "recipe.yml").write_text(GOOD.replace("code", str(snapshot)))
    assert merge("--quiet")[0] == 0
    moved_out("0")(blobs)
    (place / "out" / "mine.txt").write_text("mine")
    check_refused(place, merge, "config.json: ", "is a link to a file outside")


def test_a_card_that_is_a_pipe_or_a_bomb_stops_no_merge(place, merge):
    os.mkfifo(place / "code" / "README.md")
    os.mkfifo(place / "code" / "modules.json")
    (place / "prose" / "README.md").write_text('---\nlicense: "\\U00110000"\nx: !!bool maybe\n---\n')
    assert merge("--quiet") == (0, "")


def test_a_tensor_beyond_4_gib_is_read_at_its_place(place, merge):
    """A sparse layer of 5 GiB that the recipe does not use comes before all merged tensors."""
    weights = load_file(place / "code" / "model.safetensors")
    large = "model.layers.0.mlp.up_proj.weight"
    del weights[large]
    (place / "code" / "model.safetensors").unlink()  # the weights are memory-mapped
    entries, end = {large: {"dtype": "F32", "shape": [5 * 2**18, 1024], "data_offsets": [0, 5 * 2**30]}}, 5 * 2**30
    for name, tensor in weights.items():
        entries[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + tensor.nbytes]}
        end += tensor.nbytes
    start = safetensors(entries)
    with (place / "code" / "model.safetensors").open("wb") as file:
        file.write(start)
        file.seek(len(start) + 5 * 2**30)
        for tensor in weights.values():
            file.write(tensor.numpy().tobytes())
    ranges = "".join(f"    - {{model: {model}, layer_range: [1, 2]}}\n" for model in ("code", "prose"))
    (place / "recipe.yml").write_text(
        f"merge_method: linear\nparameters: {{weight: 1}}\nslices:\n  - sources:\n{ranges}"
    )
    assert merge("--quiet") == (0, "")
    merged, other = load_file(place / "out" / "model.safetensors"), load_file(place / "prose" / "model.safetensors")
    for name, tensor in merged.items():
        stored = name.replace("layers.0.", "layers.1.")
        expected = (weights[stored].double() + other[stored].double()) / 2
        assert torch.allclose(tensor.double(), expected, rtol=1e-6, atol=0), name
