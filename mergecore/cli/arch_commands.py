"""`mergecore arch`: show installed definitions, infer one from headers, and check one against a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from mergecore.cli.console import warn
from mergecore.cli.options import AsJson, ModelPath
from mergecore.discovery import list_plugins, not_installed
from mergecore.errors import ArchitectureError

app = typer.Typer(help="List, show, infer, and check architectures.", no_args_is_help=True)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A class from `arch list`, or an architecture file.")],
    as_json: AsJson = False,
) -> None:
    """Show the weights of a model class."""
    from mergecore.cli import render
    from mergecore.definitions import parse_definition

    label, definition = _definition(name)
    render.show_architecture(parse_definition(label, definition, name), definition, as_json)


@app.command("infer")
def infer_command(model: ModelPath) -> None:
    """Infer an architecture from the headers and config of MODEL, and print it as JSON for you to edit and save."""
    print(json.dumps(inferred_from(model), indent=2))


def inferred_from(model: str) -> dict[str, Any]:
    """Infer an architecture from the headers and config of a model folder, and return it as JSON."""
    from mergecore.definitions import class_name, infer_definition
    from mergecore.models import open_model

    checkpoint = open_model(model, _registry())
    try:
        name = class_name(checkpoint.config, str(checkpoint.folder))
        return {"classes": [name], **infer_definition(checkpoint.config, checkpoint.tensors)}
    finally:
        checkpoint.close()


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="An architecture file, or a class from `arch list`.")],
    against: Annotated[str, typer.Option(help="A model folder. The architecture must know all of its tensors.")] = "",
) -> None:
    """Check that an architecture is valid, and that it matches a model."""
    from mergecore.definitions import parse_definition
    from mergecore.models import compare_names, open_model

    label, definition = _definition(name)
    architecture = parse_definition(label, definition, name)
    if not against:
        print(f"{name}: is valid")
        return
    checkpoint = open_model(against, _registry())
    try:
        findings = compare_names(architecture, checkpoint)
    finally:
        checkpoint.close()
    for tensor in findings.absent:
        print(f"optional, not present: {tensor}")
    for tensor in findings.unknown:
        print(f"unknown to {name}: {tensor}")
    for tensor in findings.missing:
        print(f"missing from {against}: {tensor}")
    if findings.unknown or findings.missing:
        raise ArchitectureError(
            f"{name}: does not match {against}: {len(findings.unknown)} tensor(s) are unknown to it,"
            f" {len(findings.missing)} missing; fix its weights, or compare with mergecore arch infer {against}"
        )
    print(f"{name}: matches {against}, all {len(checkpoint.tensors)} tensors are known")


def _registry() -> Any:
    from mergecore.definitions import local_definitions
    from mergecore.discovery import Registry

    return Registry(warn, local_definitions([]))


def _definition(name: str) -> tuple[str, Any]:
    """Return the class name and definition from an architecture file or an installed class."""
    from mergecore.definitions import load_definition

    path = Path(name)
    if path.suffix == ".json":
        definition = load_definition(path)
        return definition["classes"][0], definition
    registry = _registry()
    found = registry.definitions.get(name) or registry.provide("architectures", name)
    if found is None:
        raise ArchitectureError(
            not_installed("architectures", name, [item.name for item in list_plugins("architectures")])
        )
    return name, found
