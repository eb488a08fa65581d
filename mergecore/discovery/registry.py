"""The plugins of one run: hooks joined with pluggy may provide any plugin by name, and watch what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from mergecore import hookspecs
from mergecore.api import Adapter, AdapterRequest, Method, OutputTokenizer, TokenizerRequest, hookimpl
from mergecore.discovery.entry_points import (
    DISABLE,
    KINDS,
    Plugin,
    architecture_definition,
    cure,
    disabled,
    find,
    installed,
    listed,
    load,
    normal,
)
from mergecore.discovery.local_files import PluginFile
from mergecore.errors import InputError, MergecoreError, PluginError


class InstalledPlugins:
    """Core's own answer to every provider hook: the installed plugin of that name."""

    def __init__(self) -> None:
        self.prefer: Sequence[str] = ()

    def find(self, kind: str, name: str) -> Plugin:
        return find(kind, name, self.prefer)

    @hookimpl(trylast=True)
    def mergecore_provide_method(self, name: str) -> Any:
        return load(self.find("methods", name))

    @hookimpl(trylast=True)
    def mergecore_provide_architecture(self, name: str) -> Any:
        known = any(plugin.name == name for plugin in listed("architectures"))
        return architecture_definition(self.find("architectures", name)) if known else None

    @hookimpl(trylast=True)
    def mergecore_provide_reader(self, name: str) -> Any:
        return load(self.find("readers", name))

    @hookimpl(trylast=True)
    def mergecore_provide_writer(self, name: str) -> Any:
        return load(self.find("writers", name))

    @hookimpl(trylast=True)
    def mergecore_provide_executor(self, name: str) -> Any:
        return load(self.find("executors", name))

    @hookimpl(trylast=True)
    def mergecore_provide_postprocessor(self, name: str) -> Any:
        return load(self.find("postprocessors", name))

    @hookimpl(trylast=True)
    def mergecore_provide_evaluator(self, name: str) -> Any:
        return load(self.find("evaluators", name))

    @hookimpl(trylast=True)
    def mergecore_provide_optimizer(self, name: str) -> Any:
        return load(find("optimizers", name))


class Registry:
    """The plugins of one run: providers answer by name, observers are told of events.

    Args:
        warn: told of each plugin that is left out or switched off, as a sentence.
        definitions: architectures to use before the installed ones: by class name, the content of their JSON.
        files: Python files whose plugins answer before all others; see `PluginFile`.
        hooks: whether the installed hook plugins are loaded.
        strict: a plugin that would be left out or switched off raises PluginError instead.
    """

    def __init__(
        self,
        warn: Callable[[str], None],
        definitions: Mapping[str, Any] | None = None,
        *,
        files: Sequence[Path] = (),
        hooks: bool = True,
        strict: bool = False,
    ) -> None:
        self.definitions = definitions or {}
        self._warn, self._strict = warn, strict
        self._manager = pluggy.PluginManager("mergecore")
        self._manager.add_hookspecs(hookspecs)
        self._installed = InstalledPlugins()
        self._manager.register(self._installed, "mergecore")
        self._owners: dict[str, Plugin] = {}
        self._provided: dict[tuple[str, str], Plugin | None] = {}
        self._check_disabled()
        for plugin in listed("hooks") if hooks else ():
            self._register(plugin)
        self._files = [PluginFile(path) for path in files]
        for file in reversed(self._files):  # pluggy asks first who came last
            for holder in (file.module, file):
                self.add_hooks(file.plugin, holder)

    def _check_disabled(self) -> None:
        known = {label for kind in KINDS for plugin in installed(kind) for label in plugin.labels} if disabled() else ()
        for name in sorted(disabled().difference(known)):
            self.leave_out(f"{DISABLE} names {name!r}, which is no installed plugin or distribution")

    def _register(self, plugin: Plugin) -> None:
        try:
            find("hooks", plugin.name)
            self.add_hooks(plugin, load(plugin))
        except (PluginError, pluggy.PluginValidationError) as error:
            self.leave_out(f"{plugin} is left out of this run: {error}")

    def add_hooks(self, plugin: Plugin, holder: Any) -> None:
        """Let the hook implementations of a module or object take part, before those that are there already.

        Raises:
            pluggy.PluginValidationError: one of them is no hook, or asks for what its hook does not give.
        """
        key = f"{plugin.distribution}:{plugin.name}:{len(self._owners)}"
        self._manager.register(holder, key)
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError:
            self._manager.unregister(name=key)
            raise
        self._owners[key] = plugin

    def leave_out(self, sentence: str) -> None:
        """Say that the run goes on without something that is installed; a strict one stops."""
        if self._strict:
            raise PluginError(f"{sentence} (--strict-plugins)")
        self._warn(sentence)

    def prefer(self, distributions: Sequence[str]) -> None:
        """Choose whose plugin answers where several distributions have one of the same name: the first of these.

        Raises:
            PluginError: one of them is not installed.
        """
        known = {normal(plugin.distribution) for kind in KINDS for plugin in listed(kind)} if distributions else set()
        for name in distributions:
            if normal(name) not in known:
                raise PluginError(f"no plugin of a distribution {name!r} is installed: pip install {name}")
        self._installed.prefer = distributions

    def all_methods(self) -> dict[str, type[Method]]:
        """Every method by name; one that cannot be loaded is left out."""
        found = {}
        for name in self.names("methods"):
            try:
                found[name] = self.provide("methods", name)
            except PluginError as error:
                self.leave_out(f"method {name!r} is left out: {error}")
        return found

    def names(self, kind: str) -> list[str]:
        """The names of all plugins of a kind that can be provided by name, those of plugin files first."""
        own = [name for file in self._files for name in file.classes.get(kind, ())]
        return list(dict.fromkeys([*own, *(plugin.name for plugin in listed(kind))]))

    def provide(self, kind: str, name: str) -> Any:
        """The plugin object of a kind called `name`, from the first provider that knows it.

        For an architecture, which can be inferred, None when nobody has it.

        Raises:
            PluginError: nobody has it, or a provider failed.
        """
        implementation, answer = self._first(f"mergecore_provide_{kind.removesuffix('s')}", name=name)
        if implementation is not None:
            self._provided[kind, name] = self._owners.get(implementation.plugin_name)
        return answer

    def tokenizer(self, request: TokenizerRequest) -> OutputTokenizer | None:
        """The output's tokenizer from the first plugin that answers; None where none does."""
        implementation, answer = self._first("mergecore_provide_tokenizer", request=request)
        if implementation is not None:
            self._provided["tokenizers", ""] = self._owners[implementation.plugin_name]
        assert answer is None or isinstance(answer, OutputTokenizer)
        return answer

    def adapter(self, request: AdapterRequest) -> Adapter | None:
        """What the adapter in a folder does, from the first plugin that knows it; None where none does."""
        implementation, answer = self._first("mergecore_provide_adapter", request=request)
        if implementation is not None:
            self._provided["adapters", implementation.plugin_name] = self._owners[implementation.plugin_name]
        assert answer is None or isinstance(answer, Adapter)
        return answer

    def used(self, *kinds: str) -> list[Plugin]:
        """Whose the plugins of these kinds are that were provided so far: installed ones, or the hook that answered."""
        return [self.owner(kind, name) for kind, name in self._provided if kind in kinds]

    def owner(self, kind: str, name: str) -> Plugin:
        """Whose a plugin is that was provided: an installed one's, or the hook's that answered."""
        return self._provided[kind, name] or self._installed.find(kind, name)

    def _first(self, hook: str, **arguments: Any) -> tuple[pluggy.HookImpl | None, Any]:
        """The first answer to a provider hook, and whose it is."""
        asked = ((item, self._ask(hook, item, **arguments)) for item in self._implementations(hook))
        return next(((item, answer) for item, answer in asked if answer is not None), (None, None))

    def before_plan(self, recipe: Mapping[str, Any]) -> None:
        """Let every hook refuse the recipe."""
        for implementation in self._implementations("mergecore_before_plan"):
            self._ask("mergecore_before_plan", implementation, recipe=recipe)

    def notify(self, event: str, **arguments: Any) -> None:
        """Tell every observer of an event; one that fails is named and switched off for this run.

        Raises:
            InputError: an observer of the plan refuses it.
        """
        hook = f"mergecore_{event}"
        for implementation in self._implementations(hook):
            try:
                _call(implementation, arguments)
            except Exception as error:
                if event == "after_plan" and isinstance(error, InputError):
                    raise
                owner = self._owners[implementation.plugin_name]
                self._manager.unregister(name=implementation.plugin_name)
                cause = f"{type(error).__name__}: {error}"
                tell = self._warn if event == "on_error" else self.leave_out  # the run's own error comes first
                tell(f"{owner} failed in {hook} and is switched off for this run ({cause})")

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """In calling order. They are called one by one, not through pluggy, so that a failure has a name."""
        return list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def _ask(self, hook: str, implementation: pluggy.HookImpl, **arguments: Any) -> Any:
        try:
            return _call(implementation, arguments)
        except MergecoreError:
            raise
        except Exception as error:
            owner = self._owners.get(implementation.plugin_name)
            if owner is None:
                raise  # core's own look-up, which is nobody's plugin
            cause = f"{type(error).__name__}: {error}"
            raise PluginError(f"{owner} failed in {hook} ({cause}): {cure(owner, error)}") from error


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    return implementation.function(*(arguments[name] for name in implementation.argnames))
