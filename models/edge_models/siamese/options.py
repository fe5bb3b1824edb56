"""What can be chosen when an embedder is fine-tuned; imports nothing heavy, so that help texts come at once."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edge_models.fitting.options import PathTeller, command_of, plain, told

if TYPE_CHECKING:
    from edge_models.fitting.fit import Device, Log, Machine, Precision

LOSSES = ("contrastive", "triplet", "arcface")


_NETWORK, _IDENTITIES, _LEARNING, _MACHINE = "Network", "Identities", "Learning", "Machine"


@dataclass(frozen=True, slots=True)
class SiameseOptions:
    """One fine-tuning run; each field is an option of `edge-app train siamese`."""

    directory: Path = field(metadata=told("a sub-folder of pictures per identity", "DIR", positional=True))
    output: Path = field(metadata=told("folder of the run; must be new", "RUN"))
    seed: int = field(default=0, metadata=told("decides the splits and everything random", "N"))
    resume: bool = field(default=False, metadata=told("go on with the run where it was left"))
    base: str = field(default="sface", metadata=told(
        "or inception-resnet-v1:vggface2 or :casia-webface; for things any backbone", "NAME", _NETWORK))  # fmt: skip
    weights: Path | None = field(default=None, metadata=told(
        "weight file of the base instead of its own", "FILE", _NETWORK))  # fmt: skip
    unfreeze: int = field(default=3, metadata=told(
        "groups of layers that learn, from the output; what lies below is computed once", "N", _NETWORK))  # fmt: skip
    aligned: bool = field(default=False, metadata=told(
        "pictures are aligned crops already: neither detected nor aligned again", "", _IDENTITIES))  # fmt: skip
    detector: str = field(default="yunet", metadata=told(
        "finds faces", "", _IDENTITIES, choices=("yunet", "mtcnn")))  # fmt: skip
    held_out: int | None = field(default=None, metadata=told(
        "identities to judge by (default: a third, at least two)", "N", _IDENTITIES))  # fmt: skip
    choosing: int | None = field(default=None, metadata=told(
        "identities to stop and mix by (default: a fifth of the others from ten on)", "N", _IDENTITIES))  # fmt: skip
    splits: int = field(default=1, metadata=told(
        "times to divide, train and judge; the first is kept", "N", _IDENTITIES))  # fmt: skip
    loss: str = field(default="triplet", metadata=told(
        "what pulls identities together", "", _LEARNING, choices=LOSSES))  # fmt: skip
    epochs: int = field(default=5, metadata=told("of training", "N", _LEARNING))
    learning_rate: float = field(default=1e-4, metadata=told("of the layers nearest the output", "R", _LEARNING))
    patience: int | None = field(default=None, metadata=told(
        "epochs without a better separation of the choosing identities (default: never stop early)", "N", _LEARNING,
    ))  # fmt: skip
    identities_per_batch: int = field(default=8, metadata=told("identities in a batch", "N", _LEARNING))
    pictures_per_batch: int = field(default=8, metadata=told("pictures of each identity in a batch", "N", _LEARNING))
    views: int = field(default=4, metadata=told(
        "random views of each picture beside the plain one", "N", _LEARNING))  # fmt: skip
    augmentation: float = field(default=1.0, metadata=told("strength of the random views, 0 to 2", "S", _LEARNING))
    webcam: float = field(default=0.0, metadata=told(
        "chance of each webcam fault in a random view, 0 to 1", "P", _LEARNING))  # fmt: skip
    device: str = field(default="auto", metadata=told(
        "what trains", "", _MACHINE, choices=("auto", "cpu", "cuda", "mps")))  # fmt: skip
    devices: int = field(default=1, metadata=told("GPUs", "N", _MACHINE))
    precision: str = field(default="auto", metadata=told(
        "bits of a number while training", "", _MACHINE, choices=("auto", "32", "16", "bf16")))  # fmt: skip
    log: str = field(default="csv", metadata=told(
        "how the curves are kept", "", _MACHINE, choices=("csv", "tensorboard", "none")))  # fmt: skip

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
        return command_of("siamese", self, tell)
