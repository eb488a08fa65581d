"""The output folder: valid locations, and atomic, durable writes."""

import contextlib
import errno
import itertools
import os
import shutil
from functools import partial

import pytest

import mergecore
from mergecore.builtin.safetensors import SafetensorsWriter
from mergecore.errors import InputError, RunError
from mergecore.running.output_folder import OutputFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*run the same recipe again to resume")


@pytest.fixture
def recipe(models):
    return {"merge_method": "passthrough", "models": [{"model": str(models[0])}]}


def test_everything_is_on_the_disk_before_the_result_gets_its_name(recipe, tmp_path, monkeypatch):
    events, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (events.append(os.readlink(f"/proc/self/fd/{file}")), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda old, new: (events.append((str(old), str(new))), replace(old, new)))
    out = mergecore.run(recipe, tmp_path / "out", shard_bytes=2000)
    result = str(tmp_path / "out.partial" / "result")
    named = events.index((result, str(out)))
    files = {f"{result}/{path.name}" for path in out.iterdir()}
    assert len(files) > 5 and files <= set(events[:named])
    assert events[named - 1] == result, "the folder after its contents"
    assert events[named + 1 :] == [str(tmp_path)]
    noted = f"{tmp_path}/out.partial/journal"
    begun = events.index((f"{noted}.new", noted))
    assert f"{noted}.new" in events[:begun] and noted in events[begun:named], "the journal too, at start and later"


def test_the_index_comes_after_the_weights(recipe, tmp_path, monkeypatch):
    def look(self, *args):
        assert not list((tmp_path / "out.partial" / "result").glob("*.json"))

    write = SafetensorsWriter.write_bytes
    monkeypatch.setattr(SafetensorsWriter, "write_bytes", lambda *args: (look(*args), write(*args)))
    assert (mergecore.run(recipe, tmp_path / "out", shard_bytes=2000) / "model.safetensors.index.json").exists()


@pytest.mark.parametrize("place", ["model", "parent", "below its partial"])
def test_a_model_is_never_written_over_or_away(place, models, recipe, tmp_path):
    if place == "below its partial":
        models[0].rename(tmp_path / "out.partial")
        recipe["models"][0]["model"] = str(tmp_path / "out.partial")
    out = {"model": models[0], "parent": tmp_path}.get(place, tmp_path / "out")
    with pytest.raises(InputError, match=r"is or contains .*, which this run reads"):
        mergecore.run(recipe, out, force=True)


def test_a_link_to_a_folder_stays_one(recipe, tmp_path):
    mergecore.run(recipe, tmp_path / "disk")
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    mergecore.run({**recipe, "dtype": "float16"}, tmp_path / "out", force=True)
    assert (tmp_path / "out").is_symlink() and "float16" in (tmp_path / "disk" / "mergecore_recipe.yml").read_text()


def test_where_a_disk_is_mounted_is_refused_before_the_start(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == str(tmp_path / "out"))
    with pytest.raises(InputError, match="is a mount point and cannot be replaced; use a folder inside it"):
        mergecore.run(recipe, tmp_path / "out")


def test_a_folder_that_was_filled_meanwhile_is_not_replaced_and_nothing_is_lost(recipe, tmp_path, monkeypatch):
    def fill(*args):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "mine.txt").write_text("mine")

    with monkeypatch.context() as patch:
        patch.setattr("mergecore_config.Config.run", fill)
        with pytest.raises(RunError, match="Directory not empty"):
            mergecore.run(recipe, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    with pytest.raises(InputError, match="was not written by mergecore"):
        mergecore.run(recipe, tmp_path / "out", force=True)
    (tmp_path / "out" / "mine.txt").unlink()
    mergecore.run(recipe, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error"), None])
def test_a_run_stopped_between_the_two_renames_puts_the_old_folder_back(stop, recipe, models, tmp_path, monkeypatch):
    out, replace = mergecore.run(recipe, tmp_path / "out"), os.replace
    old = (out / "model.safetensors").read_bytes()
    recipe["models"][0]["model"] = str(models[1])

    def stopping(one, new):
        if str(one).endswith("result"):
            raise stop or SystemExit
        replace(one, new)

    with monkeypatch.context() as patch:
        patch.setattr("mergecore.running.output_folder.exchange", lambda one, other: False)  # not on Linux
        patch.setattr(os, "replace", stopping)
        if stop is None:  # killed, so none of our code runs anymore
            patch.setattr(OutputFolder, "_put_back", lambda self: None)
        with pytest.raises((KeyboardInterrupt, RunError, SystemExit)):
            mergecore.run(recipe, out, force=True)
    assert out.exists() == (stop is not None)
    with pytest.raises(InputError, match="already exists"):
        mergecore.run(recipe, out)
    assert (out / "model.safetensors").read_bytes() == old
    written = []
    monkeypatch.setattr(SafetensorsWriter, "write_bytes", lambda *args: written.append(args))
    mergecore.run(recipe, out, force=True)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"] and (out / "config.json").exists()
    assert not written and (out / "model.safetensors").read_bytes() != old


@pytest.mark.filterwarnings("ignore:.*starting over because its files were changed")
def test_a_run_killed_right_after_the_swap_does_not_take_the_old_result_for_its_own(
    recipe, models, tmp_path, monkeypatch
):
    out = mergecore.run(recipe, tmp_path / "out")
    recipe["models"][0]["model"] = str(models[1])
    with monkeypatch.context() as patch:
        patch.setattr(OutputFolder, "clear", lambda self: None)
        mergecore.run(recipe, out, force=True)
    right = (out / "model.safetensors").read_bytes()
    assert (tmp_path / "out.partial" / "result" / "model.safetensors").read_bytes() != right
    shutil.rmtree(out)
    mergecore.run(recipe, out)
    assert (out / "model.safetensors").read_bytes() == right


def test_a_kill_while_an_unfinished_result_is_removed_does_not_turn_it_into_a_strangers(tmp_path, monkeypatch):
    scandir = os.scandir

    def by_name(folder):  # the marker first, as on some file systems
        return contextlib.nullcontext(sorted(scandir(folder), key=lambda entry: entry.name))

    for number in itertools.count(1):
        target, calls = OutputFolder(tmp_path / f"out-{number}"), itertools.count(1)
        target.start()
        for path in (target.result / "a", target.result / "b", target.journal):
            path.touch()
        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", by_name)
            for name in ("unlink", "rmdir"):
                patch.setattr(os, name, partial(killing, getattr(os, name), calls, number))
            with contextlib.suppress(KeyboardInterrupt):
                target.clear()
                break
        target.check([], 0, force=False)
        target.start()
    assert number > 5


def killing(call, calls, number, *args, **options):
    if next(calls) == number:
        raise KeyboardInterrupt
    return call(*args, **options)
