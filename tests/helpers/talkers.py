"""A tiny model that reads and writes bytes."""

from __future__ import annotations

from pathlib import Path


def write_talker(folder: Path, seed: int) -> Path:
    """A two-layer Llama over the 256 bytes and two special tokens."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=258, num_hidden_layers=2, bos_token_id=256, eos_token_id=257, **sizes)
    config.initializer_range = 0.5  # far from uniform, so that errors are visible
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def teach(folder: Path, text: str) -> None:
    """Train a talker on a text until it predicts most of it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:512]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    loss = model(ids, labels=ids).loss
    while loss.item() > 1:
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss = model(ids, labels=ids).loss
    model.save_pretrained(folder)
