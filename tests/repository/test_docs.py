"""Examples in the documentation work: recipes plan, commands and options exist, and Python code runs."""

import json
import re
import shlex

import methods
import plots
import pytest
import typer
import yaml
from doc_blocks import ROOT, blocks
from jsonschema import Draft202012Validator
from typer.main import get_command

import mergecore
from mergecore.cli import external_commands
from mergecore.cli.app import app
from mergecore.definitions import local_definitions
from mergecore.discovery import entry_points
from mergecore.discovery.registry import Registry
from mergecore.running import locks

WRITTEN = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in WRITTEN}
SCHEMA = Draft202012Validator(json.loads((ROOT / "docs/recipe.schema.json").read_text("utf-8")))
METHODS = Registry(pytest.fail).all_methods()
ELSEWHERE = {"my_mean", "clipped"}  # methods that readers write while following a page


def is_recipe(block):
    """Return True if a block is a complete recipe, without ellipses or values for a search to find."""
    return "merge_method:" in block and not re.search(r"\.\.\.|\bsearch:", block)


RECIPES = {
    **{
        f"{page} {place}": block
        for page in PAGES
        for place, block in enumerate(blocks(page, "yaml"))
        if is_recipe(block)
    },
    **{f"method {name}": methods.recipe(name, method) for name, method in METHODS.items()},
}
PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]


def named(value):
    """Return every model in a recipe."""
    if isinstance(value, dict):
        own = [value[key] for key in ("model", "base_model") if isinstance(value.get(key), str)]
        return {*own, *(model for item in value.values() for model in named(item))}
    return {model for item in value for model in named(item)} if isinstance(value, list) else set()


@pytest.fixture
def library(models, tmp_path, monkeypatch):
    """A working directory with three tiny models that have the names used in the pages."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for model in models:
        model.rename(tmp_path / "models" / model.name)
    return tmp_path


@pytest.mark.parametrize("label", RECIPES)
def test_a_recipe_follows_the_schema(label):
    for recipe in yaml.safe_load_all(RECIPES[label]):
        if recipe["merge_method"] not in ELSEWHERE:
            assert [error.message for error in SCHEMA.iter_errors(recipe)] == []


def test_recipes_of_the_three_models_plan(library):
    there = {f"models/{path.name}" for path in (library / "models").iterdir()}
    planned = set()
    for label, text in RECIPES.items():
        recipes = list(yaml.safe_load_all(text))
        names = {recipe["name"] for recipe in recipes if "name" in recipe}
        if named(recipes) - names <= there and not any(recipe["merge_method"] in ELSEWHERE for recipe in recipes):
            (library / "recipe.yml").write_text(text, "utf-8")
            mergecore.plan(library / "recipe.yml").close()
            planned.add(label)
    wanted = [label for label in RECIPES if re.match("README|docs/tutorial|docs/how-to/[ms]|docs/stages|method", label)]
    assert planned >= set(wanted) and len(wanted) > len(METHODS) + 10


def lines(text):
    """Yield the command lines in a page, both in code blocks and in inline code."""
    fences = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
    commands = [code for language, code in fences.findall(text) if language in ("", "sh", "console")]
    shown = [line.removeprefix("$ ") for code in commands for line in code.splitlines()]
    shown += re.findall(r"(?<!`)`(mergecore [^`]+)`(?!`)", fences.sub("", text))
    return [line.strip() for line in shown if re.match(r"mergecore [a-z]", line.strip())]


def unknown(line):
    """Return the command name, subcommand, or option in a command line that does not exist."""
    words = re.split(r" [>|&] ?", line)[0]
    command = get_command(app)
    ctx, options, faults = typer.Context(command), set(), []
    for word in shlex.split(words, comments=True)[1:]:
        if word.startswith("-"):
            name = word.partition("=")[0]
            faults += [] if name in options or name in ("--help", "--debug") else [f"option {name}"]
        elif hasattr(command, "commands") and re.fullmatch("[a-z-]+", word):
            installed = {plugin.name: plugin for plugin in entry_points.list_plugins("commands")}
            top = command.name == get_command(app).name and word in installed
            found = (
                external_commands.command(word, entry_points.load_plugin(installed[word]))
                if top
                else command.commands.get(word)
            )
            if found is None:
                return [f"command {word}"]
            command = found
            options = {name for item in command.get_params(ctx) for name in (*item.opts, *item.secondary_opts)}
    return faults


@pytest.mark.parametrize("page", [page for page in PAGES if lines(PAGES[page])])
def test_commands_and_their_options_exist(page):
    assert [(line, fault) for line in lines(PAGES[page]) for fault in unknown(line)] == []


def test_a_command_that_is_not_there_is_seen():
    assert unknown("mergecore merge recipe.yml") == ["command merge"]
    assert unknown("mergecore lora extrakt") == ["command extrakt"]
    assert unknown("mergecore run recipe.yml out --threads 2  # --workers") == ["option --threads"]


def test_files_of_the_repository_that_pages_name_exist():
    named = re.compile(
        r"`((?:mergecore|tests|bench|plugins|architectures|docs|examples)/[\w./-]+\.(?:py|json|md|txt))`"
    )
    missing = [
        f"{page}: {path}" for page, text in PAGES.items() for path in named.findall(text) if not (ROOT / path).exists()
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_python_is_python(page, code):
    compile(code, page, "exec")


def test_the_tutorial_can_be_followed(library, inside):
    recipe, other = blocks("docs/tutorial.md", "yaml")
    (library / "recipe.yml").write_text(recipe, "utf-8")
    for line in lines(PAGES["docs/tutorial.md"]):
        result = inside.mergecore(*shlex.split(line)[1:], cwd=library)
        assert result.returncode == 0, f"{line}: {result.stderr}"
    exec(blocks("docs/tutorial.md", "python")[0], {})
    assert other.splitlines()[:3] == recipe.splitlines()[:3]


def test_the_written_method_merges_as_its_page_says(library, inside):
    code, recipe = (
        blocks("docs/how-to/write-a-method.md", "python")[0],
        blocks("docs/how-to/write-a-method.md", "yaml")[0],
    )
    (library / "my_plugins.py").write_text(code, "utf-8")
    (library / "recipe.yml").write_text(recipe, "utf-8")
    for line in [line for line in lines(PAGES["docs/how-to/write-a-method.md"]) if "--plugin" in line]:
        result = inside.mergecore(*shlex.split(line)[1:], cwd=library)
        assert result.returncode == 0, f"{line}: {result.stderr}"
    assert (library / "merged/model.safetensors").exists()


def test_the_call_from_python_merges(library):
    (library / "recipe.yml").write_text(blocks("docs/tutorial.md", "yaml")[0], "utf-8")
    exec(blocks("docs/how-to/run-on-a-gpu.md", "python")[0].replace('executor="cuda", ', ""), {})
    assert (library / "merged/model.safetensors").exists()


def test_the_architecture_shown_is_one(tmp_path):
    (text,) = blocks("docs/how-to/add-an-architecture.md", "json")
    (tmp_path / "mine.json").write_text(text, "utf-8")
    assert "TinyForCausalLM" in local_definitions([tmp_path])


def test_the_lock_file_shown_has_its_keys():
    (text,) = blocks("docs/run-files.md", "json")
    assert json.loads(text).keys() == locks.HOLDER.keys()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_formula_and_a_plot_that_shows_something(name):
    method = METHODS[name]
    assert "**`result = " in methods.page(name, method) or name == "arcee_fusion"  # their formulas are choices
    base, _, _, merged = plots.example(name, method)
    assert merged.isfinite().all() and (merged - base).abs().max() > 0
