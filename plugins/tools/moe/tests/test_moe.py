"""Mixtures behave like their experts, load without key mismatches, and have routers that follow the formulas."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from mergecore_moe.hidden import LayerByLayer
from mixtures import HIDDEN, LAYERS, PROMPTS, config, dense, loaded, logits, mix
from safetensors.torch import load_file

from mergecore.errors import RunError

SHARED = {"residual_scale": 0.5}
"""Scale of the experts and the shared one, so that together they count as much as one MLP."""

IDENTICAL = [
    ("llama", "Mixtral", 0), ("llama-tied", "Mixtral", 0), ("mistral", "Mixtral", 0), ("mistral-wide", "Mixtral", 0),
    ("llama-silent", "Mixtral", 0), ("llama", "Qwen MoE", 1), ("mistral", "Qwen MoE", 1), ("qwen2", "Qwen MoE", 1),
    ("qwen2-windows", "Qwen MoE", 1), ("qwen3", "Qwen3 MoE", 0), ("qwen3-windows", "Qwen3 MoE", 0),
    ("llama", "DeepSeek MoE", 0), ("llama-tied", "DeepSeek MoE", 1), ("ernie", "ERNIE 4.5 MoE", 0),
    ("ernie-silent", "ERNIE 4.5 MoE", 1), ("olmo2", "FlexOlmo", 0), ("granite", "Granite MoE", 0),
    ("granite-silent", "Granite MoE", 0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "family", "shared"), IDENTICAL, ids=lambda value: str(value).replace(" ", "-"))
def test_identical_experts_are_the_dense_model(tmp_path, name, family, shared):
    model = dense(tmp_path / "dense", name, 1)
    value = config(model, [model] * 3, gate_mode="random", architecture=family)
    if shared:
        value["experts"] = [{**expert, **SHARED} for expert in value["experts"]]
        value["shared_experts"] = [{"source_model": str(model), **SHARED}]
    mixture = loaded(mix(tmp_path, value))
    torch.testing.assert_close(logits(mixture), logits(loaded(model)), rtol=0, atol=1e-5)
    assert mixture.generate(torch.tensor([[3, 1, 4]]), max_new_tokens=4, do_sample=False).shape == (1, 7)


def test_every_expert_is_its_own_model_under_the_published_names(tmp_path):
    models = [dense(tmp_path / name, "llama", seed) for seed, name in enumerate(("base", "code", "prose"))]
    value = config(models[0], models[1:], experts_per_token=1)
    value["experts"][1]["residual_scale"] = 0.25
    written = load_file(mix(tmp_path, value) / "model.safetensors")
    sources = [load_file(model / "model.safetensors") for model in models]
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    for layer in range(LAYERS):
        here = f"model.layers.{layer}."
        for expert, source in enumerate(sources[1:]):
            for short, projection in names.items():
                scale = 0.25 if expert == 1 and short == "w2" else 1.0
                one = written.pop(f"{here}block_sparse_moe.experts.{expert}.{short}.weight")
                assert torch.equal(one, source[f"{here}mlp.{projection}.weight"] * scale)
        assert written.pop(f"{here}block_sparse_moe.gate.weight").shape == (2, HIDDEN)
    assert written.keys() == {name for name in sources[0] if ".mlp." not in name}
    assert all(torch.equal(tensor, sources[0][name]) for name, tensor in written.items())


def test_experts_that_a_family_stores_in_one_tensor_lie_there_in_order(tmp_path):
    models = [dense(tmp_path / name, "granite", seed) for seed, name in enumerate(("base", "code", "prose"))]
    value = config(models[0], models[1:])
    value["experts"][1]["residual_scale"] = 0.25
    written = load_file(mix(tmp_path, value, "--memory", "1MB") / "model.safetensors")
    sources = [load_file(model / "model.safetensors") for model in models[1:]]
    for layer in range(LAYERS):
        here = f"model.layers.{layer}."
        gates, ups, downs = (
            torch.stack([source[f"{here}mlp.{name}_proj.weight"] for source in sources])
            for name in ("gate", "up", "down")
        )
        assert torch.equal(written[f"{here}block_sparse_moe.input_linear.weight"], torch.cat([gates, ups], 1))
        downs[1] *= 0.25
        assert torch.equal(written[f"{here}block_sparse_moe.output_linear.weight"], downs)


@pytest.mark.parametrize("mode", ["hidden", "hidden_last", "hidden_avg"])
@pytest.mark.parametrize("name", ["llama", "qwen2-windows", "qwen3", "granite"])
def test_hidden_gates_are_the_directions_of_the_prompts_states(tmp_path, name, mode):
    model = dense(tmp_path / "dense", name, 1)
    more = {"shared_experts": [{"source_model": str(model), "positive_prompts": PROMPTS[2]}]} if "qwen2" in name else {}
    value = config(model, [model] * 2, gate_mode=mode, **more)
    value["experts"][0]["negative_prompts"] = ["w9 w10", "w11"]
    written = load_file(mix(tmp_path, value) / "model.safetensors")
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)

    def vector(prompts, layer):
        states = []
        for prompt in prompts:
            ids = torch.tensor([[int(word[1:]) for word in prompt.split()]])
            state = whole(ids, output_hidden_states=True).hidden_states[layer][0]
            states.append(state.mean(0) if mode == "hidden_avg" else state[-1])
        return torch.stack(states).mean(0)

    routers = {"llama": "block_sparse_moe.gate.weight", "granite": "block_sparse_moe.router.layer.weight"}
    router = routers.get(name, "mlp.gate.weight")
    for layer in range(LAYERS):
        first = vector(PROMPTS[0], layer) - vector(["w9 w10", "w11"], layer)
        wanted = torch.stack([first, vector(PROMPTS[1], layer)])
        got = written[f"model.layers.{layer}.{router}"]
        torch.testing.assert_close(got.double(), wanted / wanted.norm(dim=1, keepdim=True), rtol=0, atol=1e-5)
        if more:
            shared = vector(PROMPTS[2], layer)[None]
            got = written[f"model.layers.{layer}.mlp.shared_expert_gate.weight"]
            torch.testing.assert_close(got.double(), shared / shared.norm(), rtol=0, atol=1e-5)


def test_cheap_gates_are_the_directions_of_the_prompts_embeddings(tmp_path):
    model = dense(tmp_path / "dense", "llama", 1)
    (model / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "w0 "}}), "utf-8")
    value = config(model, [model] * 2, gate_mode="cheap_embed")
    value["experts"][1]["negative_prompts"] = ["w9 w9"]
    written = load_file(mix(tmp_path, value) / "model.safetensors")
    rows = load_file(model / "model.safetensors")["model.embed_tokens.weight"].double()

    def direction(vector):
        return vector / vector.norm()

    first = direction(rows[[0, 1, 2, 3, 0, 4, 5]].sum(0))
    second = direction(direction(rows[[0, 6]].sum(0)) - direction(rows[[0, 9, 9]].sum(0)))
    for layer in range(LAYERS):
        got = written[f"model.layers.{layer}.block_sparse_moe.gate.weight"].double()
        torch.testing.assert_close(got, torch.stack([first, second]), rtol=0, atol=1e-6)


def test_drawn_gates_and_noise_have_their_spread_and_repeat(tmp_path):
    model = dense(tmp_path / "dense", "llama", 1, hidden_size=96, intermediate_size=256)
    value = {"base_model": str(model), "experts": [{"source_model": str(model), "noise_scale": 0.5}] * 8}
    source = load_file(model / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    bound = 96**-0.5
    for mode, spread in (("random", 1.0), ("uniform", bound / 3**0.5), ("uniform_random", bound / 3**0.5)):
        out = mix(tmp_path, {**value, "gate_mode": mode}, "--force") / "model.safetensors"
        written, bytes_ = load_file(out), out.read_bytes()
        gates = torch.stack([written[f"model.layers.{n}.block_sparse_moe.gate.weight"] for n in range(LAYERS)])
        assert abs(gates.mean()) < 0.1 * spread and abs(gates.std() / spread - 1) < 0.1
        assert mode == "random" or gates.abs().max() <= bound
        noise = [written[f"model.layers.0.block_sparse_moe.experts.{n}.w3.weight"] - source for n in (0, 1)]
        assert all(abs(one.mean()) < 0.02 and abs(one.std() - 0.5) < 0.02 for one in noise)
        assert abs((noise[0] * noise[1]).mean()) < 0.02, "each expert has different noise"
        assert mix(tmp_path, {**value, "gate_mode": mode}, "--force").joinpath(out.name).read_bytes() == bytes_


@pytest.mark.parametrize("prompts", [None, PROMPTS[2]])
def test_a_shared_expert_counts_as_its_scale_says(tmp_path, prompts):
    """Without prompts, the sigmoid of its gate is 1/2 for every token, so its last projection is doubled."""
    model = dense(tmp_path / "dense", "qwen2", 1)
    shared = {"source_model": str(model), "residual_scale": 0.25, "positive_prompts": prompts}
    out = mix(tmp_path, config(model, [model] * 2, shared_experts=[shared]))
    written, source = (load_file(folder / "model.safetensors") for folder in (out, model))
    for layer in range(LAYERS):
        here = f"model.layers.{layer}.mlp."
        down = source[f"{here}down_proj.weight"] * (0.25 if prompts else 0.5)
        assert torch.equal(written[f"{here}shared_expert.down_proj.weight"], down)
        assert written[f"{here}shared_expert_gate.weight"].any() == bool(prompts)


def test_the_base_is_run_one_layer_at_a_time_in_as_many_passes_as_memory_asks_for(tmp_path):
    from mergecore.discovery.registry import Registry
    from mergecore.models.adapters import open_model

    model = dense(tmp_path / "dense", "llama", 1)
    checkpoint = open_model(str(model), Registry(print))
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 10]]
    roomy, tight = LayerByLayer(checkpoint, 10**9), LayerByLayer(checkpoint, 10**9)
    tight._room = tight._needed([prompts[2]])  # for only the longest prompt
    filled = []
    for layer in tight._layers:
        layer.self_attn.register_forward_hook(
            lambda *_: filled.append([one for one in tight._layers if not next(one.parameters()).is_meta])
        )
    whole = roomy.states(prompts, average=False)
    torch.testing.assert_close(tight.states(prompts, average=False), whole, rtol=0, atol=1e-5)
    assert len(filled) == 4 * (LAYERS - 1), "one pass per prompt, none of which needs the last layer"
    assert all(len(layers) == 1 for layers in filled)
    assert all(parameter.is_meta for layer in tight._layers for parameter in layer.parameters())
    checkpoint.close()


def test_a_run_that_failed_goes_on_and_gives_the_same_bytes(tmp_path, monkeypatch, capsys):
    from mergecore.builtin.safetensors import SafetensorsWriter

    model = dense(tmp_path / "dense", "llama", 1)
    value = config(model, [model] * 2)
    (tmp_path / "whole").mkdir()
    undisturbed = (mix(tmp_path / "whole", value) / "model.safetensors").read_bytes()
    written, write = [], SafetensorsWriter.write_bytes

    def fail(self, name, start, data):
        written.append(name)
        if len(written) > 20:
            raise OSError(28, "No space left on device")
        write(self, name, start, data)

    with monkeypatch.context() as patch:
        patch.setattr(SafetensorsWriter, "write_bytes", fail)
        with pytest.raises(RunError, match="No space left"):
            mix(tmp_path, value)
    assert "has 20 of 42 tensors" in capsys.readouterr().err and not (tmp_path / "out").exists()
    note = lambda self, *data: written.append(data[0]) or write(self, *data)  # noqa: E731
    monkeypatch.setattr(SafetensorsWriter, "write_bytes", note)
    assert (mix(tmp_path, value) / "model.safetensors").read_bytes() == undisturbed
    assert len(written) == 21 + 22, "no finished tensor is computed again"
