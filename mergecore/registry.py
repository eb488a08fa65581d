"""The plugins of one run: hooks joined with pluggy may provide any plugin by name, and watch what happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pluggy

from mergecore import hookspecs
from mergecore.api import OutputTokenizer, TokenizerRequest, hookimpl
from mergecore.errors import InputError, MergecoreError, PluginError
from mergecore.plugins import Plugin, architecture_definition, cure, find, listed, load


class InstalledPlugins:
    """Core's own answer to every provider hook: the installed plugin of that name."""

    @hookimpl(trylast=True)
    def mergecore_provide_method(self, name: str) -> Any:
        return load(find("methods", name))

    @hookimpl(trylast=True)
    def mergecore_provide_architecture(self, name: str) -> Any:
        known = any(plugin.name == name for plugin in listed("architectures"))
        return architecture_definition(find("architectures", name)) if known else None

    @hookimpl(trylast=True)
    def mergecore_provide_reader(self, name: str) -> Any:
        return load(find("readers", name))

    @hookimpl(trylast=True)
    def mergecore_provide_writer(self, name: str) -> Any:
        return load(find("writers", name))

    @hookimpl(trylast=True)
    def mergecore_provide_executor(self, name: str) -> Any:
        return load(find("executors", name))

    @hookimpl(trylast=True)
    def mergecore_provide_postprocessor(self, name: str) -> Any:
        return load(find("postprocessors", name))

    @hookimpl(trylast=True)
    def mergecore_provide_evaluator(self, name: str) -> Any:
        return load(find("evaluators", name))

    @hookimpl(trylast=True)
    def mergecore_provide_optimizer(self, name: str) -> Any:
        return load(find("optimizers", name))


class Registry:
    """The plugins of one run: providers answer by name, observers are told of events.

    Args:
        warn: told of each hook plugin that is left out or switched off, as a sentence.
        definitions: architectures to use before the installed ones: by class name, the content of their JSON.
    """

    def __init__(self, warn: Callable[[str], None], definitions: Mapping[str, Any] | None = None) -> None:
        self.definitions = definitions or {}
        self._warn = warn
        self._manager = pluggy.PluginManager("mergecore")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(InstalledPlugins(), "mergecore")
        self._owners: dict[str, Plugin] = {}
        self._provided: dict[tuple[str, str], Plugin | None] = {}
        for plugin in listed("hooks"):
            self._register(plugin)

    def _register(self, plugin: Plugin) -> None:
        key = f"{plugin.distribution}:{plugin.name}"
        try:
            find("hooks", plugin.name)
            self._manager.register(load(plugin), key)
            self._manager.check_pending()
        except (PluginError, pluggy.PluginValidationError) as error:
            self._manager.unregister(name=key) if self._manager.has_plugin(key) else None
            self._warn(f"{plugin} is left out of this run: {error}")
        else:
            self._owners[key] = plugin

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

    def used(self, *kinds: str) -> list[Plugin]:
        """Whose the plugins of these kinds are that were provided so far: installed ones, or the hook that answered."""
        return [owner or find(kind, name) for (kind, name), owner in self._provided.items() if kind in kinds]

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
                self._warn(
                    f"{owner} failed in {hook} and is switched off for this run ({type(error).__name__}: {error})"
                )

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
