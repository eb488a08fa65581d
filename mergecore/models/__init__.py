"""Open the models that recipes name, as checkpoints whose tensors have the names from a definition."""

from mergecore.models.adapters import open_adapter, open_model, with_adapter, with_changes
from mergecore.models.architecture_lookup import (
    compare_names,
    contains,
    find_architecture,
    fit_checkpoints,
)
from mergecore.models.checkpoint import Added, Checkpoint, check_link
from mergecore.models.fingerprints import (
    CHUNK,
    DIGEST_BYTES,
    TREE_BLOCK,
    WHOLE,
    block_digests,
    fingerprint,
    matches_fingerprint,
    tree_of,
)
from mergecore.models.hub import fetch_in_parallel
from mergecore.models.hub_errors import explain_hub_errors
from mergecore.models.layout_reader import LayoutReader, Span, join_parts, rename_tensors, with_layout
from mergecore.models.references import LocatedModel, check_path, find_adapter, locate_model, split_adapters
from mergecore.models.remote_files import Shard, shards_of
from mergecore.models.row_reader import MEAN, ZERO, Rows, with_rows
from mergecore.models.sentence_modules import Labeled
from mergecore.models.stamps import Stamp, check_unchanged, stamp_file
from mergecore.models.tied_weights import source_name, stored_name, tied_heads
from mergecore.models.vocabulary_check import VOCABULARY_CURE, check_vocabularies, token_ids

__all__ = [
    "CHUNK",
    "DIGEST_BYTES",
    "MEAN",
    "TREE_BLOCK",
    "VOCABULARY_CURE",
    "WHOLE",
    "ZERO",
    "Added",
    "Checkpoint",
    "Labeled",
    "LayoutReader",
    "LocatedModel",
    "Rows",
    "Shard",
    "Span",
    "Stamp",
    "block_digests",
    "check_link",
    "check_path",
    "check_unchanged",
    "check_vocabularies",
    "compare_names",
    "contains",
    "explain_hub_errors",
    "fetch_in_parallel",
    "find_adapter",
    "find_architecture",
    "fingerprint",
    "fit_checkpoints",
    "join_parts",
    "locate_model",
    "matches_fingerprint",
    "open_adapter",
    "open_model",
    "rename_tensors",
    "shards_of",
    "source_name",
    "split_adapters",
    "stamp_file",
    "stored_name",
    "tied_heads",
    "token_ids",
    "tree_of",
    "with_adapter",
    "with_changes",
    "with_layout",
    "with_rows",
]
