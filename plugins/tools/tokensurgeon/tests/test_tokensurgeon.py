"""A donor with the same tokens reproduces the model, shared rows are kept, and results with new rows load and run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from patients import NAMES, TINY, WORDS, is_table, patient, permuted, put_words, surgeon, tensors, with_rows


@pytest.fixture(scope="module", params=NAMES)
def tiny(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    return TINY[request.param], patient(TINY[request.param], folder)


def test_a_donor_with_the_same_tokens_gives_the_model_back(tiny, tmp_path):
    kind, model = tiny
    donor = patient(kind, tmp_path / "donor", seed=5)
    assert surgeon(model, donor, tmp_path / "out") == 0
    before, after = tensors(model), tensors(tmp_path / "out")
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((tmp_path / "out/config.json").read_text()) == json.loads((model / "config.json").read_text())


def test_tokens_in_another_order_give_the_same_logits_in_that_order(tiny, tmp_path):
    kind, model = tiny
    order = torch.randperm(len(WORDS), generator=torch.Generator().manual_seed(3))
    assert surgeon(model, permuted(model, tmp_path / "donor", order), tmp_path / "out") == 0
    before, after = kind.load(model), kind.load(tmp_path / "out")
    ids = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    with torch.no_grad():
        expected, found = before(ids).logits, after(order[ids]).logits[..., order]
    assert torch.allclose(found, expected[..., : len(WORDS)], atol=1e-6)


def test_shared_rows_stay_and_new_ones_are_made(tiny, tmp_path):
    kind, model = tiny
    words = ["new0", *WORDS[10:40], "new1"]
    donor = with_rows(model, tmp_path / "donor", words, rows=36)
    assert surgeon(model, donor, tmp_path / "out", "-k", 3) == 0
    before, after = tensors(model), tensors(tmp_path / "out")
    tables = {name for name in before if is_table(name)}
    for name in tables:
        assert after[name].shape == (36, *before[name].shape[1:]) and after[name].dtype == before[name].dtype
        assert torch.equal(after[name][1:31], before[name][10:40])
        assert not after[name][32:].any()  # the donor's padding rows
        assert after[name][[0, 31]].any(dim=-1).all() or before[name].ndim == 1
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - tables)
    loaded = kind.load(tmp_path / "out")
    assert loaded.config.vocab_size == 36 and loaded(torch.tensor([[0, 31, 5]])).logits.isfinite().all()
    assert Tokenizer.from_file(str(tmp_path / "out/tokenizer.json")).encode("new1 w10").ids == [31, 1]


def test_shrunk_rows_are_nearer_to_the_mean_of_the_models_rows(tmp_path):
    model = patient(TINY["LlamaForCausalLM"], tmp_path / "model")
    donor = with_rows(model, tmp_path / "donor", ["new0", *WORDS[10:40], "new1"], rows=32)
    for name, shrink in (("plain", "0"), ("shrunk", "0.25")):
        assert surgeon(model, donor, tmp_path / name, "-k", 3, "--shrink", shrink) == 0
    before, plain, shrunk = (tensors(tmp_path / name) for name in ("model", "plain", "shrunk"))
    for name in filter(is_table, before):
        mean = before[name].double().mean(0)
        assert torch.equal(plain[name][1:31], shrunk[name][1:31])
        expected = mean + 0.75 * (plain[name][[0, 31]].double() - mean)
        assert torch.allclose(shrunk[name][[0, 31]].double(), expected, atol=1e-6)


def test_threads_and_memory_change_no_byte(tmp_path):
    model = patient(TINY["LlamaForCausalLM"], tmp_path / "model")
    words = [*WORDS[:30], *(f"new{number}" for number in range(300))]
    donor = with_rows(model, tmp_path / "donor", words, rows=330, width=24)
    for name, options in {"one": ("--workers", 1), "many": ("--workers", 3, "--memory", "1GB")}.items():
        assert surgeon(model, donor, tmp_path / name, *options, "-k", 5) == 0
    one, many = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "many"))
    assert one == many


def test_a_stored_copy_of_a_tied_head_is_dropped(tmp_path):
    from safetensors.torch import save_file

    model = patient(TINY["Qwen2ForCausalLM-tied"], tmp_path / "model")
    stored = tensors(model)
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, model / "model.safetensors", metadata={"format": "pt"})
    donor = with_rows(model, tmp_path / "donor", [*WORDS[:20], "new"], rows=21)
    assert surgeon(model, donor, tmp_path / "out", "-k", 4) == 0
    made = tensors(tmp_path / "out")
    assert "lm_head.weight" not in made and made["model.embed_tokens.weight"][20].any()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True


def test_special_tokens_follow_their_roles(tmp_path):
    model = patient(TINY["LlamaForCausalLM"], tmp_path / "model")
    put_words(model, WORDS, bos_token=WORDS[1], eos_token=WORDS[2])
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "bos_token_id": 1, "eos_token_id": 2}))
    (model / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2]}))
    donor = with_rows(model, tmp_path / "donor", ["<s>", *WORDS[5:20], "</s>"], rows=17)
    put_words(donor, ["<s>", *WORDS[5:20], "</s>"], bos_token="<s>", eos_token={"content": "</s>"})
    config = json.loads((donor / "config.json").read_text())
    (donor / "config.json").write_text(json.dumps({**config, "bos_token_id": 0, "eos_token_id": 16}))
    assert surgeon(model, donor, tmp_path / "out") == 0
    before, after = tensors(model)["lm_head.weight"], tensors(tmp_path / "out")["lm_head.weight"]
    assert torch.equal(after[[0, 16]], before[[1, 2]])
    made, generation = (
        json.loads((tmp_path / f"out/{name}.json").read_text()) for name in ("config", "generation_config")
    )
    assert (made["bos_token_id"], made["eos_token_id"]) == (0, 16)
    assert (generation["bos_token_id"], generation["eos_token_id"]) == (0, 16)


def test_the_card_says_what_to_type_again(tmp_path):
    model = patient(TINY["LlamaForCausalLM"], tmp_path / "model")
    donor = with_rows(model, tmp_path / "donor", [*WORDS[:20], "new"], rows=21)
    assert surgeon(model, donor, tmp_path / "out", "-k", 4, "--byte-match", "embed", "--seed", 7) == 0
    line = next(
        line for line in (tmp_path / "out/README.md").read_text().splitlines() if line.startswith("mergecore tok")
    )
    assert line.split()[2:5] == ["model", "donor", "OUT"], "no private paths"
    assert surgeon(model, donor, tmp_path / "again", *line.split()[5:]) == 0
    again, out = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("again", "out"))
    assert again == out
