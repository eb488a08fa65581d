"""Tiny models, PEFT adapters for them, and PEFT's merges of the two."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from zoo import Tiny
from zoo.decoders import MODELS as DECODERS
from zoo.encoders import MODELS as ENCODERS
from zoo.experts import MODELS as EXPERTS

transformers.utils.logging.disable_progress_bar()
MODELS = {str(tiny): tiny for tiny in (*DECODERS, *EXPERTS, *ENCODERS)}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return every tensor in a model folder."""
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def save_base(tiny: Tiny, folder: Path) -> None:
    """Return the folder of a tiny model, creating it once."""
    if not folder.exists():
        tiny.build().save_pretrained(folder)


def save_adapter(tiny: Tiny, base: Path, folder: Path, seed: int = 1, binary: bool = False, **options: Any) -> None:
    """Save a PEFT adapter with random values for all trained parameters."""
    import peft

    model = getattr(transformers, tiny.name).from_pretrained(base)
    with quiet():
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if parameter.requires_grad:
                    low = "lora_" in name and "magnitude" not in name
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.copy_(parameter * (not low) + noise * (0.2 if low else 0.05))
        wrapped.save_pretrained(folder, safe_serialization=not binary)


def merged_by_peft(tiny: Tiny, base: Path, *adapters: Path) -> Any:
    """Merge adapters into a model with PEFT, one after the other."""
    import peft

    model = getattr(transformers, tiny.name).from_pretrained(base)
    with quiet():
        for adapter in adapters:
            model = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model


def fine_tuned(tiny: Tiny, base: Path, folder: Path, scale: float = 0.01) -> None:
    """Return the model with noise added to every parameter."""
    model = copy.deepcopy(getattr(transformers, tiny.name).from_pretrained(base))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)
    model.save_pretrained(folder)


def furthest(found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> float:
    """Return the largest relative difference of any tensor."""
    assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
    return max(
        ((found[name].double() - wanted[name].double()).norm() / wanted[name].double().norm()).item() for name in wanted
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress PEFT's warnings about such adapters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
