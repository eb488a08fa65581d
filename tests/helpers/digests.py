"""Print the SHA-256 of the outputs of about 250 recipes, or compare with saved ones to check a refactoring.

    python tests/helpers/digests.py > before.json
    python tests/helpers/digests.py --against before.json

This covers every method in float32 and bfloat16, with gradients, filters, slices, stages, adapters, and tokenizers.
Digests depend on the machine and the installed libraries, so they are not stored in the repository.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from method_recipes import RECIPES
from more_method_recipes import MORE
from safetensors.torch import save_file
from tiny_models import FAMILIES, SIZES, Tiny, layers
from tokenizer_models import byte_level, model

import mergecore

transformers.utils.logging.disable_progress_bar()
DTYPES = ("float32", "bfloat16")
TEXTS = ("mergecore.lock.json", "mergecore_recipe.yml", "README.md", ".mergecore.json")
"""Files with paths, versions, or prose, and the list of files. All other output files are compared."""

Case = tuple[str, Any]


def by_method(tiny: Tiny) -> Iterator[Case]:
    """Yield every recipe from the method tests: plain, with gradients and filters, and with slices."""
    for dtype in DTYPES:
        for family in ("llama-tied", "qwen3"):
            models, depth = tiny.all(family, dtype=dtype), layers(family)
            for method, recipes in {**RECIPES, **MORE}.items():
                for label, recipe in recipes(models, depth).items():
                    yield f"{family}, {dtype}, {method}, {label}", {"merge_method": method, **recipe}


def in_stages(tiny: Tiny) -> Iterator[Case]:
    """Yield merges of a stage whose method is elementwise, streaming, or needs whole tensors."""
    base, code, prose, _ = tiny.all("llama")
    for method, options in (("linear", {}), ("ties", {"density": 0.5}), ("nuslerp", {"weight": 0.5})):
        first = {"merge_method": method, "models": [{"model": code}, {"model": prose}], "parameters": options}
        if method == "ties":
            first["base_model"] = base
        if method == "linear":
            first["parameters"] = {"weight": 0.5}
        second = {"merge_method": "slerp", "base_model": base, "models": [{"model": first}], "parameters": {"t": 0.7}}
        yield f"stages, {method}", {**second, "dtype": "bfloat16"}


def with_adapters(tiny: Tiny, root: Path) -> Iterator[Case]:
    """Yield merges of a model that has one or two LoRA adapters with another model."""
    base, code, _, _ = tiny.all("llama")
    adapters = [str(adapter(root / f"adapter-{seed}", seed)) for seed in (1, 2)]
    for label, reference in (("one", f"{base}+{adapters[0]}"), ("two", f"{base}+{adapters[0]}+{adapters[1]}")):
        for method, options in (("task_arithmetic", {"weight": 0.6}), ("dare_ties", {"weight": 0.6, "density": 0.5})):
            models = [{"model": reference}, {"model": code}]
            recipe = {"merge_method": method, "base_model": base, "models": models, "parameters": options}
            yield f"adapters, {label}, {method}", recipe


def adapter(folder: Path, seed: int) -> Path:
    """Create a rank-2 LoRA adapter for the tiny Llama, as PEFT saves it."""
    generator, size, rank = torch.Generator().manual_seed(seed), SIZES["hidden_size"], 2
    shapes = {"self_attn.q_proj": (size, size), "mlp.up_proj": (size, SIZES["intermediate_size"])}
    tensors = {}
    for layer in range(FAMILIES["llama"][1]):
        for module, (width, height) in shapes.items():
            prefix = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, width, generator=generator) * 0.2
            tensors[f"{prefix}.lora_B.weight"] = torch.randn(height, rank, generator=generator) * 0.2
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    modules = [name.split(".")[1] for name in shapes]
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 4, "target_modules": modules, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def with_tokenizers(root: Path) -> Iterator[Case]:
    """Yield merges of models with different vocabularies, token by token."""
    models = [
        str(model(root / "sea", 1, byte_level("sea"), rows=300)),
        str(model(root / "code", 2, byte_level("code", special=["<|im_start|>", "<|im_end|>"]))),
    ]
    for source in ("union", "base", models[1]):
        for method, options in (("linear", {"weight": 0.5}), ("ties", {"density": 0.6})):
            keys = {"tokenizer": {"source": source, "pad_to_multiple_of": 16}, "parameters": options}
            entries = [{"model": model} for model in models]
            recipe = {"merge_method": method, "models": entries, "base_model": models[0], **keys}
            yield f"tokenizers, {Path(source).name}, {method}", recipe


def digest(folder: Path) -> str:
    """Return the SHA-256 of the names and contents of all compared files in an output folder."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in TEXTS):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def digests() -> dict[str, str]:
    """Return the digest of each recipe's output."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        tiny, found = Tiny(root / "models"), {}
        cases = (*by_method(tiny), *in_stages(tiny), *with_adapters(tiny, root), *with_tokenizers(root))
        for number, (label, recipe) in enumerate(cases):
            found[label] = digest(mergecore.run(recipe, root / f"out-{number}", without=["health"]))
        return found


def main(arguments: Sequence[str]) -> None:
    """Print the digests, or the names of those that differ from a file."""
    found = digests()
    if not arguments:
        print(json.dumps(found, indent=1))  # noqa: T201
        return
    before = json.loads(Path(arguments[1]).read_text("utf-8"))
    differing = sorted(label for label in before.keys() | found.keys() if before.get(label) != found.get(label))
    print(f"{len(found)} outputs, {len(differing)} differ" + "".join(f"\n  {label}" for label in differing))  # noqa: T201
    sys.exit(bool(differing))


if __name__ == "__main__":
    main(sys.argv[1:])
