"""What the Live screen says of classifiers and of enrolled things: hides bars, signs and how much fits in a line.

In: readings and cards. Out: text for the side, and the marks that lie over the picture.
"""

from __future__ import annotations

from typing import Final

from rich.cells import set_cell_size
from rich.text import Text

from edge_app.core.model_card import ModelCard
from edge_app.core.types import Classification, Float32s, Reading
from edge_app.live.events import LiveEvent
from edge_app.tui.face_text import STYLES, SYMBOLS, event_words
from edge_app.tui.picture.mosaic import Mark, MarkKind

FACES: Final = "faces"
"""What stands for the face recognizer where a model is named."""

MOST_SHOWN: Final = 5
"""Classes in the list; the others are the least likely."""

_NAME_CELLS: Final = 12
_BAR_CELLS: Final = 8
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def marks_of_reading(reading: Reading) -> list[Mark]:
    """The areas that were looked at, each with what was said of it."""
    marks = []
    for one in reading.classified:
        best = one.classification.scores[0]
        sure = one.classification.sure
        words = f"{best.label} {best.probability:.0%}" if sure else "? not sure"
        marks.append(Mark(_box(one.box), words, "known" if sure else "unknown"))
    for thing in reading.spotted:
        match = thing.match
        words = "? unknown" if match.name is None else f"{match.name} {match.similarity:.2f}"
        marks.append(Mark(_box(thing.box), words, "unknown" if match.name is None else "known"))
    return marks


def _box(box: Float32s) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def seen_words(reading: Reading, *, unicode: bool) -> Text:
    """The answer in a line, over the likeliest classes with bars; for several faces a line for each."""
    text = Text(no_wrap=True, overflow="ellipsis")
    if len(reading.classified) == 1:
        _append_classes(text, reading.classified[0].classification, unicode)
    for one in reading.classified if len(reading.classified) > 1 else ():
        best = one.classification.scores[0]
        _append_answer(text, best.label if one.classification.sure else None, "not sure")
        text.append(f" {best.probability:.0%}\n", "dim")
    for thing in reading.spotted:
        match = thing.match
        _append_answer(text, match.name, "unknown")
        # Below zero there was nothing to compare with.
        near = "nothing is enrolled yet" if match.similarity < 0 else f"similarity {match.similarity:.2f}"
        text.append(f"\n{near}\n", "dim")
    if not text:
        text.append("no face in the picture", "dim")
    text.rstrip()
    return text


def _append_answer(text: Text, name: str | None, none: str) -> None:
    kind: MarkKind = "unknown" if name is None else "known"
    text.append(f"{SYMBOLS[kind]} {none if name is None else name}", STYLES[kind])


def _append_classes(text: Text, answer: Classification, unicode: bool) -> None:
    _append_answer(text, answer.label, "not sure")
    text.append("\n")
    for place, score in enumerate(answer.scores[:MOST_SHOWN]):
        style = "" if place == 0 and answer.sure else "dim"
        text.append(set_cell_size(score.label, _NAME_CELLS) + " ", style)
        text.append(bar(score.probability, unicode=unicode), "green" if place == 0 and answer.sure else "yellow")
        text.append(f" {score.probability:4.0%}\n", style)
    hidden = len(answer.scores) - MOST_SHOWN
    if hidden > 0:
        text.append(f"and {hidden:,} less likely\n", "dim")


def bar(share: float, *, unicode: bool) -> str:
    """A bar for a share in [0, 1], always as many cells."""
    eighths = round(min(max(share, 0.0), 1.0) * _BAR_CELLS * 8)
    if not unicode:
        return ("#" * round(eighths / 8)).ljust(_BAR_CELLS, ".")
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(_BAR_CELLS)


def licence_words(card: ModelCard) -> str:
    """The licence in a few words; what may not be sold is said in capitals."""
    return card.licence if card.commercial_use else "NO COMMERCIAL USE"


def heat_words(reading: Reading | None) -> str:
    """What the colours over the picture mean."""
    labels = sorted({one.heatmap.label for one in reading.classified if one.heatmap}) if reading else []
    if not labels:
        return ""
    named = " and ".join(repr(label) for label in labels)
    return f"colours: where the network sees {named}, from dark to bright (class activation map); x hides them"


def reading_event_words(event: LiveEvent) -> tuple[str, str]:
    """An event as one short line, and its style, where it is about no person."""
    if event.event == "recognized":
        return f"{SYMBOLS['known']} {event.name}", STYLES["known"]
    if event.event == "unknown":
        # Not asked of the card: the first events come before it. Only a classifier's events bring classes.
        none = "unknown" if event.classes is None else "not sure"
        return f"{SYMBOLS['unknown']} {none}", STYLES["unknown"]
    return event_words(event)
