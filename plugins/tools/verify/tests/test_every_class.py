"""Merges and slices of every class: what loads is never refused, and what would not load is never written.

`./dev test --slow plugins/tools/verify/tests/test_every_class.py -s` runs all of them and prints a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from mergecore_verify import asking, building
from shrunk_models import causal_classes, shrunk_config
from zoo import composites, decoders, encoders, experts

import mergecore
from mergecore.api.bounded import Bounded
from mergecore.errors import InputError, MergecoreError
from mergecore.planning import layer_config

ZOO = {str(tiny): tiny for part in (decoders, experts, encoders, composites) for tiny in part.MODELS}
TOKENS = torch.tensor([[5, 6, 7, 8, 9]])
LAYERS = 4

SAMPLE = (
    "LlamaForCausalLM", "Gemma3ForCausalLM", "Qwen3NextForCausalLM", "FalconH1ForCausalLM", "BambaForCausalLM",
    "Olmo3ForCausalLM", "NemotronHForCausalLM", "Lfm2ForCausalLM",
)  # fmt: skip
SOME_OF_THE_ZOO = ("LlamaForCausalLM", "BertForMaskedLM", "T5ForConditionalGeneration", "Qwen3MoeForCausalLM")

SLICES: dict[str, list[tuple[int, int]]] = {
    "copied": [(0, LAYERS)],
    "grown": [(0, LAYERS), (0, LAYERS)],
    "grown by one": [(0, LAYERS), (LAYERS - 1, LAYERS)],
    "shortened at the end": [(0, LAYERS - 1)],
    "shortened at the start": [(1, LAYERS)],
    "reordered": [(2, LAYERS), (0, 2)],
    "reversed": [(layer, layer + 1) for layer in reversed(range(LAYERS))],
}
MODULES = {
    "GitForCausalLM": ("git.encoder", "git.image_encoder.vision_model.encoder"),
    "Phi4MultimodalForCausalLM": (
        "model",
        "model.embed_tokens_extend.audio_embed.encoder.encoders.",
        "model.embed_tokens_extend.image_embed.img_processor.encoder",
    ),
}
"""The modules of classes with several stacks of layers. The first is sliced."""

NOT_SLICED = ("HrmTextForCausalLM",)
"""Classes of which not even a slice of all layers can be planned: one count for two stacks of layers."""

COUNTS: Counter[tuple[str, str]] = Counter()
"""How many results of each kind loaded, and what happened to them."""


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ask the class here, because a process for each of hundreds of questions would take half an hour."""
    monkeypatch.setattr(asking, "run_bounded", lambda name, request, **_: Bounded(list(building.answers(request)), ""))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    yield
    kinds = sorted({what for what, _ in COUNTS})
    columns = ("written and loads", "refused", "refused, but would load")
    print(f"\n{'':24}" + "".join(f"{column:>25}" for column in columns))  # noqa: T201
    for what in kinds:
        print(f"{what:24}" + "".join(f"{COUNTS[what, column]:>25}" for column in columns))  # noqa: T201


def check(
    what: str,
    recipe: Mapping[str, Any],
    folder: Path,
    loads: Callable[[Path], bool],
    monkeypatch: pytest.MonkeyPatch,
    surely_good: bool = False,
) -> None:
    """Run a recipe without asking the class, load the result, and compare with what the class says while planning.

    `surely_good` is True for merges that nothing may refuse.
    """
    monkeypatch.setenv("MERGECORE_DISABLE", "health,class-check")
    try:
        out = mergecore.run(recipe, folder)
    except MergecoreError as error:
        assert not surely_good, f"{what} must not be refused"
        if not at_all_costs(recipe, folder, loads):
            COUNTS[what, "refused"] += 1
        else:
            COUNTS[what, "refused, but would load"] += 1
            print(f"{what}: would load, but is refused: {error}".replace(str(folder.parent), ""))  # noqa: T201
        return
    good = loads(out)
    monkeypatch.setenv("MERGECORE_DISABLE", "health")
    try:
        mergecore.plan(recipe).close()
        refused = None
    except InputError as error:
        refused = str(error)
    if good:
        assert refused is None, f"{what} loads, but is refused: {refused}"
        COUNTS[what, "written and loads"] += 1
    else:
        assert refused is not None, f"{what} would be written, and does not load"
        COUNTS[what, "refused"] += 1


def at_all_costs(recipe: Mapping[str, Any], folder: Path, loads: Callable[[Path], bool]) -> bool:
    """Return whether the result of a refused recipe loads if the checks of the layers' types are left out."""
    with pytest.MonkeyPatch.context() as patch:
        for check in ("_check_alike", "_check_loose", "_check_period", "_check_first"):
            patch.setattr(layer_config, check, lambda *_: None)
        patch.setattr(layer_config, "_leading", leading)
        try:
            return loads(mergecore.run(recipe, folder))
        except Exception:
            return False


def leading(key: str, rows: Sequence[layer_config.Row], beyond: int = 0) -> int:
    """Count the first layers of the special type, and ignore the others."""
    flags = [row.number < (row.get(key) or 0) + beyond for row in rows]
    return next((number for number, flag in enumerate(flags) if not flag), len(flags)) - beyond


def loads_as(model_class: Any) -> Callable[[Path], bool]:
    def loads(out: Path) -> bool:
        try:
            model, info = model_class.from_pretrained(out, output_loading_info=True)
        except Exception:
            return False
        if any(info[key] for key in ("missing_keys", "mismatched_keys", "unexpected_keys")):
            return False
        with torch.no_grad():
            logits = model.eval()(input_ids=TOKENS, use_cache=False).logits
        return bool(torch.isfinite(logits).all())

    return loads


def slices(name: str, model: str, spans: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Return a recipe that selects layers of the language model."""
    chosen = {"slices": [{"sources": [{"model": model, "layer_range": list(span)}]} for span in spans]}
    if name not in MODULES:
        return {"merge_method": "passthrough", **chosen}
    first, *others = MODULES[name]
    modules = {first: chosen, **{other: {"models": [{"model": model}]} for other in others}}
    return {"merge_method": "passthrough", "modules": modules}


def sliced(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_class = getattr(transformers, name)
    try:
        torch.manual_seed(1)
        model = model_class(shrunk_config(model_class, LAYERS))
        if sum(parameter.numel() for parameter in model.parameters()) > 2e7:
            raise ValueError("large")
        model.save_pretrained(folder / "model")
        assert loads_as(model_class)(folder / "model")
    except Exception as error:
        pytest.skip(f"cannot be built this small: {type(error).__name__}: {error}"[:100])
    for number, (what, spans) in enumerate(SLICES.items()):
        recipe = slices(name, str(folder / "model"), spans)
        copied = what == "copied" and name not in NOT_SLICED
        check(what, recipe, folder / str(number), loads_as(model_class), monkeypatch, copied)


@pytest.mark.parametrize("name", SAMPLE)
def test_slices_of_a_few_classes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sliced(name, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", causal_classes())
def test_slices_of_every_class(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sliced(name, tmp_path, monkeypatch)


def merged(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ZOO[name]
    for model in ("one", "two"):
        tiny.build().save_pretrained(folder / model)
    one, two = ({"model": str(folder / model)} for model in ("one", "two"))

    def loads(out: Path) -> bool:
        try:
            model = tiny.load(out)
        except Exception:
            return False
        if next(model.parameters()).dtype != torch.float32:
            return True  # the inputs of some classes are float32, and loading is what counts here
        return all(bool(torch.isfinite(value).all()) for value in tiny.outputs(model) if value.is_floating_point())

    weights = {"parameters": {"weight": 0.5}}
    recipes = {
        "copies": {"merge_method": "passthrough", "models": [one]},
        "linear merges": {"merge_method": "linear", "models": [one, two], **weights},
        "task vectors": {"merge_method": "task_arithmetic", "base_model": one["model"], "models": [two], **weights},
        "halves in bfloat16": {"merge_method": "linear", "models": [one, two], **weights, "dtype": "bfloat16"},
    }
    for number, (what, recipe) in enumerate(recipes.items()):
        check(what, recipe, folder / str(number), loads, monkeypatch, surely_good=True)


@pytest.mark.parametrize("name", SOME_OF_THE_ZOO)
def test_merges_of_a_few_models(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(name, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_merges_of_the_whole_zoo(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged(name, tmp_path, monkeypatch)
