"""The reference pages that are made from the code: recipe, architecture files, hooks, command line, Python API."""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

import mergecore
from mergecore import api, cli, errors, hookspecs
from mergecore.cli import external_commands
from mergecore.discovery import entry_points
from mergecore.recipes.recipe import json_schema

ARCHITECTURE_SCHEMA = Path(mergecore.__file__).parent / "definitions/architecture.schema.json"

HOOKS = """# Hooks

Functions marked `@hookimpl` in a file that `--plugin` names, or in a module that a package registers under
`mergecore.v1.hooks`. Those that begin with `mergecore_provide_` answer for a plugin by name before the installed ones
are asked; `mergecore_before_plan` may refuse a recipe; the others watch. An implementation may leave out arguments that
it does not need. [Choosing among plugins](../plugins.md) says when they run."""

COMMAND_LINE = """# Command line

Errors are one sentence. The exit status is 0 for a success, 2 for something to mend first, 1 for a run that failed, 130
after Ctrl-C and 143 after SIGTERM. `--debug` shows where an error came from."""


def pages() -> dict[str, str]:
    """Every page by its path in the site."""
    return {
        "reference/recipe.md": recipe(),
        "reference/architecture-files.md": architecture_files(),
        "reference/hooks.md": hooks(),
        "reference/cli.md": command_line(),
        "reference/api.md": python_api(),
    }


def recipe() -> str:
    """The keys of a recipe, from the schema that recipes are checked by."""
    return f"""# Recipe

A recipe is one YAML document, or several with `---` between them ([several merges in one run](../stages.md)). These are
its keys; `[]` stands for each item of a list and `*` for any name. What may stand under `parameters` depends on the
method: [methods](methods/index.md). Editors check recipes while you type with what `mergecore schema` prints
([recipes in an editor](../editors.md)).

{schema_table(json_schema())}

A parameter is a number or a switch; a list of them, which is a gradient from the first layer to the last; or a list of
`{{filter: ..., value: ...}}`, of which the first whose `filter` is a part of the weight's name counts. It may stand
with a model, with a slice, with a module or at the top, and the innermost one counts.
"""


def architecture_files() -> str:
    """The keys of an architecture's JSON, from its schema."""
    return f"""# Architecture files

An architecture is one JSON file that says which weights the checkpoints of a model class have:
[how to add one](../how-to/add-an-architecture.md). These are its keys; `[]` stands for each item of a list and `*` for
any name.

{schema_table(json.loads(ARCHITECTURE_SCHEMA.read_text("utf-8")))}
"""


def schema_table(schema: Mapping[str, Any]) -> str:
    """A JSON Schema as a table of its keys; what stands in several places is listed under its own name."""
    sections = [table(rows(schema, schema))]
    for name, part in schema["$defs"].items():
        if found := list(rows(part, schema)):
            sections.append(f"## `{name}`\n\n{part.get('description', '')}\n\n{table(found)}")
    return "\n\n".join(sections)


def table(found: Any) -> str:
    """Rows of a schema as a Markdown table."""
    lines = ["| key | what | value |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{key}`{needed} | {words} | {kind} |" for key, needed, words, kind in found])


def rows(part: Mapping[str, Any], schema: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str, str, str]]:
    """The keys under a part of a schema: path, a mark if required, description, kind of value."""
    if "items" in part and "$ref" not in part["items"]:
        yield from rows(part["items"], schema, f"{at}[]")
    inner = dict(part.get("properties", {}))
    if isinstance(part.get("additionalProperties"), Mapping):
        inner["*"] = part["additionalProperties"]
    for key, item in inner.items():
        path = f"{at}.{key}" if at else key
        needed = " (required)" if key in part.get("required", ()) else ""
        words = item.get("description") or resolved(item, schema).get("description", "")
        if words or "properties" not in item:
            yield path, needed, words.replace("|", "\\|"), kind_of(item, schema)
        if "$ref" not in item:
            yield from rows(item, schema, path)


def resolved(item: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a `$ref` leads to, else the item itself."""
    found: Mapping[str, Any] = schema["$defs"][item["$ref"].rpartition("/")[2]] if "$ref" in item else item
    return found


def kind_of(item: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The kind of value in words; what has keys of its own is linked."""
    if "$ref" in item:
        name, part = item["$ref"].rpartition("/")[2], resolved(item, schema)
        has_keys = "properties" in part or "properties" in part.get("items", ())
        return f"[`{name}`](#{name})" if has_keys else kind_of(part, schema)
    if "enum" in item:
        return ", ".join(f"`{value}`" for value in item["enum"])
    kinds = item.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    inner = f" of {kind_of(item['items'], schema)}" if "array" in kinds and "items" in item else ""
    words = {"object": "mapping", "array": f"list{inner}", "null": "nothing"}
    return " or ".join(words.get(kind, kind) for kind in kinds)


def hooks() -> str:
    """Every hook with its signature and example, from its specification."""
    parts = [HOOKS]
    for name, spec in vars(hookspecs).items():
        if name.startswith("mergecore_"):
            about, _, example = (inspect.getdoc(spec) or "").partition("Example::")
            shown = inspect.signature(spec)
            arguments = ", ".join(f"{item.name}: {item.annotation}" for item in shown.parameters.values())
            signature = f"def {name}({arguments}) -> {shown.return_annotation}"
            code = textwrap.dedent(example).strip("\n")
            parts.append(f"## `{name}`\n\n{about.strip()}\n\n{fenced(signature)}\n\nFor example:\n\n{fenced(code)}")
    return "\n\n".join(parts) + "\n"


def fenced(code: str) -> str:
    """Python in a fence."""
    return f"```python\n{code}\n```"


def command_line() -> str:
    """Every command, those of the installed packages among them."""
    group: Any = get_command(app)
    ctx = typer.Context(group)
    parts = [COMMAND_LINE]
    for name in sorted(group.list_commands(ctx)):
        found = {plugin.name: plugin for plugin in entry_points.listed("commands")}.get(name)
        command = external_commands.command(name, entry_points.load(found)) if found else group.get_command(ctx, name)
        parts += described(command, ctx, f"mergecore {name}", found.distribution if found else "")
    return "\n\n".join(parts) + "\n"


def described(command: Any, ctx: typer.Context, name: str, package: str = "", level: int = 2) -> Iterator[str]:
    """A command as Markdown: its line, what it does, arguments and options; then its own commands."""
    yield f"{'#' * level} `{name}`"
    yield command.help + (f" From the package `{package}`." if package else "")
    if hasattr(command, "commands"):
        for inner in command.commands.values():
            yield from described(inner, ctx, f"{name} {inner.name}", level=level + 1)
        return
    items = [(item, item.get_help_record(ctx)) for item in command.get_params(ctx) if item.name != "help"]
    arguments = [
        item.name.upper() + ("..." if item.nargs < 0 else "") for item, _ in items if not item.opts[0].startswith("-")
    ]
    yield "```\n" + " ".join([name, *(["[OPTIONS]"] if len(arguments) < len(items) else []), *arguments]) + "\n```"
    lines = [f"| {signs(item, record)} | {meaning(record[1])} |" for item, record in items if record]
    yield "\n".join(["| argument or option | what |", "|---|---|", *lines]) if lines else "It has no options."


def signs(item: Any, record: tuple[str, str]) -> str:
    """An argument's name, or how an option is written."""
    return f"`{record[0]}`" if item.opts[0].startswith("-") else f"`{item.name.upper()}`"


def meaning(text: str) -> str:
    """The help of an option as a cell of a table."""
    return text.replace("|", "\\|").replace("  [", " [").replace("[", "\\[").replace("<", "&lt;")


def python_api() -> str:
    """The functions of `mergecore`, then all that a plugin author imports."""
    functions = [f"mergecore.{name}" for name in ("plan", "run", "merge_tensors", "merge_state_dicts")]
    parts = ["# Python API", "## For whoever merges", *directives(functions)]
    parts += ["## In memory, with a method that is at hand as a class"]
    parts += directives(f"mergecore.inmemory.{name}" for name in ("merge_tensors", "merge_state_dicts"))
    raised = [name for name in api.__all__ if hasattr(errors, name)]
    parts += ["## For authors of plugins", "All of it is imported from `mergecore.api`."]
    parts += directives(f"mergecore.api.{name}" for name in api.__all__ if name not in raised)
    return "\n\n".join([*parts, "## Errors", *directives(f"mergecore.errors.{name}" for name in raised)]) + "\n"


def directives(names: Any) -> list[str]:
    """What mkdocstrings replaces by the documentation of each object."""
    return [f"::: {name}" for name in names]
