"""`mergecore sizes`: show which tensors use the bytes of a model."""

import json
from collections import Counter

import typer

from mergecore.tooling import AsJson, ModelPath, Registry, open_model, warn


def sizes(model: ModelPath, as_json: AsJson = False) -> None:
    """Show the bytes of each tensor name in MODEL, summed over layers."""
    checkpoint = open_model(model, Registry(warn))
    checkpoint.close()
    counts: Counter[str] = Counter()
    for name, info in checkpoint.tensors.items():
        counts[".".join("*" if part.isdigit() else part for part in name.split("."))] += info.nbytes
    if as_json:
        typer.echo(json.dumps(counts, indent=2))
        return
    for name, count in counts.most_common():
        typer.echo(f"{count:15,}  {name}")
