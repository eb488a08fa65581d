"""Vocabularies are merged token by token: rows match a plain loop, text round-trips, and sizes agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fake_hub
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizer_models import TABLES, TEXTS, byte_level, expected, ids, model, permuted, put, tables, tensors, unigram
from tokenizers import AddedToken, Tokenizer

import mergecore
from mergecore.builtin import threads
from mergecore.errors import InputError

CHAT = ("<|im_start|>", "<|im_end|>")


def linear(*models: Path, weights: Sequence[float] = (), **keys: Any) -> dict[str, Any]:
    shares = weights or [1 / len(models)] * len(models)
    entries = [{"model": str(m), "parameters": {"weight": w}} for m, w in zip(models, shares, strict=True)]
    return {"merge_method": "linear", "models": entries, "parameters": {"normalize": False}, **keys}


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text("utf-8"))


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Create three models with different words. The first has padding rows and the second has chat tokens."""
    return [
        model(tmp_path / "sea", 1, byte_level("sea"), rows=300),
        model(tmp_path / "code", 2, byte_level("code", special=CHAT)),
        model(tmp_path / "ville", 3, byte_level("ville", 280, ["<pad>", CHAT[0]])),
    ]


@pytest.mark.parametrize("source", ["union", "base", "explicit"])
@pytest.mark.parametrize("multiple", [1, 64])
def test_every_row_is_that_of_its_token(three: list[Path], tmp_path: Path, source: str, multiple: int) -> None:
    out, weights = tmp_path / "out", (0.5, 0.3, 0.2)
    named = str(three[1]) if source == "explicit" else source
    keys = {"tokenizer": {"source": named, "pad_to_multiple_of": multiple}}
    mergecore.run(linear(*three, weights=weights, **keys), out)
    known, made = [ids(folder) for folder in three], ids(out)
    everything = set().union(*known)
    assert set(made) == {"union": everything, "base": set(known[0]), "explicit": set(known[1])}[source]
    kept = known[1] if source == "explicit" else known[0]
    assert all(made[token] == number for token, number in kept.items())
    needed = {"union": max(300, len(everything)), "base": 300, "explicit": len(known[1])}[source]
    size = -(-needed // multiple) * multiple
    assert config(out)["vocab_size"] == size
    for table in TABLES:
        # A padding row of the base is the base's in all models. If the source is another model, there is none.
        inputs = expected(out, three, 0, table)
        got = tables(out)[table]
        assert got.shape == (size, 8)
        want = sum(np.float64(w) * x for w, x in zip(weights, inputs))
        rows = sorted(made.values()) if source == "explicit" else range(size)
        assert np.abs(got[rows] - want[rows]).max() < 1e-6
    assert np.isfinite(tables(out)[TABLES[0]]).all()


def test_text_is_cut_as_before_and_comes_back(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    mergecore.run(linear(*three, tokenizer_source="union"), out)
    base, made = Tokenizer.from_file(str(three[0] / "tokenizer.json")), transformers.AutoTokenizer.from_pretrained(out)
    for text in [lines[0] for lines in TEXTS.values()]:
        assert made.encode(text) == base.encode(text).ids
        assert made.decode(made.encode(text)) == text
    for token in (*CHAT, "<pad>"):
        assert made.encode(f"the{token}sea") == [*base.encode("the").ids, ids(out)[token], *base.encode("sea").ids]
    assert made.decode([ids(out)[token] for token in CHAT], skip_special_tokens=True) == ""


METHODS = {
    "linear": ({"weight": 0.5}, {}),
    "ties": ({"weight": 0.5, "density": 0.5}, {}),
    "dare_ties": ({"weight": 0.5, "density": 0.7}, {}),
    "slerp": ({}, {"t": 0.3}),
    "nuslerp": ({"weight": 0.5}, {}),
}


@pytest.mark.parametrize("source", ["union", "base"])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_and_its_permuted_copy_make_the_model(tmp_path: Path, method: str, source: str) -> None:
    base = model(tmp_path / "base", 1, byte_level("sea", special=CHAT))
    copy = permuted(base, tmp_path / "copy")
    each, shared = METHODS[method]
    entries = [{"model": str(m), "parameters": each} for m in (base, copy)]
    keys = {} if method in ("linear", "nuslerp") else {"base_model": str(base)}
    if method in ("ties", "dare_ties"):
        entries = entries[1:]
    out = tmp_path / "out"
    recipe = {"merge_method": method, "models": entries, "parameters": shared, "tokenizer": {"source": source}, **keys}
    mergecore.run(recipe, out)
    got, want = tensors(out), tensors(base)
    for name in want:
        assert np.abs(got[name] - want[name]).max() <= (0 if method in ("linear", "ties", "dare_ties") else 1e-6), name
    assert ids(out) == ids(base)


def test_tiles_and_threads_change_no_byte(three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = model(tmp_path / "large", 4, byte_level("sea"), rows=5000)  # three tiles of 2^14 elements
    recipe = linear(three[1], large, three[2], base_model=str(large), tokenizer={"source": "union"}, dtype="bfloat16")
    wholes = []
    for number, (tile, workers) in enumerate([(2**18, 1), (2**14, 1), (2**14, 3)]):
        monkeypatch.setattr(threads.ThreadsExecutor.__init__, "__defaults__", (tile, None))
        mergecore.run(recipe, tmp_path / str(number), workers=workers)
        wholes.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert wholes[0] == wholes[1] == wholes[2]


def test_a_base_with_spare_rows_keeps_them(tmp_path: Path) -> None:
    words = byte_level("sea")
    models = [model(tmp_path / name, seed, words, rows) for seed, (name, rows) in enumerate([("a", 304), ("b", 296)])]
    with pytest.raises(InputError, match=r"models have different shapes: \[304, 8\].*\[296, 8\].*source: base"):
        mergecore.plan(linear(*models))
    mergecore.run(linear(*models, tokenizer={"source": "base"}), tmp_path / "out")
    assert config(tmp_path / "out")["vocab_size"] == 304
    got, a, b = (tables(folder)[TABLES[0]] for folder in (tmp_path / "out", *models))
    assert np.array_equal(got[words.get_vocab_size() :], a[words.get_vocab_size() :])
    assert np.allclose(got[:290], (a[:290] + b[:290]) / 2)


def test_added_tokens_need_a_word_in_the_recipe(tmp_path: Path) -> None:
    plain, chat = byte_level("sea"), byte_level("sea", special=[f"<{n}>" for n in range(7)])
    models = [model(tmp_path / "plain", 1, plain), model(tmp_path / "chat", 2, chat)]
    slerp = {"merge_method": "slerp", "models": [{"model": str(m)} for m in models], "base_model": str(models[0])}
    with pytest.raises(InputError, match=r"tokenizer: {source: base} or tokenizer: {source: union}"):
        mergecore.plan({**slerp, "parameters": {"t": 0.5}})
    mergecore.run(linear(*models, tokenizer={"source": "union"}), tmp_path / "out")
    assert config(tmp_path / "out")["vocab_size"] == 297 == len(tables(tmp_path / "out")[TABLES[1]])
    assert np.array_equal(tables(tmp_path / "out")[TABLES[0]][290:], tables(models[1])[TABLES[0]][290:])


def test_a_token_without_a_row_is_named_with_what_mends_it(tmp_path: Path) -> None:
    words = byte_level("sea", special=["<late>"])
    models = [model(tmp_path / name, seed, words, rows=290) for seed, name in enumerate("ab")]
    recipe = linear(*models, tokenizer={"source": "base"})
    with pytest.raises(InputError, match=r"assigns the ID 290 to '<late>', but it has only 290 rows.*kind: zero"):
        mergecore.plan(recipe)
    recipe["tokenizer"]["tokens"] = {"<late>": {"source": {"kind": "zero"}}}
    mergecore.run(recipe, tmp_path / "out")
    assert config(tmp_path / "out")["vocab_size"] == 291
    assert not tables(tmp_path / "out")[TABLES[0]][290].any()
    # It does no harm in a model whose other tokens are not used, and another model can provide the row.
    fine = model(tmp_path / "fine", 3, byte_level("sea"))
    mergecore.plan(linear(fine, models[0], tokenizer={"source": "base"})).close()
    whole = model(tmp_path / "whole", 4, words)
    mergecore.plan(linear(models[0], whole, tokenizer={"source": "base"})).close()


def test_tokens_take_the_rows_that_the_recipe_names(three: list[Path], tmp_path: Path) -> None:
    code, ville = ids(three[1]), ids(three[2])
    wanted = {
        "<|im_start|>": {"source": str(three[2])},
        "<|im_end|>": {"source": str(three[1]), "force": True},
        "<new>": {"source": {"kind": "model_token", "model": str(three[2]), "token": "a"}},
        "<byid>": {"source": {"kind": "model_token", "model": str(three[1]), "token_id": 7}},
        "the": {"source": {"kind": "zero"}, "force": True},
    }
    out = tmp_path / "out"
    mergecore.run(linear(*three, tokenizer={"source": "union", "tokens": wanted}), out)
    made = ids(out)
    for table in TABLES:
        got, (_, c, v) = tables(out)[table], [tables(folder)[table] for folder in three]
        start = (2 * v[ville["<|im_start|>"]] + c[code["<|im_start|>"]]) / 3
        assert np.allclose(got[made["<|im_start|>"]], start, atol=1e-6)
        assert np.allclose(got[made["<|im_end|>"]], c[code["<|im_end|>"]], atol=1e-6)
        assert np.allclose(got[made["<new>"]], v[ville["a"]], atol=1e-6)
        assert np.allclose(got[made["<byid>"]], c[7], atol=1e-6)
        assert not got[made["the"]].any()


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"force": True}, "force: true but no source"),
        ({"source": {"kind": "model_token", "token": "a"}}, "needs a model and either token or token_id"),
        (
            {"source": {"kind": "model_token", "model": "CODE", "token": "a", "token_id": 1}},
            "either token or token_id",
        ),
        ({"source": {"kind": "model_token", "model": "CODE", "token": "<none>"}}, "has no token '<none>'"),
        ({"source": {"kind": "model_token", "model": "CODE", "token_id": 9999}}, "only 292 rows, so none for 9999"),
        ({"source": "elsewhere"}, "'elsewhere' is not one of the models to merge"),
        ({"source": "CODE"}, "has no token '<new>'"),
    ],
)
def test_a_row_that_is_not_there_is_refused(three: list[Path], entry: dict[str, Any], said: str) -> None:
    text = json.dumps(entry).replace("CODE", str(three[1]))
    with pytest.raises(InputError, match=f"tokenizer: .*{said}"):
        mergecore.plan(linear(*three, tokenizer={"tokens": {"<new>": json.loads(text)}}))


def test_a_tied_model_stays_tied_and_grows_by_its_new_rows_alone(three: list[Path], tmp_path: Path) -> None:
    tied = [
        model(tmp_path / "a", 1, byte_level("sea"), tie_word_embeddings=True),
        model(tmp_path / "b", 2, byte_level("code"), tie_word_embeddings=True),
    ]
    mergecore.run(linear(*tied, tokenizer_source="union"), tmp_path / "out")
    assert set(tensors(tmp_path / "out")) == set(tensors(tied[0]))
    assert config(tmp_path / "out")["tie_word_embeddings"] is True
    # With an untied model, the tied model's missing head rows come from the other's head, not from its embedding.
    mixed = [tied[0], three[1]]
    mergecore.run(linear(*mixed, tokenizer_source="union"), tmp_path / "mixed")
    assert config(tmp_path / "mixed")["tie_word_embeddings"] is False
    for table in TABLES:
        want = sum(expected(tmp_path / "mixed", mixed, 0, table)) / 2
        assert np.abs(tables(tmp_path / "mixed")[table] - want).max() < 1e-6


def test_models_stored_in_other_dtypes_keep_theirs(tmp_path: Path) -> None:
    """Means of rows are computed in float32, and the output has the dtype of the stored models."""
    texts = [byte_level("sea"), byte_level("code"), byte_level("code", special=CHAT)]
    models = [model(tmp_path / str(n), n, words, dtype="bfloat16") for n, words in enumerate(texts)]
    plan = mergecore.plan(linear(*models, tokenizer_source="union"))
    plan.close()
    dtypes = {job.info.dtype for job in plan.jobs}
    assert dtypes == {"BF16"}
    assert {item.info.dtype for job in plan.jobs if job.name in TABLES for item in job.inputs[:1]} == {"F32"}


def test_another_models_vocabulary_brings_its_special_tokens(tmp_path: Path) -> None:
    donor = model(tmp_path / "donor", 1, byte_level("sea", special=["<s>", "<img>"]), eos_token_id=290)
    source = model(tmp_path / "source", 2, byte_level("code", 270, ["</s>", "<img>"]), eos_token_id=[270])
    for folder, extra in ((donor, {"image_token_id": 291, "pad_token_id": 5}), (source, {})):
        (folder / "config.json").write_text(json.dumps({**config(folder), **extra}), "utf-8")
    (donor / "generation_config.json").write_text('{"eos_token_id": [290], "top_k": 7}', "utf-8")
    (donor / "merges.txt").write_text("stale", "utf-8")
    out = tmp_path / "out"
    mergecore.run(linear(donor, source, tokenizer={"source": str(source)}), out)
    made, wanted = config(out), {"eos_token_id": [270], "image_token_id": 271, "pad_token_id": ids(source)["&"]}
    assert {key: made[key] for key in wanted} == wanted and byte_level("sea").id_to_token(5) == "&"
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [270], "top_k": 7}
    assert not (out / "merges.txt").exists()
    assert (out / "tokenizer.json").read_bytes() == (source / "tokenizer.json").read_bytes()


def test_a_composites_vocabulary_size_stands_beside_its_layers(tmp_path: Path) -> None:
    models = []
    for seed, words in enumerate([byte_level("sea"), byte_level("code")]):
        folder = model(tmp_path / f"m{seed}", seed, words)
        flat = config(folder)
        inner = {key: flat.pop(key) for key in ("vocab_size", "num_hidden_layers", "hidden_size")}
        (folder / "config.json").write_text(json.dumps({**flat, "text_config": inner}), "utf-8")
        models.append(folder)
    definition = llama()
    definition["layers"]["count"] = "text_config.num_hidden_layers"
    (tmp_path / "llama.json").write_text(json.dumps(definition), "utf-8")
    recipe = linear(*models, tokenizer_source="union", architectures=[str(tmp_path / "llama.json")])
    mergecore.run(recipe, tmp_path / "out")
    made = config(tmp_path / "out")
    assert made["text_config"]["vocab_size"] == len(tables(tmp_path / "out")[TABLES[0]]) > 290
    assert "vocab_size" not in made


def test_a_table_that_some_models_lack_is_made_from_the_others(three: list[Path], tmp_path: Path) -> None:
    definition = llama()
    definition["after"].append({"name": "lm_head.bias", "optional": True, "vocabulary_axis": 0})
    (tmp_path / "llama.json").write_text(json.dumps(definition), "utf-8")
    biases = [None, *(np.random.default_rng(n).standard_normal(len(ids(three[n]))).astype("f4") for n in (1, 2))]
    for folder, bias in zip(three[1:], biases[1:]):
        stored = load_file(folder / "model.safetensors")
        save_file({**stored, "lm_head.bias": torch.from_numpy(bias)}, folder / "model.safetensors")
    keys = {"tokenizer_source": "union", "architectures": [str(tmp_path / "llama.json")]}
    mergecore.run(linear(*three, weights=(1, 1, 1), **keys), tmp_path / "out")
    got, known = tensors(tmp_path / "out")["lm_head.bias"], [ids(folder) for folder in three]
    for token, row in ids(tmp_path / "out").items():
        have = [biases[m][known[m][token]] for m in (1, 2) if token in known[m]]
        assert got[row] == pytest.approx(2 * np.mean(have) if have else 0, abs=1e-6)


def llama() -> dict[str, Any]:
    path = Path(mergecore.__file__).parents[1] / "architectures/llama/mergecore_arch_llama/llama.json"
    return {**json.loads(path.read_text("utf-8")), "classes": ["LlamaForCausalLM"]}


def test_unigram_tokenizers_grow_without_cutting_text_otherwise(tmp_path: Path) -> None:
    models = [model(tmp_path / text, seed, unigram(text)) for seed, text in enumerate(("sea", "ville"))]
    plan = mergecore.plan(linear(*models, byte_model := model(tmp_path / "b", 3, byte_level("code")),
                                 tokenizer_source="union"))  # fmt: skip
    plan.close()
    assert any("start of a word" in note and "'Ġ'" in note for note in plan.notes) and byte_model
    mergecore.run(linear(*models, tokenizer_source="union"), tmp_path / "out")
    made, base = (Tokenizer.from_file(str(folder / "tokenizer.json")) for folder in (tmp_path / "out", models[0]))
    for text in ("the sailors sing over the sea", "la ville est la ville"):
        assert made.encode(text).ids == base.encode(text).ids and made.decode(made.encode(text).ids) == text
    assert set(ids(models[1])) <= set(ids(tmp_path / "out"))


def test_models_that_define_a_token_differently_get_a_note(tmp_path: Path) -> None:
    models = []
    for seed, special in enumerate((True, False)):
        words = byte_level("sea")
        words.add_tokens([AddedToken("<x>", special=special, normalized=False)])
        models.append(model(tmp_path / str(seed), seed, words))
    plan = mergecore.plan(linear(*models, tokenizer_source="union"))
    plan.close()
    assert any("'<x>'" in note and "differently" in note for note in plan.notes)


def test_a_model_without_tokenizer_files_has_the_bases(tmp_path: Path) -> None:
    models = [model(tmp_path / name, seed, byte_level("sea")) for seed, name in enumerate("ab")]
    (models[1] / "tokenizer.json").unlink()
    plan = mergecore.plan(linear(*models, tokenizer_source="union"))
    plan.close()
    assert any("has no tokenizer files" in note for note in plan.notes)
    with pytest.raises(InputError, match="has no tokenizer files"):
        mergecore.plan(linear(*models[::-1], tokenizer_source="union"))
    with pytest.raises(InputError, match=r"'nowhere' is not union, base, or a model: nowhere: .*no such folder"):
        mergecore.plan(linear(*models, tokenizer_source="nowhere"))


def test_a_vocabulary_of_a_model_on_the_hub_that_is_not_merged(tmp_path: Path, monkeypatch: Any) -> None:
    models = [model(tmp_path / name, seed, byte_level("sea")) for seed, name in enumerate("ab")]
    words = model(tmp_path / "words", 2, byte_level("sea", special=["<x>"]), rows=300)
    with fake_hub.running() as hub:
        hub.used_here(monkeypatch, tmp_path)
        hub.add("org/words", words)
        made = [linear(*models, tokenizer={"source": source, "tokens": {"<x>": {"source": {"kind": "zero"}}}})
                for source in ("org/words@main", str(words))]  # fmt: skip
        plans = [mergecore.plan(recipe) for recipe in made]
        assert plans[0].tokenizer_files == plans[1].tokenizer_files
        assert hub.fetched("tokenizer.json") and hub.sent(".safetensors") == 0
    for plan in plans:
        plan.close()


def test_a_vocabulary_of_a_folder_that_is_not_merged(tmp_path: Path) -> None:
    models = [model(tmp_path / name, seed, byte_level("sea")) for seed, name in enumerate("ab")]
    other = tmp_path / "other"
    other.mkdir()
    put(other, byte_level("code", 280))
    plan = mergecore.plan(linear(*models, tokenizer={"source": str(other)}))
    plan.close()
    assert plan.config["vocab_size"] == 280
    assert any("no model has a row, so it is set to zero" in note for note in plan.notes)


def test_a_link_out_of_the_models_folder_is_not_copied(tmp_path: Path) -> None:
    folder = model(tmp_path / "a", 1, byte_level("sea"))
    (tmp_path / "secret").write_text("{}")
    (folder / "special_tokens_map.json").symlink_to(tmp_path / "secret")
    plan = mergecore.plan(linear(folder, tokenizer={"source": "base"}))
    plan.close()
    assert "special_tokens_map.json" not in (plan.tokenizer_files or {})
    assert any("is a link to a file outside the model's folder" in note for note in plan.notes)


def test_a_tokenizer_that_takes_whole_words_gets_a_note(tmp_path: Path) -> None:
    models = [model(tmp_path / text, seed, byte_level(text)) for seed, text in enumerate(("sea", "code"))]
    value = json.loads((models[0] / "tokenizer.json").read_text("utf-8"))
    value["model"]["ignore_merges"] = True
    (models[0] / "tokenizer.json").write_text(json.dumps(value), "utf-8")
    plan = mergecore.plan(linear(*models, tokenizer_source="union"))
    plan.close()
    assert any("prefers whole words" in note for note in plan.notes)


ROLES = {"eos_token_id": [291, 0], "pad_token_id": 0, "bos_token_id": 290}


@pytest.mark.parametrize("base_has", [None, {}, {"eos_token_id": 0}, {"temperature": 0.5, "pad_token_id": 3}])
@pytest.mark.parametrize("nested", [False, True])
def test_stop_and_padding_tokens_come_with_the_vocabulary(nested: bool, base_has: Any, tmp_path: Path) -> None:
    """Also where the base has no generation_config.json, or no such key."""
    plain, chat = byte_level("sea"), byte_level("sea", special=["<|im_start|>", "<|im_end|>"])
    roles = {"eos_token_id": 0, "bos_token_id": None}
    base = model(tmp_path / "base", 1, plain, **roles, **({"text_config": roles} if nested else {}))
    other = model(tmp_path / "chat", 2, chat, eos_token_id=0)
    put(other, chat, {"eos_token": "<|im_end|>", "pad_token": chat.id_to_token(0)})
    (other / "generation_config.json").write_text(json.dumps(ROLES))
    if base_has is not None:
        (base / "generation_config.json").write_text(json.dumps(base_has))
    models = [{"model": str(folder), "parameters": {"weight": 0.5}} for folder in (base, other)]
    recipe = {"merge_method": "linear", "models": models, "tokenizer": {"source": str(other)}}
    out = mergecore.run(recipe, tmp_path / "out")
    generation = json.loads((out / "generation_config.json").read_text())
    assert {key: generation.get(key) for key in ROLES} == ROLES
    assert generation.get("temperature") == (base_has or {}).get("temperature")
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>" and settings["pad_token"] == chat.id_to_token(0)
    config = json.loads((out / "config.json").read_text())
    assert config["eos_token_id"] == 0 and config["pad_token_id"] == 0
