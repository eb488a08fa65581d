"""Merged adapters are the sum of their changes or the result of a method, without building large matrices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergecore
from mergecore import cli

MODULES = {"model.layers.0.q_proj": (20, 12), "model.layers.1.q_proj": (20, 12), "model.layers.0.down_proj": (12, 30)}


def write_adapter(folder: Path, seed: int, rank: int = 3, modules=MODULES, **config) -> Path:
    """Write a random adapter."""
    generator = torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    tensors = {}
    for module, (out, width) in modules.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(rank, width, generator=generator)
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(out, rank, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 6, "base_model_name_or_path": "base", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def changes(folder: Path) -> dict[str, torch.Tensor]:
    """Return scale · B @ A of every module in float64, exactly as in PEFT's documentation."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    tensors, found = load_file(folder / "adapter_model.safetensors"), {}
    for key in tensors:
        if key.endswith(".lora_A.weight"):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            rank = settings.get("rank_pattern", {}).get(module, settings["r"])
            alpha = settings.get("alpha_pattern", {}).get(module, settings["lora_alpha"])
            scale = alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank
            found[module] = scale * tensors[key.replace("_A", "_B")].double() @ tensors[key].double()
    return found


@pytest.fixture
def run(monkeypatch, capfd, tmp_path):
    """Run `lora merge` in the test's folder. Return the exit status and the output."""
    monkeypatch.chdir(tmp_path)

    def run_command(*arguments):
        monkeypatch.setattr("sys.argv", ["mergecore", "lora", "merge", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run_command


@pytest.fixture
def adapters(tmp_path):
    """Three adapters of different types."""
    write_adapter(tmp_path / "one", 1)
    write_adapter(tmp_path / "two", 2, rank=2, use_rslora=True)
    write_adapter(tmp_path / "three", 3, rank=4, modules=dict(list(MODULES.items())[:1]))
    return [changes(tmp_path / name) for name in ("one", "two", "three")]


def test_the_exact_sum_is_exact(run, adapters, tmp_path):
    status, _, printed = run("one", "two", "three", "out", "--weight", "0.5", "--weight", "2", "--weight=-1", "-q")
    assert status == 0, printed
    merged = changes(tmp_path / "out")
    for module, shape in MODULES.items():
        zero = torch.zeros(shape).double()
        wanted = sum(w * item.get(module, zero) for w, item in zip((0.5, 2, -1), adapters))
        assert torch.allclose(merged[module], wanted, rtol=1e-5, atol=1e-5)
    config = json.loads((tmp_path / "out/adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (9, 9, {}, {})
    status, _, printed = run("one", "two", "three", "own", "--own-ranks", "-q")
    config = json.loads((tmp_path / "own/adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) == (5, {"model.layers.0.q_proj": 9})
    assert config["lora_alpha"] == 5 and config["alpha_pattern"] == config["rank_pattern"]


def test_a_lower_rank_is_the_best_there_is_and_its_error_is_stated(run, adapters, tmp_path):
    status, out, _ = run("one", "two", "out", "--rank", "2", "--json")
    report, merged = json.loads(out), changes(tmp_path / "out")
    assert status == 0
    for tensor in report["tensors"]:
        whole = adapters[0][tensor["name"]] + adapters[1][tensor["name"]]
        values = torch.linalg.svdvals(whole)
        best = (values[2:].square().sum() / values.square().sum()).sqrt().item()
        measured = ((merged[tensor["name"]] - whole).norm() / whole.norm()).item()
        assert tensor["rank"] == 2 and tensor["error"] == pytest.approx(best, rel=1e-4)
        assert measured == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize(("method", "parameters"), [
    ("linear", {"weight": [0.3, 0.7]}), ("task_arithmetic", {"weight": [1.0, 0.5]}), ("karcher", {}),
    ("slerp", {"t": 0.3}), ("model_stock", {}),
])  # fmt: skip
def test_methods_without_favourite_directions_give_what_they_give_in_weight_space(
    method, parameters, run, adapters, tmp_path
):
    weights = [f"--weight={weight}" for weight in parameters.get("weight", ())]
    rest = [f"--set={name}={value}" for name, value in parameters.items() if name != "weight"]
    status, out, printed = run("one", "two", "out", "--method", method, *weights, *rest, "--json")
    assert status == 0 and not json.loads(out)["notes"], printed
    merged = changes(tmp_path / "out")
    for module in MODULES:
        tensors, base = [adapters[0][module], adapters[1][module]], 0 if method == "slerp" else None
        if method in ("task_arithmetic", "model_stock"):
            tensors, base = [torch.zeros_like(tensors[0]), *tensors], 0
        wanted = mergecore.merge_tensors(tensors, method, parameters, base=base)
        assert torch.allclose(merged[module], wanted, rtol=1e-4, atol=1e-4)


def test_a_list_gives_each_adapter_a_parameter_of_its_own(run, adapters, tmp_path):
    made = {}
    for order, density in ((("one", "two"), "[0.9, 0.2]"), (("two", "one"), "[0.2, 0.9]"), (("one", "two"), "0.9")):
        status, _, printed = run(*order, "out", "--method=ties", f"--set=density={density}", "-q", "--force")
        assert status == 0, printed
        made[density] = changes(tmp_path / "out")
    for module, change in made["[0.9, 0.2]"].items():
        assert torch.allclose(change, made["[0.2, 0.9]"][module], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(change, made["0.9"][module], rtol=1e-2, atol=1e-2)


def test_what_other_methods_do_depends_on_the_changes_alone_and_is_said(run, adapters, tmp_path):
    status, out, printed = run("one", "two", "out", "--method", "ties", "--set", "density=0.5", "--json")
    assert status == 0 and "ties works on individual elements" in json.loads(out)["notes"][0], printed
    first = changes(tmp_path / "out")
    assert run("two", "one", "other", "--method", "ties", "--set", "density=0.5", "-q")[0] == 0
    path = tmp_path / "one/adapter_model.safetensors"  # the same changes with different factors
    save_file({name: tensor * (4 if "_A" in name else 0.25) for name, tensor in load_file(path).items()}, path)
    assert run("one", "two", "third", "--method", "ties", "--set", "density=0.5", "-q")[0] == 0
    for name in ("other", "third"):
        for module, change in changes(tmp_path / name).items():
            assert torch.allclose(change, first[module], rtol=1e-3, atol=1e-3)


def rewrite(change):
    def prepare(folder):
        path = folder / "one/adapter_model.safetensors"
        content = load_file(path)
        change(content)
        save_file(content, path)

    return prepare


def settings(**config):
    def prepare(folder):
        path = folder / "one/adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **config}))

    return prepare


A = "base_model.model.model.layers.0.q_proj.lora_A.weight"
NOTHING = settings()
WRONG = {
    "nothing": (NOTHING, [], "Missing argument"),
    "one": (NOTHING, ["one", "out"], "provide at least two, then OUT"),
    "gone": (NOTHING, ["one", "gone", "out"], "gone: no such folder"),
    "a model": (lambda f: (f / "one/adapter_config.json").unlink(), ["one", "two", "out"], "no such file"),
    "no weights": (lambda f: (f / "one/adapter_model.safetensors").unlink(), ["one", "two", "out"], "has no adapter"),
    "IA3": (settings(peft_type="IA3"), ["one", "two", "out"], "only LoRA can be merged, not IA3"),
    "DoRA": (rewrite(lambda c: c.update({A.replace("lora_A.weight", "lora_magnitude_vector"): torch.ones(20)})),
             ["one", "two", "out"], "is not a low-rank change"),
    "saved": (rewrite(lambda c: c.update({"base_model.model.norm.weight": torch.ones(20)})), ["one", "two", "out"],
              "is not a low-rank change; merge BASE+ADAPTER as models"),
    "half": (rewrite(lambda c: c.pop(A)), ["one", "two", "out"], "has no matching factor"),
    "rank": (settings(r=7), ["one", "two", "out"], "are not a pair of rank 7"),
    "other shapes": (rewrite(lambda c: c.update({A: torch.ones(3, 13)})), ["one", "two", "out"],
                     "the adapters are for models of different shapes"),
    "weights": (NOTHING, ["one", "two", "out", "--weight", "1"], "--weight: given 1 times for 2 adapters"),
    "NaN weight": (NOTHING, ["one", "two", "out", "--weight", "nan", "--weight", "1"], "must be a finite number"),
    "word weight": (NOTHING, ["one", "two", "out", "--weight", "much"], "Invalid value for '--weight'"),
    "canceled": (NOTHING, ["one", "two", "out", "--weight", "0", "--weight", "0"], "their changes cancel out"),
    "method": (NOTHING, ["one", "two", "out", "--method", "tise"], "method 'tise' is not installed; did you mean"),
    "parameter": (NOTHING, ["one", "two", "out", "--method", "ties", "--set", "densty=1"], "densty"),
    "value": (NOTHING, ["one", "two", "out", "--method", "ties", "--set", "density=2"], "density"),
    "a list too short": (NOTHING, ["one", "two", "out", "--method", "ties", "--set", "density=[0.5]"], "density"),
    "no value": (NOTHING, ["one", "two", "out", "--method", "ties", "--set", "density"], "must be NAME=VALUE"),
    "exact with": (NOTHING, ["one", "two", "out", "--set", "density=1"], "the exact sum has no parameters"),
    "count": (NOTHING, ["one", "two", "one", "out", "--method", "slerp", "--set", "t=0.5"], "Slerp takes"),
    "rank below": (NOTHING, ["one", "two", "out", "--rank", "-2"], "--rank: must be a positive integer"),
    "dtype": (NOTHING, ["one", "two", "out", "--dtype", "int8"], "'int8' is not one of 'float32', 'bfloat16'"),
    "out is an input": (NOTHING, ["one", "two", "one", "--force"], "one: is or contains"),
    "out is there": (NOTHING, ["one", "two", "three"], "three: already exists; use another name, or --force"),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "arguments", "sentence"), WRONG.values(), ids=WRONG)
def test_bad_input_to_merge_is_refused_with_a_sentence(prepare, arguments, sentence, run, adapters, tmp_path):
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    status, _, printed = run(*arguments)
    assert status == 2 and sentence in printed and printed.count("\n") == 1, printed
    assert [path for path in sorted(tmp_path.rglob("*")) if not path.name.endswith(".lock")] == before


def test_the_task_is_kept_and_a_difference_is_reported(run, tmp_path):
    for seed, task in enumerate(("SEQ_CLS", "SEQ_CLS", "CAUSAL_LM")):
        write_adapter(tmp_path / str(seed), seed, task_type=task)
    assert run("0", "1", "same", "-q")[0] == 0
    assert json.loads((tmp_path / "same/adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    status, _, printed = run("0", "2", "other", "-q")
    assert status == 0 and "for different tasks: SEQ_CLS, CAUSAL_LM; the first is kept" in printed
    status, _, printed = run("0", "1", "out", "--own-ranks", "--for", "llama.cpp")
    assert status == 2 and "llama.cpp reads one rank for all tensors" in printed


@pytest.mark.parametrize("program", ["vllm", "llama.cpp"])
def test_tables_are_left_out_for_programs_that_cannot_read_them(program, run, tmp_path):
    for seed in (0, 1):
        write_adapter(tmp_path / str(seed), seed, rank=20)
        path = tmp_path / str(seed) / "adapter_model.safetensors"
        factors = {f"base_model.model.lm_head.lora_{part}.weight": torch.ones(shape)
                   for part, shape in (("A", (20, 8)), ("B", (9, 20)))}  # fmt: skip
        save_file({**load_file(path), **factors}, path)
    status, _, printed = run("0", "1", "out", "-q", "--for", program)
    assert status == 0, printed
    there = any("lm_head" in key for key in load_file(tmp_path / "out/adapter_model.safetensors"))
    targets = json.loads((tmp_path / "out/adapter_config.json").read_text())["target_modules"]
    assert there is ("lm_head" in targets) is (program == "llama.cpp")
    assert ("vllm cannot read it: 'lm_head'" in printed) is (program == "vllm")
    assert ("the rank is 40: start vLLM with --max-lora-rank 64" in printed) is (program == "vllm")


def test_the_revision_of_the_base_is_kept_if_all_agree(run, tmp_path):
    for seed, revision in enumerate(("abc", "abc", "def")):
        write_adapter(tmp_path / str(seed), seed, revision=revision)
    assert run("0", "1", "same", "-q")[0] == 0 and run("0", "2", "other", "-q")[0] == 0
    assert json.loads((tmp_path / "same/adapter_config.json").read_text())["revision"] == "abc"
    assert "revision" not in json.loads((tmp_path / "other/adapter_config.json").read_text())


def test_a_head_stays_tied_to_a_changed_embedding(run, tmp_path):
    for seed, tied in enumerate((True, True, False)):
        write_adapter(tmp_path / str(seed), seed, ensure_weight_tying=tied)
    assert run("0", "1", "tied", "-q")[0] == run("2", "2", "free", "-q")[0] == 0
    status, _, printed = run("1", "2", "mixed", "-q")
    assert status == 0 and "only some adapters set ensure_weight_tying" in printed
    stated = {name: json.loads((tmp_path / name / "adapter_config.json").read_text())["ensure_weight_tying"]
              for name in ("tied", "free", "mixed")}  # fmt: skip
    assert stated == {"tied": True, "free": False, "mixed": True}
