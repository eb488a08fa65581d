"""Run a plan on the command line: print it, run it with progress, and print a summary."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mergecore.api import PostProcessor
from mergecore.cli.console import say, warn
from mergecore.cli.progress import Progress
from mergecore.cli.render import plan_view, print_plan
from mergecore.discovery import Registry
from mergecore.planning import Plan, check_license
from mergecore.running import Listener, Options, kept_folder, run_plan


def run_with_progress(
    plan: Plan,
    out: Path,
    registry: Registry,
    options: Options,
    *,
    quiet: bool,
    as_json: bool,
    require_license: str = "",
    finishing: Mapping[str, PostProcessor] | None = None,
) -> None:
    """Run a plan with `running.run_plan`, print output according to the flags, and close the plan."""
    try:
        check_license(require_license, plan.parents)
        if not quiet:
            print_plan(plan)
        with Progress(sum(item.bytes_out for item in (plan, *plan.kept.values())), quiet) as progress:
            listener = Listener(
                warn, progress.advance, progress.resume, progress.fetch, progress.tell, progress.published
            )
            run_plan(plan, out, registry, options, listener, finishing)
        if as_json:
            print(json.dumps({**plan_view(plan), "out": str(out), "seconds": round(progress.seconds, 3)}, indent=2))
        elif not quiet:
            folders = [*(str(kept_folder(out, name)) for name in plan.kept), str(out)]
            say(f"{' and '.join(folders)}: {progress.summary()}")
    finally:
        plan.close()
