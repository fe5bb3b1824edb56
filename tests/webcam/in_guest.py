"""Runs on a machine with a real Video4Linux driver, as root: the live commands against a camera and against vivid.

    in_guest.py FOLDER_OF_PREPARE cameras|recognize|unplug

Prints a line for everything that was tried; exits with 1 when something was not as it should be. No speed that is seen
on an emulated machine means anything: all limits are minutes, and the camera gives one small picture a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

WORK = Path(sys.argv[1])
NAME = "Barack Obama"
VIVID = ["/guest_modules/vivid.ko", "n_devs=1", "node_types=0x1", "vid_cap_nr=7"]
PATIENCE_S = 900
failed = 0


def check(what: str, good: object, seen: object = "") -> None:
    global failed
    failed += not good
    print(
        f"{'ok  ' if good else 'FAIL'} {time.monotonic():6.0f} s  {what}" + ("" if good else f": {str(seen)[:600]}"),
        flush=True,
    )


def edge_app(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "edge_app", *arguments, "--home", str(WORK / "home")]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(edge_app(*arguments), capture_output=True, text=True, timeout=PATIENCE_S, check=False)


class Watching:
    """`edge-app watch SOURCE --json`, its events and what it tells."""

    def __init__(self, source: str) -> None:
        self.said: list[str] = []
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process = subprocess.Popen(
            edge_app("watch", source, "--json"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def sees(self, wanted: Callable[[str], bool], within_s: float = PATIENCE_S) -> bool:
        """Whether such a line comes; all until then are kept."""
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                self.said.append(self._lines.get(timeout=left_s).strip())
            except queue.Empty:
                return False
            if wanted(self.said[-1]):
                return True
        return False

    def ends(self) -> int:
        self._process.terminate()
        return self._process.wait(PATIENCE_S)


def is_event(event: str, name: str | None = None) -> Callable[[str], bool]:
    def matches(line: str) -> bool:
        found = json.loads(line) if line.startswith("{") else {}
        return found.get("event") == event and name in (None, found.get("name"))

    return matches


def cameras() -> None:
    """What the commands that only look at cameras say of the two."""
    listed = run("cameras", "--no-measure", "--json")
    found = {camera["spec"]: camera for camera in json.loads(listed.stdout)["cameras"]}
    check("both cameras are listed", set(found) == {"0", "7"}, listed)
    check("by their drivers' names", found["0"]["name"] == "FaceCam" and "vivid" in found["7"]["name"], found)
    check("vivid offers dozens of formats", len(found["7"]["formats"]) > 100, len(found["7"]["formats"]))
    names = {one["encoding"] for one in found["7"]["formats"]}
    check(
        "all of them with a printable name", all(name.isprintable() and "\ufffd" not in name for name in names), names
    )
    table = run("cameras", "--no-measure").stdout
    check("the table is a readable one", len(table) < 3000 and "more encodings" in " ".join(table.split()), table)
    os.mknod("/dev/video9", 0o600 | stat.S_IFCHR, os.makedev(81, 200))  # a node whose device is gone
    doctor = run("doctor")
    lines = [line for line in doctor.stdout.splitlines() if " camera: " in line]
    check("the doctor opened both", [line[:4] for line in lines[:2]] == ["ok  ", "ok  "], doctor.stdout)
    check("and says ill for a node without a camera", doctor.returncode == 1 and lines[2].startswith("ILL"), lines)


def recognize() -> None:
    """A man in front of a camera, for the command that waits for him and the one that tells who comes."""
    look = ("--source", "0", "--timeout", "900", "--liveness", "off")  # a clip makes no movements that it is asked for
    found = subprocess.run(edge_app("verify", NAME, *look), check=False).returncode
    check("verify sees the man", found == 0, found)
    watching = Watching("/dev/video0")
    check("watch names him", watching.sees(is_event("recognized", NAME)), watching.said)
    check("it ends when it is asked to", watching.ends() == 0)


def unplug() -> None:
    """A camera that is unplugged while it is watched, and comes back."""
    watching = Watching("7")
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_open("/dev/video7") and time.monotonic() < deadline_s:
        time.sleep(2)
    check("watch opens the camera", is_open("/dev/video7"), watching.said)
    time.sleep(30)  # until pictures came: a camera that never gave one is another case
    subprocess.run(["rmmod", "-f", "vivid"], check=False)
    if Path("/dev/video7").exists():  # in use: the driver lets go when the device is unbound
        for device in Path("/sys/bus/platform/drivers/vivid").glob("vivid.*"):
            Path("/sys/bus/platform/drivers/vivid/unbind").write_text(device.name)
    check("the camera is unplugged", not Path("/dev/video7").exists())
    check("an unplugged camera is lost", watching.sees(is_event("source_lost")), watching.said)
    subprocess.run(["rmmod", "vivid"], check=False)
    time.sleep(2)
    subprocess.run(["insmod", *VIVID], check=False)
    check("the camera is plugged in again", Path("/dev/video7").exists())
    check("and comes back", watching.sees(is_event("source_back")), watching.said)
    told = [event for event in ("source_lost", "source_back") for line in watching.said if is_event(event)(line)]
    check("lost once, back once", told == ["source_lost", "source_back"], watching.said)
    check("it ends when it is asked to", watching.ends() == 0)


def is_open(device: str) -> bool:
    """Whether any process has it open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == device:
                return True
    return False


@contextlib.contextmanager
def fed() -> Iterator[None]:
    """The clip on /dev/video0."""
    shown = ["-re", "-stream_loop", "-1", "-i", str(WORK / "clip.mp4"), "-r", "1", "-pix_fmt", "yuyv422"]
    feed = subprocess.Popen(["ffmpeg", "-nostdin", "-loglevel", "error", *shown, "-f", "v4l2", "/dev/video0"])
    time.sleep(15)
    check("the camera is fed", feed.poll() is None)
    yield
    feed.terminate()


def main() -> None:
    if not Path("/sys/class/video4linux").exists():
        subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    part = {one.__name__: one for one in (cameras, recognize, unplug)}[sys.argv[2]]
    with contextlib.nullcontext() if part is unplug else fed():
        part()
    sys.exit(1 if failed else 0)


main()
