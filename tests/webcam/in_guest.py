"""Runs on a machine with a real Video4Linux driver, as root: the live commands against a camera and against vivid.

Prints a line for everything that was tried; exits with 1 when something was not as it should be. No speed that is seen
on an emulated machine means anything: all limits are minutes.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

WORK = Path(sys.argv[1])
NAME = "Barack Obama"
VIVID = ["/guest_modules/vivid.ko", "n_devs=1", "node_types=0x1", "vid_cap_nr=7"]
PATIENCE_S = 400
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


def main() -> None:
    if not Path("/sys/class/video4linux").exists():
        subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    shown = ["-re", "-stream_loop", "-1", "-i", str(WORK / "clip.mp4"), "-r", "5", "-pix_fmt", "yuyv422"]
    feed = subprocess.Popen(["ffmpeg", "-nostdin", "-loglevel", "error", *shown, "-f", "v4l2", "/dev/video0"])
    time.sleep(15)

    listed = run("cameras", "--no-measure", "--json")
    cameras = {camera["spec"]: camera for camera in json.loads(listed.stdout)["cameras"]}
    check("both cameras are listed", set(cameras) == {"0", "7"}, listed)
    check("by their drivers' names", cameras["0"]["name"] == "FaceCam" and "vivid" in cameras["7"]["name"], cameras)
    check("vivid offers dozens of formats", len(cameras["7"]["formats"]) > 100, len(cameras["7"]["formats"]))
    names = {one["encoding"] for one in cameras["7"]["formats"]}
    check("all of them with a printable name", all(name.isprintable() and "�" not in name for name in names), names)
    table = run("cameras", "--no-measure").stdout
    check("the table is a readable one", len(table) < 3000 and "more encodings" in " ".join(table.split()), table)

    doctor = run("doctor")
    lines = [line for line in doctor.stdout.splitlines() if " camera: " in line]
    check("the doctor opened both", [line[:4] for line in lines] == ["ok  ", "ok  "], doctor.stdout)

    found = subprocess.run(edge_app("verify", NAME, "--source", "0", "--timeout", "300"), check=False).returncode
    check("verify sees the man", found == 0, found)
    found = subprocess.run(edge_app("verify", NAME, "--source", "7", "--timeout", "30"), check=False).returncode
    check("and not on a test picture", found == 1, found)

    watching = Watching("/dev/video0")
    check("watch names him", watching.sees(is_event("recognized", NAME)), watching.said)
    check("it ends when it is asked to", watching.ends() == 0)

    watching = Watching("7")
    time.sleep(60)  # until it is open: an unplugged camera that was never opened is another case
    subprocess.run(["rmmod", "-f", "vivid"], check=False)
    if Path("/dev/video7").exists():  # in use: the driver lets go when the device is unbound
        for device in Path("/sys/bus/platform/drivers/vivid").glob("vivid.*"):
            Path("/sys/bus/platform/drivers/vivid/unbind").write_text(device.name)
    check("the camera is unplugged", not Path("/dev/video7").exists())
    check("an unplugged camera is lost", watching.sees(is_event("source_lost")), watching.said)
    doctor = run("doctor")
    subprocess.run(["rmmod", "vivid"], check=False)
    time.sleep(2)
    subprocess.run(["insmod", *VIVID], check=True)
    check("the camera is plugged in again", Path("/dev/video7").exists())
    check("and comes back", watching.sees(is_event("source_back")), watching.said)
    lost = sum(is_event("source_lost")(line) for line in watching.said)
    check("lost once", lost == 1, watching.said)
    check("it ends when it is asked to", watching.ends() == 0)

    Path("/dev/video9").touch()
    doctor = run("doctor")
    told = [line for line in doctor.stdout.splitlines() if " camera: 9" in line]
    check("the doctor says ill for a node without a camera", doctor.returncode == 1 and told[0].startswith("ILL"), told)
    Path("/dev/video9").unlink()
    feed.terminate()
    sys.exit(1 if failed else 0)


main()
