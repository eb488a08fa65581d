"""A broken plugin does not affect runs that do not use it, and the doctor reports it with a fix."""

import json

import pytest

from mergecore.discovery.entry_points import list_plugins

MUTE = (
    "from mergecore.api import *\nfrom dataclasses import dataclass\n"
    "@dataclass(frozen=True, kw_only=True)\nclass Method(DeltaMethod): pass\n"
)
BROKEN = {
    "raises": ("mergecore-raises", "raise RuntimeError('boom')", "FAIL", "RuntimeError: boom"),
    "exits": ("mergecore-exits", "import sys; sys.exit(3)", "FAIL", "SystemExit: 3"),
    "asserts": ("mergecore-asserts", "assert False, 'never'", "FAIL", "AssertionError: never"),
    "lacks": ("mergecore-lacks", "import no_such_library", "FAIL", "No module named 'no_such_library'"),
    "mute": ("mergecore-mute", MUTE, "FAIL", "needs a docstring"),
    "wrong": ("mergecore-wrong", "Method = 'not a class'", "FAIL", "must be a subclass"),
}


@pytest.fixture
def broken_env(plugin_env):
    """One plugin for each type of problem, a duplicate, and one for API v0."""
    for name, (distribution, text, _, _) in BROKEN.items():
        plugin_env.add(distribution, {"methods": {name: f"mod_{name}:Method"}}, {f"mod_{name}.py": text})
    plugin_env.add("mergecore-twin", {"methods": {"slerp": "mod_twin:Method"}}, {"mod_twin.py": "Method = 1"})
    plugin_env.add("mergecore-old", {"mergecore.v0.methods": {"old": "mod_old:Method"}}, {"mod_old.py": "Method = 1"})
    plugin_env.add("mergecore-bad-hooks", {"hooks": {"bad": "mod_hooks"}}, {"mod_hooks.py": "raise ValueError('hook')"})
    plugin_env.add("mergecore-bad-arch", {"architectures": {"BadLM": "mod_arch:bad.json"}}, {"mod_arch/bad.json": "{}"})
    return plugin_env


def test_a_run_that_names_none_of_them_is_untouched(broken_env, linear_recipe, tmp_path):
    result = broken_env.mergecore("run", linear_recipe, tmp_path / "out", "--quiet")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "mergecore-bad-hooks 1.0" in result.stderr, "a skipped hook is reported"


@pytest.mark.parametrize("name", [*BROKEN, "slerp"])
def test_a_run_that_names_one_is_refused_with_its_distribution(broken_env, linear_recipe, tmp_path, name):
    linear_recipe.write_text(linear_recipe.read_text().replace("linear", name))
    result = broken_env.mergecore("run", linear_recipe, tmp_path / "out")
    owner = "mergecore-twin" if name == "slerp" else BROKEN[name][0]
    assert owner in result.stderr and "Traceback" not in result.stderr
    assert result.returncode == 2
    assert not (tmp_path / "out").exists()


def test_the_doctor_names_each_with_cause_and_cure(broken_env):
    result = broken_env.mergecore("plugins", "doctor", "--json")
    assert result.returncode == 1
    found = {(f["plugin"]["distribution"], f["plugin"]["name"]): f for f in json.loads(result.stdout)}
    for name, (distribution, _, status, cause) in BROKEN.items():
        finding = found[distribution, name]
        assert finding["status"] == status
        assert cause in finding["cause"]
        assert finding["cure"].startswith("pip ")
    assert found["mergecore-lacks", "lacks"]["cure"] == "pip install no_such_library"
    assert found["mergecore-old", "old"]["status"] == "OLD"
    assert found["mergecore-old", "old"]["cure"] == "pip install --upgrade mergecore-old"
    assert found["mergecore-twin", "slerp"]["cure"] == "pip uninstall mergecore-twin"
    assert "mergecore-twin" in found["mergecore-slerp", "slerp"]["cause"]
    assert found["mergecore-bad-hooks", "bad"]["status"] == "FAIL"
    assert found["mergecore-bad-arch", "BadLM"]["status"] == "FAIL"
    assert found["mergecore-linear", "linear"]["status"] == "ok"


def test_the_doctor_says_all_is_well_when_it_is(plugin_env):
    result = plugin_env.mergecore("plugins", "doctor")
    assert result.returncode == 0, result.stdout
    assert "all OK" in result.stdout
    assert "FAIL" not in result.stdout


def test_the_doctors_table_reads_as_lines(broken_env):
    text = broken_env.mergecore("plugins", "doctor").stdout
    assert "OLD   methods        old" in text
    assert "fix with: pip install --upgrade mergecore-old" in text


def test_an_observer_that_fails_is_named_and_switched_off(plugin_env, linear_recipe, tmp_path):
    plugin_env.add(
        "mergecore-nosy",
        {"hooks": {"nosy": "mod_nosy"}},
        {
            "mod_nosy.py": "from mergecore.api import hookimpl\n"
            "@hookimpl\ndef mergecore_after_tensor(name):\n    raise KeyError(name)\n"
        },
    )
    result = plugin_env.mergecore("run", linear_recipe, tmp_path / "out", "--quiet")
    assert result.returncode == 0
    assert result.stderr.count("mergecore-nosy 1.0 failed in mergecore_after_tensor") == 1


def test_a_provider_that_fails_stops_the_run_with_its_name(plugin_env, linear_recipe, tmp_path):
    text = (
        "from mergecore.api import hookimpl\n@hookimpl\ndef mergecore_provide_method(name):\n    raise KeyError(name)\n"
    )
    plugin_env.add("mergecore-vendor", {"hooks": {"vendor": "mod_vendor"}}, {"mod_vendor.py": text})
    result = plugin_env.mergecore("run", linear_recipe, tmp_path / "out")
    assert result.returncode == 2
    assert "mergecore-vendor 1.0 failed in mergecore_provide_method" in result.stderr


def test_a_hook_can_answer_first_and_refuse_a_recipe(plugin_env, linear_recipe, tmp_path):
    text = (
        "from mergecore.api import hookimpl, InputError\n"
        "from mergecore_passthrough import Passthrough\n"
        "@hookimpl\ndef mergecore_provide_method(name):\n    return Passthrough if name == 'house' else None\n"
        "@hookimpl\ndef mergecore_before_plan(recipe):\n"
        "    if recipe.get('dtype') == 'float16':\n        raise InputError('house rule: no float16')\n"
    )
    plugin_env.add("house-rules", {"hooks": {"house": "mod_house"}}, {"mod_house.py": text})
    recipe = linear_recipe.read_text()
    linear_recipe.write_text(recipe + "dtype: float16\n")
    refused = plugin_env.mergecore("run", linear_recipe, tmp_path / "out")
    assert (refused.returncode, refused.stderr) == (2, "error: house rule: no float16\n")
    linear_recipe.write_text(f"merge_method: house\nmodels: [model: {tmp_path / 'base'}]\n")
    assert plugin_env.mergecore("run", linear_recipe, tmp_path / "out").returncode == 0


def test_a_plugin_that_is_installed_while_python_runs_is_listed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    assert "late" not in {plugin.name for plugin in list_plugins("methods")}
    (tmp_path / "late-1.0.dist-info").mkdir()
    (tmp_path / "late-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: late\nVersion: 1.0\n")
    (tmp_path / "late-1.0.dist-info/entry_points.txt").write_text("[mergecore.v1.methods]\nlate = late:Late\n")
    assert [str(plugin) for plugin in list_plugins("methods") if plugin.name == "late"] == [
        "method 'late' from late 1.0"
    ]
