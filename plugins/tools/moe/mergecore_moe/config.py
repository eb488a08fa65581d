"""Parse a mergekit-moe YAML config into a `Config`, reporting errors with file, line, and path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergecore.api import FLOATS
from mergecore.api.files import TORCH_NAMES
from mergecore.tooling import Place, check, load_file

MODES = ("hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform", "uniform_random")
"""Sources of the router weights. ``hidden`` means ``hidden_last``, and ``uniform`` means ``uniform_random``."""

PROMPTLESS = ("random", "uniform", "uniform_random")
"""The modes that ignore prompts."""

DTYPES = {prefix + TORCH_NAMES[name]: name for name in FLOATS for prefix in ("", "torch.")}

EXPERT: Mapping[str, Any] = {
    "type": "object",
    "required": ["source_model"],
    "additionalProperties": False,
    "properties": {
        "source_model": {"type": "string", "minLength": 1},
        "positive_prompts": {"type": ["array", "null"], "items": {"type": "string"}},
        "negative_prompts": {"type": ["array", "null"], "items": {"type": "string"}},
        "noise_scale": {"type": ["number", "null"], "minimum": 0},
        "residual_scale": {"type": ["number", "null"]},
    },
}

SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["base_model", "experts"],
    "additionalProperties": False,
    "properties": {
        "base_model": {"type": "string", "minLength": 1},
        "gate_mode": {"type": "string", "enum": list(MODES)},
        "experts": {"type": "array", "minItems": 1, "items": EXPERT},
        "shared_experts": {"type": ["array", "null"], "items": EXPERT},
        "experts_per_token": {"type": "integer", "minimum": 1},
        "architecture": {"type": ["string", "null"], "minLength": 1},
        "dtype": {"type": ["string", "null"], "enum": [*DTYPES, None]},
        "seed": {"type": "integer", "minimum": 0},
    },
}


@dataclass(frozen=True)
class Expert:
    """A model whose MLPs become experts.

    Attributes:
        model: Reference of the model.
        positive, negative: Texts that the router should and should not send to it.
        noise: Standard deviation of the noise added to its weights.
        scale: Factor of its output.
        place: Place in the config.
    """

    model: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    noise: float
    scale: float
    place: Place


@dataclass(frozen=True)
class Config:
    """A config with a valid structure.

    Attributes:
        base: Reference of the model that supplies everything except the experts.
        experts, shared: Experts that the router chooses from, and experts that see every token.
        mode: One of `MODES`.
        active: Number of experts per token.
        architecture: Prefix of a family's name. None: any that fits.
        dtype: Dtype of the result, by safetensors name. None: that of the base.
        seed: Seed of all random numbers.
        text: The YAML text.
        place: The whole document.
    """

    base: str
    experts: tuple[Expert, ...]
    shared: tuple[Expert, ...]
    mode: str
    active: int
    architecture: str | None
    dtype: str | None
    seed: int
    text: str
    place: Place

    @property
    def prompted(self) -> bool:
        """Whether the router weights come from prompts."""
        return self.mode not in PROMPTLESS


def load_config(path: Path) -> Config:
    """Load a config from a YAML file.

    Raises:
        RecipeError: The file cannot be read or is invalid.
    """
    place, text = load_file(path)
    check(place, SCHEMA)
    value = place.value
    config = Config(
        base=value["base_model"],
        experts=tuple(map(_expert, place.child("experts").elements())),
        shared=tuple(map(_expert, place.child("shared_experts").elements())) if value.get("shared_experts") else (),
        mode=value.get("gate_mode", "hidden"),
        active=value.get("experts_per_token", 2),
        architecture=value.get("architecture"),
        dtype=DTYPES[value["dtype"]] if value.get("dtype") else None,
        seed=value.get("seed", 0),
        text=text,
        place=place,
    )
    _check_counts(config)
    if config.prompted:
        _check_prompts(config)
    return config


def _expert(place: Place) -> Expert:
    value = place.value
    positive, negative = (value.get(key) or () for key in ("positive_prompts", "negative_prompts"))
    scale = value.get("residual_scale")
    return Expert(
        model=value["source_model"],
        positive=tuple(positive),
        negative=tuple(negative),
        noise=float(value.get("noise_scale") or 0),
        scale=1.0 if scale is None else float(scale),
        place=place,
    )


def _check_counts(config: Config) -> None:
    count = len(config.experts)
    if config.active > count:
        given = config.place.get("experts_per_token") or config.place.child("experts")
        raise given.error(f"a token cannot go to {config.active} of {count} expert(s); use at most {count}")


def _check_prompts(config: Config) -> None:
    """Check that every routed expert has prompts, and that not all experts have the same ones."""
    for expert in config.experts:
        if not expert.positive:
            raise expert.place.error(
                f"'positive_prompts' is missing, which gate_mode {config.mode!r} needs for the router;"
                " gate_mode: random does not"
            )
    for expert in (*config.experts, *config.shared):
        if expert.negative and not expert.positive:
            raise expert.place.child("negative_prompts").error("requires 'positive_prompts' as well")
    alike = {(expert.positive, expert.negative) for expert in config.experts}
    if len(alike) == 1 and len(config.experts) > 1:
        raise config.place.child("experts").error(
            "all experts have the same prompts, so the router cannot tell them apart; use different ones for each,"
            " or gate_mode: random"
        )
