"""The one writer: whole or not at all, private, never over what it may not replace."""

import errno
import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from edge_app.core.errors import EdgeError
from edge_app.system.files import (
    append_row,
    hidden_beside,
    json_ready,
    locked,
    replacing,
    sha256_of,
    sha256_of_file,
    sweep,
    write_json,
    write_private,
)

posix = pytest.mark.skipif(os.name != "posix", reason="file modes and links are POSIX")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_block_that_raises_leaves_what_was_there_and_no_hidden_file(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt), replacing(path) as scratch:
        scratch.write_text("half")
        assert path.read_text() == "before" and scratch.parent == tmp_path
        raise KeyboardInterrupt
    assert path.read_text() == "before" and names(tmp_path) == ["letter.txt"]


@posix
def test_the_file_and_then_its_folder_reach_the_disk_before_it_is_told(tmp_path, monkeypatch):
    seen, fsync = [], os.fsync

    def spy(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        seen.append((kind, (tmp_path / "a").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    write_private(tmp_path / "a", b"x")
    assert seen == [("file", False), ("folder", True)]
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_name_that_is_taken_is_not_replaced(tmp_path, monkeypatch, hard_links):
    if not hard_links:

        def refuse(*_):
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "mine"
    with replacing(path, replace=False) as scratch:
        scratch.write_text("first")
    with pytest.raises(FileExistsError), replacing(path, replace=False) as scratch:
        scratch.write_text("second")
    assert path.read_text() == "first" and names(tmp_path) == ["mine"]


@posix
def test_a_link_that_leads_nowhere_is_a_name_that_is_taken(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), replacing(tmp_path / "link", replace=False) as scratch:
        scratch.write_text("x")
    assert names(tmp_path) == ["link"]


def test_a_long_name_is_written(tmp_path):
    path = tmp_path / ("ä" * 120)
    write_private(path, "x")
    assert path.read_text() == "x"


def test_json_is_read_back_as_plain_values(tmp_path):
    value = {
        "share": np.float32(0.5),
        "counts": np.array([1, 2]),
        "nan": float("nan"),
        "inf": [np.float64("inf")],
        "path": tmp_path,
        3: ("a", None, True),
    }
    write_json(tmp_path / "r.json", value)
    read = json.loads((tmp_path / "r.json").read_bytes())
    assert read == {
        "share": 0.5, "counts": [1, 2], "nan": None, "inf": [None], "path": str(tmp_path), "3": ["a", None, True],
    }  # fmt: skip
    assert json_ready(value) == read


def test_the_name_of_a_file_that_is_not_utf_8_comes_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.mp4")
    write_json(tmp_path / "r.json", {"source": name})
    assert json.loads((tmp_path / "r.json").read_bytes()) == {"source": name}


def test_hashes_are_those_of_sha256sum(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of_file(tmp_path / "abc") == sha256_of(b"abc") == sha256_of("abc") == known


@posix
def test_a_lock_that_is_a_link_leaves_its_target_alone(tmp_path):
    target = tmp_path / "letter.txt"
    target.write_text("dear Ada")
    (tmp_path / ".lock").symlink_to(target)
    with pytest.raises(EdgeError, match="is a link"), locked(tmp_path / ".lock"):
        pytest.fail("the lock was given")
    assert target.read_text() == "dear Ada"


def test_a_lock_file_keeps_what_somebody_put_into_it(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with locked(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


def test_one_at_a_time_is_in_the_locked_block(tmp_path):
    inside, most = [], []

    def enter():
        with locked(tmp_path / ".lock"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.02)
            inside.pop()

    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


@pytest.mark.slow
def test_a_writer_killed_at_any_moment_leaves_the_file_whole(tmp_path):
    path = tmp_path / "settings.json"
    code = (
        "import sys; from pathlib import Path; from edge_app.system.files import write_private\n"
        "print('go', flush=True)\n"
        "while True:\n"
        "    for c in 'ab': write_private(Path(sys.argv[1]), c * 100_000)\n"
    )
    write_private(path, "a" * 100_000)
    for number in range(12):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(0.003 * number + 0.01)
        child.kill()
        child.wait()
        child.stdout.close()
        assert len(set(path.read_text())) == 1 and path.stat().st_size == 100_000


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = Path(tmp_path / "x")
    write_private(path, "a" * 50_000)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            write_private(path, "b" * 50_000)

    thread = threading.Thread(target=write)
    thread.start()
    seen = {(len(text := path.read_text()), len(set(text))) for _ in range(200)}
    stop.set()
    thread.join()
    assert seen == {(50_000, 1)}


@posix
def test_a_row_is_on_the_disk_whole_or_not_at_all(tmp_path):
    """Without space a file system takes a part of a line, and the next one would be glued to it."""
    import resource

    path = tmp_path / "rows.csv"
    append_row(path, b"1,one\n", b"number,word\n")
    assert path.read_bytes() == b"number,word\n1,one\n" and stat.S_IMODE(path.stat().st_mode) == 0o600
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for there in (path.read_bytes(), b""):
        path.write_bytes(there)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(there) + 5, before[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                append_row(path, b"2,two\n", b"number,word\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == there
    append_row(path, b"2,two\n", b"number,word\n")
    path.write_bytes(path.read_bytes() + b"3,thr")  # cut off by a kill
    append_row(path, b"4,four\n", b"number,word\n")
    assert path.read_bytes() == b"number,word\n2,two\n3,thr\n4,four\n"


def test_what_a_kill_left_is_swept_and_nothing_that_only_looks_like_it(tmp_path):
    (tmp_path / "below").mkdir()
    left = [hidden_beside(tmp_path / "a.png"), hidden_beside(tmp_path / "below" / "b c.json")]
    names = (".film.mp4.part", ".film.download.part", "film.part", ".x.abcdefgh.png")
    other = [tmp_path / name for name in names]
    for path in other:
        path.write_bytes(b"mine")
    (tmp_path / ".y.png.abcdefgh.part").mkdir()
    (tmp_path / ".z.png.abcdefgh.part").symlink_to(other[0])
    sweep(tmp_path)
    assert not any(path.exists() for path in left) and all(path.read_bytes() == b"mine" for path in other)
    assert (tmp_path / ".y.png.abcdefgh.part").is_dir() and (tmp_path / ".z.png.abcdefgh.part").is_symlink()
