"""The commands about people in the gallery: `gallery list`, `show`, `rename`, `forget`, `reenroll`, `import`."""

from __future__ import annotations

import dataclasses
import datetime
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_app.cli import gallery_file, gallery_fleet, options
from edge_app.cli.parameters import Argument, Arguments, Command, Group, Option
from edge_app.core.counts import counted
from edge_app.core.errors import UsageError

if TYPE_CHECKING:
    from edge_app.core.types import Float32s
    from edge_app.gallery.people import Enrolled
    from edge_app.gallery.storage import Vault
    from edge_app.recognition.gallery_session import GallerySession
    from edge_app.recognition.reenroll import Reenrolled
    from edge_app.system.data_folder import Home


def command() -> Group:
    json = options.json_flag
    return Group(
        "gallery",
        example="edge-app gallery list",
        commands=[
            Command("list", run_list, help="list everybody enrolled", more=_LAST_SEEN,
                example="edge-app gallery list --most 100 --after Bob",
                params=[
                    Option("--most", kind=int, metavar="N", help="a page: the first N names (default: all)"),
                    Option("--after", default="", metavar="NAME", help="only names that come after NAME"),
                    json(),
                ]),
            Command("show", run_show, help="show one person's templates", example="edge-app gallery show Ada",
                params=[Argument("name", "NAME", "who", complete=options.enrolled_names), json()]),
            Command("rename", run_rename, help="give a person another name", example="edge-app gallery rename Ada Eve",
                params=[
                    Argument("old", "OLD", "who", complete=options.enrolled_names),
                    Argument("new", "NEW", "the name from now on"),
                ]),
            Command("forget", run_forget, help="delete a person's templates for good",
                example="edge-app gallery forget Ada",
                params=[
                    Argument("name", "NAME", "who", complete=options.enrolled_names),
                    Option("--yes", kind=bool, help="do not ask first, which is done on a terminal only"),
                ]),
            Command("reenroll", run_reenroll,
                help="enroll everybody for the embedder in use, from the pictures that were kept",
                example="edge-app gallery reenroll",
                params=[
                    Option("--model", metavar="ID",
                        help="embedder to enroll for, of faces or of things (default: that of faces in use)"),
                    Option("--allow-lookalike", kind=bool, help="accept people who look alike to this model"),
                    json(),
                    *options.recognition(),
                ]),
            Command("import", run_import, help="take in an exported gallery or existing encodings, all or none",
                more=_FORMATS, example="edge-app gallery import encodings.npz --model dlib-face",
                params=[
                    Argument("file", "FILE", "an exported gallery, .npz or .json; a pickle is never opened", kind=Path),
                    Option("--model", metavar="ID", help="the embedder that encodings come from"),
                    json(),
                ]),
            Command("review", run_review, help="say what each shot does for a person and against it", more=_REVIEW,
                example="edge-app gallery review Ada --strangers strangers/",
                params=[
                    Argument("name", "NAME", "who (default: everybody)", required=False),
                    Option("--strangers", kind=Path, metavar="DIR",
                        help="pictures of people who are nobody here (default: what the model's card brings)"),
                    json(),
                ]),
            Command("ignore", run_ignore, help="learn a known stranger, who is not told of and gets nobody's name",
                example="edge-app gallery ignore postman post1.jpg post2.jpg",
                params=[
                    Argument("name", "NAME", "what to call the stranger here"),
                    Argument("images", "IMAGE", "pictures; two are enough", kind=Path, many=True),
                    Option("--largest", kind=bool, help="take the largest face of pictures with several"),
                    json(),
                    *options.recognition(),
                ]),
            *gallery_file.commands(),
            *gallery_fleet.commands(),
        ],
    )  # fmt: skip


_REVIEW = """\
Every shot is left out once: "agrees" is its similarity to the others of the
person, "next" how high the nearest other person comes with it and without it,
"strangers" how high the nearest stranger comes: of those under --strangers, or
of the means of strangers in the model's card (- where there are neither). All
are plain cosines; lower is better but for "agrees". A shot does harm when it brings somebody else nearer, or is of
somebody else. In --json: other_with, other_without, strangers_with and
strangers_without, null for a person's only shot."""
_LAST_SEEN = """\
"Last seen" is when the live picture, or `edge-app watch`, last recognized a
person or a thing; `edge-app recognize` does not count."""
_FORMATS = """\
FILE is a gallery that `edge-app gallery export` wrote, or encodings:
  .npz   arrays `names` (N texts) and `encodings` (N x numbers), or one array
         of encodings per name
  .json  {"Ada": [[numbers], ...], ...}, or
         [{"name": "Ada", "encoding": [numbers]}, ...]
Besides, the key `model` may hold the id of the embedder that made them: a text
in .npz, {"model": "ID", "Ada": ...} or in every entry in .json. Without it the
encodings are taken for face_recognition's, which belong to dlib's network:
  edge-app export dlib --faces DIR -o dlib-face.onnx
  edge-app models add dlib-face.onnx
  edge-app gallery import FILE --model dlib-face"""


def run_list(args: Arguments) -> int:
    """Print everybody."""
    if args.most is not None and args.most < 1:
        raise UsageError(f"--most {args.most}", expected="a number of names, 1 or more")
    home, vault = _open(args)
    with vault:
        people = vault.page(args.after, args.most)
        is_empty = not people and vault.count() == 0
    if args.json:
        listed = [
            {
                "name": p.name,
                "templates": dict(p.templates),
                "pictures": p.pictures,
                "created_s": p.created_s,
                "last_seen_s": p.last_seen_s,
                "ignored": p.ignored,
                "consents": [{"time_s": time_s, "text": text} for time_s, text in p.consents],
            }
            for p in people
        ]
        options.print_json({"people": listed})
        return 0
    if not people and not is_empty:
        options.say(f"nobody's name comes after {args.after!r}")
        return 0
    if not people:
        options.say(f"nobody is enrolled in {home.path}; try: edge-app enroll NAME IMAGE IMAGE")
        return 0
    rows = [
        (
            f"{p.name} (ignored)" if p.ignored else p.name,
            ", ".join(f"{n} ({m})" for m, n in p.templates.items()),
            _when(p.created_s),
            _when(p.last_seen_s),
        )
        for p in people
    ]
    options.show(options.table("", ("name", "templates", "enrolled", "last seen"), rows))
    if args.most is not None and len(people) == args.most:
        options.say(f"the next page: edge-app gallery list --most {args.most} --after {shlex.quote(people[-1].name)}")
    return 0


def run_show(args: Arguments) -> int:
    """Print one person's templates: never the vectors."""
    _, vault = _open(args)
    with vault:
        person = vault.person(args.name)
        seen = vault.last_seen(args.name)
    templates: list[dict[str, Any]] = [
        {
            "source": t.source,
            "created_s": t.created_s,
            "model": t.embedding.model_id,
            "face_px": round(t.quality.face_px, 1),
            "sharpness": round(t.quality.sharpness, 3),
            "brightness": round(t.quality.brightness, 1),
            "yaw": round(t.quality.yaw, 3),
        }
        for t in (shot.template for shot in person.shots)
    ]
    if args.json:
        consents = [{"time_s": time_s, "text": text} for time_s, text in person.facts.consents]
        plain = {"name": person.name, "ignored": person.ignored, "last_seen_s": seen, "consents": consents}
        options.print_json({**plain, "templates": templates})
        return 0
    columns = ("source", "enrolled", "model", "face", "detail", "light", "turn")
    rows = [
        (
            t["source"],
            _when(t["created_s"]),
            t["model"],
            *_measured(t),
        )
        for t in templates
    ]
    options.show(options.table(f"{person.name}, last seen {_when(seen)}", columns, rows))
    for time_s, text in person.facts.consents:
        options.say(f"consent noted {_when(time_s)}: {text}")
    return 0


def _measured(template: dict[str, Any]) -> tuple[str, ...]:
    """What was measured, in words; dashes for an imported template, whose picture nobody saw."""
    if not template["face_px"]:
        return ("-",) * 4
    face, detail, light, turn = (template[k] for k in ("face_px", "sharpness", "brightness", "yaw"))
    return f"{face:.0f} px", f"{detail:.2f}", f"{light:.0f}", f"{turn:+.2f}"


def run_reenroll(args: Arguments) -> int:
    """Enroll again from kept pictures; 1 when somebody is left who needs new ones."""
    session, following = _reenrolling(args)
    model_id = session.recognizer.embedder.model_id
    done = []
    with session.vault, options.progress() as bar:
        task = bar.add_task("enrolling again", total=len(session.missing))
        for one in following:
            done.append(one)
            bar.advance(task)
    options.exchange(session.home)
    left = [one for one in done if not one.templates]
    if args.json:
        people = [{"name": one.name, "templates": one.templates, "reasons": list(one.reasons)} for one in done]
        options.print_json({"model": model_id, "people": people})
        return 1 if left else 0
    if not done:
        options.say(f"all are enrolled for {model_id}")
    for one in done:
        if one.templates:
            options.say(f"{one.name}: enrolled for {model_id} from {counted(one.templates, 'kept picture')}")
        else:
            options.say(f"{one.name}: needs new pictures ({'; '.join(dict.fromkeys(one.reasons))})")
    if left:
        options.warn(f"{len(left)} of {len(done)} must be enrolled from new pictures: edge-app enroll NAME IMAGE IMAGE")
    return 1 if left else 0


def _reenrolling(args: Arguments) -> tuple[GallerySession, Iterator[Reenrolled]]:
    """The session of the embedder that is meant, and what enrolls again one by one."""
    from edge_app.core.task import Task
    from edge_app.gallery.enrollment import EnrollOptions
    from edge_app.model_store.catalogue import builds
    from edge_app.recognition.open_session import open_things
    from edge_app.recognition.reenroll import reenroll

    home, settings = options.settings(args)
    session: GallerySession
    if args.model is None:
        session = options.people(args, tell_missing=False)
    else:
        task = Task(builds(home, args.model)[0].task)
        if not task.embeds:
            raise UsageError(f"{args.model} is a model for {task}", expected="an embedder; `edge-app models list`")
        if task is Task.IMAGE_EMBEDDING:
            session = open_things(home, settings, args.model)
        else:
            session = options.people(args, model=args.model, tell_missing=False)
    return session, reenroll(session, EnrollOptions(allow_lookalike=args.allow_lookalike))


def run_review(args: Arguments) -> int:
    """Review one or everybody; 1 when a shot does harm."""
    import numpy as np

    from edge_app.gallery.calibration import thresholds_of
    from edge_app.gallery.review import review
    from edge_app.model_store.catalogue import builds, open_entry
    from edge_app.recognition.gallery_session import same_person_floor

    home, vault = _open(args)
    settings = home.settings()
    entry = builds(home, settings.embedder)[0]
    thresholds = thresholds_of(home, open_entry(entry, 1).card, entry.sha256)
    floor = same_person_floor(thresholds, 0.3)
    with vault:
        stored = vault.read(entry.id)
        if args.name is not None:
            vault.identity(args.name, entry.id)  # says so when there is none
        means = list(zip(stored.names, stored.means, strict=True))
        wanted = stored.names if args.name is None else (args.name,)
        strangers = np.zeros((0, stored.means.shape[1]), np.float32)
        if args.strangers is not None:
            strangers = _strangers(args)
        elif thresholds.cohort is not None:
            strangers = thresholds.cohort.units
        found = [
            review(vault.identity(name, entry.id), [one for one in means if one[0] != name], strangers, floor)
            for name in wanted
        ]
    harmful = any(shot.harm for one in found for shot in one.shots)
    if args.json:
        options.print_json({"model": entry.id, "people": [dataclasses.asdict(one) for one in found]})
        return 1 if harmful else 0
    for one in found:
        rows = [
            (
                s.source,
                _figure(s.agrees),
                s.nearest_other or "-",
                _figure(s.other_with),
                _figure(s.other_without),
                _figure(s.strangers_with),
                _figure(s.strangers_without),
                s.harm,
            )
            for s in one.shots
        ]
        columns = ("source", "agrees", "next", "with it", "without", "strangers with", "without", "does harm")
        options.show(options.table(one.name, columns, rows))
        for line in one.missing:
            options.say(f"  {one.name}: {line}")
    if not found:
        options.say(f"nobody is enrolled for {entry.id}")
    return 1 if harmful else 0


def _strangers(args: Arguments) -> Float32s:
    """(N, D) unit vectors of the most prominent face of each picture under --strangers, sub-folders included."""
    import numpy as np

    from edge_app.core.errors import MediaError
    from edge_app.gallery.enrollment import Shot
    from edge_app.media.folders import find_pictures
    from edge_app.media.pictures import read_picture

    recognizer = options.people(args, tell_missing=False).recognizer
    vectors = []
    for path in find_pictures(args.strangers, recursive=True):
        try:
            shot = recognizer.shot(read_picture(path), path.name, largest=True)
        except MediaError as error:
            options.warn(str(error))
            continue
        if isinstance(shot, Shot):
            vectors.append(shot.embedding.vector)
    if not vectors:
        raise UsageError(f"no face was found on the pictures under {args.strangers}", expected="pictures of strangers")
    return np.stack(vectors)


def _shown(one: Enrolled) -> str:
    return f"{one.name} (ignored)" if one.ignored else one.name


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def run_ignore(args: Arguments) -> int:
    """Enroll a known stranger; 1 when no picture was taken."""
    from edge_app.core.errors import MediaError
    from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
    from edge_app.media.pictures import read_picture

    session = options.people(args, tell_missing=False)
    looks: list[tuple[str, Shot | Refusal]] = []
    for image in args.images:
        try:
            look = session.recognizer.shot(read_picture(image), image.name, largest=args.largest)
        except MediaError as error:
            look = Refusal("unreadable", str(error))
        looks.append((str(image), look))
    with session.vault:
        verdicts = session.enroll(args.name, looks, EnrollOptions(allow_lookalike=True, ignored=True))
    options.exchange(session.home)
    taken = sum(one.accepted for one in verdicts)
    if args.json:
        shots = [{"source": v.source, "reason": v.refusal.reason if v.refusal else None} for v in verdicts]
        options.print_json({"name": args.name, "accepted": taken, "shots": shots})
        return 0 if taken else 1
    for one in verdicts:
        if one.refusal:
            options.say(f"  {one.source}: refused, {one.refusal.reason}: {one.refusal.message}")
    if not taken:
        options.warn(f"no picture of {args.name} was accepted")
        return 1
    options.say(f"{args.name} is a known stranger now, from {counted(taken, 'picture')}; nobody is named instead")
    return 0


def run_import(args: Arguments) -> int:
    """Take in an exported gallery, or a file of encodings."""
    from edge_app.gallery.archive import is_archive

    if is_archive(args.file):
        return _import_gallery(args)
    if args.model is None:
        raise UsageError(
            f"{args.file} is no exported gallery", expected="--model with the embedder that its encodings come from"
        )
    from edge_app.gallery.import_encodings import check_model, import_encodings, read_encodings
    from edge_app.model_store.catalogue import builds, open_entry

    home, vault = _open(args)
    entry = builds(home, args.model)[0]
    check_model(entry.task, entry.id)
    encodings = read_encodings(args.file, open_entry(entry, 1).card)
    with vault:
        added = import_encodings(vault, entry.id, encodings, f"imported from {args.file.name}")
    options.exchange(home)
    total = sum(added.values())
    if args.json:
        people = [{"name": name, "templates": count} for name, count in added.items()]
        options.print_json({"model": entry.id, "templates": total, "people": people})
        return 0
    options.say(f"{counted(len(added), 'name')} with {counted(total, 'template')} imported for {entry.id}")
    if home.settings().embedder != entry.id:
        options.say(f"to match them: edge-app models use {entry.id}")
    return 0


def _import_gallery(args: Arguments) -> int:
    from edge_app.gallery.archive import import_gallery
    from edge_app.gallery.keys import passphrase

    home, vault = _open(args)
    with vault:
        vault.unlock()
        found = import_gallery(vault, args.file, passphrase(what="of the exported file"))
    options.exchange(home)
    if args.json:
        people = [{"name": name, "templates": count} for name, count in found.people.items()]
        options.print_json({"people": people, "held": list(found.held), "models": list(found.models)})
        return 0
    total = sum(found.people.values())
    options.say(f"{counted(len(found.people), 'name')} with {counted(total, 'template')} imported")
    if found.held:
        options.say(f"here already: {', '.join(found.held)}")
    if found.models and home.settings().embedder not in found.models:
        options.say(f"their templates are of {', '.join(found.models)}: edge-app models use ID, to match them")
    return 0


def run_rename(args: Arguments) -> int:
    home, vault = _open(args)
    with vault:
        vault.rename(args.old, args.new)
    options.exchange(home)
    options.say(f"{args.old} is now {args.new}")
    return 0


def run_forget(args: Arguments) -> int:
    """Forget one person; 1 when the user would rather not."""
    home, vault = _open(args)
    with vault:
        if not args.yes:
            held = vault.person(args.name)
            question = f"Delete {held.name}'s {counted(len(held.shots), 'template')} for good?"
            if not options.confirmed(question):
                options.note("nothing was deleted")
                return 1
        count = vault.forget(args.name)
    options.exchange(home)
    options.say(f"{args.name} is forgotten: {counted(count, 'template')} deleted for good")
    return 0


def _open(args: Arguments) -> tuple[Home, Vault]:
    from edge_app.gallery.storage import Vault
    from edge_app.system.data_folder import Home

    home = Home.locate(args.home)
    return home, Vault(home.gallery_path)


def _when(time_s: float | None) -> str:
    if time_s is None:
        return "never"
    return datetime.datetime.fromtimestamp(time_s).strftime("%Y-%m-%d %H:%M")
