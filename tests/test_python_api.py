"""The Python API produces the same results as the command line."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mergecore
from mergecore import inmemory
from mergecore.api import Tile, WeightMethod, param
from mergecore.errors import InputError

METHODS = {
    "linear": {"weight": [0.3, 0.6, 0.1]},
    "task_arithmetic": {"weight": [0.5, 0.25], "lambda": 0.9},
    "ties": {"weight": [0.5, 0.7], "density": 0.4},
}


@pytest.mark.parametrize("method", METHODS)
def test_state_dicts_merge_as_folders_do(method, models, tmp_path):
    parameters = METHODS[method]
    per_model = {name: value for name, value in parameters.items() if isinstance(value, list)}
    needs_base = method != "linear"
    inputs = models[1:] if needs_base else models
    recipe = {
        "merge_method": method,
        "models": [
            {"model": str(model), "parameters": {name: value[i] for name, value in per_model.items()}}
            for i, model in enumerate(inputs)
        ],
        "parameters": {name: value for name, value in parameters.items() if name not in per_model},
        **({"base_model": str(models[0])} if needs_base else {}),
    }
    written = load_file(mergecore.run(recipe, tmp_path / "out") / "model.safetensors")
    states = [load_file(model / "model.safetensors") for model in models]
    merged = mergecore.merge_state_dicts(states, method, parameters, base=0 if needs_base else None)
    assert merged.keys() == written.keys()
    assert all(torch.equal(merged[name], tensor) for name, tensor in written.items())


def test_inputs_stay_as_they_are():
    tensors = [torch.randn(4, 5) for _ in range(3)]
    before = [tensor.clone() for tensor in tensors]
    mergecore.merge_tensors(tensors, "ties", {"density": 0.5}, base=0)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, before))


@pytest.mark.parametrize(
    ("method", "parameters", "base", "words"),
    [
        ("linear", {"weight": [1, 2]}, None, "needs 3 values, not 2"),
        ("linear", {}, None, "'weight' is missing"),
        ("linear", {"wieght": 1}, None, "did you mean 'weight'"),
        ("linear", {"weight": "x"}, None, "must be a number"),
        ("ties", {}, None, "needs a base"),
        ("slerp", {"t": 1}, 0, "takes 2 to 2 models, not 3"),
        ("nothing", {}, None, "is not installed"),
    ],
)
def test_mistakes_are_sentences(method, parameters, base, words):
    with pytest.raises(InputError, match=words):
        mergecore.merge_tensors([torch.ones(2)] * 3, method, parameters, base=base)


def test_shapes_and_names_must_agree():
    with pytest.raises(InputError, match="differ in shape"):
        mergecore.merge_tensors([torch.ones(2), torch.ones(3)], "linear", {"weight": 1})
    with pytest.raises(InputError, match="only one of model 0 and model 1 has 'a'"):
        mergecore.merge_state_dicts([{"a": torch.ones(2)}, {"b": torch.ones(2)}], "linear", {"weight": 1})
    with pytest.raises(InputError, match="different dtypes: I64 and F32"):
        mergecore.merge_tensors([torch.tensor(1), torch.tensor(2.0)], "linear", {"weight": 1})


ONE = {"a": torch.ones(3)}
merge, dicts, plan = mergecore.merge_tensors, mergecore.merge_state_dicts, mergecore.plan
MISTAKES = {
    "no models": (lambda: dicts([], "linear"), "the list of state dicts is empty"),
    "no tensors": (lambda: merge([], "linear"), "the list of tensors is empty"),
    "one dict": (lambda: dicts(ONE, "linear"), "must be a list of state dicts, not dict"),
    "one tensor": (lambda: merge(torch.ones(2, 3), "linear"), "a list of tensors, not torch.Tensor"),
    "a base beyond": (lambda: dicts([ONE] * 3, "ties", base=3), "base=3 is not the .*; use 0 to 2"),
    "a base below": (lambda: dicts([ONE] * 3, "ties", base=-1), "base=-1 is not the index"),
    "a base's name": (lambda: dicts([ONE] * 3, "ties", base="a"), "base='a' is not the index"),
    "a base as a switch": (lambda: merge([torch.ones(2)] * 2, "ties", base=True), "base=True is not"),
    "modules": (lambda: dicts([torch.nn.Linear(2, 2)] * 2, "linear"), r"use its state_dict\(\)"),
    "paths": (lambda: dicts(["a", "b"], "linear"), "model 0 must be a state dict, not str; load it"),
    "nothing": (lambda: dicts([ONE, None], "linear"), "model 1 must be a state dict, not NoneType"),
    "arrays": (lambda: merge([np.ones(3)] * 2, "linear"), "convert it with torch.from_numpy"),
    "numbers": (lambda: dicts([{"a": 1.0}] * 2, "linear"), "a of model 0: must be a torch.Tensor"),
    "no values": (lambda: merge([torch.ones(2, device="meta")], "linear"), "has no values"),
    "sparse": (lambda: merge([torch.eye(2).to_sparse()], "linear"), "has no values that can be merged"),
    "a class": (lambda: merge([torch.ones(2)], inmemory.Method), "must be a name such as 'linear'"),
    "a list of parameters": (lambda: merge([torch.ones(2)], "linear", [1.0]), "parameters must be a map"),
    "an array of weights": (lambda: merge([torch.ones(2)], "linear", {"weight": np.ones(1)}),
                            r"weight: must be a plain Python value, not numpy.ndarray; use .tolist\(\)"),
    "a tensor as a weight": (lambda: merge([torch.ones(2)], "linear", {"weight": torch.tensor(1)}),
                             "weight: must be a plain Python value, not torch.Tensor"),
    "no recipe": (lambda: mergecore.run(None, "out"), "a recipe must be the path of a YAML file, .*, not NoneType"),
    "a number": (lambda: plan(5), "a recipe must be .* not int"),
    "a recipe's text": (lambda: plan("merge_method: linear\nmodels: []\n"), "pass yaml.safe_load"),
    "a path as a model": (lambda: plan(recipe(Path("code"), 1.0)), r"models\[0\].model: .*; use str\(...\)"),
    "NumPy's number": (lambda: plan(recipe("code", np.float32(1))), "weight: must be .* not numpy.float32; use"),
    "a set": (lambda: plan({**recipe("code", 1), "prefer": {"a"}}), "prefer: must be a plain .*, not set"),
    "a key that is none": (lambda: plan({1: 2}), "the key 1 must be a string, not int"),
    "an output that is none": (lambda: mergecore.run(recipe("code", 1.0), None), "out must be the path of a folder"),
    "memory in words": (lambda: plan(recipe("code", 1.0), memory="1GB"), "memory must be a whole number"),
    "half a thread": (lambda: mergecore.run(recipe("code", 1.0), "out", workers=0.5), "workers must be a whole number"),
}  # fmt: skip


def recipe(model, weight):
    return {"merge_method": "linear", "models": [{"model": model, "parameters": {"weight": weight}}]}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_notebook_is_one_sentence(name):
    mistake, words = MISTAKES[name]
    with pytest.raises(InputError, match=words) as caught:
        mistake()
    assert "\n" not in str(caught.value)


def test_subclasses_of_plain_values_and_tuples_are_plain(models):
    plan = mergecore.plan({"merge_method": "linear", "models": ({"model": str(models[1])},),
                           "parameters": {"weight": np.float64(0.5)}})  # fmt: skip
    plan.close()
    assert plan.jobs[0].method.weight == (0.5,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_as_in_a_run(value):
    models = [{"a": torch.ones(2)}, {"a": torch.tensor([1.0, value])}]
    with pytest.raises(InputError, match="a: the result contains NaN or infinity; model 1 already contains some"):
        mergecore.merge_state_dicts(models, "linear", {"weight": 0.5})
    merged = mergecore.merge_state_dicts(models, "linear", {"weight": 0.5}, allow_nonfinite=True)
    assert not merged["a"].isfinite().all()


def test_a_dtype_that_is_too_small_is_named():
    models = [{"a": torch.full((2,), 65000.0, dtype=torch.float16)}] * 2
    with pytest.raises(InputError, match="the models are finite, so it comes from the method, or is too large"):
        mergecore.merge_state_dicts(models, "linear", {"weight": 1, "normalize": False})


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_counters_and_masks_that_differ_are_the_base_s(dtype):
    models = [{"n": torch.tensor(value, dtype=dtype), "w": torch.ones(2)} for value in (0, 1, 1)]
    for base, kept in ((None, 0), (1, 1)):
        method = "linear" if base is None else "ties"
        with pytest.warns(UserWarning, match=f"of whole numbers, such as n, differ; those of model {kept} are used"):
            merged = mergecore.merge_state_dicts(models, method, {"weight": 1}, base=base)
        assert torch.equal(merged["n"], models[kept]["n"])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_shape_and_dtype_are_kept(shape, dtype):
    tensors = [torch.randn(shape).to(dtype) for _ in range(3)]
    for method, parameters, base in (("linear", {"weight": 1}, None), ("ties", {"density": 0.3}, 1)):
        merged = mergecore.merge_tensors(tensors, method, parameters, base=base)
        assert (merged.shape, merged.dtype) == (shape, dtype)


def test_bfloat16_is_float32_rounded_once():
    tensors = [torch.randn(41, 67).bfloat16() for _ in range(3)]
    for method, parameters in METHODS.items():
        base = None if method == "linear" else 0
        given = {"weight": 0.3, **{name: value for name, value in parameters.items() if name != "weight"}}
        merged = mergecore.merge_tensors(tensors, method, given, base=base)
        exact = mergecore.merge_tensors([tensor.float() for tensor in tensors], method, given, base=base)
        assert torch.equal(merged, exact.bfloat16())


@dataclass(frozen=True, kw_only=True)
class Layout(WeightMethod):
    """Return the number of contiguous inputs."""

    tile = Tile.TENSOR
    offset: float | None = param(None, "Added, if given.")

    def merge(self, weights, ctx):
        return torch.full_like(weights[0], sum(x.is_contiguous() for x in weights) + (self.offset or 0))


def test_a_method_gets_contiguous_tensors_however_they_lie():
    square, long = torch.randn(6, 8), torch.randn(50)
    for tensors in ([square.T, square.T], [square[:, ::3]] * 2, [long[::2], long[1::2]], [long[:1].expand(9)] * 2):
        assert (inmemory.merge_tensors(tensors, Layout, {}) == 2).all()
    assert (inmemory.merge_tensors([square], Layout, {"offset": 3}) == 4).all()


def test_plan_json_tells_every_weight_with_its_parameters(models, plugin_env, tmp_path):
    recipe = tmp_path / "r.yml"
    recipe.write_text(
        f"merge_method: slerp\nbase_model: {models[0]}\nmodels: [{{model: {models[1]}}}]\n"
        "parameters: {t: [{filter: mlp, value: [0, 1]}, {value: 0.25}]}\n"
    )
    view = json.loads(plugin_env.mergecore("plan", recipe, "--json").stdout)
    values = {weight["name"]: weight["parameters"]["t"] for weight in view["weights"]}
    assert values["model.layers.0.mlp.up_proj.weight"] == 0
    assert values["model.layers.1.mlp.up_proj.weight"] == 1
    assert values["lm_head.weight"] == 0.25
    assert view["tensors"] == len(view["weights"]) == 21 and view["dropped"] == 0


def test_run_json_is_alone_on_standard_output(linear_recipe, plugin_env, tmp_path):
    result = plugin_env.mergecore("run", linear_recipe, tmp_path / "out", "--json")
    assert json.loads(result.stdout)["out"] == str(tmp_path / "out")
    assert "100%" in result.stderr, "plain progress lines without a terminal"


def test_sizes_are_read_as_people_write_them():
    from mergecore.cli.options import parse_size

    sizes = {"256MB": 256e6, "1.5GB": 1.5e9, "5B": 5e9, "500M": 5e8, "10k": 1e4, "123": 123, "2GiB": 2 * 2**30}
    assert {text: parse_size(text, "--memory") for text in sizes} == sizes
    for text in ("", "big", "-1MB", "0", "nan", "inf", "5 QB"):
        with pytest.raises(InputError, match="--memory"):
            parse_size(text, "--memory")


def test_a_list_without_a_recipe_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^the list of recipes is empty; a recipe needs at least"):
        mergecore.run([], tmp_path / "out")
    assert not (tmp_path / "out").exists()
