"""The steps of a sift: what each asks of a picture, and how it is written on the command line.

One more kind of step is one class and one entry in `STEPS`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, Self

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.suggest import did_you_mean
from edge_app.core.task import Task
from edge_app.core.types import Float32s
from edge_app.library.tools import Look, Tools
from edge_app.media.pictures import read_picture

FORMS: Final = (
    ("faces:0", "no face; also faces:>=2, faces:<3"),
    ("MODEL:LABEL>=0.9", "a classifier's probability; without a number: its own answer"),
    ("NAME", "an enrolled person is there; name:NAME where the name is that of another step"),
    ("like:IMAGE>=0.8", "as alike as that to a picture, by a general image embedder"),
    ("sharp", "not blurred; also sharp>=0.2"),
    ("larger:640", "the shorter side has at least so many pixels"),
    ("not STEP", "the opposite"),
)
"""How steps are written, and what they ask."""

SHARP: Final = 0.12
"""Least detail of a sharp picture. Of ants_bees' 245 pictures none has less than 0.2; of those blurred by 3 px (at 224
px) 95 % have less than this."""

_OPERATORS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "": operator.eq,
}
_COMPARED: Final = re.compile(r"(?P<before>.*?)\s*(?P<sign>>=|<=|>|<|=)\s*(?P<number>[^<>=]*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one step says of one picture."""

    passes: bool
    value: str
    """What it found, in a word or a number, for the list of decisions."""


class Step(Protocol):
    """One question about a picture."""

    @classmethod
    def parse(cls, text: str, tools: Tools) -> Step | None:
        """The step that `text` writes; None when it writes another kind. Raises UsageError when it makes no sense."""

    def judge(self, look: Look) -> Verdict:
        """Answer for one picture; threads ask at once. Raises MediaError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison with a number, such as ">=0.9"."""

    sign: str
    number: float

    def holds(self, value: float) -> bool:
        return _OPERATORS[self.sign](value, self.number)


def bounded(text: str, least: float, most: float) -> tuple[str, Bound | None]:
    """Split "before>=0.9" into what stands before and the bound, None where there is none.

    Raises UsageError when what is compared with is no number in [least, most].
    """
    found = _COMPARED.match(text)
    if found is None:
        return text.strip(), None
    return found["before"].strip(), Bound(found["sign"], _number(found["number"], text, least, most))


def _number(word: str, text: str, least: float, most: float) -> float:
    try:
        number = float(word)
    except ValueError:
        number = float("nan")
    if not least <= number <= most:
        raise UsageError(f"the step {text!r} compares with {word!r}", expected=f"a number from {least:g} to {most:g}")
    return number


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of another step."""

    step: Step

    @classmethod
    def parse(cls, text: str, tools: Tools) -> Self | None:
        head, _, rest = text.partition(" ")
        return cls(parse_step(rest, tools)) if head == "not" and rest.strip() else None

    def judge(self, look: Look) -> Verdict:
        verdict = self.step.judge(look)
        return Verdict(not verdict.passes, verdict.value)


@dataclass(frozen=True, slots=True)
class Faces:
    """How many faces there are."""

    bound: Bound

    @classmethod
    def parse(cls, text: str, tools: Tools) -> Self | None:
        if not text.startswith("faces:"):
            return None
        before, bound = bounded(text, 0, 10_000)
        if bound is None or before != "faces:":
            bound = Bound("", _number(text.removeprefix("faces:"), text, 0, 10_000))
        tools.detector()
        return cls(bound)

    def judge(self, look: Look) -> Verdict:
        count = len(look.faces)
        return Verdict(self.bound.holds(count), str(count))


@dataclass(frozen=True, slots=True)
class Sharp:
    """How much fine detail there is."""

    bound: Bound

    @classmethod
    def parse(cls, text: str, _tools: Tools) -> Self | None:
        before, bound = bounded(text, 0, 1) if text.startswith("sharp") else (text, None)
        return cls(bound or Bound(">=", SHARP)) if before == "sharp" else None

    def judge(self, look: Look) -> Verdict:
        return Verdict(self.bound.holds(look.sharpness), f"{look.sharpness:.3f}")


@dataclass(frozen=True, slots=True)
class Larger:
    """How large the picture is in its file."""

    side_px: float

    @classmethod
    def parse(cls, text: str, _tools: Tools) -> Self | None:
        if not text.startswith("larger:"):
            return None
        return cls(_number(text.removeprefix("larger:"), text, 1, 1_000_000))

    def judge(self, look: Look) -> Verdict:
        width, height = look.picture.original_size_px
        return Verdict(min(width, height) >= self.side_px, f"{width}x{height}")


@dataclass(frozen=True, slots=True)
class Like:
    """How alike the picture is to one of the user's."""

    vector: Float32s
    bound: Bound

    @classmethod
    def parse(cls, text: str, tools: Tools) -> Self | None:
        if not text.startswith("like:"):
            return None
        name, bound = bounded(text.removeprefix("like:"), -1, 1)
        if bound is None:
            raise UsageError(f"the step {text!r} says not how alike", expected="like:IMAGE>=0.8, a cosine")
        try:
            pixels = read_picture(Path(name))
        except MediaError as error:
            raise UsageError(f"the step {text!r} has no picture: {error.found}", remedy=error.remedy) from error
        return cls(tools.embedder().vector(pixels), bound)

    def judge(self, look: Look) -> Verdict:
        cosine = float(self.vector @ look.vector)
        return Verdict(self.bound.holds(cosine), f"{cosine:.3f}")


@dataclass(frozen=True, slots=True)
class Class:
    """What a classifier says of the picture; of several faces in it the one that has most of the label counts."""

    model_id: str
    label: str
    bound: Bound | None

    @classmethod
    def parse(cls, text: str, tools: Tools) -> Self | None:
        model_id, colon, rest = text.partition(":")
        models = tools.models(*(task for task in Task if task.classifies))
        if not colon or model_id not in models:
            return None
        labels = tools.classifier(model_id).card.labels
        label, bound = (rest, None) if rest in labels else bounded(rest, 0, 1)
        if label not in labels:
            raise UsageError(
                f"{model_id} knows no label {label!r}",
                expected=f"one of {', '.join(labels[:20])}{', ...' if len(labels) > 20 else ''}",
                remedy=did_you_mean(label, labels),
            )
        return cls(model_id, label, bound)

    def judge(self, look: Look) -> Verdict:
        answers = look.classes(self.model_id)
        probability = max(
            (one.probability for answer in answers for one in answer.scores if one.label == self.label), default=0.0
        )
        if self.bound is None:
            return Verdict(any(answer.name == self.label for answer in answers), f"{probability:.4f}")
        return Verdict(self.bound.holds(probability), f"{probability:.4f}")


@dataclass(frozen=True, slots=True)
class Named:
    """Whether an enrolled person is there."""

    name: str

    @classmethod
    def parse(cls, text: str, tools: Tools) -> Self | None:
        if not tools.home.gallery_path.exists():
            return None
        name = text.removeprefix("name:")
        people = tools.people()
        if name in people.vault.names(people.recognizer.embedder.model_id):
            return cls(name)
        return None

    def judge(self, look: Look) -> Verdict:
        named = sorted({match.name for match in look.people if match.name is not None})
        return Verdict(self.name in named, " + ".join(named) or f"{len(look.faces)} unknown")


STEPS: Final[Sequence[type[Step]]] = (Not, Faces, Sharp, Larger, Like, Class, Named)
"""Every kind of step; a text is read by the first that knows it."""


def parse_step(text: str, tools: Tools) -> Step:
    """The step that a text writes. Raises UsageError when it is of no kind, or names no model, label or person."""
    text = text.strip()
    if text in ("", "not"):
        raise UsageError(f"the step {text!r} asks nothing", expected=f"one of {', '.join(form for form, _ in FORMS)}")
    for kind in STEPS:
        if (step := kind.parse(text, tools)) is not None:
            return step
    word = text.partition(":")[0]
    models = tools.models(*(task for task in Task if task.classifies))
    if ":" in text and word != "name":
        raise UsageError(
            f"the step {text!r} names no model and no kind of step",
            expected=f"one of {', '.join(form for form, _ in FORMS)}",
            remedy=did_you_mean(
                word,
                ("faces", "like", "larger", *models),
                f"installed classifiers: {', '.join(models)}" if models else "no classifier is installed",
            ),
        )
    wanted = text.removeprefix("name:")
    names = tools.people().vault.names() if tools.home.gallery_path.exists() else ()
    raise UsageError(
        f"the step {text!r} is no kind of step, and nobody of that name is enrolled",
        expected=f"an enrolled name, or one of {', '.join(form for form, _ in FORMS)}",
        remedy=did_you_mean(wanted, (*names, "sharp"), f"enroll them: edge-app enroll {wanted!r} IMAGE IMAGE"),
    )
