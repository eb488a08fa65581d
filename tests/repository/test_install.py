"""Packages can be installed one by one into a fresh environment, as a user would do."""

import pytest
from throwaway_environments import ROOT, Environment

LINEAR, LLAMA = ROOT / "plugins/methods/linear", ROOT / "architectures/llama"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("throwaway") / "env")


def test_core_alone_says_what_to_install_and_plugins_come_and_go(environment, linear_recipe, tmp_path):
    environment.install(ROOT)
    listed = environment.mergecore("plugins", "list").stdout
    assert "threads" in listed and "linear" not in listed

    bare = environment.mergecore("run", linear_recipe, tmp_path / "out")
    assert bare.returncode == 2
    assert "method 'linear' is not installed: pip install mergecore-linear" in bare.stderr

    environment.install(LINEAR)
    half = environment.mergecore("run", linear_recipe, tmp_path / "out")
    assert half.returncode == 0, half.stderr
    assert "weights are inferred from the headers" in " ".join(half.stderr.split())
    assert "mergecore-arch-llama" in half.stderr

    environment.install(LLAMA)
    full = environment.mergecore("run", linear_recipe, tmp_path / "full")
    assert full.returncode == 0, full.stderr
    assert "inferred" not in full.stderr
    assert "no config.json will be written: pip install mergecore-config" in full.stderr

    environment.pip("uninstall", "--yes", "mergecore-linear")
    for command in (("methods", "list"), ("plugins", "list"), ("plugins", "doctor")):
        assert "linear" not in environment.mergecore(*command).stdout
    assert environment.mergecore("run", linear_recipe, tmp_path / "again").returncode == 2
