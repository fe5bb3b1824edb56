"""A file that this run did not write is never replaced."""

import os
import threading

import pytest

from edge_app.system.new_file import NewFiles, write_new

MINE = b"the user's own"


def test_free_names_are_given_as_wanted(tmp_path):
    new = NewFiles()
    assert new.free(tmp_path / "x.jpg") == (tmp_path / "x.jpg",)
    assert new.free(tmp_path / "a.json", tmp_path / "a.png") == (tmp_path / "a.json", tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("what", ["file", "folder", "link", "dangling link"])
def test_a_name_that_something_has_gets_a_number(tmp_path, what):
    taken = tmp_path / "x.jpg"
    if what == "folder":
        taken.mkdir()
    elif what == "file":
        taken.write_bytes(MINE)
    else:
        if what == "link":
            (tmp_path / "target").write_bytes(MINE)
        taken.symlink_to(tmp_path / "target")
    (tmp_path / "x-2.jpg").write_bytes(MINE)
    new = NewFiles()
    assert new.free(taken) == (tmp_path / "x-3.jpg",)
    assert new.free(taken) == (tmp_path / "x-4.jpg",)


def test_files_that_belong_together_get_the_same_number(tmp_path):
    (tmp_path / "report.png").write_bytes(MINE)
    wanted = tmp_path / "report.json", tmp_path / "report.png"
    assert NewFiles().free(*wanted) == (tmp_path / "report-2.json", tmp_path / "report-2.png")


def test_folders_are_compared_and_not_their_names(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    new = NewFiles()
    new.free(tmp_path / "real" / "x.jpg")
    assert new.free(tmp_path / "link" / "x.jpg") == (tmp_path / "link" / "x-2.jpg",)
    assert new.free(tmp_path / "real" / ".." / "link" / "X.JPG") == (tmp_path / "real" / ".." / "link" / "X-3.JPG",)


def test_threads_never_get_the_same_name(tmp_path):
    new, got = NewFiles(), []

    def ask():
        got.extend(new.free(tmp_path / "x")[0] for _ in range(50))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 200


def test_a_new_file_appears_whole_beside_what_stands_there(tmp_path):
    (tmp_path / "x.txt").write_bytes(MINE)
    got = write_new(tmp_path / "x.txt", lambda scratch: scratch.write_text("ours"))
    assert got == tmp_path / "x-2.txt" and got.read_text() == "ours" and (tmp_path / "x.txt").read_bytes() == MINE
    assert got.stat().st_mode & 0o777 == 0o600 or os.name != "posix"


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    def write(scratch):
        scratch.write_text("ours")
        (tmp_path / "x.txt").write_bytes(MINE)  # another program, at the last moment

    assert write_new(tmp_path / "x.txt", write) == tmp_path / "x-2.txt"
    assert (tmp_path / "x.txt").read_bytes() == MINE


def test_nothing_is_left_of_what_could_not_be_written(tmp_path):
    def write(scratch):
        scratch.write_text("half")
        raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        write_new(tmp_path / "x.txt", write)
    assert not list(tmp_path.iterdir())
