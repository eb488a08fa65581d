"""What programs other than PEFT can read of an adapter."""

from __future__ import annotations

from enum import Enum

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's option ``--max-lora-rank`` (`MaxLoRARanks` in vllm/config/lora.py)."""


class Program(str, Enum):
    """Programs that read only some adapters.

    vLLM rejects an adapter with `modules_to_save` (`PEFTHelper` in vllm/lora/peft_helper.py), and for most classes one
    with factors of an embedding or head, whose names are not in `embedding_modules`. llama.cpp's
    convert_lora_to_gguf.py stops at everything but factors of matrices and norms, and the program ignores the norms.
    Neither reads the factors of experts in one tensor (`target_parameters`), or more than one rank.
    """

    peft = "peft"
    vllm = "vllm"
    llama_cpp = "llama.cpp"

    def reads(self, how: str, *, table: bool = False, experts: bool = False) -> bool:
        """Return whether it reads a tensor of an adapter.

        Args:
            how: ``lora`` for factors, or ``save`` for a whole tensor.
            table: whether the tensor is an embedding or a head.
            experts: whether it has the experts of a layer in one tensor.
        """
        if self is Program.peft:
            return True
        return how == "lora" and not experts and not (table and self is Program.vllm)

    def notes(self, rank: int, left_out: list[str]) -> list[str]:
        """Return notes on what is left out, and on the rank."""
        notes = []
        if self is not Program.peft and left_out:
            more = f" and {len(left_out) - 1} more" if len(left_out) > 1 else ""
            notes.append(f"left out, because {self.value} cannot read it: {left_out[0]!r}{more}")
        if self is Program.vllm and rank > VLLM_RANKS[-1]:
            notes.append(f"the rank is {rank}, and vLLM reads up to {VLLM_RANKS[-1]}; use --rank {VLLM_RANKS[-1]}")
        elif self is Program.vllm and rank > 16:
            least = next(size for size in VLLM_RANKS if size >= rank)
            notes.append(f"the rank is {rank}: start vLLM with --max-lora-rank {least}")
        return notes
