"""A tiny random model of every class that architectures/ describes, built and saved by transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

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
    """A class that transformers breaks, and how to run it all the same.

    Attributes:
        name: The class.
        reason: What is wrong with it, and the versions in which that was seen.
        error: What its forward pass raises.
        mended: A context in which the class works; it changes nothing where the class is not broken.
    """

    name: str
    reason: str
    error: type[Exception]
    mended: Callable[[], AbstractContextManager[Any]]

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
        with self.mended():
            model = getattr(transformers, self.name)(config).eval()
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor) * 0.02)
        return model

    def outputs(self, model: Any) -> list[torch.Tensor]:
        """Every tensor that a forward pass gives."""
        with torch.no_grad(), self.mended():
            result = model(**self.inputs(), return_dict=True)
        return [value for value in result.values() if isinstance(value, torch.Tensor)]

    def mended(self) -> AbstractContextManager[Any]:
        """A context in which transformers' faults in the class are mended."""
        return next((fault.mended() for fault in FAULTS if fault.name == self.name), nullcontext())

    def load(self, folder: Path) -> Any:
        """The model in a folder, loaded with no key missing, unexpected or mismatched.

        Its weights are moved from the file's memory to their own: where a weight begins decides which instructions
        multiply with it, and so the last bit of the outputs.
        """
        with self.mended():
            model, info = getattr(transformers, self.name).from_pretrained(folder, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
        return model.eval()
