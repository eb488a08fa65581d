"""Older vocabulary formats are read correctly and can be extended like tokenizer.json."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path

import pytest
import transformers
from mergecore_tokenizer import sentencepiece, tiktoken
from mergecore_tokenizer.reading import read
from tiny_llamas import write_model
from tokenizer_models import TEXTS, byte_level, ids, model, unigram
from tokenizers import Tokenizer

import mergecore
from mergecore.errors import InputError

TEXT = TEXTS["sea"][0]


def field(number: int, value: bytes | float | int) -> bytes:
    """Return one protobuf field."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    head = varint(number << 3 | (2 if isinstance(value, bytes) else 0))
    return head + (varint(len(value)) + value if isinstance(value, bytes) else varint(value))


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def sentencepiece_file(path: Path, pieces: list[tuple[str, float, int]], kind: int) -> None:
    entries = [field(1, field(1, text.encode()) + field(2, score) + field(3, form)) for text, score, form in pieces]
    path.write_bytes(b"".join(entries) + field(2, field(3, kind) + field(35, 1)))


LETTERS = sorted(set("▁" + TEXT.replace(" ", "")))
BPE_PIECES = [
    ("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), *((f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)),
    ("▁s", -1.0, 1), ("th", -2.0, 1), ("▁sea", -5.0, 1), ("ea", -3.0, 1), ("▁th", -4.0, 1), ("▁the", -6.0, 1),
    *((letter, -100.0, 1) for letter in LETTERS),
]  # fmt: skip


def test_a_sentencepiece_bpe_model_cuts_text_by_its_scores(tmp_path: Path) -> None:
    sentencepiece_file(tmp_path / "tokenizer.model", BPE_PIECES, 2)
    found = read("m", tmp_path)
    assert found is not None
    assert list(found.ids) == [text for text, _, _ in BPE_PIECES] and set(found.added) == {"<unk>", "<s>", "</s>"}
    made = Tokenizer.from_str(json.dumps(found.build()))
    assert made.encode("the sea 日").tokens == ["▁the", "▁sea", "▁", "<0xE6>", "<0x97>", "<0xA5>"]
    assert made.decode(made.encode(f"{TEXT} 日").ids) == f"{TEXT} 日"


def test_a_sentencepiece_unigram_model_cuts_text_as_its_tokenizer_json(tmp_path: Path) -> None:
    own = unigram("sea")
    pieces = json.loads(own.to_str())["model"]["vocab"]
    kinds = {"<unk>": 2, "</s>": 3}
    sentencepiece_file(
        tmp_path / "spiece.model", [(text, float(score), kinds.get(text, 1)) for text, score in pieces], 1
    )
    found = read("m", tmp_path)
    assert found is not None
    made = Tokenizer.from_str(json.dumps(found.build()))
    assert made.encode(TEXT).ids == own.encode(TEXT).ids and made.decode(made.encode(TEXT).ids) == TEXT


def test_ranks_and_vocab_json_cut_text_as_their_tokenizer_json(tmp_path: Path) -> None:
    own = byte_level("sea")
    octets = {character: byte for byte, character in tiktoken.characters().items()}
    lines = [
        base64.b64encode(bytes(octets[c] for c in token)).decode() + f" {n}" for token, n in own.get_vocab().items()
    ]
    for name in ("ranks", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "ranks/x.tiktoken").write_text("\n".join(lines))
    own.model.save(str(tmp_path / "old"))
    (tmp_path / "old/added_tokens.json").write_text('{"<x>": 290}')
    for name in ("ranks", "old"):
        found = read("m", tmp_path / name)
        assert found is not None
        assert found.ids == {**own.get_vocab(), **({"<x>": 290} if name == "old" else {})}
        assert Tokenizer.from_str(json.dumps(found.build())).encode(TEXT).ids == own.encode(TEXT).ids


def test_a_base_with_only_tokenizer_model_merges_with_one_that_has_only_tokenizer_json(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", 1, vocab_size=len(BPE_PIECES))
    sentencepiece_file(base / "tokenizer.model", BPE_PIECES, 2)
    other = model(tmp_path / "other", 2, byte_level("code", special=["<|im_end|>"]))
    entries = [{"model": str(item), "parameters": {"weight": 0.5}} for item in (base, other)]
    for source in ("union", "base"):
        out = tmp_path / f"{source}-out"
        mergecore.run({"merge_method": "linear", "models": entries, "tokenizer_source": source}, out)
        files = {path.name for path in out.iterdir() if "token" in path.name}
        assert files == ({"tokenizer.json"} if source == "union" else {"tokenizer.model"})
    assert set(ids(tmp_path / "union-out")) == {text for text, _, _ in BPE_PIECES} | set(ids(other))
    made = transformers.AutoTokenizer.from_pretrained(tmp_path / "union-out")
    assert made.decode(made.encode(f"{TEXT}<|im_end|>", add_special_tokens=False)) == f"{TEXT}<|im_end|>"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", b"version https://git-lfs", "cannot be parsed as JSON"),
        ("tokenizer.json", b'{"model": {}}', "is not a tokenizer of the tokenizers library"),
        ("tokenizer.model", b"version https://git-lfs", "is not a SentencePiece model"),
        ("tokenizer.model", field(1, field(1, b"whole") + field(2, 0.5))[:-2], "is not a SentencePiece model"),
        ("q.tiktoken", b"version https://git-lfs", "is not a tiktoken rank file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: .*{said}"):
        read("m", tmp_path)


def test_merges_are_those_of_lower_rank(tmp_path: Path) -> None:
    """Ranks determine the merge pairs of a token only together with the tokens before it."""
    letters = {bytes([byte]): byte for byte in range(256)}
    value = tiktoken.as_tokenizer({**letters, b"ab": 256, b"bc": 257, b"abc": 258, b"xyz": 259, b"xy": 260, b"yz": 261})
    assert value["model"]["merges"] == [["a", "b"], ["b", "c"], ["ab", "c"], ["x", "y"], ["y", "z"]]
    assert sentencepiece.merges(
        sentencepiece.Model([sentencepiece.Piece(text, score, 1) for text, score in
                             (("a", 0.0), ("b", 0.0), ("aba", -1.0), ("ab", -2.0), ("ba", -3.0))], True, False, b"")
    ) == [("a", "ba"), ("ab", "a"), ("a", "b"), ("b", "a")]  # fmt: skip
