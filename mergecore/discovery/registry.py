"""The plugins of one run. Hooks, managed with pluggy, can provide any plugin by name and observe events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pluggy

from mergecore import hookspecs
from mergecore.api import Adapter, AdapterRequest, Kernels, Method, OutputTokenizer, TokenizerRequest, hookimpl
from mergecore.discovery.entry_points import (
    DISABLE,
    KINDS,
    Plugin,
    architecture_definition,
    disabled,
    find_plugin,
    installed_plugins,
    list_plugins,
    load_plugin,
    normalized_name,
    suggest_fix,
)
from mergecore.discovery.local_files import PluginFile
from mergecore.errors import InputError, MergecoreError, PluginError


class InstalledPlugins:
    """Core's implementation of every provider hook, which returns the installed plugin with that name."""

    def __init__(self) -> None:
        self.prefer: Sequence[str] = ()

    def find(self, kind: str, name: str) -> Plugin:
        return find_plugin(kind, name, self.prefer)

    @hookimpl(trylast=True)
    def mergecore_provide_method(self, name: str) -> Any:
        return load_plugin(self.find("methods", name))

    @hookimpl(trylast=True)
    def mergecore_provide_architecture(self, name: str) -> Any:
        known = any(plugin.name == name for plugin in list_plugins("architectures"))
        return architecture_definition(self.find("architectures", name)) if known else None

    @hookimpl(trylast=True)
    def mergecore_provide_reader(self, name: str) -> Any:
        return load_plugin(self.find("readers", name))

    @hookimpl(trylast=True)
    def mergecore_provide_writer(self, name: str) -> Any:
        return load_plugin(self.find("writers", name))

    @hookimpl(trylast=True)
    def mergecore_provide_executor(self, name: str) -> Any:
        return load_plugin(self.find("executors", name))

    @hookimpl(trylast=True)
    def mergecore_provide_postprocessor(self, name: str) -> Any:
        return load_plugin(self.find("postprocessors", name))

    @hookimpl(trylast=True)
    def mergecore_provide_evaluator(self, name: str) -> Any:
        return load_plugin(self.find("evaluators", name))

    @hookimpl(trylast=True)
    def mergecore_provide_optimizer(self, name: str) -> Any:
        return load_plugin(find_plugin("optimizers", name))


class Registry:
    """The plugins of one run. Provider hooks are called by name, and observers are notified of events.

    Args:
        warn: called with a warning about each plugin that is skipped or disabled.
        definitions: parsed architecture definitions to use before the installed ones, by class name.
        files: Python files whose plugins take precedence over all others. See `PluginFile`.
        hooks: whether to load the installed hook plugins.
        strict: raise PluginError instead of skipping or disabling a plugin.
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
        for plugin in list_plugins("hooks") if hooks else ():
            self._register(plugin)
        self._files = [PluginFile(path) for path in files]
        for file in reversed(self._files):  # pluggy calls the latest plugin first
            for holder in (file.module, file):
                self.add_hooks(file.plugin, holder)

    def _check_disabled(self) -> None:
        if not disabled():
            return
        known = {label for kind in KINDS for plugin in installed_plugins(kind) for label in plugin.labels}
        for name in sorted(disabled().difference(known)):
            self.leave_out(f"{DISABLE} contains {name!r}, which is not an installed plugin or distribution")

    def _register(self, plugin: Plugin) -> None:
        try:
            find_plugin("hooks", plugin.name)
            self.add_hooks(plugin, load_plugin(plugin))
        except (PluginError, pluggy.PluginValidationError) as error:
            self.leave_out(f"skipping {plugin} in this run: {error}")

    def add_hooks(self, plugin: Plugin, holder: Any) -> None:
        """Register the hook implementations of a module or object. They are called before the existing ones.

        Raises:
            pluggy.PluginValidationError: if an implementation is not for a known hook or has unknown arguments.
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
        """Warn that the run continues without an installed plugin, or raise PluginError if strict."""
        if self._strict:
            raise PluginError(f"{sentence} (--strict-plugins)")
        self._warn(sentence)

    def prefer(self, distributions: Sequence[str]) -> None:
        """Set the distributions to prefer, in order, if several have a plugin with the same name.

        Raises:
            PluginError: if one of them is not installed.
        """
        known = (
            {normalized_name(plugin.distribution) for kind in KINDS for plugin in list_plugins(kind)}
            if distributions
            else set()
        )
        for name in distributions:
            if normalized_name(name) not in known:
                raise PluginError(f"no plugin from distribution {name!r} is installed: pip install {name}")
        self._installed.prefer = distributions

    def all_methods(self) -> dict[str, type[Method]]:
        """Return every method by name, without those that cannot be loaded."""
        found = {}
        for name in self.names("methods"):
            try:
                found[name] = self.provide("methods", name)
            except PluginError as error:
                self.leave_out(f"skipping method {name!r}: {error}")
        return found

    def names(self, kind: str) -> list[str]:
        """Return the names of all plugins of a kind, with those from plugin files first."""
        own = [name for file in self._files for name in file.classes.get(kind, ())]
        return list(dict.fromkeys([*own, *(plugin.name for plugin in list_plugins(kind))]))

    def provide(self, kind: str, name: str) -> Any:
        """Return the plugin object of a kind called `name`, from the first provider that knows it.

        Return None if no provider has an architecture, because it can be inferred.

        Raises:
            PluginError: if no provider has it, or a provider failed.
        """
        implementation, answer = self._first(f"mergecore_provide_{kind.removesuffix('s')}", name=name)
        if implementation is not None:
            self._provided[kind, name] = self._owners.get(implementation.plugin_name)
        return answer

    def kernels(self) -> Kernels | None:
        """Return the installed native code, or None. Runs without it have the same result, and take longer."""
        for plugin in list_plugins("kernels"):
            try:
                found: Kernels = load_plugin(plugin)()
            except (PluginError, OSError) as error:
                self.leave_out(f"running without {plugin}: {error}")
                continue
            self._provided["kernels", plugin.name] = plugin
            return found
        return None

    def tokenizer(self, request: TokenizerRequest) -> OutputTokenizer | None:
        """Return the output's tokenizer from the first plugin that provides one, or None."""
        implementation, answer = self._first("mergecore_provide_tokenizer", request=request)
        if implementation is not None:
            self._provided["tokenizers", ""] = self._owners[implementation.plugin_name]
        assert answer is None or isinstance(answer, OutputTokenizer)
        return answer

    def adapter(self, request: AdapterRequest) -> Adapter | None:
        """Return the adapter in a folder from the first plugin that recognizes it, or None."""
        implementation, answer = self._first("mergecore_provide_adapter", request=request)
        if implementation is not None:
            self._provided["adapters", implementation.plugin_name] = self._owners[implementation.plugin_name]
        assert answer is None or isinstance(answer, Adapter)
        return answer

    def used(self, *kinds: str) -> list[Plugin]:
        """Return the owners of all plugins of these kinds provided so far. See `owner`."""
        return [self.owner(kind, name) for kind, name in self._provided if kind in kinds]

    def owner(self, kind: str, name: str) -> Plugin:
        """Return the owner of a provided plugin: the installed plugin, or the hook plugin that provided it."""
        return self._provided[kind, name] or self._installed.find(kind, name)

    def _first(self, hook: str, **arguments: Any) -> tuple[pluggy.HookImpl | None, Any]:
        """Return the first result of a provider hook that is not None, and the implementation that returned it."""
        asked = ((item, self._ask(hook, item, **arguments)) for item in self._implementations(hook))
        return next(((item, answer) for item, answer in asked if answer is not None), (None, None))

    def before_plan(self, recipe: Mapping[str, Any]) -> None:
        """Call every `before_plan` hook, which can reject the recipe."""
        for implementation in self._implementations("mergecore_before_plan"):
            self._ask("mergecore_before_plan", implementation, recipe=recipe)

    def notify(self, event: str, **arguments: Any) -> None:
        """Notify every observer of an event. An observer that fails is reported and disabled for this run.

        Raises:
            InputError: if an observer rejects the plan.
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
                tell(f"{owner} failed in {hook} and is disabled for this run ({cause})")

    def _implementations(self, hook: str) -> list[pluggy.HookImpl]:
        """Return implementations in calling order. Calling them separately shows which one failed."""
        return list(reversed(getattr(self._manager.hook, hook).get_hookimpls()))

    def _ask(self, hook: str, implementation: pluggy.HookImpl, **arguments: Any) -> Any:
        try:
            return _call(implementation, arguments)
        except MergecoreError:
            raise
        except Exception as error:
            owner = self._owners.get(implementation.plugin_name)
            if owner is None:
                raise  # core's lookup, which does not belong to a plugin
            cause = f"{type(error).__name__}: {error}"
            raise PluginError(f"{owner} failed in {hook} ({cause}): {suggest_fix(owner, error)}") from error


def _call(implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
    return implementation.function(*(arguments[name] for name in implementation.argnames))
