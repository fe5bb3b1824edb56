"""What can be chosen when a network is pretrained without labels; imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_app.core.errors import UsageError
from edge_models.fitting.options import PathTeller, command_of, plain, told

METHODS = ("simclr", "byol", "vicreg", "mae", "autoencoder")
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class PretrainOptions:
    """One run; each field is an option of `edge-app train pretrain`. Raises UsageError for values out of range."""

    directory: Path = field(metadata=told("pictures without labels, in any sub-folders", "POOL", positional=True))
    output: Path = field(metadata=told("folder of the run; must be new", "RUN"))
    method: str = field(default="simclr", metadata=told("what is learned", "", choices=METHODS))
    backbone: str = field(default=AUTO, metadata=told(
        "network to go on from; small-resnet-8, -14 and so on begin from nothing; auto: small-resnet-8 for pictures of "
        "up to 44 px, else efficientnet-lite0", "NAME"))  # fmt: skip
    size: int | None = field(default=None, metadata=told(
        "side of the pictures that the network takes; auto: its own", "N|auto", none="auto"))  # fmt: skip
    labelled: Path | None = field(default=None, metadata=told(
        "labelled folder that it is for: a linear probe tells progress, and pictures of POOL that will judge are "
        "left out", "DIR"))  # fmt: skip
    seed: int = field(default=0, metadata=told("decides everything random, and which pictures of DIR judge", "N"))
    epochs: int = field(default=60, metadata=told("passes over POOL", "N"))
    batch_size: int = field(default=128, metadata=told("pictures in a batch", "N"))
    learning_rate: float = field(default=2e-3, metadata=told("AdamW's peak; a tenth of it for a network that goes on",
                                                             "R"))  # fmt: skip
    resume: bool = field(default=False, metadata=told("go on with the run where it was left"))
    device: str = field(default="auto", metadata=told("what trains", "", choices=("auto", "cpu", "cuda", "mps")))

    def __post_init__(self) -> None:
        checks: list[tuple[bool, str, Any, str]] = [
            (self.method in METHODS, "method", self.method, ", ".join(METHODS)),
            (self.size is None or 16 <= self.size <= 1024, "size", self.size, "16 to 1024 pixels, or auto"),
            (1 <= self.epochs <= 100_000, "number of epochs", self.epochs, "1 or more"),
            (8 <= self.batch_size <= 8192, "batch size", self.batch_size, "8 to 8192"),
            (0 < self.learning_rate <= 10, "learning rate", self.learning_rate, "above 0, to 10"),
            (self.seed >= 0, "seed", self.seed, "0 or more"),
        ]
        for good, what, found, expected in checks:
            if not good:
                raise UsageError(f"found {found} as {what}", expected=expected)

    def configuration(self, tell: PathTeller = str) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        decides = asdict(self)
        del decides["output"], decides["resume"]
        return plain(decides, tell)

    def command(self, tell: PathTeller = str) -> str:
        """The command that trains the same again."""
        return command_of("pretrain", self, tell)
