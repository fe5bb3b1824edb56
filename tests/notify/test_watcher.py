"""The watcher as scripts use it: the real command on a composed clip, with a real camera server, hooks and signals."""

from __future__ import annotations

import http.server
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from edge_app.cli import main
from edge_app.cli.commands import parse
from edge_app.core.errors import EdgeError
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.live.events import LiveEvent
from edge_app.media import cameras, sample
from edge_app.media.cameras import CameraFormat, CameraInfo
from edge_app.media.live_camera import CameraState, CameraStatus
from edge_app.media.pictures import read_picture, write_picture
from edge_app.media.sample import Actor, Pose, Scene
from edge_app.media.video_writer import VideoWriter
from edge_app.notify.watcher import Stop, watch
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.media.mjpeg_server import MjpegServer
from tests.model_store.planted import colour_card, install, plain
from tests.notify.mqtt_broker import Listener, Mosquitto

Capture = pytest.CaptureFixture[str]

SIZE_PX = (320, 240)
OBAMA, BIDEN = sample.OBAMA, sample.BIDEN


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A data folder in which the sample people are enrolled."""
    home = Home(tmp_path_factory.mktemp("watch") / "home")
    bench = open_people(home, Settings(precision="fp32"))
    for name, paths in sample.people().items():
        looks = [(path.name, bench.recognizer.shot(read_picture(path), path.name)) for path in paths]
        assert any(verdict.accepted for verdict in bench.enroll(name, looks, EnrollOptions()))
    home.change_settings(precision="fp32")
    return home


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds: Obama comes, stays a little and goes, then a stranger comes and stays."""
    stranger, obama, _ = sample.clip_scene().actors
    visit = (
        Pose(0.4, -0.3, 0.4, 0.35),
        Pose(0.9, 0.5, 0.4, 0.35),
        Pose(2.4, 0.52, 0.4, 0.35),
        Pose(3.0, 1.4, 0.4, 0.35),
    )
    arrival = (Pose(3.3, 1.3, 0.4, 0.35), Pose(3.8, 0.5, 0.4, 0.35), Pose(5.0, 0.5, 0.4, 0.36))
    scene = Scene((Actor(OBAMA, obama.cutout, visit), Actor(None, stranger.cutout, arrival)), 5.0, SIZE_PX, 15.0)
    path = tmp_path_factory.mktemp("clip") / "door.mp4"
    with VideoWriter(path, SIZE_PX, scene.fps) as video:
        for frame, _ in sample.compose(scene):
            video.write(frame.pixels)
    return path


@pytest.fixture(scope="module")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Obama comes, and stays for two minutes: at its own speed it outlasts whatever a busy machine is slow at."""
    _, obama, _ = sample.clip_scene().actors
    poses = (Pose(0.4, -0.3, 0.4, 0.35), Pose(0.9, 0.5, 0.4, 0.35), Pose(2.4, 0.52, 0.4, 0.35))
    scene = Scene((Actor(OBAMA, obama.cutout, poses),), 2.4, SIZE_PX, 15.0)
    pictures = [frame.pixels for frame, _ in sample.compose(scene)]
    to_and_fro = pictures[14:] + pictures[14:][::-1]
    path = tmp_path_factory.mktemp("clip") / "long.mp4"
    with VideoWriter(path, SIZE_PX, scene.fps) as video:
        for pixels in (*pictures, *itertools.islice(itertools.cycle(to_and_fro), 120 * 15)):
            video.write(pixels)
    return path


@pytest.fixture
def bench(home: Home) -> PeopleSession:
    return open_people(home)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGE_APP_HOME", "EDGE_APP_WEBHOOK", "EDGE_APP_MQTT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def start(*args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edge_app", *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


PATIENCE_S = 120.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


class Sink:
    """A server on loopback that fails twice, then accepts."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        codes, bodies = [503, 500], self.bodies

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                code = codes.pop() if codes else 200
                if code == 200:
                    bodies.append(body)
                self.send_response(code)
                self.end_headers()

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://me:hush@127.0.0.1:{self._server.server_port}/token"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    server = Sink()
    yield server
    server.stop()


@pytest.mark.slow
def test_a_clip_is_told_to_standard_output_hooks_and_a_webhook(
    home: Home, clip: Path, sink: Sink, tmp_path: Path
) -> None:
    hook = tmp_path / "hook.py"
    hook.write_text(
        "import os, sys, pathlib\n"
        "text = sys.stdin.read() + os.environ['EDGE_APP_EVENT'] + ' ' + os.environ['EDGE_APP_NAME']\n"
        "pathlib.Path(sys.argv[1], sys.argv[2]).write_text(text)\n"
        "print('said by a hook')\n"
    )
    run = f"{sys.executable} -S {hook} '{tmp_path}'"
    hooks = ["--on-known", f"{run} known", "--on-unknown", f"{run} unknown", "--on-left", "sleep 600"]
    watcher = start(
        "watch",
        clip,
        "--json",
        "--home",
        home.path,
        "--webhook",
        sink.url,
        "--hook-timeout",
        PATIENCE_S,  # of a busy machine a hook may take long; those that sleep are ended with the watcher
        "--cooldown",
        0,
        *hooks,
    )
    out, err = watcher.communicate(timeout=PATIENCE_S)

    assert watcher.returncode == 0
    lines = out.splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["track"] for event in events} == {1, 2}
    first, second = ([event for event in events if event["track"] == track] for track in (1, 2))
    assert [(e["event"], e["name"]) for e in first] == [("appeared", None), ("recognized", OBAMA), ("left", OBAMA)]
    assert [(e["event"], e["name"]) for e in second] == [("appeared", None), ("unknown", None), ("left", None)]
    for event in events:
        assert list(event) == ["event", "time_s", "track", "name", "similarity", "duration_s"]
    assert 0.4 < first[0]["time_s"] < 1.2 and 3.3 < second[0]["time_s"] < 4.1
    assert first[1]["similarity"] > 0.5 > second[1]["similarity"]

    assert sink.bodies == lines
    assert (tmp_path / "known").read_text() == f"{lines[events.index(first[1])]}\nrecognized {OBAMA}"
    assert (tmp_path / "unknown").read_text() == f"{lines[events.index(second[1])]}\nunknown "
    assert sorted(err.splitlines()) == [
        "edge-app: the hook sleep was ended with this program",
        "edge-app: the hook sleep was ended with this program",
        "said by a hook",
        "said by a hook",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_cleanly_and_nobody_is_said_to_have_left(
    home: Home, long_clip: Path, number: signal.Signals, code: int
) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, and the watcher leaves that as it is")
    watcher = start("watch", long_clip, "--json", "--realtime", "--home", home.path)
    assert watcher.stdout is not None
    lines = [watcher.stdout.readline(), watcher.stdout.readline()]  # each event is flushed when it happens
    watcher.send_signal(number)
    rest, err = watcher.communicate(timeout=PATIENCE_S)
    assert watcher.returncode == code
    assert [json.loads(line)["event"] for line in lines] == ["appeared", "recognized"]
    assert rest == ""
    assert err == ""


def test_a_reader_that_goes_away_ends_it_without_complaint(home: Home, clip: Path) -> None:
    watcher = start("watch", clip, "--realtime", "--home", home.path)  # else it may have ended before this goes away
    assert watcher.stdout is not None and watcher.stderr is not None
    watcher.stdout.readline()
    watcher.stdout.close()
    err = watcher.stderr.read()
    watcher.stderr.close()
    assert watcher.wait(PATIENCE_S) == 1
    assert err == ""


def test_a_lost_camera_is_told_and_comes_back(bench: PeopleSession) -> None:
    told: list[str] = []
    with MjpegServer(password="hush") as server, Stop() as stop:
        events = watch(bench, server.url, stop, told.append)
        with closing(events):
            unplug = threading.Thread(target=lambda: (wait_for(lambda: server.sent > 3), server.stop()))
            unplug.start()
            lost = next(events)
            unplug.join()
            server.start()
            back = next(events)
        place = f"http://user:***@127.0.0.1:{server.port}/video.mjpg"
    assert (lost.event, back.event) == ("source_lost", "source_back")
    assert back.duration_s is not None and back.duration_s > 0
    assert len(told) == 1 and told[0].startswith(place)


def test_a_damaged_video_is_an_error_in_one_line(home: Home, clip: Path, tmp_path: Path, capsys: Capture) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:-3000])
    assert main(["watch", str(broken), "--home", str(home.path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"edge-app: {broken} is not a video") and captured.err.count("\n") == 1


def test_an_empty_gallery_is_told_and_everybody_is_unknown(clip: Path, tmp_path: Path, capsys: Capture) -> None:
    Home(tmp_path / "empty").change_settings(precision="fp32")
    assert main(["watch", str(clip), "--json", "--home", str(tmp_path / "empty")]) == 0
    captured = capsys.readouterr()
    names = {json.loads(line)["name"] for line in captured.out.splitlines()}
    assert names == {None}
    assert (
        captured.err
        == "edge-app: nobody is enrolled yet, so everybody is unknown; try: edge-app enroll NAME IMAGE IMAGE\n"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        ["--on-known", "no-such-program-here"],
        ["--on-left", "'"],
        ["--webhook", "ftp://host/"],
        ["--mqtt", "mqtt://me:hush@host"],
        ["--hook-limit", "0"],
        ["--cooldown", "-1"],
    ],
)
def test_misuse_is_refused_before_anything_is_loaded(
    wrong: list[str], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_app.cli.options.people", lambda _: pytest.fail("models were loaded"))
    assert main(["watch", "sample", "--home", str(tmp_path), *wrong]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "hush" not in err


def test_events_are_published_to_a_broker_named_in_the_environment(
    home: Home, clip: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Mosquitto(tmp_path)
    broker.start()
    try:
        monkeypatch.setenv("EDGE_APP_MQTT", f"mqtt://door:s%40cret@127.0.0.1:{broker.port}/home/door")
        with Listener(broker.port) as listener:
            assert main(["watch", str(clip), "--json", "--home", str(home.path)]) == 0
            out, err = capsys.readouterr()
            wait_for(lambda: len(listener.heard) == len(out.splitlines()))
        assert [text for _, text in listener.heard] == out.splitlines()
        assert err == ""
    finally:
        broker.close()


class StandIn:
    """A live loop that hands over what it is told to, and is over after that."""

    updates: tuple[tuple[CameraState, tuple[LiveEvent, ...], str], ...] = ()

    def __init__(self, _bench: object, _source: str, sink: Callable[[object], None], *_: object, mode: object) -> None:
        assert mode is None
        for state, events, trouble in self.updates:
            sink(SimpleNamespace(events=events, status=CameraStatus(state, state.value), trouble=trouble))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def join(self, _timeout_s: float) -> bool:
        return True


def test_what_comes_after_the_source_has_ended_is_told_too(
    bench: PeopleSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = LiveEvent("appeared", 1.0, 1), LiveEvent("left", 2.0, 1)
    # The camera may be at its end while its last frame is still looked at.
    monkeypatch.setattr(StandIn, "updates", ((CameraState.ENDED, (first,), ""), (CameraState.ENDED, (last,), "")))
    monkeypatch.setattr("edge_app.notify.watcher.Worker", StandIn)
    assert list(watch(bench, "sample", Stop(), pytest.fail)) == [first, last]


def test_a_loop_that_fails_is_an_error_and_each_trouble_is_told_once(
    bench: PeopleSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, lost, ended = CameraState.LIVE, CameraState.LOST, CameraState.ENDED
    steps = ((lost, ""), (lost, ""), (live, "fault"), (live, "fault"), (lost, ""), (ended, "internal fault"))
    monkeypatch.setattr(StandIn, "updates", tuple((state, (), trouble) for state, trouble in steps))
    monkeypatch.setattr("edge_app.notify.watcher.Worker", StandIn)
    told: list[str] = []
    with pytest.raises(EdgeError, match=r"^internal fault$"):
        list(watch(bench, "sample", Stop(), told.append))
    assert told == ["lost", "fault", "lost"]


# verify


@pytest.mark.usefixtures("young_process")
def test_verify_answers_by_exit_code_alone(home: Home, clip: Path, capsys: Capture) -> None:
    common = ["--source", str(clip), "--home", str(home.path), "--liveness", "off", "--timeout", str(PATIENCE_S)]
    assert main(["verify", OBAMA, *common]) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["verify", BIDEN, *common]) == 1
    assert capsys.readouterr() == ("", f"edge-app: {BIDEN} was not recognized in time\n")
    assert main(["verify", "Barack Obana", *common]) == 2
    assert main(["verify", OBAMA, *common, "--timeout", "0"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0].startswith("edge-app: nobody named 'Barack Obana' is enrolled")


@pytest.mark.usefixtures("young_process")
def test_a_photo_says_who_is_on_it(home: Home, tmp_path: Path, capsys: Capture) -> None:
    [probe] = sample.probes()[OBAMA]
    common = ["--home", str(home.path)]
    assert main(["watch", str(probe), "--json", *common]) == 0
    event = json.loads(capsys.readouterr().out)
    assert list(event) == ["event", "time_s", "track", "name", "similarity", "duration_s"]
    assert (event["event"], event["name"], event["time_s"]) == ("recognized", OBAMA, 0.0) and event["similarity"] > 0.5
    assert main(["watch", str(sample.stranger()), *common]) == 0
    assert " unknown " in capsys.readouterr().out
    empty = tmp_path / "empty.png"
    write_picture(empty, plain((90, 90, 90), 300, 300))
    assert main(["watch", str(empty), *common]) == 0
    assert capsys.readouterr() == ("", f"edge-app: no face in {empty}\n")
    common += ["--timeout", str(PATIENCE_S), "--liveness", "off"]
    assert main(["verify", OBAMA, "--source", str(probe), *common]) == 0
    assert main(["verify", BIDEN, "--source", str(probe), *common]) == 1


@pytest.mark.usefixtures("young_process")
def test_verify_gives_up_in_time(home: Home) -> None:
    with MjpegServer() as server:
        for timeout_s in (3, 12, 48):  # a busy machine may be at the models still when three seconds are over
            asked = ["verify", OBAMA, "--source", server.url, "--timeout", str(timeout_s), "--home", str(home.path)]
            assert main(asked) == 1
            if server.sent:
                break
        assert server.sent > 0


def test_a_time_out_counts_from_the_start_of_the_process(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    began_s = time.monotonic() - 3600
    monkeypatch.setattr("edge_app.system.timing.process_began_s", lambda: began_s)
    with MjpegServer() as server:
        assert main(["verify", OBAMA, "--source", server.url, "--timeout", "300", "--home", str(home.path)]) == 1
        assert server.sent < 3000  # five minutes of pictures would be 7500


@pytest.mark.usefixtures("young_process")
def test_verify_that_is_ended_by_a_signal_lets_nobody_in(home: Home) -> None:
    with MjpegServer() as server:

        def end() -> None:
            wait_for(lambda: server.sent)
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=end).start()
        assert main(["verify", OBAMA, "--source", server.url, "--timeout", "600", "--home", str(home.path)]) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# cameras


CAMERAS = (
    CameraInfo(
        "0",
        "/dev/video0",
        "Laptop [camera]",
        (CameraFormat("MJPG", (1280, 720), 30.0), CameraFormat("YUYV", (640, 480), None)),
        29.7,
        (640, 480),
    ),
    CameraInfo("2", "/dev/video2", "Stick", problem="does not answer (busy)"),
)


@pytest.fixture
def two_cameras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cameras, "list_cameras", lambda *, measure=False: CAMERAS)


@pytest.mark.usefixtures("two_cameras")
def test_cameras_are_listed_with_formats_rate_and_problems(tmp_path: Path, capsys: Capture) -> None:
    assert main(["cameras", "--home", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for expected in (
        "Laptop [camera]",
        "29.7 fps at 640x480",
        "MJPG 1280x720@30; YUYV 640x480",
        "does not answer (busy)",
    ):
        assert expected in out
    assert main(["cameras", "--json", "--home", str(tmp_path)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["spec"] for one in listed["cameras"]] == ["0", "2"]
    assert listed["cameras"][0]["formats"][0] == {"encoding": "MJPG", "size_px": [1280, 720], "fps": 30.0}


@pytest.mark.usefixtures("two_cameras")
@pytest.mark.parametrize(
    ("text", "kept", "shown"),
    [
        ("2", "2", "2"),
        ("/dev/video0", "/dev/video0", "/dev/video0"),
        ("sample", "sample", "sample"),
        ("rtsp://me:hush@host/x", "rtsp://me:hush@host/x", "rtsp://me:***@host/x"),
        ("first", None, "the first camera"),
    ],
)
def test_a_choice_is_remembered_beside_the_other_settings(
    text: str, kept: str | None, shown: str, tmp_path: Path, capsys: Capture
) -> None:
    home = Home(tmp_path)
    home.change_settings(fpir=0.02, source="old")
    assert main(["cameras", "--use", text, "--home", str(tmp_path)]) == 0
    assert home.settings() == Settings(fpir=0.02, source=kept)
    assert capsys.readouterr().out == f"live commands open {shown} from now on\n"


@pytest.mark.usefixtures("two_cameras")
def test_a_chosen_file_is_found_from_any_folder(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clip.parent)
    assert main(["cameras", "--use", clip.name, "--home", str(tmp_path)]) == 0
    assert Home(tmp_path).settings().source == str(clip)


@pytest.mark.usefixtures("two_cameras")
@pytest.mark.parametrize("text", ["1", "/dev/video9", "no-such-file.mp4"])
def test_a_source_that_is_not_there_is_not_remembered(text: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["cameras", "--use", text, "--home", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert Home(tmp_path).settings().source is None


@pytest.mark.usefixtures("two_cameras", "young_process")
def test_watch_and_verify_open_the_remembered_source(home: Home, clip: Path, tmp_path: Path) -> None:
    home.change_settings(precision="fp32", source=str(clip))
    try:
        assert main(["verify", OBAMA, "--liveness", "off", "--timeout", str(PATIENCE_S), "--home", str(home.path)]) == 0
    finally:
        home.change_settings(precision="fp32")


# the recipes

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"


def test_every_command_in_the_recipes_parses() -> None:
    commands = re.findall(
        r"(?:^|\s)(?:/opt/edge-app/bin/)?edge-app ((?:watch|verify|cameras|enroll|pam) .*)$", code(), re.M
    )
    assert len(commands) >= 8
    for command in commands:
        assert parse(shlex.split(command.partition(" && ")[0])).path


def test_the_recipes_warn_of_photos_before_anything_else() -> None:
    text = RECIPES.read_text()
    assert text.index("never as the only lock") < text.index("```")


def code() -> str:
    return "\n".join(re.findall(r"^```(?:sh|ini)\n(.*?)^```", RECIPES.read_text(), re.M | re.S))


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Two seconds of red, then two of green."""
    path = tmp_path / "colours.mp4"
    with VideoWriter(path, SIZE_PX, 15.0) as video:
        for i in range(60):
            video.write(plain((250, 10, 10) if i < 30 else (10, 250, 10), *SIZE_PX))
    return path


def test_a_classifier_s_answers_are_events_and_reach_hooks(capsys: Capture, home: Home, colours: Path, tmp_path: Path):
    card = colour_card(id=f"colours-{tmp_path.name}", temperature=0.5, commercial_use=False)
    install(home, card)
    log = tmp_path / "log"
    script = tmp_path / "hook.py"
    script.write_text(
        "import os\n"
        f"with open({str(log)!r}, 'a') as log:\n"
        "    print(os.environ['EDGE_APP_NAME'], 'EDGE_APP_CLASSES' in os.environ, file=log)\n"
    )
    hook = shlex.join([sys.executable, str(script)])
    arguments = ["watch", str(colours), "--model", card.id, "--home", str(home.path), "--on-known", hook]
    assert main([*arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [(e["event"], e["name"]) for e in told] == [
        ("recognized", "red"),
        ("unknown", None),
        ("recognized", "green"),
    ]
    assert list(told[0]) == ["event", "time_s", "track", "name", "similarity", "duration_s", "classes"]
    assert told[2]["classes"][0]["label"] == "green" and told[2]["track"] is None
    assert err.count("non-commercial") == 1 and "nobody is enrolled" not in err
    assert sorted(log.read_text().split()) == ["False", "False", "green", "red"]
    assert main(arguments) == 0
    assert "green  (green 0." in capsys.readouterr().out


def test_watch_refuses_a_model_that_reads_nothing(capsys: Capture, home: Home, colours: Path):
    assert main(["watch", str(colours), "--model", "yunet", "--home", str(home.path)]) == 2
    assert "finds faces" in capsys.readouterr().err


def test_a_model_needs_neither_gallery_nor_face_models(
    tmp_path: Path, colours: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    card = install(home)
    home.gallery_path.write_bytes(b"no database at all" * 100)
    monkeypatch.setattr(
        "edge_app.recognition.open_session._open_people", lambda *_, **__: pytest.fail("faces were opened")
    )
    arguments = ["watch", str(colours), "--model", card.id, "--home", str(home.path), "--json", "--detector", "gone"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "recognized" in out and err == ""
