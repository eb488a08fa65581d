"""Recipes in the forms that people publish: those that are right are planned, and each mistake is one sentence."""

import json

import pytest
from published_forms import MORE
from published_mistakes import REFUSED
from published_recipes import RUNS
from tiny_llamas import write_adapter, write_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import mergecore
from mergecore.errors import InputError

NOTED = {
    "slerp with an old switch": ["parameter 'embed_slerp' has no effect for method 'slerp'"],
    "slerp with weights that it does not have": ["parameter 'weight' has no effect", "'normalize' has no effect"],
    "linear with a density of TIES": ["parameter 'density' has no effect for method 'linear'"],
    "model_stock with parameters of others": [
        "parameter 'weight' has no",
        "'select_topk' has no effect",
    ],
    "karcher with a weight": ["parameter 'weight' has no effect for method 'karcher'"],
    "a slice with a residual weight": ["residual_weight has no effect"],
    "slices of several methods' parameters": ["parameter 'gamma' has no effect for method 'dare_ties'"],
    "a revision of a local folder": [
        f"{name}: is a local folder, so its revision has" for name in ("base@main", "code@v1.0", "prose@0123abc")
    ],
    "ties with parameters of the base": ["the parameters of the base model base are not used"],
}
"""Some of the notes of recipes that run."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with models of four layers that share a vocabulary, a deeper one, and an adapter."""
    path = tmp_path_factory.mktemp("published")
    for seed, name in enumerate(("base", "code", "prose", "math", "deep")):
        write_model(path / name, seed, num_hidden_layers=6 if name == "deep" else 4)
        words = {f"w{number}": number for number in range(12)}
        Tokenizer(WordLevel(words, unk_token="w0")).save(str(path / name / "tokenizer.json"))
        (path / name / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    write_adapter(path / "adapter")
    return path


@pytest.fixture
def plan(folder, monkeypatch):
    monkeypatch.chdir(folder)

    def planned(text):
        (folder / "recipe.yml").write_text(text, "utf-8")
        made = mergecore.plan("recipe.yml")
        made.close()
        return made

    return planned


@pytest.mark.parametrize("name", {**RUNS, **MORE})
def test_a_recipe_as_published_runs(plan, name):
    made = plan({**RUNS, **MORE}[name])
    assert made.jobs and all(job.method is not None or len(job.inputs) == 1 for job in made.jobs)
    for note in NOTED.get(name, ()):
        assert any(note in text for text in made.notes), made.notes
    if name not in NOTED:
        unused = [text for text in made.notes if "has no effect" in text and "int8_mask" not in text]
        assert unused == [] or name == "task arithmetic with a density", made.notes


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_sentence_with_what_to_write(plan, name):
    text, said = REFUSED[name]
    with pytest.raises(InputError) as caught:
        plan(text)
    first = str(caught.value).splitlines()[0]
    assert said in first and first.startswith("recipe.yml:"), caught.value


def test_there_are_at_least_sixty_recipes_and_they_are_run_too(folder, monkeypatch, tmp_path):
    assert len(RUNS) + len(MORE) + len(REFUSED) >= 60
    monkeypatch.chdir(folder)
    for name in ("anchors under custom names", "stages as in the manual", "layers that start as nothing"):
        (folder / "recipe.yml").write_text({**RUNS, **MORE}[name], "utf-8")
        out = mergecore.run("recipe.yml", tmp_path / name.replace(" ", "-"))
        again = mergecore.run(out / "mergecore.lock.json", tmp_path / f"again-{len(name)}")
        assert (out / "model.safetensors").read_bytes() == (again / "model.safetensors").read_bytes()
