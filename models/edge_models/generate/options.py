"""What can be chosen when a generator or a translator is trained; imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from edge_app.core.errors import UsageError
from edge_models.fitting.options import PathTeller, command_of, plain, told

SIZES: Final = (16, 32, 48, 64, 96, 128)
"""Sides of the pictures that are learned, pixels."""

LARGEST_COUNT: Final = 100_000


def _check(checks: list[tuple[bool, str, Any, str]]) -> None:
    for good, what, found, expected in checks:
        if not good:
            raise UsageError(f"found {found} as {what}", expected=expected)


def _training(options: TranslateOptions | GanOptions) -> list[tuple[bool, str, Any, str]]:
    """Checks of what both trainings take."""
    sizes = ", ".join(map(str, SIZES)) + " or auto"
    return [
        (options.size is None or options.size in SIZES, "size", options.size, sizes),
        (1 <= options.steps <= 10_000_000, "number of steps", options.steps, "1 or more"),
        (2 <= options.batch_size <= 4096, "batch size", options.batch_size, "2 to 4096"),
        (0 < options.learning_rate <= 1, "learning rate", options.learning_rate, "above 0, to 1"),
        (options.seed >= 0, "seed", options.seed, "0 or more"),
    ]


def _decisive(options: TranslateOptions | GanOptions, tell: PathTeller) -> dict[str, Any]:
    decides = asdict(options)
    del decides["output"], decides["resume"]
    return plain(decides, tell)


@dataclass(frozen=True, slots=True)
class TranslateOptions:
    """One run of `edge-app translate train`. Raises UsageError for values out of range."""

    directory: Path = field(metadata=told("pictures as they are, in any sub-folders", "A", positional=True))
    target: Path = field(metadata=told("pictures as they should look; none needs to show what one of A shows", "B",
                                       positional=True))  # fmt: skip
    output: Path = field(metadata=told("folder of the run; must be new", "RUN"))
    size: int | None = field(default=None, metadata=told(
        "side at which pictures are learned and translated, 16 to 128; auto: 32 where those of B are up to 44 px, "
        "else 64", "N|auto", none="auto"))  # fmt: skip
    steps: int = field(default=1500, metadata=told("how often both networks learn", "N"))
    batch_size: int = field(default=8, metadata=told("pictures of each folder in a step", "N"))
    content: float = field(default=1.0, metadata=told(
        "weight of keeping what a picture shows (PatchNCE) against looking like B", "R"))  # fmt: skip
    learning_rate: float = field(default=4e-4, metadata=told("Adam's, of both networks", "R"))
    seed: int = field(default=0, metadata=told("decides everything random", "N"))
    resume: bool = field(default=False, metadata=told("go on with the run where it was left"))
    device: str = field(default="auto", metadata=told("what trains", "", choices=("auto", "cpu", "cuda", "mps")))

    def __post_init__(self) -> None:
        _check([*_training(self), (0 <= self.content <= 1000, "weight of content", self.content, "0 to 1000")])

    def configuration(self, tell: PathTeller = str) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        return _decisive(self, tell)

    def command(self, tell: PathTeller = str) -> str:
        """The command that trains the same again."""
        return command_of("train", self, tell, of="translate")


@dataclass(frozen=True, slots=True)
class GanOptions:
    """One run of `edge-app generate train`. Raises UsageError for values out of range."""

    directory: Path = field(metadata=told(
        "a sub-folder of pictures per class; its part that judges is left alone", "DIR", positional=True))  # fmt: skip
    output: Path = field(metadata=told("folder of the run; must be new", "RUN"))
    size: int | None = field(default=None, metadata=told(
        "side of the pictures made, 16 to 128; auto: 32 where those of DIR are up to 44 px, else 64", "N|auto",
        none="auto"))  # fmt: skip
    steps: int = field(default=3000, metadata=told("how often both networks learn", "N"))
    batch_size: int = field(default=16, metadata=told("pictures in a step", "N"))
    learning_rate: float = field(default=4e-4, metadata=told("Adam's, of both networks", "R"))
    mirror: bool = field(default=True, metadata=told("left and right mean something", off=True))
    seed: int = field(default=0, metadata=told("decides everything random, and which pictures of DIR judge", "N"))
    resume: bool = field(default=False, metadata=told("go on with the run where it was left"))
    device: str = field(default="auto", metadata=told("what trains", "", choices=("auto", "cpu", "cuda", "mps")))

    def __post_init__(self) -> None:
        _check(_training(self))

    def configuration(self, tell: PathTeller = str) -> dict[str, Any]:
        """Everything that decides the result, as plain values."""
        return _decisive(self, tell)

    def command(self, tell: PathTeller = str) -> str:
        """The command that trains the same again."""
        return command_of("train", self, tell, of="generate")


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """One call of `edge-app generate sample`. Raises UsageError for values out of range."""

    run: Path = field(metadata=told("folder of the generator's training", "RUN", positional=True))
    output: Path = field(metadata=told("folder to make; must be new", "DIR"))
    count: int = field(default=100, metadata=told("pictures of each class", "N"))
    pictures: Path | None = field(default=None, metadata=told(
        "where the pictures that it learned from lie now (default: as before)", "DIR", spelled="--from"))  # fmt: skip
    backbone: str = field(default="efficientnet-lite0", metadata=told("network whose features judge", "NAME"))
    seed: int = field(default=0, metadata=told("the same seed makes the same pictures", "N"))

    def __post_init__(self) -> None:
        _check([
            (1 <= self.count <= LARGEST_COUNT, "number of pictures", self.count, f"1 to {LARGEST_COUNT}"),
            (self.seed >= 0, "seed", self.seed, "0 or more"),
        ])  # fmt: skip
