"""Measure models on held-out code and prose and generate a short sample with each."""

import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import texts
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

WINDOW = 256  # tokens
WINDOWS = 8
WORDS = 24  # tokens
PROMPTS = {"code": 'def read_lines(path):\n    """', "prose": "ROMEO.\nO"}

logging.disable_progress_bar()


@dataclass(frozen=True)
class Score:
    """Result of one model on one text: its loss in nats per token and its continuation of the prompt."""

    loss: float
    words: str


@lru_cache(maxsize=1)  # each model is used for both texts before the next is loaded
def load(model_folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint in float32, which every CPU supports well."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(model_folder)


def token_windows(tokenizer: PreTrainedTokenizerBase, text: str, count: int) -> torch.Tensor:
    """Split a text into windows and return `count` evenly spaced ones: IDs with shape (count, WINDOW), without BOS."""
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    every = ids[: len(ids) // WINDOW * WINDOW].view(-1, WINDOW)
    return every[[i * len(every) // count for i in range(count)]]


@torch.inference_mode()
def model_loss(model: PreTrainedModel, windows: torch.Tensor) -> float:
    """Return the mean loss of predicting each token in each window from the tokens before it, in nats per token."""
    total = 0.0
    for batch in (windows[i : i + 4] for i in range(0, len(windows), 4)):
        logits = model(batch).logits[:, :-1]
        total += torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / windows[:, 1:].numel()


def loss(model_folder: Path, text_name: str, windows: int = WINDOWS) -> float:
    """Return the held-out loss of a checkpoint on the text `code` or `prose`, in nats per token."""
    model, tokenizer = load(model_folder)
    return model_loss(model, token_windows(tokenizer, texts.text(text_name), windows))


def generate(model_folder: Path, text_name: str, words: int = WORDS) -> str:
    """Continue the prompt of `code` or `prose` with a checkpoint, using greedy decoding."""
    model, tokenizer = load(model_folder)
    prompt = tokenizer(PROMPTS[text_name], return_tensors="pt", add_special_tokens=False)
    ids = model.generate(**prompt, max_new_tokens=words, do_sample=False, repetition_penalty=1.1)
    return str(tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))


def evaluate(folders: dict[str, Path], console: Console) -> dict[str, dict[str, Score]]:
    """Score every model on both texts: text name -> model name -> score."""
    scores: dict[str, dict[str, Score]] = {name: {} for name in texts.NAMES}
    for model, folder in folders.items():
        with console.status(f"measuring {model}"):
            for name in texts.NAMES:
                scores[name][model] = Score(loss(folder, name), generate(folder, name))
    return scores


def table(scores: dict[str, dict[str, Score]]) -> Table:
    """Format the scores with one section per text and the change from the first model next to each loss."""
    reference = next(iter(scores["code"]))
    result = Table("text", "model", title="Held-out loss in nats per token: lower is better", title_justify="left")
    result.add_column("loss", justify="right")
    result.add_column(f"vs {reference}", justify="right")
    result.add_column("continuation")
    for name, by_model in scores.items():
        result.add_row(name, "", "", "", Text(PROMPTS[name], style="dim"))
        for model, score in by_model.items():
            change = "" if model == reference else f"{score.loss - by_model[reference].loss:+.3f}"
            result.add_row("", model, f"{score.loss:.3f}", change, Text(score.words))
        result.add_section()
    return result


if __name__ == "__main__":
    if len(sys.argv) == 1:
        raise SystemExit("No models to measure; run: python evaluate.py FOLDER...")
    terminal = Console()
    terminal.print(table(evaluate({name: Path(name) for name in sys.argv[1:]}, terminal)))
