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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"process": 7, "host": "elsewhere", "since": "yesterday"}',
            r"process 7 on elsewhere \(since yesterday\)",
        ),
        ("my own file", "another program"),
    ],
)
def test_the_lock_of_another_machine_stays_and_says_what_to_delete(text, words, tmp_path):
    path = tmp_path / "out.lock"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"out\.lock: {words} might be writing there; if it is not, delete this"):
        locks.hold_lock(path).__enter__()
    assert path.read_text() == text


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
