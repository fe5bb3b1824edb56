"""The command `enroll`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_app.cli import options, output
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import MediaError, UsageError
from edge_app.core.names import same_but_for_case, valid_name
from edge_app.core.plain_text import plain

if TYPE_CHECKING:
    from edge_app.gallery.enrollment import Refusal, Resemblance, Shot, Verdict
    from edge_app.gallery.storage import Vault
    from edge_app.media.folders import Unused
    from edge_app.recognition.gallery_session import GallerySession

_THINGS = """\
Things are enrolled with --model and a general image embedder. One that has no
thresholds wants `edge-app calibrate DIR --model ID` once before the first
enrollment: at least 10 sub-folders of things, with 3 or more pictures each."""


def command() -> Command:
    return Command(
        "enroll",
        run,
        example="edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg\n         edge-app enroll --folder people/\n"
        "         edge-app enroll 'blue mug' mug1.jpg mug2.jpg --model ID --box 40,60,300,320",
        more=_THINGS,
        params=[
            Argument("name", "NAME", "who it is", required=False),
            Argument(
                "images", "IMAGE", "pictures of that person; two are enough", kind=Path, required=False, many=True
            ),
            Option("--folder", kind=Path, metavar="DIR", help="a sub-folder of pictures per person"),
            Option("--largest", kind=bool, help="take the largest face of pictures with several"),
            Option("--allow-lookalike", kind=bool, help="do not ask about somebody who looks like another: a twin"),
            Option("--consent", metavar="TEXT", help="words of the consent to be noted with the time"),
            Option("--new-person", kind=bool, help="enroll a name that differs from an enrolled one by case only"),
            Option("--model", metavar="ID", help="enroll a thing with this general image embedder"),
            Option("--box", kind=_box, metavar="X1,Y1,X2,Y2", help="where the thing is, in pixels (with --model)"),
            options.json_flag(),
            *options.recognition(),
        ],
    )


def run(args: Arguments) -> int:
    """Enroll and report; 1 when anybody could not be enrolled, or a picture was refused or unreadable."""
    from edge_app.gallery.enrollment import EnrollOptions
    from edge_app.media.folders import unused_line

    unused: list[Unused] = []
    batches = _batches(args, unused)
    # A resemblance is a question; where nobody can be asked, and in a folder, it is enrolled and listed for review.
    asks = not args.allow_lookalike and not args.json and args.folder is None
    asks = asks and sys.stdin.isatty() and sys.stderr.isatty()
    chosen = EnrollOptions(largest=args.largest, allow_lookalike=not asks, consent=args.consent)
    session = _open(args)
    promised = not session.recognizer.rule.unpromised
    reports, whole = [], True
    known: set[str] = set()  # those of this run
    with options.progress() as bar:
        task = bar.add_task("enrolling", total=sum(len(images) for _, images in batches))
        for given, images in batches:
            try:
                name = _settled(valid_name(given), session.vault, known, args)
            except UsageError as error:
                if args.folder is None:
                    raise
                options.warn(f"{error}; the other sub-folders are enrolled")  # one odd name stops one person
                whole = False
                continue
            known.add(name)
            looks = []
            for image in images:
                looks.append((str(image), _look(session, image, args)))
                bar.advance(task)
            verdicts = session.enroll(name, looks, chosen)
            session = session.refreshed()
            if (
                asks
                and (found := _resemblance(verdicts))
                and click.confirm(
                    plain(f"{name} {_likeness(found)}. Is {name} somebody else?"), default=False, err=True
                )
            ):
                insisting = replace(chosen, allow_lookalike=True)
                again = [index for index, one in enumerate(verdicts) if _is_lookalike(one)]
                insisted = session.enroll(name, [looks[index] for index in again], insisting)
                for index, verdict in zip(again, insisted, strict=True):
                    verdicts[index] = verdict
                session = session.refreshed()
            report, complete = _report(name, verdicts, session)
            reports.append(report)
            whole = whole and complete
            if not args.json:
                _tell(report)
    if promised:
        output.tell_unpromised(session)  # these are the ones too many
    options.exchange(session.home)
    if args.json:
        options.print_json({"enrolled": reports})
    if line := unused_line(unused):
        options.warn(line)
    return 0 if whole else 1


def _is_lookalike(verdict: Verdict) -> bool:
    return verdict.refusal is not None and verdict.refusal.reason == "looks-like-somebody-else"


def _resemblance(verdicts: Sequence[Verdict]) -> Resemblance | None:
    """The strongest resemblance to somebody else that is to be asked about."""
    found = [one.resembles for one in verdicts if one.resembles and _is_lookalike(one)]
    return max(found, key=lambda one: one.similarity, default=None)


def _likeness(found: Resemblance) -> str:
    return (
        f"looks like {found.name}, who is enrolled (similarity {found.similarity:.2f}, strangers stay under "
        f"{found.threshold:.2f})"
    )


def _settled(name: str, vault: Vault, known: Iterable[str], args: Arguments) -> str:
    """The name to enroll under: asks when another differs by case only, which on most screens is the same person.

    Raises UsageError where nobody can be asked.
    """
    if args.new_person or name in known or vault.has(name):
        return name
    twin = vault.twin(name) or same_but_for_case(name, known)
    if twin is None:
        return name
    if args.json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"{name!r} differs from {twin!r}, who is enrolled, by capital letters only",
            remedy=f"write {twin!r} if it is the same person, or add --new-person",
        )
    options.warn(f"{twin!r} is enrolled already, and differs from {name!r} by capital letters only")
    return twin if click.confirm("Is it the same person?", default=True, err=True) else name


def _open(args: Arguments) -> GallerySession:
    """What enrolls: people, or things when --model names a general image embedder."""
    model = args.model
    if model is None:
        if args.box is not None:
            raise UsageError("--box is for things: faces are found", expected="--model with a general image embedder")
        return options.people(args)
    from edge_app.core.task import Task
    from edge_app.model_store.catalogue import builds
    from edge_app.recognition.open_session import open_things

    home, settings = options.settings(args)
    task = Task(builds(home, model)[0].task)
    if task is Task.IMAGE_EMBEDDING:
        if args.largest:
            raise UsageError("--largest is for faces", expected="--box to say where the thing is")
        return open_things(home, settings, model)
    if task is not Task.FACE_EMBEDDING:
        raise UsageError(f"{model} is a model for {task}", expected="an embedder; `edge-app models list`")
    if args.box is not None:
        raise UsageError("--box is for things: faces are found", expected="--model with a general image embedder")
    return options.people(args, model=model)


def _look(session: GallerySession, image: Path, args: Arguments) -> Shot | Refusal:
    """What a picture is about."""
    import numpy as np

    from edge_app.gallery.enrollment import Refusal
    from edge_app.media.pictures import open_picture
    from edge_app.recognition.things import judge_box

    try:
        picture = open_picture(image)
    except MediaError as error:
        return Refusal("unreadable", str(error))
    # A huge picture was shrunk while it was read; the box is in the pixels of the file, and judged there.
    box = None if args.box is None else np.asarray(args.box, np.float32)
    if box is not None:
        if refusal := judge_box(picture.original_size_px, box):
            return refusal
        box = box * picture.scale
    return session.recognizer.shot(picture.pixels, str(image.name), box=box, largest=args.largest)


def _box(text: str) -> tuple[float, ...]:
    """Four finite numbers with x1 < x2 and y1 < y2."""
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4 or not all(abs(v) < 1e6 for v in box) or box[0] >= box[2] or box[1] >= box[3]:
        raise click.BadParameter(f"{text!r} is no box; expected X1,Y1,X2,Y2 with X1 < X2 and Y1 < Y2")
    return box


def _batches(args: Arguments, unused: list[Unused]) -> list[tuple[str, list[Path]]]:
    """Names with their pictures, from the arguments or the folder; what else that holds is added to `unused`."""
    if args.folder is not None:
        if args.name is not None:
            raise UsageError("both a name and --folder were given", expected="one of them")
        from edge_app.media.folders import named_folders

        return named_folders(args.folder, of="person", unused=unused, problem=options.warn)
    if args.name is None or not args.images:
        raise UsageError(
            "no pictures were given" if args.name else "no name was given",
            expected="a name and pictures, or --folder",
            remedy="try: edge-app enroll 'Ada Lovelace' ada1.jpg ada2.jpg",
        )
    return [(valid_name(args.name), list(args.images))]


def _report(name: str, verdicts: Sequence[Verdict], session: GallerySession) -> tuple[dict[str, Any], bool]:
    """What became of one name, and whether every picture was taken."""
    from edge_app.recognition.gallery_session import own_embeddings

    model_id = session.recognizer.embedder.model_id
    accepted = sum(verdict.accepted for verdict in verdicts)
    total = len(own_embeddings(session.vault, name, model_id))
    report = {
        "name": name,
        "model": model_id,
        "accepted": accepted,
        "templates": total,
        "warning": _warning(name, accepted, total),
        "hard_to_tell": bool(accepted) and _is_hard_to_tell(name, session),
        "resembles": [
            {"name": found.name, "similarity": round(found.similarity, 3), "strangers_under": round(found.threshold, 3)}
            for found in _resembled(verdicts)
        ],
        "shots": [_shot_report(verdict) for verdict in verdicts],
    }
    return report, bool(verdicts) and accepted == len(verdicts)


def _is_hard_to_tell(name: str, session: GallerySession) -> bool:
    """Whether the network can hardly tell this face from others of its kind, such as toddlers'."""
    import numpy as np

    from edge_app.core.types import Embedding
    from edge_app.gallery.matching import looks_like_nobody_can_tell
    from edge_app.recognition.gallery_session import own_embeddings

    cohort = session.recognizer.rule.cohort
    model_id = session.recognizer.embedder.model_id
    own = own_embeddings(session.vault, name, model_id)
    return looks_like_nobody_can_tell(Embedding(np.sum([one.vector for one in own], axis=0), model_id), cohort)


def _resembled(verdicts: Sequence[Verdict]) -> list[Resemblance]:
    """Whom the accepted shots look like besides, each once at its strongest."""
    found: dict[str, Resemblance] = {}
    for one in (verdict.resembles for verdict in verdicts if verdict.accepted and verdict.resembles):
        if one.name not in found or found[one.name].similarity < one.similarity:
            found[one.name] = one
    return list(found.values())


def _warning(name: str, accepted: int, total: int) -> str | None:
    if accepted == 0 and total:
        return f"nothing new: {name} stays enrolled with {counted(total, 'picture')}"
    if accepted == 0:
        return f"{name} was not enrolled: no picture was accepted"
    if total == 1:
        return "one picture works, two are clearly better: add another in different light or a little turned"
    return None


def _shot_report(verdict: Verdict) -> dict[str, Any]:
    from dataclasses import asdict

    quality = {k: round(v, 3) for k, v in asdict(verdict.shot.quality).items()} if verdict.shot else None
    return {
        "source": verdict.source,
        "accepted": verdict.accepted,
        "reason": verdict.refusal.reason if verdict.refusal else None,
        "message": verdict.refusal.message if verdict.refusal else verdict.warning,
        "quality": quality,
    }


def _tell(report: dict[str, Any]) -> None:
    for shot in report["shots"]:
        if shot["accepted"]:
            q = shot["quality"]
            options.say(f"  {shot['source']}: accepted ({q['face_px']:.0f} px, detail {q['sharpness']:.2f})")
            if shot["message"]:
                options.warn(f"{shot['source']}: {shot['message']}")
        else:
            options.say(f"  {shot['source']}: refused, {shot['reason']}: {shot['message']}")
    if report["accepted"]:
        count = report["templates"]
        options.say(f"{report['name']}: enrolled with {counted(count, 'picture')}")
    if report["warning"]:
        options.warn(report["warning"])
    if report["hard_to_tell"]:
        options.warn(
            f"{report['name']}: the network can hardly tell this face from others of its kind, as with small children: "
            "it will seldom be named"
        )
    for found in report["resembles"]:
        options.warn(
            f"for review: {report['name']} looks like {found['name']} (similarity {found['similarity']:.2f}, strangers "
            f"stay under {found['strangers_under']:.2f}); see `edge-app gallery review`"
        )
