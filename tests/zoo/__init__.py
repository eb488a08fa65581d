"""A tiny random model of every class with a definition in architectures/, built and saved with transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
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
    """A bug in transformers: a class computes all outputs, but its forward pass fails to return them.

    Attributes:
        name: The class.
        error: The exception that its forward pass raises.
        words: Part of the exception's message.
        parts: The modules whose outputs are compared instead of the model's.
        reason: The cause, as the end of a sentence that starts with the forward method.
    """

    name: str
    error: type[Exception]
    words: str
    parts: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"transformers {transformers.__version__}: {self.name}.forward {self.reason}"

    def outputs(self, model: Any, inputs: Inputs) -> list[torch.Tensor]:
        """Return the outputs of the model's parts in a forward pass that fails at the end."""
        found: dict[str, Any] = {}
        handles = [getattr(model, part).register_forward_hook(partial(_keep, found, part)) for part in self.parts]
        with pytest.raises(self.error, match=self.words):
            model(**inputs, return_dict=True)
        for handle in handles:
            handle.remove()
        return [value if isinstance(value, torch.Tensor) else value[0] for value in found.values()]


def _keep(found: dict[str, Any], part: str, _module: Any, _inputs: Any, output: Any) -> None:
    found[part] = output


FAULTS = [
    Fault("Llama4ForConditionalGeneration", AttributeError, "object has no attribute 'image_outputs'",
          ("language_model", "multi_modal_projector"),
          "reads image_outputs of its language model's output, which has none (seen in 5.24.0)"),
    Fault("XLMRobertaForMultipleChoice", IndexError, "tuple index out of range", ("roberta",),
          "reads the output of a pooler that it is built without (seen in 5.0.0 to 5.13.1)"),
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
        model = getattr(transformers, self.name)(config).eval()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor) * 0.02)
        return model

    def outputs(self, model: Any) -> list[torch.Tensor]:
        """Return every output tensor of a forward pass."""
        fault = next((fault for fault in FAULTS if fault.name == self.name), None)
        with torch.no_grad():
            try:
                result = model(**self.inputs(), return_dict=True)
            except Exception as error:
                if fault is None or not isinstance(error, fault.error) or fault.words not in str(error):
                    raise
                return fault.outputs(model, self.inputs())
        return [value for value in result.values() if isinstance(value, torch.Tensor)]

    def load(self, folder: Path) -> Any:
        """Load the model in a folder, and check that no key is missing, unexpected, or mismatched.

        The weights are copied out of the mapped file, because their alignment affects which instructions are used,
        and therefore the last bits of the outputs.
        """
        model, info = getattr(transformers, self.name).from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model.eval()
