"""A single file that a command writes is atomic, also with a full disk and when several write it."""

import multiprocessing
import os
import resource

import pytest

from mergecore.cli.whole_file import write_whole
from mergecore.errors import InputError, RunError

LONG = "x" * 10**5


def test_a_disk_that_is_full_leaves_the_old_content_and_nothing_else(tmp_path):
    page = tmp_path / "page.html"
    page.write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**4, before[1]))
    try:
        with pytest.raises(RunError, match=r"page\.html: cannot write the file: File too large"):
            write_whole(page, LONG)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert page.read_text() == "old" and os.listdir(tmp_path) == ["page.html"]


@pytest.mark.parametrize("links", [True, False])
def test_a_new_file_never_replaces_one_that_appeared_meanwhile(links, tmp_path, monkeypatch):
    recipe, fsync = tmp_path / "recipe.yml", os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (recipe.write_text("mine"), fsync(file)))
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError(1, "no links")))
    with pytest.raises(InputError, match=r"recipe\.yml: already exists; use another name"):
        write_whole(recipe, LONG, new=True)
    assert recipe.read_text() == "mine" and os.listdir(tmp_path) == ["recipe.yml"]


def test_a_new_file_is_written_also_without_links(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(PermissionError(1, "no links")))
    write_whole(tmp_path / "a", LONG, new=True)
    assert (tmp_path / "a").read_text() == LONG and os.listdir(tmp_path) == ["a"]


def test_a_link_to_a_file_stays_one_and_a_long_name_fits(tmp_path):
    name = "n" * 255
    (tmp_path / "there").mkdir()
    (tmp_path / name).symlink_to(tmp_path / "there" / name)
    write_whole(tmp_path / name, b"bytes")
    write_whole(tmp_path / name, "more")
    assert (tmp_path / name).is_symlink() and (tmp_path / "there" / name).read_text() == "more"
    assert os.listdir(tmp_path / "there") == [name]


def test_the_draft_of_a_killed_command_is_reused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: os._exit(0))
        if not (child := os.fork()):
            write_whole(tmp_path / "page.html", LONG)
        os.waitpid(child, 0)
    assert len(os.listdir(tmp_path)) == 1 and not (tmp_path / "page.html").exists()
    write_whole(tmp_path / "page.html", "new")
    assert os.listdir(tmp_path) == ["page.html"] and (tmp_path / "page.html").read_text() == "new"


def test_many_writers_leave_the_content_of_one_at_any_time(tmp_path):
    page, context = tmp_path / "page.html", multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(page, letter)) for letter in "abc"]
    write_whole(page, LONG)
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        text = page.read_text()
        assert len(text) == len(LONG) and len(set(text)) == 1
    assert all(writer.exitcode == 0 for writer in writers)
    assert os.listdir(tmp_path) == ["page.html"]


def _write_often(page, letter):
    for _ in range(50):
        write_whole(page, letter * len(LONG))
