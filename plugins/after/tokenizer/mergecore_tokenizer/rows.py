"""Map tokens to rows: which row of which model each output row comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mergecore.api import InputError, Vocabulary
from mergecore_tokenizer.reading import Read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Models:
    """The models to merge: their names in the recipe, tokenizers, numbers of rows, and the position of the base."""

    names: Sequence[str]
    readers: Sequence[Read]
    rows: Sequence[int]
    base: int

    def find(self, name: str) -> int:
        """Return the position of a model.

        Raises:
            InputError: the model is not one of the merged models.
        """
        if name in self.names:
            return list(self.names).index(name)
        folder = Path(os.path.expanduser(name))
        for place, reader in enumerate(self.readers):
            if folder.is_dir() and folder.samefile(reader.folder):
                return place
        raise InputError(f"tokens: {name!r} is not one of the models to merge: {', '.join(self.names)}")

    def row(self, place: int, token: str | int) -> int:
        """Return the row of a token or token ID in a model.

        Raises:
            InputError: the model has no such row.
        """
        number = token if isinstance(token, int) else self.readers[place].ids.get(token)
        name, rows = self.names[place], self.rows[place]
        if number is None:
            raise InputError(f"tokens: {name} has no token {token!r}")
        if number >= rows:
            raise InputError(f"tokens: {name} has only {rows} rows, so none for {token!r} (ID {number})")
        return number


def vocabulary(
    ids: Mapping[str, int], models: Models, source: int | None, wanted: Mapping[str, Any], multiple: int
) -> tuple[Vocabulary, list[str]]:
    """Return the rows of an output vocabulary.

    Args:
        ids: ID of every output token.
        models: models to merge.
        source: position of the model whose vocabulary comes first. Its padding rows are kept unless tokens use
            their IDs.
        wanted: the recipe's `tokens`.
        multiple: the number of rows must be a multiple of this.

    Returns:
        The rows, and notes.

    Raises:
        InputError: a token's row does not exist where the recipe or a tokenizer expects it, or does not exist at all.
    """
    size = max(max(ids.values(), default=-1) + 1, models.rows[source] if source is not None else 0)
    size = -(-size // multiple) * multiple
    own = np.full((len(models.rows), size), -1, np.int64)
    new = np.fromiter(ids.values(), np.int64, len(ids))
    for place, reader in enumerate(models.readers):
        old = np.fromiter((reader.ids.get(token, -1) for token in ids), np.int64, len(ids))
        there = (old >= 0) & (old < models.rows[place])
        own[place, new[there]] = old[there]
    if source is not None:
        spare = np.setdiff1d(np.arange(min(size, models.rows[source])), new)
        own[source, spare] = spare
    common = own.copy()
    common[:, own[models.base] >= 0] = -1
    common[models.base] = own[models.base]
    zeros = _explicit(own, common, ids, models, wanted)
    return Vocabulary(own, common), _rowless(common, ids, models, zeros)


def _explicit(own: Rows, common: Rows, ids: Mapping[str, int], models: Models, wanted: Mapping[str, Any]) -> set[str]:
    """Set the rows listed in the recipe's `tokens` and return the tokens to set to zero."""
    zeros = set()
    for token, entry in wanted.items():
        source, row = (entry or {}).get("source"), ids[token]
        force = (entry or {}).get("force", False)
        if source is None:
            if force:
                raise InputError(f"tokens: {token!r} has force: true but no source; set the source of its row")
            continue
        common[:, row] = -1
        if isinstance(source, str):
            place = models.find(source)
            common[place, row] = models.row(place, token)
        elif source["kind"] == "zero":
            zeros.add(token)
        else:
            place, number = _model_token(token, source, models)
            common[place, row] = number
        if force:
            own[:, row] = -1
    return zeros


def _model_token(token: str, source: Mapping[str, Any], models: Models) -> tuple[int, int]:
    if "model" not in source or ("token" in source) is ("token_id" in source):
        raise InputError(f"tokens: {token!r} needs a model and either token or token_id")
    place = models.find(source["model"])
    return place, models.row(place, source["token"] if "token" in source else source["token_id"])


def _rowless(common: Rows, ids: Mapping[str, int], models: Models, zeros: set[str]) -> list[str]:
    """Return a note about tokens that no model has a row for, or raise if a tokenizer expects that row."""
    empty = np.all(common < 0, axis=0)
    tokens = [token for token, row in ids.items() if empty[row] and token not in zeros]
    for token in tokens:
        for name, reader, rows in zip(models.names, models.readers, models.rows):
            if token in reader.ids:
                raise InputError(
                    f"{name}: its tokenizer assigns the ID {reader.ids[token]} to {token!r}, but it has only {rows}"
                    " rows; set the source of the row in the recipe, for example"
                    f" tokenizer: {{tokens: {{{token!r}: {{source: {{kind: zero}}}}}}}}, or fix the model"
                )
    if not tokens:
        return []
    more = f" and {len(tokens) - 1} more" if len(tokens) > 1 else ""
    return [f"{tokens[0]!r}{more}: no model has a row, so it is set to zero"]
