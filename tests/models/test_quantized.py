"""Merging fp8 checkpoints is bitwise identical to merging their bfloat16 conversions, for reads from any position."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

import mergecore
from mergecore.api import TensorInfo
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError
from mergecore.models.adapters import open_model
from mergecore.models.quantized import dequantize

FP8 = {"F8_E4M3": (torch.float8_e4m3fn, 3, 7), "F8_E5M2": (torch.float8_e5m2, 2, 15)}
"""Name → torch dtype, fraction bits, and exponent bias."""


def decode(bits, fraction, bias):
    """Decode fp8 bytes to float64 according to the definition of the format."""
    sign = np.where(bits & 128, -1.0, 1.0)
    exponent = (bits & 127) >> fraction
    low = (bits & (2**fraction - 1)) / 2**fraction
    return sign * np.where(exponent == 0, low * 2.0 ** (1 - bias), (1 + low) * 2.0 ** (exponent.astype(float) - bias))


def to_bfloat16(values):
    """Round float64 to float32 and then to bfloat16, both to nearest even, and return 16-bit patterns."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


class Memory:
    """A reader for tensors in memory."""

    def __init__(self, tensors, dtypes):
        self._tensors = tensors
        self.tensors = {name: TensorInfo(dtypes[name], tuple(tensor.shape)) for name, tensor in tensors.items()}

    def read(self, name, start, out):
        out.copy_(self._tensors[name].reshape(-1)[start : start + out.numel()])


def finite_bytes(generator, dtype, shape):
    """Random fp8 bytes without infinities and NaN."""
    limit = {"F8_E4M3": 127, "F8_E5M2": 124}[dtype]
    return (generator.integers(0, limit, shape) + 128 * generator.integers(0, 2, shape)).astype(np.uint8)


@given(data=st.data())
@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_any_range_is_each_value_times_its_blocks_scale(data):
    rows, columns, high, wide = (data.draw(st.integers(1, 9)) for _ in range(4))
    dtype = data.draw(st.sampled_from(list(FP8)))
    kind, fraction, bias = FP8[dtype]
    single = data.draw(st.booleans())
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    bits = finite_bytes(generator, dtype, (rows, columns))
    shape = () if single else (math.ceil(rows / high), math.ceil(columns / wide))
    scales = generator.uniform(1e-4, 2, shape).astype(np.float32)
    ending, stored = ("_scale", "F32") if single else ("_scale_inv", "F32")
    tensors = {"w": torch.from_numpy(bits).view(kind), "w" + ending: torch.from_numpy(np.array(scales))}
    reader = Memory(tensors, {"w": dtype, "w" + ending: stored})
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [high, wide]}}
    found = dequantize("folder", config, dict.fromkeys(tensors, reader))
    assert list(found) == ["w"] and found["w"].tensors == {"w": TensorInfo("BF16", (rows, columns))}

    spread = scales if single else np.repeat(np.repeat(scales, high, 0), wide, 1)[:rows, :columns]
    expected = to_bfloat16(decode(bits, fraction, bias) * spread.astype(np.float64)).reshape(-1)
    start = data.draw(st.integers(0, rows * columns))
    out = torch.empty(data.draw(st.integers(0, rows * columns - start)), dtype=torch.bfloat16)
    found["w"].read("w", start, out)
    assert np.array_equal(out.view(torch.uint16).numpy(), expected[start : start + len(out)])


def test_a_read_longer_than_a_piece_is_what_transformers_makes_of_it():
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    generator = np.random.default_rng(1)
    weight = torch.from_numpy(finite_bytes(generator, "F8_E4M3", (384, 1024))).view(torch.float8_e4m3fn)
    scales = torch.from_numpy(generator.uniform(1e-4, 2, (3, 8)).astype(np.float32))
    reader = Memory({"w": weight, "w_scale_inv": scales}, {"w": "F8_E4M3", "w_scale_inv": "F32"})
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    found = dequantize("folder", config, {"w": reader, "w_scale_inv": reader})
    out = torch.empty(weight.numel(), dtype=torch.bfloat16)
    found["w"].read("w", 0, out)
    expected = Fp8Dequantize(None)._dequantize_one(weight, scales, output_dtype=torch.bfloat16)
    assert torch.equal(out.view(weight.shape), expected)


def quantize(folder, block, suffix):
    """Convert a model's projections to fp8. Return the folder of the equivalent bfloat16 model."""
    weights = load_file(folder / "model.safetensors")
    plain, stored = {}, {}
    for name, tensor in weights.items():
        if not name.endswith("_proj.weight"):
            plain[name] = stored[name] = tensor
            continue
        rows, columns = tensor.shape
        high, wide = block or (rows, columns)
        scale = torch.rand(-(-rows // high), -(-columns // wide)) + 0.01
        stored[name] = (tensor * 50).to(torch.float8_e4m3fn)
        stored[name + ("_scale_inv" if block else "_scale")] = scale if block else scale[0, 0].bfloat16()
        scale = scale if block else scale.bfloat16().float()
        spread = scale.repeat_interleave(high, 0).repeat_interleave(wide, 1)[:rows, :columns]
        plain[name] = (stored[name].float() * spread).bfloat16()
        if not block:
            stored[name.removesuffix("weight") + "input_scale"] = torch.ones(())
    other = folder.with_name(folder.name + "-plain")
    other.mkdir()
    save_file(plain, other / "model.safetensors")
    (other / "config.json").write_bytes((folder / "config.json").read_bytes())
    settings = {"quant_method": "fp8", "fmt": "e4m3", **({"weight_block_size": list(block)} if block else {})}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    (folder / "model.safetensors").unlink()
    save(stored, folder, suffix)
    return other


def save(stored, folder, suffix):
    """Scales and weights can be in different shards."""
    scales = {name for name in stored if "scale" in name}
    parts = {"a": {name: stored[name] for name in scales}, "b": {name: stored[name] for name in {*stored} - scales}}
    for part, tensors in parts.items():
        (save_file if suffix == "safetensors" else torch.save)(tensors, folder / f"{part}.{suffix}")
    places = {name: f"{part}.{suffix}" for part, tensors in parts.items() for name in tensors}
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": places}))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("block", [(3, 5), (128, 128), None])
def test_a_merge_of_fp8_is_the_merge_of_its_bfloat16_conversion(tmp_path, block, suffix):
    torch.manual_seed(0)
    first, second = (write_model(tmp_path / name, seed, dtype="bfloat16") for seed, name in enumerate("xy"))
    plain = quantize(first, block, suffix)
    for out, model in (("fp8", first), ("plain", plain)):
        models = [{"model": str(path), "parameters": {"weight": 0.5}} for path in (model, second)]
        mergecore.run({"merge_method": "linear", "models": models}, tmp_path / out)
    results = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("fp8", "plain")]
    assert results[0] == results[1]
    configs = [json.loads((tmp_path / out / "config.json").read_text()) for out in ("fp8", "plain")]
    assert configs[0] == configs[1] and "quantization_config" not in configs[0]
    assert all(tensor.dtype is torch.bfloat16 for tensor in load_file(tmp_path / "fp8" / "model.safetensors").values())


def test_a_scale_without_an_fp8_weight_is_not_dropped(tmp_path):
    folder = write_model(tmp_path / "x", 0)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "model.norm.weight_scale": torch.ones(1)}, folder / "new")
    (folder / "new").rename(folder / "model.safetensors")
    assert "model.norm.weight_scale" in open_model(str(folder), Registry(print)).tensors


def test_fp8_tensors_in_memory_have_no_scale_and_are_refused():
    tensors = [torch.ones(4).to(torch.float8_e4m3fn)] * 2
    with pytest.raises(InputError, match="float8_e4m3fn cannot be merged"):
        mergecore.merge_tensors(tensors, "linear", {"weight": 1})
