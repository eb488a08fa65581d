"""A mistyped path of a local model is an error with the right path, and the Hub is not asked for it."""

import pytest

from mergecore.errors import ModelError
from mergecore.models import hub
from mergecore.models.references import locate_model

CLOSE = {
    "models/cdoe": "models/code",
    "./models/kode": "models/code",
    "modles/code": "models/code",
    "model/code": "models/code",
    "coed": "code",
    "Code": "code",
    "models/tuned/code-fnal": "models/tuned/code-final",
    "modles/tuned/code-final": "models/tuned/code-final",
    "{folder}/modles/code": "{folder}/models/code",
    "{folder}/models/coed": "{folder}/models/code",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in ("models/code", "models/tuned/code-final", "code", "llama/base"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("written", CLOSE)
def test_a_mistyped_path_is_told_with_the_right_one(folder, monkeypatch, written):
    monkeypatch.setattr(hub, "find_snapshot", lambda reference: pytest.fail("asked the Hub"))
    expected = CLOSE[written].format(folder=folder)
    with pytest.raises(ModelError, match=f"no such folder; did you mean {expected!r}"):
        locate_model(written.format(folder=folder))


@pytest.mark.parametrize("written", ["models/other", "models/tuned/", "llama/else", "nowhere", "a/b/c", "~/nowhere"])
def test_what_must_be_a_path_is_not_looked_for_on_the_hub(folder, monkeypatch, written):
    monkeypatch.setattr(hub, "find_snapshot", lambda reference: pytest.fail("asked the Hub"))
    if written == "models/tuned/":
        assert locate_model(written)[1] is None
    else:
        with pytest.raises(ModelError, match="no such folder"):
            locate_model(written)


@pytest.mark.parametrize("written", ["org/name", "meta-llama/base", "models/code-7b@main", "llama-2/base-7b"])
def test_names_of_the_hub_are_asked_for_there(folder, monkeypatch, written):
    monkeypatch.setattr(hub, "find_snapshot", lambda reference: hub.Snapshot(reference, "", folder, {}))
    assert locate_model(written)[1].repo == written
