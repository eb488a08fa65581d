"""The command `mergecore init MODEL MODEL ...`, which writes a recipe that fits the models."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergecore.api import InputError
from mergecore.tooling import (
    ArchDirs,
    Place,
    Registry,
    available_cores,
    local_definitions,
    make_plan,
    memory_budget,
    parse_recipe,
    say,
    warn,
    write_whole,
)
from mergecore_diff.command import with_base

if TYPE_CHECKING:
    from mergecore_diff.choosing import Choice, Choices
    from mergecore_diff.survey import Survey

Models = Annotated[list[str], typer.Argument(help="The model folders to merge.", show_default=False)]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Write the recipe to this new file instead of printing it.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask any questions.")]
Base = Annotated[str, typer.Option("--base", help="The base model that the others were fine-tuned from.")]


def init(
    models: Models,
    output: Output = "",
    base: Base = "",
    yes: Yes = False,
    arch_dir: ArchDirs = [],  # noqa: B006  typer creates a new list for every call
) -> None:
    """Inspect models and write a recipe that fits them, with a comment on every choice."""
    from mergecore_diff.choosing import Choice, choose, find_base
    from mergecore_diff.writing import recipe_text

    references = with_base(models, base)
    path = Path(output) if output else None
    if path is not None:
        _check_new(path)
    registry = Registry(warn, local_definitions(arch_dir))
    asking = not yes and sys.stdin.isatty() and sys.stderr.isatty()
    survey = _sampled(references, registry)
    chosen = Choice(base, (base,), "your choice") if base else _asked("Base model", find_base(survey), asking)
    if chosen.value not in ("none", references[0]):
        survey = _sampled(with_base(references, chosen.value), registry)
    choices = _confirmed(choose(survey, chosen), asking)
    made_by = ["mergecore", "init", *models, *([f"--base={base}"] if base else [])]
    text = recipe_text(choices, shlex.join(made_by))
    _check_plans(text, registry)
    _give(text, path)


def _check_new(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path}: already exists; use another name")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: the folder {path.absolute().parent} does not exist; create it first")


def _sampled(references: list[str], registry: Registry) -> Survey:
    """Measure a few layers of the models.

    Raises:
        InputError: A model cannot be used, or the models cannot be merged.
    """
    from mergecore_diff.choosing import check_mergeable, sample
    from mergecore_diff.lineup import line_up
    from mergecore_diff.survey import survey

    lineup = line_up(references, registry)
    try:
        found = survey(sample(lineup), available_cores())
    finally:
        lineup.close()
    check_mergeable(found)
    return found


def _confirmed(choices: Choices, asking: bool) -> Choices:
    method = _asked("Method", choices.method, asking)
    dtype = _asked("Dtype of the result", choices.dtype, asking)
    tokenizer = _asked("Tokens", choices.tokenizer, asking) if choices.tokenizer else None
    return replace(choices, method=method, dtype=dtype, tokenizer=tokenizer)


def _asked(question: str, choice: Choice, asking: bool) -> Choice:
    """Ask the user to confirm or change a choice. Without a terminal, keep it."""
    while asking and len(choice.options) > 1:
        say(f"{question}: {choice.value}, because {choice.reason}")
        try:
            answer = typer.prompt(f"  {', '.join(choice.options)}", default=choice.value, err=True)
        except typer.Abort:
            raise InputError("no answer was given; pass --yes to skip the questions") from None
        if answer == choice.value:
            break
        if answer in choice.options:
            return replace(choice, value=answer, reason="your choice")
        say(f"  {answer!r} is not one of the options")
    return choice


def _check_plans(text: str, registry: Registry) -> None:
    """Plan the recipe, reading only the headers.

    Raises:
        InputError: The recipe cannot be planned.
    """
    import yaml

    plan = make_plan(parse_recipe(Place(yaml.safe_load(text)), text), registry, memory_budget())
    plan.close()
    for note in plan.notes:
        say(f"note: {note}")


def _give(text: str, path: Path | None) -> None:
    if path is None:
        typer.echo(text, nl=False)
        return
    write_whole(path, text, new=True)
    say(f"wrote {path}; next: mergecore plan {shlex.quote(str(path))}")
