"""The command line: every command a few lines over the modules that do the work."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mergecore import arch_commands, plugins
from mergecore.commands import Commands
from mergecore.console import say, warn
from mergecore.errors import InputError, MergecoreError
from mergecore.options import ArchDirs, AsJson, Force, Memory, Out, Quiet, RecipePath, RequireLicence, size

app = typer.Typer(
    cls=Commands,
    help="Merge pretrained models in weight space.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
methods_app = typer.Typer(help="Installed merge methods.", no_args_is_help=True)
plugins_app = typer.Typer(help="Installed plugins and their health.", no_args_is_help=True)
app.add_typer(methods_app, name="methods")
app.add_typer(arch_commands.app, name="arch")
app.add_typer(plugins_app, name="plugins")


@app.command()
def run(
    recipe: RecipePath,
    out: Out,
    memory: Memory = "",
    arch_dir: ArchDirs = [],  # noqa: B006  typer makes a new list each time
    require_license: RequireLicence = "",
    workers: Annotated[int, typer.Option(help="Threads; default: one for each core.", min=0)] = 0,
    shard_size: Annotated[str, typer.Option(help="Largest weight file; default: 5GB.")] = "",
    executor: Annotated[str, typer.Option(help="Name of an installed executor.")] = "threads",
    force: Force = False,
    allow_nonfinite: Annotated[
        bool, typer.Option("--allow-nonfinite", help="Write tensors with NaN or infinity too, with a warning.")
    ] = False,
    hash_inputs: Annotated[
        bool, typer.Option("--hash-inputs", help="Put the models' full SHA-256 into the lock; takes a second a GB.")
    ] = False,
    keep: Annotated[list[str], typer.Option(help="Name of a stage of RECIPE that is written too, into OUT-NAME.")] = [],  # noqa: B006
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Merge the models of RECIPE into the folder OUT; a run that was cut short goes on where it was.

    RECIPE may be the mergecore.lock.json of an earlier result, which is then made again.
    """
    from mergecore import running
    from mergecore.definitions import local_definitions
    from mergecore.licences import require_licence
    from mergecore.planning import make_plan
    from mergecore.progress import Progress
    from mergecore.registry import Registry
    from mergecore.stages import load_recipe
    from mergecore.views import plan_view, print_plan

    options = running.Options(
        memory=size(memory, "--memory") if memory else running.spare_memory(),
        workers=workers or running.available_cores(),
        shard_bytes=size(shard_size, "--shard-size") if shard_size else 0,
        executor=executor,
        force=force,
        allow_nonfinite=allow_nonfinite,
        hash_inputs=hash_inputs,
    )
    registry = Registry(warn, local_definitions(arch_dir))
    plan = make_plan(load_recipe(recipe), registry, options.memory, keep)
    try:
        require_licence(require_license, plan.parents)
        if not quiet:
            print_plan(plan)
        with Progress(sum(item.bytes_out for item in (plan, *plan.kept.values())), quiet) as progress:
            listener = running.Listener(warn, progress.advance, progress.resume, progress.fetch)
            running.run_plan(plan, out, registry, options, listener)
        if as_json:
            print(json.dumps({**plan_view(plan), "out": str(out), "seconds": round(progress.seconds, 3)}, indent=2))
        elif not quiet:
            folders = [*(str(running.kept_folder(out, name)) for name in plan.kept), str(out)]
            say(f"{' and '.join(folders)}: {progress.summary()}")
    finally:
        plan.close()


@app.command("plan")
def plan_command(
    recipe: RecipePath,
    out: Annotated[Path, typer.Argument(help="The folder that a run would make; its disk is measured.")] = Path("out"),
    memory: Memory = "",
    arch_dir: ArchDirs = [],  # noqa: B006
    require_license: RequireLicence = "",
    weights: Annotated[
        bool, typer.Option("--weights", help="Show every weight with its inputs and parameters.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check RECIPE against the models' headers, show what a run would do and what it would cost; nothing is kept."""
    from mergecore import pricing, running, views
    from mergecore.definitions import local_definitions
    from mergecore.licences import require_licence
    from mergecore.planning import make_plan
    from mergecore.registry import Registry
    from mergecore.stages import load_recipe

    budget = size(memory, "--memory") if memory else running.spare_memory()
    registry = Registry(warn, local_definitions(arch_dir))
    plan = make_plan(load_recipe(recipe), registry, budget)
    try:
        require_licence(require_license, plan.parents)
        executor = registry.provide("executors", "threads")()
        cost = pricing.price(plan, executor, out, budget, running.available_cores())
        if as_json:
            view = {**views.plan_view(plan), "price": asdict(cost), "weights": views.weights_view(plan)}
            print(json.dumps(view, indent=2))
            return
        views.print_plan(plan, cost)
        if weights:
            views.print_weights(plan)
    finally:
        plan.close()


@methods_app.command("list")
def methods_list(as_json: AsJson = False) -> None:
    """The merge methods that a recipe can name."""
    _list("methods", as_json)


@methods_app.command("show")
def methods_show(
    name: Annotated[str, typer.Argument(help="A method of `methods list`.")], as_json: AsJson = False
) -> None:
    """What a method does, and its parameters."""
    from mergecore import views
    from mergecore.registry import Registry

    views.show_method(name, Registry(warn).provide("methods", name), as_json)


@arch_commands.app.command("list")
def arch_list(as_json: AsJson = False) -> None:
    """The model classes that a definition is installed for."""
    _list("architectures", as_json)


@plugins_app.command("list")
def plugins_list(as_json: AsJson = False) -> None:
    """Every installed plugin with its distribution."""
    found = [plugin for kind in plugins.KINDS for plugin in plugins.listed(kind)]
    _print_plugins(found, as_json, with_kind=True)


@plugins_app.command("doctor")
def plugins_doctor(as_json: AsJson = False) -> None:
    """Import every plugin and say which are broken, and the command that mends each."""
    from mergecore import doctor, views

    findings = doctor.examine()
    views.print_findings(findings, as_json)
    if any(finding.bad for finding in findings):
        raise typer.Exit(1)


@app.command()
def new(
    kind: Annotated[str, typer.Argument(help="method or arch.")],
    name: Annotated[str, typer.Argument(help="Small letters, digits and _.")],
    into: Annotated[Path, typer.Option(help="Where to make its folder.")] = Path("."),
    model: Annotated[str, typer.Option("--from", help="For arch: a model folder whose weights to begin with.")] = "",
) -> None:
    """Write the package of a new plugin: installs, passes its test, waits to be filled."""
    from mergecore.scaffold import write_package

    if model and kind != "arch":
        raise InputError(f"--from is for architectures; leave it out of mergecore new {kind}")
    for path in write_package(kind, name, into, arch_commands.inferred_from(model) if model else None):
        print(path)
    say(f"next: pip install -e {into / name}")


def _list(kind: str, as_json: bool) -> None:
    found = plugins.listed(kind)
    _print_plugins(found, as_json, with_kind=False)
    if not found and not as_json:
        say(f"no {kind} are installed; for example: pip install {next(iter(plugins.known_plugins()[kind].values()))}")


def _print_plugins(found: list[plugins.Plugin], as_json: bool, with_kind: bool) -> None:
    if as_json:
        keys = ("kind", "name", "distribution", "version", "value")
        print(json.dumps([{key: getattr(plugin, key) for key in keys} for plugin in found], indent=2))
        return
    width = max((len(plugin.name) for plugin in found), default=0)
    for plugin in found:
        kind = f"{plugin.kind:15}" if with_kind else ""
        print(f"{kind}{plugin.name:{width}}  {plugin.distribution} {plugin.version}")


class Stopped(BaseException):
    """Ctrl-C, or a request to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _stop(number: int, _frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second one ends at once; what is journaled stays all the same
    raise Stopped(number)


def main() -> NoReturn:
    """Run the command line; errors are one sentence, and the exit status says whose turn it is."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        status: Any = app(args=arguments, standalone_mode=False)
    except Stopped as stopped:
        say("stopped" if stopped.number == signal.SIGTERM else "interrupted")
        sys.exit(128 + stopped.number)
    except MergecoreError as error:
        if debug:
            raise
        say(f"error: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):  # typer's, whose classes are private
            if type(error).__name__ == "NoArgsIsHelpError":
                print(error.format_message(), file=sys.stderr)
            else:
                say(f"error: {error.format_message()}")
            sys.exit(error.exit_code)
        cause = f"{type(error).__name__}: {error}"
        say(f"error: {cause}; this is a fault of mergecore: run again with --debug and report it")
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)
