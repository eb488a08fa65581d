"""The command line. Each command is a thin wrapper over the modules that do the work."""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

try:  # newer releases of typer include their own copy of click
    from typer._click.exceptions import ClickException, NoArgsIsHelpError
except ImportError:
    from click.exceptions import ClickException, NoArgsIsHelpError  # type: ignore[assignment,unused-ignore]

from mergecore.cli import arch_commands, plugin_commands
from mergecore.cli.console import say, say_errors, warn
from mergecore.cli.external_commands import Commands
from mergecore.cli.memory_limits import explain_memory
from mergecore.cli.options import (
    ArchDirs,
    AsJson,
    Force,
    Health,
    HealthCheck,
    Memory,
    NoHealth,
    NoHooks,
    Out,
    PluginFiles,
    Quiet,
    RecipePath,
    RequireLicense,
    ShardSize,
    StrictPlugins,
    Workers,
    run_options,
)
from mergecore.errors import MergecoreError, RecipeError
from mergecore.system import set_limit

STARTED = time.perf_counter()
"""When this process started, apart from the imports above."""

app = typer.Typer(
    cls=Commands,
    help="Merge pretrained models in weight space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
methods_app = typer.Typer(help="List and describe the installed merge methods.", no_args_is_help=True)
app.add_typer(methods_app, name="methods")
app.add_typer(arch_commands.app, name="arch")
app.add_typer(plugin_commands.app, name="plugins")
app.command()(plugin_commands.new)


@app.command()
def run(
    recipe: RecipePath,
    out: Out,
    memory: Memory = "",
    arch_dir: ArchDirs = [],  # noqa: B006  typer creates a new list each time
    plugin: PluginFiles = [],  # noqa: B006
    no_hooks: NoHooks = False,
    strict_plugins: StrictPlugins = False,
    require_license: RequireLicense = None,
    workers: Workers = 0,
    shard_size: ShardSize = "",
    executor: Annotated[str, typer.Option(help="Name of the executor to use.")] = "threads",
    force: Force = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Warn about NaN or infinity in the result instead of stopping.")
    ] = False,
    hash_inputs: Annotated[
        bool, typer.Option("--hash-inputs", help="Add full SHA-256 hashes of the models to the lock file (1 s per GB).")
    ] = False,
    keep: Annotated[list[str], typer.Option(help="Name of a stage to write as well, to OUT-NAME.")] = [],  # noqa: B006
    health: Health = HealthCheck.quick,
    no_health: NoHealth = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge the models of RECIPE into the folder OUT. An interrupted run resumes where it stopped.

    RECIPE can also be the mergecore.lock.json of an earlier result, to reproduce that result.
    """
    from mergecore.cli.run_with_progress import run_with_progress
    from mergecore.definitions import definition_paths, local_definitions
    from mergecore.discovery import Registry
    from mergecore.planning import make_plan
    from mergecore.recipes import load_recipe

    options = run_options(
        memory,
        workers,
        shard_size,
        health,
        no_health,
        executor=executor,
        force=force,
        allow_nonfinite=allow_nonfinite,
        hash_inputs=hash_inputs,
        reads=(*definition_paths(arch_dir), *plugin),
    )
    registry = Registry(warn, local_definitions(arch_dir), files=plugin, hooks=not no_hooks, strict=strict_plugins)
    plan = make_plan(load_recipe(recipe, registry), registry, options.memory, keep)
    license_ = require_license or ""
    run_with_progress(plan, out, registry, options, quiet=quiet, as_json=as_json, require_license=license_)


@app.command("plan")
def plan_command(
    recipe: RecipePath,
    out: Annotated[Path, typer.Argument(help="Output folder of the run. Its disk is measured.")] = Path("out"),
    memory: Memory = "",
    arch_dir: ArchDirs = [],  # noqa: B006
    plugin: PluginFiles = [],  # noqa: B006
    no_hooks: NoHooks = False,
    strict_plugins: StrictPlugins = False,
    require_license: RequireLicense = None,
    weights: Annotated[bool, typer.Option("--weights", help="Show the inputs and parameters of every weight.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check RECIPE and estimate the cost of a run. To measure the speed, merge a sample for about a second.

    Nothing is kept on the disk. Models on the Hub are not downloaded, so the time of their merge is unknown.
    """
    from mergecore.cli import render
    from mergecore.definitions import local_definitions
    from mergecore.discovery import Registry
    from mergecore.estimating import estimate_cost
    from mergecore.planning import check_license, make_plan
    from mergecore.recipes import load_recipe

    options = run_options(memory)
    registry = Registry(warn, local_definitions(arch_dir), files=plugin, hooks=not no_hooks, strict=strict_plugins)
    plan = make_plan(load_recipe(recipe, registry), registry, options.memory)
    try:
        check_license(require_license or "", plan.parents)
        executor = registry.provide("executors", options.executor)()
        cost = estimate_cost(plan, registry, executor, out, options.settled(plan.recipe.lock), STARTED)
        if as_json:
            view = {**render.plan_view(plan), "estimate": asdict(cost), "weights": render.weights_view(plan)}
            print(json.dumps(view, indent=2))
            return
        render.print_plan(plan, cost)
        if weights:
            render.print_weights(plan)
    finally:
        plan.close()


@app.command()
def schema(plugin: PluginFiles = []) -> None:  # noqa: B006
    """Print the JSON Schema of recipes. It includes the parameters of every method, for validation in your editor."""
    from mergecore.discovery import Registry
    from mergecore.recipes import recipe_schema, schema_text

    registry = Registry(warn, files=plugin)
    print(schema_text(recipe_schema(registry.all_methods())), end="")


@methods_app.command("list")
def methods_list(as_json: AsJson = False) -> None:
    """List the merge methods that a recipe can use."""
    plugin_commands.print_kind("methods", as_json)


@methods_app.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="Name of a method, as shown by `methods list`.")],
    plugin: PluginFiles = [],  # noqa: B006
    trace: Annotated[
        bool, typer.Option("--trace", help="Show the operations that the kernels run, or why torch computes it.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Describe a method and its parameters."""
    from mergecore.cli import render
    from mergecore.discovery import Registry

    registry = Registry(warn, files=plugin)
    method = registry.provide("methods", name)
    if trace:
        render.show_trace(method, registry.kernels(), as_json)
    else:
        render.show_method(name, method, as_json)


@arch_commands.app.command("list")
def arch_list(as_json: AsJson = False) -> None:
    """List the model classes that have an installed architecture definition."""
    plugin_commands.print_kind("architectures", as_json)


class Stopped(BaseException):
    """Raised on Ctrl-C or SIGTERM. `number` is the signal number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _stop(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once; the journal survives that too
    raise Stopped(number)


def _stop_anyway(unraisable: Any) -> None:
    """End the process if the signal came in a destructor, where Python drops what the handler raises."""
    if isinstance(unraisable.exc_value, Stopped):
        signal.raise_signal(unraisable.exc_value.number)
    sys.__unraisablehook__(unraisable)


def main() -> NoReturn:
    """Run the command line. Print errors without a traceback and set the exit status."""
    with contextlib.suppress(ValueError, OSError):  # some systems do not allow their hard limit as a soft limit
        set_limit("NOFILE")
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup, for example
            signal.signal(number, _stop)
    sys.unraisablehook = _stop_anyway
    # Imported modules stay in memory. Repeated garbage collection would add 0.25 s to the import of torch.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)  # skip the collection at exit, which takes just as long
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        status: Any = app(args=arguments, standalone_mode=False)
    except Stopped as stopped:
        say("stopped" if stopped.number == signal.SIGTERM else "interrupted")
        sys.exit(128 + stopped.number)
    except NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, RecipeError):
            say_errors(error)
            sys.exit(error.exit_code)
        message, code = _told(error)
        say(f"error: {message}")
        sys.exit(code)
    sys.exit(status if isinstance(status, int) else 0)


def _told(error: Exception) -> tuple[str, int]:
    """Return the message and the exit status for an error."""
    if explained := explain_memory(error):
        return explained, 1
    if isinstance(error, MergecoreError):
        return str(error), error.exit_code
    if isinstance(error, ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return f"{where}{error.strerror}", 2 if error.errno == errno.ENAMETOOLONG else 1
    return f"{type(error).__name__}: {error}; this is a bug in mergecore: run again with --debug and report it", 1
