"""Search for the best mixture of two specialists in several ways and compare the results on held-out texts."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import texts
import torch
import yaml
from evaluate import model_loss, token_windows
from prepare import MODELS, prepare
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent  # model paths in recipes are relative to this folder
WORK = MODELS / "search"
WINDOW, WINDOWS = 128, 3  # tokens per window and windows per text for every candidate
TEST_WINDOWS = 6  # windows of 256 tokens per text
EVALUATIONS = 60
ROUNDS = 3
BASE, CODE, PROSE = (f"examples/smollm2/models/{name}" for name in ("base", "code", "prose"))
HAND: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear"},
    "task_arithmetic, weight 1": {"merge_method": "task_arithmetic", "base_model": BASE},
    "ties, density 0.5": {"merge_method": "ties", "base_model": BASE, "parameters": {"density": 0.5}},
}
"""Recipes written manually, without a search."""
TIMED: dict[str, tuple[str, list[float | None]]] = {
    "task_arithmetic": ("task_arithmetic", [None] * (ROUNDS + 1)),
    "ties, weights searched": ("ties", [0.5] * (ROUNDS + 1)),
    "dare_ties, weights searched": ("dare_ties", [0.5] * (ROUNDS + 1)),
    "ties, density searched too": ("ties", [0.3, 0.4, 0.5, 0.6, 0.7]),
}
"""What to time: a method and the density of each round."""


def search() -> None:
    """Prepare the models, run the manual merges and the searches, and measure all results on the test set."""
    folders = prepare()
    wanted = write_search_set()
    for number, (name, recipe) in enumerate(HAND.items()):
        folders[name] = by_hand(f"hand{number}", {**recipe, "models": mixed(1.0), "dtype": "bfloat16"})
    searches: dict[str, list[Any]] = {
        "uniform soup": ["soup", CODE, PROSE, "--uniform"],
        "greedy soup": ["soup", CODE, PROSE],
        "cocktail, temperature 0.1": ["cocktail", CODE, PROSE, "--temperature", 0.1],
        "sweep, 6 candidates": ["sweep", HERE / "sweep.yml", "--steps", 6],
        f"evolve, {EVALUATIONS} candidates": ["evolve", HERE / "evolve.yml", "--evaluations", EVALUATIONS],
    }
    for name, (command, *arguments) in searches.items():
        folders[name] = WORK / name.partition(",")[0].replace(" ", "-")
        if not folders[name].exists():
            mergecore(command, *arguments, folders[name], "--with", wanted)
    print(speed(wanted), flush=True)
    print(table({name: test_losses(folder) for name, folder in folders.items()}, "linear"))


def half(name: str, second: bool) -> str:
    """Return the first half of a text, which is used for the search, or the second, which is used for the test."""
    text = texts.text(name)
    middle = text.index("\n", len(text) // 2) + 1
    return text[middle:] if second else text[:middle]


def write_search_set() -> Path:
    """Write the first halves of the texts and the evaluations for the searches."""
    WORK.mkdir(parents=True, exist_ok=True)
    listed = []
    for name in texts.NAMES:
        (WORK / f"{name}.txt").write_text(half(name, second=False), "utf-8")
        parameters = {"files": f"{name}.txt", "window": WINDOW, "limit": WINDOWS}
        listed.append({"name": name, "evaluator": "loss", "parameters": parameters})
    path = WORK / "search.yml"
    path.write_text(yaml.safe_dump({"evaluate": listed}, sort_keys=False))
    return path


def mixed(weight: float) -> list[dict[str, Any]]:
    """Return both specialists with the same weight, in recipe format."""
    return [{"model": model, "parameters": {"weight": weight}} for model in (CODE, PROSE)]


def by_hand(name: str, recipe: dict[str, Any]) -> Path:
    """Merge a recipe and return the output folder."""
    path, out = WORK / f"{name}.yml", WORK / name
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    if not out.exists():
        mergecore("run", path, out, "--quiet")
    return out


def mergecore(*arguments: Any) -> None:
    """Print and run a mergecore command. Exit with its status if it fails."""
    words = [str(word.relative_to(ROOT) if isinstance(word, Path) else word) for word in arguments]
    print("$ mergecore", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "mergecore", *words], cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(code)


def test_losses(folder: Path) -> dict[str, list[float]]:
    """Return the loss of each test window in nats per token, by text, measured without mergecore."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {}
    for name in texts.NAMES:
        windows = token_windows(tokenizer, half(name, second=True), TEST_WINDOWS)
        found[name] = [model_loss(model, window[None]) for window in windows]
    return found


def table(losses: dict[str, dict[str, list[float]]], reference: str) -> str:
    """Return losses as a Markdown table with paired differences from a reference model and their standard errors."""
    heads = ["model", *(f"{name}{end}" for name in texts.NAMES for end in ("", f" - {reference}"))]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for model, by_text in losses.items():
        cells = [model]
        for name in texts.NAMES:
            gaps = [a - b for a, b in zip(by_text[name], losses[reference][name], strict=True)]
            error = statistics.stdev(gaps) / len(gaps) ** 0.5
            gap = "" if model == reference else f"{statistics.mean(gaps):+.3f} ± {error:.3f}"
            spread = statistics.stdev(by_text[name]) / len(gaps) ** 0.5
            cells += [f"{statistics.mean(by_text[name]):.3f} ± {spread:.3f}", gap]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def speed(wanted: Path) -> str:
    """Return a table of seconds to build a candidate in memory, to merge and load it from disk, and to measure it."""
    from mergecore_search.candidates import Maker

    from mergecore.tooling import Registry, available_cores, load_evaluations, memory_budget, warn

    registry = Registry(warn)
    evaluations = load_evaluations(wanted, registry)
    heads = ["method", "in memory", "on disk", "speedup", "evaluation", "candidates per minute"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, (method, densities) in TIMED.items():
        maker = Maker(registry, memory_budget(), available_cores(), warn)
        recipes = [timed_recipe(method, number, density) for number, density in enumerate(densities)]
        memory, disk, measured = spent(maker, recipes, evaluations)
        maker.close()
        rates = f"{60 / (memory + measured):.1f} instead of {60 / (disk + measured):.1f}"
        cells = [f"{memory:.2f} s", f"{disk:.2f} s", f"{disk / memory:.1f}", f"{measured:.2f} s", rates]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines.append(f"\nA weighted sum of the same tensors in float32 in plain PyTorch: {bare_sum():.2f} s")
    return "\n".join(lines)


def timed_recipe(method: str, number: int, density: float | None) -> dict[str, Any]:
    """Return the recipe of one round. Every round has different weights."""
    recipe = {"merge_method": method, "base_model": BASE, "models": mixed(0.5 + 0.1 * number), "dtype": "bfloat16"}
    return {**recipe, "parameters": {"density": density}} if density else recipe


def spent(maker: Any, recipes: list[dict[str, Any]], evaluations: Any) -> list[float]:
    """Return median seconds in memory, on disk, and to measure, excluding the first rounds, which warm up the cache."""
    from mergecore_eval.results import measure

    from mergecore.tooling import Place

    seconds: list[tuple[float, float, float]] = []
    for recipe in recipes:
        start = time.perf_counter()
        with maker.candidate(Place(recipe), "candidate") as subject:
            memory = time.perf_counter() - start
            measured = timed(partial(measure, subject, evaluations))
        seconds.append((memory, timed(partial(merge_and_load, recipe)), measured))
    return [statistics.median(column) for column in zip(*seconds[-ROUNDS:], strict=True)]


def bare_sum() -> float:
    """Return the shortest time in seconds of base + a * (code - base) + b * (prose - base), all three in memory."""
    from safetensors.torch import load_file

    base, code, prose = (load_file(ROOT / folder / "model.safetensors") for folder in (BASE, CODE, PROSE))
    sums = [(t.float(), code[n].float() - t.float(), prose[n].float() - t.float(), t.float()) for n, t in base.items()]

    def add() -> None:
        for start, one, two, out in sums:
            torch.add(start, one, alpha=0.5, out=out).add_(two, alpha=0.6)

    return min(timed(add) for _ in range(ROUNDS + 1))


def merge_and_load(recipe: dict[str, Any]) -> None:
    """Merge a candidate to disk and load it, as a comparison for in-memory candidates."""
    import mergecore

    out = mergecore.run(recipe, WORK / "candidate", force=True, without=["health"])
    AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    search()
