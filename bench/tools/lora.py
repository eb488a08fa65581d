"""LoRA on SmolLM2 and its specialists: loss by rank, merges by every route, and extraction compared with mergekit."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.support.competitors import HERE, TOOLS
from bench.support.measure import Usage, measure, why_failed

ROOT = HERE.parent
EXAMPLE = ROOT / "examples" / "smollm2"
WORK = HERE / ".work" / "lora"
RANKS = (4, 8, 16, 32, 64)
TIMED = (16, 64)
WINDOWS = 4
"""Number of windows of 256 tokens from each text."""
SPECIALISTS = ("code", "prose")
sys.path.insert(0, str(EXAMPLE))


def run(*command: str | Path) -> Usage:
    """Run a command and return its resource usage. Exit if it fails."""
    usage = measure([str(part) for part in command])
    if usage.returncode:
        raise SystemExit(f"{command[0]}: {why_failed(usage)}")
    return usage


def mergecore(*arguments: str | Path) -> Usage:
    return run(sys.executable, "-m", "mergecore", *arguments)


def losses(recipe: dict[str, Any], texts: Sequence[str] = SPECIALISTS) -> list[float]:
    """Return held-out losses of a recipe's result, in nats per token."""
    from evaluate import load, loss

    path, out = WORK / "recipe.yml", WORK / "model"
    path.write_text(json.dumps(recipe), "utf-8")
    mergecore("run", path, out, "--force", "--quiet")
    found = [loss(out, text, WINDOWS) for text in texts]
    load.cache_clear()
    shutil.rmtree(out)
    return found


def alone(model: str) -> dict[str, Any]:
    return {"merge_method": "passthrough", "models": [{"model": model}]}


def together(method: str, base: str, models: Sequence[str], **parameters: float) -> dict[str, Any]:
    listed = [{"model": model, "parameters": {"weight": 1.0}} for model in models]
    return {"merge_method": method, "base_model": base, "models": listed, "parameters": parameters}


def by_rank(paths: dict[str, Path]) -> None:
    """Print the held-out loss of base + extracted adapter by rank."""
    base = str(paths["base"])
    print("| rank | code: error | loss | prose: error | loss | adapter, MB |\n|---|---|---|---|---|---|", flush=True)
    whole = {name: (losses(alone(base), [name])[0], losses(alone(str(paths[name])), [name])[0]) for name in SPECIALISTS}
    print(f"| base only | | {whole['code'][0]:.3f} | | {whole['prose'][0]:.3f} | |", flush=True)
    for rank in RANKS:
        cells = []
        for name in SPECIALISTS:
            out = WORK / f"{name}-{rank}"
            mergecore("lora", "extract", paths[name], base, out, "--rank", str(rank), "--force", "--quiet")
            error = json.loads((out / "mergecore_lora.json").read_text("utf-8"))["error"]
            cells.append(f"{error:.3f} | {losses(alone(f'{base}+{out}'), [name])[0]:.3f}")
        size = (WORK / f"code-{rank}" / "adapter_model.safetensors").stat().st_size / 1e6
        print(f"| {rank} | {' | '.join(cells)} | {size:.1f} |", flush=True)
    print(f"| the specialist | | {whole['code'][1]:.3f} | | {whole['prose'][1]:.3f} | |", flush=True)


def by_route(paths: dict[str, Path]) -> None:
    """Print held-out losses of both adapters merged by every route."""
    base, adapters = str(paths["base"]), [str(EXAMPLE / "adapters" / name) for name in SPECIALISTS]
    models = [f"{base}+{adapter}" for adapter in adapters]
    print("\n| route | code | prose | error |\n|---|---|---|---|", flush=True)

    def row(name: str, recipe: dict[str, Any], error: str = "") -> None:
        code, prose = losses(recipe)
        print(f"| {name} | {code:.3f} | {prose:.3f} | {error} |", flush=True)

    row("recipe, `linear` of the two", {"merge_method": "linear", "models": [
        {"model": model, "parameters": {"weight": 0.5}} for model in models]})  # fmt: skip
    row("recipe, `task_arithmetic`", together("task_arithmetic", base, models))
    row("recipe, `ties`, density 0.5", together("ties", base, models, density=0.5))
    for name, options in {
        "`lora merge`, weights 0.5": ["--weight", "0.5", "--weight", "0.5"],
        "`lora merge --rank 16`": ["--rank", "16"],
        "`lora merge --method ties`, density 0.5": ["--method", "ties", "--set", "density=0.5"],
    }.items():
        out = WORK / "merged"
        mergecore("lora", "merge", *adapters, out, "--force", "--quiet", *options)
        error = json.loads((out / "mergecore_lora.json").read_text("utf-8"))["error"]
        row(name, alone(f"{base}+{out}"), f"{error:.3f}")


def beside_mergekit(paths: dict[str, Path], rounds: int = 2) -> None:
    """Print time and memory of extraction, alternating between the tools."""
    script = Path(TOOLS["mergekit"].python()).with_name("mergekit-extract-lora")
    print("\n| extraction | mergecore | mergekit 0.1.5 | ratio of times |\n|---|---|---|---|", flush=True)
    for rank in TIMED:
        ours, theirs = [], []
        for _ in range(rounds):
            out = WORK / "timed"
            options = ["--rank", str(rank), "--force", "--quiet", "--dtype", "bfloat16", "--memory", "512MB"]
            ours.append(mergecore("lora", "extract", paths["code"], paths["base"], out, *options))
            shutil.rmtree(out)
            theirs.append(run(script, "--model", paths["code"], "--base-model", paths["base"],
                              "--out-path", out, "--max-rank", str(rank)))  # fmt: skip
            shutil.rmtree(out)
        best, other = (min(found, key=lambda usage: usage.wall) for found in (ours, theirs))
        cells = (f"{usage.wall:.1f} s, {usage.peak_anon / 1e6:.0f} MB" for usage in (best, other))
        line = f"{' | '.join(cells)} | {other.wall / best.wall:.1f}"
        print(f"| SmolLM2-135M, rank {rank} | {line} |", flush=True)


def main() -> None:
    """Print the requested tables, or all of them, as Markdown."""
    from prepare import prepare

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    paths = prepare()
    tables = {"rank": by_rank, "route": by_route, "mergekit": beside_mergekit}
    for name in sys.argv[1:] or tables:
        tables[name](paths)


if __name__ == "__main__":
    main()
