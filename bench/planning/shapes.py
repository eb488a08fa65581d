"""Published models as their headers show them: config.json, and the dtype and shape of every stored tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.running.shapes import Shape

Tensors = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each stored tensor, in the order of the files."""

FP8_BLOCK = 128


@dataclass(frozen=True)
class Stored:
    """The headers of one published checkpoint."""

    config: Mapping[str, Any]
    tensors: Tensors


def _dense(shape: Shape) -> Stored:
    return Stored(shape.config(), {name: ("BF16", size) for name, size in shape.tensors().items()})


def _linear(tensors: Tensors, name: str, rows: int, columns: int) -> None:
    """Add an fp8 weight with the scales of its blocks, as DeepSeek stores it."""
    tensors[f"{name}.weight"] = ("F8_E4M3", (rows, columns))
    tensors[f"{name}.weight_scale_inv"] = ("F32", (-(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)))


def _deepseek_layer(config: Mapping[str, Any], layer: int) -> Tensors:
    hidden, heads, latent = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    queries, found = config["q_lora_rank"], Tensors()
    prefix = f"model.layers.{layer}"
    for norm, size in (("input_layernorm", hidden), ("post_attention_layernorm", hidden)):
        found[f"{prefix}.{norm}.weight"] = ("BF16", (size,))
    found[f"{prefix}.self_attn.q_a_layernorm.weight"] = ("BF16", (queries,))
    found[f"{prefix}.self_attn.kv_a_layernorm.weight"] = ("BF16", (latent,))
    _linear(found, f"{prefix}.self_attn.q_a_proj", queries, hidden)
    _linear(found, f"{prefix}.self_attn.q_b_proj", heads * (nope + rope), queries)
    _linear(found, f"{prefix}.self_attn.kv_a_proj_with_mqa", latent + rope, hidden)
    _linear(found, f"{prefix}.self_attn.kv_b_proj", heads * (nope + value), latent)
    _linear(found, f"{prefix}.self_attn.o_proj", hidden, heads * value)
    blocks = [("mlp", config["intermediate_size"])]
    if layer >= config["first_k_dense_replace"]:
        experts, width = config["n_routed_experts"], config["moe_intermediate_size"]
        blocks = [(f"mlp.experts.{expert}", width) for expert in range(experts)] + [("mlp.shared_experts", width)]
        found[f"{prefix}.mlp.gate.weight"] = ("BF16", (experts, hidden))
        found[f"{prefix}.mlp.gate.e_score_correction_bias"] = ("F32", (experts,))
    for block, width in blocks:
        _linear(found, f"{prefix}.{block}.gate_proj", width, hidden)
        _linear(found, f"{prefix}.{block}.up_proj", width, hidden)
        _linear(found, f"{prefix}.{block}.down_proj", hidden, width)
    return found


def _deepseek(**settings: Any) -> Stored:
    config = {
        "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "num_hidden_layers": 61, "q_lora_rank": 1536, "kv_lora_rank": 512,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_shared_experts": 1, "moe_layer_freq": 1,
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
        "quantization_config": {
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK],
        },
        **settings,
    }  # fmt: skip
    hidden, vocab, layers = config["hidden_size"], config["vocab_size"], config["num_hidden_layers"]
    tensors: Tensors = {"model.embed_tokens.weight": ("BF16", (vocab, hidden))}
    for layer in range(layers + config["num_nextn_predict_layers"]):
        tensors |= _deepseek_layer(config, layer)
    for layer in range(layers, layers + config["num_nextn_predict_layers"]):
        prefix = f"model.layers.{layer}"
        for table in ("embed_tokens", "shared_head.head"):
            tensors[f"{prefix}.{table}.weight"] = ("BF16", (vocab, hidden))
        for norm in ("enorm", "hnorm", "shared_head.norm"):
            tensors[f"{prefix}.{norm}.weight"] = ("BF16", (hidden,))
        tensors[f"{prefix}.eh_proj.weight"] = ("BF16", (hidden, 2 * hidden))
    tensors["model.norm.weight"] = ("BF16", (hidden,))
    tensors["lm_head.weight"] = ("BF16", (vocab, hidden))
    return Stored(config, tensors)


def deepseek_v3() -> Stored:
    """Return the headers of deepseek-ai/DeepSeek-V3."""
    return _deepseek(
        model_type="deepseek_v3", num_attention_heads=128, num_key_value_heads=128, vocab_size=129280,
        n_routed_experts=256, num_experts_per_tok=8, first_k_dense_replace=3, num_nextn_predict_layers=1,
    )  # fmt: skip


def kimi_k2() -> Stored:
    """Return the headers of moonshotai/Kimi-K2-Instruct."""
    return _deepseek(
        model_type="kimi_k2", num_attention_heads=64, num_key_value_heads=64, vocab_size=163840,
        n_routed_experts=384, num_experts_per_tok=8, first_k_dense_replace=1, num_nextn_predict_layers=0,
    )  # fmt: skip


def qwen3_moe(
    layers: int, hidden: int = 4096, experts: int = 128, width: int = 1536, heads: int = 64, vocab: int = 151936
) -> Stored:
    """Return the headers of a Qwen3 mixture of experts, with the sizes of Qwen/Qwen3-235B-A22B where none is given."""
    config = {
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": hidden,
        "intermediate_size": 3 * hidden, "moe_intermediate_size": width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": 4, "head_dim": 128, "num_experts": experts,
        "num_experts_per_tok": 8, "decoder_sparse_step": 1, "mlp_only_layers": [], "vocab_size": vocab,
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens": (vocab, hidden)}
    for layer in range(layers):
        inside: dict[str, tuple[int, ...]] = {
            "input_layernorm": (hidden,), "self_attn.q_proj": (heads * 128, hidden),
            "self_attn.k_proj": (4 * 128, hidden), "self_attn.v_proj": (4 * 128, hidden),
            "self_attn.o_proj": (hidden, heads * 128), "self_attn.q_norm": (128,), "self_attn.k_norm": (128,),
            "post_attention_layernorm": (hidden,), "mlp.gate": (experts, hidden),
        }  # fmt: skip
        for expert in range(experts):
            inside[f"mlp.experts.{expert}.gate_proj"] = inside[f"mlp.experts.{expert}.up_proj"] = (width, hidden)
            inside[f"mlp.experts.{expert}.down_proj"] = (hidden, width)
        sizes |= {f"model.layers.{layer}.{name}": size for name, size in inside.items()}
    sizes |= {"model.norm": (hidden,), "lm_head": (vocab, hidden)}
    return Stored(config, {f"{name}.weight": ("BF16", size) for name, size in sizes.items()})


def gpt_oss(quantized: bool) -> Stored:
    """Return the headers of openai/gpt-oss-120b, whose experts are MXFP4, or of the same model in bfloat16."""
    hidden, experts, heads, head, vocab, layers = 2880, 128, 64, 64, 201088, 36
    config: dict[str, Any] = {
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": hidden,
        "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 8, "head_dim": head, "num_local_experts": experts, "num_experts_per_tok": 4,
        "vocab_size": vocab, "attention_bias": True, "tie_word_embeddings": False,
        "layer_types": ["sliding_attention", "full_attention"] * (layers // 2),
    }  # fmt: skip
    if quantized:
        config["quantization_config"] = {"quant_method": "mxfp4"}
    tensors: Tensors = {"model.embed_tokens.weight": ("BF16", (vocab, hidden))}
    for layer in range(layers):
        inside: dict[str, tuple[int, ...]] = {
            "input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,),
            "self_attn.sinks": (heads,), "self_attn.o_proj.weight": (hidden, heads * head),
            "self_attn.o_proj.bias": (hidden,), "mlp.router.weight": (experts, hidden), "mlp.router.bias": (experts,),
            "mlp.experts.gate_up_proj_bias": (experts, 2 * hidden), "mlp.experts.down_proj_bias": (experts, hidden),
        }  # fmt: skip
        for name, rows in (("q_proj", heads * head), ("k_proj", 8 * head), ("v_proj", 8 * head)):
            inside |= {f"self_attn.{name}.weight": (rows, hidden), f"self_attn.{name}.bias": (rows,)}
        found: Tensors = {name: ("BF16", size) for name, size in inside.items()}
        for name, rows in (("gate_up_proj", 2 * hidden), ("down_proj", hidden)):
            if quantized:  # 32 values share a scale, and two are in one byte
                found[f"mlp.experts.{name}_blocks"] = ("U8", (experts, rows, hidden // 32, 16))
                found[f"mlp.experts.{name}_scales"] = ("U8", (experts, rows, hidden // 32))
            else:
                found[f"mlp.experts.{name}"] = ("BF16", (experts, hidden, rows))
        tensors |= {f"model.layers.{layer}.{name}": entry for name, entry in found.items()}
    tensors |= {"model.norm.weight": ("BF16", (hidden,)), "lm_head.weight": ("BF16", (vocab, hidden))}
    return Stored(config, tensors)


def llama_405b() -> Stored:
    """Return the headers of meta-llama/Llama-3.1-405B."""
    return _dense(Shape("LlamaForCausalLM", 126, 16384, 53248, 128, 8, 128256, rope_theta=500000.0, positions=131072))


def mixtral_8x22b() -> Stored:
    """Return the headers of mistralai/Mixtral-8x22B-v0.1."""
    sizes = (56, 6144, 16384, 48, 8, 32000)
    return _dense(Shape("MixtralForCausalLM", *sizes, experts=8, rope_theta=1e6, positions=65536))


def tiny() -> Stored:
    """Return the headers of a model with 20 tensors, whose plan takes only start-up time."""
    return _dense(Shape("LlamaForCausalLM", 2, 64, 128, 4, 2, 256))


def numbered(tensors: int) -> Stored:
    """Return the headers of a small mixture of experts with about this many tensors."""
    experts = 256 if tensors > 10_000 else 32
    layers = max(1, round(tensors / (3 * experts + 9)))
    return qwen3_moe(layers, hidden=64, experts=experts, width=32, heads=4, vocab=128)


MODELS: dict[str, Callable[[], Stored]] = {
    "DeepSeek-V3": deepseek_v3,
    "Kimi-K2": kimi_k2,
    "Qwen3-235B-A22B": lambda: qwen3_moe(94),
    "Llama-3.1-405B": llama_405b,
    "Mixtral-8x22B": mixtral_8x22b,
    "gpt-oss-120b": lambda: gpt_oss(quantized=True),
    "gpt-oss-120b in bfloat16": lambda: gpt_oss(quantized=False),
}
