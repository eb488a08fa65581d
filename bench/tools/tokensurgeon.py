"""Compare time and peak memory of a tokenizer transplant with mergekit-tokensurgeon, on the same two models.

python -m bench.tools.tokensurgeon                       # 8,000 shared and 2,000 new tokens, width 512: a few minutes
python -m bench.tools.tokensurgeon --shared 39000 --new 100000 --width 1024 --tools mergecore
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from bench.support.competitors import ENVS, TOOLS
from bench.support.machine import describe
from bench.support.measure import measure, why_failed

WORK = Path(__file__).parents[1] / ".work" / "tokensurgeon"


def make_model(folder: Path, words: list[str], width: int, seed: int) -> Path:
    """Create a Llama with one layer, random tied weights, and a tokenizer with byte-level words."""
    if folder.exists():
        return folder
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=width, num_hidden_layers=1,
        num_attention_heads=width // 64, num_key_value_heads=width // 64, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    table = model.model.embed_tokens.weight.data
    table += 0.02 * torch.randn(width)  # real rows share a common direction
    model.to(torch.bfloat16).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": words[0], "eos_token": words[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def commands(model: Path, donor: Path, out: Path, method: str, k: int) -> dict[str, list[str]]:
    """Return the command of each tool."""
    script = str(ENVS / "mergekit" / "bin" / "mergekit-tokensurgeon")
    options = [str(model), str(donor), str(out), "-k", str(k)]
    return {
        "mergecore": [sys.executable, "-m", "mergecore", "tokensurgeon", *options, "--method", method, "--quiet"],
        "mergekit": [TOOLS["mergekit"].python(), script, *options, "-a", method, "--quiet"],
    }


def main() -> None:
    """Create the models, run each tool, and print its resource usage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, number in {"shared": 8000, "new": 2000, "width": 512, "k": 64, "rounds": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--methods", default="omp,common_interpolation")
    parser.add_argument("--tools", default="mergecore,mergekit")
    wanted = parser.parse_args()
    shared = [f"Ġs{number}" for number in range(wanted.shared)]
    new = [f"Ġn{number}" for number in range(wanted.new)]
    name = f"{wanted.shared}-{wanted.new}-{wanted.width}"
    model = make_model(WORK / f"{name}-model", shared, wanted.width, 1)
    donor = make_model(WORK / f"{name}-donor", [*shared, *new], wanted.width, 2)
    print(json.dumps(describe(WORK), indent=2))
    for method in wanted.methods.split(","):
        for _ in range(wanted.rounds):
            for tool in wanted.tools.split(","):
                out = WORK / "out"
                shutil.rmtree(out, ignore_errors=True)
                cost = measure(commands(model, donor, out, method, wanted.k)[tool])
                words = f"{cost.wall:8.1f} s {cost.cpu:8.1f} CPU s {cost.peak_anon / 1e6:7.0f} MB {why_failed(cost)}"
                print(f"{method:22}{tool:12}{words}", flush=True)


if __name__ == "__main__":
    main()
