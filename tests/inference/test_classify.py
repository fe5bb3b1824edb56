"""Classifiers and readers over a planted model: probabilities, maps, areas, faces, steady answers."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from edge_app.cli import output
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.model_card import InputSpec
from edge_app.core.numeric import softmax
from edge_app.core.task import LookFor
from edge_app.core.types import Finding, Frame, Match, Seen
from edge_app.inference import onnx_model
from edge_app.inference.classifier import BATCH, Classifier
from edge_app.inference.detector import Detector
from edge_app.live.events import Events
from edge_app.media.pictures import write_picture
from edge_app.recognition.classes import ClassRecognizer, judges_faces
from edge_app.recognition.open_session import OpenOptions, open_session
from edge_app.recognition.smoothing import Smoothing, SteadyAnswer
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings
from tests.model_store.planted import CELLS, GAIN, LABELS, colour_card, install, plain, write_colours

RED, GREEN = (255, 0, 0), (0, 255, 0)


def classifier(tmp_path, unsure_below=None, **changes) -> Classifier:
    path = write_colours(tmp_path / "colours.onnx", colour_card(**changes))
    return Classifier(onnx_model.load(path, threads=1), unsure_below)


def labels_of(reading: Seen) -> list[str | None]:
    return [one.name for one in reading.findings]


def test_probabilities_are_the_softmax_of_the_logits_over_the_temperature(tmp_path):
    [answer] = classifier(tmp_path).classify([plain(RED)])
    expected = math.exp(GAIN / 2) / (math.exp(GAIN / 2) + 2)
    assert [s.label for s in answer.scores] == ["red", "green", "blue"]
    assert answer.scores[0].probability == pytest.approx(expected, abs=1e-6)
    assert sum(s.probability for s in answer.scores) == pytest.approx(1)
    assert answer.name == "red" and answer.sure


def test_huge_logits_do_not_overflow():
    assert softmax(np.array([1e4, 0], np.float32)).tolist() == [1.0, 0.0]


def test_the_card_s_bar_or_the_user_s_decides_what_is_sure(tmp_path):
    greyish = plain((140, 100, 90))
    [answer] = classifier(tmp_path).classify([greyish])
    assert answer.name is None and answer.scores[0].label == "red"
    [answer] = classifier(tmp_path, unsure_below=0.4).classify([greyish])
    assert answer.name == "red"


def test_many_pictures_of_many_sizes_keep_their_order_over_several_batches(tmp_path):
    colours = [tuple(255 * (k == i % 3) for k in range(3)) for i in range(2 * BATCH + 3)]
    pictures = [plain(c, 20 + 7 * i, 90 - i) for i, c in enumerate(colours)]
    found = classifier(tmp_path).classify(pictures)
    assert [a.name for a in found] == [LABELS[i % 3] for i in range(len(pictures))]
    assert classifier(tmp_path).classify([]) == []


def test_a_map_shows_where_the_label_is_and_averages_to_its_logit(tmp_path):
    picture = plain((0, 0, 255), 64, 64)
    picture[:32, 32:] = RED
    model = classifier(tmp_path)
    answer, heatmap = model.explain(picture, "red")
    assert answer.scores[0].label == "blue" and heatmap.label == "red"
    assert heatmap.values.shape == (CELLS, CELLS)
    assert heatmap.values[:2, 2:].min() == pytest.approx(GAIN, abs=1e-4)
    assert heatmap.values.sum() == pytest.approx(4 * GAIN, abs=1e-3)
    logits = model.logits(model.inputs([picture]))
    assert heatmap.values.mean() == pytest.approx(float(logits[0, 0]), abs=1e-4)
    assert model.explain(picture)[1].label == "blue"
    assert model.explain(picture, runner_up=True)[1].label == answer.scores[1].label == "red"


def test_an_unknown_label_and_a_graph_without_maps_are_refused_in_words(tmp_path):
    with pytest.raises(UsageError, match=r"knows no .pink.; expected one of red, green, blue"):
        classifier(tmp_path).explain(plain(RED), "pink")
    bare = classifier(tmp_path, outputs=("logits",))
    assert bare.classify([plain(RED)])[0].name == "red"
    with pytest.raises(UsageError, match="cannot show where it looks"):
        bare.explain(plain(RED))


@pytest.mark.parametrize(
    ("changes", "bar", "error", "words"),
    [
        ({"task": "face-embedding", "embedding_size": 3}, None, ModelError, "expected a classifier"),
        ({"family": "embedding"}, None, ModelError, "expected a classifier"),
        ({"input": InputSpec("input", None, None)}, None, ModelError, "no input size"),
        ({}, 1.0, UsageError, "probability"),
        ({}, -0.1, UsageError, "probability"),
    ],
)
def test_what_is_no_classifier_is_refused(tmp_path, changes, bar, error, words):
    with pytest.raises(error, match=words):
        classifier(tmp_path, bar, **changes)


def test_labels_that_the_graph_does_not_have_and_numbers_that_are_none_are_found_out(tmp_path):
    with pytest.raises(ModelError, match="card has 2 labels"):
        classifier(tmp_path, labels=("a", "b")).classify([plain(RED)])
    with pytest.raises(ModelError, match="not finite"), np.errstate(over="ignore"):
        classifier(tmp_path, input=InputSpec("input", 32, 32, std=(1e-38,) * 3)).classify([plain(RED)])


def test_the_middle_of_a_picture_is_judged_and_said_where(tmp_path):
    picture = plain(GREEN, 100, 50)
    picture[:, 25:75] = RED
    reading = ClassRecognizer(classifier(tmp_path)).observe(Frame(picture))
    assert labels_of(reading) == ["red"]
    assert reading.findings[0].box.tolist() == [25, 0, 75, 50]
    assert reading.findings[0].heatmap is None
    assert set(reading.timings_ms) == {"classify", "total"}
    whole = ClassRecognizer(classifier(tmp_path, crop="none")).observe(Frame(picture), explain=True)
    assert whole.findings[0].box.tolist() == [0, 0, 100, 50]
    assert whole.findings[0].heatmap is not None


POINTS = np.array([[0.3, 0.35], [0.7, 0.35], [0.5, 0.55], [0.35, 0.75], [0.65, 0.75]], np.float32)


def faces_at(*boxes) -> Detector:
    found = np.array(boxes, np.float32).reshape(-1, 4)
    points = found[:, None, :2] + POINTS * (found[:, 2:] - found[:, :2])[:, None]
    return Detector("planted", lambda _pixels, _options: (found, points, np.full(len(found), 0.9, np.float32)))


@pytest.mark.parametrize("crop", ["face-1.0", "arcface-112"])
def test_each_face_is_judged_by_itself_largest_first(tmp_path, crop):
    picture = plain((0, 0, 255), 300, 200)
    picture[40:160, 30:150] = RED
    picture[60:120, 200:260] = GREEN
    model = classifier(tmp_path, crop=crop, task="liveness")
    reading = ClassRecognizer(model, faces_at((210, 70, 250, 110), (50, 60, 130, 140))).observe(Frame(picture))
    assert labels_of(reading) == ["red", "green"]
    assert reading.findings[0].box.tolist() == [50, 60, 130, 140]
    assert "detect" in reading.timings_ms
    assert labels_of(ClassRecognizer(model, faces_at()).observe(Frame(picture))) == []


def test_the_map_of_a_face_lies_over_its_box_whatever_was_shown_to_the_network(tmp_path):
    picture = plain((0, 0, 255), 300, 300)
    picture[100:200, 100:150] = RED  # the left half of the face
    box = (100, 100, 200, 200)
    model = classifier(tmp_path, crop="face-2.0")
    [one] = ClassRecognizer(model, faces_at(box)).observe(Frame(picture), explain=True).findings
    assert one.heatmap is not None
    explained = model.explain(picture[50:250, 50:250], one.heatmap.label)[1].values
    values = one.heatmap.values if one.heatmap.label == "red" else -one.heatmap.values
    assert values[1:3, 0].mean() > values[1:3, 3].mean() + 0.5 * np.ptp(explained)


def test_a_classifier_of_faces_needs_a_detector_and_a_crop_that_means_something(tmp_path):
    assert judges_faces("face-2.7") and judges_faces("arcface-112") and not judges_faces("centre-0.9")
    with pytest.raises(ModelError, match="judges faces"):
        ClassRecognizer(classifier(tmp_path, crop="face-2.7"))
    with pytest.raises(UsageError, match="the crop is 'sideways'"):
        ClassRecognizer(classifier(tmp_path, crop="sideways"))
    with pytest.raises(ModelError, match="face-S"):
        ClassRecognizer(classifier(tmp_path, crop="face-x"), faces_at((1, 1, 30, 30))).observe(Frame(plain(RED)))


class Steady:
    """A recognizer with its answers averaged."""

    def __init__(self, recognizer) -> None:
        self.recognizer = recognizer
        self.smoothing = Smoothing(follows_faces=recognizer.finds_faces)
        self.reset = self.smoothing.reset

    @property
    def answers(self):
        return self.smoothing.answers

    def read(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        return self.smoothing.smooth(self.recognizer.observe(frame, explain=explain))


def steady(tmp_path) -> Steady:
    return Steady(ClassRecognizer(classifier(tmp_path, temperature=0.5)))


def shown(reader: Steady, colour, time_s: float) -> str | None:
    return labels_of(reader.read(Frame(plain(colour), 0, time_s)))[0]


@pytest.mark.parametrize("fps", [5, 30, 60])
def test_one_wrong_frame_does_not_change_a_steady_answer_and_a_lasting_change_does(tmp_path, fps):
    reader = steady(tmp_path)
    times = [i / fps for i in range(4 * fps)]
    assert shown(reader, RED, 0.0) == "red"
    flash = {2 * fps} if fps > 10 else set()
    told = [shown(reader, GREEN if t >= 3 or i in flash else RED, t) for i, t in enumerate(times[1:], start=1)]
    before = [name for name, t in zip(told, times[1:], strict=True) if t < 3]
    assert set(before) == {"red"}
    settled = next(t for name, t in zip(told, times[1:], strict=True) if name == "green") - 3
    assert 0.4 < settled < 0.9  # the bar of 0.8 takes 1.6 time constants
    assert told[-1] == "green"


def test_a_pause_or_a_jump_back_begins_afresh(tmp_path):
    reader = steady(tmp_path)
    assert shown(reader, RED, 10.0) == "red"
    assert shown(reader, GREEN, 12.5) == "green"
    assert shown(reader, RED, 0.0) == "red"
    reader.reset()
    assert shown(reader, GREEN, 0.01) == "green"


class Things:
    """A reader of things that tells what it is told to."""

    finds_faces = False

    def __init__(self) -> None:
        self.match = Match("mug", 0.8, 0.3)

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        return Seen(frame, (Finding(np.array([0, 0, 9, 9], np.float32), self.match),), {})


def test_names_of_things_are_steadied_with_their_similarity():
    things = Things()
    reader = Steady(things)
    names = []
    for i in range(30):
        things.match = Match(None, 0.1, 0.0) if i == 10 or i >= 20 else Match("mug", 0.8 + 0.02 * (i % 2), 0.3)
        [spotted] = reader.read(Frame(plain(RED), i, i / 15)).findings
        names.append(spotted.answer.name)
        if spotted.answer.name == "mug":
            assert 0.8 <= spotted.answer.similarity <= 0.82
    assert names[:20] == ["mug"] * 20 and names[-1] is None


def test_faces_keep_their_number_while_they_move_and_through_a_missed_frame(tmp_path):
    model = classifier(tmp_path, crop="face-1.0")
    boxes = [[(10, 10, 50, 50)], [(14, 10, 54, 50)], [], [(18, 10, 58, 50), (100, 10, 140, 50)]]
    detectors = iter([faces_at(*each) for each in boxes])
    reader = Steady(ClassRecognizer(model, next(detectors)))
    numbers = []
    for i in range(4):
        reader.read(Frame(plain(RED, 200, 100), i, i * 0.1))
        numbers.append([answer.number for answer in reader.answers])
        reader.recognizer._detector = next(detectors, None)
    assert numbers == [[1], [1], [1], [1, 2]]


def test_an_answer_is_told_once_it_stands_and_faces_that_go_have_left(tmp_path):
    reader, events = steady(tmp_path), Events(arrivals=False, hold_s=Events.HOLD_S)
    told = []
    for i in range(60):
        reader.read(Frame(plain(RED if i < 30 else GREEN), i, i / 15))
        told += events.update(i / 15, reader.answers)
    assert [(e.event, e.name) for e in told] == [("recognized", "red"), ("unknown", None), ("recognized", "green")]
    assert told[0].classes is not None and told[0].classes[0].label == "red"
    assert told[0].as_dict()["classes"][0] == {"label": "red", "probability": 1.0}
    assert events.finish(4.0) == ()


def test_what_flashes_up_is_no_event():
    events, told = Events(arrivals=False, hold_s=Events.HOLD_S), []
    for i in range(30):
        names = {10: "cup", 11: None}
        told += events.update(i / 15, [SteadyAnswer(None, 0.0, i / 15, names.get(i, "mug"), 0.7)])
    assert [(e.event, e.name, e.similarity, e.classes) for e in told] == [("recognized", "mug", 0.7, None)]
    assert "classes" not in told[0].as_dict()


def test_a_source_of_one_frame_is_told_at_its_end_and_a_face_leaves(tmp_path):
    model = classifier(tmp_path, crop="face-1.0")
    reader, events = (
        Steady(ClassRecognizer(model, faces_at((10, 10, 50, 50)))),
        Events(arrivals=False, hold_s=Events.HOLD_S),
    )
    reader.read(Frame(plain(RED, 80, 80), 0, 0.0))
    assert events.update(0.0, reader.answers) == ()
    assert [(e.event, e.track, e.name) for e in events.finish(0.1)] == [("recognized", 1, "red"), ("left", 1, "red")]


def test_the_reader_of_an_installed_model_is_opened_by_its_id(home: Home):
    install(home)
    options = OpenOptions(unsure_below=0.2)
    session = open_session(home, Settings(precision="int8"), LookFor("colours"), options)
    assert labels_of(session.recognizer.observe(Frame(plain((140, 100, 90))))) == ["red"]
    with pytest.raises(UsageError, match="no int8 build"):
        open_session(home, Settings(), LookFor("colours"), OpenOptions(precision="int8"))


@pytest.mark.parametrize(
    ("model_id", "words"),
    [("nobody", "no model"), ("yunet", "--detector yunet"), ("mtcnn-rnet", "--detector mtcnn$")],
)
def test_models_that_read_nothing_are_refused(home: Home, model_id, words):
    with pytest.raises(UsageError, match=words):
        open_session(home, Settings(), LookFor(model_id))


def test_a_changed_file_is_not_run(home: Home):
    install(home)
    path = next(home.models_dir.glob("*.onnx"))
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ModelError, match="has changed"):
        open_session(home, Settings(), LookFor("colours"))


def test_only_a_non_commercial_model_has_a_note(capsys):
    output.tell_licence(colour_card())
    assert capsys.readouterr().err == ""
    output.tell_licence(replace(colour_card(), commercial_use=False))
    assert "non-commercial" in capsys.readouterr().err


def test_a_classified_area_keeps_its_heatmap_while_it_is_steadied(tmp_path):
    reader = steady(tmp_path)
    [one] = reader.read(Frame(plain(RED)), explain=True).findings
    assert one.heatmap is not None and float(one.heatmap.values.max()) == pytest.approx(GAIN, abs=0.2)


def test_a_classifier_is_served_without_what_only_faces_need(home: Home, tmp_path):
    card = install(home)
    path = tmp_path / "red.png"
    write_picture(path, plain((250, 10, 10)))
    arguments = ["recognize", str(path), "--model", card.id, "--home", str(home.path)]
    script = (
        f"import sys\nfrom edge_app.cli import main\nassert main({arguments!r}) == 0\nprint(*sys.modules, sep='\\n')"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "edge_app.inference.classifier" in told
    faces = {"recognition.faces", "gallery.matching", "gallery.storage", "inference.detector", "live.tracker"}
    assert not {f"edge_app.{name}" for name in faces} & set(told)
