"""A tokenizer with new tokens tokenizes text as its source does, read as a file alone and by its class."""

from __future__ import annotations

import argparse
import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import transformers
from mergecore_tokenizer.reading import read
from tiny_llamas import write_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import mergecore

CORPUS = Path(argparse.__file__).read_text("utf-8").splitlines()
NEW = "<|brand_new|>"
ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEF", "0123456789", "àéîõüßçñ", "абвгдежз", "αβγδε", "אבגד", "ابتث", "कखगघ",
    "日本語漢字", "한국어", "🙂🚀👩‍🔬🇩🇪", "\u0301\u0308\u200d\ufeff", ".,;:!?()[]{}<>|/\\'\"", "_-+=*&^%$#@~`",
]  # fmt: skip
SPACES = [" ", "  ", "   ", "\t", " \t ", "\u00a0", "\u3000"]
SPECIAL = ["<s>", "</s>", "<unk>", "[CLS]", "<|endoftext|>", "<pad>"]


def lines(count: int) -> list[str]:
    """Code, words of many scripts, runs of spaces, and the names of special tokens."""
    random_ = random.Random(5)
    found = ["", " ", "  a", "a  ", "\n", "a\nb", *random_.sample(CORPUS, 200)]
    while len(found) < count:
        words = []
        for _ in range(random_.randint(1, 8)):
            alphabet = random_.choice(ALPHABETS)
            word = "".join(random_.choice(alphabet) for _ in range(random_.randint(1, 7)))
            words += [random_.choice(SPECIAL) if random_.random() < 0.04 else word, random_.choice(SPACES)]
        found.append("".join(words[:-1] if random_.random() < 0.8 else words))
    return found


LINES = lines(2000)


def fast(folder: Path, tokenizer: Tokenizer, **settings: Any) -> None:
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings).save_pretrained(folder)


def byte_level(folder: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast(folder, tokenizer, eos_token="<|endoftext|>")


def byte_fallback(folder: Path) -> None:
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, special_tokens=special, max_token_length=9)
    )
    value = json.loads(tokenizer.to_str())
    value["added_tokens"] = [entry for entry in value["added_tokens"] if entry["id"] < 3]
    tokenizer = Tokenizer.from_str(json.dumps(value))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)]
    )
    fast(folder, tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def trained(folder: Path, name: str, settings: dict[str, Any], **options: Any) -> None:
    file = folder / "text.txt"
    file.write_text("\n".join(CORPUS))
    trainer = sentencepiece.SentencePieceTrainer
    trainer.train(input=str(file), model_prefix=str(folder / "trained"), vocab_size=600, minloglevel=2, **options)
    (folder / "trained.model").rename(folder / name)
    for path in (file, folder / "trained.vocab"):
        path.unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def sentencepiece_bpe(folder: Path) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **ROLES}
    trained(folder, "tokenizer.model", settings, model_type="bpe", byte_fallback=True)


def sentencepiece_with_end(folder: Path) -> None:
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True, **ROLES}
    trained(folder, "tokenizer.model", settings, model_type="bpe", byte_fallback=True)


def unigram(folder: Path) -> None:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    fast(folder, tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>")


def word_piece(folder: Path) -> None:
    """A vocab.txt alone, as old BERT models have it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special))
    vocabulary = tokenizer.get_vocab()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )


def slow_files(folder: Path, settings: dict[str, Any]) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"])
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def slow_gpt2(folder: Path) -> None:
    slow_files(folder, {"tokenizer_class": "GPT2Tokenizer", "eos_token": "<|endoftext|>"})


def slow_qwen2(folder: Path) -> None:
    """Splits text into words by another pattern than GPT-2, which is in none of the files."""
    slow_files(folder, {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|endoftext|>"})


def with_added_tokens(folder: Path) -> None:
    byte_level(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(["αβγ", "  a"])
    tokenizer.save_pretrained(folder)


KINDS: dict[str, Callable[[Path], None]] = {
    "byte-level BPE": byte_level,
    "BPE with byte fallback": byte_fallback,
    "SentencePiece BPE, a tokenizer.model alone": sentencepiece_bpe,
    "SentencePiece BPE with an end token": sentencepiece_with_end,
    "Unigram": unigram,
    "WordPiece, a vocab.txt alone": word_piece,
    "vocab.json and merges.txt of GPT-2": slow_gpt2,
    "vocab.json and merges.txt of Qwen2": slow_qwen2,
    "with added tokens": with_added_tokens,
}


@pytest.mark.parametrize("kind", KINDS)
def test_2000_lines(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    KINDS[kind](source)
    found = read("source", source)
    assert found is not None
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    write_model(tmp_path / "model", 1, vocab_size=len(found.ids))
    for name, content in files.items():
        (tmp_path / "model" / name).write_bytes(content)
    models_ = [{"model": str(tmp_path / "model"), "parameters": {"weight": 1}}]
    tokens = {NEW: {"source": {"kind": "model_token", "model": str(tmp_path / "model"), "token_id": 0}}}
    recipe = {"merge_method": "linear", "models": models_, "tokenizer": {"source": "union", "tokens": tokens}}
    out = mergecore.run(recipe, tmp_path / "out")
    alone = Tokenizer.from_file(str(out / "tokenizer.json"))
    theirs, ours = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (source, out))
    assert alone.token_to_id(NEW) == len(found.ids) == ours.convert_tokens_to_ids(NEW)
    for line in LINES:
        for special in (True, False):
            wanted = theirs(line, add_special_tokens=special).input_ids
            assert ours(line, add_special_tokens=special).input_ids == wanted, (line, special)
            assert alone.encode(line, add_special_tokens=special).ids == wanted, (line, special)
    assert alone.encode(f"a{NEW}b").ids.count(len(found.ids)) == 1
    assert ours.eos_token == theirs.eos_token and ours.pad_token == theirs.pad_token


def test_a_rank_file(tmp_path: Path) -> None:
    """tiktoken's own library is the reference, because no class of transformers reads such a file alone."""
    import tiktoken
    from mergecore_tokenizer.tiktoken import WORDS

    byte_level(tmp_path)
    characters = {character: byte for byte, character in _characters().items()}
    vocabulary = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["vocab"]
    del vocabulary["<|endoftext|>"]
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    ranks = {bytes(characters[c] for c in token): number for number, token in enumerate(ordered)}
    folder = write_model(tmp_path / "model", 1, vocab_size=len(ranks))
    text = "".join(f"{base64.b64encode(token).decode()} {number}\n" for token, number in ranks.items())
    (folder / "qwen.tiktoken").write_text(text)
    tokens = {NEW: {"source": {"kind": "model_token", "model": str(folder), "token_id": 0}}}
    recipe = {"merge_method": "linear", "models": [{"model": str(folder), "parameters": {"weight": 1}}]}
    out = mergecore.run({**recipe, "tokenizer": {"source": "union", "tokens": tokens}}, tmp_path / "out")
    alone = Tokenizer.from_file(str(out / "tokenizer.json"))
    reference = tiktoken.Encoding("own", pat_str=WORDS, mergeable_ranks=ranks, special_tokens={})
    for line in LINES:
        assert alone.encode(line).ids == reference.encode(line, disallowed_special=()), line


def _characters() -> dict[int, str]:
    from mergecore_tokenizer.tiktoken import characters

    return characters()
