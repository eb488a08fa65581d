"""An extracted adapter reproduces the fine-tune, exactly at full rank, and otherwise within the reported error."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from mergecore_lora.choices import Choices
from mergecore_lora.decomposing import Wanted, decompose, squared_norm
from mergecore_lora.extracting import extract
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from zoo.composites import MODELS as COMPOSITES

import mergecore
from mergecore import cli
from mergecore.discovery.registry import Registry

spec = importlib.util.spec_from_file_location("lora_models", Path(__file__).with_name("lora_models.py"))
assert spec and spec.loader
sys.modules.setdefault("lora_models", importlib.util.module_from_spec(spec))
if not hasattr(sys.modules["lora_models"], "MODELS"):
    spec.loader.exec_module(sys.modules["lora_models"])
from lora_models import MODELS, fine_tuned, furthest, quiet, save_base, weights  # noqa: E402

NEITHER = ("GptOss", "Mamba", "Jamba", "GraniteMoeHybrid", "Afmoe")
"""Classes with parameters that PEFT cannot store separately."""

HEAD_FOLLOWS = ("GPT2LM", "GPTBigCodeFor", "GPTNeoForCausal", "Falcon", "Bloom", "Mpt", "MaskedLM", "PreTraining", "T5",
                "GPTNeoXForCausalLM-no-biases")  # fmt: skip
"""Classes whose tied embedding is not named embed_tokens, so that PEFT changes the head only when it merges."""

SEEING = ("ViT", "CLIP", "Siglip")
TEXT = [name for name in MODELS if not name.startswith(NEITHER + SEEING)]
SOME = ["LlamaForCausalLM", "Qwen3ForCausalLM", "GPT2LMHeadModel", "GPTNeoXForCausalLM", "PhiForCausalLM",
        "GemmaForCausalLM", "Qwen3MoeForCausalLM-mixed", "Ernie4_5_MoeForCausalLM",
        "BertForSequenceClassification"]  # fmt: skip


@pytest.fixture
def run(monkeypatch, capfd):
    """Run a command. Return the exit status and the output."""

    def run_command(*arguments):
        monkeypatch.setattr("sys.argv", ["mergecore", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        printed = capfd.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return run_command


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in TEXT], ids=str
)
def test_at_full_rank_base_and_adapter_are_the_fine_tune(name, run, tmp_path):
    import peft

    tiny = MODELS[name]
    save_base(tiny, tmp_path / "base")
    fine_tuned(tiny, tmp_path / "base", tmp_path / "tuned")
    status, _, printed = run("lora", "extract", tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter",
                             "--rank", "999", "--quiet", "--workers", "1")  # fmt: skip
    assert status == 0, printed
    mergecore.run({"merge_method": "passthrough", "models": [{"model": f"{tmp_path}/base+{tmp_path}/adapter"}]},
                  tmp_path / "found")  # fmt: skip
    assert furthest(weights(tmp_path / "found"), weights(tmp_path / "tuned")) <= 1e-6
    with quiet():
        model = getattr(transformers, tiny.name).from_pretrained(tmp_path / "base").eval()
        model = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        model = model.merge_and_unload() if any(part in name for part in HEAD_FOLLOWS) else model.base_model.model
    tuned = tiny.load(tmp_path / "tuned")
    if hasattr(model, "embed_out"):  # what transformers called the head of GPT-NeoX, at least from 5.0.0 to 5.13.1
        model.embed_out.weight = tuned.embed_out.weight  # PEFT knows no lm_head there, and leaves the head as it is
    for ours, wanted in zip(tiny.outputs(model), tiny.outputs(tuned), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-5)


OTHERS = {str(tiny): tiny for tiny in (*MODELS.values(), *COMPOSITES) if str(tiny) not in TEXT}
LOOSE = (*NEITHER, "CLIPModel", "SiglipModel", "SiglipVision", "LlavaNext", "Llama4ForConditional")
"""Classes with parameters that no adapter can store: outside all modules, or in one that contains linear layers."""


def copied(model, out):
    """Return a model's weights under the names from its definition."""
    return weights(mergecore.run({"merge_method": "passthrough", "models": [{"model": str(model)}]}, out))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if OTHERS[name].label else ()) for name in OTHERS], ids=str
)
def test_models_that_see_and_those_with_loose_parameters_come_back_too(name, tmp_path):
    """Test this in recipes, because PEFT uses different names for some of these models' modules."""
    loose = name.startswith(LOOSE)
    save_base(OTHERS[name], tmp_path / "base")
    fine_tuned(OTHERS[name], tmp_path / "base", tmp_path / "tuned")
    wanted = Choices(Wanted(rank=999), keep="drop" if loose else "save")
    report = extract(f"{tmp_path}/tuned", f"{tmp_path}/base", tmp_path / "adapter", wanted, Registry(print),
                     memory=10**9, workers=1, force=False)  # fmt: skip
    base, tuned = (copied(tmp_path / model, tmp_path / f"{model}-copied") for model in ("base", "tuned"))
    found = copied(f"{tmp_path}/base+{tmp_path}/adapter", tmp_path / "found")
    dropped = {tensor["name"] for tensor in report["tensors"] if tensor["how"] == "drop"}
    assert bool(dropped) == loose
    changed = {name for name in found if not torch.equal(found[name], base[name])}
    assert changed
    assert furthest({name: found[name] for name in changed}, {name: tuned[name] for name in changed}) <= 1e-6
    if not loose:
        assert furthest(found, tuned) <= 1e-6


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder with a tiny Llama and a fine-tune of it."""
    folder = tmp_path_factory.mktemp("extract")
    save_base(MODELS["LlamaForCausalLM"], folder / "base")
    fine_tuned(MODELS["LlamaForCausalLM"], folder / "base", folder / "tuned")
    return folder


@pytest.mark.parametrize("options", [["--rank", "3"], ["--energy", "0.8"], ["--error", "0.3"],
                                     ["--error", "0.3", "--rank", "2"], ["--rank", "4", "--dtype", "bfloat16"]],
                         ids=" ".join)  # fmt: skip
def test_the_stated_errors_are_those_of_the_result(options, llama, run, tmp_path):
    status, out, printed = run("lora", "extract", llama / "tuned", llama / "base", tmp_path / "adapter", "--json",
                               *options)  # fmt: skip
    assert status == 0, printed
    report = json.loads(out)
    mergecore.run({"merge_method": "passthrough", "models": [{"model": f"{llama}/base+{tmp_path}/adapter"}]},
                  tmp_path / "found")  # fmt: skip
    base, tuned, found = (weights(folder) for folder in (llama / "base", llama / "tuned", tmp_path / "found"))
    lost = {name: (found[name].double() - tuned[name].double()).norm() for name in base}
    norms = {name: (base[name].double() - tuned[name].double()).norm() for name in base}
    for tensor in report["tensors"]:
        name = tensor["name"]
        assert tensor["error"] == pytest.approx((lost[name] / norms[name]).item(), rel=1e-2, abs=1e-4)
        assert tensor["how"] == "save" or "--error" not in options or tensor["rank"] == 2 or tensor["error"] <= 0.3
    total = (sum(x**2 for x in lost.values()) / sum(x**2 for x in norms.values())) ** 0.5
    assert report["error"] == pytest.approx(total.item(), rel=1e-2)
    assert json.loads((tmp_path / "adapter/mergecore_lora.json").read_text())["error"] == report["error"]


@pytest.mark.parametrize("wanted", [Wanted(rank=8), Wanted(share=0.5), Wanted(share=0.9), Wanted(rank=5, share=0.99)])
@pytest.mark.parametrize("decay", [0.0, 0.3, 3.0])
def test_the_randomized_way_is_as_good_as_the_exact_one(wanted, decay):
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(size, 300, generator=generator)).Q for size in (400, 300))
    s = (1 + torch.arange(300.0)) ** -decay
    matrix = u * s @ v.T
    product, left = decompose(matrix, wanted, "a name")
    rank, total = product.rank, squared_norm(matrix)
    best = s.double()[rank:].square().sum().item()
    assert left <= best * 1.02 + 1e-9 * total
    assert left == pytest.approx((matrix.double() - product.left.double() @ product.right.double()).norm().item() ** 2,
                                 rel=1e-3, abs=1e-9)  # fmt: skip
    if wanted.share and wanted.rank is None:
        assert left <= (1 - wanted.share) * total * 1.0001
        assert s.double()[: max(rank - 2, 0)].square().sum() < wanted.share * s.double().square().sum()
    again, _ = decompose(matrix, wanted, "a name")
    assert torch.equal(again.left, product.left)


def test_choices_say_what_becomes_of_each_kind(llama, run, tmp_path):
    def shapes(*options):
        status, _, printed = run("lora", "extract", llama / "tuned", llama / "base", tmp_path / "adapter", "--force",
                                 "--quiet", "--rank", "2", *options)  # fmt: skip
        assert status == 0, printed
        return {name.removeprefix("base_model.model."): tuple(tensor.shape)
                for name, tensor in load_file(tmp_path / "adapter/adapter_model.safetensors").items()}  # fmt: skip

    plain = shapes()
    assert plain["model.embed_tokens.lora_embedding_A"][0] == 2 and plain["lm_head.lora_A.weight"][0] == 2
    assert "model.norm.weight" in plain
    other = shapes("--keep", "drop", "--embeddings", "save", "--head", "drop")
    assert "model.embed_tokens.weight" in other and not any("norm" in name or "head" in name for name in other)


@pytest.mark.parametrize(("name", "rest"), [("Qwen3MoeForCausalLM", ()), ("MixtralForCausalLM", ()),
                                            ("GptOssForCausalLM", ("--keep", "drop"))])  # fmt: skip
def test_experts_have_factors_too_when_asked(name, rest, run, tmp_path):
    import peft

    tiny = MODELS[name]
    save_base(tiny, tmp_path / "base")
    fine_tuned(tiny, tmp_path / "base", tmp_path / "tuned")
    command = ["lora", "extract", tmp_path / "tuned", tmp_path / "base"]
    status, out, printed = run(*command, tmp_path / "adapter", "--rank", "99", "--json", "--experts", "lora", *rest)
    assert status == 0, printed
    report = {tensor["name"]: tensor for tensor in json.loads(out)["tensors"]}
    experts = [name for name in report if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]
    assert len(experts) == 4 and all(report[name]["how"] == "lora" for name in experts)
    found = copied(f"{tmp_path}/base+{tmp_path}/adapter", tmp_path / "found")
    with quiet():
        model = getattr(transformers, name).from_pretrained(tmp_path / "base").eval()
        peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().save_pretrained(tmp_path / "by")
    assert furthest(found, copied(tmp_path / "by", tmp_path / "by-copied")) <= 1e-6
    if not rest:
        assert furthest(found, copied(tmp_path / "tuned", tmp_path / "tuned-copied")) <= 1e-6
    status, out, _ = run(*command, tmp_path / "thin", "--error", "0.5", "--json", "--experts", "lora", *rest)
    assert all(0 < tensor["error"] <= 0.5 for tensor in json.loads(out)["tensors"] if tensor["name"] in experts)


def test_an_embedding_that_is_the_head_too_is_saved_as_peft_wants_it(run, tmp_path):
    import peft

    tiny = MODELS["GemmaForCausalLM"]
    save_base(tiny, tmp_path / "base")
    fine_tuned(tiny, tmp_path / "base", tmp_path / "tuned")
    status, _, printed = run("lora", "extract", tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", "--rank",
                             "99", "--quiet", "--embeddings", "save")  # fmt: skip
    assert status == 0, printed
    with quiet():
        base = transformers.GemmaForCausalLM.from_pretrained(tmp_path / "base").eval()
        model = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval().base_model.model
    mergecore.run({"merge_method": "passthrough", "models": [{"model": f"{tmp_path}/base+{tmp_path}/adapter"}]},
                  tmp_path / "found")  # fmt: skip
    for found in (model, tiny.load(tmp_path / "found")):
        for ours, wanted in zip(tiny.outputs(found), tiny.outputs(tiny.load(tmp_path / "tuned")), strict=True):
            assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-5)


def test_added_tokens_and_parameters_without_a_module_are_left_out_when_asked(run, tmp_path):
    write_model(tmp_path / "base", 0)
    write_model(tmp_path / "longer", 1, vocab_size=14)
    base, noise = weights(tmp_path / "base"), weights(tmp_path / "longer")
    tuned = {name: tensor * 0.1 for name, tensor in noise.items()}
    for name, tensor in base.items():
        tuned[name][: len(tensor)] += tensor
    save_file(tuned, tmp_path / "longer/model.safetensors")
    command = ["lora", "extract", tmp_path / "longer", tmp_path / "base", tmp_path / "adapter", "--quiet"]
    status, _, printed = run(*command)
    assert status == 2 and "pass --added-tokens save to store the whole tensor" in printed
    assert run(*command, "--added-tokens", "drop", "--rank", "99")[0] == 0
    mergecore.run({"merge_method": "passthrough", "models": [{"model": f"{tmp_path}/base+{tmp_path}/adapter"}]},
                  tmp_path / "found")  # fmt: skip
    wanted = {name: tensor[:12] if tensor.shape[0] == 14 else tensor
              for name, tensor in weights(tmp_path / "longer").items()}  # fmt: skip
    assert furthest(weights(tmp_path / "found"), wanted) <= 1e-6
    save_base(MODELS["MambaForCausalLM"], tmp_path / "mamba")
    fine_tuned(MODELS["MambaForCausalLM"], tmp_path / "mamba", tmp_path / "tuned")
    command = ["lora", "extract", tmp_path / "tuned", tmp_path / "mamba", tmp_path / "other", "--quiet"]
    status, _, printed = run(*command)
    assert status == 2 and "PEFT cannot store a changed parameter separately" in printed
    assert run(*command, "--keep", "drop")[0] == 0


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GemmaForCausalLM", "GPT2LMHeadModel"])
def test_added_tokens_are_saved_for_a_base_that_is_resized(name, run, tmp_path):
    import peft

    tiny = MODELS[name]
    save_base(tiny, tmp_path / "base")
    with quiet():
        longer, resized = (getattr(transformers, name).from_pretrained(tmp_path / "base").eval() for _ in range(2))
        longer.resize_token_embeddings(53)
        resized.resize_token_embeddings(53)
    longer.save_pretrained(tmp_path / "longer")
    fine_tuned(tiny, tmp_path / "longer", tmp_path / "tuned")
    status, _, printed = run("lora", "extract", tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter", "--rank",
                             "99", "--quiet", "--added-tokens", "save")  # fmt: skip
    assert status == 0 and "call resize_token_embeddings(53)" in printed, printed
    with quiet():
        model = peft.PeftModel.from_pretrained(resized, tmp_path / "adapter").merge_and_unload().eval()
    for ours, wanted in zip(tiny.outputs(model), tiny.outputs(tiny.load(tmp_path / "tuned")), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    assert model.get_output_embeddings().weight.shape[0] == 53
    models = [{"model": f"{tmp_path}/base+{tmp_path}/adapter"}]
    out = mergecore.run({"merge_method": "passthrough", "models": models}, tmp_path / "out")
    for ours, wanted in zip(tiny.outputs(tiny.load(out)), tiny.outputs(tiny.load(tmp_path / "tuned")), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reader", ["vllm", "llama.cpp"])
@pytest.mark.parametrize("experts", ["save", "lora"])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "PhiForCausalLM", "Qwen3MoeForCausalLM-mixed"])
def test_programs_that_read_only_factors_get_nothing_else_and_one_rank(name, experts, reader, run, tmp_path):
    tiny = MODELS[name]
    save_base(tiny, tmp_path / "base")
    fine_tuned(tiny, tmp_path / "base", tmp_path / "tuned")
    status, _, printed = run("lora", "extract", tmp_path / "tuned", tmp_path / "base", tmp_path / "adapter",
                             "--error", "0.5", "--for", reader, "--experts", experts, "--quiet")  # fmt: skip
    assert status == 0 and f"left out, because {reader} cannot read it: " in printed
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    tensors = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert all(".lora_" in key for key in tensors)
    assert not any("experts" in name for name in [*tensors, *(config["target_parameters"] or ())])
    assert any("embed" in key or "lm_head" in key for key in tensors) is (reader == "llama.cpp")
    assert {tensor.shape["lora_A" not in key and "embedding_A" not in key] for key, tensor in tensors.items()} == {
        config["r"]
    }
    assert not config["rank_pattern"] and not config["modules_to_save"] and config["bias"] == "none"


def rewritten(folder, change):
    content = load_file(folder / "model.safetensors")
    change(content)
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})


WRONG = {
    "no fine-tune": (["gone", "base", "out"], "gone: no such folder"),
    "no base": (["tuned", "gone", "out"], "gone: no such folder"),
    "no arguments": ([], "Missing argument 'finetune'|Missing argument 'FINETUNE'"),
    "no out": (["tuned", "base"], "Missing argument 'out'|Missing argument 'OUT'"),
    "the same model": (["base", "base", "out"], "identical to its base; there is nothing to extract"),
    "other depth": (["deep", "base", "out"], "but base does not; use a fine-tune and its own base"),
    "other width": (["wide", "base", "out"], "use a fine-tune and its own base"),
    "fewer tokens": (["short", "base", "out"], "use a fine-tune and its own base"),
    "NaN": (["broken", "base", "out"], "contains NaN or infinity in one of the models"),
    "an adapter": (["adapter", "base", "out"], "is an adapter, not a model; add it to its base model"),
    "negative rank": (["tuned", "base", "out", "--rank", "-1"], "--rank: must be a positive integer, not -1"),
    "rank in words": (["tuned", "base", "out", "--rank", "all"], "Invalid value for '--rank'"),
    "energy above 1": (["tuned", "base", "out", "--energy", "90"], "--energy: must be between 0 and 1, not 90"),
    "negative error": (["tuned", "base", "out", "--error", "-1"], "--error: must be between 0 and 1, not -1"),
    "energy and error": (["tuned", "base", "out", "--error", "0.1", "--energy", "0.9"], "use only one"),
    "odd choice": (["tuned", "base", "out", "--keep", "all"], "'all' is not one of 'save', 'drop'"),
    "odd embeddings": (["tuned", "base", "out", "--embeddings", "x"], "'x' is not one of 'lora', 'save', 'drop'"),
    "tokens saved and dropped": (
        ["tuned", "base", "out", "--added-tokens", "save", "--head", "drop"],
        "--added-tokens save stores the embedding and the head; do not drop them",
    ),
    "odd tokens": (["tuned", "base", "out", "--added-tokens", "add"], "'add' is not one of 'refuse', 'drop', 'save'"),
    "odd dtype": (["tuned", "base", "out", "--dtype", "int8"], "'int8' is not one of 'float32', 'bfloat16', 'float16'"),
    "odd memory": (["tuned", "base", "out", "--memory", "much"], "--memory: 'much' is not a size"),
    "little memory": (["tuned", "base", "out", "--memory", "500"], "more than the 0 MB allowed; use --memory"),
    "out is there": (["tuned", "base", "tuned"], "tuned: is or contains"),
    "out is full": (["tuned", "base", "adapter"], "adapter: already exists; use another name, or --force"),
    "out is a file": (["tuned", "base", "file"], "file: is a file; use the name of a folder"),
    "unknown option": (["tuned", "base", "out", "--ranks", "4"], "No such option"),
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory):
    """A folder with models, some of which do not match the base."""
    folder = tmp_path_factory.mktemp("wrong")
    for seed, (name, options) in enumerate({
        "base": {}, "tuned": {}, "deep": {"num_hidden_layers": 3}, "short": {"vocab_size": 10}, "broken": {},
        "wide": {},
    }.items()):  # fmt: skip
        write_model(folder / name, seed, **options)
    rewritten(folder / "broken", lambda content: content["model.norm.weight"].fill_(float("nan")))
    rewritten(folder / "wide", lambda content: content.update({"model.norm.weight": torch.zeros(9)}))
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text("{}")
    (folder / "adapter/config.json").write_text("{}")
    (folder / "file").write_text("")
    return folder


@pytest.mark.parametrize(("arguments", "sentence"), WRONG.values(), ids=WRONG)
def test_bad_input_to_extract_is_refused_with_a_sentence(arguments, sentence, wrong, run, monkeypatch):
    monkeypatch.chdir(wrong)
    before = sorted(wrong.rglob("*"))
    status, _, printed = run("lora", "extract", *arguments)
    assert status == 2 and printed.count("\n") == 1, printed
    assert any(words in printed for words in sentence.split("|")), printed
    assert [path for path in sorted(wrong.rglob("*")) if not path.name.endswith(".lock")] == before
