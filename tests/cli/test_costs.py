"""Costs stated by the user are kept in a classifier's card and obeyed; a region of the picture is all that counts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from edge_app.accuracy.costs import found_at, judge
from edge_app.cli import main
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec, ModelCard
from edge_app.core.types import Frame
from edge_app.inference.classifier import ranked
from edge_app.inference.geometry import cuts_pictures, in_region, parse_region, prepare, seen_area, with_region
from edge_app.media.pictures import write_picture
from edge_app.recognition.classes import ClassRecognizer
from edge_app.recognition.smoothing import Smoothing
from tests.library.models import COLOURS, colours


@pytest.fixture
def say(capsys, tmp_path):
    colours(tmp_path / "home" / "models" / "colours-fp32.onnx")

    def run(*argv):
        code = main([*map(str, argv), "--home", str(tmp_path / "home")])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


def painted(folder, shades):
    """Pictures by label, each a mixture of red and green: 1 is red, 0 green."""
    for label, values in shades.items():
        (folder / label).mkdir(parents=True)
        for number, share in enumerate(values):
            pixel = share * np.array(COLOURS["red"]) + (1 - share) * np.array(COLOURS["green"])
            write_picture(folder / label / f"{number}.png", np.tile(pixel.astype(np.uint8), (40, 40, 1)))
    return folder


def test_the_label_with_the_least_expected_cost_is_told():
    chances = np.array([0.7, 0.2, 0.1])
    assert ranked("abc", chances, 0.5).name == "a"
    dear = ranked("abc", chances, 0.5, np.array([1.0, 20.0, 1.0]))
    assert dear.name == "b" and dear.value == pytest.approx(0.2)  # 4 of 4.8
    assert [score.label for score in dear.scores] == ["b", "a", "c"]
    assert ranked("abc", chances, 0.9, np.array([1.0, 20.0, 1.0])).name is None  # 0.83
    assert ranked("abc", chances, 0.5, np.array([1.0, 3.0, 1.0])).scores[0].label == "a"


def test_what_costs_buy_is_counted():
    chances = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    truth = np.array([0, 0, 0, 1, 1])
    plain = judge(chances, truth, ("free", "crack"), {"crack": 5.0}, "free", weigh=False)
    dear = judge(chances, truth, ("free", "crack"), {"crack": 5.0}, "free")
    assert (plain.alarmed.value, plain.alarms.value, plain.cost) == (0.5, 0.0, 1.0)
    assert (dear.alarmed.value, dear.alarms.value, dear.cost) == (1.0, pytest.approx(2 / 3), 0.4)
    assert found_at(chances, truth, 0, 0.0).value == 0.5  # the bar is 0.4
    assert found_at(chances, truth, 0, 0.34).value == 1.0


def test_costs_are_kept_in_the_card_and_obeyed(say, tmp_path):
    aside = painted(tmp_path / "aside", {"red": [0.9, 0.8, 0.7, 0.53], "green": [0.47, 0.51, 0.2, 0.1]})
    [doubtful] = [aside / "green" / "1.png"]
    assert json.loads(say("recognize", doubtful, "--model", "colours", "--json")[1])["label"] == "red"
    words = ("calibrate", aside, "--model", "colours", "--cost", "others=1,green=20", "--normal", "red", "--json")
    code, out, _ = say(*words)
    told = json.loads(out)
    assert code == 0 and told["costs"] == {"red": 1.0, "green": 20.0, "blue": 1.0}
    assert told["before"]["alarms_found"]["share"] == 0.75 and told["after"]["alarms_found"]["share"] == 1.0
    assert told["before"]["false_alarms"]["share"] == 0.0 and told["after"]["false_alarms"]["share"] > 0
    assert told["after"]["mean_cost"] < told["before"]["mean_cost"]
    shown = json.loads(say("recognize", doubtful, "--model", "colours", "--json")[1])
    assert shown["label"] == "green" and shown["classes"][0]["probability"] < 0.5
    assert say("models", "verify")[0] == 0
    assert say("calibrate", "--model", "colours", "--reset")[0] == 0
    assert json.loads(say("recognize", doubtful, "--model", "colours", "--json")[1])["label"] == "red"


@pytest.mark.parametrize(
    ("cost", "more", "line"),
    [
        ("gren=2", (), "there is no label 'gren'; expected one of red, green, blue, or others; did you mean 'green'?"),
        ("green=0", (), "--cost says 'green=0'"),
        ("green=nan", (), "--cost says 'green=nan'"),
        ("green", (), "--cost says 'green'"),
        ("green=2,green=3", (), "names 'green' twice"),
        ("green=2", (), "2 labels cost least; expected --normal LABEL"),
        ("green=2", ("--normal", "pink"), "there is no label 'pink'"),
    ],
)
def test_costs_that_make_no_sense_change_nothing(say, tmp_path, cost, more, line):
    before = {path: path.read_bytes() for path in (tmp_path / "home" / "models").iterdir()}
    code, _, err = say("calibrate", "--model", "colours", "--cost", cost, *more)
    assert code == 2 and line in err
    assert {path: path.read_bytes() for path in before} == before
    assert say("calibrate", "--model", "colours")[0] == 2
    assert say("calibrate", "--model", "sface", "--cost", "a=2")[0] == 2
    assert say("calibrate", "--cost", "a=2")[0] == 2


def card(**changes):
    fields = {
        "id": "x", "task": "classification", "family": "logits", "input": InputSpec("input", 8, 8),
        "outputs": ("logits",), "precision": "fp32", "licence": "", "commercial_use": True, "origin": "",
        "origin_sha256": "", "labels": ("a", "b"),
    }  # fmt: skip
    return ModelCard(**fields | changes)


def test_a_card_with_costs_is_read_back_and_wrong_ones_are_refused():
    assert "costs" not in card().to_json()
    assert ModelCard.from_json(card(costs={"a": 3.0}).to_json()).costs == {"a": 3.0}
    for wrong in ({"c": 1.0}, {"a": 0.0}, {"a": float("inf")}, {"a": float("nan")}, {"a": -1.0}):
        with pytest.raises(ModelError, match="a cost"):
            card(costs=wrong)


def test_a_video_obeys_costs_too():
    class One:
        look_for = finds_faces = None

    answer = ranked("ab", np.array([0.9, 0.1]), 0.0, np.array([1.0, 20.0]))
    from edge_app.core.types import Finding, Seen

    frame = Frame(np.zeros((4, 4, 3), np.uint8))
    seen = Seen(frame, (Finding(np.array([0, 0, 4, 4], np.float32), answer),), {})
    smoothing = Smoothing(follows_faces=False)
    for _ in range(3):
        [finding] = smoothing.smooth(seen).findings
        assert finding.name == "b"


# --- regions ---------------------------------------------------------------------------------------------------------

SPEC = InputSpec("input", 8, 8)


def test_a_region_is_all_that_is_seen():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:50, 100:] = COLOURS["blue"]
    crop = with_region("centre-1", parse_region("0.5,0,1,0.5"))
    assert seen_area(200, 100, SPEC, crop) == (125, 0, 175, 50)
    assert (prepare(pixels, SPEC, crop) == COLOURS["blue"]).all()
    assert (in_region(pixels, crop) == COLOURS["blue"]).all() and in_region(pixels, crop).shape == (50, 100, 3)
    assert in_region(pixels, "centre-0.9") is pixels
    assert with_region("none", (0, 0, 1, 0.5)) == "centre-1@0,0,1,0.5"
    assert seen_area(1, 1, SPEC, crop) == (0, 0, 1, 1)


def test_of_a_whole_picture_nothing_is_left_out_and_of_its_region_neither():
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, :75] = pixels[:, 225:] = COLOURS["blue"]
    assert seen_area(300, 100, SPEC, "whole") == (0, 0, 300, 100)
    seen = prepare(pixels, SPEC, "whole")
    assert (seen[:, :2] == COLOURS["blue"]).all() and (seen[:, 6:] == COLOURS["blue"]).all() and not seen[:, 2:6].any()
    crop = with_region("whole", (0, 0.5, 0.5, 1))
    assert crop == "whole@0,0.5,0.5,1" and seen_area(300, 100, SPEC, crop) == (0, 50, 150, 100)
    assert (prepare(pixels, SPEC, crop)[:, :4] == COLOURS["blue"]).all()
    for wrong in ("wholesale", "whole-1", "the whole"):
        assert not cuts_pictures(wrong)
        with pytest.raises(UsageError, match="the crop is"):
            seen_area(300, 100, SPEC, wrong)


@pytest.mark.parametrize(
    "text", ["", "0,0,1", "0,0,1,1,1", "0.5,0,0.4,1", "0,0,2,1", "-1,0,1,1", "nan,0,1,1", "0,0,0.01,1", "a,b,c,d"]
)
def test_a_region_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="the region is"):
        parse_region(text)


def test_recognize_looks_at_the_region_alone(say, tmp_path):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :120] = COLOURS["red"]
    pixels[:, 120:] = COLOURS["blue"]
    write_picture(tmp_path / "two.png", pixels)
    assert json.loads(say("recognize", tmp_path / "two.png", "--model", "colours", "--json")[1])["label"] == "red"
    words = ("recognize", tmp_path / "two.png", "--model", "colours", "--roi", "0.6,0,1,1", "--json")
    assert json.loads(say(*words)[1])["label"] == "blue"
    assert say("recognize", tmp_path / "two.png", "--model", "colours", "--roi", "0.6,0,0.5,1")[0] == 2
    code, _, err = say("recognize", tmp_path / "two.png", "--roi", "0.6,0,1,1")
    assert code == 2 and "--roi is for classifiers" in err


def test_a_card_s_region_is_served_and_drawn(tmp_path):
    from edge_app.inference.classifier import Classifier
    from edge_app.inference.onnx_model import load

    colours(tmp_path / "c-fp32.onnx", crop="centre-1@0.6,0,1,1")
    recognizer = ClassRecognizer(Classifier(load(tmp_path / "c-fp32.onnx")))
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, 120:] = COLOURS["blue"]
    [finding] = recognizer.observe(Frame(pixels)).findings
    assert finding.name == "blue" and finding.box.tolist() == [120, 10, 200, 90]
    colours(tmp_path / "d-fp32.onnx", crop="centre-1@0.6,0,1")
    with pytest.raises(UsageError, match="the region is"):
        ClassRecognizer(Classifier(load(tmp_path / "d-fp32.onnx")))


def test_a_box_drawn_over_the_live_picture_is_all_that_a_classifier_sees(tmp_path):
    from edge_app.inference.classifier import Classifier
    from edge_app.inference.onnx_model import load
    from edge_app.live.class_mode import ClassMode
    from edge_app.recognition.session import Session

    colours(tmp_path / "c-fp32.onnx", crop="centre-0.5")
    mode = ClassMode(Session(None, None, ClassRecognizer(Classifier(load(tmp_path / "c-fp32.onnx")))))
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :] = COLOURS["red"]
    pixels[20:60, 120:190] = COLOURS["blue"]
    frames = (Frame(pixels, number, number / 10) for number in range(9))
    assert mode.observe(next(frames)).findings[0].name == "red"
    mode.look_area((120, 20, 190, 60))
    [finding] = mode.observe(next(frames)).findings
    assert finding.name == "blue" and finding.box.tolist() == [120, 20, 190, 60]
    mode.look_area(None)
    assert mode.observe(next(frames)).findings[0].name == "red"
    with pytest.raises(UsageError, match="draw the box anew"):
        mode.look_area((5, 5, 5, 9))
    mode.look_area((500, 500, 600, 600))  # of a source that was larger
    assert mode.observe(next(frames)).findings[0].name == "red"
    colours(tmp_path / "d-fp32.onnx", crop="centre-1@0,0,0.5,1")
    with pytest.raises(UsageError, match="takes no area"):
        ClassRecognizer(Classifier(load(tmp_path / "d-fp32.onnx"))).looking_at(np.array([0, 0, 50, 50], np.float32))
