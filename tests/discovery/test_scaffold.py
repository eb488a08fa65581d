"""A new package passes its tests without any changes."""

import errno
from pathlib import Path

import pytest
import tomllib

from mergecore.discovery.scaffold import TEMPLATES, Template, write_package
from mergecore.errors import InputError, RunError

KINDS = sorted(kind.value for kind in Template)


def test_every_kind_has_a_folder_of_templates():
    assert sorted(path.name for path in TEMPLATES.iterdir()) == KINDS


def test_another_kind_is_refused_with_the_kinds_there_are(plugin_env, tmp_path):
    result = plugin_env.mergecore("new", "methd", "x", "--into", str(tmp_path))
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "'methd' is not one of" in result.stderr and all(f"'{kind}'" in result.stderr for kind in KINDS)
    assert not (tmp_path / "x").exists()


def test_new_packages_of_every_kind_pass_their_tests_and_the_kit(plugin_env, tmp_path):
    for kind in KINDS:
        name = f"my_{kind}"
        write_package(Template(kind), name, tmp_path)
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
        ("method", "My-Idea", "lowercase letters"),
        ("method", "taken", "already exists"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, kind, name, words):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match=words):
        write_package(Template(kind), name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_package_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    write, calls = Path.write_text, []

    def failing(path, *rest):
        calls.append(path)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", failing)
        with pytest.raises(RunError, match="mine: cannot be written: No space left on device"):
            write_package(Template.method, "mine", tmp_path)
    assert not list(tmp_path.iterdir())
    written = write_package(Template.method, "mine", tmp_path)
    assert set(written) == {path for path in tmp_path.rglob("*") if path.is_file()}
