"""A real terminal, driven by keys: enroll from the sample clip, be recognized, quit, leave the terminal as it was."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from edge_app.cli.parameters import Arguments
from edge_app.cli.tui import desk_of, pictures_named
from edge_app.cli.tui import run as run_tui
from edge_app.core.errors import MediaError, UsageError
from edge_app.gallery.storage import Vault
from edge_app.system.data_folder import Home
from edge_app.tui.picture.terminal import in_plain_characters

PATIENCE_S = 300


class Session:
    """A tmux server of its own, with one window of a fixed size."""

    def __init__(self, folder: Path, size: tuple[int, int] = (120, 40)) -> None:
        self._socket = folder / "tmux"
        self._size = size

    def tmux(self, *words: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), "-f", "/dev/null", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        return done.stdout

    def open(self, command: str, environment: str = "LANG=C.UTF-8") -> None:
        width, height = self._size
        self.tmux("new-session", "-d", "-x", str(width), "-y", str(height), "sh")
        # The shell of the test may echo anything: what counts begins after the screen is cleared.
        self.type(f"export COLORTERM=truecolor {environment}; clear; {command}; echo left with $?")

    def type(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)
        self.key("Enter")

    def key(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def screen(self, *options: str) -> str:
        return self.tmux("capture-pane", "-p", *options)

    def until(self, there: Callable[[str], object], what: str) -> str:
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            screen = self.screen()
            if there(screen):
                return screen
            time.sleep(0.1)
        raise AssertionError(f"never happened: {what}\n{self.screen()}")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux")
    one = Session(tmp_path)
    yield one
    one.tmux("kill-server")


@pytest.mark.slow
def test_somebody_is_enrolled_and_greeted_in_a_real_terminal(session: Session, home: Home) -> None:
    root = Path(__file__).resolve().parents[2]
    session.open(f"cd {root} && {sys.executable} -m edge_app tui --source sample --stats --home {home.path}")
    session.until(lambda screen: "sample clip: live" in screen, "the live picture")
    assert re.search(r"\x1b\[38;2;\d+;\d+;\d+", session.screen("-e")), "true colour reaches the terminal"
    session.key("e")
    session.until(lambda screen: "Type a name" in screen, "the question for a name")
    session.type("Tess")
    session.until(lambda screen: "Press c to use the camera" in screen, "the choice of a source")
    session.key("c")
    session.until(lambda screen: re.search(r"1 (front|left|right) 0\.\d\d", screen), "a shot is taken by itself")
    session.key("Enter")
    session.until(lambda screen: "would be kept" in screen, "what is kept")
    session.key("Enter")
    session.until(lambda screen: "Tess is enrolled with" in screen, "the shots are stored")
    session.key("Enter")
    session.until(lambda screen: "● Tess 0." in screen and "Here now" in screen, "Tess is recognized")
    session.key("p")
    session.until(lambda screen: "sample clip" in screen and "No picture is kept" in screen, "the roster")
    session.key("Escape")
    session.until(lambda screen: "Here now" in screen, "the live picture again")
    session.key("q")
    after = session.until(lambda screen: "left with 0" in screen, "it quits")
    assert "pictures drawn" in after and "Traceback" not in after
    with Vault(home.gallery_path) as vault:
        assert vault.names() == ("Tess",)
    assert home.exposed() == ()


ROOT = Path(__file__).resolve().parents[2]


def app_of(home: Home) -> str:
    return f"cd {ROOT} && {sys.executable} -m edge_app tui --source sample --home {home.path}"


def process_of(home: Home) -> int:
    """Number of the app's process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"edge_app" in words and str(home.path).encode() in words:
            return int(folder.name)
    raise AssertionError("the app does not run")


def ended(number: int) -> bool:
    try:
        return "\nState:\tZ" in Path(f"/proc/{number}/status").read_text()
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_as_quitting_does_and_gives_the_terminal_back(
    session: Session, home: Home, number: int, code: int
) -> None:
    session.open(app_of(home))
    session.until(lambda screen: "sample clip: live" in screen, "the live picture")
    assert session.tmux("display", "-p", "#{alternate_on}").strip() == "1"
    os.kill(process_of(home), number)
    after = session.until(lambda screen: f"left with {code}" in screen, "it ends")
    assert "Traceback" not in after
    assert session.tmux("display", "-p", "#{alternate_on} #{cursor_flag} #{mouse_any_flag}").split() == ["0", "1", "0"]
    session.type("echo typed $((40 + 2))")
    session.until(lambda screen: "typed 42" in screen, "the shell is as before")


@pytest.mark.slow
def test_it_ends_when_its_terminal_is_closed(session: Session, home: Home) -> None:
    session.open(app_of(home))
    session.until(lambda screen: "sample clip: live" in screen, "the live picture")
    number = process_of(home)
    session.tmux("kill-server")
    end_s = time.monotonic() + PATIENCE_S
    while not ended(number) and time.monotonic() < end_s:
        time.sleep(0.1)
    assert ended(number)
    logged = home.log_path.read_text() if home.log_path.exists() else ""
    assert "Traceback" not in logged and "Error" not in logged


@pytest.mark.slow
def test_without_utf_8_it_draws_with_what_the_encoding_has(session: Session, home: Home) -> None:
    session.open(app_of(home), "LC_ALL=C PYTHONIOENCODING=ascii PYTHONUTF8=0 PYTHONCOERCECLOCALE=0")
    screen = session.until(lambda screen: "sample clip: live" in screen and "unknown" in screen, "the live picture")
    assert "\\u" not in screen and "\\x" not in screen and screen.isascii()
    # The side panel's right border stands in one column: nothing was shifted.
    borders = [line.rstrip() for line in screen.splitlines() if line.rstrip().endswith("|")]
    assert len(borders) > 10 and len({len(line) for line in borders}) == 1
    session.key("q")
    session.until(lambda screen: "left with 0" in screen, "it quits")


def test_what_an_encoding_lacks_is_as_wide_in_plain_characters() -> None:
    codecs.register_error("plain-test", in_plain_characters)
    for text in ("╭─ Here now ─╮", "● Zoë … 5 s", "▀▄█ │ ← ✓", "名前 ok", "e\u0301"):
        for encoding in ("ascii", "latin-1", "koi8-r"):
            written = text.encode(encoding, "plain-test").decode(encoding)
            assert cell_len(written) == cell_len(text), (text, encoding, written)
    assert "●".encode("ascii", "plain-test") == b"*" and "Zoë".encode("latin-1", "plain-test") == b"Zo\xeb"


def test_what_is_no_terminal_is_refused_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="edge-app watch"):
        run_tui(arguments())


def test_without_a_camera_it_is_the_sample_clip_and_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_app.cli.tui._cameras", lambda: ())
    desk = desk_of(arguments(home=home.path))
    assert desk.source == "sample"
    assert "No camera was found" in desk.notices[0]


def test_the_last_source_is_opened_again_unless_it_is_gone(home: Home, tmp_path: Path) -> None:

    home.change_settings(source="http://camera.local/video")
    assert desk_of(arguments(home=home.path)).source == "http://camera.local/video"
    home.change_settings(source=str(tmp_path / "gone.mp4"))
    desk = desk_of(arguments(home=home.path))
    assert desk.source == "sample" and "does not exist" in desk.notices[0]


def test_passive_liveness_without_a_network_is_off_and_says_so(home: Home) -> None:
    home.change_settings(liveness="passive", source="http://camera.local/video")
    desk = desk_of(arguments(home=home.path))
    assert desk.settings.liveness == "off" and "No liveness network" in desk.notices[0]
    home.change_settings(liveness="challenge")
    desk = desk_of(arguments(home=home.path))
    assert desk.settings.liveness == "challenge" and not desk.notices


def test_pictures_are_named_as_in_a_shell(tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    folder.mkdir()
    for name in ("b.jpg", "a.png"):
        (folder / name).write_bytes(b"x")
    assert pictures_named(f"'{folder}' {tmp_path}/c.jpg") == (folder / "a.png", folder / "b.jpg", tmp_path / "c.jpg")
    with pytest.raises(UsageError):
        pictures_named("'open")
    with pytest.raises(MediaError):
        pictures_named("  ")


def test_a_snapshot_is_private_and_holds_the_boxes(home: Home) -> None:
    import numpy as np

    from edge_app.core.types import Face, Finding, Frame, Match, Seen
    from edge_app.media.pictures import read_picture

    face = Face(np.array([20, 20, 60, 60], np.float32), np.full((5, 2), 40, np.float32), 0.9)
    frame = Frame(np.zeros((100, 100, 3), np.uint8), 7, 0.0)
    seen = Seen(frame, (Finding(face.box, Match("Ada", 0.9, 2.0), face=face),), {})
    path = desk_of(arguments(home=home.path, source="sample")).snapshot(seen)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_picture(path).max() > 0
    assert home.exposed() == ()


def arguments(**given: object):
    names = ("home", "source", "seconds", "fpir", "margin", "precision", "detector", "threads", "min_face")
    return Arguments(**dict.fromkeys(names) | {"stats": False} | given)
