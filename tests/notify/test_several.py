"""Several sources in one process: turns, events that say where, and a source that stalls."""

import json
import socket
import threading
import time

import pytest

from edge_app.cli import main
from edge_app.cli.watch import named_sources
from edge_app.core.errors import UsageError
from edge_app.notify.watcher import NamedSource, Turns
from tests.notify.test_watcher import clip, home, plain_environment, start  # noqa: F401


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
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0 and "Traceback" not in told + errors


def test_turns_are_given_in_the_order_in_which_they_were_asked_for():
    turns, done, inside, most = Turns(2), [], [0], [0]
    changed = threading.Lock()

    def work(number):
        for _ in range(5):
            with turns:
                with changed:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    done.append(number)
                time.sleep(0.005)
                with changed:
                    inside[0] -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 2 and len(done) == 30
    for start_at in range(6, 19, 6):  # nobody has his next turn long before all have had theirs
        assert len(set(done[start_at : start_at + 8])) >= 5


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
