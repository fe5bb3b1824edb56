"""The commands `models list`, `show`, `verify`, `add`, `remove`, `use` and `pull`."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edge_app
from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Group, Option
from edge_app.core.errors import EdgeError, ModelError
from edge_app.core.model_card import ModelCard
from edge_app.core.task import Task
from edge_app.system.files import size_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_app.model_store.describe import Description
    from edge_app.model_store.download import Known
    from edge_app.model_store.onnx_inspect import OnnxFile
    from edge_app.model_store.shipped import Entry
    from edge_app.system.data_folder import Home
    from edge_app.system.settings import Settings


_MTCNN_PARTS = "mtcnn-"
"""How the ids of the three networks begin that are one detector together, called mtcnn."""


def command() -> Group:
    json = options.json_flag
    return Group(
        "models",
        example="edge-app models show sface",
        commands=[
            Command("list", run_list, help="list the models, and which build runs here and why",
                example="edge-app models list",
                params=[
                    Option("--precision", kind=("auto", "fp32", "int8", "fp16"), help="as if this were set"),
                    json(),
                ]),
            Command("show", run_show, help="show a model's card", example="edge-app models show sface",
                params=[Argument("id", "ID", "a model's id, or an .onnx file: it is read, not run"), json()]),
            Command("verify", run_verify, help="check every file against its pinned hash and its card",
                example="edge-app models verify", params=[json()]),
            Command("remove", run_remove, help="remove a model that was added", example="edge-app models remove ID",
                params=[Argument("id", "ID", "the model"), json()]),
            Command("use", run_use, help="choose the model that does its task", example="edge-app models use sface",
                params=[Argument("id", "ID", "a model's id; 'faces' brings the face recognizer back"), json()]),
            Command("pull", run_pull, help="fetch a file from a known address, hash checked",
                example="edge-app models pull sface-2021dec",
                params=[
                    Argument("name", "NAME", "which; without it, what is known is listed", required=False),
                    Option("--sha256", metavar="HEX", help="the file's hash, where none is pinned"),
                    json(),
                ]),
            _add_command(),
        ],
    )  # fmt: skip


def _add_command() -> Command:
    section = "Description of a file without a card; each option overrides the TOML file"
    return Command(
        "add",
        run_add,
        help="check a model file, try it on sample pictures, and install it",
        example="edge-app models add ants-bees.onnx\n"
        "         edge-app models add face.onnx --preset arcface --id my-arcface --licence MIT\n"
        "         edge-app models add net.onnx --describe net.toml",
        params=[
            Argument("file", "FILE.onnx", "the model", kind=Path),
            Option("--replace", kind=bool, help="in place of the installed build of that id"),
            options.json_flag(),
            Option("--describe", kind=Path, metavar="FILE.toml", section=section,
                help="a description with the fields below"),
            Option("--preset", metavar="NAME", section=section,
                help="a well-known kind: arcface, yunet, minifasnet-2.7, minifasnet-4.0"),
            Option("--id", metavar="ID", section=section, help="its name (default: the file's)"),
            Option("--task", metavar="TASK", section=section,
                help="face-embedding, image-embedding, face-detection, …"),
            Option("--crop", metavar="CROP", section=section,
                help="arcface-112, dlib-150, centre-S, whole, face-S, none"),
            Option("--channels", metavar="ORDER", section=section, help="RGB or BGR"),
            Option("--mean", kind=float, many=True, metavar="M", section=section,
                help="in units of 0-255: one number or three"),
            Option("--std", kind=float, many=True, metavar="S", section=section,
                help="in units of 0-255: one number or three"),
            Option("--labels", kind=Path, metavar="FILE", section=section,
                help="labels, one a line, in the order of the logits"),
            Option("--embedding-size", kind=int, metavar="N", section=section, help="numbers in a vector"),
            Option("--licence", metavar="TEXT", section=section, help="SPDX id, or the owner's words"),
            Option("--commercial-use/--no-commercial-use", kind=bool, section=section,
                help="whether the licence allows it"),
            Option("--temperature", kind=float, metavar="T", section=section, help="softmax(logits / T) is calibrated"),
            Option("--unsure-below", kind=float, metavar="P", section=section,
                help="probability under which it is not sure"),
            Option("precision_", "--as-precision", metavar="P", section=section,
                help="fp32, int8 or fp16 (default: seen)"),
        ],
    )  # fmt: skip


def run_list(args: Arguments) -> int:
    """Print every build, its licence, and which ones are in use."""
    from edge_app.model_store.candidates import remove_abandoned
    from edge_app.model_store.catalogue import catalogue
    from edge_app.model_store.choose_build import choose

    home, settings = options.settings(args)
    remove_abandoned(home)
    entries = catalogue(home)
    lost = [name for name in _lost(settings, entries) if name != "embedder"]
    try:
        choice = choose(settings.embedder, settings.precision, home, settings.threads)
        why, medians_ms, chosen = choice.why, dict(choice.medians_ms), choice.entry
    except EdgeError as error:  # the list is what helps then
        why, medians_ms, chosen = str(error), {}, None
    listed = [_row(entry) | {"in_use": _used(entry, settings, chosen)} for entry in entries]
    if args.json:
        options.print_json({"models": listed, "why": why, "medians_ms": medians_ms})
        return 0
    columns = ("", "id", "precision", "task", "licence", "size", "SHA-256")
    options.show(options.table("", columns, [_cells(row) for row in listed]))
    if chosen is None:
        options.say("* in use. There is no embedder.")
        options.warn(f"{why}; `edge-app models use sface` brings the shipped one back")
    else:
        options.say(f"* in use. Embedder {chosen.id} as {chosen.precision}: {why}.")
    for name in lost:
        options.warn(f"the {name} in the settings, {getattr(settings, name)!r}, is not installed")
    for row in listed:
        if row["problem"]:
            options.warn(row["problem"])
    return 0


def _home(args: Arguments) -> Home:
    """The data folder, without what a `models add` that was killed left in it."""
    from edge_app.model_store.candidates import remove_abandoned
    from edge_app.system.data_folder import Home

    home = Home.locate(args.home)
    remove_abandoned(home)
    return home


def _lost(settings: Settings, entries: Sequence[Entry]) -> list[str]:
    """Names of the settings whose model is not there."""
    ids = {entry.id for entry in entries} | {"mtcnn", "faces"}
    return [name for name in ("embedder", "detector", "model") if getattr(settings, name) not in ids]


def _used(entry: Entry, settings: Settings, embedder: Entry | None) -> bool:
    detects = entry.id == settings.detector or (settings.detector == "mtcnn" and entry.id.startswith(_MTCNN_PARTS))
    return entry == embedder or detects or entry.id == settings.model


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": entry.id,
        "precision": entry.precision,
        "task": entry.task,
        "licence": "",
        "commercial_use": False,
        "bytes": entry.bytes,
        "sha256": entry.sha256,
        "problem": None,
    }
    try:
        card = _read(entry.path)
    except ModelError as error:  # one spoiled file must not hide the others
        return row | {"problem": str(error)}
    return row | {"licence": card.licence, "commercial_use": card.commercial_use}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    licence = "cannot be read" if row["problem"] else row["licence"] + _warning(row["commercial_use"])
    size = size_words(row["bytes"])
    return "*" if row["in_use"] else "", row["id"], row["precision"], row["task"], licence, size, row["sha256"][:12]


def _warning(commercial_use: bool) -> str:
    return "" if commercial_use else " (NO COMMERCIAL USE)"


def run_show(args: Arguments) -> int:
    """Print one card per build; files are read, never run."""
    paths = _files(args)
    cards = [_read_with_proof(path) for path in paths]
    if args.json:
        options.print_json([json.loads(card.to_json()) | {"proven": proven} for card, proven in cards])
        return 0
    for card, proven in cards:
        _print_card(card, proven)
    for card in {card.id: card for card, _ in cards}.values():
        _warn_of_licence(card)
    return 0


def _files(args: Arguments) -> list[Path]:
    path = Path(args.id)
    if path.suffix == ".onnx" or path.is_file():  # a folder is never meant: it may well be called like the model
        return [path]
    from edge_app.model_store.catalogue import builds, catalogue

    home = _home(args)
    if args.id == "mtcnn":
        return [entry.path for entry in catalogue(home) if entry.id.startswith(_MTCNN_PARTS)]
    return [entry.path for entry in builds(home, args.id)]


def _read(path: Path) -> ModelCard:
    """The card in a file, which must fit the graph's ends; nothing is run."""
    from edge_app.model_store.onnx_inspect import inspect

    return _fitting_card(inspect(path), path)


def _fitting_card(file: OnnxFile, path: Path) -> ModelCard:
    card = file.card
    if card is None:
        raise ModelError(f"{path.name} carries no card", expected="a file that `edge-app export` wrote")
    inputs, outputs = [port.name for port in file.inputs], [port.name for port in file.outputs]
    if inputs != [card.input.name] or tuple(outputs) != card.outputs:
        raise ModelError(
            f"the graph in {path.name} is {inputs} -> {outputs}",
            expected=f"{[card.input.name]} -> {list(card.outputs)} as its card says",
        )
    return card


def _read_with_proof(path: Path) -> tuple[ModelCard, bool | None]:
    """The card in a file, and whether the file carries what its maker measured, for this very card.

    None for the shipped ones, pinned by hash. Raises ModelError for a card or a proof that cannot be read.
    """
    from edge_app.model_store.fingerprint import changed_claims, read
    from edge_app.model_store.onnx_inspect import inspect

    file = inspect(path)
    card = _fitting_card(file, path)
    # Not asked of `edge_app.model_store.shipped`, which loads ONNX Runtime: a card is shown without it.
    if path.parent.resolve() == Path(edge_app.__file__).resolve().parent / "zoo":
        return card, None
    proof = read(file.metadata, path.name)
    return card, proof is not None and not changed_claims(proof, card)


_PROOF_WORDS = {
    True: "its maker's outputs on the sample pictures are inside",
    False: "none inside: the description can be checked only roughly",
    None: "ships with edge-app, pinned by its hash",
}


def _print_card(card: ModelCard, proven: bool | None) -> None:
    use = "commercial use allowed" if card.commercial_use else "NO COMMERCIAL USE"
    spec = card.input
    size = f"{spec.width_px or 'any'}x{spec.height_px or 'any'} {spec.channels}"
    facts = [
        ("task", card.task),
        ("precision", card.precision),
        ("licence", f"{card.licence} ({use})"),
        ("origin", card.origin),
        ("origin SHA-256", card.origin_sha256),
        ("input", f"{size}, mean {list(spec.mean)}, std {list(spec.std)}"),
        ("crop", card.crop),
        ("outputs", ", ".join(card.outputs)),
        ("proof", _PROOF_WORDS[proven]),
        *((name.replace("_", " "), f"{value:g}") for name, value in card.metrics.items()),
        *((name.replace("_", " "), text) for name, text in card.provenance.items()),
    ]
    if card.embedding_size:
        facts.insert(2, ("embedding", f"{card.embedding_size} numbers"))
    if card.labels:
        more = f" and {len(card.labels) - 20} more" if len(card.labels) > 20 else ""
        facts.insert(2, ("labels", ", ".join(card.labels[:20]) + more))
        facts.insert(3, ("calibration", f"temperature {card.temperature:g}, not sure below {card.unsure_below:g}"))
    if card.hierarchy is not None:
        families = [f"{one.name} from {one.sure_from:g}" for one in card.hierarchy.families]
        more = f" and {len(families) - 20} more" if len(families) > 20 else ""
        facts.insert(4, ("families", ", ".join(families[:20]) + more))
    if card.attributes:
        shown = [f"{one.name} ({', '.join(one.labels[:6])})" for one in card.attributes[:20]]
        more = f" and {len(card.attributes) - 20} more" if len(card.attributes) > 20 else ""
        facts.insert(4, ("attributes", ", ".join(shown) + more))
    options.show(options.table(f"{card.id} ({card.precision})", ("", ""), facts))
    if card.operating_points:
        rows = [
            (f"{p.fmr:g}", f"{p.threshold:.4f}", str(p.templates), f"{p.impostor_pairs:,}")
            for p in card.operating_points
        ]
        columns = ("false-match rate", "threshold", "templates", "impostor pairs")
        options.show(options.table("operating points", columns, rows))


def run_verify(args: Arguments) -> int:
    """Check every shipped and installed file; 1 when one is wrong."""
    from edge_app.model_store.catalogue import catalogue, open_entry

    results: list[dict[str, Any]] = []
    for entry in catalogue(_home(args)):
        result: dict[str, Any] = {"file": entry.path.name, "id": entry.id, "ok": True, "problem": None}
        try:
            open_entry(entry, threads=1)
        except ModelError as error:
            result |= {"ok": False, "problem": str(error)}
        results.append(result)
    if args.json:
        options.print_json({"files": results})
    else:
        for result in results:
            options.say(f"{result['file']}: " + ("well" if result["ok"] else str(result["problem"])))
    return 0 if all(result["ok"] for result in results) else 1


def run_add(args: Arguments) -> int:
    """Install one file."""
    from edge_app.model_store.install import add

    entry = add(_home(args), args.file, _description(args), replace=args.replace)
    return _told_added(args, entry, f"{entry.id} ({entry.precision}) is installed for {entry.task}")


def _description(args: Arguments) -> Description | None:
    """What the options and the TOML file say; None when they say nothing: then the file's own card speaks."""
    from edge_app.model_store.describe import Description, preset, read_description, read_labels

    given = {name: getattr(args, name) for name in (f.name for f in fields(Description)) if hasattr(args, name)}
    given |= {
        "mean": tuple(args.mean) if args.mean else None,
        "std": tuple(args.std) if args.std else None,
        "labels": read_labels(args.labels) if args.labels else None,
        "precision": args.precision_,
    }
    if args.preset is None and args.describe is None and all(value is None for value in given.values()):
        return None
    base = preset(args.preset) if args.preset else Description()
    if args.describe:
        base = read_description(args.describe).over(base)
    return Description(**given).over(base)


def _told_added(args: Arguments, entry: Entry, line: str) -> int:
    card, proven = _read_with_proof(entry.path)
    if args.json:
        told = {"id": entry.id, "precision": entry.precision, "task": entry.task, "sha256": entry.sha256}
        licence = {"licence": card.licence, "commercial_use": card.commercial_use}
        options.print_json(told | licence | {"proven": proven})
    else:
        options.say(f"{line}. {_next(entry.id, card)}")
        if not proven:
            options.say("It carries no outputs of its maker: that its description is right was checked only roughly.")
            if card.operating_points:
                faces = card.task == "face-embedding"
                how = "against the few sample people alone" if faces else "by nothing"
                options.say(
                    f"Its thresholds were checked {how}: `edge-app calibrate DIR --model {entry.id}` measures them."
                )
    _warn_of_licence(card)
    return 0


def _next(model_id: str, card: ModelCard) -> str:
    """What one would do with a model that has just come."""
    if card.task is Task.CLASSIFICATION:
        use = f"edge-app recognize PICTURE --model {model_id}, or for everything: edge-app models use {model_id}"
    elif card.task is Task.IMAGE_EMBEDDING and not card.operating_points:
        use = f"edge-app calibrate DIR --model {model_id}, for it has no thresholds yet"
    elif card.task is Task.IMAGE_EMBEDDING:
        use = f"edge-app enroll NAME PICTURE... --model {model_id}"
    else:
        use = f"edge-app models use {model_id}"
    return f"Next: {use}"


def _warn_of_licence(card: ModelCard) -> None:
    if not card.commercial_use:
        options.warn(f"{card.id}: NO COMMERCIAL USE; licence: {card.licence}")


def run_remove(args: Arguments) -> int:
    """Take one model out."""
    from edge_app.gallery.storage import Vault
    from edge_app.model_store.install import in_use, remove

    home = _home(args)
    named = in_use(home.settings(), args.id)
    with Vault(home.gallery_path) as vault:
        held = vault.names(args.id)
    gone = remove(home, args.id)
    after = home.settings()
    fallen = {name: getattr(after, name) for name in named}
    if args.json:
        removed = [entry.path.name for entry in gone]
        options.print_json({"id": args.id, "removed": removed, "settings": fallen, "unusable": list(held)})
        return 0
    options.say(f"{args.id} is removed ({', '.join(entry.precision for entry in gone)}).")
    for name, value in fallen.items():
        options.say(f"It was in use: the {name} is {value} again.")
    if held:
        options.say(_unusable(args.id, gone[0].task, held))
    return 0


def _unusable(model_id: str, task: str, names: tuple[str, ...]) -> str:
    """What becomes of those that are enrolled with a model that is removed."""
    one, many = ("thing", "things") if task is Task.IMAGE_EMBEDDING else ("person", "people")
    who = f"1 {one} stays" if len(names) == 1 else f"{len(names)} {many} stay"
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{who} in the gallery, but what was learned with {model_id} is of no use until it is added again: {listed}"


def run_use(args: Arguments) -> int:
    """Choose one model, and say what follows from it."""
    from edge_app.model_store.install import in_use, use
    from edge_app.recognition.gallery_session import unenrolled

    home = _home(args)
    before = home.settings()
    card = _card_in_use(home, args.id)
    after = use(home, args.id)
    role = (in_use(after, args.id) or ("model",))[0]
    again = unenrolled(home, args.id) if role == "embedder" and after.embedder != before.embedder else ()
    if args.json:
        told = {"id": args.id, "setting": role, "enroll_again": list(again), "precision": after.precision}
        options.print_json(told | ({"licence": card.licence, "commercial_use": card.commercial_use} if card else {}))
    else:
        options.say(f"The {role} is {args.id} now" + (f", licence {card.licence}." if card else "."))
        if after.precision != before.precision:
            options.say(f"It has no {before.precision} build: the precision is {after.precision} again.")
        if again:
            options.say(
                f"To be enrolled again, since templates of another model are never mixed in: {', '.join(again)}"
            )
    if card:
        _warn_of_licence(card)
    return 0


def _card_in_use(home: Home, model_id: str) -> ModelCard | None:
    """The card of what is to be used, None for words that stand for several models."""
    from edge_app.model_store.catalogue import builds

    if model_id in ("faces", "mtcnn"):
        return None
    return _read(builds(home, model_id)[0].path)


def run_pull(args: Arguments) -> int:
    """Fetch one known file; a model is installed at once."""
    from edge_app.model_store.download import known

    if args.name is None:
        return _list_known(args)
    for wanted in known(args.name):
        _pull(args, wanted)
    return 0


def _pull(args: Arguments, wanted: Known) -> None:
    from edge_app.model_store.download import pull
    from edge_app.model_store.install import add

    home = _home(args)
    if not wanted.commercial_use:
        options.warn(f"{wanted.name}: NO COMMERCIAL USE; licence: {wanted.licence}")
    with options.progress() as bar:
        task = bar.add_task(wanted.file, total=None)
        path = pull(home, wanted, args.sha256, lambda have, total: bar.update(task, completed=have, total=total))
    if wanted.kind == "model":
        _told_added(args, add(home, path, wanted.description), f"{wanted.name} is fetched and installed")
    elif args.json:
        options.print_json({"id": wanted.name, "path": str(path), "licence": wanted.licence})
    else:
        options.say(f"{wanted.name} lies at {path}. Next: {wanted.next_step.format(path=path)}")


def _list_known(args: Arguments) -> int:
    from edge_app.model_store.download import REGISTRY

    if args.json:
        options.print_json(
            [
                {"id": one.name, "url": one.url, "sha256": one.sha256, "licence": one.licence, "kind": one.kind}
                for one in REGISTRY.values()
            ]
        )
        return 0
    rows = [
        (one.name, one.kind, one.licence + _warning(one.commercial_use), (one.sha256 or "say it with --sha256")[:20])
        for one in REGISTRY.values()
    ]
    options.show(options.table("", ("name", "kind", "licence", "SHA-256"), rows))
    return 0
