"""What can be chosen when a classifier is trained; imports nothing heavy, so that help texts come at once.

Flows in: an argparse parser, later its namespace. Flows out: `ClassifierOptions`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_app.core.errors import UsageError
from edge_models.fitting.options import FIND, LARGEST, NEVER, PathTeller, command_of, plain

if TYPE_CHECKING:
    from edge_models.data.augment import AugmentOptions, Mixing
    from edge_models.fitting.fit import Device, Log, Machine, Precision

LOSSES = ("cross-entropy", "cosine", "cosine+cross-entropy")
METHODS = (
    "cosine",
    "cosine+cross-entropy",
    "smoothing",
    "balanced",
    "mixup",
    "augmented",
    "pseudo-labels",
    "distillation",
)
"""What `--compare` can hold against doing without."""

_RATE = f"above 0, to {LARGEST:g}"


@dataclass(frozen=True, slots=True)
class ClassifierOptions:
    """One run."""

    directory: Path
    """A folder with a sub-folder of pictures per class."""
    output: Path
    """The run's folder."""
    seed: int = 0
    backbone: str = "efficientnet-lite0"
    weights: Path | None = None
    """A weight file for the backbone instead of its own."""
    validation_share: float = 0.2
    """Share of the pictures to judge by, where the folder has no val/ of its own."""
    selection_share: float = 0.2
    """Share of the rest to stop and choose by."""
    loss: str = "cross-entropy"
    smoothing: float = 0.0
    """Label smoothing, [0, 1)."""
    mixing: str = "none"
    balanced: bool = False
    """Draw every class equally often."""
    epochs: int = 40
    """Epochs of the head on cached features."""
    tune_epochs: int = 8
    """Epochs of the unfrozen layers."""
    unfreeze: int = 2
    """Groups of layers that are unfrozen, from the output; 0 keeps the base frozen."""
    learning_rate: float = 1e-3
    """Of the head on cached features."""
    tune_rate: float | None = 2e-4
    """Of the head while layers are unfrozen, each group below at `decay` of the one above; None: range test."""
    decay: float = 0.3
    ridge: float = 3.0
    """Penalty on the head's matrix, divided by the number of pictures."""
    dropout: float = 0.0
    batch_size: int = 32
    patience: int | None = 10
    """Epochs without improvement after which a stage stops."""
    views: int = 1
    """Random views of each picture beside the plain and the mirrored one."""
    augmentation: float = 1.0
    """Strength of the random views, 0 to 2."""
    webcam: float = 0.0
    """Chance of each webcam fault in a random view, [0, 1]."""
    subject: str = "thing"
    """thing or face: faces are not cropped."""
    upside_down: bool = False
    mirror: bool = True
    device: str = "auto"
    devices: int = 1
    precision: str = "auto"
    workers: int = 0
    log: str = "csv"
    cache: Path | None = None
    """Folder of cached features; None: in the run's folder."""
    groups: Path | None = None
    """CSV with the columns file, group: results per group."""
    unlabelled: Path | None = None
    """Folder of pictures to take pseudo-labels from."""
    confidence: float = 0.95
    """What the teacher must be sure of before a pseudo-label is taken."""
    generations: int = 0
    """Generations of self-distillation."""
    resume: bool = False

    def __post_init__(self) -> None:
        checks: list[tuple[bool, str, Any, str]] = [
            (0 <= self.smoothing < 1, "label smoothing", self.smoothing, "0 to below 1"),
            (self.epochs >= 1, "number of epochs", self.epochs, "1 or more"),
            (self.unfreeze >= 0, "number of groups to unfreeze", self.unfreeze, "0 or more"),
            (self.tune_epochs >= 1, "number of tuning epochs", self.tune_epochs, "1 or more"),
            (self.batch_size >= 1, "batch size", self.batch_size, "1 or more"),
            (self.views >= 0, "number of views", self.views, "0 or more"),
            (0.5 <= self.confidence < 1, "confidence bar", self.confidence, "0.5 to below 1"),
            (self.generations >= 0, "number of generations", self.generations, "0 or more"),
            (0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1"),
            (0 <= self.ridge <= LARGEST, "ridge", self.ridge, f"0 to {LARGEST:g}"),
            (0 < self.decay <= 1, "decay", self.decay, "above 0, to 1"),
            (self.loss in LOSSES, "loss", self.loss, ", ".join(LOSSES)),
            (self.seed >= 0, "seed", self.seed, "0 or more"),
            (0 < self.learning_rate <= LARGEST, "learning rate", self.learning_rate, _RATE),
            (self.tune_rate is None or 0 < self.tune_rate <= LARGEST, "tuning rate", self.tune_rate, _RATE),
            (self.patience is None or self.patience >= 1, "patience", self.patience, "1 or more epochs"),
            (0 < self.validation_share < 1, "validation share", self.validation_share, "between 0 and 1"),
            (0 < self.selection_share < 1, "selection share", self.selection_share, "between 0 and 1"),
            (0 <= self.augmentation <= 2, "augmentation strength", self.augmentation, "0 to 2"),
            (0 <= self.webcam <= 1, "webcam share", self.webcam, "0 to 1"),
        ]
        for good, what, found, expected in checks:
            if not good:
                raise UsageError(f"found {found} as {what}", expected=expected)

    @property
    def machine(self) -> Machine:
        """What training runs on."""
        from edge_models.fitting.fit import Machine

        return Machine(cast("Device", self.device), self.devices, cast("Precision", self.precision), self.workers)

    @property
    def augment(self) -> AugmentOptions:
        """What the random views look like."""
        from edge_models.data.augment import AugmentOptions, Subject

        return AugmentOptions(cast(Subject, self.subject), self.augmentation, self.webcam, self.upside_down)

    @property
    def mixing_word(self) -> Mixing:
        """Mixing, as the training module names it."""
        return cast("Mixing", self.mixing)

    @property
    def log_word(self) -> Log:
        """Log, as the training module names it."""
        return cast("Log", self.log)

    def configuration(self, tell: PathTeller = str) -> dict[str, Any]:
        """Everything that decides the result, as plain values; where things lie and how they are told is left out."""
        decides = asdict(self)
        for name in ("output", "resume", "cache", "log", "workers"):
            del decides[name]
        return plain(decides, tell)

    def command(self, tell: PathTeller = str) -> str:
        """The command that trains the same again."""
        return command_of("classifier", add_arguments, self, tell)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train classifier`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a sub-folder of pictures per class")
    parser.add_argument("--output", type=Path, metavar="RUN",
        help="folder of the run; must be new; not needed to show, nor to compare in one go")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="decides the split and everything random (default 0)")
    parser.add_argument("--resume", action="store_true", help="go on with the run where it was left")
    _model(parser.add_argument_group("network"))
    _learning(parser.add_argument_group("learning"))
    _pictures(parser.add_argument_group("pictures"))
    _small_data(parser.add_argument_group("small data"))
    _machine(parser.add_argument_group("machine"))


def _model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--backbone", default="efficientnet-lite0", metavar="NAME",
        help="efficientnet-lite0 (default, works offline), any timm name, inception-resnet-v1:vggface2")  # fmt: skip
    group.add_argument("--weights", type=Path, metavar="FILE", help="weight file of the backbone instead of its own")
    group.add_argument("--unfreeze", type=int, default=2, metavar="N", help="groups of layers to fine-tune (default 2)")


def _learning(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--loss", choices=LOSSES, default="cross-entropy")
    group.add_argument("--smoothing", type=float, default=0.0, metavar="S", help="label smoothing (default 0)")
    group.add_argument("--mixing", choices=("none", "mixup", "cutmix"), default="none", help="mix pictures of a batch")
    group.add_argument("--balanced", action="store_true", help="draw every class equally often")
    group.add_argument("--epochs", type=int, default=40, metavar="N", help="of the head, frozen base (default 40)")
    group.add_argument("--tune-epochs", type=int, default=8, metavar="N", help="of the unfrozen layers (default 8)")
    group.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="of the head (default 1e-3)")
    group.add_argument("--tune-rate", type=_rate_or_find, default=2e-4, metavar="R|find",
        help="of fine-tuning (default 2e-4); find: Lightning's range test")  # fmt: skip
    group.add_argument("--decay", type=float, default=0.3, metavar="D",
        help="each unfrozen group learns at so many times the rate of the one above it (default 0.3)")  # fmt: skip
    group.add_argument("--ridge", type=float, default=3.0, metavar="L", help="penalty on the head (default 3)")
    group.add_argument("--dropout", type=float, default=0.0, metavar="P", help="before the head (default 0)")
    group.add_argument("--batch-size", type=int, default=32, metavar="N", help="(default 32)")
    group.add_argument("--patience", type=_count_or_never, default=10, metavar="N|never",
        help="epochs without a gain after which a stage stops (default 10)")  # fmt: skip


def _pictures(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--validation-share", type=float, default=0.2, metavar="S", help="to judge by (default 0.2)")
    group.add_argument("--selection-share", type=float, default=0.2, metavar="S",
        help="of the rest, to stop and choose by (default 0.2)")  # fmt: skip
    group.add_argument("--views", type=int, default=1, metavar="N", help="random views of each picture (default 1)")
    group.add_argument("--augmentation", type=float, default=1.0, metavar="S", help="their strength, 0-2 (default 1)")
    group.add_argument("--webcam", type=float, default=0.0, metavar="P", help="chance of each webcam fault (default 0)")
    group.add_argument("--subject", choices=("thing", "face"), default="thing", help="face: aligned crops, never cut")
    group.add_argument("--upside-down", action="store_true", help="vertical flips too")
    group.add_argument("--no-mirror", dest="mirror", action="store_false", help="left and right mean something")
    group.add_argument("--groups", type=Path, metavar="CSV", help="columns file, group: results per group")
    group.add_argument("--show-augmentation", type=Path, metavar="PNG", help="write what the network sees, and stop")


def _small_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--unlabelled", type=Path, metavar="DIR", help="pictures to take pseudo-labels from")
    group.add_argument(
        "--confidence", type=float, default=0.95, metavar="P", help="bar of pseudo-labels (default 0.95)"
    )
    group.add_argument("--generations", type=int, default=0, metavar="N", help="of self-distillation (default 0)")
    group.add_argument("--compare", nargs="+", choices=METHODS, metavar="METHOD",
        help=f"measure methods against doing without, and stop: {', '.join(METHODS)}")  # fmt: skip
    group.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds of --compare, from --seed (default 5)")
    group.add_argument("--per-class", type=int, metavar="N",
        help="of --compare: learn from N pictures of each class only, and hide the labels of the others")  # fmt: skip


def _machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    group.add_argument("--devices", type=int, default=1, metavar="N", help="GPUs (default 1)")
    group.add_argument("--precision", choices=("auto", "32", "16", "bf16"), default="auto")
    group.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read pictures (default 0)")
    group.add_argument("--log", choices=("csv", "tensorboard", "none"), default="csv")
    group.add_argument("--cache", type=Path, metavar="DIR", help="folder of cached features (default: in RUN)")
    group.add_argument("--json", action="store_true", help="print the report's JSON")


def _count_or_never(text: str) -> int | None:
    if text == NEVER:
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor {NEVER}") from None


def _rate_or_find(text: str) -> float | None:
    if text == FIND:
        return None
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {FIND}") from None


def from_namespace(namespace: argparse.Namespace) -> ClassifierOptions:
    """Collect the options of a parsed command line. Raises UsageError for values out of range."""
    if namespace.output is None and not (namespace.show_augmentation or namespace.compare):
        raise UsageError("--output is missing", expected="a new folder for the run")
    names = [name for name in ClassifierOptions.__dataclass_fields__ if hasattr(namespace, name)]
    return ClassifierOptions(**{name: getattr(namespace, name) for name in names})
