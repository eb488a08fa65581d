"""Names of the tokenizer files in a model folder, and their maximum size."""

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
"""Glob patterns for files that hold a vocabulary in a format other than tokenizer.json."""

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
"""Glob patterns for all tokenizer files, relative to the model folder. They cover the files that transformers, its
remote-code tokenizers, and mistral-common read."""

TOKENIZER_BYTES = 64 * 10**6
"""Maximum size of a tokenizer file. The largest published ones have about 35 MB. Parsing can take 25 times as much."""
