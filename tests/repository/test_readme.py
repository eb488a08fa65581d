"""Examples in the README and CONTRIBUTING work as shown."""

import re

import pytest
import torch
import yaml
from doc_blocks import ROOT, blocks
from safetensors.torch import load_file

import mergecore


def test_the_readmes_method_and_hook_are_short_and_work_as_a_file(models, inside, tmp_path):
    method, hook = blocks("README.md", "python")
    lines = [sum(bool(line.strip()) for line in code.splitlines()) for code in (method, hook)]
    assert lines[0] <= 12 and lines[1] <= 15
    for file, code in (("my_plugins.py", method), ("rules.py", hook)):
        (tmp_path / file).write_text(code)
    listed = "".join(f"  - {{model: {model}, parameters: {{weight: 0.5}}}}\n" for model in models[1:])
    recipe = f"merge_method: my_mean\nbase_model: {models[0]}\nmodels:\n{listed}"
    (tmp_path / "recipe.yml").write_text(recipe)
    named = ("run", "recipe.yml", "out", "--plugin", "my_plugins.py", "--plugin", "rules.py")
    result = inside.mergecore(*named, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "merges.log").read_text() == "out\n"
    base, one, two, merged = (load_file(f / "model.safetensors") for f in (*models, tmp_path / "out"))
    for name, tensor in merged.items():
        exact = base[name].double() + sum(0.5 * (m[name].double() - base[name].double()).tanh() for m in (one, two))
        assert torch.allclose(tensor.double(), exact, atol=1e-6)
    (tmp_path / "recipe.yml").write_text(recipe + "dtype: float16\n")
    assert "house rule" in inside.mergecore(*named, "--force", cwd=tmp_path).stderr


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
        *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
    ):
        for link in re.findall(r"\]\(([^)#]+)", (ROOT / file).read_text("utf-8")):
            assert link.startswith("https://") or ((ROOT / file).parent / link).exists(), f"{file}: {link}"


def test_contributings_hook_refuses_as_shown():
    code = next(block for block in blocks("CONTRIBUTING.md", "python") if "hookimpl" in block)
    names = {"__name__": "contributing"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), names)
    with pytest.raises(names["InputError"], match="house rule"):
        names["mergecore_before_plan"]({"dtype": "float16"})
