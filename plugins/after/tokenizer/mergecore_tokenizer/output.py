"""The output's tokenizer: its tokens, the source of their rows, and its files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergecore.api import (
    VOCABULARY_FILES,
    InputError,
    ModelError,
    ModelInfo,
    OutputTokenizer,
    TokenizerRequest,
    lies_within,
)
from mergecore_tokenizer import chat, special
from mergecore_tokenizer.files import as_json, read_bytes, read_optional, tokenizer_files
from mergecore_tokenizer.growing import grown
from mergecore_tokenizer.reading import PLAIN, Entry, Read, read
from mergecore_tokenizer.rows import Models, vocabulary

Files = dict[str, bytes]


def make(request: TokenizerRequest) -> OutputTokenizer:
    """Build the tokenizer that a recipe's `tokenizer` and `chat_template` describe.

    Raises:
        InputError: the request cannot be fulfilled.
    """
    config_source = request.models[request.config_source]
    folders = [model.tokenizer_folder for model in request.models]
    if request.tokenizer is None:
        folder = config_source.tokenizer_folder
        read_optional(folder / "tokenizer_config.json")  # rejects files that `chat.apply` cannot parse
        files, left = _files(folder)
        said, after = chat.apply(request, folders, files)
        own = read(config_source.reference, folder) if after is not None else None
        ends = chat.turn_notes(after, own.ids, _stops(config_source, files, {})) if own and after is not None else []
        return OutputTokenizer(None, files, {}, (*left, *said, *ends))
    readers, without = _readers(request)
    source, place = _source(request, readers)
    wanted = request.tokenizer.get("tokens") or {}
    union = request.tokenizer.get("source", "union") == "union"
    ids = _ids(source, [item for item in readers if item] if union else [], wanted)
    models = Models([model.reference for model in request.models], readers, request.rows, request.config_source)
    rows, notes = vocabulary(ids, models, place, wanted, request.tokenizer.get("pad_to_multiple_of", 1))
    added, conflicts = _added(ids, source, readers if union else [], wanted)
    files, left = _files(source.folder)
    if len(ids) > len(source.ids) or added.keys() != source.added.keys():
        left += _grow(files, source, ids, added)
    changes, lost = special.changes(config_source, source, readers[request.config_source], ids, files)
    base = readers[request.config_source]
    differs = source is not base and source.ids != base.ids
    said, after = chat.apply(request, folders, files)
    notes = [
        *_summary(ids, source, readers),
        *([f"text is tokenized as {source.reference} does it, not as {base.reference} does"] if differs else []),
        *without,
        *notes,
        *conflicts,
        *left,
        *lost,
        *said,
        *(chat.turn_notes(after, ids, _stops(config_source, files, changes)) if after is not None else []),
    ]
    return OutputTokenizer(rows, files, changes, tuple(notes), [item.ids for item in readers])


def _stops(config_source: ModelInfo, files: Files, changes: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the configs of the output that can list stop tokens, the most important first."""
    written = files.get("generation_config.json")
    generation = json.loads(written) if written else read_optional(config_source.folder / "generation_config.json")
    changed = {key.rpartition(".")[2]: value for key, value in changes.items()}
    inner = config_source.config.get("text_config")
    return [generation, changed, config_source.config, inner if isinstance(inner, Mapping) else {}]


def _readers(request: TokenizerRequest) -> tuple[list[Read], list[str]]:
    """Return the models' tokenizers and notes. A model without one is assumed to use the config source's."""
    found = [read(model.reference, model.tokenizer_folder) for model in request.models]
    base = found[request.config_source]
    if base is None:
        folder = request.models[request.config_source].tokenizer_folder
        raise InputError(f"{folder}: has no tokenizer files, such as tokenizer.json; download them too")
    notes = [
        f"{model.reference}: has no tokenizer files, so it is assumed to use those of {base.reference}"
        for model, item in zip(request.models, found)
        if item is None
    ]
    return [item or base for item in found], notes


def _source(request: TokenizerRequest, readers: Sequence[Read]) -> tuple[Read, int | None]:
    """Return the tokenizer to start from and, if it belongs to a merged model, the position of that model."""
    assert request.tokenizer is not None
    name = request.tokenizer.get("source", "union")
    if name in ("union", "base"):
        return readers[request.config_source], request.config_source
    folder = Path(os.path.expanduser(name))
    for place, model in enumerate(request.models):
        if name == model.reference or (folder.is_dir() and folder.samefile(model.tokenizer_folder)):
            return readers[place], place
    try:
        folder = request.find(name)
    except ModelError as error:
        raise InputError(f"source: {name!r} is not union, base, or a model: {error}") from None
    found = read(name, folder)
    if found is None:
        raise InputError(f"{folder}: has no tokenizer files, such as tokenizer.json; download them too")
    return found, None


def _ids(source: Read, others: Sequence[Read], wanted: Mapping[str, Any]) -> dict[str, int]:
    """Return the ID of every output token: the source's tokens, then each model's others in order, then new ones."""
    ids = dict(source.ids)
    following = max(ids.values(), default=-1) + 1
    listed = [sorted(item.ids, key=item.ids.__getitem__) for item in others]
    for token in [*(token for tokens in listed for token in tokens), *wanted]:
        if token not in ids:
            ids[token] = following
            following += 1
    return ids


def _added(
    ids: Mapping[str, int], source: Read, others: Sequence[Read], wanted: Mapping[str, Any]
) -> tuple[dict[str, Entry], list[str]]:
    """Return the output's added tokens and notes. If models define a token differently, the first definition wins."""
    added: dict[str, Entry] = dict(source.added)
    differing = []
    for item in others:
        for token, entry in item.added.items():
            first = added.setdefault(token, entry)
            if any(first.get(key, False) != entry.get(key, False) for key in PLAIN):
                differing.append(token)
    known = {token for item in (source, *others) for token in item.ids}
    for token in wanted:
        if token not in known:
            added[token] = {**PLAIN, "content": token}
    notes = []
    if differing:
        more = f" and {len(set(differing)) - 1} more" if len(set(differing)) > 1 else ""
        how = "differently (special flag or whitespace handling); the first definition is used"
        notes = [f"the models define {differing[0]!r}{more} {how}"]
    return {token: {**entry, "id": ids[token]} for token, entry in added.items()}, notes


def _files(folder: Path) -> tuple[Files, list[str]]:
    """Return a folder's tokenizer files, and notes about links that leave the folder."""
    files: Files = {}
    notes = []
    for path in tokenizer_files(folder):
        if not lies_within(folder, path):
            notes.append(f"{path}: is a link to a file outside the model's folder, so it is not copied")
        else:
            files[path.relative_to(folder).as_posix()] = read_bytes(path)
    return files, notes


def _grow(files: Files, source: Read, ids: Mapping[str, int], added: Mapping[str, Entry]) -> list[str]:
    """Write the extended vocabulary to tokenizer.json and drop files with the old vocabulary in other formats."""
    value = grown(source, ids, added)
    files["tokenizer.json"] = as_json(value)
    for name in list(files):
        if any(Path(name).match(pattern) for pattern in VOCABULARY_FILES):
            del files[name]
    settings = read_optional(source.folder / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        entries = sorted(added.values(), key=lambda entry: int(entry["id"]))
        named = {str(entry["id"]): {key: entry.get(key, False) for key in ("content", *PLAIN)} for entry in entries}
        files["tokenizer_config.json"] = as_json({**settings, "added_tokens_decoder": named})
    whole_words = value["model"].get("ignore_merges") or value["model"]["type"] == "WordPiece"
    note = f"{source.reference}: its tokenizer prefers whole words, so text might be tokenized with new tokens"
    return [note] if whole_words else []


def _summary(ids: Mapping[str, int], source: Read, readers: Sequence[Read]) -> list[str]:
    """Return notes about the vocabulary."""
    new = len(ids) - len(source.ids)
    more = f" and {new} more" if new else ""
    notes = [f"vocabulary: the {len(source.ids)} tokens of {source.reference}{more}; rows are merged token by token"]
    for item in {id(item): item for item in readers if item is not source}.values():
        if lacking := len(ids.keys() - item.ids.keys()):
            notes.append(f"{item.reference}: has no row for {lacking} of these tokens; other models provide them")
    styles = {style: item.reference for item in (source, *readers) if (style := word_start(item.ids))}
    if len(styles) > 1:
        (one, first), (other, second) = list(styles.items())[:2]
        notes.append(
            f"{first} marks the start of a word with {one!r}, {second} with {other!r}. They share few tokens,"
            " so most rows come from one model only"
        )
    return notes


def word_start(ids: Mapping[str, int]) -> str | None:
    """Return the character that marks word starts: Ġ for byte-level BPE or ▁ for SentencePiece."""
    counts = {mark: sum(token.startswith(mark) for token in ids) for mark in "Ġ▁"}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None
