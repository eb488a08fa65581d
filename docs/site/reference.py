"""Generate the reference pages from the code: recipe, architecture files, hooks, command line, Python API."""

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
from mergecore import api, errors, hookspecs
from mergecore.cli import external_commands
from mergecore.cli.app import app
from mergecore.discovery import entry_points
from mergecore.recipes.recipe import json_schema

ARCHITECTURE_SCHEMA = Path(mergecore.__file__).parent / "definitions/architecture.schema.json"

HOOKS = """# Hooks

Hooks are functions marked `@hookimpl`, in a file that you pass with `--plugin` or in a module that a package registers
under `mergecore.v1.hooks`. Hooks named `mergecore_provide_...` supply a plugin by name and take precedence over
installed plugins. `mergecore_before_plan` can refuse a recipe, and `mergecore_after_plan` can refuse a plan. The other
hooks only observe. An implementation can omit arguments that it does not need. See also
[Choosing plugins](../plugins.md)."""

COMMAND_LINE = """# Command line

The exit status is 0 for success, 1 for a failed run, 2 for a problem that you need to fix first, 130 after Ctrl-C, and
143 after SIGTERM. Errors are one sentence long. Use `--debug` to show the traceback of an error."""


def pages() -> dict[str, str]:
    """Return every page by its path in the site."""
    return {
        "reference/recipe.md": recipe(),
        "reference/architecture-files.md": architecture_files(),
        "reference/hooks.md": hooks(),
        "reference/cli.md": command_line(),
        "reference/api.md": python_api(),
    }


def recipe() -> str:
    """Return the keys of a recipe, from the schema that validates recipes."""
    return f"""# Recipe

A recipe is one YAML document, or several documents separated by `---` ([multi-stage recipes](../stages.md)). The tables
below list its keys, where `[]` means each item of a list and `*` means any name. The keys under `parameters` depend on
the [method](methods/index.md). With `mergecore schema`, your editor can check recipes while you type
([autocompletion](../editors.md)).

{schema_table(json_schema())}

A parameter is one of these:

- a number or a switch;
- a list of them, which is a gradient from the first layer to the last;
- a list of `{{filter: ..., value: ...}}`, where the first `filter` that occurs in the tensor's name sets the value.

You can set a parameter for a model, a slice, a module, or at the top level. The innermost value is used.
"""


def architecture_files() -> str:
    """Return the keys of an architecture file, from its schema."""
    return f"""# Architecture files

An architecture file is a JSON file that defines which tensors the checkpoints of a model class have. To write one, see
[Add an architecture](../how-to/add-an-architecture.md). The tables below list its keys, where `[]` means each item of a
list and `*` means any name.

{schema_table(json.loads(ARCHITECTURE_SCHEMA.read_text("utf-8")))}
"""


def schema_table(schema: Mapping[str, Any]) -> str:
    """Convert a JSON Schema to a table of its keys; shared definitions get separate tables."""
    sections = [table(rows(schema, schema))]
    for name, part in schema["$defs"].items():
        if found := list(rows(part, schema)):
            sections.append(f"## `{name}`\n\n{part.get('description', '')}\n\n{table(found)}")
    return "\n\n".join(sections)


def table(found: Any) -> str:
    """Format rows of a schema as a Markdown table."""
    lines = ["| key | meaning | value |", "|---|---|---|"]
    return "\n".join(lines + [f"| `{key}`{needed} | {words} | {kind} |" for key, needed, words, kind in found])


def rows(part: Mapping[str, Any], schema: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield the keys under a part of a schema: path, a mark if required, description, type of value."""
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
    """Return the target of a `$ref`, or the item itself."""
    found: Mapping[str, Any] = schema["$defs"][item["$ref"].rpartition("/")[2]] if "$ref" in item else item
    return found


def kind_of(item: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Describe the type of value in words; a type with its own keys becomes a link."""
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
    """Return every hook with its signature and example, from its specification."""
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
    """Format Python code as a fenced block."""
    return f"```python\n{code}\n```"


def command_line() -> str:
    """Return every command, including those of the installed packages."""
    group: Any = get_command(app)
    ctx = typer.Context(group)
    parts = [COMMAND_LINE]
    for name in sorted(group.list_commands(ctx)):
        found = {plugin.name: plugin for plugin in entry_points.list_plugins("commands")}.get(name)
        command = (
            external_commands.command(name, entry_points.load_plugin(found)) if found else group.get_command(ctx, name)
        )
        parts += described(command, ctx, f"mergecore {name}", found.distribution if found else "")
    return "\n\n".join(parts) + "\n"


def described(command: Any, ctx: typer.Context, name: str, package: str = "", level: int = 2) -> Iterator[str]:
    """Describe a command in Markdown: usage, help text, arguments, and options, then its subcommands."""
    yield f"{'#' * level} `{name}`"
    yield command.help + (f" Package: `{package}`." if package else "")
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
    yield "\n".join(["| argument or option | meaning |", "|---|---|", *lines]) if lines else "It has no options."


def signs(item: Any, record: tuple[str, str]) -> str:
    """Return an argument's name, or the spelling of an option."""
    return f"`{record[0]}`" if item.opts[0].startswith("-") else f"`{item.name.upper()}`"


def meaning(text: str) -> str:
    """Format the help of an option as a table cell."""
    return text.replace("|", "\\|").replace("  [", " [").replace("[", "\\[").replace("<", "&lt;")


def python_api() -> str:
    """Return the functions of `mergecore`, then everything that plugin authors import."""
    functions = [f"mergecore.{name}" for name in ("plan", "run", "merge_tensors", "merge_state_dicts")]
    parts = ["# Python API", "## Merge models", *directives(functions)]
    parts += ["## Merge in memory with a method class"]
    parts += directives(f"mergecore.inmemory.{name}" for name in ("merge_tensors", "merge_state_dicts"))
    raised = [name for name in api.__all__ if hasattr(errors, name)]
    parts += ["## Write plugins", "Import these names from `mergecore.api`."]
    parts += directives(f"mergecore.api.{name}" for name in api.__all__ if name not in raised)
    return "\n\n".join([*parts, "## Errors", *directives(f"mergecore.errors.{name}" for name in raised)]) + "\n"


def directives(names: Any) -> list[str]:
    """Return the directives that mkdocstrings replaces with the documentation of each object."""
    return [f"::: {name}" for name in names]
