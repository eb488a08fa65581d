"""Workflows of plugin authors in a fresh environment: a new method, the nine examples, a plugin for the first API."""

import json

import pytest
from mergecore_testing.checkpoints import write_checkpoint
from safetensors.torch import load_file
from throwaway_environments import ROOT, Environment
from tiny_llamas import write_model

from mergecore.discovery.entry_points import architecture_definition, find_plugin

PLUGINS, EXAMPLES = ROOT / "plugins", ROOT / "examples/plugins"
PROJECTS = sorted(path.parent for path in EXAMPLES.glob("*/pyproject.toml"))
CARD = "---\nlicense: {}\n---\n# A model\n"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    made = Environment(tmp_path_factory.mktemp("authors") / "env")
    made.install(ROOT, PLUGINS / "testing", PLUGINS / "after/config", ROOT / "architectures/llama")
    return made


@pytest.fixture
def llamas(tmp_path):
    """Tiny Llamas with model cards."""
    definition = architecture_definition(find_plugin("architectures", "LlamaForCausalLM"))
    folders = [write_checkpoint(tmp_path / f"model{n}", "LlamaForCausalLM", definition, seed=n) for n in range(3)]
    for folder in folders:
        (folder / "README.md").write_text(CARD.format("apache-2.0"))
    return folders


def write_recipe(path, method, models, **keys):
    listed = [{"model": str(model)} for model in models[1:]]
    path.write_text(json.dumps({"merge_method": method, "base_model": str(models[0]), "models": listed, **keys}))
    return path


def test_from_an_empty_folder_to_a_merge_with_a_method_of_ones_own(environment, llamas, tmp_path):
    (tmp_path / "empty").mkdir()
    write_recipe(tmp_path / "empty/recipe.yml", "mine", llamas)
    script = (
        "mergecore new method mine && pip install --no-index --no-build-isolation ./mine"
        " && pytest --mergecore mine && mergecore run recipe.yml out"
    )
    pip = environment.bin / "pip"
    pip.write_text(f'#!/bin/sh\nexec {environment.bin}/python -m pip "$@"\n')
    tested = environment.bin / "pytest"
    tested.write_text(f'#!/bin/sh\nexec {environment.bin}/python -m pytest "$@"\n')
    for program in (pip, tested):
        program.chmod(0o755)
    result = environment.call("sh", "-c", script, cwd=tmp_path / "empty")
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 14 passed" in result.stdout
    merged, *states = (load_file(folder / "model.safetensors") for folder in (tmp_path / "empty/out", *llamas))
    name = "model.layers.1.mlp.up_proj.weight"
    base, one, two = (state[name].double() for state in states)
    assert (merged[name] - (one + two - base)).abs().max() < 1e-6


@pytest.mark.slow
def test_a_plugin_of_the_first_api_still_runs(environment, llamas, tmp_path):
    environment.install_wheels(tmp_path / "wheels", ROOT / "tests/discovery/first_plugin")
    doctor = environment.mergecore("plugins", "doctor")
    assert doctor.returncode == 0 and doctor.stdout.count("first-plugin 1.0") == 8, doctor.stdout
    parameters = {"weight": [0.5, 1], "keep": 0.4, "mode": "scaled", "kind": "b", "often": 2, "lambda": 0.9, "old": 1}
    recipe = write_recipe(tmp_path / "r.yml", "first_mix", llamas, parameters=parameters, seed=7)
    for executor in ("first", "threads"):
        result = environment.mergecore("run", recipe, tmp_path / executor, "--executor", executor, "--strict-plugins")
        assert result.returncode == 0, result.stderr
    weights = [(tmp_path / executor / "model.safetensors").read_bytes() for executor in ("first", "threads")]
    assert weights[0] == weights[1] != (llamas[0] / "model.safetensors").read_bytes()
    count = len(load_file(llamas[0] / "model.safetensors"))
    assert (tmp_path / "threads/seen.txt").read_text() == f"plan {count} list, {count} tensors"
    told = (tmp_path / "threads/first.txt").read_text().split("\n")
    assert told == ["threads", "first_mix", "LlamaForCausalLM", str(count), "3", str(llamas[0]), "2", "3"]
    hooked = write_recipe(tmp_path / "h.yml", "first_hooked", llamas[:2])
    assert environment.mergecore("plan", hooked).returncode == 0
    assert "no 13" in environment.mergecore("plan", write_recipe(hooked, "first_hooked", llamas, seed=13)).stderr
    assert environment.mergecore("first", "hello").stdout == "hello\n"
    environment.pip("uninstall", "--yes", "first-plugin")


@pytest.mark.slow
def test_the_nine_examples_are_built_installed_and_used(environment, llamas, tmp_path):
    assert len(PROJECTS) == 9
    environment.install(PLUGINS / "tools/eval", PLUGINS / "tools/search")
    environment.install_wheels(tmp_path / "wheels", *PROJECTS)
    assert environment.mergecore("plugins", "doctor").returncode == 0
    tests = [path for project in PROJECTS for path in project.glob("tests")]
    options = ("-q", "-p", "no:cacheprovider", "--noconftest", "--import-mode=importlib", "-c", "/dev/null")
    kit = environment.call(environment.bin / "python", "-m", "pytest", *options, *tests, cwd=tmp_path)
    assert kit.returncode == 0, kit.stdout
    for method in ("agreement", "even_norms", "low_rank"):
        recipe = write_recipe(tmp_path / f"{method}.yml", method, llamas)
        result = environment.mergecore("run", recipe, tmp_path / method, "--strict-plugins")
        assert result.returncode == 0, result.stderr
        assert f"merged by `{method}`" in (tmp_path / method / "REPORT.md").read_text()
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [line["out"].rpartition("/")[2] for line in lines] == ["agreement", "even_norms", "low_rank"]
    loadable = [write_model(tmp_path / f"loadable{n}", n) for n in range(3)]
    for folder in loadable:
        (folder / "README.md").write_text(CARD.format("mit"))
    write_recipe(tmp_path / "open.yml", "agreement", loadable, parameters={"weight": {"search": [0, 1]}})
    (tmp_path / "eval.yml").write_text("evaluate: [{evaluator: certainty}]")
    search = ("evolve", tmp_path / "open.yml", tmp_path / "found", "--with", tmp_path / "eval.yml")
    result = environment.mergecore(*search, "--optimizer", "compass", "--evaluations", "5")
    assert result.returncode == 0, result.stderr
    tried = (tmp_path / "found.search" / "history.tsv").read_text().splitlines()[1:]
    begin, below, above = (float(line.split("\t")[2]) for line in tried[:3])
    assert (below, above) == (max(0.0, begin - 0.25), min(1.0, begin + 0.25))
    (llamas[1] / "README.md").write_text(CARD.format("cc-by-nc-4.0"))
    refused = environment.mergecore("run", tmp_path / "agreement.yml", tmp_path / "again")
    assert refused.returncode == 2 and "ACME policy: " in refused.stderr and "cc-by-nc-4.0" in refused.stderr
    assert "model.layers.*.mlp.up_proj.weight" in environment.mergecore("sizes", tmp_path / "agreement").stdout
    shown = environment.mergecore("arch", "show", "PebbleForCausalLM").stdout
    assert "attention.qkv.weight" in shown and "in parts attention.q.weight" in shown
