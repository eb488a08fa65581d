"""A new package passes its own tests before anything is filled in."""

import pytest
import tomllib

from mergecore.errors import InputError
from mergecore.scaffold import write_package


def test_a_new_method_passes_every_check_and_is_shown(plugin_env, tmp_path):
    write_package("method", "my_idea", tmp_path)
    folder = tmp_path / "my_idea"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    module = "mergecore_my_idea.py"
    plugin_env.add(project["name"], project["entry-points"], {module: (folder / module).read_text()})
    result = plugin_env.python("-m", "pytest", "-q", "tests", cwd=folder)
    assert result.returncode == 0, result.stdout
    shown = plugin_env.mergecore("methods", "show", "my_idea").stdout
    assert "What it does, and the paper's address." in shown and "Scale of this model's task vector." in shown


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("methd", "x", "write one of: arch, method"),
        ("method", "My-Idea", "small letters"),
        ("method", "taken", "exists already"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, kind, name, words):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=words):
        write_package(kind, name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
