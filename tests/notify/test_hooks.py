"""Hooks are real programs here: small Python scripts that leave a file behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_app.core.errors import UsageError
from edge_app.notify.hooks import Command, HookOptions, Hooks, variables

EVENT = {
    "event": "recognized",
    "time_s": 12.5,
    "track": 3,
    "name": "Ada $(touch pwned); `id`",
    "similarity": 0.7,
    "duration_s": None,
}


def script(tmp_path: Path, code: str) -> str:
    path = tmp_path / "hook.py"
    path.write_text(code)
    return f"{sys.executable} -S {path} {tmp_path}"


PATIENCE_S = 60.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie, which its new parent has yet to bury, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_into_the_limit(command: str, begun: Path) -> str:
    """Let a hook run into its time limit once it has written `begun`; what is told of it.

    A busy machine may take longer than the limit to begin: then it gets a longer one.
    """
    for limit_s in (2, 8, 32):
        problems: list[str] = []
        hooks = Hooks(HookOptions(timeout_s=limit_s), problems.append)
        hooks.fire(Command.parse(command), None, "", {})
        hooks.close(limit_s + PATIENCE_S)
        if begun.exists():
            assert len(problems) == 1
            return problems[0]
    raise AssertionError("the hook did not begin")


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.mark.parametrize("text", ["", "  ", "no-such-program-here --flag", "'open quote", "/etc/passwd"])
def test_a_command_that_cannot_run_is_refused_at_once(text: str) -> None:
    with pytest.raises(UsageError):
        Command.parse(text)


def test_a_command_is_split_like_a_shell_would_and_nothing_is_expanded() -> None:
    command = Command.parse("env 'two words' $HOME *.py ;")
    assert command.argv[1:] == ("two words", "$HOME", "*.py", ";")
    assert Path(command.argv[0]).is_absolute()
    assert command.name == "env"


@pytest.mark.parametrize("wrong", [{"cooldown_s": -1.0}, {"timeout_s": 0.0}, {"most_at_once": 0}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        HookOptions(**wrong)


def test_the_event_arrives_on_standard_input_and_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_APP_WEBHOOK", "https://secret.example/token")
    code = """import json, os, sys, pathlib
found = {"stdin": sys.stdin.read(), "env": {k: v for k, v in os.environ.items() if k.startswith("EDGE_APP_")}}
found["group"] = os.getpgrp() == os.getpid()
part = pathlib.Path(sys.argv[1], "part"); part.write_text(json.dumps(found)); part.rename(part.with_name("found"))
"""
    problems: list[str] = []
    hooks = Hooks(HookOptions(), problems.append)
    assert hooks.fire(Command.parse(script(tmp_path, code)), "Ada", json.dumps(EVENT), variables(EVENT))
    hooks.close(PATIENCE_S)
    found = json.loads((tmp_path / "found").read_text())
    assert json.loads(found["stdin"]) == EVENT
    assert found["env"] == {
        "EDGE_APP_EVENT": "recognized",
        "EDGE_APP_TIME_S": "12.5",
        "EDGE_APP_TRACK": "3",
        "EDGE_APP_NAME": EVENT["name"],
        "EDGE_APP_SIMILARITY": "0.7",
        "EDGE_APP_DURATION_S": "",
    }
    assert found["group"]
    assert problems == []
    assert not Path("pwned").exists()


def test_a_hook_runs_once_per_person_and_cool_down() -> None:
    clock, command, other = Clock(), Command.parse("true"), Command.parse("true again")
    hooks = Hooks(HookOptions(cooldown_s=30, most_at_once=100), pytest.fail, clock)
    assert hooks.fire(command, "Ada", "", {})
    clock.now_s += 29
    assert not hooks.fire(command, "Ada", "", {})
    assert hooks.fire(command, "Bob", "", {})
    assert hooks.fire(command, None, "", {})
    assert not hooks.fire(command, None, "", {})
    assert hooks.fire(other, "Ada", "", {})
    clock.now_s += 1
    assert hooks.fire(command, "Ada", "", {})
    hooks.close(PATIENCE_S)


@pytest.mark.slow
def test_a_hook_that_hangs_is_killed_with_all_it_started(tmp_path: Path) -> None:
    code = """import os, signal, sys, pathlib, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    part = pathlib.Path(sys.argv[1], "part")
    part.write_text(f"{os.getpid()} {child}")
    part.rename(part.with_name("pids"))
time.sleep(600)
"""
    told = run_into_the_limit(script(tmp_path, code), tmp_path / "pids")
    assert re.fullmatch(rf"the hook {Path(sys.executable).name} was ended after \d+ s", told)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    wait_for(lambda: not any(is_alive(pid) for pid in pids))


def test_more_than_the_bound_are_dropped_and_told_and_do_not_count_as_run() -> None:
    problems: list[str] = []
    clock, sleep = Clock(), Command.parse("sleep 600")
    hooks = Hooks(HookOptions(most_at_once=2), problems.append, clock)
    assert [hooks.fire(sleep, name, "", {}) for name in "ABC"] == [True, True, False]
    assert problems == ["the hook sleep was dropped: 2 run already"]
    hooks.close(0)
    wait_for(lambda: len(problems) == 3)  # it waits for them, and not for ever
    assert problems[1:] == ["the hook sleep was ended with this program"] * 2
    hooks = Hooks(HookOptions(most_at_once=1), problems.append, clock)
    quick = Command.parse("true")
    assert hooks.fire(quick, "A", "", {})
    wait_for(lambda: hooks.fire(quick, "B", "", {}))  # B was dropped at least once if A still ran; no cool-down for it
    hooks.close(PATIENCE_S)


def test_closing_waits_for_hooks_that_are_nearly_done(tmp_path: Path) -> None:
    code = "import sys, time, pathlib; time.sleep(0.5); pathlib.Path(sys.argv[1], 'done').touch()"
    hooks = Hooks(HookOptions(), pytest.fail)
    hooks.fire(Command.parse(script(tmp_path, code)), None, "", {})
    hooks.close(PATIENCE_S)
    assert (tmp_path / "done").exists()


def test_failures_are_told_without_the_arguments(tmp_path: Path) -> None:
    problems: list[str] = []
    hooks = Hooks(HookOptions(), problems.append)
    hooks.fire(Command.parse("false --token=hush"), None, "", {})
    gone = tmp_path / "gone"
    gone.write_text("#!/bin/sh\n")
    gone.chmod(0o700)
    command = Command.parse(str(gone))
    gone.unlink()
    hooks.fire(command, None, "", {})
    hooks.close(PATIENCE_S)
    assert sorted(problems) == [
        "the hook false ended with exit code 1",
        "the hook gone cannot be started (No such file or directory)",
    ]


def test_a_hook_that_reads_nothing_is_no_failure() -> None:
    hooks = Hooks(HookOptions(), pytest.fail)
    for number in range(4):
        hooks.fire(Command.parse("true"), str(number), "x" * 2000, {})
    hooks.close(PATIENCE_S)


def test_descriptors_are_not_leaked() -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to count descriptors")

    def run() -> None:
        hooks = Hooks(HookOptions(), pytest.fail)
        hooks.fire(Command.parse("true"), None, "", {})
        hooks.close(PATIENCE_S)

    run()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run()
    # Not equal: what another test left to a thread may come and go meanwhile.
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 5


def test_a_hook_that_does_not_read_a_long_input_holds_nobody_up() -> None:
    problems: list[str] = []
    hooks = Hooks(HookOptions(timeout_s=1, most_at_once=1), problems.append)
    assert hooks.fire(Command.parse("sleep 600"), "A", "x" * 1_000_000, {})
    wait_for(lambda: problems)
    assert problems == ["the hook sleep was ended after 1 s"]
    wait_for(lambda: hooks.fire(Command.parse("true"), "B", "", {}))  # its place is free again
    hooks.close(PATIENCE_S)


def test_a_long_input_arrives_whole(tmp_path: Path) -> None:
    code = "import sys, pathlib; pathlib.Path(sys.argv[1], 'size').write_text(str(len(sys.stdin.read())))"
    hooks = Hooks(HookOptions(), pytest.fail)
    hooks.fire(Command.parse(script(tmp_path, code)), None, "x" * 1_000_000, {})
    hooks.close(PATIENCE_S)
    assert (tmp_path / "size").read_text() == "1000001"


ESCAPES = {
    "a session of its own": "import os, sys, time\nif os.fork() == 0:\n    os.setsid()\n    {mark}\ntime.sleep(600)",
    "a daemon": """import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    {mark}
    time.sleep(600)
time.sleep(600)""",
    "a daemon of a hook that has ended": """import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    {mark}
    time.sleep(600)
""",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a process of another session is found on Linux only")
@pytest.mark.parametrize("escape", ESCAPES)
@pytest.mark.parametrize("ended_by", ["limit", "close", "death"])
def test_nothing_that_a_hook_started_outlives_it(tmp_path: Path, escape: str, ended_by: str) -> None:
    mark = "at = sys.argv[1]; open(at + '/part', 'w').write(str(os.getpid())); os.rename(at + '/part', at + '/pid')"
    command = script(tmp_path, ESCAPES[escape].replace("{mark}", mark))
    if ended_by == "limit":
        told = run_into_the_limit(command, tmp_path / "pid")
        left = "left programs running, which were" if "has ended" in escape else "was"
        assert re.fullmatch(rf"the hook {Path(sys.executable).name} {left} ended after \d+ s", told)
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda: not is_alive(pid))
        return
    if ended_by == "death":
        program = (
            "import sys, time\nfrom edge_app.notify.hooks import *\n"
            "Hooks(HookOptions(), print).fire(Command.parse(sys.argv[1]), None, '', {})\ntime.sleep(600)"
        )
        watcher = subprocess.Popen([sys.executable, "-c", program, command])
    else:
        hooks = Hooks(HookOptions(timeout_s=600), lambda _: None)
        hooks.fire(Command.parse(command), None, "", {})
    wait_for((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    assert is_alive(pid)
    if ended_by == "death":
        watcher.kill()
        watcher.wait()
    else:
        hooks.close(0)
    wait_for(lambda: not is_alive(pid))


def test_a_hook_finds_the_data_folder_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import json, os, sys, pathlib; pathlib.Path(sys.argv[1], 'env').write_text(json.dumps(dict(os.environ)))"
    monkeypatch.setenv("EDGE_APP_HOME", "/from/the/environment")
    for secret in ("EDGE_APP_MQTT", "EDGE_APP_WEBHOOK", "EDGE_APP_PASSPHRASE"):
        monkeypatch.setenv(secret, "mqtt://door:hush@host/topic")
    found = []
    for home in (None, Path("/from/the/option")):
        hooks = Hooks(HookOptions(home=home), pytest.fail)
        hooks.fire(Command.parse(script(tmp_path, code)), None, "", {})
        hooks.close(PATIENCE_S)
        found.append(json.loads((tmp_path / "env").read_text()))
    assert [env.get("EDGE_APP_HOME") for env in found] == ["/from/the/environment", "/from/the/option"]
    assert not [env for env in found if "hush" in str(env)]
