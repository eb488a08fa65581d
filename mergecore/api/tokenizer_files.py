"""Which files of a model folder are its tokenizer's."""

VOCABULARY_FILES = (
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "tokenizer.model.v*",
    "tekken.json",
    "*.tiktoken",
    "spiece.model",
    "sentencepiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "spm_char.model",
    "source.spm",
    "target.spm",
    "vocab-src.json",
    "vocab-tgt.json",
    "target_vocab.json",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
    "byte_maps.json",
    "emoji.json",
    "dict.txt",
    "bpe.codes",
    "prophetnet.tokenizer",
)
"""Patterns of the files that hold a vocabulary in other formats than tokenizer.json."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "normalizer.json",
    *VOCABULARY_FILES,
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
)
"""Patterns of all files of a tokenizer, relative to the model folder: what transformers' classes, its remote-code ones
and mistral-common read."""
