"""Fuzzing with thousands of damaged weight files and recipes. `./dev fuzz` runs more, guided by coverage."""

import contextlib
import copy
import json
import struct
from functools import lru_cache
from random import Random

import pytest
import yaml
from fuzz_properties import COUNTS, try_header, try_recipe
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_llamas import write_model

from mergecore.api import ITEM_BYTES
from mergecore.discovery.entry_points import list_plugins
from mergecore.discovery.parameters import declared
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError
from mergecore.planning.planner import make_plan
from mergecore.recipes.composition import load_recipe

HEADERS, VARIANTS, RECIPES = 17_600, 8, 3_000

MANY = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}

NUMBERS = [
    0,
    1,
    2,
    3,
    8,
    -1,
    2**31,
    2**53,
    2**62,
    2**63,
    2**64,
    10**30,
    1.0,
    0.5,
    -0.0,
    1e300,
    float("inf"),
    float("nan"),
]
TEXTS = [
    "",
    "a",
    "F32",
    "F8_E4M3",
    "C64",
    "dtype",
    "__metadata__",
    "../x",
    "\0",
    "\ud800",
    "\x1b[2J",
    "\u202e",
    "x" * 300,
]
JUNK = st.sampled_from([*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [0, 8], {"a": {}}, [1] * 70, [2**62, 4]])
"""Values that can occur anywhere in a damaged document."""


def nodes(value, path=()):
    """Return the paths to all values in a document."""
    yield path
    if isinstance(value, (dict, list)):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[key], (*path, key))


@st.composite
def damaged(draw, documents):
    """One of `documents` with up to three changes: replaced, moved, renamed, removed, or inserted values."""
    document = copy.deepcopy(draw(documents))
    for _ in range(draw(st.integers(0, 3))):
        *way, key = draw(st.sampled_from([path for path in nodes(document) if path] or [("x",)]))
        holder = document
        for step in way:
            holder = holder[step]
        value = copy.deepcopy(draw(JUNK))
        change = draw(st.sampled_from(["replace", "move", "rename", "remove", "add", "nest"]))
        if not isinstance(holder, (dict, list)) or (isinstance(holder, dict) and key not in holder):
            document = value
            break
        if change == "replace":
            holder[key] = value
        elif change == "move":
            other = draw(st.sampled_from(list(nodes(document))))
            found = document
            for step in other:
                found = found[step]
            holder[key] = copy.deepcopy(found)
        elif change == "nest":
            holder[key] = draw(st.sampled_from([[holder[key]], {"value": holder[key]}, [holder[key]] * 2]))
        elif isinstance(holder, list):
            holder.insert(key, value) if change == "add" else holder.pop(key)
        elif change == "remove":
            del holder[key]
        else:
            kept = holder[key] if change == "add" else holder.pop(key)
            holder[draw(st.sampled_from([*TEXTS, "weight", "density", "value", "filter", "models", "seed"]))] = kept
    return document


@st.composite
def headers(draw):
    """A valid header, and the size of the data."""
    header, end = draw(st.sampled_from([{}, {"__metadata__": {"format": "pt"}}])).copy(), 0
    for name in draw(st.lists(st.sampled_from(["a", "b.weight", "\u202e", "c"]), unique=True, max_size=3)):
        dtype = draw(st.sampled_from(list(ITEM_BYTES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        count = ITEM_BYTES[dtype]
        for size in shape:
            count *= size
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + count]}
        end += count
    return header, end


SPLICES = [
    b"", b"\0", b"{", b"}", b"[", b'"', b",", b"9" * 30, b"-", b"-0", b"1.0", b"1e3", b"NaN", b"\xff", b"null", b" ",
    b"\n", b'"a":', b"\\u0000", b"[" * 2000,
]  # fmt: skip


def spliced(random, text, splices):
    """Text with one piece replaced by another."""
    start = random.randint(0, len(text))
    return text[:start] + random.choice(splices) + text[start + random.randint(0, 5) :]


@st.composite
def weight_files(draw):
    """The bytes of a file with a valid or damaged header. Its size and data might not match the header."""
    header, end = draw(headers())
    text = json.dumps(draw(damaged(st.just(header)))).encode()
    length = len(text) + draw(st.sampled_from([0] * 10 + [-1, 1, 10, 2**32, 2**63]))
    data = bytes(max(0, end + draw(st.sampled_from([0] * 10 + [-1, 1, 8]))))
    return struct.pack("<Q", max(length, 0)) + text + data


def variants(content, random):
    """The file, and copies with replaced header text, changed bytes, or a truncated end."""
    yield content
    length = int.from_bytes(content[:8], "little")
    for _ in range(VARIANTS - 1):
        text = content[8 : 8 + length]
        for _ in range(random.randint(0, 2)):
            text = spliced(random, text, SPLICES)
        changed = bytearray(struct.pack("<Q", len(text)) + text + content[8 + length :])
        for _ in range(random.choice([0, 0, 1, 2])):
            changed[random.randrange(len(changed))] = random.randrange(256)
        yield bytes(changed[: random.choice([len(changed)] * 5 + [random.randint(0, len(changed))])])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the models that the recipes use."""
    folder = tmp_path_factory.mktemp("fuzz")
    for seed, name in enumerate(("base", "code", "prose")):
        write_model(folder / name, seed)
    return folder


def test_any_weight_file_is_read_or_refused(place):
    path = place / "model.safetensors"

    @given(weight_files(), st.integers(0, 2**32))
    @settings(max_examples=HEADERS // VARIANTS, **MANY)
    def check(content, seed):
        for variant in variants(content, Random(seed)):
            try_header(variant, path)

    check()
    assert COUNTS["headers read"] + COUNTS["headers refused"] >= HEADERS
    assert COUNTS["headers read"] > HEADERS / 20, "too few cases get this far"


def candidates(name, method):
    """Recipes for a method with one to three models, whole and sliced."""
    samples = {"number": [{"filter": "mlp", "value": [0.05, 0.1]}, {"value": 0.1}], "integer": 3, "boolean": True}
    values = {item.name: samples.get(item.schema.get("type"), item.default) for item in declared(method).values()}
    required = {item.name for item in declared(method).values() if item.required}
    for chosen in (values, {key: values[key] for key in required}):
        yield from _candidates({"merge_method": name, "seed": 3, "parameters": chosen})


def _candidates(head):
    for names in (["code"], ["code", "prose"], ["code", "prose", "base"]):
        models = [{"model": model} for model in names]
        cut = [[{"model": model, "layer_range": [k, k + 1]} for model in ["base", *names]] for k in (0, 1)]
        yield {**head, "models": models}
        yield {**head, "base_model": "base", "dtype": "bfloat16", "models": models}
        yield {**head, "base_model": "base", "slices": [{"sources": sources} for sources in cut]}
        module = {"models": models, "parameters": head["parameters"]}
        yield {**head, "base_model": "base", "modules": {"default": module}}


def good_recipes(registry):
    """The candidates that can be planned, at least one per installed method."""
    good = []
    for name in dict.fromkeys(plugin.name for plugin in list_plugins("methods")):
        count = len(good)
        for recipe in candidates(name, registry.provide("methods", name)):
            with contextlib.suppress(InputError):
                make_plan(load_recipe(recipe), registry, 10**9).close()
                good.append(recipe)
        assert len(good) > count, name
    return good


YAML_SPLICES = [
    "", " ", "\n", "  ", "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "!!int ", "!!python/name:os.system ", "!x ", "'",
    '"', "|", ">", "#", "%", "@", "---\n", "? ", "<<: ", "0x", "1:", ".nan", "1e", "~", "\t", "\0", "\ud800",
    "\\U00110000", "\x85", "9" * 30, "[" * 60, "é",
]  # fmt: skip


@st.composite
def recipe_texts(draw, good):
    """A recipe as YAML or JSON with damaged values or text."""
    document = draw(damaged(st.sampled_from(good)))
    text = json.dumps(document) if draw(st.booleans()) else yaml.safe_dump(document, sort_keys=False)
    random = Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        text = spliced(random, text, YAML_SPLICES)
    return text


def test_any_recipe_is_planned_or_refused(place, monkeypatch):
    monkeypatch.chdir(place)
    registry = Registry(pytest.fail)
    registry.provide = lru_cache(registry.provide)  # finding plugins takes longer than everything else

    @given(recipe_texts(good_recipes(registry)))
    @settings(max_examples=RECIPES, **MANY)
    def check(text):
        try_recipe(text, registry)

    check()
    assert COUNTS["recipes planned"] + COUNTS["recipes refused"] >= RECIPES
    assert COUNTS["recipes planned"] > RECIPES / 10, "too few cases get this far"
