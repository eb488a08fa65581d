"""All that a plugin author imports: `from mergecore.api import DeltaMethod, Tile, param, ...`."""

from pluggy import HookimplMarker

from mergecore.api.files import FLOATS, ITEM_BYTES, Reader, TensorInfo, Writer, torch_dtype
from mergecore.api.jobs import Ends, Executor, Input, Job, MergedModel, ModelInfo, Piece, PostProcessor, Tiles, Work
from mergecore.api.methods import BLOCK, Base, Context, DeltaMethod, Method, Tile, WeightMethod
from mergecore.api.parameters import PerModel, param
from mergecore.errors import InputError, ModelError, PluginError, RunError

hookimpl = HookimplMarker("mergecore")
"""Marks a function of a `mergecore.v1.hooks` module as a hook implementation."""

__all__ = [
    "BLOCK",
    "FLOATS",
    "ITEM_BYTES",
    "Base",
    "Context",
    "DeltaMethod",
    "Ends",
    "Executor",
    "Input",
    "InputError",
    "Job",
    "MergedModel",
    "Method",
    "ModelError",
    "ModelInfo",
    "PerModel",
    "Piece",
    "PluginError",
    "PostProcessor",
    "Reader",
    "RunError",
    "TensorInfo",
    "Tile",
    "Tiles",
    "WeightMethod",
    "Work",
    "Writer",
    "hookimpl",
    "param",
    "torch_dtype",
]
