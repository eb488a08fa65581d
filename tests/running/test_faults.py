"""Failing disks, files, and values during a merge: one message, no lost work, and the next run completes it."""

import errno
import itertools
import json
import os
import time
import warnings
from functools import lru_cache, partial
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_llamas import write_model

import mergecore
from mergecore.builtin.safetensors import SafetensorsReader, SafetensorsWriter
from mergecore.discovery import entry_points
from mergecore.discovery.registry import Registry
from mergecore.errors import InputError, MergecoreError, ModelError, RunError
from mergecore.planning.planner import make_plan
from mergecore.recipes.composition import load_recipe
from mergecore.running import journal, runner, settings
from mergecore.running.run_identity import identity_difference, run_identity

OPTIONS = settings.Options(memory=10**9, workers=1, shard_bytes=2000)
NORM = "model.norm.weight"


pytestmark = pytest.mark.filterwarnings("ignore:.*run the same recipe again to resume")


@pytest.fixture
def recipe(models):
    entries = [{"model": str(model), "parameters": {"weight": weight}} for model, weight in zip(models, (0.7, 0.3))]
    return {"merge_method": "linear", "models": entries}


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "README.md"}


def change(model, edit):
    """Rewrite a model's weights."""
    tensors = load_file(model / "model.safetensors")
    edit(tensors)
    save_file(tensors, model / "model.safetensors")


def failing(monkeypatch, owner, name, number, error, *, for_good=True):
    """Make the call with this number fail, and optionally all later ones. Return the list of calls."""
    original, calls = getattr(owner, name), []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) == number or (for_good and len(calls) > number):
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


class WrittenNames:
    """Record which tensors are written."""

    def __init__(self, monkeypatch):
        self.names = set()
        write = SafetensorsWriter.write_bytes
        monkeypatch.setattr(SafetensorsWriter, "write_bytes", lambda *args: (self.names.add(args[1]), write(*args))[1])


def unfinished(recipe, out, monkeypatch, finished=5):
    """Interrupt a run after some tensors and return their names."""
    with monkeypatch.context() as patch:
        failing(patch, SafetensorsWriter, "write_bytes", finished + 1, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(RunError, match=r"out\.partial: No space left on device; fix this and run again"):
            mergecore.run(recipe, out, workers=1)
    done = journal.read_journal(out.parent / "out.partial" / "journal").done
    assert len(done) == finished and not out.exists()
    return set(done)


CALLS = ("write", "pwrite", "fsync", "ftruncate", "mkdir", "replace", "open")
"""Operating system functions that change the disk."""


class Faults:
    """Run one plan repeatedly. Each time, one call fails, either alone or along with every later call."""

    def __init__(self, recipe, monkeypatch):
        self.registry, self.monkeypatch = Registry(warnings.warn), monkeypatch
        self.plan = make_plan(load_recipe(recipe), self.registry, 10**9)
        self.calls = 0
        finishing = {"config": self.registry.provide("postprocessors", "config")()}
        monkeypatch.setattr(runner, "load_postprocessors", lambda *args: finishing)
        # takes most of the time in such a small run
        monkeypatch.setattr(entry_points, "list_plugins", lru_cache(entry_points.list_plugins))

    def run(self, out, number=0, for_good=False):
        """Return the error of a run, or None. With number 0, no call fails."""
        self.calls = 0
        with self.monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, partial(self._call, getattr(os, name), number, for_good))
            try:
                runner.run_plan(self.plan, out, self.registry, OPTIONS, settings.Listener(warnings.warn))
            except MergecoreError as error:
                return error
        return None

    def _call(self, original, number, for_good, *args, **kwargs):
        self.calls += 1
        if self.calls == number or (for_good and self.calls > number):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args, **kwargs)


@pytest.mark.parametrize("for_good", [True, False])
def test_whichever_call_fails_the_next_run_makes_the_same_result(for_good, tmp_path, monkeypatch):
    model = write_model(tmp_path / "model", 1, num_hidden_layers=1)
    faults = Faults({"merge_method": "passthrough", "models": [{"model": str(model)}]}, monkeypatch)
    assert faults.run(tmp_path / "undisturbed") is None
    expected, total = content(tmp_path / "undisturbed"), faults.calls
    assert len(expected) == 6 and total > 40
    for number in range(1, total + 1):
        out = tmp_path / f"out-{number}"
        error = faults.run(out, number, for_good)
        assert error is None or "No space left on device" in str(error)
        if not out.exists():
            assert faults.run(out) is None
            assert list(tmp_path.glob(f"{out.name}?*")) == []
        assert content(out) == expected


def test_a_resumed_run_makes_only_what_is_not_finished(recipe, tmp_path, monkeypatch):
    expected = content(mergecore.run(recipe, tmp_path / "undisturbed"))
    done = unfinished(recipe, tmp_path / "out", monkeypatch)
    written = WrittenNames(monkeypatch)
    assert content(mergecore.run(recipe, tmp_path / "out", memory=10**8, workers=3)) == expected
    assert not done & written.names
    assert done | written.names == set(load_file(tmp_path / "out" / "model.safetensors"))


def heavier(recipe, models):
    recipe["models"][0]["parameters"]["weight"] = 0.6


def swapped(recipe, models):
    for entry, model in zip(recipe["models"], (models[1], models[0])):
        entry["model"] = str(model)


def touched(recipe, models):
    os.utime(models[1] / "model.safetensors", ns=(1, 1))


def longer(recipe, models):
    change(models[0], lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(1)}))


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (heavier, "the recipe changed"),
        (swapped, "the recipe changed"),
        (lambda recipe, models: recipe.update(seed=3), "the recipe changed"),
        (lambda recipe, models: recipe.update(merge_method="multislerp"), "the recipe changed"),
        (touched, r"code/model\.safetensors changed"),
        (longer, r"base/model\.safetensors changed"),
    ],
)
def test_whatever_decides_the_bytes_begins_anew_when_it_changes(edit, reason, recipe, models, tmp_path, monkeypatch):
    unfinished(recipe, tmp_path / "out", monkeypatch)
    edit(recipe, models)
    written = WrittenNames(monkeypatch)
    with pytest.warns(UserWarning, match=rf"out\.partial: starting over because .*{reason}"):
        mergecore.run(recipe, tmp_path / "out")
    assert written.names == set(load_file(tmp_path / "out" / "model.safetensors"))
    assert content(tmp_path / "out") == content(mergecore.run(recipe, tmp_path / "again"))


def test_a_method_or_a_package_that_changed_is_named(recipe, monkeypatch):
    registry = Registry(print)
    plan = make_plan(load_recipe(recipe), registry, 10**9)
    before = run_identity(plan, registry, 10)
    assert identity_difference(before, json.loads(json.dumps(before))) == ""
    assert before["packages"].keys() >= {"mergecore", "mergecore-linear", "torch", "numpy"}
    after = json.loads(json.dumps(before))
    after["packages"] |= {"torch": "9.0", "mergecore-linear": "0.2"}
    after["code"]["linear"] = "other"
    after["layout"]["--shard-size"] = 20
    said = identity_difference(before, after)
    assert (
        f"torch changed from {torch.__version__} to 9.0" in said
        and "mergecore-linear changed from 0.1.0 to 0.2" in said
    )
    assert "the code of method 'linear' changed" in said and said.endswith("--shard-size changed")


def test_a_journal_cut_anywhere_gives_what_is_whole(tmp_path):
    path = tmp_path / "journal"
    names = ["a", 'b\n"é', "c"]
    with journal.Journal(path, {"files": {}}, names[:1], lambda: None) as written:
        for name in names[1:]:
            written.add(name)
    text = path.read_bytes()
    found = []
    for length in range(len(text) + 1):
        path.write_bytes(text[:length])
        record = journal.read_journal(path)
        found.append(record and record.done)
        path.write_bytes(text[:length] + b"\0" * 9)
        assert journal.read_journal(path) == record
    assert [value for value, _ in itertools.groupby(found)] == [None, [], *(names[:n] for n in (1, 2, 3))]


def test_a_tensor_is_journaled_only_after_its_bytes_are_safe(tmp_path):
    events = []
    with (
        pytest.raises(OSError, match="disk"),
        journal.Journal(tmp_path / "journal", {}, [], lambda: failing_disk(events)) as written,
    ):
        written.add("a")
    assert events == ["sync"] and journal.read_journal(tmp_path / "journal").done == []


def failing_disk(events):
    events.append("sync")
    raise OSError("disk")


def test_a_disk_that_fails_in_the_background_stops_the_run(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "SECONDS", 0.001)
    monkeypatch.setattr(SafetensorsWriter, "sync", lambda self: failing_disk([]))
    original = SafetensorsWriter.write_bytes
    monkeypatch.setattr(SafetensorsWriter, "write_bytes", lambda *args: (time.sleep(0.02), original(*args)))
    written = WrittenNames(monkeypatch)
    with pytest.raises(RunError, match="disk"):
        mergecore.run(recipe, tmp_path / "out", workers=1)
    assert len(written.names) < 10 and not list(tmp_path.glob("out*"))


def test_files_that_are_not_as_they_were_left_are_not_gone_on_with(recipe, tmp_path, monkeypatch):
    unfinished(recipe, tmp_path / "out", monkeypatch)
    (tmp_path / "out.partial" / "result" / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="starting over because its files were changed"):
        mergecore.run(recipe, tmp_path / "out")
    assert content(tmp_path / "out") == content(mergecore.run(recipe, tmp_path / "again"))


def test_what_a_post_processor_began_is_made_again_and_the_weights_are_not(recipe, tmp_path, monkeypatch):
    expected = content(mergecore.run(recipe, tmp_path / "undisturbed"))
    with monkeypatch.context() as patch:
        patch.setattr("mergecore_model_card.card", lambda model: model.nothing)
        with pytest.raises(RunError, match="'model_card' from mergecore-model-card"):
            mergecore.run(recipe, tmp_path / "out")
    (tmp_path / "out.partial" / "result" / "config.json").write_text("{")
    written = WrittenNames(monkeypatch)
    assert content(mergecore.run(recipe, tmp_path / "out")) == expected
    assert not written.names


def test_a_disk_needs_room_only_for_what_is_missing(recipe, tmp_path, monkeypatch):
    unfinished(recipe, tmp_path / "out", monkeypatch)
    needed = mergecore.plan(recipe).bytes_out
    held = sum(path.stat().st_blocks * 512 for path in (tmp_path / "out.partial").glob("*/*"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=needed - held))
    assert mergecore.run(recipe, tmp_path / "out").exists()
    with pytest.raises(InputError, match="free some space"):
        mergecore.run(recipe, tmp_path / "other")


def test_a_folder_that_cannot_be_written_is_refused_before_the_start(recipe, tmp_path, monkeypatch):
    real = os.open

    def refusing(path, flags, *rest):
        if str(path).startswith(str(tmp_path / "out")):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refusing)
    with pytest.raises(
        InputError, match=r"out\.lock: cannot be written: Read-only file system; choose another output folder"
    ):
        mergecore.run(recipe, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_an_input_that_cannot_be_read_is_named(recipe, tmp_path, monkeypatch):
    failing(monkeypatch, SafetensorsReader, "read_bytes", 20, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(RunError, match=r"(base|code): \S+: cannot be read: Input/output error$"):
        mergecore.run(recipe, tmp_path / "out")
    monkeypatch.undo()
    assert content(mergecore.run(recipe, tmp_path / "out")) == content(mergecore.run(recipe, tmp_path / "again"))


def test_short_reads_and_writes_are_gone_on_with(recipe, tmp_path, monkeypatch):
    expected = content(mergecore.run(recipe, tmp_path / "undisturbed"))
    preadv, pwrite, write = os.preadv, os.pwrite, os.write
    monkeypatch.setattr(os, "preadv", lambda file, views, at: preadv(file, [view[:7] for view in views], at))
    monkeypatch.setattr(os, "pwrite", lambda file, view, at: pwrite(file, view[:5], at))
    monkeypatch.setattr(os, "write", lambda file, view: write(file, view[:3]))
    assert content(mergecore.run(recipe, tmp_path / "out")) == expected


@pytest.mark.parametrize("edit", [os.utime, os.unlink, lambda path: os.truncate(path, 9)])
@pytest.mark.parametrize("moment", ["first", "last"])
def test_a_model_that_changes_under_the_run_stops_it(edit, moment, recipe, models, tmp_path, monkeypatch):
    path = models[1] / "model.safetensors"
    if moment == "last":
        monkeypatch.setattr("mergecore_config.Config.run", lambda self, model: edit(path))
    else:
        original = SafetensorsWriter.__init__
        monkeypatch.setattr(SafetensorsWriter, "__init__", lambda *args: (original(*args), edit(path))[0])
    with pytest.raises((RunError, ModelError), match=r"code/model\.safetensors: (was changed|the file is truncated)"):
        mergecore.run(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.partial").exists() == (moment == "last"), "no tensor computed from it counts as finished"
