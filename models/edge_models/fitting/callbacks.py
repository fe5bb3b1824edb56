"""Lightning callbacks of a stage: saving its state, reseeding every epoch, stopping when a loss is not a number."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import random
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from edge_models.fitting.checkpoint import load_state, save_state, write_atomic
from edge_models.fitting.progress import Progress, Silence, TrainingError
from edge_models.fitting.seeds import seed_of

_CHECK_EVERY: Final = 50
"""Batches between two looks at the loss on an accelerator, where every look waits for it."""

SAVE_EVERY_S: Final = 30.0
"""Saving after every epoch was 13 % of the processor time of 40 pictures."""

_TELL_EVERY_S: Final = 0.5
"""Seconds between two words about the batches of one epoch."""


class SafetensorsIO(CheckpointIO):
    """Lightning's state as safetensors: written atomically, read without unpickling."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write the state."""
        save_state(Path(path), checkpoint)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read the state; tensors on the CPU, from where Lightning moves them."""
        return load_state(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Best(Callback):
    """Keeps the weights of the best epoch by `monitor`, of the last when that is None, and writes them at the end.

    While training goes on they are part of the state that `Last` writes.
    """

    def __init__(self, path: Path, monitor: str | None, mode: str) -> None:
        self._path, self._monitor, self._sign = path, monitor, 1.0 if mode == "min" else -1.0
        self._value, self._epoch = math.inf, 0
        self._weights: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Figure, epoch and weights."""
        return {"value": self._value, "epoch": self._epoch, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them back."""
        self._value, self._epoch = float(state_dict["value"]), int(state_dict["epoch"])
        self._weights = dict(state_dict["weights"])

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights if they are the best."""
        value = self._sign * float(trainer.callback_metrics[self._monitor]) if self._monitor else -math.inf
        if value < self._value or not self._monitor:
            self._value, self._epoch = value, trainer.current_epoch
            if self._monitor:
                self._weights = _copied(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write them."""
        if trainer.is_global_zero:
            weights = self._weights if self._monitor else _copied(pl_module)
            save_state(self._path, {"state_dict": weights, "epoch": self._epoch})


def _copied(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in module.state_dict().items()}


class Last(Checkpoint):
    """Writes all state, at the end and after an epoch when the last save is `SAVE_EVERY_S` ago.

    A Checkpoint, because those run behind all other callbacks and so know their state.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._saved_s = path, time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the state, if it is time or the end."""
        last = trainer.should_stop or trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if last or time.monotonic() - self._saved_s >= SAVE_EVERY_S:
            trainer.save_checkpoint(self._path)
            self._saved_s = time.monotonic()


class Watch(Callback):
    """Reseeds every epoch, stops at a loss that is not a number, keeps the curve, tells the progress."""

    def __init__(
        self, stage: str, epochs: int, seed: int, monitor: str, progress: Progress, curve: Path | None = None
    ) -> None:
        """`curve` is a CSV file that is written after every epoch."""
        self._stage, self._epochs, self._seed = stage, epochs, seed
        self._monitor, self._progress, self._curve = monitor, progress, curve
        self._started_s = self._told_s = 0.0
        self.history: list[dict[str, float]] = []
        self.restored = False
        """Whether training began, all state being read."""

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get when several devices train: a terminal's progress bar cannot be sent there."""
        return self.__dict__ | {"_progress": Silence()}

    def state_dict(self) -> dict[str, Any]:
        """The curve, for the state file."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the curve back."""
        self.history = state_dict["history"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell that the stage begins."""
        if trainer.is_global_zero:
            self._progress.stage(self._stage, self._epochs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning calls this when loops and optimizers have their state back."""
        self.restored = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Reseed before the first batch of an epoch."""
        # Not at the epoch's start: Lightning leaves that hook out in the first epoch after a resume.
        if batch_idx == 0:
            self._started_s = self._told_s = time.perf_counter()
            _reseed(seed_of(self._seed, trainer.current_epoch, trainer.global_rank))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at a loss that is not a number; in a long epoch, tell where it is."""
        if pl_module.device.type != "cpu" and batch_idx % _CHECK_EVERY and not trainer.is_last_batch:
            return
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        if loss is not None and not bool(torch.isfinite(loss).all()):
            raise not_a_number(self._stage, trainer.current_epoch)
        now_s = time.perf_counter()
        if loss is not None and trainer.is_global_zero and now_s - self._told_s >= _TELL_EVERY_S:
            self._told_s = now_s
            batches = f"batch {batch_idx + 1} of {trainer.num_training_batches}"
            self._progress.advance(trainer.current_epoch, f"{batches}, loss {float(loss):.3f}")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch's figures."""
        if not trainer.sanity_checking:
            self._record(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse weights that are not numbers, add the training loss and tell the epoch's figures."""
        # The loss is of the weights before the last step; what that step made of them is seen here, before it is saved.
        if not _is_finite(pl_module):
            raise not_a_number(self._stage, trainer.current_epoch, "a weight")
        if not trainer.enable_validation:
            self._record(trainer)
        # The training loss is known only now; validation ran before the epoch's end.
        self.history[-1] |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        if self._curve is not None and trainer.is_global_zero:
            self._curve.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._curve, _csv(self.history))
        if trainer.is_global_zero:
            self._progress.advance(trainer.current_epoch + 1, _figures(self.history[-1]))

    def _record(self, trainer: pl.Trainer) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        watched = values.get(self._monitor, 0.0)
        if not math.isfinite(watched):
            raise not_a_number(self._stage, trainer.current_epoch)
        epoch = trainer.current_epoch
        self.history = [entry for entry in self.history if entry["epoch"] < epoch]
        self.history.append({"epoch": float(epoch), "seconds": time.perf_counter() - self._started_s, **values})


def _figures(entry: Mapping[str, float]) -> str:
    """An epoch's figures in one short line, the loss first: loss 0.041, validation 0.093, 97.4 % right."""
    words = {"train_loss": "loss", "validation_loss": "validation"}
    names = sorted((name for name in entry if name not in ("epoch", "seconds")), key=lambda name: name != "train_loss")
    return ", ".join(
        f"{100 * entry[name]:.1f} % right"
        if name == "validation_accuracy"
        else f"{words.get(name, name.replace('_', ' '))} {entry[name]:.3f}"
        for name in names
    )


def _csv(history: Sequence[Mapping[str, float]]) -> str:
    """A line per epoch; a figure that an epoch lacks stays empty."""
    names = list(dict.fromkeys(name for entry in history for name in entry))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue()


def not_a_number(stage: str, epoch: int, what: str = "the loss") -> TrainingError:
    """The error of a stage in which `what` became NaN or infinite; it names the rate that the stage learns at."""
    rate = "--tune-rate" if stage.endswith("tune") else "--learning-rate"
    return TrainingError(
        f"{what} of stage {stage} is not a number in epoch {epoch}",
        remedy=f"train into a new folder with a lower {rate}, or with --precision 32",
    )


def _is_finite(module: torch.nn.Module) -> bool:
    """Whether every weight that learns is a number; one answer, for an accelerator is waited for once."""
    told = [parameter.detach().isfinite().all() for parameter in module.parameters() if parameter.requires_grad]
    return not told or bool(torch.stack(told).all())


def _reseed(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class quiet:
    """Lightning tells its tips on standard error; the terminal belongs to the command line."""

    def __enter__(self) -> None:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*(lr_scheduler\.step|does not have many workers).*")
        self._levels = {name: logging.getLogger(name).level for name in ("lightning.pytorch", "lightning.fabric")}
        for name in self._levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def __exit__(self, *problem: Any) -> None:
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._warnings.__exit__(*problem)
