"""Checks for hooks: all of them are marked, they ignore unknown plugins, and a run completes."""

from __future__ import annotations

import contextlib
import copy
import inspect
from typing import Any

import pluggy

from mergecore import hookspecs
from mergecore.discovery.entry_points import Plugin
from mergecore.errors import InputError
from mergecore_testing.conformance.compare import expect
from mergecore_testing.conformance.subjects import Subject, folder
from mergecore_testing.sandbox import Sandbox, models, recipe

STRANGER = "a_plugin_of_somebody_else"


def check_every_hook_is_marked(subject: Subject) -> None:
    """Every function named like a hook is marked as one, and there is at least one."""
    own = inspect.getmembers(subject.loaded, inspect.isroutine)
    named = {
        name for name, item in own if name.startswith("mergecore_") and getattr(item, "__module__", "") != "pluggy"
    }
    marked = {name for name, item in own if hasattr(item, "mergecore_impl")}
    expect(named <= marked, f"{subject}: no @hookimpl, so never called: {', '.join(sorted(named - marked))}")
    expect(marked, f"{subject}: no function is marked with @hookimpl")


def check_leaves_other_plugins_to_others(subject: Subject) -> None:
    """A provider hook returns None for unknown names."""
    for name in _implemented(subject):
        if name.startswith("mergecore_provide_") and name != "mergecore_provide_tokenizer":
            answer = getattr(_manager(subject).hook, name)(name=STRANGER)
            expect(answer is None, f"{subject}: {name} returns {answer!r} for the unknown name {STRANGER!r}")


def check_the_recipe_stays_as_it_is(subject: Subject) -> None:
    """`before_plan` accepts a recipe or raises InputError, but does not change the recipe."""
    with folder() as there:
        task = recipe("kit-mean", models(there, 2))
        before: dict[str, Any] = copy.deepcopy(task)
        with contextlib.suppress(InputError):
            _manager(subject).hook.mergecore_before_plan(recipe=task)
        expect(task == before, f"{subject}: changes the recipe")


def check_watches_a_run(subject: Subject) -> None:
    """A merge with these hooks completes or raises InputError before it starts, and no observer hook fails."""
    with folder() as there:
        sandbox = Sandbox()
        sandbox.add_hooks(Plugin("hooks", subject.name, "", "the hooks under test", ""), subject.loaded)
        try:
            sandbox.run(recipe("kit-mean", models(there, 2)), there / "out")
        except InputError:
            return
        failed = [problem for problem in sandbox.problems if "is disabled for this run" in problem]
        expect(not failed, f"{subject}: {'; '.join(failed)}")


def _manager(subject: Subject) -> pluggy.PluginManager:
    manager = pluggy.PluginManager("mergecore")
    manager.add_hookspecs(hookspecs)
    manager.register(subject.loaded)
    return manager


def _implemented(subject: Subject) -> list[str]:
    callers = _manager(subject).get_hookcallers(subject.loaded) or []
    return [caller.name for caller in callers]
