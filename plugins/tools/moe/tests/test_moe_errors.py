"""Invalid input to `mergecore moe`: an error message with the location, exit status 2, and no files written."""

from __future__ import annotations

import json
import re
import shutil
import textwrap

import pytest
import yaml
from mixtures import VOCABULARY, config, dense, mix
from safetensors.torch import load_file, save_file

from mergecore.errors import InputError

FAMILY = """
from mergecore_moe.families import PLAIN, Family


class Gemma(Family):
    name = "House MoE"
    model_class, model_type = "HouseMoeForCausalLM", "house_moe"
    expert = PLAIN
    kinds = ("gemma",)

    def lacks(self, dense, config):
        return "takes two experts" if len(config.experts) != 2 else ""

    def settings(self, dense, config):
        return {"num_experts": len(config.experts)}
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """One dense model of each type that the cases need."""
    root = tmp_path_factory.mktemp("models")
    made = {name: dense(root / name, name, 1) for name in ("llama", "llama-biased", "qwen2", "qwen3", "gemma")}
    made["small"] = dense(root / "small", "llama", 2, intermediate_size=20)
    made["shallow"] = dense(root / "shallow", "llama", 2, num_hidden_layers=2)
    for name in ("mute", "broken", "sizeless", "torn"):
        made[name] = shutil.copytree(made["llama"], root / name)
    (made["mute"] / "tokenizer.json").unlink()
    (made["broken"] / "tokenizer.json").write_text("{}", "utf-8")
    settings = json.loads((made["sizeless"] / "config.json").read_text())
    (made["sizeless"] / "config.json").write_text(json.dumps({**settings, "hidden_size": "wide"}))
    weights = load_file(made["torn"] / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "model.norm.weight"}, made["torn"] / "model.safetensors")
    return made


def expert(value, **more):
    """Return the config with more keys for its first expert."""
    return {**value, "experts": [{**value["experts"][0], **more}, *value["experts"][1:]]}


def without(value, key):
    return {**value, "experts": [{k: v for k, v in item.items() if k != key} for item in value["experts"]]}


def same(value, **more):
    """Return the config with a shared expert added."""
    shared = {"source_model": value["base_model"], **more}
    return {**value, "shared_experts": [shared]}


CASES = {
    "nothing": (lambda c, m: "", r"moe.yml: the file is empty$"),
    "no yaml": (lambda c, m: "a: [", r"moe.yml:1: this is not valid YAML"),
    "no base": (lambda c, m: {"experts": c["experts"]}, r"'base_model' is missing"),
    "unknown key": (lambda c, m: {**c, "expert_per_token": 2},
                    r"moe.yml:\d+: expert_per_token: unknown key .* did you mean 'experts_per_token'\?"),
    "unknown key of an expert": (lambda c, m: expert(c, scale=2), r"experts\[0\].scale: unknown key"),
    "unknown mode": (lambda c, m: {**c, "gate_mode": "hiden"}, r"gate_mode: must be one of .* did you mean 'hidden'\?"),
    "no experts": (lambda c, m: {**c, "experts": []}, r"experts: must not be empty"),
    "none at a time": (lambda c, m: {**c, "experts_per_token": 0}, r"experts_per_token: must be at least 1, not 0"),
    "too many at a time": (lambda c, m: {**c, "experts_per_token": 3},
                           r"experts_per_token: a token cannot go to 3 of 2 expert\(s\); use at most 2"),
    "no prompts": (lambda c, m: without(c, "positive_prompts"), r"experts\[0\]: 'positive_prompts' is missing"),
    "prompts as text": (lambda c, m: expert(c, positive_prompts="w1"), r"must be a list or empty, not 'w1'"),
    "numbers as prompts": (lambda c, m: expert(c, positive_prompts=[1]),
                           r"positive_prompts\[0\]: must be a string, not 1"),
    "the same prompts": (lambda c, m: {**c, "experts": [c["experts"][0]] * 2}, r"all experts have the same prompts"),
    "negative prompts alone": (lambda c, m: same(c, negative_prompts=["w1"]), r"requires 'positive_prompts' as well"),
    "negative noise": (lambda c, m: expert(c, noise_scale=-1), r"noise_scale: must be at least 0, not -1"),
    "a scale in words": (lambda c, m: expert(c, residual_scale="half"), r"residual_scale: must be a number"),
    "a dtype of whole numbers": (lambda c, m: {**c, "dtype": "int8"}, r"dtype: must be one of float64, .*, not 'int8'"),
    "no such base": (lambda c, m: {**c, "base_model": "nowhere"}, r"base_model: nowhere: no such folder"),
    "no such expert": (lambda c, m: expert(c, source_model="nowhere"),
                       r"experts\[0\].source_model: nowhere: no such folder"),
    "another kind": (lambda c, m: expert(c, source_model=str(m["qwen2"])), r"unknown to LlamaForCausalLM|is a 'qwen2'"),
    "another width": (lambda c, m: expert(c, source_model=str(m["small"])),
                      r"model.layers.0.mlp.gate_proj.weight is \[20, 24\] in .*small, but \[28, 24\] in .*llama"),
    "another depth": (lambda c, m: expert(c, source_model=str(m["shallow"])), r"shallow has 2 layers, but .* has 3"),
    "no sizes": (lambda c, m: {**c, "base_model": str(m["sizeless"])}, r"'hidden_size' must be a positive integer"),
    "a lost weight": (lambda c, m: {**c, "base_model": str(m["torn"])}, r"torn: has no 'model.norm.weight'; download"),
    "no family of that name": (lambda c, m: {**c, "architecture": "mixtrals"},
                               r"architecture: unknown family; use one of Mixtral, DeepSeek MoE, Qwen MoE"),
    "a family that does not fit": (lambda c, m: {**same(c), "architecture": "mixtral"},
                                   r"Mixtral has no shared experts, but the config has 1"),
    "no family fits": (lambda c, m: config(m["llama-biased"], [m["llama-biased"]] * 2),
                       r"Mixtral has no biases, but .* has self_attn.k_proj.bias, .*; DeepSeek MoE has no biases.*"
                       r"; Qwen MoE has exactly one shared .* has 0; Qwen3 MoE requires qwen3 models, .* is 'llama'"),
    "a kind of no family": (lambda c, m: config(m["gemma"], [m["gemma"]] * 2), r"Mixtral requires llama or mistral"),
    "no tokenizer": (lambda c, m: {**c, "base_model": str(m["mute"])}, r"mute/tokenizer.json: is missing"),
    "a broken tokenizer": (lambda c, m: {**c, "base_model": str(m["broken"])}, r"json: is not a valid tokenizer"),
    "an empty prompt": (lambda c, m: expert(c, positive_prompts=["w1", ""]),
                        r"experts\[0\].positive_prompts\[1\]: is an empty prompt"),
    "a token without a row": (lambda c, m: expert(c, positive_prompts=[f"w{VOCABULARY}"]), r"outside the 37 rows"),
    "a long prompt": (lambda c, m: expert(c, positive_prompts=["w1 " * 65]), r"has 65 tokens, .* at most 64; shorten"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_configs_are_refused_in_a_sentence(tmp_path, models, case):
    change, sentence = CASES[case]
    value = change(config(models["llama"], [models["llama"], models["llama"]]), models)
    refused(tmp_path, value, sentence)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--memory", "much"), r"--memory: 'much' is not a size"),
        (("--memory", "20KB"), r"one layer and a prompt of \d tokens need 1 MB, .*; use --memory 1MB"),
        (("--shard-size", "0"), r"--shard-size: must be greater than zero"),
    ],
)
def test_bad_options_are_refused_in_a_sentence(tmp_path, models, options, sentence):
    refused(tmp_path, config(models["llama"], [models["llama"]] * 2), sentence, *options)


def refused(folder, value, sentence, *options):
    with pytest.raises(InputError) as error:
        mix(folder, value, *options)
    assert error.value.exit_code == 2
    assert re.search(sentence, str(error.value)), str(error.value)
    assert {path.name for path in folder.iterdir()} <= {"moe.yml"}


def test_an_existing_folder_is_kept_before_the_base_is_run(tmp_path, models, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    monkeypatch.setattr("mergecore_moe.gates.seen", lambda *_: pytest.fail("the base was run"))
    with pytest.raises(InputError, match="already exists"):
        mix(tmp_path, config(models["llama"], [models["llama"]] * 2))
    assert (tmp_path / "out" / "mine").exists()


def test_the_command_line_says_it_and_exits_with_2(tmp_path, plugin_env):
    (tmp_path / "moe.yml").write_text("base_model: nowhere\nexperts:\n- {source_model: x, positive_prompts: [a]}\n")
    result = plugin_env.mergecore("moe", "moe.yml", "out", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    wanted = "error: moe.yml:2: experts: a token cannot go to 2 of 1 expert(s); use at most 1\n"
    assert result.stderr.startswith(wanted) and result.stderr.count("error: ") == 1


def test_a_family_of_another_package_is_asked_too(tmp_path, plugin_env, models):
    entry = {"moe_families": {"house": "mod_house:Gemma"}}
    plugin_env.add("mergecore-house", entry, {"mod_house.py": textwrap.dedent(FAMILY)})
    value = config(models["gemma"], [models["gemma"]] * 2, gate_mode="random")
    (tmp_path / "moe.yml").write_text(yaml.safe_dump(value), "utf-8")
    result = plugin_env.mergecore("moe", "moe.yml", "out", "--json", "--quiet", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["architecture"] == "HouseMoeForCausalLM"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_experts"] == 2
