"""What the README and CONTRIBUTING show works as shown."""

import re
from pathlib import Path

import pytest
import torch
import yaml

import mergecore
from mergecore.api import Context
from mergecore.contracts import check

ROOT = Path(__file__).resolve().parent.parent


def blocks(file, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / file).read_text("utf-8"), re.MULTILINE | re.DOTALL)


def test_the_readmes_method_is_a_method_in_twenty_lines():
    (code,) = blocks("README.md", "python")
    assert len(code.splitlines()) <= 20
    names = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    check("methods", names["MyMean"])
    deltas = [torch.tensor([0.1, 2.0]), torch.tensor([-1.0, 0.0])]
    merged = names["MyMean"](weight=(1.0, 0.5)).merge(deltas, Context())
    assert torch.allclose(merged, deltas[0].tanh() + 0.5 * deltas[1].tanh())


def test_the_readmes_recipe_plans(models, tmp_path, monkeypatch):
    (text,) = blocks("README.md", "yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for model in models:
        model.rename(tmp_path / "models" / model.name)
    (tmp_path / "recipe.yml").write_text(text)
    plan = mergecore.plan(tmp_path / "recipe.yml")
    assert plan.recipe.method == yaml.safe_load(text)["merge_method"] and not plan.notes
    weights = {job.name: job.method.weight for job in plan.jobs if "q_proj" in job.name}
    assert list(weights.values()) == [(1.0, 0.2), (1.0, 1.0)]


def test_every_file_that_they_link_to_is_there():
    for file in (
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    ):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / file).read_text("utf-8")):
            assert link.startswith("https://") or ((ROOT / file).parent / link).exists(), f"{file}: {link}"


def test_contributings_hook_refuses_as_shown():
    code = next(block for block in blocks("CONTRIBUTING.md", "python") if "hookimpl" in block)
    names = {"__name__": "contributing"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    with pytest.raises(names["InputError"], match="house rule"):
        names["mergecore_before_plan"]({"dtype": "float16"})
