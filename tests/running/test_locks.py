"""Two runs never write to the same folder, and stale locks are ignored."""

import errno
import fcntl
import json
import os

import pytest

from mergecore.errors import InputError
from mergecore.running import locks


def test_a_held_lock_is_refused_and_a_free_one_leaves_nothing(tmp_path):
    path = tmp_path / "new" / "out.lock"
    with locks.hold_lock(path):
        with pytest.raises(
            InputError, match=rf"out\.lock: process {os.getpid()} on .* \(since 20.*\) is writing there"
        ):
            locks.hold_lock(path).__enter__()
        assert path.exists()
    assert not path.exists()


def test_the_lock_of_a_dead_process_of_this_machine_holds_nobody_up(tmp_path):
    path = tmp_path / "out.lock"
    path.write_text(json.dumps({"process": 1, "host": os.uname().nodename, "since": "yesterday"}))
    with locks.hold_lock(path):
        assert str(os.getpid()) in path.read_text()


HOLDER = '{"process": 7, "host": "elsewhere", "since": "yesterday"}'


def test_the_lock_of_another_machine_stays_and_says_what_to_delete(tmp_path):
    path = tmp_path / "out.lock"
    path.write_text(HOLDER)
    words = r"process 7 on elsewhere \(since yesterday\) might be writing there; if it is not, delete this file"
    with pytest.raises(InputError, match=rf"out\.lock: {words}"):
        locks.hold_lock(path).__enter__()
    assert path.read_text() == HOLDER


def test_an_empty_lock_file_of_a_run_that_was_killed_before_it_wrote_it_is_ignored(tmp_path):
    path = tmp_path / "out.lock"
    path.touch()
    with locks.hold_lock(path):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


@pytest.mark.parametrize("text", ["my own file", "7", "[]", '{"process": 7}', "\0" * 99])
def test_a_lock_file_of_another_program_stays_as_it_is(text, tmp_path):
    path = tmp_path / "out.lock"
    path.write_text(text)
    with pytest.raises(InputError, match=r"out\.lock: is not a lock file of mergecore; rename it, or choose another"):
        locks.hold_lock(path).__enter__()
    assert path.read_text() == text


def test_a_folder_or_a_link_in_place_of_a_lock_file_stays_as_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
    for name in "ab":
        with pytest.raises(InputError, match=r"cannot be written: .*; choose another output folder"):
            locks.hold_lock(tmp_path / name).__enter__()
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_leaves_no_empty_lock_file(tmp_path, monkeypatch):
    monkeypatch.setattr("os.pwrite", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
    with pytest.raises(InputError, match="No space left"):
        locks.hold_lock(tmp_path / "out.lock").__enter__()
    assert not list(tmp_path.iterdir())


def test_where_the_system_has_no_locks_the_file_is_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda *args: (_ for _ in ()).throw(OSError(errno.ENOLCK, "No locks")))
    path = tmp_path / "out.lock"
    with locks.hold_lock(path), pytest.raises(InputError, match="might be writing there"):
        locks.hold_lock(path).__enter__()
    assert not path.exists()


def test_a_file_that_goes_while_it_is_being_locked_is_made_again(tmp_path, monkeypatch):
    path, flock = tmp_path / "out.lock", fcntl.flock
    calls = []

    def slow(*args):
        calls.append(args)
        if len(calls) == 1:
            path.unlink()
        flock(*args)

    monkeypatch.setattr("fcntl.flock", slow)
    with locks.hold_lock(path):
        assert path.exists() and len(calls) == 2
