"""`mergecore lora`, which extracts adapters from fine-tunes and merges adapters."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from mergecore.api import InputError
from mergecore.tooling import (
    AsJson,
    Force,
    Memory,
    Quiet,
    Registry,
    Workers,
    available_cores,
    memory_budget,
    printable,
    say,
    warn,
)
from mergecore_lora.programs import Program

app = typer.Typer(help="Extract LoRA adapters from fine-tunes, and merge adapters.", no_args_is_help=True)


class FactorDtype(str, Enum):
    """The dtypes that factors can have."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Small(str, Enum):
    """What to do with a tensor that has no low-rank form."""

    save = "save"
    drop = "drop"


class Large(str, Enum):
    """What to do with a tensor that can have a low-rank form."""

    lora = "lora"
    save = "save"
    drop = "drop"


class AddedRows(str, Enum):
    """What to do with rows that only the fine-tune has."""

    refuse = "refuse"
    drop = "drop"
    save = "save"


OwnRanks = Annotated[
    bool, typer.Option("--own-ranks", help="Keep each tensor's own rank, in less space. Few programs can read it.")
]
For = Annotated[Program, typer.Option("--for", help="Leave out what this program cannot read.")]
Dtype = Annotated[FactorDtype, typer.Option(help="Dtype of the factors.")]
Rank = Annotated[int, typer.Option(help="The rank, or with --energy or --error, the maximum rank.", show_default=False)]


@app.command()
def extract(
    finetune: Annotated[str, typer.Argument(help="A fine-tuned model.", show_default=False)],
    base: Annotated[str, typer.Argument(help="The model that FINETUNE was trained from.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The output folder of the adapter.", show_default=False)],
    rank: Rank = 0,
    energy: Annotated[
        float, typer.Option(help="Share of each squared norm to keep, such as 0.9.", show_default=False)
    ] = 0.0,
    error: Annotated[
        float, typer.Option(help="Maximum relative error per tensor, such as 0.05.", show_default=False)
    ] = 0.0,
    keep: Annotated[Small, typer.Option(help="Norms, biases, and other small weights.")] = Small.save,
    embeddings: Annotated[Large, typer.Option(help="Embeddings.")] = Large.lora,
    head: Annotated[Large, typer.Option(help="The head, unless it is tied.")] = Large.lora,
    experts: Annotated[Large, typer.Option(help="Experts stored as one tensor.")] = Large.save,
    added_tokens: Annotated[AddedRows, typer.Option(help="Rows that only FINETUNE has.")] = AddedRows.refuse,
    dtype: Dtype = FactorDtype.float32,
    own_ranks: OwnRanks = False,
    program: For = Program.peft,
    memory: Memory = "",
    workers: Workers = 0,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Extract the difference between FINETUNE and BASE as the LoRA adapter OUT, by default with rank 16."""
    wanted = _wanted(rank, energy, error)
    _check_program(program, own_ranks)
    if added_tokens is AddedRows.save and Large.drop in (embeddings, head):
        raise InputError("--added-tokens save stores the embedding and the head; do not drop them")
    import torch

    from mergecore_lora.choices import Choices
    from mergecore_lora.extracting import extract as run

    stored = (keep, embeddings, head, experts, added_tokens)
    report = run(
        finetune,
        base,
        out,
        Choices(
            wanted,
            *(item.value for item in stored),
            getattr(torch, dtype.value),
            own_ranks,
            program,
        ),
        Registry(warn),
        memory=memory_budget(memory),
        workers=workers or available_cores(),
        force=force,
    )
    _show(out, report, quiet, as_json)


@app.command()
def merge(
    adapters: Annotated[list[str], typer.Argument(help="Two or more adapters.", show_default=False)],
    out: Annotated[Path, typer.Argument(help="The output folder of the merged adapter.", show_default=False)],
    method: Annotated[str, typer.Option(help="exact (the weighted sum), or an installed merge method.")] = "exact",
    weight: Annotated[list[float], typer.Option(help="Weight of an adapter. Repeat for each.")] = [],  # noqa: B006
    parameter: Annotated[list[str], typer.Option("--set", help="A parameter of the method, such as density=0.5.")] = [],  # noqa: B006
    rank: Annotated[int, typer.Option(help="Maximum rank of the result. Default: as high as needed.")] = 0,
    dtype: Dtype = FactorDtype.float32,
    own_ranks: OwnRanks = False,
    program: For = Program.peft,
    force: Force = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge several adapters for the same base into OUT, without building full-size matrices."""
    from mergecore_lora.merging import EXACT, MergeOptions, check_weights
    from mergecore_lora.merging import merge as run

    if rank < 0:
        raise InputError(f"--rank: must be a positive integer, not {rank}")
    if method == EXACT and parameter:
        raise InputError("--set: the exact sum has no parameters; use --weight instead")
    _check_program(program, own_ranks)
    weights = check_weights(len(adapters), weight)
    import torch

    parameters = dict(map(_parameter, parameter))
    options = MergeOptions(method, weights, parameters, rank or None, own_ranks, getattr(torch, dtype.value), program)
    report = run(adapters, out, options, Registry(warn), force=force)
    _show(out, report, quiet, as_json)


def _check_program(program: Program, own_ranks: bool) -> None:
    if own_ranks and program is not Program.peft:
        raise InputError(f"--own-ranks: {program.value} reads one rank for all tensors; remove the option, or --for")


def _parameter(text: str) -> tuple[str, Any]:
    import yaml

    name, sign, value = text.partition("=")
    if not sign or not name:
        raise InputError(f"--set: {text!r} must be NAME=VALUE, such as density=0.5")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        raise InputError(f"--set: {value!r} is not a valid value; use a number, true, or false") from None


def _wanted(rank: int, energy: float, error: float) -> Any:
    from mergecore_lora.decomposing import Wanted

    if rank < 0:
        raise InputError(f"--rank: must be a positive integer, not {rank}")
    for option, value in (("--energy", energy), ("--error", error)):
        if not 0 <= value <= 1:
            raise InputError(f"{option}: must be between 0 and 1, not {value:g}")
    if energy and error:
        raise InputError("--energy and --error both set the accuracy; use only one")
    share = energy or (1 - error**2 if error else None)
    return Wanted(rank or (None if share else 16), share)


def _show(out: Path, report: Mapping[str, Any], quiet: bool, as_json: bool) -> None:
    """Print the report: the table of errors and the totals."""
    for note in report["notes"]:
        warn(note)
    if as_json:
        typer.echo(json.dumps({**report, "out": str(out)}, indent=2))
        return
    if quiet:
        return
    width = max(len(printable(tensor["name"])) for tensor in report["tensors"])
    typer.echo(f"{'tensor':{width}}  how   rank     error      norm")
    for tensor in report["tensors"]:
        name, how, rank = printable(tensor["name"]), tensor["how"], tensor["rank"] or "-"
        typer.echo(f"{name:{width}}  {how:4}  {rank!s:>4}  {tensor['error']:8.2e}  {tensor['norm']:8.2e}")
    say(f"{out}: wrote an adapter with {len(report['tensors'])} tensors; relative error {report['error']:.2e}")
