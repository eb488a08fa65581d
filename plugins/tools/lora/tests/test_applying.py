"""`base+adapter` has the same weights as PEFT's merge for reads of any pieces, or is rejected."""

from __future__ import annotations

import importlib.util
import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mergecore
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError
from mergecore.models.adapters import open_model
from mergecore.models.references import split_adapters

spec = importlib.util.spec_from_file_location("lora_models", Path(__file__).with_name("lora_models.py"))
assert spec and spec.loader
sys.modules.setdefault("lora_models", importlib.util.module_from_spec(spec))
if not hasattr(sys.modules["lora_models"], "MODELS"):
    spec.loader.exec_module(sys.modules["lora_models"])
from lora_models import MODELS, furthest, merged_by_peft, save_adapter, save_base, weights  # noqa: E402

ATTENTION = ["q_proj", "v_proj", "down_proj"]
CASES = {
    "lora": ("LlamaForCausalLM", {"target_modules": ATTENTION}),
    "patterns": ("Qwen2ForCausalLM", {
        "target_modules": ATTENTION, "use_rslora": True, "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 3, r".*\.down_proj": 5}}),
    "dora": ("Qwen3ForCausalLM", {"target_modules": "all-linear", "use_dora": True}),
    "dora-embedding": ("LlamaForCausalLM", {"target_modules": ["embed_tokens", "q_proj"], "use_dora": True}),
    "saved": ("LlamaForCausalLM", {"target_modules": ["q_proj", "lm_head"],
                                   "modules_to_save": ["embed_tokens", "input_layernorm"]}),
    "rows": ("LlamaForCausalLM", {"target_modules": ["q_proj"], "layers_to_transform": [1],
                                  "trainable_token_indices": [1, 5, 7]}),
    "conv1d": ("GPT2LMHeadModel", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True,
                                   "use_dora": True, "bias": "lora_only"}),
    "convolution": ("ViTForImageClassification", {"target_modules": ["projection", "query"], "use_rslora": True}),
    "dora-convolution": ("ViTForImageClassification", {"target_modules": ["projection"], "use_dora": True}),
    "convolution-1d": ("WhisperForConditionalGeneration", {
        "target_modules": ["conv1", "conv2", "v_proj"], "rank_pattern": {"conv2": 2}, "use_dora": True}),
    "biases": ("PhiForCausalLM", {"target_modules": ["q_proj", "dense"], "lora_bias": True}),
    "neox": ("GPTNeoXForCausalLM", {"target_modules": ["query_key_value", "lm_head"], "bias": "all", "binary": True}),
    "experts": ("Qwen3MoeForCausalLM", {
        "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
    "transposed-experts": ("GptOssForCausalLM", {
        "target_modules": ["q_proj"], "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]}),
}  # fmt: skip


def copy_recipe(model: object) -> dict:
    return {"merge_method": "passthrough", "models": [{"model": model}]}


@pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)
def test_the_weights_are_those_of_pefts_own_merge(name, options, tmp_path):
    tiny = MODELS[name]
    save_base(tiny, tmp_path / "base")
    save_adapter(tiny, tmp_path / "base", tmp_path / "adapter", r=4, **options)
    merged_by_peft(tiny, tmp_path / "base", tmp_path / "adapter").save_pretrained(tmp_path / "wanted")
    mergecore.run(copy_recipe(f"{tmp_path}/base+{tmp_path}/adapter"), tmp_path / "found")
    found, base = weights(tmp_path / "found"), weights(tmp_path / "base")
    assert furthest(found, weights(tmp_path / "wanted")) <= 1e-6
    assert any(not torch.equal(found[key], base[key]) for key in base)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a base, two LoRA adapters for it, and a DoRA adapter."""
    folder = tmp_path_factory.mktemp("llama")
    tiny = MODELS["LlamaForCausalLM"]
    save_base(tiny, folder / "base")
    for seed, name in enumerate(("one", "two"), 1):
        save_adapter(tiny, folder / "base", folder / name, seed=seed, r=4, target_modules=ATTENTION)
    save_adapter(tiny, folder / "base", folder / "dora", r=2, target_modules=ATTENTION, use_dora=True)
    return folder


def test_several_adapters_are_added_one_after_the_other(llama, tmp_path):
    tiny = MODELS["LlamaForCausalLM"]
    folders = [llama / name for name in ("one", "dora", "two")]
    merged_by_peft(tiny, llama / "base", *folders).save_pretrained(tmp_path / "wanted")
    mapping = {"path": str(llama / "base"), "adapter": [str(folder) for folder in folders]}
    mergecore.run(copy_recipe("+".join(map(str, [llama / "base", *folders]))), tmp_path / "text")
    mergecore.run(copy_recipe(mapping), tmp_path / "mapping")
    assert furthest(weights(tmp_path / "text"), weights(tmp_path / "wanted")) <= 1e-6
    assert furthest(weights(tmp_path / "mapping"), weights(tmp_path / "text")) == 0


def test_pieces_and_processes_change_no_bit(llama):
    registry = Registry(print)
    reader = open_model(f"{llama}/base+{llama}/one+{llama}/dora", registry)
    for checkpoint in (reader, pickle.loads(pickle.dumps(reader))):
        for name, info in reader.tensors.items():
            whole = torch.empty(info.elements)
            reader.read(name, 0, whole)
            start = 0
            for step in (1, 7, 50, info.elements):
                piece = torch.empty(min(step, info.elements - start))
                checkpoint.read(name, start, piece)
                assert torch.equal(piece, whole[start : start + len(piece)])
                start += len(piece)
    reader.close()


def test_a_merge_sees_unrounded_sums_and_keeps_the_bases_dtype(llama, tmp_path):
    small = {name: tensor.bfloat16() for name, tensor in weights(llama / "base").items()}
    (tmp_path / "base").mkdir()
    save_file(small, tmp_path / "base/model.safetensors", metadata={"format": "pt"})
    (tmp_path / "base/config.json").write_bytes((llama / "base/config.json").read_bytes())
    base, models = str(tmp_path / "base"), [f"{tmp_path}/base+{llama}/{name}" for name in ("one", "two")]
    recipe = {"merge_method": "task_arithmetic", "base_model": base,
              "models": [{"model": model, "parameters": {"weight": 0.5}} for model in models]}  # fmt: skip
    mergecore.run(recipe, tmp_path / "found")
    found = weights(tmp_path / "found")
    factors = [load_file(llama / name / "adapter_model.safetensors") for name in ("one", "two")]
    name = "model.layers.1.self_attn.q_proj"
    key = f"base_model.model.{name}.lora_{{}}.weight"
    change = sum(f[key.format("B")].double() @ f[key.format("A")].double() * 2 for f in factors)  # alpha 8, rank 4
    wanted = (small[f"{name}.weight"].double() + 0.5 * change).bfloat16()
    assert found[f"{name}.weight"].dtype == torch.bfloat16
    assert torch.equal(found[f"{name}.weight"], wanted)


def test_a_head_of_its_own_is_untied(tmp_path):
    tiny = MODELS["GemmaForCausalLM"]
    save_base(tiny, tmp_path / "base")
    save_adapter(tiny, tmp_path / "base", tmp_path / "adapter", r=4, target_modules=["lm_head"])
    mergecore.run(copy_recipe(f"{tmp_path}/base+{tmp_path}/adapter"), tmp_path / "found")
    found, base = weights(tmp_path / "found"), weights(tmp_path / "base")
    assert torch.equal(found["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert not torch.equal(found["lm_head.weight"], base["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "found/config.json").read_text())["tie_word_embeddings"] is False


def test_the_plan_and_the_journals_identity_name_the_adapter(llama):
    from mergecore.cli.render import plan_view
    from mergecore.running.run_identity import run_identity

    registry = Registry(print)
    with_one = mergecore.plan(copy_recipe(f"{llama}/base+{llama}/one"))
    shown = plan_view(with_one)["models"][0]["adapters"]
    assert shown == [{"adapter": f"{llama}/one", "kind": "LoRA, rank 4, alpha 8", "tensors": 6}]
    files = run_identity(with_one, registry, 1)["files"]
    assert {f"{llama}/one/adapter_config.json", f"{llama}/one/adapter_model.safetensors"} <= files.keys()
    alone = mergecore.plan(copy_recipe(f"{llama}/base"))
    assert run_identity(alone, registry, 1)["recipe"] != run_identity(with_one, registry, 1)["recipe"]
    both = {"merge_method": "linear", "models": [{"model": m, "parameters": {"weight": 1}}
                                                 for m in (f"{llama}/base", f"{llama}/base+{llama}/one")]}  # fmt: skip
    assert len(mergecore.plan(both).checkpoints) == 2


def staged(stage, llama, *adapters):
    """Merge a stage with adapters, and the base with one adapter."""
    change = [{"model": stage}, {"model": stage, "adapter": [str(llama / name) for name in adapters]}]
    entries = [{"model": item, "parameters": {"weight": 0.25}} for item in change]
    return {"merge_method": "linear", "models": [*entries, {"model": f"{llama}/base", "parameters": {"weight": 0.5}}]}


@pytest.mark.parametrize("adapters", [("one",), ("dora", "two")], ids="+".join)
def test_an_adapter_on_a_stage_is_an_adapter_on_what_the_stage_writes(llama, tmp_path, adapters):
    models = [{"model": f"{llama}/base", "parameters": {"weight": 1.5}}]
    mix = {"name": "mix", "merge_method": "linear", "models": models, "parameters": {"normalize": False},
           "dtype": "bfloat16"}  # fmt: skip
    out = mergecore.run([mix, {**staged("mix", llama, *adapters), "dtype": "float32"}], tmp_path / "out", keep=["mix"])
    apart = mergecore.run({**staged(f"{out}-mix", llama, *adapters), "dtype": "float32"}, tmp_path / "apart")
    assert weights(out).keys() == weights(apart).keys()
    assert all(torch.equal(tensor, weights(apart)[name]) for name, tensor in weights(out).items())
    again = mergecore.run(out / "mergecore.lock.json", tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    nested = {key: value for key, value in mix.items() if key != "name"}
    nested = mergecore.run({**staged(nested, llama, *adapters), "dtype": "float32"}, tmp_path / "nested")
    assert (nested / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
    locked = {item["reference"] for item in json.loads((out / "mergecore.lock.json").read_text())["inputs"]}
    assert locked == {"base", *adapters}
    assert "a stage of the recipe" in (out / "README.md").read_text("utf-8")


def test_a_plan_with_an_adapter_on_a_stage_tells_of_it_and_leaves_no_file_open(llama, monkeypatch):
    from mergecore.running.run_identity import run_identity

    closed, registry = [], Registry(print)
    monkeypatch.setattr("mergecore.builtin.safetensors.SafetensorsReader.close", lambda file: closed.extend([file]))
    recipes = [{"name": "mix", **copy_recipe(f"{llama}/base")}, copy_recipe(f"mix+{llama}/one")]
    plan, same = mergecore.plan(recipes), mergecore.plan(recipes)
    assert {item.reference for item in plan.models} == {f"{llama}/base", f"{llama}/one"}
    assert plan.stages[f"mix+{llama}/one"].notes == (f"{llama}/one: LoRA, rank 4, alpha 8, changes 6 tensors",)
    assert run_identity(plan, registry, 1) == run_identity(same, registry, 1)
    (llama / "one" / "adapter_model.safetensors").touch()
    assert run_identity(plan, registry, 1) != run_identity(mergecore.plan(recipes), registry, 1)
    plan.close()
    assert len(closed) == 2


def test_an_adapter_that_does_not_fit_a_stage_is_refused_where_it_stands(llama, tmp_path):
    (tmp_path / "recipe.yml").write_text(
        f"name: mix\nmerge_method: passthrough\nmodels: [{{model: {llama}/base}}]\n---\n"
        f"merge_method: passthrough\nmodels:\n- model: mix+{llama}/nowhere\n"
    )
    with pytest.raises(InputError, match=r"recipe.yml:7: models\[0\].model: .*nowhere: no such folder"):
        mergecore.run(tmp_path / "recipe.yml", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_plus_in_its_name_is_that_folder(llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, target in {"a+b": "base", "a": "base", "b+c": "one"}.items():
        (tmp_path / name).symlink_to(llama / target)
    assert (
        split_adapters("a+b") == ("a+b", [])
        and split_adapters("a+b+b+c") == ("a+b", ["b+c"])
        and split_adapters("a+b+c") == ("a+b", ["c"])
    )
    assert not mergecore.plan(copy_recipe("a+b")).checkpoints[0].adapters
    assert not mergecore.plan(copy_recipe({"model": {"path": "a+b"}})).checkpoints[0].adapters
    added = mergecore.plan(copy_recipe({"model": {"path": "a+b"}, "lora": {"path": "b+c"}})).checkpoints[0].adapters
    assert [item.tensors for item in added] == [6]
    (tmp_path / "b").symlink_to(llama / "one")
    assert mergecore.plan(copy_recipe({"path": "a", "adapter": "b"})).checkpoints[0].adapters


def test_without_the_package_the_sentence_says_what_to_install(llama, monkeypatch):
    monkeypatch.setattr(Registry, "adapter", lambda self, request: None)
    with pytest.raises(InputError, match="pip install mergecore-lora"):
        mergecore.plan(copy_recipe(f"{llama}/base+{llama}/one"))


def test_nothing_is_opened_twice_or_left_open(llama, monkeypatch):
    closed = []
    from mergecore.builtin.safetensors import SafetensorsReader

    close = SafetensorsReader.close
    monkeypatch.setattr(SafetensorsReader, "close", lambda self: (closed.append(self), close(self))[1])
    mergecore.planning.Plan.close(mergecore.plan(copy_recipe(f"{llama}/base+{llama}/one")))
    assert len(closed) == len(set(map(id, closed))) == 2


CONFIG = "adapter_config.json"
Q = "base_model.model.model.layers.0.self_attn.q_proj.lora_"


def config(**changes):
    def change(folder):
        settings = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**settings, **changes}))

    return change


def tensors(change):
    def rewrite(folder):
        path = folder / "adapter_model.safetensors"
        content = load_file(path)
        change(content)
        save_file(content, path)

    return rewrite


def rename(old, new):
    return tensors(lambda content: content.update({new: content.pop(old)}))


WRONG = {
    "no such adapter": (lambda f: f.rename(f.with_name("gone")), "no such folder"),
    "no config": (lambda f: (f / CONFIG).unlink(), "no installed package recognizes this adapter"),
    "no JSON": (lambda f: (f / CONFIG).write_text("{"), "adapter_config.json: cannot be parsed as JSON"),
    "a list": (lambda f: (f / CONFIG).write_text("[]"), "must contain a JSON object"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "truncated": (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\x08"), "adapter_model.safetensors: "),
    "prompt tuning": (config(peft_type="PROMPT_TUNING"), "peft_type is 'PROMPT_TUNING', but only LoRA, LoHa"),
    "the parts of another type": (config(peft_type="LOHA"), "has 'lora_A' in"),
    "aLoRA": (config(alora_invocation_tokens=[1]), "acts only on some tokens"),
    "PiSSA": (config(init_lora_weights="pissa_niter_4"), "training did not start from the base's weights"),
    "layers repeated": (config(layer_replication=[[0, 2]]), "use slices in a recipe instead"),
    "unknown key": (config(use_wonders=True), "use_wonders is set, which mergecore-lora does not support"),
    "rank that does not fit": (config(r=5), "has rank 4, but adapter_config.json specifies 5"),
    "rank that is no number": (config(r="4"), "r must be a positive integer"),
    "alpha that is none": (config(lora_alpha=float("inf")), "lora_alpha must be a number"),
    "pattern without end": (config(alpha_pattern={"(a+)+b": 2}), "too complex"),
    "DoRA without magnitudes": (config(use_dora=True), "is missing the magnitude of"),
    "key of another model": (rename(f"{Q}A.weight", Q.replace("self_attn", "attn") + "A.weight"), "without its lora_"),
    "weight of another model": (rename(f"{Q}A.weight", "base_model.model.nowhere.weight"), "matches no weight of"),
    "half a pair": (tensors(lambda c: c.pop(f"{Q}B.weight")), "q_proj.lora_A.weight' without its lora_B"),
    "other sizes": (tensors(lambda c: c.update({f"{Q}B.weight": torch.zeros(3, 4)})), "of shape [4, 16] does not fit"),
    "half a vocabulary": (
        tensors(lambda c: c.update({"base_model.model.model.embed_tokens.weight": torch.zeros(50, 16)})),
        "resizes only a part of the vocabulary"),
    "more rows than a norm has": (
        tensors(lambda c: c.update({"base_model.model.model.layers.0.self_attn.o_proj.weight": torch.zeros(50, 16)})),
        "has another number of rows than the model"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused_with_a_sentence(change, sentence, llama, tmp_path, monkeypatch, capfd):
    import shutil

    from mergecore import cli

    adapter = tmp_path / "adapter"
    shutil.copytree(llama / "one", adapter)
    change(adapter)
    (tmp_path / "recipe.yml").write_text(json.dumps(copy_recipe(f"{llama}/base+{adapter}")))
    monkeypatch.setattr("sys.argv", ["mergecore", "run", str(tmp_path / "recipe.yml"), str(tmp_path / "out"), "-q"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capfd.readouterr().err
    assert stop.value.code == 2 and sentence in printed and printed.count("error: ") == 1, printed
    assert str(adapter) in printed and not (tmp_path / "out").exists()
