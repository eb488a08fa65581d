"""Models as recipes name them, opened as checkpoints whose tensors can be read in the names of a definition."""

from mergecore.models.adapters import find_adapter, open_model, with_adapter
from mergecore.models.architecture_lookup import (
    examine,
    fit,
    load_definition,
    local_definitions,
    own_definitions,
    stored,
)
from mergecore.models.checkpoint import Added, Checkpoint
from mergecore.models.fingerprints import CHUNK, fingerprint, matches
from mergecore.models.hub import each
from mergecore.models.references import Source, locate, split
from mergecore.models.remote_files import Shard, shards_of
from mergecore.models.row_reader import MEAN, ZERO, Gathered, with_gathered
from mergecore.models.stamps import Stamp, check_unchanged, stamp
from mergecore.models.vocabulary_check import VOCABULARY_CURE, check_vocabularies

__all__ = [
    "Added",
    "CHUNK",
    "Checkpoint",
    "Gathered",
    "MEAN",
    "Shard",
    "Source",
    "Stamp",
    "VOCABULARY_CURE",
    "ZERO",
    "check_unchanged",
    "check_vocabularies",
    "each",
    "examine",
    "find_adapter",
    "fingerprint",
    "fit",
    "load_definition",
    "local_definitions",
    "locate",
    "matches",
    "open_model",
    "own_definitions",
    "shards_of",
    "split",
    "stamp",
    "stored",
    "with_adapter",
    "with_gathered",
]
