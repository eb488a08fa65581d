"""Every command that writes files, on tiny models, with what it writes and what may be left next to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file, save_file
from tokenizer_models import TEXTS, byte_level, model

LAYERS = 12


@dataclass(frozen=True)
class Command:
    """A command line that writes.

    Attributes:
        name: what the table calls it.
        arguments: the arguments of `mergecore`. `INPUTS` is replaced by the folder of `write_inputs`.
        writes: the files and folders that it writes, each atomically. A pattern means every match.
        grows: the files to which it appends whole lines.
        before: earlier command lines whose results are there when it starts.
        strays: start of the names of hidden files that stay after a kill.
    """

    name: str
    arguments: str
    writes: tuple[str, ...] = ("out",)
    grows: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    strays: tuple[str, ...] = ()


SEARCHED = ("out", "out.search/*")
OLD = "run INPUTS/old.yml out"
OLD_FILE = "raw INPUTS/old-raw.yml out.safetensors"
WITH = "--with INPUTS/evaluate.yml"
MODELS = "INPUTS/base INPUTS/one INPUTS/two"

COMMANDS = [
    Command("run", "run INPUTS/linear.yml out --shard-size 40KB"),
    Command("run --force", "run INPUTS/linear.yml out --force", before=(OLD,)),
    Command("run --keep", "run INPUTS/stages.yml out --keep mix", ("out", "out-mix")),
    Command(
        "run --keep --force",
        "run INPUTS/stages.yml out --keep mix --force",
        ("out", "out-mix"),
        before=("run INPUTS/old-stages.yml out --keep mix",),
    ),
    Command("moe", "moe INPUTS/moe.yml out"),
    Command("moe --force", "moe INPUTS/moe.yml out --force", before=(OLD,)),
    Command("lora extract", "lora extract INPUTS/one INPUTS/base out --rank 4"),
    Command(
        "lora extract --force",
        "lora extract INPUTS/one INPUTS/base out --rank 4 --force",
        before=("lora extract INPUTS/two INPUTS/base out --rank 2",),
    ),
    Command("lora merge", "lora merge INPUTS/adapter-one INPUTS/adapter-two out"),
    Command(
        "lora merge --force",
        "lora merge INPUTS/adapter-one INPUTS/adapter-two out --force",
        before=("lora extract INPUTS/two INPUTS/base out --rank 2",),
    ),
    Command("tokensurgeon", "tokensurgeon INPUTS/base INPUTS/donor out --k 8"),
    Command("tokensurgeon --force", "tokensurgeon INPUTS/base INPUTS/donor out --k 8 --force", before=(OLD,)),
    Command("raw", "raw INPUTS/raw.yml out.safetensors", ("out.safetensors",)),
    Command("raw --force", "raw INPUTS/raw.yml out.safetensors --force", ("out.safetensors",), before=(OLD_FILE,)),
    Command("raw of components", "raw INPUTS/pipes.yml out"),
    Command("fill", "fill INPUTS/part.safetensors INPUTS/base out"),
    Command(
        "fill of a file", "fill INPUTS/part.safetensors INPUTS/x.safetensors out.safetensors", ("out.safetensors",)
    ),
    Command("evolve", f"evolve INPUTS/open.yml out {WITH} --evaluations 5", SEARCHED, ("out.search/history.jsonl",)),
    Command(
        "evolve --force",
        f"evolve INPUTS/open.yml out {WITH} --evaluations 5 --force",
        SEARCHED,
        ("out.search/history.jsonl",),
        before=(OLD,),
    ),
    Command("sweep", f"sweep INPUTS/open.yml out {WITH} --steps 2", SEARCHED),
    Command("soup", f"soup {MODELS} out {WITH}", SEARCHED),
    Command("cocktail", f"cocktail {MODELS} out {WITH}", SEARCHED),
    Command("stack shuffle", f"stack shuffle {MODELS} --write new.yml", ("new.yml",)),
    Command("init", f"init {MODELS} --output new.yml --yes", ("new.yml",)),
    Command("diff --html", f"diff {MODELS} --html page.html", ("page.html",)),
    Command(
        "diff --html --force",
        f"diff {MODELS} --html page.html --force",
        ("page.html",),
        before=("diff INPUTS/base INPUTS/one --html page.html",),
    ),
    Command(
        "eval",
        f"eval INPUTS/one {WITH} --results results.jsonl",
        (),
        ("results.jsonl",),
        before=(f"eval INPUTS/two {WITH} --results results.jsonl",),
    ),
    Command(
        "board --html",
        "board --results INPUTS/results.jsonl --html page.html",
        ("page.html",),
        before=("diff INPUTS/base INPUTS/one --html page.html",),
    ),
    Command("new", "new method mine", ("mine",), strays=(".new-",)),
]


def write_inputs(folder: Path, commands: Sequence[Command], run: Callable[[str], None]) -> None:
    """Write the models and recipes that commands read. Call `run` with command lines that write the others."""
    folder.mkdir(parents=True)
    base = load_file(model(folder / "base", 0, byte_level("sea"), num_hidden_layers=LAYERS) / "model.safetensors")
    for seed, name in enumerate(("one", "two"), 1):
        path = model(folder / name, seed, byte_level("sea"), num_hidden_layers=LAYERS) / "model.safetensors"
        save_file({key: base[key] + 0.2 * tensor for key, tensor in load_file(path).items()}, path)
    model(folder / "donor", 5, byte_level("code"), num_hidden_layers=LAYERS)
    for path, document in _documents(folder).items():
        (folder / path).write_text(yaml.safe_dump(document), "utf-8")
    (folder / "text.txt").write_text(TEXTS["sea"][0], "utf-8")
    save_file(base, folder / "x.safetensors")
    save_file({name: tensor + 1 for name, tensor in base.items()}, folder / "y.safetensors")
    save_file({name: tensor * 2 for name, tensor in base.items() if ".3." in name}, folder / "part.safetensors")
    for name in ("pipe-one", "pipe-two"):
        (folder / name / "unet").mkdir(parents=True)
        (folder / name / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
        (folder / name / "unet" / "config.json").write_text('{"in": 4}')
        save_file(base, folder / name / "unet" / "diffusion_pytorch_model.safetensors")
    read = " ".join(command.arguments for command in commands)
    for name in ("one", "two"):
        if "INPUTS/adapter" in read:
            run(f"lora extract INPUTS/{name} INPUTS/base INPUTS/adapter-{name} --rank 3 --keep drop")
    if "INPUTS/results" in read:
        run(f"eval INPUTS/base {WITH} --results INPUTS/results.jsonl")


def _documents(folder: Path) -> dict[str, Any]:
    base, one, two = (str(folder / name) for name in ("base", "one", "two"))

    def linear(*models: Any, weight: float = 0.5) -> dict[str, Any]:
        listed = [{"model": item, "parameters": {"weight": weight}} for item in models]
        return {"merge_method": "linear", "models": listed}

    def opened(name: str) -> dict[str, Any]:
        return {"model": name, "parameters": {"weight": {"search": [0, 1]}}}

    def staged(weight: float) -> dict[str, Any]:
        mix = {"name": "mix", **linear(one, two, weight=weight)}
        return {"merge_method": "slerp", "base_model": base, "models": [{"model": mix}], "parameters": {"t": 0.3}}

    loss = {"evaluator": "loss", "parameters": {"files": [str(folder / "text.txt")], "window": 32}}
    experts = [
        {"source_model": one, "positive_prompts": ["the sea"]},
        {"source_model": two, "positive_prompts": ["code"]},
    ]
    return {
        "old.yml": linear(base, one),
        "linear.yml": linear(one, two),
        "stages.yml": staged(0.4),
        "old-stages.yml": staged(0.7),
        "moe.yml": {"base_model": base, "gate_mode": "cheap_embed", "experts": experts},
        "raw.yml": linear(str(folder / "x.safetensors"), str(folder / "y.safetensors")),
        "old-raw.yml": linear(str(folder / "y.safetensors"), str(folder / "y.safetensors")),
        "pipes.yml": linear(str(folder / "pipe-one"), str(folder / "pipe-two")),
        "open.yml": {"merge_method": "task_arithmetic", "base_model": base, "models": [opened(one), opened(two)]},
        "evaluate.yml": {"evaluate": [loss]},
    }
