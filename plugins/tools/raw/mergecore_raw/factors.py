"""LoRA files of image models: find the factors of each module, and compute the change that they describe.

The formulas are those of LoRA (arXiv 2106.09685) and, for LoHa and LoKr, of LyCORIS (arXiv 2309.14859).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import ModelError, torch_dtype
from mergecore.tooling import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor

SPELLINGS = {
    "lora_down": "down", "lora_A": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_up": "up", "lora_B": "up", "lora.up": "up", "lora_linear_layer.up": "up",
    "lora_mid": "mid",
}  # fmt: skip
"""Parts of a low-rank change, as kohya's scripts, PEFT, and diffusers spell them. Other parts keep their names."""

PART = re.compile(
    r"(?P<module>.+?)\.(?P<part>lora_(?:down|up|mid|A|B)|lora\.(?:down|up)|lora_linear_layer\.(?:down|up)|alpha"
    r"|hada_(?:w1|w2|t1|t2)(?:_[ab])?|lokr_(?:w1|w2|t2)(?:_[ab])?|oft_blocks|oft_diag|dora_scale|on_input|diff(?:_b)?)"
    r"(?:\.default)?(?:\.weight)?"
)
"""A key of a LoRA file: the module, and the part of its change."""

SIGNS = re.compile(r"\.(lora_(down|up|A|B)|lora\.(down|up)|lora_linear_layer\.|hada_w1|lokr_w1|oft_)")
"""What only the keys of LoRA files contain."""

REFUSED = {
    "oft_blocks": "OFT", "oft_diag": "OFT", "dora_scale": "DoRA", "on_input": "IA3", "diff_b": "a trained bias",
    "hada_t1": "LoHa with Tucker factors", "lokr_t2": "LoKr with Tucker factors",
}  # fmt: skip
"""Changes that cannot be computed here, by a part that they have."""


def has_factors(names: Iterable[str]) -> bool:
    """Return whether these are the names in a LoRA file."""
    return any(map(SIGNS.search, names))


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one module, as the parts that a file stores.

    Attributes:
        module: the name of the module in the file.
        keys: the key of each part.
        file: the opened file.
    """

    module: str
    keys: Mapping[str, str]
    file: Checkpoint

    @property
    def source(self) -> str:
        """The file, for errors."""
        return self.file.reference

    @property
    def is_low_rank(self) -> bool:
        """Whether it is the product of two matrices."""
        return self.keys.keys() <= {"up", "down", "alpha"}

    def load(self, part: str) -> Tensor:
        """Return a part in float32."""
        import torch

        info = self.file.tensors[self.keys[part]]
        out = torch.empty(info.elements, dtype=torch_dtype(info.dtype))
        self.file.read(self.keys[part], 0, out)
        return out.float().view(info.shape)

    def scale(self, rank: int) -> float:
        """Return alpha / rank. Without alpha, it is 1."""
        return self.load("alpha").item() / rank if "alpha" in self.keys else 1.0

    def dense(self) -> Tensor:
        """Return the whole change in float32."""
        import torch

        keys = self.keys.keys() - {"alpha"}
        if keys == {"diff"}:
            return self.load("diff")
        if keys == {"up", "down"}:
            up, down = self.load("up"), self.load("down")
            product = up.flatten(1) @ down.flatten(1)
            return self.scale(down.shape[0]) * product.view(up.shape[0], *down.shape[1:])
        if keys == {"up", "mid", "down"}:
            up, mid, down = (self.load(part) for part in ("up", "mid", "down"))
            product = torch.einsum("or,rshw,si->oihw", up.flatten(1), mid, down.flatten(1))
            return self.scale(down.shape[0]) * product
        if keys == {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}:
            first, second = (self.load(f"hada_{w}_a") @ self.load(f"hada_{w}_b") for w in ("w1", "w2"))
            return self.scale(self.file.tensors[self.keys["hada_w1_b"]].shape[0]) * first * second
        if keys & {"lokr_w1", "lokr_w1_a"} and keys & {"lokr_w2", "lokr_w2_a"}:
            (first, one), (second, two) = self._kronecker("w1"), self._kronecker("w2")
            rank = two or one
            first = first.view(*first.shape, *[1] * (second.dim() - first.dim()))
            return (self.scale(rank) if rank else 1.0) * torch.kron(first, second.contiguous())
        raise ModelError(f"{self.source}: {self.module!r} has only {', '.join(sorted(keys))}; download the file again")

    def _kronecker(self, name: str) -> tuple[Tensor, int]:
        """Return a Kronecker factor and its rank, or 0 if it is stored whole."""
        if f"lokr_{name}" in self.keys:
            return self.load(f"lokr_{name}"), 0
        left, right = self.load(f"lokr_{name}_a"), self.load(f"lokr_{name}_b")
        return (left @ right.flatten(1)).view(left.shape[0], *right.shape[1:]), right.shape[0]


def changes(file: Checkpoint) -> dict[str, Change]:
    """Return the change of each module in a LoRA file.

    Raises:
        ModelError: a key is unknown, or a change cannot be computed. The message names it.
    """
    source = file.reference
    if any(key.startswith("base_model.model.") for key in file.tensors):
        raise ModelError(
            f"{source}: is a PEFT adapter, whose scale is in its adapter_config.json; merge adapters with mergecore"
            " lora merge, or add one to its model as MODEL+ADAPTER in mergecore run"
        )
    found: dict[str, dict[str, str]] = {}
    for key in file.tensors:
        match = PART.fullmatch(key)
        if match is None:
            raise ModelError(f"{source}: is a LoRA file, but {key!r} is not a part of a change that mergecore knows")
        if match["part"] in REFUSED:
            raise ModelError(
                f"{source}: {match['module']!r} is changed by {REFUSED[match['part']]}, which cannot be merged here;"
                " merge it into the checkpoint with the program that trained it"
            )
        found.setdefault(match["module"], {})[SPELLINGS.get(match["part"], match["part"])] = key
    return {module: Change(module, keys, file) for module, keys in found.items()}
