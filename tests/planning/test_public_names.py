"""Texts in a result contain names in place of private paths, and otherwise stay as they were."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mergecore.planning.public_names import PublicNames
from mergecore.recipes import load_recipe


def linear(*models: str) -> str:
    listed = ", ".join(f"{{model: {name}}}" for name in models)
    return f"merge_method: linear\nmodels: [{listed}]"


def public(text: str, folder: Path, *others: str) -> tuple[PublicNames, str]:
    (folder / "recipe.yml").write_text(text)
    recipe = load_recipe(folder / "recipe.yml")
    names = PublicNames.of_recipe(recipe, others)
    return names, names.text(recipe.text)


def test_models_become_the_names_of_their_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my models" / "a").mkdir(parents=True)
    text = f"""# from {tmp_path}/my and /etc/passwd
merge_method: linear
base_model: "{tmp_path}/my models/a/"
models:
- model: ~/b
- model: {tmp_path}/c+{tmp_path}/lora
- model: {{path: {tmp_path}/d, adapter: [{tmp_path}/x, {tmp_path}/y]}}
- model: {tmp_path}/c-2
- model: org/name@main
"""
    names, made = public(text, tmp_path)
    assert (
        made
        == """# from my and passwd
merge_method: linear
base_model: "a"
models:
- model: b
- model: c+lora
- model: {path: d, adapter: [x, y]}
- model: c-2
- model: org/name@main
"""
    )
    assert names.reference(f"{tmp_path}/d+{tmp_path}/x+{tmp_path}/y") == "d+x+y"


def test_a_path_can_be_folded_over_lines(tmp_path: Path) -> None:
    path = tmp_path / "one two" / "three four"
    text = f"merge_method: linear\nmodels:\n- model: {tmp_path}/one two/three\n    four\n"
    assert public(text, tmp_path)[1] == "merge_method: linear\nmodels:\n- model: three four\n"
    assert public(linear(f'"{path}"'), tmp_path)[1] == linear('"three four"')


def test_names_stay_different_from_each_other_and_from_models_on_the_hub(tmp_path: Path) -> None:
    text = linear("/a/final", "/b/final", "final-2", "gpt2", "/c/gpt2", "/a/final/")
    names, made = public(text, tmp_path)
    listed = [item["model"] for item in yaml.safe_load(made)["models"]]
    assert listed == ["final", "final-3", "final-2", "gpt2", "gpt2-2", "final"]
    assert [names.reference(name) for name in ("/b/final", "gpt2", "/c/gpt2")] == ["final-3", "gpt2", "gpt2-2"]


def test_a_folder_in_the_cache_of_the_hub_becomes_its_reference(tmp_path: Path) -> None:
    text = linear("/home/me/.cache/huggingface/hub/models--org--a--b/snapshots/0123abc")
    assert public(text, tmp_path)[1] == linear("org/a--b@0123abc")


def test_a_file_becomes_a_path_relative_to_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "text.txt").touch()
    text = f"{linear('a')}\nevaluate: [{{evaluator: loss, parameters: {{files: {tmp_path}/files/text.txt}}}}]"
    assert public(text, tmp_path)[1].endswith("parameters: {files: files/text.txt}}]")


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/org/name and file:///etc/passwd",
        "- filter: /mlp/  # a / b, 1/2, ../up, ./here, x/y",
        "{{ '<s>/usr' }}</s>[/INST]",
        "a very /unlikely/path/that/nobody/has",
    ],
)
def test_other_text_stays(text: str, tmp_path: Path) -> None:
    names, _ = public(linear("a"), tmp_path)
    assert names.text(text) == text
