"""Published checkpoints that transformers cannot build: remote code, other layouts, multi-token prediction layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import mergecore
from mergecore.errors import ModelError, RecipeError


@dataclass(frozen=True)
class Published:
    """The tensor names in a published checkpoint.

    Each word is a weight. `name+` also has a bias, and `name!` is the full name.
    """

    name: str
    count: str
    before: str
    prefix: str
    layer: str
    after: str
    config: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    def __str__(self) -> str:
        return f"{self.name}-{self.label}" if self.label else self.name

    def names(self, layers: int = 2) -> list[str]:
        """Return every tensor of a checkpoint with this many layers."""
        inside = [
            f"{self.prefix.replace('L', str(index))}{name}" for index in range(layers) for name in full(self.layer)
        ]
        return [*full(self.before), *inside, *full(self.after)]

    def save(self, folder: Path, names: list[str] | None = None, **config: Any) -> dict[str, torch.Tensor]:
        """Write a checkpoint and return its tensors."""
        generator = torch.Generator().manual_seed(0)
        tensors = {name: torch.randn(2, 3, generator=generator) for name in names or self.names()}
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        settings = {"architectures": [self.name], self.count: 2, **self.config, **config}
        (folder / "config.json").write_text(json.dumps(settings))
        return tensors


def full(text: str) -> list[str]:
    """Expand the names in a text."""
    found = []
    for word in text.split():
        stem = word.rstrip("+!")
        found += [stem] if word.endswith("!") else [f"{stem}.weight"]
        found += [f"{stem}.bias"] if word.endswith("+") else []
    return found


LLAMA = ("model.embed_tokens", "model.layers.L.")
PROJECTIONS = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
INV_FREQ = " self_attn.rotary_emb.inv_freq!"
GATED = "post_attention_layernorm mlp.gate_proj mlp.up_proj mlp.down_proj"
NORM = "model.norm lm_head"
H = "transformer.h.L."
MODELS = [
    Published("LlamaForCausalLM", "num_hidden_layers", *LLAMA, f"{PROJECTIONS} input_layernorm {GATED}{INV_FREQ}",
              NORM),
    Published("XverseForCausalLM", "num_hidden_layers", *LLAMA, f"input_layernorm {PROJECTIONS} {GATED}", NORM),
    Published(
        "InternLMForCausalLM", "num_hidden_layers", *LLAMA,
        f"input_layernorm {PROJECTIONS.replace('_proj', '_proj+')} {GATED}{INV_FREQ}", NORM,
    ),
    Published(
        "InternLM2ForCausalLM", "num_hidden_layers", "model.tok_embeddings", LLAMA[1],
        "attention_norm ffn_norm attention.wqkv attention.wo feed_forward.w1 feed_forward.w2 feed_forward.w3",
        "model.norm output",
    ),
    Published("InternLM3ForCausalLM", "num_hidden_layers", *LLAMA, f"input_layernorm {PROJECTIONS} {GATED}", NORM),
    Published(
        "BaichuanForCausalLM", "num_hidden_layers", *LLAMA,
        f"input_layernorm self_attn.W_pack self_attn.o_proj {GATED}{INV_FREQ}", NORM,
    ),
    Published(
        "ChatGLMModel", "num_layers", "transformer.embedding.word_embeddings transformer.rotary_pos_emb.inv_freq!",
        "transformer.encoder.layers.L.",
        "input_layernorm self_attention.query_key_value+ self_attention.dense post_attention_layernorm"
        " mlp.dense_h_to_4h mlp.dense_4h_to_h",
        "transformer.encoder.final_layernorm transformer.output_layer",
    ),
    Published(
        "ExaoneForCausalLM", "num_layers", "transformer.wte", H,
        "ln_1 attn.attention.q_proj attn.attention.k_proj attn.attention.v_proj attn.attention.out_proj ln_2"
        " mlp.c_fc_0 mlp.c_fc_1 mlp.c_proj",
        "transformer.ln_f lm_head",
    ),
    Published(
        "JAISLMHeadModel", "n_layer", "transformer.wte transformer.relative_pe.slopes!", H,
        "ln_1+ ln_2+ attn.c_attn+ attn.c_proj+ mlp.c_fc+ mlp.c_fc2+ mlp.c_proj+", "transformer.ln_f+",
    ),
    Published("SolarForCausalLM", "num_hidden_layers", *LLAMA, f"input_layernorm {PROJECTIONS} {GATED}", NORM),
    Published("QWenLMHeadModel", "num_hidden_layers", "transformer.wte", H,
              "ln_1 ln_2 attn.c_attn+ attn.c_proj mlp.w1 mlp.w2 mlp.c_proj", "transformer.ln_f lm_head"),
    Published(
        "PhiForCausalLM", "n_layer", "transformer.embd.wte", H,
        "ln+ mixer.Wqkv+ mixer.out_proj+ mlp.fc1+ mlp.fc2+", "lm_head.ln+ lm_head.linear+", {"model_type": "phi-msft"},
    ),
    Published(
        "Phi3SmallForCausalLM", "num_hidden_layers", *LLAMA,
        "input_layernorm+ post_attention_layernorm+ self_attn.query_key_value+ self_attn.dense+ mlp.up_proj+"
        " mlp.down_proj+",
        "model.final_layernorm+",
    ),
    Published(
        "StableLMEpochForCausalLM", "num_hidden_layers", *LLAMA,
        f"input_layernorm+ {PROJECTIONS} post_attention_layernorm+ mlp.gate_proj mlp.up_proj mlp.down_proj{INV_FREQ}",
        "model.norm+ lm_head",
    ),
    Published(
        "RWForCausalLM", "n_layer", "transformer.word_embeddings", H,
        "input_layernorm+ self_attention.query_key_value self_attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
        "transformer.ln_f+ lm_head",
    ),
    Published(
        "MPTForCausalLM", "n_layers", "transformer.wte", "transformer.blocks.L.",
        "norm_1 norm_2 attn.Wqkv attn.out_proj ffn.up_proj ffn.down_proj", "transformer.norm_f",
    ),
    Published(
        "GPTNeoXForCausalLM", "num_hidden_layers", "gpt_neox.embed_in", "gpt_neox.layers.L.",
        "input_layernorm+ attention.query_key_value+ attention.dense+ attention.bias! attention.masked_bias!"
        " attention.rotary_emb.inv_freq! post_attention_layernorm+ mlp.dense_h_to_4h+ mlp.dense_4h_to_h+",
        "gpt_neox.final_layer_norm+ embed_out",
    ),
    Published(
        "DeepseekForCausalLM", "num_hidden_layers", *LLAMA,
        f"input_layernorm {PROJECTIONS} post_attention_layernorm mlp.gate mlp.shared_experts.gate_proj"
        " mlp.shared_experts.up_proj mlp.shared_experts.down_proj"
        + "".join(f" mlp.experts.{expert}.{part}_proj" for expert in (0, 1) for part in ("gate", "up", "down")),
        NORM, {"n_routed_experts": 2, "first_k_dense_replace": 0, "moe_layer_freq": 1},
    ),
]  # fmt: skip


ATTENTION = f"input_layernorm post_attention_layernorm {PROJECTIONS}"
NEXT = "enorm hnorm eh_proj shared_head.norm shared_head.head embed_tokens"
GLM = Published("Glm4MoeForCausalLM", "num_hidden_layers", *LLAMA,
                f"{ATTENTION} mlp.gate_proj mlp.up_proj mlp.down_proj", NORM,
                {"first_k_dense_replace": 2, "n_routed_experts": 2, "num_nextn_predict_layers": 1})  # fmt: skip


def sliced(folder: Path, *ranges: tuple[int, int]) -> dict[str, Any]:
    slices = [{"sources": [{"model": str(folder), "layer_range": list(span)}]} for span in ranges]
    return {"merge_method": "passthrough", "slices": slices}


def check(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_published_names_are_known_kept_and_renumbered(model: Published, tmp_path: Path) -> None:
    tensors = model.save(tmp_path / "model")
    copy = {"merge_method": "passthrough", "models": [{"model": str(tmp_path / "model")}]}
    assert not any("inferred" in note for note in mergecore.plan(copy).notes)
    mergecore.run(copy, tmp_path / "copy")
    check(load_file(tmp_path / "copy/model.safetensors"), tensors)
    mergecore.run(sliced(tmp_path / "model", (0, 1), (0, 2)), tmp_path / "sliced")
    layers = (0, 0, 1)
    inside = {
        model.prefix.replace("L", str(there)) + name: tensors[model.prefix.replace("L", str(here)) + name]
        for there, here in enumerate(layers)
        for name in full(model.layer)
    }
    outside = {name: tensors[name] for name in [*full(model.before), *full(model.after)]}
    check(load_file(tmp_path / "sliced/model.safetensors"), {**outside, **inside})
    assert json.loads((tmp_path / "sliced/config.json").read_text())[model.count] == 3


def test_layers_for_further_tokens_stay_last_and_are_counted_apart(tmp_path: Path) -> None:
    names = [*GLM.names(3), *(f"model.layers.2.{name}" for name in full(NEXT))]
    tensors = GLM.save(tmp_path / "model", names)
    mergecore.run({"merge_method": "passthrough", "models": [{"model": str(tmp_path / "model")}]}, tmp_path / "copy")
    check(load_file(tmp_path / "copy/model.safetensors"), tensors)
    for out, ranges, counts in (("more", ((0, 2), (1, 3)), (3, 1)), ("none", ((0, 2), (1, 2)), (3, 0))):
        mergecore.run(sliced(tmp_path / "model", *ranges), tmp_path / out)
        config = json.loads((tmp_path / out / "config.json").read_text())
        assert (config["num_hidden_layers"], config["num_nextn_predict_layers"]) == counts
        stored = load_file(tmp_path / out / "model.safetensors")
        assert ("model.layers.3.eh_proj.weight" in stored) is bool(counts[1])
    with pytest.raises(ModelError, match=r"layer 2 is not counted by .* would come before"):
        mergecore.plan(sliced(tmp_path / "model", (0, 3), (1, 2)))


def test_layers_for_further_tokens_may_all_be_absent(tmp_path: Path) -> None:
    GLM.save(tmp_path / "model")
    plan = mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(tmp_path / "model")}]})
    assert plan.config["num_nextn_predict_layers"] == 0


def test_the_last_layer_of_a_kind_moves_with_the_slices(tmp_path: Path) -> None:
    ernie = Published("Ernie4_5_MoeForCausalLM", "num_hidden_layers", *LLAMA, f"{PROJECTIONS} input_layernorm {GATED}",
                      NORM, {"moe_layer_start_index": 1, "moe_layer_end_index": 1, "moe_num_experts": 2})  # fmt: skip
    ernie.save(tmp_path / "model")
    config = mergecore.plan(sliced(tmp_path / "model", (0, 2), (1, 2))).config
    assert (config["moe_layer_start_index"], config["moe_layer_end_index"]) == (1, 2)


def test_names_without_the_prefix_of_their_class_are_given_it(tmp_path: Path) -> None:
    model = MODELS[0]
    bare = [name.removeprefix("model.") for name in model.names() if name != "lm_head.weight"]
    tensors = model.save(tmp_path / "bare", bare, tie_word_embeddings=True)
    plan = mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(tmp_path / "bare")}]})
    assert plan.tensors.keys() == {f"model.{name}" for name in tensors}
    assert any("prefix 'model.' is added to names" in note for note in plan.notes)


def test_experts_in_one_tensor_merge_with_experts_apart(tmp_path: Path) -> None:
    options = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.MixtralConfig(**options, num_hidden_layers=1, vocab_size=16, num_local_experts=3)
    model = transformers.MixtralForCausalLM(config)
    for folder, published in (("apart", True), ("fused", False)):
        model.save_pretrained(tmp_path / folder, save_original_format=published)
    for donor, other in (("apart", "fused"), ("fused", "apart")):
        models = [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in (donor, other)]
        mergecore.run({"merge_method": "linear", "models": models}, tmp_path / f"{donor}-first")
        check(
            load_file(tmp_path / f"{donor}-first/model.safetensors"), load_file(tmp_path / donor / "model.safetensors")
        )


def test_numbering_that_no_count_states_is_copied_but_not_sliced(tmp_path: Path) -> None:
    model = Published("MixFormerSequentialForCausalLM", "n_layer", "layers.0.wte", "layers.L.", "", "")
    block = full("ln+ mixer.Wqkv+ mixer.out_proj+ mixer.rotary_emb.inv_freq! mlp.fc1+ mlp.fc2+")
    blocks = [f"layers.{index}.{name}" for index in (1, 2) for name in block]
    tensors = model.save(tmp_path / "model", ["layers.0.wte.weight", *blocks, *full("layers.3.ln+ layers.3.linear+")])
    mergecore.run({"merge_method": "passthrough", "models": [{"model": str(tmp_path / "model")}]}, tmp_path / "copy")
    check(load_file(tmp_path / "copy/model.safetensors"), tensors)
    with pytest.raises(RecipeError, match="no layers to select"):
        mergecore.plan(sliced(tmp_path / "model", (0, 1), (0, 2)))
