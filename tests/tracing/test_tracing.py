"""Methods are recorded where that is possible, and have the same bytes with and without the kernels."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import method_recipes
import more_method_recipes
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from tiny_models import Tiny, layers
from torch import Tensor

import mergecore
from mergecore.api import Context, DeltaMethod, Input, Job, TensorInfo, Tile, WeightMethod
from mergecore.discovery import Registry, recorded_operations
from mergecore.errors import MergecoreError
from mergecore.planning import announcing
from mergecore.tracing import Untraceable, trace

RECIPES: dict[str, tuple[int, dict[str, Any]]] = {
    "linear": (3, {"weight": 0.3}),
    "slerp": (2, {"t": 0.3}),
    "task_arithmetic": (3, {"weight": 0.3, "lambda": 0.7}),
    "ties": (3, {"weight": 0.3, "density": 0.5}),
    "dare_linear": (3, {"weight": 0.3, "density": 0.5}),
    "dare_ties": (3, {"weight": 0.3, "density": 0.5}),
    "breadcrumbs": (3, {"weight": 0.3}),
    "breadcrumbs_ties": (3, {"weight": 0.3}),
    "della": (3, {"weight": 0.3}),
    "della_linear": (3, {"weight": 0.3}),
    "sce": (3, {"select_topk": 0.5}),
    "ram": (3, {}),
    "ramplus_tl": (3, {}),
    "nearswap": (2, {"t": 0.01}),
    "model_stock": (3, {}),
    "multislerp": (3, {"weight": 0.5}),
    "karcher": (3, {}),
    "nuslerp": (2, {"weight": 0.5}),
    "arcee_fusion": (2, {}),
    "passthrough": (1, {"scale": 0.5}),
}
"""Number of models and parameters of every method."""

WITHOUT_BASE = ("linear", "multislerp", "karcher", "passthrough", "nuslerp")
BASE_AMONG_THE_MODELS = ("slerp", "nearswap", "arcee_fusion")

NOT_RECORDED = {
    "della": "works on rows, not on single elements",
    "della_linear": "works on rows, not on single elements",
    "arcee_fusion": "works on rows, not on single elements",
}
"""Methods that torch computes, with the reason."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models in each dtype. Their values span several orders of magnitude, with ties, zeros, and extremes."""
    folder = tmp_path_factory.mktemp("models")
    generator = torch.Generator().manual_seed(0)
    for number in range(3):
        plain = load_file(write_model(folder / "plain", number) / "model.safetensors")
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            made = {}
            for name, tensor in plain.items():
                values = torch.randn(tensor.shape, generator=generator).mul(10).round().div(10)
                values = values * torch.randint(0, 3, tensor.shape, generator=generator)
                made[name] = values.to(dtype)
            made["model.norm.weight"][:3] = torch.tensor([6e-8, -0.0, 60000.0])
            target = folder / f"{dtype}-{number}"
            target.mkdir(exist_ok=True)
            (target / "config.json").write_text((folder / "plain" / "config.json").read_text())
            save_file(made, target / "model.safetensors", {"format": "pt"})
        for path in (folder / "plain").iterdir():
            path.unlink()
        (folder / "plain").rmdir()
    return folder


def recipe(method: str, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    count, parameters = RECIPES[method]
    names = [str(folder / f"{dtype}-{number}") for number in range(count)]
    value: dict[str, Any] = {"merge_method": method, "models": [{"model": name} for name in names]}
    if method not in WITHOUT_BASE:
        value["base_model"] = names[0]
        value["models"] = value["models"] if method in BASE_AMONG_THE_MODELS else value["models"][1:]
    return {**value, "parameters": parameters}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("method", RECIPES)
def test_the_bytes_are_the_same_with_and_without_the_kernels(
    method: str, dtype: torch.dtype, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for disabled in ("health,class-check", "health,class-check,native"):
        monkeypatch.setenv("MERGECORE_DISABLE", disabled)
        out = mergecore.run(recipe(method, models, dtype), tmp_path / disabled)
        results.append((out / "model.safetensors").read_bytes())
    assert results[0] == results[1]


@pytest.mark.parametrize("method", {**method_recipes.RECIPES, **more_method_recipes.MORE})
def test_the_bytes_of_every_recipe_of_the_method_tests_are_the_same(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their numbers have all 24 bits, so that it shows where a product is rounded."""
    found, depth = {**method_recipes.RECIPES, **more_method_recipes.MORE}[method], layers("llama-tied")
    models = Tiny(tmp_path / "models").all("llama-tied", dtype="float32")
    for label, value in found(models, depth).items():
        results = []
        for disabled in ("health,class-check", "health,class-check,native"):
            monkeypatch.setenv("MERGECORE_DISABLE", disabled)
            out = mergecore.run({"merge_method": method, **value}, tmp_path / f"{label} {disabled}")
            results.append((out / "model.safetensors").read_bytes())
        assert results[0] == results[1], label


@pytest.mark.parametrize("method", RECIPES)
def test_which_methods_are_recorded(method: str, models: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mergecore.tracing import merger

    reasons = set()

    def noted(job: Job, ctx: Context, kernels: Any) -> Any:
        try:
            return trace(job, ctx, kernels)
        except Untraceable as error:
            reasons.add(str(error))
            raise

    monkeypatch.setattr(merger, "trace", noted)
    mergecore.run(recipe(method, models, torch.bfloat16), tmp_path / "out")
    assert reasons == ({NOT_RECORDED[method]} if method in NOT_RECORDED else set())


def test_most_methods_are_recorded() -> None:
    assert RECIPES.keys() == set(Registry(print).names("methods"))
    assert len(RECIPES) - len(NOT_RECORDED) >= 16


def job(merge: Callable[[Sequence[Tensor], Context], Tensor], base: type = WeightMethod) -> Job:
    kind = dataclass(frozen=True)(
        type("Own", (base,), {"tile": Tile.ELEMENTS, "merge": lambda self, w, ctx: merge(w, ctx)})
    )
    info = TensorInfo("F32", (100,))
    return Job("w", info, tuple(Input(n, "w", info) for n in range(2)), kind(), has_base=base is DeltaMethod)


REASONS: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "a branch on a value": (lambda w, ctx: w[0] if w[0].max() > 0 else w[1], "uses 'max' of a tensor"),
    "a branch on a tensor": (lambda w, ctx: w[0] if w[0] > 0 else w[1], "uses the value of an element"),
    "an item": (lambda w, ctx: w[0] * w[0].item(), "uses 'item' of a tensor"),
    "a view": (lambda w, ctx: w[0].view(-1), "uses 'view' of a tensor"),
    "a slice": (lambda w, ctx: w[0][1:], "uses the value of an element"),
    "the shape": (lambda w, ctx: w[0] * w[0].shape[0], "uses 'shape' of a tensor"),
    "a function of torch": (lambda w, ctx: torch.sort(w[0])[0], "calls torch.sort"),
    "another tensor": (lambda w, ctx: w[0] + torch.ones(100), "combines a tile with a Tensor"),
    "another tensor first": (lambda w, ctx: torch.ones(100) + w[0], "combines a tile with a Tensor"),
    "the position": (lambda w, ctx: w[0] * ctx.offset, "combines a tile with a Offset"),
    "two precisions": (lambda w, ctx: w[0].double() + w[1], "with float64, which the kernels do not know"),
    "a square root of float64": (lambda w, ctx: w[0].double().sqrt().float(), "calculates in float64"),
    "a sum with the position": (lambda w, ctx: w[0] * (ctx.offset + 1), "uses ctx.offset as a number"),
    "numbers of a mask": (lambda w, ctx: (w[0] > 0) + (w[1] > 0), "calculates with the result of a comparison"),
    "another power": (lambda w, ctx: w[0] ** 3, "calls pow with 3"),
    "another dtype": (lambda w, ctx: torch.zeros_like(w[0], dtype=torch.float64), "another dtype or device"),
    "unknown arguments": (
        lambda w, ctx: torch.div(w[0], w[1], rounding_mode="floor"),
        "calls div with other arguments",
    ),
    "an error": (lambda w, ctx: {}["no"], "KeyError"),
    "no tensor": (lambda w, ctx: None, "combines a tile with a NoneType"),
}


@pytest.mark.parametrize("what", REASONS)
def test_what_cannot_be_recorded_is_left_to_torch(what: str) -> None:
    merge, said = REASONS[what]
    with pytest.raises(Untraceable, match=said.replace(".", r"\.")):
        trace(job(merge), Context("w", (100,)), Registry(print).kernels())  # type: ignore[arg-type]


def test_operations_in_place_change_one_tensor() -> None:
    def merge(weights: Sequence[Tensor], ctx: Context) -> Tensor:
        one = weights[0].clone()
        same, other = one, one.clone()
        one.add_(weights[1], alpha=0.5).mul_(2)
        other += 1
        other /= 3
        return same + other

    kernels = Registry(print).kernels()
    assert kernels is not None
    for base in (WeightMethod, DeltaMethod):
        own = job(merge, base) if base is WeightMethod else job(lambda d, ctx: d[0].mul_(0.5), base)
        program = trace(own, Context("w", (100,)), kernels)
        inputs = [torch.randn(100) for _ in own.inputs]
        out = torch.empty(100)
        addresses = [(tensor.data_ptr(), "F32") for tensor in inputs]
        assert kernels.run(program.code, program.results[0], addresses, (out.data_ptr(), "F32"), 100, 0)
        assert torch.equal(out, own.merge([tensor.clone() for tensor in inputs], Context("w", (100,))))


def test_a_run_without_kernels_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MERGECORE_DISABLE", "native")
    assert Registry(pytest.fail).kernels() is None


def shown(name: str, *options: str) -> str:
    command = [sys.executable, "-m", "mergecore", "methods", "show", name, "--trace", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_operations_of_a_method_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown("linear").split("\n") == ["load 0", "mul_x 0.5", "load 1", "fma 0.5", ""]
    assert shown("della") == "computed by torch: it works on rows, not on single elements\n"
    assert json.loads(shown("slerp", "--json"))["reason"] == ""
    monkeypatch.setenv("MERGECORE_DISABLE", "native")
    assert "pip install mergecore-kernels" in shown("linear")


def test_the_doctor_names_methods_that_torch_computes() -> None:
    command = [sys.executable, "-m", "mergecore", "plugins", "doctor", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    causes = {item["plugin"]["name"]: item["cause"] for item in found if item["plugin"]["kind"] == "methods"}
    assert {name for name, cause in causes.items() if cause} == {"della", "della_linear", "arcee_fusion"}
    assert causes["della"].startswith("computed by torch, not by the kernels: works on rows")


def test_a_plan_says_what_the_kernels_would_bring(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = recipe("linear", models, torch.float32)
    assert not any("mergecore-kernels" in note for note in mergecore.plan(value).notes)
    monkeypatch.setattr(announcing, "installed_plugins", lambda kind: [])
    assert any(note.startswith("pip install mergecore-kernels: ") for note in mergecore.plan(value).notes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3.4e38])
def test_what_is_not_finite_is_refused_as_without_kernels(
    value: float, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = recipe("linear", models, torch.bfloat16)
    for number, item in enumerate(own["models"]):
        folder = tmp_path / str(number)
        shutil.copytree(item["model"], folder)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"][4] = value
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        item["model"] = str(folder)
    own["parameters"] = {"weight": 0.9, "normalize": False}
    said = []
    for disabled in ("health,class-check", "health,class-check,native"):
        monkeypatch.setenv("MERGECORE_DISABLE", disabled)
        with pytest.raises(MergecoreError, match=r"model\.norm\.weight: .* NaN or infinity") as error:
            mergecore.run(own, tmp_path / disabled)
        said.append(str(error.value))
        mergecore.run(own, tmp_path / f"{disabled}-allowed", allow_nonfinite=True)
    assert said[0] == said[1]
    results = [(tmp_path / f"{name}-allowed/model.safetensors").read_bytes() for name in
               ("health,class-check", "health,class-check,native")]  # fmt: skip
    assert results[0] == results[1]


def test_the_lock_names_the_instruction_sets(models: Path, tmp_path: Path) -> None:
    """Methods that torch computes can differ in the last bit on other processors, and a rerun says so."""
    out = mergecore.run(recipe("linear", models, torch.float32), tmp_path / "out")
    path = out / "mergecore.lock.json"
    lock = json.loads(path.read_text())
    kernels = Registry(print).kernels()
    assert kernels is not None
    assert lock["instructions"] == {"kernels": kernels.isa, "torch": torch.backends.cpu.get_cpu_capability()}
    path.write_text(json.dumps({**lock, "instructions": {"kernels": None, "torch": "Z80"}}))
    with pytest.warns(UserWarning, match="was created with torch for Z80"):
        mergecore.run(path, tmp_path / "again")


EXAMPLES = {
    "research_method/acme_agreement.py": "",
    "two_pass_method/acme_even_norms.py": "",
    "whole_tensor_method/acme_low_rank.py": "works on tensor, not on single elements",
}


@pytest.mark.parametrize("path", EXAMPLES)
def test_methods_of_others_are_recorded_without_their_help(path: str) -> None:
    file = Path(__file__).parents[2] / "examples" / "plugins" / path
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    (method,) = (item for item in vars(module).values() if isinstance(item, type) and item.__module__ == file.stem)
    kernels = Registry(print).kernels()
    assert kernels is not None
    try:
        reason = "" if recorded_operations(method, kernels) else "empty"
    except Untraceable as error:
        reason = str(error)
    assert reason == EXAMPLES[path]
