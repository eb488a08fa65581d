"""Plugins in a single Python file given on the command line, without a package or entry points."""

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
from mergecore.discovery.contracts import check_contract
from mergecore.discovery.entry_points import Plugin
from mergecore.errors import PluginError


class PluginFile:
    """The plugins in one file, which take precedence over installed ones.

    Methods, post-processors, and evaluators are the classes defined in the file. Their plugin names are the class names
    in snake case: `MyMean` becomes ``my_mean``. Hooks in the same file can provide all other kinds.

    Args:
        path: path of the file.

    Raises:
        PluginError: if it cannot be imported, contains no plugin, or contains an invalid one.
    """

    def __init__(self, path: Path) -> None:
        self.module, digest = _imported(path)
        # The path and a digest of the contents replace the name and version of a distribution.
        self.plugin = Plugin("hooks", path.stem, str(path), str(path), digest)
        own = [item for item in vars(self.module).values() if isinstance(item, type)]
        own = [item for item in own if item.__module__ == self.module.__name__ and not item.__name__.startswith("_")]
        self.classes = {
            kind: {escaped_name(item.__name__): item for item in own if issubclass(item, frame)}
            for kind, frame in (("methods", Method), ("postprocessors", PostProcessor), ("evaluators", Evaluator))
        }
        has_hooks = any(hasattr(item, "mergecore_impl") for item in vars(self.module).values() if callable(item))
        if not (has_hooks or any(self.classes.values())):
            raise PluginError(f"{path}: contains no method, post-processor, evaluator, or function with @hookimpl")
        try:
            for kind, classes in self.classes.items():
                for item in classes.values():
                    check_contract(kind, item)
            check_contract("hooks", self.module)
        except Exception as error:
            raise PluginError(f"{path}: cannot be used ({type(error).__name__}: {error}); fix it there") from error

    @hookimpl
    def mergecore_provide_method(self, name: str) -> Any:
        return self.classes["methods"].get(name)

    @hookimpl
    def mergecore_provide_postprocessor(self, name: str) -> Any:
        return self.classes["postprocessors"].get(name)

    @hookimpl
    def mergecore_provide_evaluator(self, name: str) -> Any:
        return self.classes["evaluators"].get(name)


def escaped_name(name: str) -> str:
    """Return the plugin name of a class: ``MyMean`` and ``SVDMerge`` become ``my_mean`` and ``svd_merge``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _imported(path: Path) -> tuple[ModuleType, str]:
    """Import a file. Return the module and a digest of the file's contents."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise PluginError(f"{path}: cannot be read: {error.strerror}; --plugin needs a Python file") from None
    name = f"mergecore_file_{digest}"
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"{path}: is not a Python file; its name must end with .py")
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look it up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        frames = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = getattr(error, "lineno", None) or (frames[-1] if frames else None)
        place = f"{path}:{line}" if line else str(path)
        raise PluginError(f"{place}: cannot be used ({type(error).__name__}: {error}); fix it there") from error
    return module, digest
