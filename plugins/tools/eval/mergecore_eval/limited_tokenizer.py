"""The process with limits in which `tokens.tokenize` loads and uses a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer  # noqa: F401  before the limit on memory is set

from mergecore_eval.likelihood import start_ids
from mergecore_eval.subjects import Folder


def answers(request: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the start of texts and the IDs of each text, or an error. This runs in the limited process."""
    special = request["form"] == "special"
    try:
        tokenizer = Folder(Path(request["folder"]), "", guarded=False).tokenizer
        yield {"start": start_ids(tokenizer)}
        for text in request["texts"]:
            prompt = _chat(tokenizer, text) if request["form"] == "chat" else text
            yield {"ids": list(tokenizer(prompt, add_special_tokens=special, verbose=False)["input_ids"])}
    except MemoryError:
        raise
    except Exception as error:  # tokenizers and templates can raise anything
        text = str(error) or type(error).__name__
        yield {"error": text if request["folder"] in text else f"{request['folder']}: its tokenizer fails: {text}"}


def _chat(tokenizer: Any, text: str) -> str:
    if not tokenizer.chat_template:
        raise ValueError("it has no chat template; set chat: false")
    turns = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
