"""The families that support only one class of dense model: the one with the same layers from the same vendor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mergecore_moe.config import Config
from mergecore_moe.dense import Dense
from mergecore_moe.families import PLAIN, Family, attention_biases, unbiased, ungated, unshared


class Qwen3(Family):
    """Qwen3-MoE (https://arxiv.org/abs/2505.09388)."""

    name = "Qwen3 MoE"
    model_class, model_type = "Qwen3MoeForCausalLM", "qwen3_moe"
    expert = PLAIN
    kinds = ("qwen3",)

    def lacks(self, dense: Dense, config: Config) -> str:
        if wrong := unshared(config):
            return wrong
        if len(set(dense.windows)) > 1:
            return f"has the same attention in all layers, but {dense.reference} has an attention window in some"
        return ""

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        return {
            "num_experts": len(config.experts),
            "num_experts_per_tok": config.active,
            "moe_intermediate_size": dense.config["intermediate_size"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "use_sliding_window": any(dense.windows),
            "sliding_window": dense.window,
        }


class Ernie(Family):
    """ERNIE 4.5 with experts (technical report, Baidu 2025) and an ungated shared expert."""

    name = "ERNIE 4.5 MoE"
    model_class, model_type = "Ernie4_5_MoeForCausalLM", "ernie4_5_moe"
    expert = PLAIN
    shared = ("mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight",
              "mlp.shared_experts.down_proj.weight")  # fmt: skip
    kinds = ("ernie4_5",)

    def lacks(self, dense: Dense, config: Config) -> str:
        return ungated(config) or unbiased(dense)

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        return {
            "moe_num_experts": len(config.experts),
            "moe_k": config.active,
            "moe_num_shared_experts": len(config.shared),
            "moe_intermediate_size": dense.config["intermediate_size"],
            "moe_layer_start_index": 0,
            "moe_layer_end_index": dense.config["num_hidden_layers"] - 1,
            "moe_layer_interval": 1,
        }

    def zeros(self, dense: Dense, config: Config) -> Mapping[str, tuple[int, ...]]:
        return {"mlp.moe_statics.e_score_correction_bias": (1, len(config.experts))}  # balanced by training


class Olmo2(Family):
    """FlexOlmo (https://arxiv.org/abs/2507.07024): OLMo 2 (with norms after attention and MLP) with experts."""

    name = "FlexOlmo"
    model_class, model_type = "FlexOlmoForCausalLM", "flex_olmo"
    expert = PLAIN
    kinds = ("olmo2",)

    def lacks(self, dense: Dense, config: Config) -> str:
        return unshared(config) or unbiased(dense, attention_biases("qkvo"))

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        return {
            "num_experts": len(config.experts),
            "num_experts_per_tok": config.active,
            "norm_topk_prob": True,
        }


class Granite(Family):
    """Granite with experts (https://arxiv.org/abs/2408.13359), which keeps Granite's four multipliers."""

    name = "Granite MoE"
    model_class, model_type = "GraniteMoeForCausalLM", "granitemoe"
    router = "block_sparse_moe.router.layer.weight"
    expert = ("block_sparse_moe.input_linear.weight", "block_sparse_moe.input_linear.weight",
              "block_sparse_moe.output_linear.weight")  # fmt: skip
    kinds = ("granite",)

    def lacks(self, dense: Dense, config: Config) -> str:
        return unshared(config) or unbiased(dense, attention_biases("qkvo"))

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        return {"num_local_experts": len(config.experts), "num_experts_per_tok": config.active}
