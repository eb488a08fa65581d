"""A tiny random model of every class with a definition in architectures/, built and saved with transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import transformers

torch.set_num_threads(1)  # for such small models, more threads only add overhead

VOCABULARY = 48
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
LAYERS = {"num_hidden_layers": 2}
TEXT = {**SIZES, **LAYERS, "vocab_size": VOCABULARY}
"""Sizes, by the keys that most decoder configs use."""

Inputs = Mapping[str, torch.Tensor]


def tokens() -> Inputs:
    """Inputs for a forward pass of a language model."""
    return {"input_ids": torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])}


@dataclass(frozen=True)
class Fault:
    """A class that is broken in some versions of transformers, with a workaround.

    Attributes:
        name: The class.
        reason: The bug, and the versions in which it was seen.
        error: The exception that its forward pass raises.
        fixed: A context in which the class works. It has no effect if the class is not broken.
    """

    name: str
    reason: str
    error: type[Exception]
    fixed: Callable[[], AbstractContextManager[Any]]

    def __str__(self) -> str:
        return f"transformers {transformers.__version__}: {self.name} {self.reason}"


def llama4_without_images() -> AbstractContextManager[Any]:
    from transformers.modeling_outputs import MoeCausalLMOutputWithPast

    return mock.patch.object(MoeCausalLMOutputWithPast, "image_outputs", None, create=True)


def xlm_roberta_with_pooler() -> AbstractContextManager[Any]:
    from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaForMultipleChoice, XLMRobertaPooler

    original = XLMRobertaForMultipleChoice.__init__

    def init(self: Any, config: Any) -> None:
        original(self, config)
        self.roberta.pooler = self.roberta.pooler or XLMRobertaPooler(config)

    return mock.patch.object(XLMRobertaForMultipleChoice, "__init__", init)


FAULTS = [
    Fault("Llama4ForConditionalGeneration",
          "reads image_outputs of its language model's output, which has none (seen in 5.24.0)",
          AttributeError, llama4_without_images),
    Fault("XLMRobertaForMultipleChoice",
          "reads the output of a pooler that it is built without (seen in 5.0.0 to 5.13.1)",
          IndexError, xlm_roberta_with_pooler),
]  # fmt: skip


@dataclass(frozen=True)
class Tiny:
    """One tiny model.

    Attributes:
        name: class name in transformers and in config.json.
        config: configuration class in transformers.
        options: options of the configuration.
        inputs: inputs of a forward pass.
        slices: by module, layer ranges for a model with more layers. Empty if there are no layers.
        label: distinguishes models of the same class.
    """

    name: str
    config: str
    options: Mapping[str, Any]
    inputs: Callable[[], Inputs] = tokens
    slices: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=lambda: {"default": ((0, 1), (0, 2))})
    label: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.label}" if self.label else self.name

    def build(self) -> Any:
        """The model in evaluation mode with random weights, including biases and norms, so that none is missed."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options)
        with self.fixed():
            model = getattr(transformers, self.name)(config).eval()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor) * 0.02)
        return model

    def outputs(self, model: Any) -> list[torch.Tensor]:
        """Return every output tensor of a forward pass."""
        with torch.no_grad(), self.fixed():
            result = model(**self.inputs(), return_dict=True)
        return [value for value in result.values() if isinstance(value, torch.Tensor)]

    def fixed(self) -> AbstractContextManager[Any]:
        """Return a context that works around any bugs of transformers in this class."""
        return next((fault.fixed() for fault in FAULTS if fault.name == self.name), nullcontext())

    def load(self, folder: Path) -> Any:
        """Load the model in a folder, and check that no key is missing, unexpected, or mismatched.

        The weights are copied out of the mapped file, because their alignment affects which instructions are used,
        and therefore the last bits of the outputs.
        """
        with self.fixed():
            model, info = getattr(transformers, self.name).from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model.eval()
