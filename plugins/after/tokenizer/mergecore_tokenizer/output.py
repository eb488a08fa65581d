"""The output's tokenizer: which tokens it has, where their rows come from, and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergecore.api import VOCABULARY_FILES, InputError, ModelError, OutputTokenizer, TokenizerRequest, lies_within
from mergecore_tokenizer import chat, special
from mergecore_tokenizer.files import as_json, read_json, tokenizer_files
from mergecore_tokenizer.growing import grown
from mergecore_tokenizer.reading import PLAIN, Entry, Read, read
from mergecore_tokenizer.rows import Models, vocabulary

Files = dict[str, bytes]


def make(request: TokenizerRequest) -> OutputTokenizer:
    """Answer a recipe's `tokenizer` and `chat_template`.

    Raises:
        InputError: what is wanted cannot be done, in a sentence.
    """
    donor = request.models[request.donor]
    folders = [model.folder for model in request.models]
    if request.tokenizer is None:
        files, left = _files(donor.folder)
        notes = [*left, *chat.apply(request, folders, files)]
        return OutputTokenizer(None, files, {}, tuple(notes))
    readers, without = _readers(request)
    source, place = _source(request, readers)
    wanted = request.tokenizer.get("tokens") or {}
    union = request.tokenizer.get("source", "union") == "union"
    ids = _ids(source, [item for item in readers if item] if union else [], wanted)
    models = Models([model.reference for model in request.models], readers, request.rows, request.donor)
    rows, notes = vocabulary(ids, models, place, wanted, request.tokenizer.get("pad_to_multiple_of", 1))
    added, conflicts = _added(ids, source, readers if union else [], wanted)
    files, left = _files(source.folder)
    if len(ids) > len(source.ids) or added.keys() != source.added.keys():
        left += _grow(files, source, ids, added)
    changes, lost = special.changes(donor, source, readers[request.donor], ids, files)
    notes = [
        *_summary(ids, source, readers),
        *without,
        *notes,
        *conflicts,
        *left,
        *lost,
        *chat.apply(request, folders, files),
    ]
    return OutputTokenizer(rows, files, changes, tuple(notes), [item.ids for item in readers])


def _readers(request: TokenizerRequest) -> tuple[list[Read], list[str]]:
    """The models' tokenizers; a model without one is taken to have the donor's, and a note says so."""
    found = [read(model.reference, model.folder) for model in request.models]
    base = found[request.donor]
    if base is None:
        folder = request.models[request.donor].folder
        raise InputError(f"{folder}: has no tokenizer files, such as tokenizer.json; fetch them too")
    notes = [
        f"{model.reference}: has no tokenizer files, so it is taken to have those of {base.reference}"
        for model, item in zip(request.models, found)
        if item is None
    ]
    return [item or base for item in found], notes


def _source(request: TokenizerRequest, readers: Sequence[Read]) -> tuple[Read, int | None]:
    """The tokenizer that the output's is made from, and its model's position, if it is one of those merged."""
    assert request.tokenizer is not None
    name = request.tokenizer.get("source", "union")
    if name in ("union", "base"):
        return readers[request.donor], request.donor
    folder = Path(name).expanduser()
    for place, model in enumerate(request.models):
        if name == model.reference or (folder.is_dir() and folder.samefile(model.folder)):
            return readers[place], place
    try:
        folder = request.find(name)
    except ModelError as error:
        raise InputError(f"source: {name!r} is neither union nor base, and {error}") from None
    found = read(name, folder)
    if found is None:
        raise InputError(f"{folder}: has no tokenizer files, such as tokenizer.json; fetch them too")
    return found, None


def _ids(source: Read, others: Sequence[Read], wanted: Mapping[str, Any]) -> dict[str, int]:
    """The number of every output token: the source's stay, then come each model's own in its order, then new ones."""
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
    """The output's added tokens; where models define one differently, the first counts, and a note says so."""
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
        how = "differently (special, or how spaces count); the first definition counts"
        notes = [f"the models define {differing[0]!r}{more} {how}"]
    return {token: {**entry, "id": ids[token]} for token, entry in added.items()}, notes


def _files(folder: Path) -> tuple[Files, list[str]]:
    """A folder's tokenizer files, and notes on those that are not its own."""
    files: Files = {}
    notes = []
    for path in tokenizer_files(folder):
        if not lies_within(folder, path):
            notes.append(f"{path}: is a link that leads out of the model's folder, so it is not copied")
        else:
            files[path.relative_to(folder).as_posix()] = path.read_bytes()
    return files, notes


def _grow(files: Files, source: Read, ids: Mapping[str, int], added: Mapping[str, Entry]) -> list[str]:
    """Write the larger vocabulary into tokenizer.json; files that hold the old one in other formats are left out."""
    value = grown(source, ids, added)
    files["tokenizer.json"] = as_json(value)
    for name in list(files):
        if any(Path(name).match(pattern) for pattern in VOCABULARY_FILES):
            del files[name]
    settings = read_json(source.folder / "tokenizer_config.json")
    if "added_tokens_decoder" in settings:
        entries = sorted(added.values(), key=lambda entry: int(entry["id"]))
        named = {str(entry["id"]): {key: entry.get(key, False) for key in ("content", *PLAIN)} for entry in entries}
        files["tokenizer_config.json"] = as_json({**settings, "added_tokens_decoder": named})
    whole_words = value["model"].get("ignore_merges") or value["model"]["type"] == "WordPiece"
    note = f"{source.reference}: its tokenizer takes whole words where it can, so text may be cut into new tokens"
    return [note] if whole_words else []


def _summary(ids: Mapping[str, int], source: Read, readers: Sequence[Read]) -> list[str]:
    """What the author should know of the vocabulary."""
    new = len(ids) - len(source.ids)
    more = f" and {new} more" if new else ""
    notes = [f"vocabulary: the {len(source.ids)} tokens of {source.reference}{more}; rows are merged token by token"]
    for item in {id(item): item for item in readers if item is not source}.values():
        if lacking := len(ids.keys() - item.ids.keys()):
            notes.append(f"{item.reference}: lacks {lacking} of these tokens; their rows come from the other models")
    styles = {style: item.reference for item in (source, *readers) if (style := word_start(item.ids))}
    if len(styles) > 1:
        (one, first), (other, second) = list(styles.items())[:2]
        notes.append(
            f"{first} writes the start of a word as {one!r}, {second} as {other!r}: few of their tokens agree,"
            " so most rows come from one model only"
        )
    return notes


def word_start(ids: Mapping[str, int]) -> str | None:
    """The character that most tokens at the start of a word begin with: Ġ of byte-level BPE, or ▁ of SentencePiece."""
    counts = {mark: sum(token.startswith(mark) for token in ids) for mark in "Ġ▁"}
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] else None
