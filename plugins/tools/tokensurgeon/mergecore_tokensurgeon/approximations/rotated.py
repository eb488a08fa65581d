"""Rows as sums of the shared tokens' rows, each rotated to a position with rotary position embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mergecore.api import InputError
from mergecore.tooling import get_key
from mergecore_tokensurgeon.omp import Dictionary
from mergecore_tokensurgeon.task import Rows, Task

if TYPE_CHECKING:
    from torch import Tensor

BASES = ("rope_theta", "rope_parameters.rope_theta", "text_config.rope_theta", "text_config.rope_parameters.rope_theta")
HEADS = ("num_attention_heads", "text_config.num_attention_heads", "n_head")


def mp_rope(task: Task) -> Rows:
    """Matching pursuit in which each atom is rotated to the position that fits the residual best.

    Each of k steps picks the shared token with the largest |⟨residual, Dⱼ⟩| and rotates Dⱼ by the rotary embedding of
    the position p = ⟨θ, f⟩ / (heads · ‖f‖²). Here f are the frequencies, and θ are the angles per head and pair from
    the atom to the residual (or to its opposite, if that is closer). The coefficients are least squares over the
    rotated atoms. y sums the model's rows, rotated to the same positions with the model's heads and frequencies.
    """
    import torch

    (model_heads, model_pace), (heads, pace) = (
        rotation(config, table.shape[1]) for config, table in zip(task.configs, (task.model, task.donor))
    )
    dictionary, ours = Dictionary(task.theirs), task.ours

    def make(rows: Tensor) -> Tensor:
        vectors = task.wanted(rows)
        count = min(task.settings.k, len(dictionary), vectors.shape[1])
        picked = torch.zeros(len(rows), count, dtype=torch.int64)
        places = torch.zeros(len(rows), count)
        atoms = torch.zeros(len(rows), count, vectors.shape[1])
        residual = vectors
        for step in range(count):
            picked[:, step] = best = dictionary.best(residual, picked[:, :step])
            places[:, step] = place = _position(task.theirs[best], residual, heads, pace)
            atoms[:, step] = atom = _turned(task.theirs[best], place, heads, pace)
            size = atom.square().sum(1, keepdim=True).clamp(min=torch.finfo(atom.dtype).tiny)
            residual = residual - (residual * atom).sum(1, keepdim=True) / size * atom
        weights = (torch.linalg.pinv(atoms.double().transpose(1, 2)) @ vectors.double()[..., None])[..., 0].float()
        turned = _turned(ours[picked.flatten()], places.flatten(), model_heads, model_pace)
        return torch.bmm(weights[:, None], turned.view(len(rows), count, -1))[:, 0]

    return make


def rotation(config: Mapping[str, Any], width: int) -> tuple[int, Tensor]:
    """Return the number of heads, and the rotation angle per position of each pair of values: base^(-i/pairs).

    Raises:
        InputError: The model has no rotary position embeddings, or its rows do not divide evenly into heads.
    """
    import torch

    heads, base = (next(filter(None, (get_key(config, key) for key in keys)), None) for keys in (HEADS, BASES))
    if not isinstance(heads, int) or heads < 1 or width % (2 * heads) or not isinstance(base, (int, float)):
        raise InputError(
            "--method mp_rope: requires rotary position embeddings, with rope_theta in config.json and a number of"
            " heads that divides a row into parts of even length; use --method omp"
        )
    pairs = width // heads // 2
    return heads, float(base) ** (-torch.arange(pairs) / pairs)


def _position(atoms: Tensor, residual: Tensor, heads: int, pace: Tensor) -> Tensor:
    """Return the position closest to 0 that best rotates each atom to its residual or to the opposite of it."""
    import torch

    options = []
    for target in (residual, -residual):
        turn = _complex(target, heads) * _complex(atoms, heads).conj()
        options.append((turn.angle() * pace).sum((1, 2)) / (heads * pace.square().sum()))
    return torch.where(options[0].abs() <= options[1].abs(), options[0], options[1])


def _turned(rows: Tensor, places: Tensor, heads: int, pace: Tensor) -> Tensor:
    """Rotate rows to positions. Value i of a head's first half and value i of its second half form a pair."""
    import torch

    turned = _complex(rows, heads) * torch.polar(torch.ones(1), places[:, None, None] * pace)
    return torch.cat([turned.real, turned.imag], dim=2).flatten(1)


def _complex(rows: Tensor, heads: int) -> Tensor:
    import torch

    halves = rows.view(len(rows), heads, 2, -1)
    return torch.complex(halves[:, :, 0].contiguous(), halves[:, :, 1].contiguous())
