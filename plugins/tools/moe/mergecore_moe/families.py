"""The classes that a mixture can be written as, with their weights and the dense models that they support."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from mergecore_moe.config import Config
from mergecore_moe.dense import Dense

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""The weights of a dense MLP. A family lists those of an expert in this order."""


class Family:
    """Base class of mixture families. Register subclasses under ``mergecore.v1.moe_families``.

    All weight names are relative to a layer.

    Attributes:
        name: The value of ``architecture`` in a config, which can be abbreviated.
        model_class, model_type: Values in config.json.
        router: The weight with one row per expert.
        expert: The weights of an expert in the order of `PROJECTIONS`, with ``{expert}`` for its number. A name without
            it is one weight with the matrices of all experts: (experts, rows, columns).
        shared: The same for the expert that sees every token. Empty if there is none.
        shared_gate: The weight whose product with a token, after a sigmoid, scales the shared expert. Empty if the
            shared expert is not scaled.
        kinds: The ``model_type`` of supported dense models.
    """

    name: ClassVar[str]
    model_class: ClassVar[str]
    model_type: ClassVar[str]
    router: ClassVar[str] = "mlp.gate.weight"
    expert: ClassVar[tuple[str, str, str]]
    shared: ClassVar[tuple[str, ...]] = ()
    shared_gate: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]]

    def refusal(self, dense: Dense, config: Config) -> str:
        """Return why the model is not supported, as the end of a sentence that starts with the name; empty if it is."""
        if dense.kind not in self.kinds:
            return f"requires {' or '.join(self.kinds)} models, but {dense.reference} is {dense.kind!r}"
        return self.lacks(dense, config)

    def lacks(self, dense: Dense, config: Config) -> str:
        """Return what the family cannot express of a model of one of its kinds, or empty if nothing."""
        raise NotImplementedError

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        """Return the config.json values that differ from `Dense.config`, except class, ``model_type``, and dtype."""
        raise NotImplementedError

    def zeros(self, dense: Dense, config: Config) -> Mapping[str, tuple[int, ...]]:
        """Return the shapes of a layer's weights that the dense model does not have. Zeros there have no effect."""
        return {}

    def notes(self, dense: Dense, config: Config) -> list[str]:
        """Return notes on how the behavior of the result differs from the dense model."""
        return []


def unbiased(dense: Dense, known: Collection[str] = ()) -> str:
    """Return a message like `Family.lacks` if the model has biases that the family does not, or else empty."""
    if not dense.biases - set(known):
        return ""
    parts = [part for part in "qkvo" if f"self_attn.{part}_proj.bias" in known]
    owned = f"only biases of {', '.join(parts[:-1])} and {parts[-1]}" if parts else "no biases"
    return f"has {owned}, but {dense.reference} has {dense.listed_biases}"


def unshared(config: Config) -> str:
    """Return a message if the config has shared experts but the family does not, or else empty."""
    return f"has no shared experts, but the config has {len(config.shared)}" if config.shared else ""


def ungated(config: Config) -> str:
    """Return a message if the config needs more than one ungated shared expert, or else empty."""
    if len(config.shared) > 1:
        return f"has at most one shared expert, but the config has {len(config.shared)}"
    if config.shared and config.shared[0].positive:
        return "has no gate for its shared expert, but the config has prompts for it"
    return ""


def attention_biases(parts: str) -> frozenset[str]:
    """Return the names of the attention biases of some of ``q``, ``k``, ``v``, ``o``."""
    return frozenset(f"self_attn.{part}_proj.bias" for part in parts)


PLAIN = ("mlp.experts.{expert}.gate_proj.weight", "mlp.experts.{expert}.up_proj.weight",
         "mlp.experts.{expert}.down_proj.weight")  # fmt: skip


class Mixtral(Family):
    """Mixtral (https://arxiv.org/abs/2401.04088), where the weights of the chosen experts always add up to 1."""

    name = "Mixtral"
    model_class, model_type = "MixtralForCausalLM", "mixtral"
    router = "block_sparse_moe.gate.weight"
    expert = ("block_sparse_moe.experts.{expert}.w1.weight", "block_sparse_moe.experts.{expert}.w3.weight",
              "block_sparse_moe.experts.{expert}.w2.weight")  # fmt: skip
    kinds = ("llama", "mistral")

    def lacks(self, dense: Dense, config: Config) -> str:
        return unshared(config) or unbiased(dense)

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        return {
            "num_local_experts": len(config.experts),
            "num_experts_per_tok": config.active,
            "sliding_window": dense.window,
        }


class DeepSeek(Family):
    """DeepSeek-MoE (https://arxiv.org/abs/2401.06066), with an ungated shared expert."""

    name = "DeepSeek MoE"
    model_class, model_type = "DeepseekForCausalLM", "deepseek"
    expert = PLAIN
    shared = ("mlp.shared_experts.gate_proj.weight", "mlp.shared_experts.up_proj.weight",
              "mlp.shared_experts.down_proj.weight")  # fmt: skip
    kinds = ("llama", "mistral")

    def lacks(self, dense: Dense, config: Config) -> str:
        if wrong := ungated(config) or unbiased(dense):
            return wrong
        size = dense.config["hidden_size"] // dense.config["num_attention_heads"]
        if dense.head_size != size:
            return (
                f"needs head_dim = hidden_size / num_attention_heads = {size}, but {dense.reference} has"
                f" {dense.head_size}"
            )
        return ""

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        code = "deepseek-ai/deepseek-moe-16b-base--"
        return {
            "n_routed_experts": len(config.experts),
            "n_shared_experts": len(config.shared) or None,
            "num_experts_per_tok": config.active,
            "moe_intermediate_size": dense.config["intermediate_size"],
            "first_k_dense_replace": 0,
            "moe_layer_freq": 1,
            "scoring_func": "softmax",
            "norm_topk_prob": True,
            "auto_map": {  # transformers has no such class, so loading it requires the authors' code
                "AutoConfig": f"{code}configuration_deepseek.DeepseekConfig",
                "AutoModel": f"{code}modeling_deepseek.DeepseekModel",
                "AutoModelForCausalLM": f"{code}modeling_deepseek.DeepseekForCausalLM",
            },
        }

    def notes(self, dense: Dense, config: Config) -> list[str]:
        found = []
        if dense.window:
            found.append(
                f"{dense.reference}: its attention window of {dense.window} tokens is dropped because {self.name} has"
                " none; texts up to that length are not affected"
            )
        if config.active == 1:
            found.append(
                f"{self.name} with experts_per_token: 1 scales the expert by its probability in the authors' code but"
                " not in other implementations; 2 or more work the same everywhere"
            )
        return found


class Qwen2(Family):
    """Qwen2-MoE (https://arxiv.org/abs/2407.10671), with a gated shared expert and biases of q, k, and v."""

    name = "Qwen MoE"
    model_class, model_type = "Qwen2MoeForCausalLM", "qwen2_moe"
    expert = PLAIN
    shared = ("mlp.shared_expert.gate_proj.weight", "mlp.shared_expert.up_proj.weight",
              "mlp.shared_expert.down_proj.weight")  # fmt: skip
    shared_gate = "mlp.shared_expert_gate.weight"
    kinds = ("llama", "mistral", "qwen2")

    def lacks(self, dense: Dense, config: Config) -> str:
        if len(config.shared) != 1:
            return f"has exactly one shared expert, but the config has {len(config.shared)}"
        return unbiased(dense, attention_biases("qkv"))

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        return {
            "num_experts": len(config.experts),
            "num_experts_per_tok": config.active,
            "moe_intermediate_size": dense.config["intermediate_size"],
            "shared_expert_intermediate_size": dense.config["intermediate_size"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "qkv_bias": True,
            "use_sliding_window": any(dense.windows),
            "sliding_window": dense.window or 4096,
            "layer_types": ["sliding_attention" if window else "full_attention" for window in dense.windows],
        }

    def zeros(self, dense: Dense, config: Config) -> Mapping[str, tuple[int, ...]]:
        heads = {"q": "num_attention_heads", "k": "num_key_value_heads", "v": "num_key_value_heads"}
        shapes = {f"self_attn.{part}_proj.bias": (dense.config[key] * dense.head_size,) for part, key in heads.items()}
        return {name: shape for name, shape in shapes.items() if name not in dense.biases}
