"""The Python API produces the same results as the command line."""

import json
from dataclasses import dataclass

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
    with pytest.raises(InputError, match="the models' values differ"):
        mergecore.merge_tensors([torch.tensor(1), torch.tensor(2)], "linear", {"weight": 1})


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
