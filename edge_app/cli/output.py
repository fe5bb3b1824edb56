"""Faces, classes, things: what `recognize` and `watch` look for, and how it is told.

Imports nothing heavy at module level. Flows in: parsed arguments, frames. Flows out: a `View` for `recognize`, a reader
for `watch`, lines, JSON, annotated pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from edge_app.cli import options
from edge_app.cli.parameters import Arguments, Option
from edge_app.core.errors import UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import (
    Classification,
    Classified,
    ClassScore,
    Float32s,
    Frame,
    Observation,
    Pixels,
    Reading,
    Sighting,
)

if TYPE_CHECKING:
    from edge_app.recognition.classes import Reader, ReaderBench
    from edge_app.recognition.face_session import Workbench
    from edge_app.recognition.timeline import Timeline

Seen = Observation | Reading

_LINE_TOP = 3
"""Labels in a line for people, unless --top says otherwise."""


def model_options() -> list[Option]:
    """--model and --unsure-below."""
    section = "Model"
    return [
        Option("--model", metavar="ID", section=section,
            help="'faces', or the id of a model (default: see `models use`); `models list`: ids"),
        Option("--unsure-below", kind=float, metavar="P", section=section,
            help="a classifier is not sure below this probability (its card's)"),
    ]  # fmt: skip


def chosen_reader(args: Arguments) -> Reader | None:
    """The reader of --model or of the settings; None for faces.

    Raises UsageError for an unknown model or one that reads nothing, such as a detector.
    """
    home, chosen = options.settings(args)
    model_id = args.model if args.model is not None else chosen.model
    if model_id != "faces":
        from edge_app.model_store.catalogue import builds

        if builds(home, model_id)[0].task != "face-embedding":
            from edge_app.recognition.classes import open_reader

            precision = None if args.precision in (None, "auto") else args.precision
            return open_reader(
                home,
                chosen,
                model_id,
                precision=precision,
                unsure_below=args.unsure_below,
                detector_options=options.detector_options(args),
            )
    if args.unsure_below is not None:
        raise UsageError("--unsure-below is for classifiers", expected="--model with the id of one")
    return None


def reader_bench(args: Arguments, reader: Reader) -> ReaderBench:
    """What the live loop needs of a data folder to let `reader` read; the gallery only where it holds its things."""
    from edge_app.recognition.classes import ReaderBench, ThingWatcher

    home, chosen = options.settings(args)
    if not isinstance(reader, ThingWatcher):
        return ReaderBench(home, chosen, reader)
    from edge_app.gallery.storage import Vault

    return ReaderBench(home, chosen, reader, Vault(home.gallery_path))


def tell_of(args: Arguments, reader: Reader, *, rule: bool = False) -> None:
    """Say on standard error what the user should know of a reader: its licence, and which things it does not know.

    With `rule` also how alike a thing must be to be named, where any is enrolled.
    """
    tell_licence(reader.card)
    if reader.card.task != "image-embedding":
        return
    from edge_app.gallery.storage import Vault
    from edge_app.recognition.reenroll import missing_line
    from edge_app.recognition.things import ThingReader

    if rule and isinstance(reader, ThingReader) and len(reader.gallery):
        options.warn(_of_things(reader.rule.words))
    home, _ = options.settings(args)
    with Vault(home.gallery_path) as vault:
        if told := missing_line(home, vault, reader.card):
            options.warn(told)


def _of_things(words: str) -> str:
    """What a rule says of people, said of things."""
    for person, thing in (("1 person", "1 thing"), ("people", "things"), ("called somebody", "called by its name")):
        words = words.replace(person, thing)
    return words


def tell_licence(card: ModelCard) -> None:
    """Say on standard error, once a run, that a model may not be used for business."""
    from edge_app.recognition.classes import licence_note

    if note := licence_note(card):
        options.warn(note)


class View(Protocol):
    """One way to look at frames, for `recognize`."""

    def look(self, frame: Frame) -> Seen:
        """Make something of a frame; called from several threads."""

    def follow(self, seen: Seen) -> Seen:
        """Take in what was seen in the next frame of a video, in order."""

    def draw(self, seen: Seen) -> Pixels:
        """The frame with all that was seen drawn on it."""

    def line(self, seen: Seen) -> str:
        """All that was seen, for people."""

    def as_json(self, source: str, seen: Seen) -> dict[str, Any]:
        """All that was seen, for scripts."""

    def timeline(self) -> Timeline:
        """Where the frames of one video are collected; the next video starts afresh."""


class FaceView:
    """Who is there."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def look(self, frame: Frame) -> Seen:
        """See `View.look`."""
        return self._bench.recognizer.observe(frame)

    def follow(self, seen: Seen) -> Seen:
        """Every frame stands for itself."""
        return seen

    def draw(self, seen: Seen) -> Pixels:
        """See `View.draw`."""
        from edge_app.media.drawing import annotate

        return annotate(seen.frame.pixels, _sightings(seen))

    def line(self, seen: Seen) -> str:
        """See `View.line`."""
        return "; ".join(_face_line(face) for face in _sightings(seen)) or "no face"

    def as_json(self, source: str, seen: Seen) -> dict[str, Any]:
        """See `View.as_json`."""
        faces = [
            {
                "box": _box(s.face.box),
                "score": round(s.face.score, 4),
                "name": s.match.name,
                "similarity": round(s.match.similarity, 4),
                "margin": round(s.match.margin, 4),
            }
            for s in _sightings(seen)
        ]
        return _head(source, seen) | {"faces": faces, "timings_ms": _timings(seen)}

    def timeline(self) -> Timeline:
        """See `View.timeline`."""
        from edge_app.recognition.timeline import Timeline

        return Timeline()


class ModelView:
    """What a classifier or a general image embedder says."""

    def __init__(self, reader: Reader, *, explain: bool = False, top: int | None = None) -> None:
        """`top`: how many labels are told, None for three in a line and all in JSON.

        Raises UsageError when an explanation is asked of a model that has none, or `top` is not positive.
        """
        from edge_app.recognition.classes import ClassifierReader, Steady, judges_faces

        if explain and not (isinstance(reader, ClassifierReader) and reader.classifier.explains):
            raise UsageError(
                f"{reader.card.id} cannot show where it looks", expected="a classifier whose graph has class_maps"
            )
        if top is not None and top < 1:
            raise UsageError(f"--top is {top}", expected="at least 1")
        self._reader = reader
        self._explain = explain
        self._top = top
        self._steady = Steady(reader)
        self._by_face = judges_faces(reader.card.crop)

    def look(self, frame: Frame) -> Seen:
        """See `View.look`."""
        return self._reader.read(frame, explain=self._explain)

    def follow(self, seen: Seen) -> Seen:
        """Answers are averaged over the last frames, as in the live loop."""
        return self._steady.smooth(_reading(seen))

    def draw(self, seen: Seen) -> Pixels:
        """See `View.draw`."""
        from edge_app.media.drawing import annotate_reading

        return annotate_reading(_reading(seen))

    def line(self, seen: Seen) -> str:
        """See `View.line`."""
        reading = _reading(seen)
        if self._is_of_things:
            words = [_match_words(one.match.name, one.match.similarity) for one in reading.spotted]
            return "; ".join(words) or "nothing"
        if self._by_face:
            return "; ".join(f"{self._words(one.classification)} {_at(one.box)}" for one in reading.classified) or (
                "no face"
            )
        return self._words(reading.classified[0].classification)

    def as_json(self, source: str, seen: Seen) -> dict[str, Any]:
        """See `View.as_json`."""
        reading = _reading(seen)
        plain = _head(source, seen) | {"model": reading.model_id}
        if self._is_of_things:
            plain["things"] = [
                {
                    "box": _box(one.box),
                    "name": one.match.name,
                    "similarity": round(one.match.similarity, 4),
                    "margin": round(one.match.margin, 4),
                }
                for one in reading.spotted
            ]
        elif self._by_face:
            plain["faces"] = [{"box": _box(one.box)} | self._answer(one) for one in reading.classified]
        else:
            plain |= self._answer(reading.classified[0])
        return plain | {"timings_ms": _timings(seen)}

    def timeline(self) -> Timeline:
        """See `View.timeline`."""
        from edge_app.recognition.timeline import CLASS_WORDS, THING_WORDS, Timeline

        self._steady.reset()
        return Timeline(THING_WORDS if self._is_of_things else CLASS_WORDS)

    @property
    def _is_of_things(self) -> bool:
        return self._reader.card.task == "image-embedding"

    def _answer(self, one: Classified) -> dict[str, Any]:
        classes = [
            {"label": score.label, "probability": round(score.probability, 4)}
            for score in one.classification.scores[: self._top]
        ]
        return {"classes": classes, "label": one.classification.label}

    def _words(self, classification: Classification) -> str:
        told = _score_words(classification.scores[: self._top or _LINE_TOP])
        return told if classification.sure else f"not sure ({told})"


def _score_words(scores: tuple[ClassScore, ...]) -> str:
    return ", ".join(f"{one.label} {one.probability:.2f}" for one in scores)


def _sightings(seen: Seen) -> tuple[Sighting, ...]:
    return seen.sightings if isinstance(seen, Observation) else ()


def _reading(seen: Seen) -> Reading:
    if not isinstance(seen, Reading):
        raise TypeError(f"found {type(seen).__name__}, expected a reading")
    return seen


def _head(source: str, seen: Seen) -> dict[str, Any]:
    return {"source": source, "index": seen.frame.index, "time_s": round(seen.frame.time_s, 3)}


def _timings(seen: Seen) -> dict[str, float]:
    return {stage: round(ms, 2) for stage, ms in seen.timings_ms.items()}


def _box(box: Float32s) -> list[float]:
    return [round(float(v), 1) for v in box]


def _at(box: Float32s) -> str:
    return f"at {box[0]:.0f},{box[1]:.0f}-{box[2]:.0f},{box[3]:.0f}"


def _face_line(sighting: Sighting) -> str:
    return f"{_match_words(sighting.match.name, sighting.match.similarity, _at(sighting.face.box))}"


def _match_words(name: str | None, similarity: float, where: str = "") -> str:
    place = f" {where}" if where else ""
    if name is None:
        return f"unknown{place}" + (f" (nearest {similarity:.2f})" if similarity > -1 else "")
    return f"{name} {similarity:.2f}{place}"
