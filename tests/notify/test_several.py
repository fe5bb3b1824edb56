"""Several sources in one process: turns, events that say where, and a source that stalls."""

import json
import queue
import socket
import threading
import time

import pytest

from edge_app.cli import main
from edge_app.cli.watch import named_sources
from edge_app.core.errors import UsageError
from edge_app.notify.watcher import NamedSource, Turns
from tests.notify.test_watcher import clip, home, plain_environment, start  # noqa: F401

PATIENCE_S = 120.0


def until(true):
    end_s = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def events_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_two_videos_are_watched_in_one_process_as_each_alone(home, clip, capsys):  # noqa: F811
    assert main(["watch", str(clip), "--json", "--home", str(home.path)]) == 0
    alone = [(one["event"], one["name"]) for one in events_of(capsys.readouterr().out)]
    other = clip.with_name("other.mp4")
    other.write_bytes(clip.read_bytes())
    assert main(["watch", f"door={clip}", f"yard={other}", "--json", "--home", str(home.path)]) == 0
    both = events_of(capsys.readouterr().out)
    for name in ("door", "yard"):
        assert [(one["event"], one["name"]) for one in both if one["source"] == name] == alone
    assert len(alone) >= 4


@pytest.mark.slow
def test_a_source_that_stalls_holds_nobody_up_and_one_that_fails_is_told(home, clip):  # noqa: F811
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never says anything
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/video"
        missing = clip.with_name("missing.mp4")
        missing.write_bytes(b"no video")
        process = start("watch", f"door={clip}", f"yard={address}", f"bad={missing}", "--json", "--home", home.path)
        seen = [json.loads(process.stdout.readline()) for _ in range(4)]
        assert {one["source"] for one in seen} == {"door"}
        told = next(line for line in process.stderr if "bad:" in line)  # the silent one keeps the process alive
        process.terminate()
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0 and "Traceback" not in told + errors


class Asking:
    """Threads that ask for a turn, each when the one before it waits, and keep it until it may end."""

    def __init__(self, turns, count):
        self.turns, self.given, self.may_end = turns, queue.SimpleQueue(), threading.Semaphore(0)
        self.threads = [threading.Thread(target=self._ask, args=(number,), daemon=True) for number in range(count)]
        for number, thread in enumerate(self.threads):
            thread.start()
            until(lambda number=number: len(turns._waiting) + self.given.qsize() == number + 1)

    def _ask(self, number):
        with self.turns:
            self.given.put(number)
            assert self.may_end.acquire(timeout=PATIENCE_S)


def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    turns = Turns(1)
    asking = Asking(turns, 6)
    for number in range(6):
        assert asking.given.get(timeout=PATIENCE_S) == number
        assert asking.given.empty() and len(turns._waiting) == 5 - number
        asking.may_end.release()
    for thread in asking.threads:
        thread.join(PATIENCE_S)
    assert turns._free == 1 and not turns._waiting


def test_as_many_turns_are_given_at_once_as_were_asked_for():
    turns = Turns(2)
    asking = Asking(turns, 6)
    inside = [asking.given.get(timeout=PATIENCE_S) for _ in range(2)]
    for number in range(2, 6):
        assert asking.given.empty() and len(turns._waiting) == 6 - number
        asking.may_end.release()  # whichever of those inside takes it
        inside.append(asking.given.get(timeout=PATIENCE_S))
    assert sorted(inside[:2]) + inside[2:] == list(range(6))
    asking.may_end.release(2)
    for thread in asking.threads:
        thread.join(PATIENCE_S)
    assert turns._free == 2


def test_a_turn_is_given_back_when_observing_fails():
    turns = Turns(1)
    with pytest.raises(ValueError), turns:
        raise ValueError
    with turns:
        pass


def test_sources_have_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b.mp4").touch()
    (tmp_path / "x.mp4").touch()
    assert named_sources(["door=0", "x.mp4", "a=b.mp4", "y=rtsp://10.0.0.7/1?a=b"]) == (
        NamedSource("door", "0"),
        NamedSource("x.mp4", "x.mp4"),
        NamedSource("a=b.mp4", "a=b.mp4"),
        NamedSource("y", "rtsp://10.0.0.7/1?a=b"),
    )
    assert named_sources(["rtsp://10.0.0.7/1?a=b"])[0].text == "rtsp://10.0.0.7/1?a=b"


@pytest.mark.parametrize("given", [["door=0", "door=1"], ["0", "0"], ["a=0", "b=0"], ["sample", "."]])
def test_sources_that_cannot_be_told_apart_are_refused(given):
    with pytest.raises(UsageError):
        named_sources(given)
