"""`recognize` says "some insect": in the line, in JSON, on the annotated copy, in Live; a planted model of colours."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.attributes import Attribute
from edge_app.core.hierarchy import Family, Hierarchy
from edge_app.core.types import Frame
from edge_app.inference import onnx_model
from edge_app.inference.classifier import Classifier
from edge_app.live.events import Events
from edge_app.media.drawing import words_of
from edge_app.media.pictures import write_picture
from edge_app.recognition.classes import ClassRecognizer
from edge_app.recognition.smoothing import Smoothing
from edge_app.system.data_folder import Home
from edge_app.tui.model_text import seen_words
from tests.model_store.planted import colour_card, install, write_colours

CARD = colour_card(
    temperature=0.5,
    hierarchy=Hierarchy((Family("warm", ("red", "green"), 0.9),)),
    attributes=(Attribute("cones", ("red", "green", "blue"), 0.9), Attribute("cold", ("blue", "green"), 0.6)),
)
YELLOW, RED, GREY = (250, 240, 0), (255, 0, 0), (128, 128, 128)


@pytest.fixture
def say(capsys, tmp_path):
    install(Home(tmp_path / "home"), CARD)
    for name, colour in (("yellow", YELLOW), ("red", RED), ("grey", GREY)):
        write_picture(tmp_path / f"{name}.png", np.full((40, 40, 3), colour, np.uint8))

    def run(*argv):
        code = main(["recognize", *map(str, argv), "--model", "colours", "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def test_a_line_tells_the_label_the_family_or_neither(say, tmp_path):
    code, out, _ = say(tmp_path / "yellow.png", tmp_path / "red.png", tmp_path / "grey.png", "--top", 2)
    assert code == 0
    yellow, red, grey = out.splitlines()[:3]
    assert "some warm 1.00 (red 0.69, green 0.31), has cones" in yellow and "cold" not in yellow
    assert ": red 1.00" in red and "some" not in red and "has" not in red
    assert "not sure (" in grey and grey.endswith("), has cones, cold")


def test_json_tells_the_family_like_a_label_and_beside_it(say, tmp_path):
    _, out, _ = say(tmp_path / "yellow.png", tmp_path / "red.png", tmp_path / "grey.png", "--json")
    yellow, red, grey = (json.loads(line) for line in out.splitlines())
    assert yellow["label"] == "warm" and yellow["family"] == {"label": "warm", "probability": pytest.approx(1.0)}
    assert [one["label"] for one in yellow["classes"]] == ["red", "green", "blue"]
    assert red["label"] == "red" and red["family"] is None
    assert grey["label"] is None and grey["family"] is None
    assert [one["name"] for one in grey["attributes"]] == ["cones", "cold"]
    assert grey["attributes"][1]["probability"] == pytest.approx(2 / 3, abs=1e-3)
    assert [one["name"] for one in red["attributes"]] == ["cones"]


def test_only_takes_a_family_and_nothing_else_that_is_unknown(say, tmp_path):
    code, out, _ = say(tmp_path / "yellow.png", tmp_path / "red.png", "--only", "warm", "--paths-only")
    assert code == 0 and out.splitlines() == [str(tmp_path / "yellow.png")]
    code, _, err = say(tmp_path / "yellow.png", "--only", "warn")
    assert code == 2 and "did you mean 'warm'" in err


def test_live_tells_the_family_steadily_and_as_an_event(tmp_path):
    path = write_colours(tmp_path / "colours.onnx", CARD)
    recognizer = ClassRecognizer(Classifier(onnx_model.load(path, threads=1)))
    smoothing, events, told = Smoothing(follows_faces=False), Events(arrivals=False), []
    for number in range(12):
        colour = YELLOW if number < 6 else RED
        seen = recognizer.observe(Frame(np.full((40, 40, 3), colour, np.uint8), number, number * 0.5))
        seen = smoothing.smooth(seen)
        told += events.update(number * 0.5, smoothing.answers)
        if number == 3:
            assert seen_words(seen, unicode=True).plain.splitlines()[0].endswith("some warm")
            assert "has cones" in seen_words(seen, unicode=True).plain
            assert words_of(seen.findings[0].answer) == "some warm 1.00"
    assert [(one.event, one.name) for one in told] == [("recognized", "warm"), ("recognized", "red")]
