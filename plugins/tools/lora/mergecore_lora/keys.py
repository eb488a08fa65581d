"""The names of an adapter's keys, without what PEFT and wrappers of the training put around them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mergecore.api import ModelError

PREFIX = "base_model.model."
"""Prefix of PEFT's keys."""

PART = re.compile(
    r"(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector|hada_[wt][12](?:_[ab])?"
    r"|lokr_[wt][12](?:_[ab])?|vera_lambda_[bd]|ia3_l|oft_(?:embedding_)?R)(?:\.(?!weight$|bias$)([^.]+))?(\.weight|\.bias)?"
)
"""A key of a change by factors: the module, the part, the name of the adapter, and whether it is a weight or bias."""

WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.|^module\.")
"""What torch.compile, FSDP, activation checkpointing, and data parallel training insert into names."""

LAYER = re.compile(r".*?\.\d+\.")
"""Start of the name of a tensor in a layer."""


def layer_of(name: str) -> str:
    """Return the start of a tensor's name, up to the number of its layer. Empty outside layers."""
    match = LAYER.match(name)
    return match[0] if match else ""


def plain_key(key: str) -> str:
    """Return a key without prefixes, also doubled ones, and without wrappers."""
    name = WRAPPERS.sub("", key)
    while name.startswith((PREFIX, "module.")):
        name = name.removeprefix(PREFIX).removeprefix("module.")
    return name


def check_one_adapter(keys: Iterable[str], path: object) -> None:
    """Check that a file contains only one adapter.

    Raises:
        ModelError: There are several. The message names them.
    """
    names = sorted({match[3] or "default" for key in keys if (match := PART.fullmatch(key))})
    if len(names) > 1:
        raise ModelError(f"{path}: contains several adapters: {', '.join(names)}; save each in its own folder")
