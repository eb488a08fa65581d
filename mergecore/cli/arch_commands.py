"""`mergecore arch`: the definitions that are installed, the one that headers show, and whether one fits a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mergecore.cli.console import warn
from mergecore.cli.options import AsJson, ModelPath
from mergecore.discovery import listed, not_installed
from mergecore.errors import ArchitectureError

app = typer.Typer(help="Architectures: installed, inferred, checked.", no_args_is_help=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A class of `arch list`, or an architecture file.")],
    as_json: AsJson = False,
) -> None:
    """The weights of a model class."""
    from mergecore.cli import render
    from mergecore.definitions import parse

    label, definition = _definition(name)
    render.show_architecture(parse(label, definition, name), definition, as_json)


@app.command("infer")
def infer_command(model: ModelPath) -> None:
    """Print the architecture that MODEL's headers and config show, as JSON to mend and keep."""
    print(json.dumps(inferred_from(model), indent=2))


def inferred_from(model: str) -> dict[str, Any]:
    """The JSON of the architecture that a model folder's headers and config show."""
    from mergecore.definitions import class_name, infer
    from mergecore.models import open_model

    checkpoint = open_model(model, _registry())
    try:
        name = class_name(checkpoint.config, str(checkpoint.folder))
        return {"classes": [name], **infer(checkpoint.config, checkpoint.tensors)}
    finally:
        checkpoint.close()


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="An architecture file, or a class of `arch list`.")],
    against: Annotated[str, typer.Option(help="A model folder whose every tensor it must know.")] = "",
) -> None:
    """Check an architecture: that it follows the format, and that it fits a model."""
    from mergecore.definitions import parse
    from mergecore.models import examine, open_model

    label, definition = _definition(name)
    architecture = parse(label, definition, name)
    if not against:
        print(f"{name}: follows the format")
        return
    checkpoint = open_model(against, _registry())
    try:
        findings = examine(architecture, checkpoint)
    finally:
        checkpoint.close()
    for tensor in findings.absent:
        print(f"may be absent, and is: {tensor}")
    for tensor in findings.unknown:
        print(f"unknown to {name}: {tensor}")
    for tensor in findings.missing:
        print(f"missing in {against}: {tensor}")
    if findings.unknown or findings.missing:
        raise ArchitectureError(
            f"{name}: does not fit {against}: {len(findings.unknown)} tensor(s) are unknown to it,"
            f" {len(findings.missing)} missing; mend its weights, or see what mergecore arch infer {against} prints"
        )
    print(f"{name}: fits {against}, all {len(checkpoint.tensors)} tensors are known")


def _registry() -> Any:
    from mergecore.discovery import Registry
    from mergecore.models import local_definitions

    return Registry(warn, local_definitions([]))


def _definition(name: str) -> tuple[str, Any]:
    """The class name and content of an architecture file or of an installed class."""
    from mergecore.models import load_definition

    path = Path(name)
    if path.suffix == ".json":
        definition = load_definition(path)
        return definition["classes"][0], definition
    registry = _registry()
    found = registry.definitions.get(name) or registry.provide("architectures", name)
    if found is None:
        raise ArchitectureError(not_installed("architectures", name, [item.name for item in listed("architectures")]))
    return name, found
