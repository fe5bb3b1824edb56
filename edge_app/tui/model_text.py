"""What the Live screen says of classifiers and of enrolled things: text for the side, marks for the picture."""

from __future__ import annotations

from typing import Final

from rich.cells import set_cell_size
from rich.text import Text

from edge_app.core.model_card import ModelCard
from edge_app.core.types import Classification, Float32s, Seen
from edge_app.live.events import LiveEvent
from edge_app.tui.face_text import STYLES, SYMBOLS, EventWords, event_words
from edge_app.tui.picture.mosaic import Mark, MarkKind

MOST_SHOWN: Final = 5
"""Classes in the list; the others are the least likely."""

_NAME_CELLS: Final = 12
_BAR_CELLS: Final = 8
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"


def marks_of_findings(seen: Seen) -> list[Mark]:
    """What was found, each with what was said of it."""
    marks = []
    for one in seen.findings:
        words = "? not sure" if isinstance(one.answer, Classification) else "? unknown"
        if isinstance(one.answer, Classification) and one.name is not None:
            words = f"{one.answer.words} {one.answer.value:.0%}"
        elif one.name is not None:
            words = f"{one.name} {one.answer.value:.2f}"
        marks.append(Mark(_box(one.box), words, "unknown" if one.name is None else "known"))
    return marks


def _box(box: Float32s) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return x1, y1, x2, y2


def seen_words(seen: Seen, *, unicode: bool) -> Text:
    """The answer in a line, over the likeliest classes with bars; for several faces a line for each."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for one in seen.findings:
        answer = one.answer
        if not isinstance(answer, Classification):
            _append_answer(text, answer.name, "unknown")
            # Below zero there was nothing to compare with.
            near = "nothing is enrolled yet" if answer.similarity < 0 else f"similarity {answer.similarity:.2f}"
            text.append(f"\n{near}\n", "dim")
        elif len(seen.findings) == 1:
            _append_classes(text, answer, unicode)
        else:
            _append_answer(text, answer.words, "not sure")
            text.append(f" {answer.value:.0%}\n", "dim")
    if not text:
        text.append("no face in the picture", "dim")
    text.rstrip()
    return text


def _append_answer(text: Text, name: str | None, none: str) -> None:
    kind: MarkKind = "unknown" if name is None else "known"
    text.append(f"{SYMBOLS[kind]} {none if name is None else name}", STYLES[kind])


def _append_classes(text: Text, answer: Classification, unicode: bool) -> None:
    _append_answer(text, answer.words, "not sure")
    text.append("\n")
    for place, score in enumerate(answer.scores[:MOST_SHOWN]):
        style = "" if place == 0 and answer.sure else "dim"
        text.append(set_cell_size(score.label, _NAME_CELLS) + " ", style)
        text.append(bar(score.probability, unicode=unicode), "green" if place == 0 and answer.sure else "yellow")
        text.append(f" {score.probability:4.0%}\n", style)
    if answer.has and not answer.sure:
        text.append(f"has {', '.join(one.label for one in answer.has)}\n", "dim")
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


def heat_words(seen: Seen | None) -> str:
    """What the colours over the picture mean."""
    labels = sorted({one.heatmap.label for one in seen.findings if one.heatmap}) if seen else []
    if not labels:
        return ""
    named = " and ".join(repr(label) for label in labels)
    return f"colours: where the network sees {named}, from dark to bright (class activation map); x hides them"


def answer_event_words(event: LiveEvent) -> EventWords:
    """An event as one short line, where it is about no person."""
    if event.event == "recognized":
        return EventWords(f"{SYMBOLS['known']} {event.name}", STYLES["known"])
    if event.event == "unknown":
        # Not asked of the card: the first events come before it. Only a classifier's events bring classes.
        none = "unknown" if event.classes is None else "not sure"
        return EventWords(f"{SYMBOLS['unknown']} {none}", STYLES["unknown"])
    return event_words(event)
