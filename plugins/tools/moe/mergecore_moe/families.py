"""The classes that a mixture can be written as: what each is made of, and which dense models fit it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from mergecore_moe.config import Config
from mergecore_moe.dense import Dense

PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
"""The weights of a dense MLP; a family names an expert's in this order."""


class Family:
    """A class of mixtures: derive from it and register it under ``mergecore.v1.moe_families``.

    All names of weights are within a layer.

    Attributes:
        name: what ``architecture`` in a config names, or begins.
        model_class, model_type: of config.json.
        router: the weight with a row for each expert.
        expert: the weights of an expert in the order of `PROJECTIONS`, with ``{expert}`` for its number. A name without
            it is one weight of three axes, which has what so named of each expert: (experts, rows, columns).
        shared: the same of the expert that sees every token; empty: there is none.
        shared_gate: the weight whose product with a token, through a sigmoid, weighs the shared expert; empty: it
            always counts in full.
        kinds: the ``model_type`` of the dense models that it can be made of.
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
        """Why it cannot be made of this model, as the end of a sentence that begins with its name; empty: it can."""
        if dense.kind not in self.kinds:
            return f"is made of {' or '.join(self.kinds)} models, and {dense.reference} is {dense.kind!r}"
        return self.lacks(dense, config)

    def lacks(self, dense: Dense, config: Config) -> str:
        """What it cannot express of a model of one of its kinds; empty: nothing."""
        raise NotImplementedError

    def settings(self, dense: Dense, config: Config) -> dict[str, Any]:
        """The values of config.json that differ from `Dense.config`, without its class, ``model_type`` and dtype."""
        raise NotImplementedError

    def zeros(self, dense: Dense, config: Config) -> Mapping[str, tuple[int, ...]]:
        """Weights of a layer that the dense model has not, with their shapes; zeros do what it does without."""
        return {}

    def notes(self, dense: Dense, config: Config) -> list[str]:
        """What the result will not do as the dense model does."""
        return []


def unbiased(dense: Dense, known: Collection[str] = ()) -> str:
    """What to say of biases that a family has not, as `Family.lacks` does; empty: the model has none of them."""
    if not dense.biases - set(known):
        return ""
    parts = [part for part in "qkvo" if f"self_attn.{part}_proj.bias" in known]
    owned = f"biases of {', '.join(parts[:-1])} and {parts[-1]} only" if parts else "no biases"
    return f"has {owned}, and {dense.reference} has {dense.listed_biases}"


def unshared(config: Config) -> str:
    """What to say of shared experts that a family has not."""
    return f"has no shared experts, and the config has {len(config.shared)}" if config.shared else ""


def ungated(config: Config) -> str:
    """What to say where a family has one shared expert at most, which always counts in full."""
    if len(config.shared) > 1:
        return f"has at most one shared expert, and the config has {len(config.shared)}"
    if config.shared and config.shared[0].positive:
        return "has no gate before its shared expert, and the config has prompts for it"
    return ""


def attention_biases(parts: str) -> frozenset[str]:
    """The names of biases in the attention: of ``q``, ``k``, ``v``, ``o``."""
    return frozenset(f"self_attn.{part}_proj.bias" for part in parts)


PLAIN = ("mlp.experts.{expert}.gate_proj.weight", "mlp.experts.{expert}.up_proj.weight",
         "mlp.experts.{expert}.down_proj.weight")  # fmt: skip


class Mixtral(Family):
    """Mixtral (https://arxiv.org/abs/2401.04088): the weights of the chosen experts always add up to 1."""

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
    """DeepSeek-MoE (https://arxiv.org/abs/2401.06066): experts, and one that is added for every token."""

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
                f"has heads of hidden_size / num_attention_heads = {size}, and {dense.reference} of {dense.head_size}"
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
            "auto_map": {  # transformers has no such class: whoever loads it must allow the code of its authors
                "AutoConfig": f"{code}configuration_deepseek.DeepseekConfig",
                "AutoModel": f"{code}modeling_deepseek.DeepseekModel",
                "AutoModelForCausalLM": f"{code}modeling_deepseek.DeepseekForCausalLM",
            },
        }

    def notes(self, dense: Dense, config: Config) -> list[str]:
        found = []
        if dense.window:
            found.append(
                f"{dense.reference}: its attention window of {dense.window} tokens is not kept, since {self.name} has"
                " none; texts up to that length give the same"
            )
        if config.active == 1:
            found.append(
                f"{self.name} with experts_per_token: 1 weighs the expert by its probability in the authors' code and"
                " by 1 in other readers; 2 or more are the same everywhere"
            )
        return found


class Qwen2(Family):
    """Qwen2-MoE (https://arxiv.org/abs/2407.10671): experts, and one behind a gate of its own; biases of q, k and v."""

    name = "Qwen MoE"
    model_class, model_type = "Qwen2MoeForCausalLM", "qwen2_moe"
    expert = PLAIN
    shared = ("mlp.shared_expert.gate_proj.weight", "mlp.shared_expert.up_proj.weight",
              "mlp.shared_expert.down_proj.weight")  # fmt: skip
    shared_gate = "mlp.shared_expert_gate.weight"
    kinds = ("llama", "mistral", "qwen2")

    def lacks(self, dense: Dense, config: Config) -> str:
        if len(config.shared) != 1:
            return f"has exactly one shared expert, and the config has {len(config.shared)}"
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
