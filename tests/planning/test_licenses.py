"""Licenses are read from model cards, conflicts are reported, and --require-license is enforced."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import yaml

import mergecore
from mergecore.api import license_kind, license_of, read_card

KINDS = {
    "apache-2.0": "permissive", "mit": "permissive", "bsd-3-clause": "permissive", "cc-by-4.0": "permissive",
    "cc0-1.0": "permissive", "cc-by-sa-4.0": "share-alike", "gpl-3.0": "share-alike", "agpl-3.0": "share-alike",
    "lgpl-lr": "share-alike", "mpl-2.0": "share-alike", "cc-by-nc-4.0": "non-commercial",
    "cc-by-nc-sa-4.0": "non-commercial", "intel-research": "non-commercial",
    "fair-noncommercial-research-license": "non-commercial", "llama2": "custom", "llama3.1": "custom",
    "gemma": "custom", "openrail": "custom", "cc-by-nd-4.0": "custom", "other": "custom", "unknown": "unknown",
}  # fmt: skip


def put_card(folder: Path, text: str) -> Path:
    (folder / "README.md").write_text(text, "utf-8")
    return folder


def state(folder: Path, license_id: str) -> Path:
    return put_card(folder, f"---\nlicense: {license_id}\n---\n")


def linear(*models: Path) -> dict[str, object]:
    return {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 1}} for m in models]}


def test_every_license_of_the_hub_has_its_kind(tmp_path: Path) -> None:
    assert {name: license_kind(read_card(state(tmp_path, name))) for name in KINDS} == KINDS
    own = read_card(put_card(tmp_path, "---\nlicense: other\nlicense_name: acme-non-commercial\n---\n"))
    assert license_kind(own) == "non-commercial"


def test_a_card_is_read_as_its_yaml_says(tmp_path: Path) -> None:
    stated = {
        "tags": ["license: mit", "a"],
        "language": ["en", "no"],
        "license": "other",
        "model-index": [{"license": "mit", "text": "x\nlicense: mit\n"}],
        "license_name": "a: 'b'\nc",
        "license_link": "https://x.org/a b",
    }
    for flow in (False, None):
        text = yaml.safe_dump(stated, sort_keys=False, default_flow_style=flow)
        found = read_card(put_card(tmp_path, f"---\n{text}---\n# License\nlicense: mit\n"))
        assert found == {key: stated[key] for key in ("license", "license_name", "license_link", "language")}


@pytest.mark.parametrize(
    "front",
    [
        "license: " + "[" * 10**5,
        "a: &a [x, x]\n" + "\n".join(f"a{n}: &a{n} [*a, *a]" for n in range(40)) + "\nlicense: *a39",
        "license:\n" + "- mit\n" * 10**5,
        "license: !!python/object/apply:os.system [ls]",
        "language: x\n" * 10**5,
    ],
)
def test_no_card_hangs_or_runs_anything(tmp_path: Path, front: str) -> None:
    begun = time.process_time()
    assert license_of(read_card(put_card(tmp_path, f"---\n{front}\n---\n"))) == {}
    assert time.process_time() - begun < 5  # PyYAML would take minutes


def notes(*models: Path) -> list[str]:
    plan = mergecore.plan(linear(*models))
    plan.close()
    return [note for note in plan.notes if "license" in note]


@pytest.mark.parametrize(
    ("ids", "conflict"),
    [
        (("mit", "mit"), False), (("mit", "apache-2.0"), False), (("llama3", "llama3"), False),
        (("unknown", "unknown"), False), (("apache-2.0", "cc-by-nc-4.0"), True), (("mit", "gpl-3.0"), True),
        (("apache-2.0", "gemma"), True), (("llama2", "llama3"), True), (("mit", "unknown"), True),
    ],
)  # fmt: skip
def test_licenses_that_do_not_go_together_are_named_in_the_plan(models, ids, conflict) -> None:
    for model, name in zip(models, ids):
        state(model, name)
    found = notes(*models[:2])
    assert bool(found) is conflict
    assert all(name in note and str(model) in note for note in found for name, model in zip(ids, models))


def test_a_license_file_without_a_card_is_an_unknown_license(models) -> None:
    state(models[0], "mit")
    (models[1] / "LICENSE").write_text("Do what you like.")
    (note,) = notes(*models[:2])
    assert f"{models[1]}: unknown, see its LICENSE" in note


def test_a_wanted_license_refuses_the_others_by_name(models, linear_recipe, plugin_env, tmp_path) -> None:
    state(models[1], "apache-2.0")
    state(models[2], "cc-by-nc-4.0")
    for command in (["plan", linear_recipe], ["run", linear_recipe, tmp_path / "out"]):
        result = plugin_env.mergecore(*map(str, command), "--require-license", "permissive")
        assert result.returncode == 2 and not (tmp_path / "out").exists()
        assert f"{models[2]}: cc-by-nc-4.0 (non-commercial)" in result.stderr
        assert f"{models[1]}: " not in result.stderr
    state(models[2], "mit")
    assert plugin_env.mergecore("plan", str(linear_recipe), "--require-license", "permissive").returncode == 0
    result = plugin_env.mergecore("plan", str(linear_recipe), "--require-license", "cheap")
    assert result.returncode == 2
    assert re.search(r"'cheap' is not (one of )?'permissive'", result.stderr), (
        result.stderr
    )  # as typer's version says it


POLICY = """
from mergecore.api import InputError, hookimpl, license_kind
@hookimpl
def mergecore_after_plan(models):
    for model in models:
        if license_kind(model.card) == "non-commercial":
            raise InputError(f"house rule: {model.reference} is not for us")
"""


def test_a_hook_may_refuse_a_plan_by_what_the_cards_say(models, linear_recipe, plugin_env) -> None:
    plugin_env.add("mergecore-policy", {"hooks": {"policy": "mod_policy"}}, {"mod_policy.py": POLICY})
    state(models[2], "cc-by-nc-4.0")
    result = plugin_env.mergecore("plan", str(linear_recipe))
    assert (result.returncode, result.stderr) == (2, f"error: house rule: {models[2]} is not for us\n")
    state(models[2], "mit")
    assert plugin_env.mergecore("plan", str(linear_recipe)).returncode == 0
