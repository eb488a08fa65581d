"""A tiny random model of every class that architectures/ describes, built and saved by transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

torch.set_num_threads(1)  # on models so small threads only wait for each other

VOCABULARY = 48
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
LAYERS = {"num_hidden_layers": 2}
TEXT = {**SIZES, **LAYERS, "vocab_size": VOCABULARY}
"""What most decoders' configs call their sizes."""

Inputs = Mapping[str, torch.Tensor]


def tokens() -> Inputs:
    """What a language model is asked in a forward pass."""
    return {"input_ids": torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])}


@dataclass(frozen=True)
class Fault:
    """A fault of transformers: a class computes everything, but its forward pass does not return it.

    Attributes:
        name: The class.
        error: What its forward pass raises...
        words: ...and what the message says.
        parts: The modules whose outputs are compared in place of the model's.
        reason: What is wrong.
    """

    name: str
    error: type[Exception]
    words: str
    parts: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"transformers {transformers.__version__}: {self.name}.forward {self.reason}"

    def outputs(self, model: Any, inputs: Inputs) -> list[torch.Tensor]:
        """Return what the parts of the model compute in a forward pass that fails only at its end."""
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
        name: the class in transformers and in config.json.
        config: its configuration's class in transformers.
        options: of the configuration.
        inputs: of a forward pass.
        slices: by module, ranges of layers that make a model with more layers; empty where there are no layers.
        label: tells models of one class apart.
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
        """The model with random weights, in evaluation mode; biases and norms random too, so that losing one shows."""
        torch.manual_seed(0)
        config = getattr(transformers, self.config)(**self.options)
        model = getattr(transformers, self.name)(config).eval()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor) * 0.02)
        return model

    def outputs(self, model: Any) -> list[torch.Tensor]:
        """Return every tensor that a forward pass computes."""
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
        """The model in a folder, loaded with no key missing, unexpected or mismatched.

        Its weights are moved from the file's memory to their own: where a weight begins decides which instructions
        multiply with it, and so the last bit of the outputs.
        """
        model, info = getattr(transformers, self.name).from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model.eval()
