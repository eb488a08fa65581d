"""Every operation has the bits of torch for all numbers, dtypes, lengths, and instruction sets."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mergecore_kernels import Native
from mergecore_kernels.native import CODES

from mergecore.tracing.nodes import Node, Untraceable
from mergecore.tracing.program import Program, _compiled
from mergecore.tracing.recording import Offset, record

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SETS = ("baseline", "avx2", "avx512")

NUMBERS = [
    0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -7.25, 1e-3, 65504.0, 65519.9, 65520.0, 65536.0, -1e6, 6e-8, 5.9e-8, 2.98e-8,
    6.1e-5, -6.09e-5, 1e-38, 1.2e-38, 1e-45, -1e-40, 3.4e38, 3.38e38, 3.3961e38, float("inf"), -float("inf"),
    float("nan"), 1.0039, 1.00390625, 1.01171875, 0.3, 1 / 3,
]  # fmt: skip

FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "add": (2, lambda a, b: a + b),
    "add a number": (1, lambda a: a + 0.1),
    "add a multiple": (2, lambda a, b: torch.add(a, b, alpha=0.3)),
    "add a multiple in place": (2, lambda a, b: a.clone().add_(b, alpha=-1.7)),
    "subtract": (2, lambda a, b: a - b),
    "subtract a multiple": (2, lambda a, b: torch.sub(a, b, alpha=0.3)),
    "subtract a number": (1, lambda a: a - 0.1),
    "subtract from a number": (1, lambda a: 0.1 - a),
    "a number minus a multiple": (1, lambda a: torch.rsub(a, 1, alpha=2)),
    "multiply": (2, lambda a, b: a * b),
    "multiply by a number": (1, lambda a: a * 0.3),
    "divide": (2, lambda a, b: a / b),
    "divide by a number": (1, lambda a: a / 0.3),
    "divide a number": (1, lambda a: 0.3 / a),
    "reciprocal": (1, lambda a: a.reciprocal()),
    "negate": (1, lambda a: -a),
    "abs": (1, lambda a: a.abs()),
    "sign": (1, lambda a: a.sign()),
    "sqrt": (1, lambda a: a.sqrt()),
    "relu": (1, torch.relu),
    "square": (1, lambda a: a**2),
    "minimum": (2, torch.minimum),
    "maximum": (2, torch.maximum),
    "clamp": (1, lambda a: a.clamp(-0.5, 0.3)),
    "clamp from below": (1, lambda a: a.clamp(min=0.25)),
    "clamp from above": (1, lambda a: a.clamp(max=0.25)),
    "addcmul": (3, lambda a, b, c: torch.addcmul(a, b, c, value=0.3)),
    "addcmul in place": (2, lambda a, b: (a * 2).addcmul_(b, b)),
    "hardshrink": (1, lambda a: torch.hardshrink(a, 0.5)),
    "where": (2, lambda a, b: torch.where(a < b, a, b * 2)),
    "where not": (2, lambda a, b: torch.where(~(a < b), 1.5, b)),
    "where both": (2, lambda a, b: torch.where((a < b) & (b > 0), a, b)),
    "where either": (2, lambda a, b: torch.where((a < b) | (b > 0), a, b)),
    "masked fill": (2, lambda a, b: a.masked_fill(b >= 0.5, -3.0)),
    "a mask times": (2, lambda a, b: (a > b) * a),
    "a mask of numbers": (2, lambda a, b: torch.le(a, b, out=torch.empty_like(a))),
    "widen and narrow": (2, lambda a, b: (a.double() * 0.1).add_(b.to(torch.float64, copy=True).mul_(0.3)).to(a.dtype)),
    "compare float64": (2, lambda a, b: (a.double() - b.double()).ne(0.5).float() + b * 0),
    "float64": (2, lambda a, b: ((a.double() - b.double()) * b.double() + 0.7).float()),
    **{f"compare {name}": (2, lambda a, b, name=name: getattr(a, name)(b).float() + b * 0) for name in
       ("lt", "le", "gt", "ge", "eq", "ne")},
    **{f"compare {name} with a number": (1, lambda a, name=name: getattr(a, name)(0.3).float()) for name in
       ("lt", "le", "gt", "ge", "eq", "ne")},
}  # fmt: skip

EXACT = {"sqrt": lambda a: torch.from_numpy(np.sqrt(a.numpy()))}
"""Correctly rounded forms of what torch leaves to MKL, whose bits depend on the processor."""


@pytest.fixture(params=SETS)
def native(request: pytest.FixtureRequest) -> Iterator[Native]:
    kernels = Native()
    before = kernels.isa
    if not kernels.use(request.param):
        pytest.skip("this processor does not have it")
    yield kernels
    kernels.use(before)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists what the processor has")
def test_the_widest_instruction_set_is_used() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    wide, wider = {"avx2", "fma", "f16c"}, {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
    assert Native().isa == ("avx512" if wide | wider <= flags else "avx2" if wide <= flags else "baseline")


def compiled(function: Callable[..., Any], count: int, kernels: Native) -> Program:
    return _compiled(record(lambda tensors: [function(*tensors)], count), kernels)


def ran(
    program: Program, kernels: Native, inputs: Sequence[torch.Tensor], dtype: str, offset: int = 0
) -> tuple[torch.Tensor, bool]:
    names = {value: key for key, value in TORCH.items()}
    count = len(inputs[0]) if inputs else 1
    out = torch.full((count + 1,), 77.0, dtype=TORCH[dtype])
    given = [(tensor.data_ptr(), names[tensor.dtype]) for tensor in inputs]
    finite = kernels.run(program.code, program.results[0], given, (out.data_ptr(), dtype), count, offset)
    assert out[-1] == 77, "wrote beyond the end"
    return out[:-1], finite


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({4: torch.int32, 2: torch.int16}[tensor.element_size()])


def check(
    function: Callable[..., Any],
    kernels: Native,
    inputs: Sequence[torch.Tensor],
    dtype: str,
    exact: Callable[..., torch.Tensor] | None = None,
) -> None:
    """Compare with torch. Only the sign and payload of NaN can differ, because such a tile is computed by torch."""
    wanted = (exact or function)(*(tensor.float() for tensor in inputs)).to(TORCH[dtype])
    made, finite = ran(compiled(function, len(inputs), kernels), kernels, inputs, dtype)
    assert finite == bool(wanted.isfinite().all())
    same = (bits(made) == bits(wanted)) | (made.isnan() & wanted.isnan()) | (wanted.isnan() & torch.tensor(not finite))
    assert same.all(), [(*(t[i].item() for t in inputs), made[i].item(), wanted[i].item())
                        for i in (~same).nonzero().flatten()[:5]]  # fmt: skip


def grid(count: int, dtype: str) -> list[torch.Tensor]:
    """Every combination of numbers that matter, as stored in a dtype."""
    rows = list(itertools.product(NUMBERS, repeat=count))
    return [torch.tensor([row[i] for row in rows]).to(TORCH[dtype]) for i in range(count)]


@pytest.mark.parametrize("stored", TORCH)
@pytest.mark.parametrize("what", FUNCTIONS)
def test_an_operation_has_the_bits_of_torch(what: str, stored: str, native: Native) -> None:
    count, function = FUNCTIONS[what]
    inputs, exact = grid(count, stored), EXACT.get(what)
    for dtype in TORCH:
        check(function, native, inputs, dtype, exact)
    finite = inputs[0].isfinite() & (inputs[0].abs() < 100) & (inputs[0].abs() > 1e-4)
    for length in (1, 5, 17):  # torch computes the last elements without vectors
        chosen = [tensor[finite][:length].contiguous() for tensor in inputs]
        check(function, native, chosen, stored, exact)


def test_torch_is_at_most_one_unit_off_where_it_is_not_exact() -> None:
    a = torch.rand(100_000) * 1e4
    for what, exact in EXACT.items():
        assert (bits(FUNCTIONS[what][1](a)) - bits(exact(a))).abs().max() <= 1


@pytest.mark.parametrize("stored", TORCH)
@pytest.mark.parametrize("dtype", TORCH)
def test_numbers_are_decoded_and_rounded_as_torch_does(stored: str, dtype: str, native: Native) -> None:
    if stored == "F32":
        every = torch.arange(2**32 // 641, dtype=torch.int64).mul(641).to(torch.int32).view(torch.float32)
        every = torch.cat([every, torch.arange(2**16).to(torch.int16).view(torch.float16).float()])
    else:
        every = torch.arange(2**16).to(torch.int16).view(TORCH[stored])
    every = every[every.isfinite()]
    wanted = every.float().to(TORCH[dtype])
    made, finite = ran(compiled(lambda a: a.clone(), 1, native), native, [every], dtype)
    assert torch.equal(bits(made)[wanted.isfinite()], bits(wanted)[wanted.isfinite()])
    assert finite == bool(wanted.isfinite().all())


@pytest.mark.parametrize("dtype", TORCH)
def test_a_number_that_rounding_makes_infinite_is_noticed(dtype: str, native: Native) -> None:
    program = compiled(lambda a: a.clone(), 1, native)
    largest = torch.tensor([torch.finfo(TORCH[dtype]).max])
    half = {"F32": 0, "BF16": 2**15, "F16": 2**12}[dtype]  # the distance to the number that rounds to infinity
    near = largest.view(torch.int32) + torch.tensor([*range(-3, 2**16, 617), *range(half - 3, half + 4)])
    for number in near.to(torch.int32).view(torch.float32):
        for value in (number, -number):
            _, finite = ran(program, native, [value[None].clone()], dtype)
            assert finite == bool(value.to(TORCH[dtype]).isfinite()), value


@pytest.mark.parametrize("offset", [0, 5, 2**14, 2**32 - 3000])
def test_random_numbers_are_those_of_the_context(offset: int, native: Native) -> None:
    from mergecore.api import Context

    like = torch.empty(3000)
    ctx = Context("a.weight", (2**33,), seed=7)
    node = record(lambda tensors: [Context("a.weight", (), Offset(), None, 7).random(2, tensors[0]) + tensors[0]], 1)  # type: ignore[arg-type]
    made, _ = ran(_compiled(node, native), native, [torch.zeros(3000)], "F32", offset)
    assert torch.equal(made, Context("a.weight", (), offset, None, 7).random(2, like)) and ctx.seed == 7


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize(("offset", "last"), [(0, 999), (0, 1500), (0, 10**9), (2048, 2050), (2048, 1), (0, -1)])
def test_a_selection_keeps_ties_up_to_an_index(offset: int, last: int, wide: bool, native: Native) -> None:
    from mergecore_numerics import Cut, keep_largest

    x = torch.tensor([0.5, -0.5, 0.25, 1.0, float("nan"), -0.0]).repeat(400)
    cut = Cut(0.5, last)

    def kept(x: Any, offset: Any) -> Any:
        return keep_largest(x.double() * 0.5, Cut(0.25, last), offset).float() if wide else keep_largest(x, cut, offset)

    node = record(lambda tensors: [kept(tensors[0], Offset())], 1)
    made, _ = ran(_compiled(node, native), native, [x], "F32", offset)
    wanted = kept(x, offset)
    assert torch.equal(made.isnan(), wanted.isnan()) and torch.equal(made.nan_to_num(9), wanted.nan_to_num(9))


@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
@pytest.mark.parametrize("inner", [-1, 0, 1])
@pytest.mark.parametrize("count", [0, 1, 31, 33, 1024, 5000])
def test_magnitudes_are_counted_and_picked(count: int, inner: int, wide: bool, native: Native) -> None:
    generator = np.random.default_rng(count)
    numbers = generator.standard_normal(count).astype(np.float32)
    numbers[::7] = [0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, 1e-45][count % 7]
    number, integer = (np.float64, np.int64) if wide else (np.float32, np.int32)
    one = int(number(1).view(integer))
    edges = [-1, int(number(0.9).view(integer)), one]
    picked = np.full(count + 1, 77, integer)
    program = _compiled(record(lambda tensors: [tensors[0].double()] if wide else tensors, 1, wide=True), native)
    inputs = [(numbers.ctypes.data, "F32")]
    above, kept = native.look(
        program.code, program.results[0], inputs, count, 0, edges, inner, picked.ctypes.data, program.wide[0]
    )
    sizes = numbers.astype(number).view(integer) & np.iinfo(integer).max
    assert above == [int((sizes > edge).sum()) for edge in edges]
    wanted = sizes[(sizes > edges[inner]) & (sizes <= edges[inner + 1])] if inner >= 0 else sizes[:0]
    assert np.array_equal(picked[:kept], wanted) and picked[-1] == 77


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e30, 0.0, float("nan")])
@pytest.mark.parametrize("count", [1, 255, 1025, 2**14, 2**14 + 1, 3 * 2**14 - 300])
def test_sums_have_the_bits_of_numerics(count: int, scale: float, native: Native) -> None:
    from mergecore_numerics import absolute_sums, dots

    generator = torch.Generator().manual_seed(count)
    models = [torch.randn(count, generator=generator).bfloat16() for _ in range(4)]
    models[1][: count // 2] *= scale
    program = _compiled(record(list, 4), native)
    pairs = [(left, right) for left in range(4) for right in range(left, 4)]
    places = [(program.results[left], program.results[right]) for left, right in pairs]
    given = [(model.data_ptr(), "BF16") for model in models]
    tiles = [[model.float() for model in models]]
    sums = native.sums(program.code, places, given, count, 0, [0.0] * len(pairs))
    assert np.array_equal(np.array(sums), np.array(dots(tiles, pairs)), equal_nan=True)
    sizes = native.sums(program.code, [(place, -1) for place in program.results], given, count, 0, [0.0] * 4)
    assert np.array_equal(np.array(sizes), np.array(absolute_sums(tiles)), equal_nan=True)


UNARY = ["abs", "neg", "sign", "relu", "square"]


def random_function(seed: int) -> Callable[..., Any]:
    """A random sequence of operations, with several values alive at a time."""

    def function(*tensors: Any) -> Any:
        source = random.Random(seed)
        values = list(tensors)
        for _ in range(source.randint(3, 40)):
            a, b = (source.choice(values) for _ in range(2))
            number = source.choice([0.3, -1.5, 2.0, 0.7, 1e-3])
            kind = source.randrange(8)
            if kind == 0:
                values.append(getattr(a, source.choice(UNARY))())
            elif kind == 1:
                values.append(torch.add(a, b, alpha=number))
            elif kind == 2:
                values.append(a * number)
            elif kind == 3:
                values.append(torch.where(a < b, a, b))
            elif kind == 4:
                values.append(a.clone().sub_(b).mul_(number))
            elif kind == 5:
                values.append(torch.lt(a, number, out=torch.empty_like(a)) * b)
            elif kind == 6:
                values.append(torch.maximum(a, b) - number)
            else:
                values.append(a.clamp(-2, 2) * b.clamp(-2, 2))
        return values[-1]

    return function


@pytest.mark.parametrize("seed", range(60))
def test_random_programs_have_the_bits_of_torch(seed: int, native: Native) -> None:
    generator = torch.Generator().manual_seed(seed)
    for dtype, stored in TORCH.items():
        inputs = [torch.randn(2500, generator=generator).to(stored) for _ in range(3)]
        check(random_function(seed), native, inputs, dtype)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
@pytest.mark.parametrize("size", [64, 192, 65536])
def test_blocks_have_the_hash_of_hashlib(count: int, size: int) -> None:
    data = np.frombuffer(random.Random(count).randbytes(count * size), np.uint8)
    digests = Native().sha256(data.ctypes.data, count, size)
    if digests is None:
        pytest.skip("this processor has no instructions for SHA-256")
    assert digests == b"".join(hashlib.sha256(block).digest() for block in data.reshape(count, size))


def test_every_operation_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    encode = Native.encode
    monkeypatch.setattr(Native, "encode", lambda self, name, *rest: (seen.add(name), encode(self, name, *rest))[1])
    for count, function in FUNCTIONS.values():
        compiled(function, count, Native())
    assert {*CODES} - seen == {"keep", "wide_keep", "random"}


def test_too_many_values_at_a_time_are_refused() -> None:
    def wide(*tensors: Any) -> Any:
        parts = [tensors[0] * float(number) for number in range(40)]
        total = parts[0]
        for part in parts[1:]:
            total = torch.maximum(total, part)
        return total

    assert len(compiled(wide, 1, Native()).code) > 0  # each part is used as soon as it is there
    leaves = [Node("fill", numbers=(float(number),)) for number in range(64)]
    while len(leaves) > 1:
        leaves = [Node("add", (one, other)) for one, other in zip(leaves[::2], leaves[1::2])]
    assert len(_compiled([leaves[0]], Native()).operations) == 127  # a balanced tree needs few
    deep = [Node("load", keys=(0,))]
    for number in range(40):
        deep.append(Node("mul_x", (deep[0],), (float(number),)))
    total = deep[-1]
    kept = [Node("sqrt", (node,)) for node in deep]
    for node in kept:
        total = Node("add", (total, node))
    for node in kept:
        total = Node("mul", (total, node))
    with pytest.raises(Untraceable, match="needs more than 32 tensors"):
        _compiled([total], Native())


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path: Path) -> None:
    """Repeat these tests with a library that checks addresses and undefined behavior."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from hatch_build import build, compiler

    name = (compiler() or ["g++"])[0]
    asan = subprocess.run([name, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True).stdout
    package = tmp_path / "mergecore_kernels"
    package.mkdir()
    for path in (Path(__file__).parents[1] / "mergecore_kernels").glob("*.py"):
        (package / path.name).write_text(path.read_text())
    build(package / "_kernels.so", ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"))
    environment = {
        **os.environ, "LD_PRELOAD": asan.strip(), "ASAN_OPTIONS": "detect_leaks=0", "PYTHONPATH": str(tmp_path),
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
