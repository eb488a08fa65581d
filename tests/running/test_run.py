"""Runs: the files they write, the input they reject, and the files they leave when they fail."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import LAYERS, write_model

import mergecore
from mergecore.errors import ArchitectureError, InputError, ModelError, RunError
from mergecore.models.checkpoint import Checkpoint


def linear(*models, **keys):
    return {
        "merge_method": "linear",
        "models": [{"model": str(model), "parameters": {"weight": 0.5}} for model in models],
        **keys,
    }


def weights(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def change(folder, edit):
    """Rewrite a model's weights."""
    tensors = weights(folder)
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_shards_hold_the_same_tensors_as_one_file_and_an_index(models, tmp_path):
    one = mergecore.run(linear(*models[:2]), tmp_path / "one")
    many = mergecore.run(linear(*models[:2]), tmp_path / "many", shard_bytes=2000)
    shards = sorted(path.name for path in many.glob("*.safetensors"))
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert len(shards) > 2 and shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == shards
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights(one).values())
    for shard in shards:
        loaded = load_file(many / shard)
        assert all(index["weight_map"][name] == shard for name in loaded)
        assert len(loaded) == 1 or sum(t.nbytes for t in loaded.values()) <= 2000
    assert all(torch.equal(weights(one)[name], tensor) for name, tensor in weights(many).items())
    again = mergecore.run(linear(many, many), tmp_path / "again")
    assert all(torch.equal(weights(one)[name], tensor) for name, tensor in weights(again).items())


def test_the_output_keeps_the_inputs_dtype_unless_told(tmp_path):
    half = write_model(tmp_path / "half", 1, dtype="bfloat16")
    other = write_model(tmp_path / "other", 2, dtype="float16")
    full = write_model(tmp_path / "full", 3)

    def dtypes(name, *models, **keys):
        return {t.dtype for t in weights(mergecore.run(linear(*models, **keys), tmp_path / name)).values()}

    assert dtypes("a", half, half) == {torch.bfloat16}
    assert dtypes("b", half, other) == {torch.float32}
    assert dtypes("c", half, full) == {torch.float32}
    assert dtypes("d", full, full, dtype="float16") == {torch.float16}
    assert dtypes("e", half, half, dtype="float32", out_dtype="torch.float64") == {torch.float64}


def test_arithmetic_is_float32_with_one_rounding(tmp_path):
    a, b = (write_model(tmp_path / name, seed, dtype="bfloat16") for seed, name in enumerate("ab"))
    recipe = linear(a, b)
    recipe["models"][0]["parameters"]["weight"] = 0.37
    merged = weights(mergecore.run(recipe, tmp_path / "out"))
    for name, tensor in merged.items():
        x, y = weights(a)[name].double(), weights(b)[name].double()
        exact = (0.37 * x + 0.5 * y) / 0.87
        assert torch.equal(tensor, exact.bfloat16())


def test_an_existing_folder_is_replaced_only_by_force(models, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        mergecore.run(linear(*models[:2]), out)
    assert (out / "mine.txt").read_text() == "mine"
    (out / "mine.txt").unlink()
    mergecore.run(linear(*models[:2]), out)
    mergecore.run(linear(*models[:2], dtype="bfloat16"), out, force=True)
    assert weights(out)["model.norm.weight"].dtype == torch.bfloat16
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "code", "out", "prose"]


def test_a_model_is_never_written_over(models, tmp_path):
    with pytest.raises(InputError, match=r"is or contains .*, which this run reads"):
        mergecore.run(linear(*models[:2]), models[0], force=True)


@pytest.mark.filterwarnings("ignore:.*has 21 of 21 tensors", "ignore:.*has 20 of 21 tensors")
def test_a_failed_run_leaves_an_old_result_alone(models, tmp_path):
    out = mergecore.run(linear(models[0], models[2]), tmp_path / "out")
    old = (out / "model.safetensors").read_bytes()
    change(models[1], lambda t: t["model.norm.weight"].fill_(float("nan")))
    with pytest.raises(RunError, match=r"model.norm.weight: merging .* results in NaN or infinity"):
        mergecore.run(linear(*models[:2]), out, force=True)
    assert (out / "model.safetensors").read_bytes() == old


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_copied_from_one_model(models, tmp_path, dtype):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    values = [torch.tensor(bits, dtype=dtype) for bits in ([0, 1], [1, 0], [1, 1])]
    for model, value in zip(models, values):
        change(model, lambda t, v=value: t.update({name: v}))
    base, *others = models
    arithmetic = {**linear(*others), "merge_method": "task_arithmetic", "base_model": str(base)}
    one = linear(*models, dtype="bfloat16")
    for number, source in enumerate(one["models"]):
        weight = source["parameters"]["weight"]
        source["parameters"] = {"weight": [{"filter": "inv_freq", "value": int(number == 2)}, {"value": weight}]}
    for index, recipe in enumerate((linear(*models, dtype="bfloat16"), {**arithmetic, "models": [
            {"model": str(model)} for model in others]}, one)):  # fmt: skip
        plan = mergecore.plan(recipe)
        plan.close()
        chosen = models[2 if index == 2 else 0]
        assert f"1 tensor(s) of whole numbers, such as {name}, copied from {chosen}" in plan.notes
        merged = weights(mergecore.run(recipe, tmp_path / f"out{index}"))
        assert torch.equal(merged[name], values[models.index(chosen)])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.int32])
def test_what_can_neither_be_merged_nor_copied_is_refused_in_the_plan(models, dtype):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq" if dtype is torch.float32 else "model.norm.weight"
    change(models[0], lambda t: t.update({name: torch.ones(16).to(dtype)}))
    change(models[1], lambda t: t.update({name: torch.ones(16).to(torch.int64 if dtype is torch.float32 else dtype)}))
    with pytest.raises(InputError, match=f"{name}: has dtype"):
        mergecore.plan(linear(*models[:2]))


def test_every_input_tensor_is_accounted_for(models, tmp_path):
    change(models[1], lambda t: t.update({"model.layers.0.self_attn.k_norm.weight": torch.ones(4)}))
    with pytest.raises(ArchitectureError, match=r"code: contains 'model.layers.0.self_attn.k_norm.weight', unknown"):
        mergecore.plan(linear(*models))
    change(models[1], lambda t: t.pop("model.layers.0.self_attn.k_norm.weight"))
    change(models[2], lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"prose: has no tensor 'model.layers.1.mlp.up_proj.weight'"):
        mergecore.plan(linear(*models))


def test_models_of_other_shapes_are_refused_with_both_shapes(models, tmp_path):
    change(models[1], lambda t: t.update({"model.embed_tokens.weight": torch.ones(13, 8)}))
    with pytest.raises(ModelError, match=r"\[12, 8\] in .*base, \[13, 8\] in .*code; their vocabularies differ"):
        mergecore.plan(linear(*models))


def test_layers_left_out_are_counted(models):
    recipe = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(models[0]), "layer_range": [1, 2]}]}] * 3,
    }
    plan = mergecore.plan(recipe)
    assert plan.dropped == 9
    assert plan.config["num_hidden_layers"] == 3
    assert [job.name for job in plan.jobs if "q_proj" in job.name] == [
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(3)
    ]


@pytest.mark.parametrize("tied", [(True, True), (True, False), (False, True)])
def test_a_head_is_written_when_any_model_has_its_own(tied, tmp_path):
    folders = [
        write_model(tmp_path / name, seed, tie_word_embeddings=is_tied)
        for seed, (name, is_tied) in enumerate(zip("ab", tied))
    ]
    plan = mergecore.plan(linear(*folders))
    heads = [job for job in plan.jobs if job.name == "lm_head.weight"]
    assert plan.config["tie_word_embeddings"] is all(tied)
    assert bool(heads) is not all(tied)
    for job in heads:
        assert [item.tensor for item in job.inputs] == [
            "model.embed_tokens.weight" if is_tied else "lm_head.weight" for is_tied in tied
        ]


def test_an_optional_weight_that_one_model_lacks_is_noted(models):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(models[0], lambda t: t.update({name: torch.ones(8)}))
    plan = mergecore.plan(linear(*models))
    assert next(len(job.inputs) for job in plan.jobs if job.name == name) == 1
    assert any("1 optional weight(s) missing from" in note for note in plan.notes)


def test_a_base_without_an_optional_weight_is_refused_or_the_lone_one_copied(models):
    change(models[1], lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    recipe = {"merge_method": "ties", "base_model": str(models[0]), "models": [{"model": str(models[1])}]}
    with pytest.raises(ModelError, match=r"inv_freq: is missing from"):
        mergecore.plan(recipe)
    plan = mergecore.plan({**recipe, "merge_method": "slerp", "parameters": {"t": 0.5}})
    assert [job.name for job in plan.jobs if job.method is None] == ["model.layers.0.self_attn.rotary_emb.inv_freq"]


def test_notes_tell_what_has_no_effect(models):
    (models[1] / "config.json").write_text(
        (models[1] / "config.json").read_text().replace("{", '{"rope_theta": 5, ', 1)
    )
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(models[0]),
        "models": [{"model": str(models[0]), "parameters": {"weight": 9}}, {"model": str(models[1])}],
        "parameters": {"density": 0.3, "weight": [{"filter": "no_such", "value": 3}, {"value": 1}]},
    }
    notes = "\n".join(mergecore.plan(recipe).notes)
    assert "parameter 'density' has no effect" in notes
    assert "the parameters of the base model" in notes
    assert "the filter 'no_such' matches no weight" in notes
    assert "config differs in rope_theta" in notes


def test_a_disk_that_is_too_small_is_refused_before_the_start(models, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match=r"needs 0\.0 GB; free some space"):
        mergecore.run(linear(*models[:2]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_error_in_one_thread_stops_the_others_at_their_next_tile(models):
    from mergecore.api import TileMerger, Work

    plan, reads, errors = mergecore.plan(linear(*models[:2])), [], []
    work = Work(plan.jobs, lambda *a: reads.append(a), print, print, print, 10**9, 1)
    errors.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        TileMerger(work, 2**14, errors).make(plan.jobs[0])
    assert not reads


def test_however_often_it_is_interrupted_no_thread_is_left_when_it_ends(models, tmp_path, monkeypatch):
    join, calls = threading.Thread.join, []

    def interrupted(thread, *args):
        if thread.name.startswith("merge-") and len(calls) < 3:
            calls.append(thread)
            raise KeyboardInterrupt
        join(thread, *args)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    monkeypatch.setattr(Checkpoint, "read", lambda *args: time.sleep(0.05))
    with pytest.raises(KeyboardInterrupt):
        mergecore.run(linear(*models[:2]), tmp_path / "out")
    assert len(calls) == 3 and not any(thread.is_alive() for thread in calls)


def test_a_file_in_the_way_is_never_replaced(models, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        mergecore.run(linear(*models[:2]), tmp_path / "out", force=True)
    assert (tmp_path / "out").read_text() == "mine"


def test_hash_seeds_change_nothing(models, linear_recipe, tmp_path):
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-m", "mergecore", "run", str(linear_recipe), str(tmp_path / seed), "--quiet"]
        subprocess.run(command, env=environment, check=True)
    one, two = (tmp_path / seed for seed in "12")
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()


def test_layers_are_counted_not_sorted_as_text(tmp_path):
    deep = write_model(tmp_path / "deep", 1, num_hidden_layers=12)
    plan = mergecore.plan({"merge_method": "passthrough", "models": [{"model": str(deep)}]})
    layers = [int(job.name.split(".")[2]) for job in plan.jobs if "q_proj" in job.name]
    assert layers == list(range(12)) and len(layers) > LAYERS
