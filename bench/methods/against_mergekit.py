"""Run the same recipes in mergecore and mergekit 0.1.5 and compare the results with each other and with float64."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file

import mergecore
from bench.support.competitors import HERE, TOOLS

WORK = HERE / ".work" / "against"
LAYERS, HIDDEN, WIDE, VOCABULARY = 2, 64, 176, 320
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

TWO = {"weight": [0.6, 0.4]}
THREE = {"weight": [0.5, 0.3, 0.2]}
RECIPES: dict[str, tuple[str, bool, int, dict[str, Any]]] = {
    # name: (method, needs a base, number of other models, parameters); a list has one value per model
    "linear": ("linear", False, 3, THREE),
    "linear, not normalized": ("linear", False, 2, {"weight": [0.6, 0.6], "normalize": False}),
    "slerp": ("slerp", True, 1, {"t": 0.3}),
    "nuslerp": ("nuslerp", False, 2, TWO),
    "nuslerp, base": ("nuslerp", True, 2, TWO),
    "nuslerp, rows": ("nuslerp", True, 2, {**TWO, "nuslerp_flatten": False}),
    "nuslerp, columns": ("nuslerp", True, 2, {**TWO, "nuslerp_flatten": False, "nuslerp_row_wise": True}),
    "multislerp": ("multislerp", False, 3, THREE),
    "multislerp, base": ("multislerp", True, 3, THREE),
    "karcher": ("karcher", False, 3, {}),
    "passthrough": ("passthrough", False, 1, {"scale": 0.9}),
    "task_arithmetic": ("task_arithmetic", True, 3, {**THREE, "lambda": 0.8}),
    "task_arithmetic, normalized": ("task_arithmetic", True, 2, {"weight": [0.6, 0.6], "normalize": True}),
    "ties, density 1": ("ties", True, 3, THREE),
    "ties, density 0.5": ("ties", True, 3, {**THREE, "density": 0.5}),
    "ties, rescaled": ("ties", True, 2, {**TWO, "density": 0.3, "rescale": True}),
    "breadcrumbs": ("breadcrumbs", True, 2, {**TWO, "density": 0.5, "gamma": 0.1}),
    "breadcrumbs_ties": ("breadcrumbs_ties", True, 2, {**TWO, "density": 0.5, "gamma": 0.1}),
    "sce": ("sce", True, 3, {}),
    "sce, top 0.3": ("sce", True, 3, {"select_topk": 0.3}),
    "model_stock": ("model_stock", True, 3, {}),
    "model_stock, rows": ("model_stock", True, 3, {"filter_wise": True}),
    "nearswap": ("nearswap", True, 1, {"t": 0.002}),
    "arcee_fusion": ("arcee_fusion", True, 1, {}),
    "ram": ("ram", True, 3, {"epsilon": 0.002}),
    "ramplus_tl": ("ramplus_tl", True, 3, {"epsilon": 0.002, "r": 0.5, "alpha": 1.0}),
    "dare_linear, density 1": ("dare_linear", True, 3, THREE),
    "dare_ties, density 1": ("dare_ties", True, 3, THREE),
    "della, density 1": ("della", True, 3, THREE),
    "della_linear, density 1": ("della_linear", True, 3, THREE),
}
"""Every method, with parameters for which both tools must agree."""
RANDOM: dict[str, tuple[str, bool, int, dict[str, Any]]] = {
    "dare_linear": ("dare_linear", True, 2, {**TWO, "density": 0.5}),
    "dare_ties": ("dare_ties", True, 2, {**TWO, "density": 0.3, "rescale": False}),
    "della": ("della", True, 2, {**TWO, "density": 0.5, "epsilon": 0.4}),
    "della_linear": ("della_linear", True, 2, {**TWO, "density": 0.4, "epsilon": 0.2}),
}
"""Methods that draw random numbers. The two tools agree on them only statistically."""


def make_models() -> None:
    """Create a tiny Llama and three fine-tunes with float32 and bfloat16 values, each stored as is and as float64."""
    generator = torch.Generator().manual_seed(7)
    shapes = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
        shapes |= {f"{prefix}mlp.{name}_proj.weight": (WIDE, HIDDEN) for name in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (HIDDEN, WIDE)
        shapes |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    shapes["model.norm.weight"] = (HIDDEN,)
    base = {name: 0.05 * torch.randn(shape, generator=generator) + (len(shape) == 1) for name, shape in shapes.items()}
    for number in range(4):
        noise = {name: 0.004 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
        model = base if number == 0 else {name: tensor + noise[name] for name, tensor in base.items()}
        for values in ("float32", "bfloat16"):
            rounded = {name: tensor.to(DTYPES[values]) for name, tensor in model.items()}
            for stored in (values, "float64"):
                write_model(WORK / f"{values}-as-{stored}" / f"model-{number}", rounded, stored)


def write_model(folder: Path, tensors: dict[str, torch.Tensor], dtype: str) -> None:
    """Write one checkpoint with a dtype."""
    folder.mkdir(parents=True)
    stored = {name: tensor.to(DTYPES[dtype]) for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": WIDE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
    }
    (folder / "config.json").write_text(json.dumps(config))


def write_recipe(path: Path, models: Path, recipe: tuple[str, bool, int, dict[str, Any]]) -> None:
    """Write the YAML of one recipe for the models in a folder."""
    method, based, count, parameters = recipe
    own = {name: value for name, value in parameters.items() if isinstance(value, list)}
    entries = [
        {"model": str(models / f"model-{i + 1}"), "parameters": {name: value[i] for name, value in own.items()}}
        for i in range(count)
    ]
    shared = {name: value for name, value in parameters.items() if name not in own}
    document = {"merge_method": method, "models": entries, "parameters": shared}
    path.write_text(yaml.safe_dump({**document, **({"base_model": str(models / "model-0")} if based else {})}))


def run_all() -> None:
    """Run every recipe on every set of models with both tools."""
    jobs = []
    for values in ("float32", "bfloat16"):
        for stored in (values, "float64"):
            for name, recipe in {**RECIPES, **RANDOM}.items():
                place = f"{values}-as-{stored}"
                path = WORK / f"{place}, {name}.yml"
                write_recipe(path, WORK / place, recipe)
                mergecore.run(path, WORK / "mergecore" / place / name)
                jobs.append((str(path), str(WORK / "mergekit" / place / name)))
    (WORK / "jobs.json").write_text(json.dumps(jobs))
    mergekit = TOOLS["mergekit"].python()
    subprocess.run([mergekit, str(HERE / "methods/mergekit_runs.py"), str(WORK / "jobs.json")], check=True)


def result(tool: str, place: str, name: str) -> dict[str, np.ndarray] | None:
    """Return the tensors of one result in float64, or None if the tool produced none."""
    path = WORK / tool / place / name / "model.safetensors"
    return {n: t.double().numpy() for n, t in load_file(path).items()} if path.exists() else None


def distance(one: dict[str, np.ndarray] | None, other: dict[str, np.ndarray] | None, typical: bool = False) -> str:
    """Return the largest difference relative to each tensor's largest value, or the RMS if `typical`."""
    if one is None or other is None:
        return "failed"
    size = (lambda x: float(np.sqrt(np.mean(x**2)))) if typical else (lambda x: float(np.abs(x).max()))
    return f"{max(size(one[name] - other[name]) / size(other[name]) for name in other):.1e}"


def changes(tool: str, name: str) -> tuple[str, str]:
    """Return the fraction of elements that a random merge changes, and the RMS of the changes relative to the base."""
    place = "float32-as-float32"
    base = load_file(WORK / place / "model-0" / "model.safetensors")
    merged = result(tool, place, name) or {}
    before = np.concatenate([tensor.double().numpy().ravel() for tensor in base.values()])
    change = np.concatenate([merged[key].ravel() for key in base]) - before
    return f"{np.mean(change != 0):.3f}", f"{np.sqrt(np.mean(change**2) / np.mean(before**2)):.4f}"


def print_random() -> None:
    """Print the table of the random methods."""
    print("\n| recipe | changed: mergecore | mergekit | size: mergecore | mergekit |\n|---|---|---|---|---|")
    for name in RANDOM:
        ours, theirs = changes("mergecore", name), changes("mergekit", name)
        print(f"| {name} | {ours[0]} | {theirs[0]} | {ours[1]} | {theirs[1]} |")


def main() -> None:
    """Create the models, run the recipes, and print the tables as Markdown."""
    shutil.rmtree(WORK, ignore_errors=True)
    make_models()
    run_all()
    print(
        "| recipe | float64 apart | float32 apart | bfloat16: mergecore | bfloat16: mergekit |\n|---|---|---|---|---|"
    )
    for name in RECIPES:
        ours, theirs = ({p: result(t, p, name) for p in places()} for t in ("mergecore", "mergekit"))
        cells = [
            distance(ours["float32-as-float64"], theirs["float32-as-float64"]),
            distance(ours["float32-as-float32"], theirs["float32-as-float32"]),
            distance(ours["bfloat16-as-bfloat16"], ours["bfloat16-as-float64"], typical=True),
            distance(theirs["bfloat16-as-bfloat16"], theirs["bfloat16-as-float64"], typical=True),
        ]
        print(f"| {name} | {' | '.join(cells)} |")
    print_random()
    print(
        "\n'apart': largest difference between the two tools, relative to the tensor's largest value. 'bfloat16': root"
        " mean square error of each tool, relative to its own result in float64 arithmetic on the same values.",
        file=sys.stderr,
    )


def places() -> list[str]:
    """Return the names of the four sets of models."""
    return [f"{values}-as-{stored}" for values in ("float32", "bfloat16") for stored in (values, "float64")]


if __name__ == "__main__":
    main()
