"""Transplant Qwen3's tokenizer to SmolLM2 with several methods and measure the losses on two held-out texts."""

import subprocess
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "smollm2"))

import prepare  # noqa: E402
import texts  # noqa: E402
from donor import DONOR, make  # noqa: E402

MODELS = HERE / "models"
METHODS = ("omp", "omp --shrink 0.3", "common_interpolation", "subword", "landmark_pca", "mean")
CHARACTERS, WINDOWS = 1024, 8


def transplanted(base: Path, method: str) -> Path:
    """Return the folder of the base with the donor's tokenizer, created by a method unless it exists."""
    out = MODELS / method.replace(" ", "")
    if not out.exists():
        options = ["--quiet", "--method", *method.split()]
        command = [sys.executable, "-m", "mergecore", "tokensurgeon", base, DONOR, out, *options]
        subprocess.run([str(word) for word in command], check=True)
    return out


def windows(text: str) -> list[str]:
    """Return evenly spaced pieces of a text, the same for every tokenizer."""
    starts = range(0, len(text) - CHARACTERS, (len(text) - CHARACTERS) // WINDOWS)
    return [text[start : start + CHARACTERS] for start in starts][:WINDOWS]


@torch.inference_mode()
def loss(folder: Path, text: str) -> tuple[float, float]:
    """Return the held-out loss in nats per byte, and the bytes per token.

    Pieces are evaluated separately. The first token of a piece is not predicted, so its loss and bytes are excluded.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    nats = length = count = 0.0
    for piece in windows(text):
        found = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.tensor([found["input_ids"]])
        logits = model(ids).logits[0, :-1]
        nats += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        length += len(piece[found["offset_mapping"][0][1] :].encode())
        count += ids.shape[1] - 1
    return nats / length, length / count


def main() -> None:
    """Create missing models, measure them, and print a table."""
    base = MODELS.parent.parent / "smollm2" / "models" / "base"
    if not base.exists():
        prepare.prepare()
    make()
    print(f"{'':22}{'code':>16}{'prose':>16}   nats per byte (bytes per token)")
    for name in ("original", *(sys.argv[1:] or METHODS)):
        folder = base if name == "original" else transplanted(base, name)
        found = [loss(folder, texts.text(text)) for text in texts.NAMES]
        print(f"{name:22}" + "".join(f"{nats:9.4f} ({size:.2f})" for nats, size in found), flush=True)


if __name__ == "__main__":
    main()
