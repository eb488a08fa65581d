"""Plugins in one Python file that the command line names: no package and no entry point are needed."""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from mergecore.api import Evaluator, Method, PostProcessor, hookimpl
from mergecore.discovery.contracts import check
from mergecore.discovery.entry_points import Plugin
from mergecore.errors import PluginError


class PluginFile:
    """The plugins of one file, which answer before the installed ones.

    Methods, post-processors and evaluators are the classes defined there, each called as its class in small letters:
    `MyMean` is ``my_mean``. Everything else is provided by hooks in the same file.

    Args:
        path: the file.

    Raises:
        PluginError: it cannot be imported, or holds no plugin or one that is not what its kind asks for.
    """

    def __init__(self, path: Path) -> None:
        self.module, digest = _imported(path)
        # In place of name and version of a distribution: what changes when the file does.
        self.plugin = Plugin("hooks", path.stem, str(path), str(path), digest)
        own = [item for item in vars(self.module).values() if isinstance(item, type)]
        own = [item for item in own if item.__module__ == self.module.__name__ and not item.__name__.startswith("_")]
        self.classes = {
            kind: {spelt(item.__name__): item for item in own if issubclass(item, frame)}
            for kind, frame in (("methods", Method), ("postprocessors", PostProcessor), ("evaluators", Evaluator))
        }
        has_hooks = any(hasattr(item, "mergecore_impl") for item in vars(self.module).values() if callable(item))
        if not (has_hooks or any(self.classes.values())):
            raise PluginError(f"{path}: holds no method, post-processor or evaluator, and no function marked @hookimpl")
        try:
            for kind, classes in self.classes.items():
                for item in classes.values():
                    check(kind, item)
            check("hooks", self.module)
        except Exception as error:
            raise PluginError(f"{path}: cannot be used ({type(error).__name__}: {error}); mend it there") from error

    @hookimpl
    def mergecore_provide_method(self, name: str) -> Any:
        return self.classes["methods"].get(name)

    @hookimpl
    def mergecore_provide_postprocessor(self, name: str) -> Any:
        return self.classes["postprocessors"].get(name)

    @hookimpl
    def mergecore_provide_evaluator(self, name: str) -> Any:
        return self.classes["evaluators"].get(name)


def spelt(name: str) -> str:
    """The plugin name of a class: ``MyMean`` and ``SVDMerge`` are ``my_mean`` and ``svd_merge``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _imported(path: Path) -> tuple[ModuleType, str]:
    """The module of a file, and a digest of the file's content."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise PluginError(f"{path}: cannot be read: {error.strerror}; --plugin takes a Python file") from None
    name = f"mergecore_file_{digest}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: is no Python file; its name must end with .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (frames[-1] if frames else None)
        place = f"{path}:{line}" if line else str(path)
        raise PluginError(f"{place}: cannot be used ({type(error).__name__}: {error}); mend it there") from error
    return module, digest
