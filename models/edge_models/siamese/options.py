"""What can be chosen when an embedder is fine-tuned; imports nothing heavy, so that help texts come at once.

Flows in: an argparse parser, later its namespace. Flows out: `SiameseOptions`.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_models.fitting.options import PathTeller, command_of, plain

if TYPE_CHECKING:
    from edge_models.fitting.fit import Device, Log, Machine, Precision

LOSSES = ("contrastive", "triplet", "arcface")


@dataclass(frozen=True, slots=True)
class SiameseOptions:
    """One fine-tuning run."""

    directory: Path
    """A folder with a sub-folder of pictures per identity."""
    output: Path
    """The run's folder."""
    seed: int = 0
    base: str = "sface"
    """sface, inception-resnet-v1:vggface2, inception-resnet-v1:casia-webface, or any backbone for things."""
    weights: Path | None = None
    """A weight file for the base instead of its own."""
    loss: str = "triplet"
    aligned: bool = False
    """The pictures are aligned crops already: neither detected nor aligned again."""
    detector: str = "yunet"
    held_out: int | None = None
    """Identities held out to be judged by; None: a third, at least two."""
    choosing: int | None = None
    """Identities to stop and to mix by, out of those to train on; None: a fifth from ten on, else none."""
    splits: int = 1
    """How many divisions into training and held-out identities are trained and judged; the first is kept."""
    epochs: int = 5
    learning_rate: float = 1e-4
    """Of the layers nearest the output; see `edge_models.networks.backbones.learning_rates` for those below."""
    unfreeze: int = 3
    """Groups of layers that learn, counted from the output; what lies below is computed once."""
    views: int = 4
    """Random views of each picture that training draws from, beside the plain one."""
    identities_per_batch: int = 8
    pictures_per_batch: int = 8
    """Pictures of each identity in a batch."""
    augmentation: float = 1.0
    """Strength of the random views, 0 to 2."""
    webcam: float = 0.0
    """Chance of each webcam fault in a random view, [0, 1]."""
    patience: int | None = None
    """Epochs without a better separation of the choosing identities after which training stops; None: never."""
    device: str = "auto"
    devices: int = 1
    precision: str = "auto"
    log: str = "csv"
    resume: bool = False
    """Go on with the run in `output`."""

    @property
    def machine(self) -> Machine:
        """What training runs on."""
        from edge_models.fitting.fit import Machine

        return Machine(cast("Device", self.device), self.devices, cast("Precision", self.precision))

    @property
    def log_word(self) -> Log:
        """Log, as the training module names it."""
        return cast("Log", self.log)

    def configuration(self, tell: PathTeller = str) -> dict[str, Any]:
        """Everything that decides the result, as plain values; where things lie and how they are told is left out."""
        decides = asdict(self)
        for name in ("resume", "output", "device", "devices", "log"):
            del decides[name]
        return plain(decides, tell)

    def command(self, tell: PathTeller = str) -> str:
        """The command that trains the same again."""
        return command_of("siamese", add_arguments, self, tell)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `train siamese`."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="a sub-folder of pictures per identity")
    parser.add_argument("--output", type=Path, required=True, metavar="RUN", help="folder of the run; must be new")
    parser.add_argument("--seed", type=int, default=0, help="decides the splits and everything random (default 0)")
    parser.add_argument("--resume", action="store_true", help="go on with the run where it was left")
    _model(parser.add_argument_group("network"))
    _identities(parser.add_argument_group("identities"))
    _learning(parser.add_argument_group("learning"))
    _machine(parser.add_argument_group("machine"))


def _model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--base", default="sface", metavar="NAME",
        help="sface (default), inception-resnet-v1:vggface2 or :casia-webface; for things any backbone")  # fmt: skip
    group.add_argument("--weights", type=Path, metavar="FILE", help="weight file of the base instead of its own")
    group.add_argument("--unfreeze", type=int, default=3, metavar="N", help="groups of layers that learn (default 3)")


def _identities(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--aligned", action="store_true", help="pictures are aligned crops already")
    group.add_argument("--detector", choices=("yunet", "mtcnn"), default="yunet", help="finds faces (default yunet)")
    group.add_argument("--held-out", type=int, metavar="N", help="identities to judge by (default: a third)")
    group.add_argument("--choosing", type=int, metavar="N",
        help="identities to stop and mix by (default: a fifth of the others from ten on)")  # fmt: skip
    group.add_argument("--splits", type=int, default=1, metavar="N", help="times to divide, train, judge (default 1)")


def _learning(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--loss", choices=LOSSES, default="triplet", help="what pulls identities together")
    group.add_argument("--epochs", type=int, default=5, metavar="N", help="(default 5)")
    group.add_argument("--learning-rate", type=float, default=1e-4, metavar="R", help="(default 1e-4)")
    group.add_argument("--patience", type=int, metavar="N", help="epochs without a gain (default: never stop early)")
    group.add_argument("--identities-per-batch", type=int, default=8, metavar="N", help="(default 8)")
    group.add_argument("--pictures-per-batch", type=int, default=8, metavar="N", help="of each identity (default 8)")
    group.add_argument("--views", type=int, default=4, metavar="N", help="random views of each picture (default 4)")
    group.add_argument("--augmentation", type=float, default=1.0, metavar="S", help="their strength, 0-2 (default 1)")
    group.add_argument("--webcam", type=float, default=0.0, metavar="P", help="chance of each webcam fault (default 0)")


def _machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto")
    group.add_argument("--devices", type=int, default=1, metavar="N", help="GPUs (default 1)")
    group.add_argument("--precision", choices=("auto", "32", "16", "bf16"), default="auto")
    group.add_argument("--log", choices=("csv", "tensorboard", "none"), default="csv")
    group.add_argument("--json", action="store_true", help="print the report's JSON")


def from_namespace(namespace: argparse.Namespace) -> SiameseOptions:
    """Collect the options; what the namespace lacks, or holds as None, keeps its default."""
    given = {name: getattr(namespace, name, None) for name in SiameseOptions.__dataclass_fields__}
    return SiameseOptions(**{name: value for name, value in given.items() if value is not None})
