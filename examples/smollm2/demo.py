"""Merge two real specialists of SmolLM2 with mergecore, and show that the result is good at both."""

import subprocess
import sys
from pathlib import Path

from evaluate import Score, evaluate, table
from prepare import MODELS, prepare
from rich.console import Console

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent  # model paths in the recipe are relative to this folder
RECIPE = "examples/smollm2/ties.yml"
GOOD = 0.75  # fraction of a specialist's gain that a merge must keep to count as good at its subject


def demo() -> None:
    """Prepare the models, merge and measure them, and print a conclusion."""
    console = Console()
    console.rule("1. Create SmolLM2-135M-Instruct and its two specialists, code and prose", align="left")
    folders = prepare()
    for name, folder in folders.items():
        print(f"{name}: {folder.relative_to(ROOT)}")
    console.rule("2. Merge the specialists", align="left")
    folders["merged"] = MODELS / "merged"
    mergecore("run", RECIPE, str(folders["merged"].relative_to(ROOT)), "--force")
    console.rule("3. Measure all four models on held-out code and prose", align="left")
    scores = evaluate(folders, console)
    console.print(table(scores))
    console.print(verdict(scores))


def mergecore(*arguments: str) -> None:
    """Print and run a mergecore command. Exit with its status if it fails."""
    print("$ mergecore", *arguments, flush=True)
    code = subprocess.run([sys.executable, "-m", "mergecore", *arguments], cwd=ROOT, check=False).returncode
    if code:
        raise SystemExit(code)


def verdict(scores: dict[str, dict[str, Score]]) -> str:
    """Describe how much of each specialist's gain over the base the merge keeps."""
    kept = {}
    for name, by_model in scores.items():
        loss = {model: score.loss for model, score in by_model.items()}
        kept[name] = (loss["base"] - loss["merged"]) / (loss["base"] - loss[name])
    shares = " and ".join(f"{share:.0%} of the {name} specialist's gain on {name}" for name, share in kept.items())
    end = "one model, good at both" if min(kept.values()) >= GOOD else "not good at both"
    return f"The merge keeps {shares}: {end}."


if __name__ == "__main__":
    demo()
