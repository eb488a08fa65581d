"""LoRA files of image models: find the factors of each module, and compute the change that they describe.

The formulas are those of LoRA (arXiv 2106.09685) and, for LoHa and LoKr, of LyCORIS (arXiv 2309.14859).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mergecore.api import ModelError, TensorInfo, torch_dtype
from mergecore.tooling import Checkpoint
from mergecore_raw.lora_header import declared_scales

if TYPE_CHECKING:
    from torch import Tensor

SPELLINGS = {
    "lora_down": "down", "lora_A": "down", "lora_embedding_A": "down",
    "lora_up": "up", "lora_B": "up", "lora_embedding_B": "up",
    "lora_mid": "mid", "diff_b": "diff", "w_norm": "diff", "b_norm": "diff",
}  # fmt: skip
"""Parts of a change by their spellings in kohya's, PEFT's, diffusers', and LyCORIS's files. Others keep their names."""

OF_BIAS = ("diff_b", "b_norm")
"""Parts that change the module's bias."""

OF_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")
"""Parts whose product is the transpose of the change."""

PART = re.compile(
    r"(?P<module>.+?)(?:\.lora|\.lora_linear_layer)?[.:](?P<part>lora_(?:down|up|mid|A|B|embedding_A|embedding_B)|down|up"
    r"|alpha|hada_(?:w1|w2|t1|t2)(?:_[ab])?|lokr_(?:w1|w2|t2)(?:_[ab])?|diff(?:_b)?|[wb]_norm)(?:\.default)?(?:\.weight)?"
)
"""A key of a LoRA file: the module, and the part of its change."""

SIGNS = re.compile(
    r"(?:^|[.:])(?:lora_|hada_|lokr_|oft_|boft_|ia3_|vera_)|(?:lora\d*|\.lora_linear_layer)\.(?:down|up)\."
    r"|\.(?:diff|diff_b|w_norm|b_norm)$"
)
"""What only the keys of LoRA files contain."""

PAIR = re.compile(r"(?P<module>.+)[.:](?P<part>down|up)(?:\.weight)?")
"""A factor in a file that says nothing else about itself."""

REFUSED = {
    "oft_blocks": "OFT", "oft_diag": "OFT", "oft_R": "OFT", "boft_R": "BOFT", "dora_scale": "DoRA",
    "lora_magnitude_vector": "DoRA", "on_input": "IA3", "ia3_l": "IA3", "hada_t1": "LoHa with Tucker factors",
    "lokr_t2": "LoKr with Tucker factors", "vera_lambda_b": "VeRA", "vera_lambda_d": "VeRA", "a1": "GLoRA",
    "bundle_emb": "a trained token",
}  # fmt: skip
"""Changes that cannot be computed here, by a part that they have."""


def has_factors(tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether these are the tensors in a LoRA file.

    Either a key says so, or the file has nothing but pairs of matrices, ``down`` and ``up``, with a product.
    """
    if any(map(SIGNS.search, tensors)):
        return True
    found: dict[str, dict[str, TensorInfo]] = {}
    for key, info in tensors.items():
        match = PAIR.fullmatch(key)
        if match is None:
            return False
        found.setdefault(match["module"], {})[match["part"]] = info
    shapes = [(parts["down"].shape, parts["up"].shape) for parts in found.values() if len(parts) == 2]
    return len(shapes) == len(found) and all(len(up) > 1 and down and down[0] == up[1] for down, up in shapes)


@dataclass(frozen=True, eq=False)
class Change:
    """The change of one module, as the parts that a file stores.

    Attributes:
        module: the name of the module in the file.
        of_bias: whether its bias is changed, and not its weight.
        keys: the key of each part.
        file: the opened file.
        declared: the scale in the file's header, by module and rank.
    """

    module: str
    of_bias: bool
    keys: Mapping[str, str]
    file: Checkpoint
    declared: Callable[[str, int], float]

    @property
    def source(self) -> str:
        """The file, for errors."""
        return self.file.reference

    @property
    def is_low_rank(self) -> bool:
        """Whether it is the product of two matrices."""
        return {"up", "down"} <= self.keys.keys() <= {"up", "down", "alpha"}

    def load(self, part: str) -> Tensor:
        """Return a part in float32."""
        import torch

        info = self.file.tensors[self.keys[part]]
        out = torch.empty(info.elements, dtype=torch_dtype(info.dtype))
        self.file.read(self.keys[part], 0, out)
        return out.float().view(info.shape)

    def scale(self, rank: int) -> float:
        """Return alpha / rank. Without alpha, it is what the header states, or 1."""
        return self.load("alpha").item() / rank if "alpha" in self.keys else self.declared(self.module, rank)

    def dense(self) -> Tensor:
        """Return the whole change in float32."""
        import torch

        keys = self.keys.keys() - {"alpha"}
        if keys == {"diff"}:
            return self.load("diff")
        if keys == {"up", "down"}:
            up, down = self.load("up"), self.load("down")
            product = self.scale(down.shape[0]) * (up.flatten(1) @ down.flatten(1))
            transposed = self.keys["down"].endswith(OF_EMBEDDING)
            return product.T.contiguous() if transposed else product.view(up.shape[0], *down.shape[1:])
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


def changes(file: Checkpoint) -> dict[tuple[str, bool], Change]:
    """Return every change in a LoRA file, by its module and whether it changes the bias.

    Raises:
        ModelError: a key is unknown, or a change cannot be computed. The message names it.
    """
    source = file.reference
    if any(key.startswith("base_model.model.") for key in file.tensors):
        raise ModelError(
            f"{source}: is a PEFT adapter, whose scale is in its adapter_config.json; merge adapters with mergecore"
            " lora merge, or add one to its model as MODEL+ADAPTER in mergecore run"
        )
    found: dict[tuple[str, bool], dict[str, str]] = {}
    for key in file.tensors:
        if kind := next((REFUSED[word] for word in re.split(r"[.:]", key) if word in REFUSED), None):
            raise ModelError(
                f"{source}: {key!r} belongs to {kind}, which cannot be merged here; merge it into the checkpoint with"
                " the program that trained it"
            )
    for key in file.tensors:
        match = PART.fullmatch(key)
        if match is None:
            raise ModelError(
                f"{source}: {key!r} is not a part of a change that mergecore knows, but other keys are those of a LoRA"
                " file, whose factors must not be averaged one by one"
            )
        part = match["part"]
        found.setdefault((match["module"], part in OF_BIAS), {})[SPELLINGS.get(part, part)] = key
    declared = declared_scales(file)
    return {(module, bias): Change(module, bias, keys, file, declared) for (module, bias), keys in found.items()}
