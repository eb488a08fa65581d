"""The policy passes the checks for hooks, refuses forbidden licenses, and logs accepted merges."""

import json

import acme_policy
import pytest
from mergecore_testing.conformance import conformance

from mergecore.api import InputError

test_conformance = conformance("acme", "hooks")


def recipe(tmp_path, licenses):
    models = []
    for name, license in licenses.items():
        (tmp_path / name).mkdir()
        if license:
            (tmp_path / name / "README.md").write_text(f"---\nlicense: {license}\n---\n# {name}\n")
        models.append({"model": str(tmp_path / name)})
    return {"merge_method": "linear", "base_model": models[0]["model"], "models": models[1:]}


@pytest.mark.parametrize(
    ("licenses", "words"),
    [
        ({"base": "mit", "code": "cc-by-nc-4.0"}, "code has the license 'cc-by-nc-4.0'"),
        ({"base": None, "code": "mit"}, "base has no known license"),
        ({"base": "[not, one]", "code": "mit"}, "base has no known license"),
    ],
)
def test_what_may_not_be_merged_is_refused(tmp_path, licenses, words):
    with pytest.raises(InputError, match=f"ACME policy: .*{words}"):
        acme_policy.mergecore_before_plan(recipe(tmp_path, licenses))


def test_what_is_merged_is_written_down(tmp_path, monkeypatch):
    monkeypatch.delenv("ACME_AUDIT", raising=False)
    acme_policy.mergecore_before_plan(recipe(tmp_path, {"base": "MIT", "code": "apache-2.0"}))
    acme_policy.mergecore_after_write(tmp_path / "out")
    (line,) = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert list(json.loads(line)["parents"].values()) == ["mit", "apache-2.0"]
