"""Models as recipes name them, opened as checkpoints whose tensors can be read in the names of a definition."""

from mergecore.models.adapters import find_adapter, open_model, with_adapter
from mergecore.models.architecture_lookup import (
    compare_names,
    fit_checkpoints,
    load_definition,
    local_definitions,
    recipe_definitions,
    stored_name,
)
from mergecore.models.checkpoint import Added, Checkpoint
from mergecore.models.fingerprints import CHUNK, fingerprint, matches_fingerprint
from mergecore.models.hub import fetch_in_parallel
from mergecore.models.references import LocatedModel, locate_model, split_adapters
from mergecore.models.remote_files import Shard, shards_of
from mergecore.models.row_reader import MEAN, ZERO, Rows, with_rows
from mergecore.models.stamps import Stamp, check_unchanged, stamp_file
from mergecore.models.vocabulary_check import VOCABULARY_CURE, check_vocabularies

__all__ = [
    "Added",
    "CHUNK",
    "Checkpoint",
    "Rows",
    "MEAN",
    "Shard",
    "LocatedModel",
    "Stamp",
    "VOCABULARY_CURE",
    "ZERO",
    "check_unchanged",
    "check_vocabularies",
    "fetch_in_parallel",
    "compare_names",
    "find_adapter",
    "fingerprint",
    "fit_checkpoints",
    "load_definition",
    "local_definitions",
    "locate_model",
    "matches_fingerprint",
    "open_model",
    "recipe_definitions",
    "shards_of",
    "split_adapters",
    "stamp_file",
    "stored_name",
    "with_adapter",
    "with_rows",
]
