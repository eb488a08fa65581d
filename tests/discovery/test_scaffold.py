"""A new package passes its tests without any changes."""

import pytest
import tomllib

from mergecore.discovery.scaffold import write_package
from mergecore.errors import InputError

KINDS = ("arch", "command", "hooks", "method", "postprocessor")


def test_new_packages_of_every_kind_pass_their_tests_and_the_kit(plugin_env, tmp_path):
    for kind in KINDS:
        name = f"my_{kind}"
        write_package(kind, name, tmp_path)
        project = tomllib.loads((tmp_path / name / "pyproject.toml").read_text())["project"]
        files = {
            str(path.relative_to(tmp_path / name)): path for path in (tmp_path / name).rglob("*") if path.is_file()
        }
        assert project["description"].endswith(", for mergecore.")
        sources = {file: path.read_text() for file, path in files.items() if file.startswith("mergecore_")}
        plugin_env.add(project["name"], project["entry-points"], sources)
    named = [word for kind in KINDS for word in ("--mergecore", f"my_{kind}")]
    folders = [f"my_{kind}/tests" for kind in KINDS]
    result = plugin_env.python("-m", "pytest", "-q", "-rA", *named, *folders, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    for kind, label in zip(KINDS, ("architecture", "command", "hook", "method", "postprocessor")):
        assert f"test_my_{kind}.py::test_conformance" in result.stdout
        assert f"my-{kind}::{label} " in result.stdout
    shown = plugin_env.mergecore("methods", "show", "my_method").stdout
    assert "Describe what it does, with a link to the paper." in shown and "Scale of this model's task vector." in shown


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("methd", "x", "use one of: arch, command, hooks, method, postprocessor"),
        ("method", "My-Idea", "lowercase letters"),
        ("method", "taken", "already exists"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, kind, name, words):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=words):
        write_package(kind, name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
