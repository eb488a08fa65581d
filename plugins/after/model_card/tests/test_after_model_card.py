"""The model card has front matter that the Hub reads, true claims about lineage and license, and a recipe that runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard as HubCard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mergecore_model_card import ModelCard, card, plain

import mergecore
from mergecore.api import MergedModel, ModelInfo, read_card

MARKS = st.text(st.sampled_from("`~-#*_[]()<>!|\\&$:;.\n\t ae1é"), max_size=30)
"""Text made up of characters that are special in Markdown, HTML, or YAML."""
DOC = """Mean of the models (Soups, https://arxiv.org/abs/2203.05482),
    weighted.

    result = sum(weight * model)
    """


def parent(folder: Path, readme: str | None = None, reference: str | None = None) -> ModelInfo:
    folder.mkdir(parents=True, exist_ok=True)
    if readme is not None:
        (folder / "README.md").write_text(readme, "utf-8")
    return ModelInfo(reference or str(folder), folder, {}, read_card(folder), "0a1b" if reference else None)


def merged(
    *models: ModelInfo, recipe: str = "merge_method: linear\n", name: str = "out", base: int | None = None
) -> MergedModel:
    donor = base or 0
    return MergedModel(name, Path("."), recipe, "linear", DOC, models, donor, "LlamaForCausalLM", {}, {}, base)


def data(text: str) -> dict[str, Any]:
    """Return the front matter as huggingface_hub reads it."""
    found: dict[str, Any] = HubCard(text).data.to_dict()
    return found


def test_a_card_of_models_from_the_hub(tmp_path: Path) -> None:
    base = parent(tmp_path / "hub/models--some--base/snapshots/0a1b", "---\nlicense: mit\n---\n")
    tuned = parent(tmp_path / "cache/x", "---\ntags:\n- a\nlicense: mit\n---\n# Hello\n", reference="you/tuned-1.0")
    old = parent(tmp_path / "hub/models--gpt2/snapshots/0a1b", "---\r\nlicense: mit\r\n---\r\n")
    recipe = "merge_method: linear\nbase_model: some/base\n"
    text = card(merged(tuned, old, base, recipe=recipe, name="my_merge", base=2))
    assert data(text) == {
        "license": "mit",
        "base_model": ["you/tuned-1.0", "gpt2", "some/base"],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "mergecore"],
    }
    html = MarkdownIt().render(HubCard(text).text)
    assert "<h1>my_merge</h1>" in html
    assert "<code>linear</code>: Mean of the models (Soups, https://arxiv.org/abs/2203.05482), weighted.</p>" in html
    assert '<a href="https://huggingface.co/some/base">some/base</a>, the base model</li>' in html
    assert '<a href="https://huggingface.co/you/tuned-1.0">you/tuned-1.0</a></li>' in html
    assert "same license: mit." in html


def test_local_folders_are_named_without_their_path_and_not_as_hub_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    models = [
        parent(tmp_path / "secret" / "gpt2"),
        parent(Path("org/model")),
        parent(Path("org/../here/.")),
        parent(tmp_path / "a b*c"),
        ModelInfo("~/none", tmp_path / "none", {}),
    ]
    text = card(merged(*models))
    assert not data(text).keys() & {"base_model", "base_model_relation", "license"}
    assert str(tmp_path) not in text and "secret" not in text and "huggingface.co" not in text
    html = MarkdownIt().render(text)
    assert all(f"<li>{name} (a local folder)</li>" in html for name in ("gpt2", "model", "here", "a b*c", "none"))


STATED = "---\nlicense: apache-2.0\n---\n"


@pytest.mark.parametrize(
    "other",
    [
        None, "", "# No front matter\nlicense: apache-2.0\n", "---\ntags: [x]\n---\n", "---\nlicense: mit\n---\n",
        "---\nlicense: [unclosed\n---\n", "---\n- license\n---\n", "---\nlicense: apache-2.0\n",
        "---\nlicense: 2024-99-99\n---\n", f"---\n{'[' * 1000}\n---\n",
        "---\nlicense: !!python/object/apply:os.system [ls]\n---\n", "---\nlicense:\n---\n",
        "---\nlicense: apache-2.0\nlicense_name: own\n---\n", "text\n---\nlicense: apache-2.0\n---\n",
    ],
)  # fmt: skip
def test_no_license_is_claimed_unless_all_state_the_same(tmp_path: Path, other: str | None) -> None:
    text = card(merged(parent(tmp_path / "a", STATED), parent(tmp_path / "b", other)))
    assert "license" not in data(text)
    assert "do not all state the same license" in text
    assert "- a: apache-2.0\n- b: " in text


def test_a_license_of_its_own_keeps_its_name_and_only_a_link_that_leads_somewhere(tmp_path: Path) -> None:
    for link, kept in (("LICENSE", {}), ("https://x.org/l", {"license_link": "https://x.org/l"})):
        readme = f"\ufeff---\nlicense: other\nlicense_name: own-1\nlicense_link: {link}\n---\n"
        text = card(merged(parent(tmp_path / "a", readme), parent(tmp_path / "b", readme)))
        found = {key: value for key, value in data(text).items() if key.startswith("license")}
        assert found == {"license": "other", "license_name": "own-1", **kept}
        assert r"same license: own-1 (custom)." in text


def test_the_card_says_what_all_parents_say_and_names_a_conflict(tmp_path: Path) -> None:
    front = "---\nlicense: {}\nlanguage:\n- en\n- no\n---\n"
    alike = [parent(tmp_path / name, front.format("mit")) for name in "ab"]
    assert data(card(merged(*alike)))["language"] == ["en", "no"]
    free = parent(tmp_path / "c", front.format("cc-by-nc-4.0").replace("- en", "- fr"))
    text = card(merged(*alike, free))
    assert not data(text).keys() & {"language", "license"}
    assert "One license may forbid what another allows." in text and "- c: cc-by-nc-4.0 (non-commercial)\n" in text
    assert "may forbid" not in card(merged(alike[0], parent(tmp_path / "d", front.format("apache-2.0"))))


def test_a_revision_is_no_part_of_a_models_name(tmp_path: Path) -> None:
    assert data(card(merged(parent(tmp_path / "x", reference="you/tuned@main"))))["base_model"] == ["you/tuned"]


def test_a_readme_that_is_no_text_states_nothing(tmp_path: Path) -> None:
    model = parent(tmp_path / "a")
    (tmp_path / "a" / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n")
    assert "license" not in data(card(merged(model)))
    (tmp_path / "b" / "README.md").mkdir(parents=True)
    assert "license" not in data(card(merged(parent(tmp_path / "b"))))


@given(comment=MARKS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_recipe_breaks_out_of_its_fence(comment: str) -> None:
    recipe = "merge_method: linear\ndescription: |\n  ```\n  `````\n  ~~~\n"
    recipe += "".join(f"# {line}\n" for line in comment.split("\n"))
    with tempfile.TemporaryDirectory() as folder:
        text = HubCard(card(merged(parent(Path(folder)), recipe=recipe))).text
    fences = [token for token in MarkdownIt().parse(text) if token.type == "fence"]
    assert [token.info for token in fences] == ["yaml", "sh"]
    assert fences[0].content.rstrip() == recipe.rstrip()


@given(text=MARKS)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_plain_text_shows_as_it_is(text: str) -> None:
    (inline,) = (token for token in MarkdownIt().parse(f"x {plain(text)} y") if token.type == "inline")
    assert inline.children is not None
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children).split() == f"x {text} y".split()


@given(license=MARKS.filter(str.strip), name=MARKS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_front_matter_stays_itself_whatever_the_parents_say(license: str, name: str) -> None:
    readme = f"---\n{yaml.safe_dump({'license': license, 'license_name': name})}---\n"
    with tempfile.TemporaryDirectory() as folder:
        text = card(merged(parent(Path(folder), readme), name=name.replace("\n", "")))
    found = data(text)
    assert (found["license"], found["license_name"], found["library_name"]) == (license, name, "transformers")
    headings = re.findall(r"<h(\d)>", MarkdownIt().render(HubCard(text).text))
    assert headings == list("122222")


def test_names_that_are_no_unicode_do_not_stop_a_run(tmp_path: Path) -> None:
    model = merged(parent(tmp_path), name="bad\udcff")
    ModelCard().run(MergedModel(**{**vars(model), "folder": tmp_path}))
    assert "# bad?" in (tmp_path / "README.md").read_text("utf-8")


def llama(folder: Path, seed: int) -> Path:
    """Create a tiny real model that states a license."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "README.md").write_text(STATED, "utf-8")
    return folder


def test_the_card_of_a_run_tells_how_to_make_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the network was accessed")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    models = [llama(tmp_path / name, seed) for seed, name in enumerate(("base", "code", "prose"))]
    recipe = tmp_path / "recipe.yml"
    lines = "".join(f"  - {{model: {model}, parameters: {{weight: 0.7}}}} # ```\n" for model in models[1:])
    recipe.write_text(f"merge_method: task_arithmetic\nbase_model: {models[0]}\nmodels:\n{lines}", "utf-8")
    first = mergecore.run(recipe, tmp_path / "first")
    text = (first / "README.md").read_text("utf-8")
    assert "- base (a local folder), the base model\n" in text
    assert "- code (a local folder)\n- prose (a local folder)\n" in text
    assert data(text)["license"] == "apache-2.0"
    assert "https://arxiv.org/abs/2212.04089" in text
    install = (
        "pip install mergecore mergecore-task-arithmetic mergecore-arch-llama mergecore-config mergecore-model-card"
    )
    assert f"```sh\n{install}\nmergecore run mergecore.lock.json OUT\n```\n" in text
    names = recipe.read_text("utf-8").replace(f"{tmp_path}/", "")
    assert (first / "mergecore_recipe.yml").read_text("utf-8") == names
    again = mergecore.run(first / "mergecore.lock.json", tmp_path / "again")
    digests = [hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest() for out in (first, again)]
    assert digests[0] == digests[1]


def test_scores_stand_in_the_hubs_form_and_in_a_table(tmp_path: Path) -> None:
    model = dataclasses.replace(merged(parent(tmp_path / "a")), folder=tmp_path)
    assert "eval_results" not in data(card(model)) and "## Evaluation" not in card(model)
    scores = {
        "verse|`": [
            {"name": "loss", "value": 2.5125, "error": 0.25, "count": 8, "higher_is_better": False},
            {"name": "worst", "value": float("inf"), "error": 0.0, "count": 8, "higher_is_better": False},
        ],
        "facts": [{"name": "accuracy", "value": 0.5, "error": 0.0, "count": 1, "higher_is_better": True}],
    }
    (tmp_path / "mergecore_evaluation.json").write_text(json.dumps({"scores": scores}))
    found = HubCard(card(model)).data
    assert found.model_name == "out"
    assert [(r.dataset_name, r.task_type, r.metric_type, r.metric_value) for r in found.eval_results] == [
        ("verse|`", "text-generation", "loss", 2.5125),
        ("facts", "text-generation", "accuracy", 0.5),
    ]
    html = MarkdownIt().enable("table").render(HubCard(card(model)).text)
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    assert [re.sub(r"</?td>\s*", " ", row).split() for row in rows[1:]] == [
        ["verse|`", "loss", "2.513", "±", "0.25", "8"],
        ["verse|`", "worst", "inf", "8"],
        ["facts", "accuracy", "0.5", "1"],
    ]
