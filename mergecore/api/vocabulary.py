"""The request and response types for tokenizer plugins, which decide the output's vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api.merged_model import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TokenizerRequest:
    """The tokenizer settings of a recipe, and the models.

    Attributes:
        tokenizer: the recipe's ``tokenizer`` mapping. None leaves the vocabularies unchanged.
        chat_template: the recipe's ``chat_template``, if any.
        folder: folder of the recipe, which its file names are relative to.
        models: the input models, in the order of the recipe.
        rows: number of rows that each model's weights have along the vocabulary axis.
        config_source: index in `models` of the config source, which is the base model or else the first model.
        find: returns the folder of any model by its reference. The small files of a model on the Hub are downloaded.
            Raises ModelError if the model does not exist.
    """

    tokenizer: Mapping[str, Any] | None
    chat_template: str | None
    folder: Path
    models: Sequence[ModelInfo]
    rows: Sequence[int]
    config_source: int
    find: Callable[[str], Path]


@dataclass(frozen=True)
class Vocabulary:
    """The source of each output row of weights with a vocabulary axis, as two arrays of shape (models, rows).

    Attributes:
        own: each model's row for each output row, or -1 if the model has none.
        common: if a model has no row, use the mean of these rows of the models, or zeros if all are -1.
    """

    own: Rows
    common: Rows


@dataclass(frozen=True)
class OutputTokenizer:
    """The plugin's response.

    Attributes:
        vocabulary: the source of each output row. None leaves the rows unchanged.
        files: every tokenizer file of the output, by name.
        config: values to set in the output's config.json, by dotted key.
        notes: notes for the author of the recipe.
        tokens: the token IDs of each model in the request, by token. A model without a tokenizer shares the mapping
            object of the config source. Empty if the vocabularies stay unchanged.
    """

    vocabulary: Vocabulary | None
    files: Mapping[str, bytes]
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tokens: Sequence[Mapping[str, int]] = ()
