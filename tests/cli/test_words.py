"""What commands say to people, where a script would not look: hints, sums, sizes and what a figure rests on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_app.cli import main
from edge_app.media import cameras, sample
from edge_app.media.cameras import CameraInfo
from edge_app.media.pictures import write_picture
from edge_app.system.data_folder import Home
from edge_app.system.files import size_words
from edge_export.cli import words as export_words
from tests.model_store.planted import colour_card, install, plain
from tests.recognition.test_things import blocks, thing

[PROBE] = sample.probes()["Barack Obama"]


def say(capsys: pytest.CaptureFixture[str], home: Home, *argv: object) -> tuple[int, str, str]:
    code = main([*map(str, argv), "--home", str(home.path)])
    told = capsys.readouterr()
    return code, told.out, told.err


@pytest.mark.parametrize("text", ["nope.jpg", "holiday/*.jpg", "gopher://there/x"])
def test_recognize_offers_what_it_takes_and_no_cameras(
    text: str, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = say(capsys, home, "recognize", text)
    assert (code, out) == (1, "")
    assert "expected a picture, a folder or a video file; check the path" in err
    assert "rtsp" not in err and "camera number" not in err


def test_where_copies_were_written_is_told_but_not_to_scripts(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(home, colour_card())
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.png", plain((200, 0, 0)))
    (tmp_path / "c.png").write_bytes(b"no picture")
    args = ["recognize", *(tmp_path / f"{name}.png" for name in "abc"), "--model", "colours"]
    code, _, err = say(capsys, home, *args, "--save", tmp_path / "out")
    assert code == 1 and err.endswith(
        f"edge-app: 2 annotated copies in {tmp_path / 'out'}\n"
        "edge-app: 2 pictures: red 2; 1 could not be read or written\n"
    )
    assert len(list((tmp_path / "out").iterdir())) == 2
    _, _, err = say(capsys, home, *args[:2], *args[4:], "--save", tmp_path / "one")
    assert err.endswith(f"edge-app: 1 annotated copy in {tmp_path / 'one'}\n")
    assert "copies" not in say(capsys, home, *args[:3], *args[4:], "--save", tmp_path / "out", "--json")[2]
    assert "copies" not in say(capsys, home, *args[:3], *args[4:])[2]


def test_how_strict_it_is_with_things_is_told(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks(home.models_dir / "blocks.onnx")
    write_picture(tmp_path / "mug.png", thing(1))
    recognize = ["recognize", tmp_path / "mug.png", "--model", "blocks"]
    assert "needs a similarity" not in say(capsys, home, *recognize)[2]
    assert say(capsys, home, "enroll", "mug", tmp_path / "mug.png", "--model", "blocks")[0] == 0
    code, out, err = say(capsys, home, *recognize)
    assert code == 0 and "mug 1.00" in out
    assert "With 1 thing enrolled, at most about 1 in 100 strangers may be called by its name" in err
    assert "person" not in err and "needs a similarity of 0.5" in err
    assert say(capsys, home, *recognize, "--json")[2] == ""


def test_a_camera_is_only_said_to_be_opened_when_there_is_one(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[CameraInfo] = []
    monkeypatch.setattr(cameras, "list_cameras", lambda *, measure=False: tuple(found))
    _, out, _ = say(capsys, home, "cameras")
    assert "no camera was found" in out and "live commands open" not in out
    found.append(CameraInfo("2", "/dev/video2", "Stick"))
    assert "* 2 is what live commands open" in say(capsys, home, "cameras")[1]
    found.clear()
    home.change_settings(source="sample")
    assert "* sample is what live commands open" in say(capsys, home, "cameras")[1]


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0.0 kB"), (28_400, "28.4 kB"), (99_999, "100.0 kB"), (100_000, "0.1 MB"), (37e6, "37.0 MB")],
)
def test_small_files_have_a_size_too(size: int, words: str) -> None:
    assert size_words(size) == words


def test_models_list_and_show_know_mtcnn(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = say(capsys, home, "models", "list")
    assert code == 0 and " 0.0 MB" not in out and " kB" in out
    code, out, _ = say(capsys, home, "models", "show", "mtcnn")
    assert code == 0 and all(f"mtcnn-{part} (fp32)" in out for part in ("pnet", "rnet", "onet"))


@pytest.mark.parametrize(
    ("provenance", "data", "told"),
    [
        ({"data_sha256": "0"}, None, "35 pictures of the training folder"),
        ({"data_sha256": "0"}, Path("mine"), "35 pictures of mine"),
        ({}, Path("faces"), "35 pictures of faces"),
        ({}, None, "35 views of the sample pictures"),
    ],
)
def test_export_says_which_pictures_it_compared_on(provenance: dict[str, str], data: Path | None, told: str) -> None:
    card = colour_card(provenance=provenance | {"exporter": "dynamo", "opset": "18"}, metrics={"accuracy": 1.0})
    parity = SimpleNamespace(inputs=35, max_abs=1e-6, min_cosine=1.0)
    exported: Any = SimpleNamespace(path=Path("x.onnx"), card=card, parity=parity, size_bytes=2_000)
    lines = export_words.told(exported, [], [], data)
    assert "2.0 kB" in lines[0] and lines[1].startswith(f"agrees with torch on {told} at batch 1 and 8: ")
