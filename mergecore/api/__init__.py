"""The plugin API: `from mergecore.api import DeltaMethod, Tile, param, ...`."""

from pluggy import HookimplMarker

from mergecore.api.adapters import Adapter, AdapterRequest, Change
from mergecore.api.bounded import Bounded, encode_texts, run_bounded
from mergecore.api.cards import (
    hub_reference,
    license_kind,
    license_of,
    license_words,
    licenses_agree,
    licenses_conflict,
    read_card,
)
from mergecore.api.evaluation import Evaluation, Evaluator, Optimizer, Score, Subject
from mergecore.api.execution import TILE_ELEMENTS, Budget, TileMerger, in_threads, keep_freed_pages, merge_piece
from mergecore.api.files import (
    FLOAT8,
    FLOATS,
    ITEM_BYTES,
    DerivedReader,
    PlacedWriter,
    Reader,
    TensorInfo,
    Writer,
    torch_dtype,
)
from mergecore.api.jobs import Executor, Input, Job, Piece, TensorIO, Tiles, Work
from mergecore.api.kernels import Kernels
from mergecore.api.memory import BytesReader, BytesWriter, as_tensor, new_memory
from mergecore.api.merged_model import MergedModel, ModelInfo, PostProcessor
from mergecore.api.methods import BLOCK, Base, Context, DeltaMethod, Method, Tile, WeightMethod
from mergecore.api.parameters import PerModel, param
from mergecore.api.reading import lies_within, open_file, read_json, read_text
from mergecore.api.tokenizer_files import TOKENIZER_BYTES, TOKENIZER_FILES, VOCABULARY_FILES
from mergecore.api.vocabulary import OutputTokenizer, TokenizerRequest, Vocabulary
from mergecore.errors import ArchitectureError, InputError, ModelError, PluginError, RunError
from mergecore.system import read_at

hookimpl = HookimplMarker("mergecore")
"""Decorator that marks a function in a `mergecore.v1.hooks` module as a hook implementation."""

__all__ = [
    "ArchitectureError",
    "BLOCK",
    "FLOAT8",
    "FLOATS",
    "ITEM_BYTES",
    "TILE_ELEMENTS",
    "TOKENIZER_BYTES",
    "TOKENIZER_FILES",
    "VOCABULARY_FILES",
    "Adapter",
    "AdapterRequest",
    "Base",
    "Bounded",
    "Budget",
    "BytesReader",
    "BytesWriter",
    "Change",
    "Context",
    "DeltaMethod",
    "DerivedReader",
    "Evaluation",
    "Evaluator",
    "Executor",
    "Input",
    "InputError",
    "Job",
    "Kernels",
    "MergedModel",
    "Method",
    "ModelError",
    "ModelInfo",
    "Optimizer",
    "OutputTokenizer",
    "PerModel",
    "Piece",
    "PlacedWriter",
    "PluginError",
    "PostProcessor",
    "Reader",
    "RunError",
    "Score",
    "Subject",
    "TensorIO",
    "TensorInfo",
    "Tile",
    "TileMerger",
    "Tiles",
    "TokenizerRequest",
    "Vocabulary",
    "WeightMethod",
    "Work",
    "Writer",
    "as_tensor",
    "encode_texts",
    "hookimpl",
    "hub_reference",
    "in_threads",
    "keep_freed_pages",
    "license_kind",
    "license_of",
    "license_words",
    "licenses_agree",
    "licenses_conflict",
    "lies_within",
    "merge_piece",
    "new_memory",
    "open_file",
    "param",
    "read_at",
    "read_card",
    "read_json",
    "read_text",
    "run_bounded",
    "torch_dtype",
]
