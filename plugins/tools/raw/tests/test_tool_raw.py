"""Tests for raw: it merges weight files and diffusers folders correctly and atomically; rejected input."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import cli_processes
import pytest
import torch
from refused_commands import Refused, check_refused, run
from safetensors.torch import load_file, save_file

import mergecore

SHAPES = {"model.diffusion_model.in.weight": (8, 4, 3, 3), "cond.bias": (7,), "scale": ()}


def state(seed: int, dtype: torch.dtype = torch.float32, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()} | {
        "steps": torch.arange(5), **more}  # fmt: skip


def save(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({"state_dict": tensors} if path.suffix == ".ckpt" else tensors, path)


Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Typed:
    """Run a command line in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return lambda text: run(text.split(), monkeypatch, capfd)


def recipe(method: str, models: list[str], *, base: str = "", **parameters: object) -> None:
    value = {"merge_method": method, "models": [{"model": model} for model in models], "parameters": parameters}
    Path("r.yml").write_text(json.dumps({**value, **({"base_model": base} if base else {})}))


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_counters_come_from_the_model_that_the_recipe_chooses(typed: Typed, tmp_path: Path, dtype: torch.dtype) -> None:
    names, counters = ("a.safetensors", "b.safetensors", "c.safetensors"), torch.eye(3).to(dtype)
    for seed, name in enumerate(names):
        save(tmp_path / name, state(seed, step=counters[seed].clone()))
    chosen = [{"filter": "step", "value": 0}, {"value": 0.5}]
    for base, weights, expected in (
        ("", (0.5, 0.5, 0.5), 0),
        ("b.safetensors", (0.5, 0.5, 0.5), 1),
        ("", (chosen, chosen, 0.5), 2),
        ("b.safetensors", (chosen, 1.0, 0.5), 2),
    ):
        models = [{"model": name, "parameters": {"weight": weight}} for name, weight in zip(names, weights)]
        value = {"merge_method": "task_arithmetic" if base else "linear", "models": models}
        Path("r.yml").write_text(json.dumps({**value, **({"base_model": base} if base else {})}))
        status, _, err = typed("raw r.yml out.safetensors --force")
        assert status == 0 and f"copied from {names[expected]}" in " ".join(err.split())
        assert torch.equal(load_file(tmp_path / "out.safetensors")["step"], counters[expected])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int32, torch.uint8])
def test_quantized_weights_are_refused_before_anything_is_read(
    typed: Typed, tmp_path: Path, dtype: torch.dtype
) -> None:
    for seed in range(2):
        save(tmp_path / f"{seed}.safetensors", state(seed, **{"a.qweight": torch.ones(2).to(dtype)}))
    recipe("linear", ["0.safetensors", "1.safetensors"], weight=0.5)
    status, _, err = typed("raw r.yml out.safetensors --quiet")
    assert status == 2 and "a.qweight: has dtype" in err and "cannot be merged" in err


@pytest.mark.parametrize("suffixes", [("safetensors",) * 3, ("pt", "ckpt", "bin")])
@pytest.mark.parametrize(
    ("method", "parameters"), [("linear", {"weight": 0.5}), ("ties", {"density": 0.5}), ("karcher", {})]
)
def test_files_are_merged_as_in_memory(
    typed: Typed, tmp_path: Path, suffixes: tuple[str, ...], method: str, parameters: dict[str, float]
) -> None:
    names = [f"{name}.{suffix}" for name, suffix in zip("abc", suffixes)]
    for seed, name in enumerate(names):
        save(tmp_path / name, state(seed))
    base = names[0] if method == "ties" else ""
    recipe(method, names, base=base, **parameters)
    status, _, err = typed("raw r.yml out.safetensors --quiet")
    assert (status, err) == (0, "")
    expected = mergecore.merge_state_dicts(
        [state(seed) for seed in range(3)], method, parameters, base=0 if base else None
    )
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert not list(tmp_path.glob("out.safetensors.*"))


def test_filters_and_json_work_as_in_any_recipe(typed: Typed, tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        save(tmp_path / f"{name}.safetensors", state(seed, torch.bfloat16))
    Path("r.yml").write_text(
        "merge_method: linear\nmodels:\n- {model: a.safetensors, parameters: {weight: [{filter: cond, value: 0},"
        " {value: 1}]}}\n- {model: b.safetensors, parameters: {weight: [{filter: cond, value: 1}, {value: 0}]}}\n"
    )
    status, out, _ = typed("raw r.yml out.safetensors --json --quiet")
    assert status == 0 and json.loads(out)["tensors"] == 4
    found, models = load_file(tmp_path / "out.safetensors"), [state(seed, torch.bfloat16) for seed in range(2)]
    for name, tensor in found.items():
        assert torch.equal(tensor, models["cond" in name][name])


def test_names_that_not_all_have_are_refused_left_out_or_merged(typed: Typed, tmp_path: Path) -> None:
    extra = torch.ones(3)
    save(tmp_path / "a.safetensors", state(0))
    save(tmp_path / "b.safetensors", state(1, more=extra))
    recipe("linear", ["a.safetensors", "b.safetensors"], weight=0.5)
    status, _, err = typed("raw r.yml out.safetensors")
    assert status == 2 and "b.safetensors: has 'more', but a.safetensors does not" in err
    status, _, err = typed("raw r.yml less.safetensors -i")
    assert status == 0 and "skipping 1 tensor(s) that some models do not have" in err
    assert load_file(tmp_path / "less.safetensors").keys() == state(0).keys()
    assert typed("raw r.yml more.safetensors --tensor-union")[0] == 0
    found = load_file(tmp_path / "more.safetensors")
    assert torch.equal(found.pop("more"), extra) and found.keys() == state(0).keys()


def test_an_output_that_is_there_stays_until_the_new_one_is_whole(typed: Typed, tmp_path: Path) -> None:
    save(tmp_path / "a.safetensors", state(0))
    save(tmp_path / "b.safetensors", state(1) | {"scale": torch.tensor(torch.nan)})
    recipe("linear", ["a.safetensors", "b.safetensors"], weight=0.5)
    out = tmp_path / "out.safetensors"
    out.write_text("mine")
    assert typed("raw r.yml out.safetensors")[0] == 2
    status, _, err = typed("raw r.yml out.safetensors --force")
    assert status == 2 and "was not written by mergecore" in err and out.read_text() == "mine"
    out.unlink()
    assert typed("raw r.yml out.safetensors --allow-nonfinite")[0] == 0
    old = out.read_bytes()
    recipe("passthrough", ["b.safetensors"])
    status, _, err = typed("raw r.yml out.safetensors --force")
    assert status == 1 and "NaN" in err and out.read_bytes() == old
    assert typed("raw r.yml out.safetensors --force --allow-nonfinite")[0] == 0
    assert load_file(out)["scale"].isnan() and out.read_bytes() != old
    os.utime(out)
    assert typed("raw r.yml out.safetensors --force --allow-nonfinite")[0] == 2, "somebody changed it"


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"w{n}": torch.randn(200_000, generator=generator) for n in range(60)}
        save(tmp_path / f"{seed}.safetensors", tensors)
    recipe("ties", ["0.safetensors", "1.safetensors"], base="0.safetensors", density=0.3)
    command = ["raw", tmp_path / "r.yml", tmp_path / "out.safetensors", "--workers", "1"]
    whole = cli_processes.start(tmp_path / "h0", "raw", tmp_path / "r.yml", tmp_path / "whole.safetensors")
    assert whole.ended()[0] == 0
    killed = cli_processes.start(tmp_path / "h1", *command)
    journal = tmp_path / "out.safetensors.partial/journal"
    assert killed.reached(journal)
    while killed.process.is_alive() and journal.exists() and journal.read_bytes().count(b"\n") < 5:
        pass
    status, _ = killed.ended(signal.SIGKILL)
    if status == -signal.SIGKILL:
        assert not (tmp_path / "out.safetensors").exists()
    else:
        (tmp_path / "out.safetensors").unlink()
    status, err = cli_processes.start(tmp_path / "h2", *command).ended()
    assert status == 0, err
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert not journal.exists()


def diffusers(folder: Path, seed: int, *, shards: bool = False, variant: str = "") -> Path:
    """Write a folder as diffusers does."""
    parts = {"unet": "diffusers", "text_encoder": "transformers", "tokenizer": "transformers", "scheduler": "diffusers"}
    index = {"_class_name": "P", **{part: [library, "C"] for part, library in parts.items()}, "safety": [None, None]}
    files = {"model_index.json": index, "unet/config.json": {"in": 4}, "text_encoder/config.json": {"h": 2},
             "tokenizer/vocab.json": {"a": 1}, "scheduler/scheduler_config.json": {"n": 9}}  # fmt: skip
    for name, value in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(value))
    unet, stem = state(seed), "diffusion_pytorch_model"
    if shards:
        names = [f"{stem}-0000{n}-of-00002.safetensors" for n in (1, 2)]
        places = {name: names[number % 2] for number, name in enumerate(unet)}
        for file in names:
            save(folder / "unet" / file, {name: unet[name] for name in unet if places[name] == file})
        (folder / f"unet/{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    else:
        save(folder / f"unet/{stem}{variant}.safetensors", unet)
    save(folder / "text_encoder/model.safetensors", state(seed + 10))
    return folder


@pytest.mark.parametrize("shards", [False, True])
def test_a_diffusers_folder_is_merged_component_by_component(typed: Typed, tmp_path: Path, shards: bool) -> None:
    diffusers(tmp_path / "a", 0, shards=shards)
    diffusers(tmp_path / "b", 1, variant=".fp16")
    (tmp_path / "a/unet/evil.py").write_text("boom")
    recipe("linear", ["a", "b"], weight=[{"filter": "unet/", "value": 0.5}, {"value": 1}])
    status, _, err = typed("raw r.yml out")
    assert status == 0, err
    files = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files == {
        "model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/vocab.json", "scheduler/scheduler_config.json",
        ".mergecore.json",
    }  # fmt: skip
    for seed, file in ((0, "unet/diffusion_pytorch_model"), (10, "text_encoder/model")):
        found = load_file(tmp_path / f"out/{file}.safetensors")
        expected = mergecore.merge_state_dicts([state(seed), state(seed + 1)], "linear", {"weight": 0.5})
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    status, _, err = typed("raw r.yml small --shard-size 1KB")
    assert status == 0 and (tmp_path / "small/unet/diffusion_pytorch_model.safetensors.index.json").exists()
    recipe("passthrough", ["small"])
    assert typed("raw r.yml again")[0] == 0
    assert (tmp_path / "again/unet/diffusion_pytorch_model.safetensors").read_bytes() == (
        tmp_path / "out/unet/diffusion_pytorch_model.safetensors"
    ).read_bytes()


REFUSED = {
    "no recipe": Refused("raw", "Missing argument 'recipe'|Missing argument 'RECIPE'"),
    "no output": Refused("raw good.yml", "Missing argument 'out'|Missing argument 'OUT'"),
    "no such recipe": Refused("raw nowhere.yml out.safetensors", "nowhere.yml: no such file"),
    "an output of another format": Refused("raw good.yml out.pt", "out.pt: must end in .safetensors"),
    "an output in no folder": Refused("raw good.yml no/out.safetensors", "does not exist; create it first"),
    "an output that is there": Refused("raw good.yml a.safetensors.bak.safetensors", "already exists"),
    "an output that is an input": Refused("raw good.yml a.safetensors --force", "is or contains"),
    "an output that is a folder": Refused("raw good.yml folder.safetensors --force", "is a folder; use the name of a"),
    "both ways at once": Refused("raw good.yml out.safetensors -i -u", "cannot be combined; use only one"),
    "a memory that is none": Refused("raw good.yml out.safetensors --memory much", "--memory: 'much' is not a size"),
    "a method misspelt": Refused("raw method.yml out.safetensors", "method 'liner' is not installed; did you mean"),
    "a parameter misspelt": Refused("raw parameter.yml out.safetensors", "did you mean 'weight'?"),
    "no such file": Refused("raw lost.yml out.safetensors", "lost.safetensors: no such file"),
    "a model folder": Refused("raw model.yml out.safetensors", "merge it with mergecore run"),
    "a folder of anything": Refused("raw empty.yml out.safetensors", "model_index.json is missing"),
    "a file of another kind": Refused("raw text.yml out.safetensors", "is neither a weight file"),
    "a file that was cut": Refused("raw cut.yml out.safetensors", "cut.safetensors: "),
    "a pickle that runs code": Refused("raw evil.yml out.safetensors", "is rejected, because loading it would run"),
    "a pickle of the wrong sort": Refused("raw list.yml out.safetensors", "holds a list, not a dict of tensors"),
    "other names": Refused("raw names.yml out.safetensors", "but a.safetensors does not"),
    "other shapes": Refused("raw shapes.yml out.safetensors", "only models of the same sizes can be merged"),
    "slices": Refused("raw slices.yml out.safetensors", "has no layers to select"),
    "a tokenizer": Refused("raw tokens.yml out.safetensors", "have no tokenizer"),
    "a folder among files": Refused("raw mixed.yml out", "is not a diffusers folder, but other models"),
    "components into a file": Refused("raw pipes.yml out.safetensors", "so the output must be a folder"),
    "a component outside": Refused("raw outside.yml out", "lists a component outside its own folder"),
    "a shard that is missing": Refused(
        "raw shard.yml out", "is listed in diffusion_pytorch_model.safetensors.index.json"
    ),
}


class Evil:
    """An object that prints when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return print, ("boom",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid and invalid files, with a recipe for each."""
    path = tmp_path_factory.mktemp("refused")
    for seed, name in enumerate(("a", "b", "cut", "a.safetensors.bak")):
        save(path / f"{name}.safetensors", state(seed))
    with (path / "cut.safetensors").open("r+b") as file:
        file.truncate(400)
    save(path / "names.safetensors", state(0, other=torch.ones(1)))
    save(path / "shapes.safetensors", {**state(0), "cond.bias": torch.ones(8)})
    torch.save({"w": Evil()}, path / "evil.pt")
    torch.save([torch.ones(1)], path / "list.pt")
    for name in ("model", "empty", "folder.safetensors"):
        (path / name).mkdir()
    (path / "model/config.json").write_text("{}")
    diffusers(path / "pipe", 0)
    shutil.copytree(diffusers(path / "pipe2", 1, shards=True), path / "shard")
    (path / "shard/unet/diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    shutil.copytree(path / "pipe", path / "outside")
    (path / "outside/model_index.json").write_text('{"../pipe": ["diffusers", "U"]}')
    second = {
        "good": "b.safetensors", "lost": "lost.safetensors", "model": "model", "empty": "empty", "text": "good.yml",
        "cut": "cut.safetensors", "evil": "evil.pt", "list": "list.pt", "names": "names.safetensors",
        "shapes": "shapes.safetensors", "mixed": "pipe",
    }  # fmt: skip
    linear = "merge_method: linear\nparameters: {weight: 1}\n"
    for name, model in second.items():
        (path / f"{name}.yml").write_text(f"{linear}models: [{{model: a.safetensors}}, {{model: {model}}}]\n")
    good = (path / "good.yml").read_text()
    (path / "method.yml").write_text(good.replace("linear", "liner"))
    (path / "parameter.yml").write_text(good.replace("weight", "wieght"))
    (path / "tokens.yml").write_text(good + "tokenizer_source: union\n")
    (path / "slices.yml").write_text(linear + "slices: [{sources: [{model: a.safetensors, layer_range: [0, 1]}]}]\n")
    for name, models in {"pipes": "pipe pipe2", "outside": "pipe outside", "shard": "pipe shard"}.items():
        listed = ", ".join(f"{{model: {model}}}" for model in models.split())
        (path / f"{name}.yml").write_text(f"{linear}models: [{listed}]\n")
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_command_is_refused_in_one_sentence(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check_refused(REFUSED[name], folder, monkeypatch, capfd)
