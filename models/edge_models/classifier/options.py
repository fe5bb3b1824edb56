"""What can be chosen when a classifier is trained; imports nothing heavy, so that help texts come at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_app.core.errors import UsageError
from edge_app.inference.geometry import parse_region
from edge_models.fitting.options import FIND, LARGEST, NEVER, PathTeller, command_of, plain, told

if TYPE_CHECKING:
    from edge_models.classifier.losses import LossName
    from edge_models.data.augment import AugmentOptions, Mixing
    from edge_models.fitting.fit import Device, Log, Machine, Precision

LOSSES = ("cross-entropy", "cosine", "cosine+cross-entropy")
METHODS = (
    "prototypes",
    "discriminant",
    "cosine",
    "cosine+cross-entropy",
    "smoothing",
    "balanced",
    "mixup",
    "known-classes",
    "families",
    "augmented",
    "styled",
    "distillation",
    "pseudo-labels",
    "noisy-head",
    "noisy-student",
    "composed",
    "generated",
    "coral",
    "batch-norm",
    "from-scratch",
    "self-training",
    "dann",
    "pretrained",
)
"""What `train compare` can hold against doing without, the cheapest first."""

HEADS = ("logistic", "discriminant", "prototypes", "cosine")

ADAPTATIONS = ("batch-norm", "coral", "self-training", "dann")

STUDENTS = {name: f"efficientnet-{name}" for name in ("lite0", "lite1", "lite2")}
"""Short names of networks, for `--student`."""

AUTO = "auto"
"""The backbone that `--search` chooses; without a search, efficientnet-lite0."""

SELF = "self"
"""For `--style`: styles of the pictures that are learned from. A folder of that name is ./self or self/."""

BALANCES = ("none", "classes", "groups", "dro")

MOST_JOINED = 3
"""Backbones that a search knows."""

SURE = 0.95
"""Confidence from which a label is believed once and for all, unless the options tell."""

UNFREEZE = 2
"""Groups of layers that are fine-tuned, unless a search finds that fine-tuning could not be judged."""

_RATE = f"above 0, to {LARGEST:g}"


_NETWORK, _LEARNING, _PICTURES = "Network", "Learning", "Pictures"
_SMALL_DATA, _MACHINE = "Small data", "Machine"


@dataclass(frozen=True, slots=True)
class ClassifierOptions:
    """One run; each field is an option of `edge-app train classifier`. Raises UsageError for values out of range."""

    directory: Path = field(metadata=told("a sub-folder of pictures per class", "DIR", positional=True))
    output: Path = field(metadata=told(
        "folder of the run; must be new; not needed to show, nor to compare in one go", "RUN"))  # fmt: skip
    seed: int = field(default=0, metadata=told("decides the split and everything random", "N"))
    resume: bool = field(default=False, metadata=told("go on with the run where it was left"))
    backbone: str = field(default=AUTO, metadata=told(
        "efficientnet-lite0, -lite1 or -lite2 need no network, auto chooses one of them; with :classes behind it what "
        "it sees of the 1,000 classes that it knows, too; any timm name; inception-resnet-v1:vggface2",
        "NAME", _NETWORK))  # fmt: skip
    search: float = field(default=1.0, metadata=told(
        "minutes to choose backbone, head and how deep to fine-tune, up to six times as many for fine-tuning where the "
        "frozen base names many wrongly; 0: no search", "MINUTES", _NETWORK))  # fmt: skip
    ensemble: int = field(default=1, metadata=told(
        "backbones that --search may join into one network, if it shows to be worth its time", "N", _NETWORK,
    ))  # fmt: skip
    distil: bool = field(default=False, metadata=told(
        "let efficientnet-lite0 learn from what the backbones of --ensemble say together, and ship that", "", _NETWORK,
    ))  # fmt: skip
    weights: Path | None = field(default=None, metadata=told(
        "weight file of the backbone instead of its own", "FILE", _NETWORK))  # fmt: skip
    size: int | None = field(default=None, metadata=told(
        "side of the pictures that the network takes; auto: its own, or for pictures of up to 44 px about five times "
        "theirs", "N|auto", _NETWORK, none="auto"))  # fmt: skip
    from_run: Path | None = field(default=None, metadata=told(
        "start from the network of a `train pretrain` run", "RUN", _NETWORK, spelled="--from"))  # fmt: skip
    from_scratch: bool = field(default=False, metadata=told(
        "learn every weight of a small ResNet from these pictures alone", "", _NETWORK))  # fmt: skip
    depth: int = field(default=8, metadata=told(
        "layers of --from-scratch: 8, 14, 20, 26 or 32", "N", _NETWORK))  # fmt: skip
    unfreeze: int = field(default=UNFREEZE, metadata=told(
        "groups of layers to fine-tune, from the output; 0 keeps the base frozen", "N", _NETWORK))  # fmt: skip
    loss: str = field(default="cross-entropy", metadata=told("what is minimized", "", _LEARNING, choices=LOSSES))
    smoothing: float = field(default=0.0, metadata=told("label smoothing, from 0 to below 1", "S", _LEARNING))
    mixing: str = field(default="none", metadata=told(
        "mix pictures of a batch", "", _LEARNING, choices=("none", "mixup", "cutmix")))  # fmt: skip
    balanced: bool = field(default=False, metadata=told("the same as --balance classes", "", _LEARNING))
    balance: str = field(default="none", metadata=told(
        "what counts alike: classes; groups, in each class; dro, groups by how badly they are served", "", _LEARNING,
        choices=BALANCES))  # fmt: skip
    balance_by: str = field(default="", metadata=told(
        "column of the --groups CSV to balance, where it has several", "COLUMN", _LEARNING))  # fmt: skip
    hierarchy: Path | None = field(default=None, metadata=told(
        "YAML of families of classes, such as `insect: [ants, bees]`: a mistake within a family costs less, and the "
        "served network says 'some insect' where it is sure of no more", "FILE", _LEARNING))  # fmt: skip
    attributes: Path | None = field(default=None, metadata=told(
        "YAML of what classes have, such as `tiger: [stripes, fur]`: told where no class is sure; a class without "
        "pictures is recognized by it", "FILE", _LEARNING))  # fmt: skip
    head: str = field(default=AUTO, metadata=told(
        "on the frozen base: auto is what --search finds best, logistic without a search", "", _NETWORK,
        choices=(AUTO, *HEADS)))  # fmt: skip
    epochs: int = field(default=0, metadata=told(
        "of the head on cached features, frozen base; 0 solves it in one step, where loss and mixing allow", "N",
        _LEARNING))  # fmt: skip
    tune_epochs: int = field(default=8, metadata=told("of the unfrozen layers", "N", _LEARNING))
    learning_rate: float = field(default=1e-3, metadata=told("of the head on cached features", "R", _LEARNING))
    tune_rate: float | None = field(default=2e-4, metadata=told(
        "of the head while layers are unfrozen; find: Lightning's range test", f"R|{FIND}", _LEARNING, none=FIND,
    ))  # fmt: skip
    decay: float = field(default=0.3, metadata=told(
        "each unfrozen group learns at so many times the rate of the one above it", "D", _LEARNING))  # fmt: skip
    ridge: float = field(default=3.0, metadata=told(
        "penalty on the head's matrix, divided by the number of pictures", "L", _LEARNING))  # fmt: skip
    dropout: float = field(default=0.0, metadata=told("before the head", "P", _LEARNING))
    batch_size: int = field(default=32, metadata=told("pictures in a batch", "N", _LEARNING))
    patience: int | None = field(default=10, metadata=told(
        "epochs without a gain after which a stage stops", f"N|{NEVER}", _LEARNING, none=NEVER))  # fmt: skip
    validation_share: float = field(default=0.2, metadata=told(
        "of the pictures, to judge by, where the folder has no val/ of its own", "S", _PICTURES))  # fmt: skip
    selection_share: float = field(default=0.2, metadata=told(
        "of the rest, to stop and choose by", "S", _PICTURES))  # fmt: skip
    views: int = field(default=1, metadata=told(
        "random views of each picture beside the plain and the mirrored one; 0 with --unfreeze 0: the plain one alone",
        "N", _PICTURES))  # fmt: skip
    augmentation: float = field(default=1.0, metadata=told("strength of the random views, 0 to 2", "S", _PICTURES))
    webcam: float = field(default=0.0, metadata=told(
        "chance of each webcam fault in a random view, 0 to 1", "P", _PICTURES))  # fmt: skip
    subject: str = field(default="thing", metadata=told(
        "face: aligned crops, never cut", "", _PICTURES, choices=("thing", "face")))  # fmt: skip
    roi: str = field(default="", metadata=told(
        "the part of every picture that counts, as shares of it from 0 to 1; served the same", "X1,Y1,X2,Y2",
        _PICTURES))  # fmt: skip
    style: Path | None = field(default=None, metadata=told(
        "random views take on the style of another picture of that folder; self: of another one that is learned from",
        f"FOLDER|{SELF}", _PICTURES))  # fmt: skip
    upside_down: bool = field(default=False, metadata=told("vertical flips too", "", _PICTURES))
    mirror: bool = field(default=True, metadata=told("left and right mean something", "", _PICTURES, off=True))
    keep_out: bool = field(default=False, metadata=told(
        "ship the network that was judged, instead of learning once more from every picture", "", _PICTURES,
    ))  # fmt: skip
    groups: Path | None = field(default=None, metadata=told(
        "column file, and any others such as sex, camera, shift: results per group of each", "CSV", _PICTURES,
    ))  # fmt: skip
    split_by: str = field(default="", metadata=told(
        "column of the --groups CSV whose pictures stay on one side of every split: driver, session, part", "COLUMN",
        _PICTURES))  # fmt: skip
    unlabelled: Path | None = field(default=None, metadata=told(
        "folder of pictures to take pseudo-labels from", "DIR", _SMALL_DATA))  # fmt: skip
    confidence: float | None = field(default=None, metadata=told(
        "what the teacher must be sure of before a pseudo-label is taken; auto: 0.95, and 0 for the soft labels of "
        "--rounds, which tell themselves how sure it is", "P|auto", _SMALL_DATA, none="auto"))  # fmt: skip
    rounds: int = field(default=0, metadata=told(
        "of noisy students on the --unlabelled pictures, each taught by the one before it; 0: pseudo-labels once", "N",
        _SMALL_DATA))  # fmt: skip
    student: str = field(default="", metadata=told(
        "network of the students: lite0, lite1, lite2 or any backbone; usually a larger one", "NAME", _SMALL_DATA,
    ))  # fmt: skip
    cap: int = field(default=0, metadata=told(
        "most pseudo-labels of a class in a round; 0: the even share of the pool", "N", _SMALL_DATA))  # fmt: skip
    hard_labels: bool = field(default=False, metadata=told(
        "students learn what the teacher names, not how sure it is", "", _SMALL_DATA))  # fmt: skip
    adapt: Path | None = field(default=None, metadata=told(
        "pictures without labels of the place where it will be used, to adapt to", "TARGET", _SMALL_DATA,
    ))  # fmt: skip
    adapt_by: str = field(default="self-training", metadata=told(
        "how; self-training takes classes to be about as frequent there as here, and needs, as dann does, a network "
        "whose every layer learns: --from-scratch", "", _SMALL_DATA, choices=ADAPTATIONS))  # fmt: skip
    generations: int = field(default=0, metadata=told("of self-distillation", "N", _SMALL_DATA))
    device: str = field(default="auto", metadata=told(
        "what trains", "", _MACHINE, choices=("auto", "cpu", "cuda", "mps")))  # fmt: skip
    devices: int = field(default=1, metadata=told("GPUs", "N", _MACHINE))
    precision: str = field(default="auto", metadata=told(
        "bits of a number while training", "", _MACHINE, choices=("auto", "32", "16", "bf16")))  # fmt: skip
    workers: int = field(default=0, metadata=told("processes that read pictures", "N", _MACHINE))
    log: str = field(default="csv", metadata=told(
        "how the curves are kept", "", _MACHINE, choices=("csv", "tensorboard", "none")))  # fmt: skip
    cache: Path | None = field(default=None, metadata=told(
        "folder of cached features (default: in RUN)", "DIR", _MACHINE))  # fmt: skip

    def __post_init__(self) -> None:
        checks: list[tuple[bool, str, Any, str]] = [
            (0 <= self.smoothing < 1, "label smoothing", self.smoothing, "0 to below 1"),
            (0 <= self.search <= 1e5, "minutes to search", self.search, "0 or more"),
            (1 <= self.ensemble <= MOST_JOINED, "size of an ensemble", self.ensemble, f"1 to {MOST_JOINED}"),
            (self.epochs >= 0, "number of epochs", self.epochs, "0 or more"),
            (self.balance in BALANCES, "balance", self.balance, ", ".join(BALANCES)),
            (self.head in (AUTO, *HEADS), "head", self.head, ", ".join((AUTO, *HEADS))),
            (self.size is None or 16 <= self.size <= 1024, "size", self.size, "16 to 1024 pixels, or auto"),
            (self.depth in (8, 14, 20, 26, 32), "depth", self.depth, "8, 14, 20, 26 or 32"),
            (self.unfreeze >= 0, "number of groups to unfreeze", self.unfreeze, "0 or more"),
            (self.tune_epochs >= 1, "number of tuning epochs", self.tune_epochs, "1 or more"),
            (self.batch_size >= 1, "batch size", self.batch_size, "1 or more"),
            (self.views >= 0, "number of views", self.views, "0 or more"),
            (self.confidence is None or 0 <= self.confidence < 1, "confidence bar", self.confidence, "0 to below 1"),
            (self.generations >= 0, "number of generations", self.generations, "0 or more"),
            (0 <= self.dropout < 1, "dropout", self.dropout, "0 to below 1"),
            (0 <= self.ridge <= LARGEST, "ridge", self.ridge, f"0 to {LARGEST:g}"),
            (0 < self.decay <= 1, "decay", self.decay, "above 0, to 1"),
            (0 <= self.rounds <= 20, "number of rounds", self.rounds, "0 to 20"),
            (self.cap >= 0, "cap", self.cap, "0 or more"),
            (self.adapt_by in ADAPTATIONS, "adaptation", self.adapt_by, ", ".join(ADAPTATIONS)),
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
        if self.distil and not (self.ensemble > 1 and self.search and self.backbone == AUTO):
            raise UsageError(
                "--distil without an ensemble to learn from", expected="--ensemble 2 or 3, --search and --backbone auto"
            )
        if self.hierarchy is not None and self.head not in (AUTO, HEADS[0]):
            raise UsageError(f"--hierarchy beside --head {self.head}", expected="the logistic head, which learns it")
        if self.attributes is not None:
            beside: dict[str, Any] = {
                "--from-scratch": self.from_scratch, "--adapt": self.adapt, "--unlabelled": self.unlabelled,
            }  # fmt: skip
            if wrong := [name for name, given in beside.items() if given]:
                raise UsageError(f"--attributes beside {wrong[0]}", expected="one of them")
        if self.style is not None:
            beside = {"--from-scratch": self.from_scratch, "--adapt": self.adapt, "--rounds": self.rounds}
            if wrong := [name for name, given in beside.items() if given]:
                raise UsageError(f"--style beside {wrong[0]}", expected="one of them")
            if not self.views or not (self.augmentation or self.webcam):
                raise UsageError("--style without random views", expected="--views 1 or more")
        if self.balanced and self.balance not in ("none", "classes"):
            raise UsageError(f"--balanced beside --balance {self.balance}", expected="one of them")
        for good, what, found, expected in checks:
            if not good:
                raise UsageError(f"found {found} as {what}", expected=expected)
        if self.roi:
            parse_region(self.roi)

    @property
    def solvable(self) -> bool:
        """Whether the head on the frozen base is the solution of a sum that has one."""
        return self.loss == "cross-entropy" and self.mixing == "none" and not self.dropout

    @property
    def bar(self) -> float:
        """What the teacher must be sure of."""
        if self.confidence is None:
            return 0.0 if self.rounds and not self.hard_labels else SURE
        return self.confidence

    @property
    def machine(self) -> Machine:
        """What training runs on."""
        from edge_models.fitting.fit import Machine

        return Machine(cast("Device", self.device), self.devices, cast("Precision", self.precision), self.workers)

    @property
    def augment(self) -> AugmentOptions:
        """What the random views look like."""
        from edge_models.data.augment import AugmentOptions, Subject

        return AugmentOptions(
            cast(Subject, self.subject), self.augmentation, self.webcam, self.upside_down, self.mirror
        )

    @property
    def mirrored(self) -> bool:
        """Whether the mirrored picture is a view of its own: a head alone learns from plain pictures with --views 0."""
        return self.mirror and bool(self.views or self.unfreeze)

    @property
    def loss_word(self) -> LossName:
        """Loss, as the training module names it."""
        return cast("LossName", self.loss)

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
        return command_of("classifier", self, tell)
