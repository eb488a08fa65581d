"""Tests for diff: its numbers against plain NumPy, its verdicts, its pages, and rejected input."""

from __future__ import annotations

import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from mergecore_diff import survey as surveying
from mergecore_diff.lineup import Lineup, line_up
from mergecore_diff.ranks import Spectrum
from mergecore_diff.report import as_values, report
from mergecore_diff.survey import Survey, survey
from mergecore_diff.verdict import percent
from refused_commands import Refused, check_refused, run
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model
from tiny_models import Tiny

from mergecore.discovery.registry import Registry

FAMILIES = ["llama", "llama-tied", "mistral", "qwen2", "qwen3", "gpt_neox", "phi", "phi3-tied"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def compare(*models: str | Path, workers: int = 2) -> Survey:
    lineup = line_up([str(model) for model in models], Registry(print))
    try:
        return survey(lineup, workers)
    finally:
        lineup.close()


def values(*models: str | Path) -> dict:
    return as_values(report(compare(*models)))


def weights_of(folder: str | Path) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in load_file(Path(folder) / "model.safetensors").items()}


def change_of(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Compute the expected numbers with plain NumPy in float64."""
    d = b - a
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    return {"change": np.linalg.norm(d) / np.linalg.norm(a), "changed": (d != 0).mean(), "cosine": cosine}


def clash_of(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> dict[str, float]:
    d, e = b - a, c - a
    both = (d != 0) & (e != 0)
    conflict = (np.sign(d) != np.sign(e))[both].mean()
    return {"cosine": (d * e).sum() / np.linalg.norm(d) / np.linalg.norm(e), "opposite_signs": conflict}


def rank_of(matrix: np.ndarray) -> float:
    squares = np.linalg.svd(matrix.reshape(-1, matrix.shape[-1]), compute_uv=False) ** 2
    return squares.sum() ** 2 / (squares**2).sum()


def check_numbers(found: dict, arrays: list[list[np.ndarray]], rank: bool = False) -> None:
    """Return the expected numbers for weights, given as arrays of the base, the first, and the second model."""
    base, one, other = (np.concatenate([array.ravel() for array in group]) for group in arrays)
    for said, model in zip(found["models"], (one, other)):
        expected = change_of(base, model)
        assert {key: said[key] for key in expected} == pytest.approx(expected, rel=2e-6)
    (pair,) = found["pairs"]
    expected = clash_of(base, one, other)
    assert {key: pair[key] for key in expected} == pytest.approx(expected, rel=2e-6, abs=1e-7)
    if rank:
        ranks = [rank_of(group[0] - arrays[0][0]) for group in arrays[1:]]
        assert [said["rank"] for said in found["models"]] == pytest.approx(ranks, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_those_of_numpy_in_float64(family: str, tiny: Tiny) -> None:
    folders = tiny.all(family, dtype="bfloat16" if family == "mistral" else "float32")[:3]
    found, models = values(*folders), [weights_of(folder) for folder in folders]
    names = list(found["weights"])
    assert set(names) == set(models[0])
    for name in names:
        arrays = [[model[name]] for model in models]
        check_numbers(found["weights"][name], arrays, rank=arrays[0][0].ndim > 1)
    check_numbers(found["all"], [[model[name] for name in names] for model in models])
    for layer, said in found["layers"].items():
        own = [name for name in names if re.search(rf"\.{layer}\.", name)]
        assert own
        check_numbers(said, [[model[name] for name in own] for model in models])
    assert not found["config"] and not found["notes"]


def test_tiles_and_threads_change_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = tiny.all("llama")[:3]
    whole, again = compare(*folders, workers=1), compare(*folders, workers=3)
    assert whole.measured == again.measured
    monkeypatch.setattr(surveying, "TILE", 100)
    for one, other in zip(whole.measured, compare(*folders).measured, strict=True):
        for model in one.changes:
            assert other.changes[model] == pytest.approx(one.changes[model], rel=1e-6)
            assert one.ranks.keys() == other.ranks.keys()
        for pair in one.clashes:
            assert other.clashes[pair] == pytest.approx(one.clashes[pair], rel=1e-6, abs=1e-9)
        for model, rank in one.ranks.items():
            assert other.ranks[model].value == pytest.approx(rank.value, rel=1e-4)


@pytest.mark.parametrize(("rank", "tolerance"), [(1, 1e-3), (20, 1e-3), (300, 0.1), (1100, 0.1)])
def test_the_rank_of_wide_matrices_is_estimated(rank: int, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(rank)
    matrix = torch.randn(1100, rank, generator=generator) @ torch.randn(rank, 1060, generator=generator) * 1e-4
    spectrum = Spectrum(1100, 1060, torch.float32)
    for rows in matrix.split(400):
        spectrum.add(rows)
    gram = matrix.double().numpy().T @ matrix.double().numpy()
    assert spectrum.rank().value == pytest.approx(np.trace(gram) ** 2 / (gram**2).sum(), rel=tolerance)
    assert not spectrum.rank().exact


def changed(folder: Path, out: Path, change: object, **config: object) -> Path:
    """Copy a model. Apply `change(name, tensor)` to its weights, and change its config."""
    shutil.copytree(folder, out)
    tensors = {name: change(name, tensor) for name, tensor in load_file(folder / "model.safetensors").items()}  # type: ignore[operator]
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, out / "model.safetensors")
    settings = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**settings, **config}))
    return out


def noise(scale: float, seed: int) -> object:
    generator = torch.Generator().manual_seed(seed)
    return lambda name, tensor: tensor + torch.randn(tensor.shape, generator=generator) * scale


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_model(tmp_path / "base", 0)


def test_rows_are_compared_token_by_token(base: Path, tmp_path: Path) -> None:
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))

    def moved(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor[order], tensor[:3] * 5]) if tensor.shape[0] == 12 else tensor

    other = changed(base, tmp_path / "other", moved, vocab_size=15)
    ids = {f"t{number}": number for number in range(12)}
    new = {f"t{old}": number for number, old in enumerate(order.tolist())} | {f"new{n}": 12 + n for n in range(3)}
    for folder, vocabulary in ((base, ids), (other, new)):
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    found = values(base, other)
    assert found["all"]["models"][0]["change"] == 0
    assert found["models"][1]["tokens"] == {"base": 12, "own": 15, "shared": 12, "same_number": sum(
        int(number) == place for place, number in enumerate(order.tolist()))}  # fmt: skip
    assert found["config"] == {"vocab_size": [12, 15]}
    assert "12 tokens that all models have" in found["notes"][0]
    assert "other: different tokens than base. The recipe needs tokenizer" in found["verdict"][-1]
    assert values(other, base)["all"]["models"][0]["change"] == 0


def test_a_tied_head_is_compared_as_the_embedding(base: Path, tmp_path: Path) -> None:
    tied = changed(base, tmp_path / "tied", lambda name, tensor: None if name == "lm_head.weight" else tensor,
                   tie_word_embeddings=True)  # fmt: skip
    found, weights = values(base, tied), weights_of(base)
    expected = change_of(weights["lm_head.weight"], weights["model.embed_tokens.weight"])
    assert found["weights"]["lm_head.weight"]["models"][0]["change"] == pytest.approx(expected["change"])
    assert not found["models"][1]["lacking"]
    assert found["config"] == {"tie_word_embeddings": [False, True]}


def test_a_model_of_other_shapes_is_told_apart(base: Path, tmp_path: Path) -> None:
    def wider(name: str, tensor: torch.Tensor) -> torch.Tensor | None:
        return None if "layers.1" in name else torch.cat([tensor, tensor]) if "gate" in name else tensor

    found = values(base, changed(base, tmp_path / "other", wider, num_hidden_layers=1))["models"][1]
    assert found["reshaped"] == ["model.layers.0.mlp.gate_proj.weight"]
    assert len(found["lacking"]) == 9 and all("layers.1" in name for name in found["lacking"])
    back = values(tmp_path / "other", base)["models"][1]
    assert back["added"] == sorted(found["lacking"]) and not back["lacking"]


def test_nan_is_said_and_no_json_breaks(base: Path, tmp_path: Path) -> None:
    broken = changed(base, tmp_path / "broken", lambda name, t: t.masked_fill(t > 2, math.nan) if "up" in name else t)
    found = json.loads(
        json.dumps(values(base, broken, changed(base, tmp_path / "fine", noise(0.1, 1))), allow_nan=False)
    )
    assert found["kinds"]["mlp.up_proj"]["models"][0]["change"] is None
    assert found["kinds"]["mlp.up_proj"]["models"][0]["rank"] is None
    assert found["kinds"]["mlp.gate_proj"]["models"][0]["change"] == 0
    assert "broken or base contains NaN or infinity" in found["verdict"][0] and percent(math.nan) == "nan%"


SAYS = {
    "a copy": (lambda b, p: [b, changed(b, p / "x", lambda n, t: t)], "x has the same weights as base"),
    "rounded": (lambda b, p: [b, changed(b, p / "x", lambda n, t: t.bfloat16().float())], "almost a copy of base"),
    "fine-tuned": (lambda b, p: [b, changed(b, p / "x", noise(0.1, 1))], "x and base have the same ancestor"),
    "an adapter": (
        lambda b, p: [b, changed(b, p / "x", lambda n, t: t + 0.05 * torch.outer(*map(torch.ones, t.shape))
                                 if t.dim() == 2 else t)],
        "low rank (1), like an adapter's"),
    "far away": (lambda b, p: [b, changed(b, p / "x", noise(4, 1))], "x and base are distant relatives"),
    "a stranger": (
        lambda b, p: [b, write_model(p / "x", 9)],
        "These models were not trained from the same base. Averages and methods",
    ),
    "twins": (
        lambda b, p: [b, one := changed(b, p / "x", noise(0.1, 1)), changed(one, p / "y", noise(1e-3, 2))],
        "x and y are almost the same fine-tune"),
    "alike": (
        lambda b, p: [b, one := changed(b, p / "x", noise(0.1, 1)), changed(one, p / "y", noise(0.1, 2))],
        "x and y learned similar things"),
    "at odds": (
        lambda b, p: [b, changed(b, p / "x", noise(0.1, 1)), changed(b, p / "y", noise(0.1, 2))],
        "x and y oppose each other in"),
    "the base last": (
        lambda b, p: [changed(b, p / "x", noise(0.1, 1)), changed(b, p / "y", noise(0.1, 2)), b],
        "base looks like the common base of the others. Compare with --base base"),
    "another class": (
        lambda b, p: [b, changed(b, p / "x", lambda n, t: t if "norm" not in n else None,
                                 architectures=["LlamaForSequenceClassification"])],
        "tensor(s) have no counterpart"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAYS)
def test_what_the_numbers_mean_is_said(name: str, base: Path, tmp_path: Path) -> None:
    make, words = SAYS[name]
    said = values(*make(base, tmp_path))["verdict"]
    assert any(words in sentence for sentence in said), said


class Page(HTMLParser):
    """Collects what a page loads from elsewhere, the number of each tag, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [value or "" for key, value in attributes if key in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_but_itself_and_escapes_names(base: Path, tmp_path: Path) -> None:
    from mergecore_diff.page import page

    hostile = tmp_path / "<script>alert(1)</script>"
    hostile.parent.mkdir(exist_ok=True)
    found = report(compare(base, changed(base, tmp_path / "x", noise(0.1, 1), rope_theta="<img src=http://x>")))
    found.names[1] = hostile.name
    text = page(found)
    seen = Page(text)
    assert not seen.outside and not {"script", "img", "link", "iframe"} & set(seen.tags)
    assert "@import" not in text and "url(" not in text
    assert seen.tags.count("svg") == 2 and seen.tags.count("rect") >= 2 * 2 * 9
    assert "prefers-color-scheme: dark" in text and "width=device-width" in text
    assert "base have the same ancestor" in seen.text and "rope_theta" in seen.text


def test_the_command_prints_writes_and_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("x", "y"), 1):
        changed(base, tmp_path / name, noise(0.1, seed))
    status, out, err = run(
        ["diff", "x", "y", "--base", "base", "--html", "d.html", "--png", "d.png"], monkeypatch, capfd
    )
    assert status == 0 and "wrote d.html" in err and "wrote d.png" in err
    assert "self_attn.q_proj" in out and "cosine 1,2" in out and "x and y oppose each other" in out
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "d.html").read_text()
    status, out, err = run(["diff", "base", "x", "--json", "--quiet"], monkeypatch, capfd)
    assert (status, err) == (0, "") and json.loads(out)["architecture"] == "LlamaForCausalLM"
    assert "model.layers.1.mlp.up_proj.weight" in run(["diff", "base", "x", "--weights"], monkeypatch, capfd)[1]


REFUSED = {
    "no model": Refused("diff", "Missing argument"),
    "one model": Refused("diff base", "provide at least two models"),
    "one model twice": Refused("diff base base", "base: given twice"),
    "one model by two paths": Refused("diff base ./base", "./base: given twice"),
    "only the base": Refused("diff base --base base", "provide at least two models"),
    "no such folder": Refused("diff base bsae", "bsae: no such folder"),
    "no such base": Refused("diff base code --base bsae", "bsae: no such folder"),
    "a file": Refused("diff base base/config.json", "no such folder"),
    "no weights": Refused("diff base empty", "empty: has no config.json, so it is not a model"),
    "a config that is no JSON": Refused("diff base broken", "config.json: cannot be parsed as JSON"),
    "a file that was cut": Refused("diff base cut", "does not match its shape or the file"),
    "a base that was cut": Refused("diff cut base", "does not match its shape or the file"),
    "a base of no class": Refused("diff classless base", "config.json must name one model class"),
    "a damaged tokenizer": Refused("diff base tokens", "tokenizer.json: must contain a JSON object"),
    "damaged tokenizer settings": Refused("diff base settings", "tokenizer_config.json: must contain a JSON object"),
    "a page of another suffix": Refused("diff base code --html d.txt", "d.txt: must end in .html"),
    "a picture of another suffix": Refused("diff base code --png d.jpg", "d.jpg: must end in .png"),
    "a page that is there": Refused("diff base code --html there.html", "there.html: already exists"),
    "a page in no folder": Refused("diff base code --html no/d.html", "does not exist; create it first"),
    "a page that is a folder": Refused("diff base code --html folder.html", "is a folder"),
    "no such architectures": Refused("diff base code --arch-dir no", "no: no such architecture file or folder"),
    "an unknown option": Refused("diff base code --jsn", "No such option"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid and invalid models."""
    path = tmp_path_factory.mktemp("refused")
    for seed, name in enumerate(("base", "code", "cut", "classless", "broken", "tokens", "settings")):
        write_model(path / name, seed)
    (path / "empty").mkdir()
    (path / "folder.html").mkdir()
    (path / "there.html").write_text("mine")
    with (path / "cut/model.safetensors").open("r+b") as file:
        file.truncate(3000)
    (path / "classless/config.json").write_text('{"num_hidden_layers": 2}')
    (path / "broken/config.json").write_text("{")
    (path / "tokens/tokenizer.json").write_text("[]")
    (path / "settings/tokenizer_config.json").write_text("[]")
    return path


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_command_is_refused_in_one_sentence(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    check_refused(REFUSED[name], folder, monkeypatch, capfd)


def test_matplotlib_is_asked_for_before_anything_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_refused(Refused("diff base code --png d.png", "pip install"), folder, monkeypatch, capfd)


def test_a_file_that_changes_or_is_lost_while_it_is_read_is_one_sentence(base: Path, tmp_path: Path) -> None:
    lineup: Lineup = line_up([str(base), str(changed(base, tmp_path / "x", noise(0.1, 1)))], Registry(print))
    with (tmp_path / "x/model.safetensors").open("r+b") as file:
        file.truncate(3000)
    from mergecore.errors import ModelError

    with pytest.raises(ModelError, match="truncated"):
        survey(lineup, 2)
    lineup.close()
