"""Recipes with open values."""

from __future__ import annotations

from pathlib import Path


def open_recipe(folder: Path, models: list[Path], first: str, second: str, more: str = "") -> Path:
    """Write a task_arithmetic recipe with two open weights, and evaluations with the target to `eval.yml`."""
    path = folder / "search.yml"
    base, one, two = models
    path.write_text(
        f"merge_method: task_arithmetic\nbase_model: {base}\n{more}models:\n"
        f"- model: {one}\n  parameters: {{weight: {first}}}\n- model: {two}\n  parameters: {{weight: {second}}}\n"
    )
    target = f"base: {base}, models: [{one}, {two}]"
    (folder / "eval.yml").write_text(f"evaluate:\n- {{evaluator: target, parameters: {{{target}}}}}\n")
    return path
