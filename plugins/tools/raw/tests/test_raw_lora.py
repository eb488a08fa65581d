"""LoRA files of image models merge exactly into one, or into a checkpoint, and factors are never averaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
LINEAR, CONVOLUTION = "down_blocks.0.attn.to_q", "down_blocks.0.conv"
SHAPES = {LINEAR: (20, 12), CONVOLUTION: (8, 6, 3, 3)}


def raw(folder: Path, recipe: Mapping[str, Any], out: str = "out.safetensors") -> subprocess.CompletedProcess[str]:
    (folder / "r.yml").write_text(json.dumps(recipe))
    words = [sys.executable, "-m", "mergecore", "raw", "r.yml", out]
    return subprocess.run(words, check=False, cwd=folder, capture_output=True, text=True)


def kohya(seed: int, rank: int, alpha: float | None, modules: Mapping[str, tuple[int, ...]] = SHAPES) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for module, (out, *rest) in modules.items():
        key = "lora_unet_" + module.replace(".", "_")
        found[f"{key}.lora_down.weight"] = torch.randn(rank, *rest, generator=generator)
        found[f"{key}.lora_up.weight"] = torch.randn(out, rank, *[1] * (len(rest) - 1), generator=generator)
        if alpha is not None:
            found[f"{key}.alpha"] = torch.tensor(alpha)
    return found


def change(tensors: Tensors, module: str) -> torch.Tensor:
    """up @ down · alpha / rank in float64, or 0 if the file does not change the module."""
    key = "lora_unet_" + module.replace(".", "_")
    if f"{key}.lora_down.weight" not in tensors:
        return torch.zeros(SHAPES[module], dtype=torch.float64)
    down, up = (tensors[f"{key}.lora_{part}.weight"].double() for part in ("down", "up"))
    alpha = tensors.get(f"{key}.alpha", torch.tensor(float(down.shape[0]))).item()
    return (alpha / down.shape[0] * up.flatten(1) @ down.flatten(1)).view(SHAPES[module])


def files(folder: Path, **contents: Tensors) -> None:
    header = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1, "unet.alpha_pattern": {"^m.*": 2}})}
    for name, tensors in contents.items():
        save_file(tensors, folder / f"{name}.safetensors", header if name == "p" else None)


def models(**weights: float) -> list[Any]:
    return [{"model": f"{name}.safetensors", "parameters": {"weight": weight}} for name, weight in weights.items()]


@pytest.mark.parametrize(("options", "scale"), [({}, 1 / 0.8), ({"normalize": False}, 1.0)])
def test_several_files_merge_exactly(options: dict[str, Any], scale: float, tmp_path: Path) -> None:
    one, two, three = kohya(1, 4, 2.0), kohya(2, 3, None), kohya(3, 2, 8.0, {LINEAR: SHAPES[LINEAR]})
    files(tmp_path, one=one, two=two, three=three)
    recipe = {"merge_method": "linear", "models": models(one=0.5, two=-0.7, three=1), "parameters": options}
    done = raw(tmp_path, recipe)
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "out.safetensors")
    for module in SHAPES:
        wanted = scale * (0.5 * change(one, module) - 0.7 * change(two, module) + change(three, module))
        assert torch.allclose(change(merged, module), wanted, rtol=1e-5, atol=1e-5)


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Tensors], str]] = {
    "another method": ({"merge_method": "ties", "base_model": "a.safetensors", "models": models(b=1)}, {},
                       "'ties' works on whole weights, and LoRA files have only factors of changes"),
    "next to a checkpoint": ({"merge_method": "linear", "models": models(a=1, c=1)},
                             {"c": {f"{LINEAR}.weight": torch.ones(20, 12)}},
                             "a.safetensors: is a LoRA file, but c.safetensors is not"),
    "a list of weights": ({"merge_method": "linear", "models": [
        {"model": "a.safetensors", "parameters": {"weight": [0, 1]}}, *models(b=1)]}, {}, "must be one number"),
    "weights that cancel out": ({"merge_method": "linear", "models": models(a=1, b=-1)}, {}, "add up to 0"),
    "other shapes": ({"merge_method": "linear", "models": models(a=1, d=1)},
                     {"d": kohya(1, 4, 1.0, {LINEAR: (5, 12)})}, "these files are for different models"),
    "LoHa": ({"merge_method": "linear", "models": models(a=1, e=1)},
             {"e": {f"m.hada_{w}_{x}": torch.ones(2, 2) for w in ("w1", "w2") for x in "ab"}},
             "'m' is not a product of two matrices"),
    "OFT": ({"merge_method": "linear", "models": models(a=1, f=1)}, {"f": {"m.oft_blocks": torch.ones(2, 2)}},
            "'m.oft_blocks' belongs to OFT"),
    "GLoRA": ({"merge_method": "linear", "models": models(i=1)},
              {"i": {f"lora_unet_m.{x}.weight": torch.ones(2, 2) for x in ("a1", "a2", "b1", "b2")}}, "GLoRA"),
    "VeRA": ({"merge_method": "linear", "models": models(j=1)}, {"j": {"m.vera_lambda_b": torch.ones(2)}}, "VeRA"),
    "IA3": ({"merge_method": "linear", "models": models(k=1)},
            {"k": {"lora_unet_m.weight": torch.ones(2), "lora_unet_m.on_input": torch.ones(1)}}, "IA3"),
    "half a pair": ({"merge_method": "linear", "models": models(l=1)}, {"l": {"m.lora_up.weight": torch.ones(2, 2)}},
                    "'m' is not a product of two matrices"),
    "a pattern in the header": ({"merge_method": "linear", "models": models(p=1)},
                                {"p": {f"unet.m.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}},
                                "may only name modules"),
    "a PEFT adapter": ({"merge_method": "linear", "models": models(g=1)},
                       {"g": {f"base_model.model.m.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}},
                       "merge adapters with mergecore lora merge"),
    "unknown keys": ({"merge_method": "linear", "models": models(h=1)},
                     {"h": {**kohya(1, 2, 1.0), "m.other": torch.ones(1)}}, "'m.other' is not a part of a change"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_merged_exactly_is_refused(what: str, tmp_path: Path) -> None:
    recipe, more, said = REFUSED[what]
    files(tmp_path, a=kohya(1, 4, 1.0), b=kohya(2, 4, 1.0), **more)
    done = raw(tmp_path, recipe)
    assert done.returncode == 2 and said in " ".join(done.stderr.split()), done.stderr
    assert not (tmp_path / "out.safetensors").exists()


def loha(module: str) -> tuple[Tensors, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    out, rest = SHAPES[module][0], torch.Size(SHAPES[module][1:]).numel()
    parts = {f"hada_{w}_{x}": torch.randn((out, 2) if x == "a" else (2, rest), generator=generator)
             for w in ("w1", "w2") for x in "ab"}  # fmt: skip
    dense = 0.5 * (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    return {**parts, "alpha": torch.tensor(1.0)}, dense


def lokr(module: str) -> tuple[Tensors, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    first = torch.randn(4, 3, generator=generator)
    left = torch.randn(SHAPES[module][0] // 4, 2, generator=generator)
    right = torch.randn(2, SHAPES[module][1] // 3, *SHAPES[module][2:], generator=generator)
    second = torch.einsum("or,r...->o...", left, right)
    dense = torch.einsum("ab,cd...->acbd...", first, second).reshape(SHAPES[module])
    return {"lokr_w1": first, "lokr_w2_a": left, "lokr_w2_b": right, "alpha": torch.tensor(6.0)}, 3 * dense


def tucker(module: str) -> tuple[Tensors, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    down, mid, up = (torch.randn(shape, generator=generator) for shape in ((2, 6, 1, 1), (2, 2, 3, 3), (8, 2, 1, 1)))
    dense = torch.einsum("or,rshw,si->oihw", up[..., 0, 0], mid, down[..., 0, 0])
    return {"lora_down.weight": down, "lora_mid.weight": mid, "lora_up.weight": up}, dense


KINDS = {
    "LoHa": (loha, LINEAR), "LoHa of a convolution": (loha, CONVOLUTION), "LoKr": (lokr, LINEAR),
    "LoKr of a convolution": (lokr, CONVOLUTION), "with a middle factor": (tucker, CONVOLUTION),
}  # fmt: skip
NAMES = {
    "diffusers' names": ("{}.weight", "unet.{}"), "kohya's names": ("{}.weight", "lora_unet_{_}"),
    "a checkpoint in one file": ("model.diffusion_model.{}.weight", "lora_unet_{_}"),
    "a text encoder": ("cond_stage_model.transformer.{}.weight", "lora_te_{_}"),
}  # fmt: skip


def stored(tensors: Tensors, module: str, form: str) -> Tensors:
    name = form.replace("{_}", module.replace(".", "_")).replace("{}", module)
    return {f"{name}.{part}": tensor for part, tensor in tensors.items()}


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_added_to_a_checkpoint(kind: str, names: str, tmp_path: Path) -> None:
    make, module = KINDS[kind]
    parts, dense = make(module)
    ours, theirs = NAMES[names]
    weight = torch.randn(SHAPES[module], generator=torch.Generator().manual_seed(9))
    files(
        tmp_path, base={ours.format(module): weight, "other.weight": torch.ones(3)}, lora=stored(parts, module, theirs)
    )
    recipe = {"merge_method": "passthrough", "models": [{"model": "base.safetensors+lora.safetensors"}]}
    done = raw(tmp_path, recipe)
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out.safetensors")
    assert torch.equal(out["other.weight"], torch.ones(3))
    assert torch.allclose(out[ours.format(module)], weight + dense.view(weight.shape), rtol=1e-5, atol=1e-5)


def test_other_methods_work_on_checkpoints_with_a_file_each(tmp_path: Path) -> None:
    base = {f"{module}.weight": torch.zeros(shape, dtype=torch.float16) for module, shape in SHAPES.items()}
    one, two = kohya(1, 4, 2.0), kohya(2, 3, None)
    files(tmp_path, base=base, one=one, two=two)
    items = [{"model": f"base.safetensors+{name}.safetensors", "parameters": {"weight": 1}} for name in ("one", "two")]
    done = raw(tmp_path, {"merge_method": "task_arithmetic", "base_model": "base.safetensors", "models": items})
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out.safetensors")
    for module in SHAPES:
        wanted = (change(one, module) + change(two, module)).half()
        assert out[f"{module}.weight"].dtype == torch.float16
        assert torch.allclose(out[f"{module}.weight"], wanted, rtol=2e-3, atol=1e-3)


def test_a_file_for_another_model_is_refused(tmp_path: Path) -> None:
    files(tmp_path, base={"elsewhere.weight": torch.ones(3, 3)}, lora=kohya(1, 2, 1.0))
    recipe = {"merge_method": "passthrough", "models": [{"model": "base.safetensors+lora.safetensors"}]}
    done = raw(tmp_path, recipe)
    said = " ".join(done.stderr.split())
    assert done.returncode == 2 and "changes 'lora_unet_down_blocks_0_attn_to_q' and 1 more" in said, said


SPELT = {
    "diffusers' names on processors": ("down.attn.processor.{}_lora.{}.weight", "down", "up"),
    "two on one processor, as XLabs": ("double_blocks.0.processor.{}_lora1.{}.weight", "down", "up"),
    "numbered modules, as cloneofsimo": ("unet:{}:{}", "down", "up"),
    "nothing but pairs": ("block.{}.{}.weight", "down", "up"),
    "PEFT's names": ("transformer.blocks.0.{}.{}.weight", "lora_A", "lora_B"),
    "an embedding": ("text_encoder.{}.{}", "lora_embedding_A", "lora_embedding_B"),
    "the name of an adapter": ("transformer.{}.{}.default.weight", "lora_A", "lora_B"),
}
"""A key, with the module and the part in braces, and the two parts."""


@pytest.mark.parametrize("spelling", SPELT)
def test_no_spelling_is_averaged_one_by_one(spelling: str, tmp_path: Path) -> None:
    form, down, up = SPELT[spelling]
    generator = torch.Generator().manual_seed(3)
    pairs = [(torch.randn(2, 6, generator=generator), torch.randn(5, 2, generator=generator)) for _ in range(2)]
    for name, (first, second) in zip("ab", pairs):
        files(tmp_path, **{name: {form.format("to_q", down): first, form.format("to_q", up): second}})
    done = raw(tmp_path, {"merge_method": "linear", "models": models(a=1, b=1)})
    assert done.returncode == 0, done.stderr
    merged = load_file(tmp_path / "out.safetensors")
    product = merged[form.format("to_q", up)] @ merged[form.format("to_q", down)]
    assert torch.allclose(product, sum(b @ a for a, b in pairs) / 2, rtol=1e-5, atol=1e-5)


HEADERS: dict[str, tuple[dict[str, Any], str, float]] = {
    "for one component": ({"r": 2, "lora_alpha": 8}, "blocks.0.to_q", 4),
    "for several": ({"unet.lora_alpha": 1, "transformer.lora_alpha": 6}, "transformer.blocks.0.to_q", 3),
    "for another component": ({"unet.lora_alpha": 8}, "transformer.blocks.0.to_q", 1),
    "with an exception": ({"lora_alpha": 8, "alpha_pattern": {"0.to_k": 1, "0.to_q": 6}}, "blocks.0.to_q", 3),
    "rank-stabilized": ({"lora_alpha": 8, "use_rslora": True}, "blocks.0.to_q", 8 / 2**0.5),
}


@pytest.mark.parametrize("what", HEADERS)
def test_the_scale_in_the_header_is_used(what: str, tmp_path: Path) -> None:
    config, module, scale = HEADERS[what]
    down, up = torch.randn(2, 6), torch.randn(5, 2)
    header = {"lora_adapter_metadata": json.dumps(config)}
    save_file({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, tmp_path / "a.safetensors", header)
    files(tmp_path, base={"blocks.0.to_q.weight": torch.ones(5, 6)})
    merged = raw(tmp_path, {"merge_method": "linear", "models": models(a=1)}, "lora.safetensors")
    added = {"merge_method": "passthrough", "models": [{"model": "base.safetensors+a.safetensors"}]}
    done = raw(tmp_path, added)
    assert merged.returncode == done.returncode == 0, merged.stderr + done.stderr
    alone = load_file(tmp_path / "lora.safetensors")  # without a header, so its scale is 1
    product = alone[f"{module}.lora_B.weight"] @ alone[f"{module}.lora_A.weight"]
    assert torch.allclose(product, scale * up @ down, rtol=1e-5, atol=1e-5)
    out = load_file(tmp_path / "out.safetensors")["blocks.0.to_q.weight"]
    assert torch.allclose(out, 1 + scale * up @ down, rtol=1e-5, atol=1e-5)


def test_whole_differences_of_weights_and_biases(tmp_path: Path) -> None:
    one = {**kohya(1, 4, 2.0, {LINEAR: SHAPES[LINEAR]}), "lora_unet_down_blocks_0_attn_to_q.diff_b": torch.ones(20),
           "lora_unet_norm.w_norm": torch.full((7,), 2.0), "lora_unet_norm.b_norm": torch.full((7,), 3.0)}  # fmt: skip
    base = {f"{LINEAR}.weight": torch.zeros(20, 12), f"{LINEAR}.bias": torch.zeros(20),
            "norm.weight": torch.ones(7), "norm.bias": torch.zeros(7)}  # fmt: skip
    files(tmp_path, base=base, one=one, two={"lora_unet_norm.w_norm": torch.full((7,), 4.0)})
    done = raw(tmp_path, {"merge_method": "linear", "models": models(one=1, two=3)}, "both.safetensors")
    assert done.returncode == 0, done.stderr
    done = raw(tmp_path, {"merge_method": "passthrough", "models": [{"model": "base.safetensors+both.safetensors"}]})
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out.safetensors")
    assert torch.allclose(out[f"{LINEAR}.weight"].double(), change(one, LINEAR) / 4, rtol=1e-5, atol=1e-5)
    wanted = {f"{LINEAR}.bias": 0.25, "norm.weight": 1 + 2 / 4 + 4 * 3 / 4, "norm.bias": 0.75}
    assert {name: out[name].unique().tolist() for name in wanted} == {name: [value] for name, value in wanted.items()}


def test_diffusers_names_on_processors_are_found_in_a_checkpoint(tmp_path: Path) -> None:
    modules = {"d.attn.to_q": "d.attn.processor.to_q_lora", "d.attn.to_out.0": "d.attn.processor.to_out_lora"}
    lora = {f"{theirs}.{part}.weight": torch.ones(shape) for theirs in modules.values()
            for part, shape in (("down", (2, 6)), ("up", (5, 2)))}  # fmt: skip
    files(tmp_path, base={f"{name}.weight": torch.zeros(5, 6) for name in modules}, lora=lora)
    done = raw(tmp_path, {"merge_method": "passthrough", "models": [{"model": "base.safetensors+lora.safetensors"}]})
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(out[f"{name}.weight"], torch.full((5, 6), 2.0)) for name in modules)


@pytest.mark.parametrize(
    "names",
    [("attn.w_lora.lora.0.weight", "attn.w_lora.lora.2.weight"), ("mlp.down.weight", "mlp.up.weight", "norm.weight")],
    ids=["RWKV-7", "a network with down and up"],
)
def test_ordinary_weights_are_not_taken_for_factors(names: tuple[str, ...], tmp_path: Path) -> None:
    files(tmp_path, a={name: torch.ones(4, 4) for name in names}, b={name: torch.zeros(4, 4) for name in names})
    done = raw(tmp_path, {"merge_method": "linear", "models": models(a=1, b=1)})
    assert done.returncode == 0, done.stderr
    out = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(value, torch.full((4, 4), 0.5)) for value in out.values())
