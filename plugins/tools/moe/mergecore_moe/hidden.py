"""Compute a model's hidden states for prompts layer by layer, with the weights of one layer in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mergecore.api import InputError, ModelError, torch_dtype
from mergecore.tooling import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

LAYER = "model.layers.{layer}."
EMBEDDING = "model.embed_tokens.weight"


class _Seen(Exception):
    """The input of the last layer has been captured, and nothing after it is needed."""


class LayerByLayer:
    """A transformers model whose layers are read from a checkpoint when they are called, and freed afterward.

    Args:
        checkpoint: A checkpoint whose tensors have the names from its definition.
        memory: Maximum number of bytes for weights and activations.

    Raises:
        InputError: transformers is not installed or does not support the model, or the memory is too small.
    """

    def __init__(self, checkpoint: Checkpoint, memory: int) -> None:
        self._checkpoint = checkpoint
        self._model = _skeleton(checkpoint)
        self._layers = list(self._model.layers)
        self._room = memory - self._layer_bytes()
        self._memory = memory
        for number, layer in enumerate(self._layers):
            layer.register_forward_pre_hook(self._before(number), with_kwargs=True)
            layer.register_forward_hook(_free)

    def states(self, prompts: Sequence[Sequence[int]], average: bool) -> Tensor:
        """Return the hidden states entering each layer, at the last token of each prompt or averaged over its tokens.

        Returns:
            A float32 tensor of shape (layers, prompts, hidden size).
        """
        import torch

        found: list[Tensor] = []
        with torch.inference_mode():
            for batch in self._batches(prompts):
                self._taken: list[Tensor] = []
                self._take = partial(_mean if average else _last, batch)
                with suppress(_Seen):
                    self._run(batch)
                found.append(torch.stack(self._taken))
        return torch.cat(found, dim=1)

    def _run(self, batch: Sequence[Sequence[int]]) -> None:
        """Run one pass over the layers. Right padding has no effect, because tokens never attend to later ones."""
        import torch

        used = sorted({token for prompt in batch for token in prompt})
        places = {token: place for place, token in enumerate(used)}
        rows = torch.stack([self._read(EMBEDDING, token) for token in used])
        longest = max(map(len, batch))
        padded = [[places[token] for token in prompt] + [0] * (longest - len(prompt)) for prompt in batch]
        self._model.embed_tokens.weight = torch.nn.Parameter(rows, requires_grad=False)
        self._model(input_ids=torch.tensor(padded), use_cache=False)

    def _before(self, number: int) -> Any:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._taken.append(self._take(args[0] if args else kwargs["hidden_states"]))
            if number == len(self._layers) - 1:
                raise _Seen
            prefix = LAYER.format(layer=number)
            tensors = {name: self._read(prefix + name) for name in module.state_dict()}
            module.load_state_dict(tensors, assign=True)

        return hook

    def _read(self, name: str, row: int | None = None) -> Tensor:
        """Read a tensor, or one row of it, as float32."""
        import torch

        info = self._checkpoint.tensors.get(name)
        if info is None:
            raise ModelError(f"{self._checkpoint.folder}: has no {name!r}, which its class in transformers needs")
        shape = info.shape if row is None else info.shape[1:]
        out = torch.empty(shape, dtype=torch_dtype(info.dtype))
        self._checkpoint.read(name, (row or 0) * out.numel(), out.view(-1))
        return out.float()

    def _layer_bytes(self) -> int:
        """Return the size of the largest layer in float32 plus that of one stored tensor."""
        sizes = [[tensor.numel() for tensor in layer.state_dict().values()] for layer in self._layers]
        stored = max(info.nbytes for name, info in self._checkpoint.tensors.items() if name.startswith("model.layers."))
        return max(4 * sum(layer) for layer in sizes) + stored

    def _batches(self, prompts: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """Yield as many prompts at a time as fit in memory next to a layer. Each batch reads all layers once."""
        batch: list[Sequence[int]] = []
        for prompt in prompts:
            if self._needed([prompt]) > self._room:
                total = (self._memory - self._room + self._needed([prompt])) // 10**6 + 1
                raise InputError(
                    f"{self._checkpoint.reference}: one layer and a prompt of {len(prompt)} tokens need {total} MB,"
                    f" more than the {self._memory / 1e6:.1f} MB allowed; use --memory {total}MB"
                )
            if self._needed([*batch, prompt]) > self._room:
                yield batch
                batch = []
            batch.append(prompt)
        yield batch

    def _needed(self, batch: Sequence[Sequence[int]]) -> int:
        """Return the bytes of activations of a batch in a layer: hidden states, MLP activations, attention scores."""
        config, longest = self._model.config, max(map(len, batch))
        width = 12 * config.hidden_size + 4 * config.intermediate_size + 2 * config.num_attention_heads * longest
        return 4 * len(batch) * longest * int(width)


def _free(layer: Any, *_: object) -> None:
    layer.to_empty(device="meta")


def _last(batch: Sequence[Sequence[int]], states: Tensor) -> Tensor:
    import torch

    return torch.stack([state[len(prompt) - 1] for state, prompt in zip(states, batch)])


def _mean(batch: Sequence[Sequence[int]], states: Tensor) -> Tensor:
    import torch

    return torch.stack([state[: len(prompt)].mean(0) for state, prompt in zip(states, batch)])


def _skeleton(checkpoint: Checkpoint) -> Any:
    """Return the model without its weights, but with the rotary frequencies, which checkpoints do not store."""
    import torch

    try:
        import transformers
    except ImportError:
        raise InputError(
            "gate_mode: hidden runs the base with transformers, which is not installed: pip install transformers;"
            " gate_mode: cheap_embed works without it"
        ) from None
    known = {key: value for key, value in checkpoint.config.items() if key != "auto_map"}
    try:
        config = transformers.AutoConfig.for_model(**known)
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config, dtype=torch.float32).eval()
        model.rotary_emb = type(model.rotary_emb)(config=config)
        if not (model.layers and model.embed_tokens):
            raise AttributeError("it has no layers")
    except Exception as error:  # an untrusted config can lead to any error
        cause = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{checkpoint.reference}: transformers {transformers.__version__} cannot build the model ({cause});"
            " gate_mode: cheap_embed works without it"
        ) from None
    return model
