"""Invalid recipes: exit status 2, one message with file, line, and path, and nothing is read or written."""

import re
import shutil

import pytest
from tiny_llamas import write_model
from wrong_recipe_documents import DOCUMENTS, GOOD, STACKS
from wrong_recipe_parameters import NAMES, PLACES, VALUES
from wrong_recipe_stages import STAGES

from mergecore.builtin.safetensors import SafetensorsReader
from mergecore.discovery.entry_points import find_plugin, list_plugins, load_plugin
from mergecore.discovery.parameters import declared

WRONG = {**DOCUMENTS, **STACKS, **NAMES, **VALUES, **PLACES, **STAGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the models that the recipes use."""
    path = tmp_path_factory.mktemp("wrong")
    for seed, name in enumerate(("base", "code", "prose")):
        write_model(path / name, seed)
    write_model(path / "deep", 3, num_hidden_layers=3)
    return path


@pytest.fixture
def run(folder, monkeypatch, capfd):
    """Run a recipe in the folder. Return the exit status, the output, and the number of weight reads."""
    from mergecore import cli

    monkeypatch.chdir(folder)
    reads, read = [], SafetensorsReader.read_bytes

    def counted(*arguments):
        reads.append(arguments)
        read(*arguments)

    monkeypatch.setattr(SafetensorsReader, "read_bytes", counted)

    def run_text(text):
        (folder / "recipe.yml").write_bytes(text if isinstance(text, bytes) else text.encode())
        shutil.rmtree(folder / "out", ignore_errors=True)
        reads.clear()
        monkeypatch.setattr("sys.argv", ["mergecore", "run", "recipe.yml", "out", "--quiet"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code, capfd.readouterr().err, len(reads)

    return run_text


@pytest.fixture
def refused(run, folder):
    """Run a recipe that must be rejected. Return the error message."""

    def refused_text(text):
        status, printed, reads = run(text)
        assert (status, reads) == (2, 0), printed
        assert printed.startswith("error: recipe.yml:") and "Traceback" not in printed
        lines = printed.splitlines()
        assert printed.endswith("\n") and len(lines) in (1, 3) and printed.count("error: ") == 1
        if len(lines) == 3:
            place, excerpt, marks = re.match(r"error: recipe.yml:(\d+): ", lines[0]), lines[1], lines[2]
            assert excerpt.startswith(f"  {place[1]} | ") and re.fullmatch(r" +\|  ?.*\^", marks)
        assert not list(folder.glob("out*"))
        return printed

    return refused_text


def test_the_recipe_that_they_are_made_from_is_right(run):
    status, text, reads = run(GOOD)
    assert (status, text) == (0, "") and reads > 0


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_recipe_is_refused_in_one_sentence(refused, name):
    recipe, line, path, words = WRONG[name]
    text = refused(recipe)
    assert words in text
    if line is not None:
        assert text.startswith(f"error: recipe.yml:{line}: ")
    if path is not None:
        assert re.search(rf": {re.escape(path)}: ", text)


def wrong_values(schema):
    """Yield values that a parameter with this schema rejects."""
    beyond = {"minimum": -1, "maximum": 1}
    return ["none", "[[1]]", ".inf", *(schema[rule] + step for rule, step in beyond.items() if rule in schema)]


@pytest.mark.parametrize("method", dict.fromkeys(plugin.name for plugin in list_plugins("methods")))
def test_every_parameter_of_every_method_is_checked(refused, method):
    head = f"merge_method: {method}\nbase_model: base\nmodels: [{{model: code}}, {{model: prose}}]\n"
    for name, parameter in declared(load_plugin(find_plugin("methods", method))).items():
        for value in wrong_values(parameter.schema):
            text = refused(f"{head}parameters: {{{name}: {value}}}\n")
            assert text.startswith(f"error: recipe.yml:4: parameters.{name}")
        text = refused(f"{head}parameters: {{{name}_: 1}}\n")
        assert f"has no parameter '{name}_'; did you mean '{name}'?" in text


def test_there_are_at_least_sixty_ways():
    assert len(WRONG) >= 60


def test_a_recipe_that_is_not_text_is_refused(refused):
    assert "cannot be read as text" in refused(GOOD.encode("utf-16"))


def test_a_recipe_that_is_not_there_is_an_error_too(run, capfd, monkeypatch):
    from mergecore import cli

    monkeypatch.setattr("sys.argv", ["mergecore", "plan", "nowhere.yml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert (stop.value.code, capfd.readouterr().err) == (2, "error: nowhere.yml: no such file\n")


def test_an_alias_bomb_is_refused(refused):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}, *{a}]" for a, b in zip("abcdefg", "bcdefgh")]
    assert "aliases expand" in refused("\n".join(lines) + "\n")
