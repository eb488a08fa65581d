"""Create tiny checkpoint folders for any architecture from its definition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergecore.api import torch_dtype
from mergecore.api.files import TORCH_NAMES
from mergecore.definitions import Architecture, Module, Weight, parse_definition
from mergecore.definitions.config import with_keys

if TYPE_CHECKING:
    from torch import Tensor

WIDTH, TOKENS, EXPERTS, LAYERS = 8, 12, 2, 3


def write_checkpoint(
    folder: Path,
    label: str,
    definition: Mapping[str, Any],
    *,
    seed: int = 0,
    layers: int = LAYERS,
    dtype: str = "float32",
    bare: bool = False,
    **config: Any,
) -> Path:
    """Write config.json and a safetensors file with every tensor in a definition.

    Tensor names match real checkpoints. All widths are 8 and the vocabulary has 12 tokens. mergecore merges, slices,
    and checks the folder like any other, but transformers might expect different shapes.

    Args:
        folder: folder to create.
        label: ``Class`` or ``Class/model_type``, like the name of an entry point.
        definition: content of the architecture's JSON.
        seed: seed of the random weights.
        layers: number of layers in every module that has layers.
        dtype: dtype of the weights, by its torch name.
        bare: omit the optional tensors.
        config: additional or replacement values for config.json.

    Returns:
        The folder.
    """
    from safetensors.torch import save_file

    name, _, model_type = label.partition("/")
    architecture = parse_definition(name, definition, "of this test")
    settings = {"architectures": [name], "model_type": model_type or "tiny", **_settings(architecture, layers)}
    settings.update(vocab_size=TOKENS, hidden_size=WIDTH, torch_dtype=dtype, **config)
    weights = [weight for weight in _weights(architecture, settings, label) if not (bare and weight.may_lack)]
    folder.mkdir(parents=True)
    stored = {short: long for short, long in TORCH_NAMES.items() if long == dtype}
    tensors = random_tensors({weight.name: _shape(weight) for weight in weights}, next(iter(stored)), seed)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2), "utf-8")
    return folder


def random_tensors(shapes: Mapping[str, tuple[int, ...]], dtype: str, seed: int) -> dict[str, Tensor]:
    """Return random tensors by name, with a dtype given by its safetensors name."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw).to(torch_dtype(dtype)) for name, shape in shapes.items()}


def _settings(architecture: Architecture, layers: int) -> dict[str, Any]:
    """Return the counts that the definition looks up in config.json."""
    counts: dict[str, Any] = {}
    for module in architecture.modules.values():
        counts.update({module.layers_key[0]: layers} if module.layers_key else {})
        for weight in (*module.before, *module.layer, *module.after):
            counts.update({keys[0]: EXPERTS for keys in weight.each.values()})
    return with_keys({}, counts)


def _weights(architecture: Architecture, config: Mapping[str, Any], label: str) -> Iterator[Weight]:
    """Yield every tensor in the layout of the newest checkpoints: fused if the definition has parts."""
    for module in architecture.modules.values():
        bound = module.bind(config, label, _fused(module, config, label))
        yield from bound.before
        for index in range(bound.layer_count(config, label)):
            here = [weight for weight in bound.layer if index >= weight.from_layer]
            yield from (weight.named({}, bound.prefix(index)) for weight in here)
        yield from bound.after


def _fused(module: Module, config: Mapping[str, Any], label: str) -> set[str]:
    starts = ["", *(module.prefix(index) for index in range(module.layer_count(config, label)))]
    return {start + weight.name for start in starts for weight in (*module.before, *module.layer, *module.after)}


def _shape(weight: Weight) -> tuple[int, ...]:
    flat = weight.name.endswith("bias") or "norm" in weight.name.rpartition(".")[0].rpartition(".")[2]
    if weight.vocabulary_axis is None:
        return (WIDTH,) if flat else (WIDTH, WIDTH)
    return (TOKENS,) if flat else (TOKENS, WIDTH) if weight.vocabulary_axis == 0 else (WIDTH, TOKENS)
