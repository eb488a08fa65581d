"""`base+adapter` with LoHa, LoKr, VeRA, IA3, and OFT computes what PEFT's model computes in training."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import transformers
from peft_bases import BASES, IN_GPT2, NAMES, in_recipe, logits, renamed, shake
from safetensors.torch import load_file, save_file

from mergecore.errors import MergecoreError

CONFIGS: dict[str, tuple[Any, dict[str, Any]]] = {
    "loha": (peft.LoHaConfig, {"r": 4, "alpha": 3, "target_modules": ["q", "down"]}),
    "loha with patterns": (peft.LoHaConfig, {"r": 4, "target_modules": ["q", "o"], "rank_pattern": {"o": 2},
                                             "alpha_pattern": {"q": 5}}),
    "lokr": (peft.LoKrConfig, {"r": 4, "alpha": 3, "target_modules": ["q", "down"]}),
    "lokr of two products": (peft.LoKrConfig, {"r": 1, "alpha": 3, "target_modules": ["q", "down"],
                                               "decompose_both": True, "decompose_factor": 4}),
    "lokr with patterns": (peft.LoKrConfig, {"r": 1, "target_modules": ["q", "o"], "rank_pattern": {"o": 2},
                                             "alpha_pattern": {"q": 5}, "decompose_factor": 2}),
    "vera": (peft.VeraConfig, {"r": 4, "target_modules": ["q", "down"]}),
    "vera with biases": (peft.VeraConfig, {"r": 4, "target_modules": ["q", "o"], "bias": "all"}),
    "ia3": (peft.IA3Config, {"target_modules": ["q", "o", "down"], "feedforward_modules": ["down"]}),
    "ia3 of outputs": (peft.IA3Config, {"target_modules": ["q", "down"], "feedforward_modules": []}),
    "ia3 with a saved embedding": (peft.IA3Config, {"target_modules": ["q"], "feedforward_modules": [],
                                                    "modules_to_save": ["embedding"]}),
    "oft": (peft.OFTConfig, {"oft_block_size": 4, "target_modules": ["q", "down"]}),
    "oft, exact": (peft.OFTConfig, {"oft_block_size": 8, "target_modules": ["q", "o"], "use_cayley_neumann": False}),
    "oft, one block": (peft.OFTConfig, {"oft_block_size": 4, "target_modules": ["q", "o"], "block_share": True}),
    "oft, constrained": (peft.OFTConfig, {"oft_block_size": 4, "target_modules": ["o", "down"], "coft": True,
                                          "eps": 0.1}),
    **{f"oft, {terms} terms": (peft.OFTConfig, {"oft_block_size": 4, "target_modules": ["o", "down"],
                                                "num_cayley_neumann_terms": terms}) for terms in (2, 3, 6)},
}  # fmt: skip


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("what", CONFIGS)
def test_the_logits_are_those_of_training(what: str, base: str, tmp_path: Path) -> None:
    name, config = BASES[base]
    model_class = getattr(transformers, name)
    model_class(config()).save_pretrained(tmp_path / "base")
    make, options = CONFIGS[what]
    names = IN_GPT2 if base.startswith("gpt2") else NAMES
    options = {key: renamed(value, names) for key, value in options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            wrapped = peft.get_peft_model(model_class.from_pretrained(tmp_path / "base"), make(**options))
        except (ValueError, TypeError) as error:
            pytest.skip(f"PEFT cannot do this: {error}"[:100])
        shake(wrapped, 1)
        wanted = logits(wrapped)
        wrapped.save_pretrained(tmp_path / "adapter")
    assert (wanted - logits(model_class.from_pretrained(tmp_path / "base"))).abs().max() > 1e-4
    assert (in_recipe(model_class, tmp_path) - wanted).abs().max() < 2e-5


REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "VeRA without its matrices": (peft.VeraConfig, {"r": 4, "save_projection": False}, "lacks vera_A and vera_B"),
    "OFT of an embedding": (peft.OFTConfig, {"oft_block_size": 4, "target_modules": ["embed_tokens"]},
                            "has 'oft_embedding_R' in 'model.embed_tokens', so it cannot be added here"),
    "BOFT": (peft.BOFTConfig, {"boft_block_size": 4}, "peft_type is 'BOFT', but only LoRA, LoHa"),
    "HRA": (peft.HRAConfig, {"r": 4}, "peft_type is 'HRA'"),
    "AdaLoRA": (peft.AdaLoraConfig, {"total_step": 10}, "peft_type is 'ADALORA'"),
}  # fmt: skip


def llama_with(make: Any, folder: Path, **options: Any) -> None:
    name, config = BASES["untied"]
    model = getattr(transformers, name)(config())
    model.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped = peft.get_peft_model(model, make(**{"target_modules": ["q_proj"], **options}))
        shake(wrapped, 1)
        wrapped.save_pretrained(folder / "adapter")


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_closed_formula_is_refused_by_name(what: str, tmp_path: Path) -> None:
    make, options, said = REFUSED[what]
    llama_with(make, tmp_path, **options)
    with pytest.raises(MergecoreError, match=re.escape(said)):
        in_recipe(transformers.LlamaForCausalLM, tmp_path)


@pytest.mark.parametrize("make", [peft.LoHaConfig, peft.LoKrConfig, peft.VeraConfig, peft.IA3Config, peft.OFTConfig])
def test_an_adapter_of_another_size_is_refused(make: Any, tmp_path: Path) -> None:
    options = {"feedforward_modules": []} if make is peft.IA3Config else {}
    llama_with(make, tmp_path, **options, **({"oft_block_size": 4} if make is peft.OFTConfig else {}))
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    cut = {k: v if "vera_A" in k or "vera_B" in k else v[..., : len(v) // 2, :] if v.dim() > 1 else v[:3]
           for k, v in load_file(path).items()}  # fmt: skip
    save_file({key: value.contiguous() for key, value in cut.items()}, path)
    with pytest.raises(MergecoreError, match=r"does not fit 'model\.layers\.0.self_attn\.q_proj\.weight'"):
        in_recipe(transformers.LlamaForCausalLM, tmp_path)
