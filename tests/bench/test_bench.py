"""The benchmark takes turns fairly, asks other libraries politely, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_app.bench import peer_speed, recognizer
from edge_app.cli import main
from edge_app.cli.bench import markdown
from edge_app.core.errors import EdgeError, ModelError
from edge_app.inference import onnx_model
from edge_app.media.pictures import read_picture
from edge_app.model_store import catalogue
from edge_app.model_store.open_detector import open_detector

FRAME = json.dumps({"frame": "unused", "box": None})


def stub(path: Path, body: str) -> Path:
    path.write_text("import json, sys\ndef say(**m): print(json.dumps(m), flush=True)\n" + body, encoding="utf-8")
    return path


def test_contestants_take_turns_and_the_warm_up_does_not_count() -> None:
    order: list[str] = []

    def contestant(name: str, ms: list[float]) -> recognizer.Contestant:
        turns = iter([1e6] * recognizer.WARM_UP_ROUNDS + ms)

        def turn() -> float:
            order.append(name)
            return next(turns)

        return turn

    rows = recognizer._take_turns(
        "x", {"edge-app": contestant("edge-app", [1.0, 2.0, 10.0]), "other": contestant("other", [5.0, 2.0, 20.0])}, 3
    )
    assert order == ["edge-app", "other"] * (3 + recognizer.WARM_UP_ROUNDS)
    # The median of the rounds' ratios 5, 1, 2, which is not the ratio 2.5 of the medians.
    assert rows == [
        {"what": "x", "who": "edge-app", "ms": 2.0, "ratio": 1.0},
        {"what": "x", "who": "other", "ms": 5.0, "ratio": 2.0},
    ]


def test_a_ratio_is_held_against_its_target() -> None:
    row = {"what": "640x480 frame", "who": "facenet-pytorch", "ms": 1.0, "ratio": 5.0}
    assert recognizer._against_target(row) == row | {"target": 5.0, "met": True}
    assert recognizer._against_target(row | {"ratio": 4.9})["met"] is False
    assert recognizer._against_target(row | {"who": "edge-app"}) == row | {"who": "edge-app"}


# Peers


def test_a_peer_is_asked_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = (
        "say(ready='stub')\n"
        "for line in sys.stdin:\n"
        "    task = json.loads(line)\n"
        "    say(ms=7.5 if task['box'] else 70.0, faces=1)\n"
    )
    monkeypatch.setattr(recognizer, "_PEER_SCRIPT", stub(tmp_path / "peer.py", body))
    with recognizer._peer("stub", sys.executable, 1) as ask:
        assert not isinstance(ask, str)
        assert ask(tmp_path / "frame.npy", None) == 70.0
        assert ask(tmp_path / "frame.npy", [1.0, 2.0, 3.0, 4.0]) == 7.5


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("say(ready='stub')\nsys.stdin.readline()\nsay(ms=1.0, faces=0)\n", "found 0 faces"),
        ("say(ready='stub')\nsys.stdin.readline()\n", "without an answer"),
    ],
)
def test_a_peer_that_fails_is_told(body: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer, "_PEER_SCRIPT", stub(tmp_path / "peer.py", body))
    with recognizer._peer("stub", sys.executable, 1) as ask:
        assert not isinstance(ask, str)
        with pytest.raises(EdgeError, match=told):
            ask(tmp_path / "frame.npy", None)


def test_an_absent_peer_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer, "_PEER_SCRIPT", stub(tmp_path / "peer.py", "say(absent='No module named x')\n"))
    with recognizer._peer("stub", sys.executable, 1) as ask:
        assert ask == "No module named x"
    monkeypatch.setattr(recognizer, "_PEER_SCRIPT", tmp_path / "gone.py")
    with recognizer._peer("stub", sys.executable, 1) as ask:
        assert ask == "gone.py is not installed"


def test_the_peers_script_runs_alone_and_reports_a_missing_library() -> None:
    # -I: neither our packages nor the user's; -S: no site-packages, so no peer is there.
    script = Path(peer_speed.__file__)
    source = "import sys, runpy, types; sys.modules['numpy'] = types.ModuleType('numpy'); "
    source += f"sys.argv = ['x', 'face_recognition']; runpy.run_path({str(script)!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "face_recognition" in json.loads(done.stdout)["absent"]


def test_the_peers_script_times_the_call_that_the_task_asks_for(tmp_path: Path) -> None:
    np.save(tmp_path / "frame.npy", np.zeros((4, 6, 3), np.uint8))
    seen: list[Any] = []
    peer = peer_speed.Peer(
        "stub", lambda frame: len(seen) or seen.append(frame.shape) or 1, lambda frame, box: seen.append(box) or 2
    )
    whole = peer_speed.answer(peer, {"frame": str(tmp_path / "frame.npy"), "box": None})
    one = peer_speed.answer(peer, {"frame": str(tmp_path / "frame.npy"), "box": [1, 2, 3, 4]})
    assert (whole["faces"], one["faces"]) == (1, 2)
    assert seen == [(4, 6, 3), [1, 2, 3, 4]]
    assert whole["ms"] >= 0.0


# What is measured


def test_the_sample_frame_has_one_face() -> None:
    frame = recognizer.sample_frame()
    assert frame.size_px == (640, 480)
    assert len(open_detector(threads=1).detect(frame.pixels)) == 1


def test_a_raw_session_gives_what_the_model_gives() -> None:
    entry = catalogue.build(None, "sface", "int8")
    crop = np.random.default_rng(0).uniform(0, 255, (1, 3, 112, 112)).astype(np.float32)
    assert np.array_equal(
        onnx_model.raw_session(entry.path, 1)(crop)[0], catalogue.open_shipped("sface", "int8", threads=1).run(crop)[0]
    )


def test_a_raw_session_of_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"nothing")
    with pytest.raises(ModelError, match=r"x\.onnx"):
        onnx_model.raw_session(tmp_path / "x.onnx")


def test_the_folder_holds_different_pictures_that_can_be_read(tmp_path: Path) -> None:
    paths = recognizer._many_pictures(tmp_path / "pictures", 50)
    assert len(paths) == len(set(paths)) == 50
    assert len({path.read_bytes() for path in paths}) == 40
    assert read_picture(paths[39]).shape[2] == 3


def test_a_child_s_memory_is_its_own_and_not_ours() -> None:
    ballast = bytearray(200 << 20)
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    took, peak = recognizer.run_and_weigh([sys.executable, "-c", "pass"])
    assert took > 0
    assert 1 << 20 < peak < 100 << 20


def test_a_child_that_fails_is_told_with_its_last_line() -> None:
    with pytest.raises(EdgeError, match=r"ended with 1: edge-app: .*gone"):
        recognizer.run_and_weigh([sys.executable, "-m", "edge_app", "recognize", "/gone.jpg"])


# The command


@pytest.mark.slow
def test_bench_prints_tables_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(recognizer, "TEMPLATES", 300)
    weighed = {"recognize_s": 0.5, "first_s": 1.0, "peak_mb": 150.0, "help_s": 0.1}
    monkeypatch.setattr(recognizer, "_process", lambda folder: weighed)
    original = str(catalogue.build(None, "sface", "fp32").path)
    command = ["bench", "--rounds", "1", "--pictures", "10", "--precision", "fp32", "--original", original, "--json"]
    command += ["--embedder", "sface"]
    assert main([*command, "--home", str(tmp_path / "home"), "--output", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["stages"]) == {"detect", "align", "embed", "match", "total"}
    assert [(row["what"], row["who"]) for row in result["contests"]] == [
        ("one embedding", "edge-app"),
        ("one embedding, sface", "edge-app"),
        ("640x480 frame", "edge-app"),
        ("one embedding", "edge-app"),
        ("one embedding", "ONNX Runtime on the original file"),
    ]
    assert result["gallery"]["templates"] == 300
    assert result["folder"]["pictures"] == 10
    assert result["precision"] == "fp32"
    assert json.loads((tmp_path / "out" / "bench.json").read_text()) == result
    told = (tmp_path / "out" / "bench.md").read_text()
    assert told == markdown(result) + "\n"
    assert "| its peak memory | 150 MB | under 300 MB |" in told
    assert not (tmp_path / "home").exists(), "the user's data folder was touched"


@pytest.mark.parametrize("wrong", [["--rounds", "0"], ["--pictures", "-1"]])
def test_numbers_that_make_no_sense_are_misuse(wrong: list[str]) -> None:
    assert main(["bench", *wrong]) == 2


def test_a_missed_target_is_called_missed() -> None:
    row = {"what": "one embedding", "who": "face_recognition", "ms": 10.0, "ratio": 4.0, "target": 5.0, "met": False}
    result: dict[str, Any] = {
        "machine": {"processor": "a", "cores": 2, "threads": 2, "python": "3", "onnxruntime": "1"},
        "precision": "fp32",
        "why": "set",
        "stages": {"total": 1.0},
        "contests": [row],
        "gallery": {"templates": 5, "match_ms": 1.0, "load_s": 0.1},
        "process": {"recognize_s": 0.5, "first_s": 1.0, "peak_mb": 150.0, "help_s": 0.1},
        "absent": {"facenet-pytorch": "No module named facenet_pytorch"},
    }
    told = markdown(result)
    assert "| one embedding: face_recognition | 10.00 | 4.00 | 5 (missed) |" in told
    assert told.endswith("facenet-pytorch was left out: No module named facenet_pytorch.")


def test_a_gallery_of_embeddings_of_any_width_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recognizer, "TEMPLATES", 50)
    embedder = SimpleNamespace(model_id="wide", card=SimpleNamespace(embedding_size=16))
    bench: Any = SimpleNamespace(recognizer=SimpleNamespace(embedder=embedder))
    figures = recognizer._gallery(bench, tmp_path)
    assert figures["templates"] == 50 and figures["match_ms"] >= 0
