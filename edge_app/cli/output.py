"""What `recognize` and `watch` look for, and how it is told: a line for people, JSON for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_app.cli import options
from edge_app.cli.parameters import Arguments, Option
from edge_app.core.errors import UsageError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor, Words
from edge_app.core.types import Classification, Finding, Match, Seen

if TYPE_CHECKING:
    from edge_app.recognition.gallery_session import GallerySession
    from edge_app.recognition.session import Session

_LINE_TOP = 3
"""Labels in a line for people, unless --top says otherwise."""


def model_options() -> list[Option]:
    """--model, --unsure-below and --roi."""
    section = "Model"
    return [
        Option("--model", metavar="ID", section=section,
            help="'faces', or the id of a model (default: see `models use`); `models list`: ids"),
        Option("--unsure-below", kind=float, metavar="P", section=section,
            help="a classifier is not sure below this probability (its card's)"),
        Option("--roi", metavar="X1,Y1,X2,Y2", section=section,
            help="the part of a picture that a classifier looks at, as shares of it from 0 to 1 (its card's)"),
    ]  # fmt: skip


def open_chosen(args: Arguments, *, runner_up: bool = False) -> Session:
    """Open what --model or the settings look for; `runner_up`: a classifier's maps are of its second best label.

    Raises UsageError for an unknown model or one that tells nothing, such as a detector.
    """
    from edge_app.recognition.open_session import OpenOptions, open_session

    home, chosen = options.settings(args)
    look_for = LookFor(args.model if args.model is not None else chosen.model)
    precision = None if args.precision in (None, "auto") else args.precision
    roi = None
    if args.roi is not None:
        from edge_app.inference.geometry import parse_region

        roi = parse_region(args.roi)
    asked = OpenOptions(
        precision, args.unsure_below, options.detector_options(args), roi, runner_up, options.chosen_candidates(args)
    )
    return open_session(home, chosen, look_for, asked)


def tell_of(session: Session, *, rule: bool = False) -> None:
    """Say on standard error what the user should know: the licence, who is unknown to the model, who may be named.

    With `rule` also how alike somebody must be to be named, where anybody is enrolled.
    """
    if session.recognizer.card is not None:
        tell_licence(session.recognizer.card)
    if session.vault is None:  # a classifier is served without what only a gallery needs
        return
    from edge_app.recognition.gallery_session import GallerySession

    if not isinstance(session, GallerySession):
        return
    from edge_app.recognition.reenroll import missing_line

    words = session.recognizer.words
    if told := missing_line(session.home, session.vault, session.recognizer.embedder.card):
        options.warn(told)
    elif not len(session.recognizer.gallery) and session.look_for.is_people:
        options.warn("nobody is enrolled yet, so everybody is unknown; try: edge-app enroll NAME IMAGE IMAGE")
    unpromised = session.recognizer.rule.unpromised
    if rule and len(session.recognizer.gallery):
        said = session.recognizer.rule.words.removesuffix(unpromised).rstrip()
        options.tell_once(session.home, f"rule for {words.nouns}", _rule_words(said, words))
    tell_unpromised(session)


def tell_unpromised(session: GallerySession) -> None:
    """Say on standard error where so many may be named that the share of strangers asked for cannot be promised."""
    recognizer = session.recognizer
    if len(recognizer.gallery) and recognizer.rule.unpromised:
        options.warn(_rule_words(recognizer.rule.unpromised, recognizer.words))


def _rule_words(said: str, words: Words) -> str:
    """What a rule says of people, said of whatever is looked for."""
    if words.noun != "person":
        for person, thing in (
            ("1 person", f"1 {words.noun}"),
            ("people", words.nouns),
            ("called somebody", "called by its name"),
        ):
            said = said.replace(person, thing)
    return said


def tell_licence(card: ModelCard) -> None:
    """Say on standard error, once a run, that a model may not be used for business."""
    if not card.commercial_use:
        options.warn(f"{card.id} is for non-commercial use only (licence: {card.licence}; weights from {card.origin})")


def line(session: Session, seen: Seen, top: int | None = None) -> tuple[str | options.Coloured, ...]:
    """All that was seen in a frame, for people, in pieces; `top` labels of a classifier, None for three."""
    recognizer = session.recognizer
    told: list[str | options.Coloured] = []
    for finding in seen.findings:
        left, top_edge, right, bottom = finding.box
        corners = f"{left:.0f},{top_edge:.0f}-{right:.0f},{bottom:.0f}"
        where = f" at {corners}" if recognizer.finds_faces else ""
        if told:
            told.append("; ")
        answer = finding.answer
        if isinstance(answer, Match):
            told += _match_words(answer, where)
        else:
            told += [options.Coloured(_class_words(answer, top), "yellow" if answer.name is None else "green"), where]
    return tuple(told) or ("no face" if recognizer.finds_faces else recognizer.words.nothing,)


def as_json(session: Session, source: str, seen: Seen, top: int | None = None) -> dict[str, Any]:
    """All that was seen in a frame, for scripts; `top` labels of a classifier, None for all."""
    recognizer = session.recognizer
    plain: dict[str, Any] = {"source": source, "index": seen.frame.index, "time_s": round(seen.frame.time_s, 3)}
    found = [_finding(one, top) for one in seen.findings]
    if session.look_for.is_people:
        plain["faces"] = found
    else:
        plain["model"] = session.look_for.word
        if recognizer.finds_faces:
            plain["faces"] = found
        elif seen.findings and isinstance(seen.findings[0].answer, Classification):
            plain |= {key: value for key, value in found[0].items() if key != "box"}
        else:
            plain["things"] = found
    return plain | {"timings_ms": {stage: round(ms, 2) for stage, ms in seen.timings_ms.items()}}


def _finding(finding: Finding, top: int | None) -> dict[str, Any]:
    answer = finding.answer
    plain: dict[str, Any] = {"box": [round(float(v), 1) for v in finding.box]}
    if isinstance(answer, Match):
        if finding.face is not None:
            plain["score"] = round(finding.face.score, 4)
        return plain | {
            "name": answer.name,
            "similarity": round(answer.similarity, 4),
            "margin": round(answer.margin, 4),
        }
    classes = [{"label": one.label, "probability": round(one.probability, 4)} for one in answer.scores[:top]]
    plain |= {"classes": classes, "label": answer.name}
    if answer.hierarchy is not None:
        family = answer.family
        plain["family"] = family and {"label": family.label, "probability": round(family.probability, 4)}
    if answer.attributes:
        plain["attributes"] = [{"name": one.label, "probability": round(one.probability, 4)} for one in answer.has]
    return plain


def _class_words(answer: Classification, top: int | None) -> str:
    told = ", ".join(f"{one.label} {one.probability:.2f}" for one in answer.scores[: top or _LINE_TOP])
    if answer.sure:
        return told
    has = f", has {', '.join(one.label for one in answer.has)}" if answer.has else ""
    return (f"not sure ({told})" if answer.name is None else f"{answer.words} {answer.value:.2f} ({told})") + has


def _match_words(match: Match, where: str) -> tuple[str | options.Coloured, ...]:
    if match.name is None:
        near = f" (nearest {match.similarity:.2f})" if match.similarity > -1 else ""
        return options.Coloured("unknown", "yellow"), where, near
    return options.Coloured(match.name, "green"), f" {match.similarity:.2f}{where}"


def check_view(session: Session, *, explain: bool, top: int | None) -> None:
    """Refuse --explain and --top where they mean nothing. Raises UsageError."""
    card = session.recognizer.card
    if (explain or top is not None) and not (card is not None and card.task.classifies):
        raise UsageError("--explain and --top are for classifiers", expected="--model with the id of one")
    if explain and not session.recognizer.explains:
        raise UsageError(
            f"{session.look_for} cannot show where it looks", expected="a classifier whose graph has class_maps"
        )
    if top is not None and top < 1:
        raise UsageError(f"--top is {top}", expected="at least 1")
