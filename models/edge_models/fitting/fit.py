"""Trains one stage with Lightning: devices, precision, early stopping, resuming, smaller batches when memory runs out.

A module trained here logs `train_loss`, and `validation_loss` or whatever `FitOptions.monitor` names, per epoch.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing.spawn import ProcessRaisedException
from torch.utils.data import DataLoader, Dataset, Sampler

from edge_app.core.errors import ModelError, UsageError
from edge_models.fitting.checkpoint import load_state, make_folder, write_atomic
from edge_models.fitting.progress import Progress, Silence, TrainingError
from edge_models.fitting.run_folder import STATE_FOLDER, finish_run, make_scratch, open_run, refuse_folder
from edge_models.fitting.seeds import seed_of

if TYPE_CHECKING:
    # Imported where a stage is trained: 2.5 s of processor time that a run whose head is solved does without.
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "32", "16", "bf16"]
Log = Literal["csv", "tensorboard", "none"]
BatchKey = tuple[int, list[int]]
"""Epoch and the positions of one batch: what `EpochBatches` asks a data set for."""

_LOG_FOLDER: Final = "logs"


@dataclass(frozen=True, slots=True)
class Machine:
    """What training runs on."""

    device: Device = "auto"
    """auto: CUDA, else Apple's, else the CPU."""
    devices: int = 1
    """How many GPUs; each takes its share of the batches. `check` refuses several on a CPU, `fit` does not."""
    precision: Precision = "auto"
    """auto: full on CPU and Apple, bf16 or 16 mixed on CUDA, by what the GPU can do."""
    workers: int = 0
    """Processes that read pictures; 0 reads in the training process."""

    @property
    def accelerator(self) -> str:
        """The device that is used: cpu, cuda or mps. Raises UsageError when the one asked for is absent."""
        present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        if self.device == "auto":
            return next(name for name in ("cuda", "mps", "cpu") if present[name])
        if not present[self.device]:
            raise UsageError(
                f"no {self.device} device was found", expected="one that torch can use", remedy="leave --device out"
            )
        return self.device

    def check(self) -> None:
        """Refuse what this machine cannot give, before anything is computed or written. Raises UsageError."""
        if self.workers < 0:
            raise UsageError(f"found {self.workers} as number of workers", expected="0 or more")
        present = torch.cuda.device_count() if self.accelerator == "cuda" else 1
        if not 1 <= self.devices <= present:
            raise UsageError(
                f"{self.devices} devices were asked for, this machine has {present} ({self.accelerator})",
                expected=f"1 to {present}; several are several GPUs",
                remedy="leave --devices out",
            )

    @property
    def lightning_precision(self) -> Literal["32-true", "16-mixed", "bf16-mixed"]:
        """Lightning's word for the precision."""
        if self.precision == "auto":
            if self.accelerator != "cuda":
                return "32-true"
            return "bf16-mixed" if torch.cuda.is_bf16_supported() else "16-mixed"
        words: dict[str, Literal["32-true", "16-mixed", "bf16-mixed"]]
        words = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}
        return words[self.precision]


@dataclass(frozen=True, slots=True)
class FitOptions:
    """One stage of a run."""

    folder: Path
    """Folder of the run; state lies in its `state`, logs in its `logs`."""
    stage: str
    """Name of the stage: a plain word, part of file names."""
    epochs: int
    seed: int = 0
    batch_size: int = 32
    machine: Machine = field(default_factory=Machine)
    monitor: str = "validation_loss"
    mode: Literal["min", "max"] = "min"
    patience: int | None = None
    """Epochs without improvement after which it stops; None: never."""
    resume: bool = False
    """Go on where the stage was left, or return at once if it was finished."""
    log: Log = "csv"
    clip: float | None = 1.0
    """Largest norm of the gradient."""
    pieces: int = 1
    """Pieces that a batch goes through the network in: the same steps, in so much less memory."""


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What a stage came to."""

    state: Mapping[str, Tensor]
    """State dictionary of the module at its best epoch, on the CPU."""
    best: float
    """The monitored value there; NaN when nothing was monitored."""
    best_epoch: int
    """From 0."""
    history: tuple[Mapping[str, float], ...]
    """What was logged, an entry per epoch, with `epoch` and `seconds`."""
    batch_size: int
    """Smaller than asked for when memory ran out."""


@dataclass(frozen=True, slots=True)
class Loaders:
    """What a stage learns from and is watched by."""

    train: DataLoader[Any]
    validation: DataLoader[Any] | None = None


MakeLoaders = Callable[[int], Loaders]
"""Batch size to loaders: called again with half of it when memory runs out."""


def fit(module: pl.LightningModule, make: MakeLoaders, options: FitOptions, progress: Progress) -> FitResult:
    """Train one stage, leave the module with the weights of its best epoch, and return them with the curve.

    The best epoch is by `monitor`; without validation loader it is the last. State is saved after
    an epoch when the last save is half a minute ago, and at the end; with
    `resume` a stage goes on from there and ends as if it had not been interrupted (on a CPU: to the bit); so does one
    that had ended and is now given more epochs.
    Raises TrainingError when the loss or a weight is not a number or memory does not suffice for a batch of one,
    ModelError when state cannot be written or read.
    """
    state = options.folder / STATE_FOLDER
    make_folder(options.folder)
    make_folder(state)
    done = state / f"{options.stage}-done.json"
    if not options.resume:
        for old in state.glob(f"{options.stage}-*"):
            old.unlink()
    if _epochs_done(done, options.epochs) < options.epochs:
        size = _fit_within_memory(module, make, options, progress)
        write_atomic(done, json.dumps({"batch_size": size, "epochs": options.epochs}))
    with _reading_state(options):
        # Read the result back from disk: with several processes the training one was another.
        batch_size = int(json.loads(done.read_text())["batch_size"])
        best = load_state(state / f"{options.stage}-best.safetensors")
        last = load_state(state / f"{options.stage}-last.safetensors")
        history = _curve_of(last)
        module.to("cpu")
        module.load_state_dict(best["state_dict"])
        epoch = int(best["epoch"])
        reached = next((entry.get(options.monitor, math.nan) for entry in history if entry["epoch"] == epoch), math.nan)
        return FitResult(dict(best["state_dict"]), reached, epoch, history, batch_size)


def _epochs_done(path: Path, unsaid: int) -> int:
    """How far a stage was to go when it ended; `unsaid` where it was an older version that wrote the file."""
    return int(json.loads(path.read_text()).get("epochs", unsaid)) if path.is_file() else 0


def find_learning_rate(module: pl.LightningModule, make: MakeLoaders, options: FitOptions) -> float:
    """Lightning's range test (Smith 2017): the learning rate at which the loss falls steepest; the module is unchanged.

    Raises TrainingError when the loss never falls: too few batches, or nothing that learns.
    """
    import lightning.pytorch as pl
    from lightning.pytorch.tuner.tuning import Tuner

    from edge_models.fitting.callbacks import quiet

    with quiet(), _stoppable():
        torch.manual_seed(seed_of(options.seed))
        alone = replace(options, machine=replace(options.machine, devices=1))
        trainer = pl.Trainer(**_trainer_options(alone, [], False), max_epochs=-1)
        loaders = make(options.batch_size)
        # Lightning draws this progress bar past every switch.
        with contextlib.redirect_stderr(io.StringIO()):
            found = Tuner(trainer).lr_find(
                module,
                loaders.train,
                min_lr=1e-5,
                max_lr=1.0,
                num_training=60,
                update_attr=False,
                early_stop_threshold=None,
            )
    suggestion = found.suggestion(skip_begin=5, skip_end=5) if found else None
    if suggestion is None or not math.isfinite(suggestion):
        raise TrainingError("no learning rate makes the loss fall", remedy="give one with --tune-rate")
    return float(suggestion)


class EpochBatches(Sampler[BatchKey]):
    """Batches of positions, shuffled anew every epoch by the seed alone, so that a resumed run sees what it would have.

    `weights` (N,) draws with replacement in proportion (class-balanced sampling). With several processes each gets
    every n-th batch, all the same number; what is not shuffled, for judging,
    every process sees whole. Give it to a DataLoader as `sampler` with batch_size=None.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        weights: NDArray[np.float64] | None = None,
    ) -> None:
        self._count, self._size, self._seed, self._shuffle = count, batch_size, seed, shuffle
        self._weights = None if weights is None else weights / weights.sum()
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; Lightning calls this before every epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Batches of this process in an epoch."""
        batches = math.ceil(self._count / self._size)
        return max(1, batches // _place()[1]) if self._shuffle and self._count else batches

    def __iter__(self) -> Iterator[BatchKey]:
        """Yield (epoch, positions)."""
        order = self._order()
        rank, world = _place() if self._shuffle else (0, 1)
        # Fewer batches than processes: smaller ones, and none without a picture.
        size = min(self._size, max(1, len(order) // world))
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        for batch in (batches * world)[rank::world][: len(self)]:
            yield self._epoch, batch

    def _order(self) -> list[int]:
        if not self._shuffle:
            return list(range(self._count))
        rng = np.random.default_rng([self._seed, self._epoch])
        if self._weights is not None:
            return [int(i) for i in rng.choice(self._count, self._count, p=self._weights)]
        return [int(i) for i in rng.permutation(self._count)]


def loader(dataset: Dataset[Any], sampler: EpochBatches, machine: Machine) -> DataLoader[Any]:
    """A loader over a data set that turns a BatchKey into a whole batch."""
    return DataLoader(
        dataset,
        sampler=cast(Any, sampler),
        batch_size=None,
        num_workers=machine.workers,
        persistent_workers=machine.workers > 0,
        pin_memory=machine.accelerator == "cuda",
    )


# --- inside a fit ----------------------------------------------------------------------------------------------------


def _fit_within_memory(module: pl.LightningModule, make: MakeLoaders, options: FitOptions, progress: Progress) -> int:
    """Fit; halve the batch and go on from the last epoch whenever memory runs out. Returns the batch size."""
    begin = {name: tensor.detach().cpu().clone() for name, tensor in module.state_dict().items()}
    size, resume = options.batch_size, options.resume
    while True:
        try:
            _fit_once(module, make(max(1, size // options.pieces)), options, progress, resume)
            return size
        except (RuntimeError, ProcessRaisedException) as error:
            if not _out_of_memory(error):
                raise _from_process(error) from error
        if size == 1:
            raise TrainingError(
                "memory does not suffice for one picture", remedy="use a smaller backbone or --device cpu"
            )
        size, resume = max(1, size // 2), True
        progress.note(f"out of memory: going on with batches of {size}")
        module.to("cpu")
        module.load_state_dict(begin)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _from_process(error: BaseException) -> BaseException:
    """With several devices an error crosses processes as text: a TrainingError is made one again."""
    told = str(error).strip().splitlines()[-1] if isinstance(error, ProcessRaisedException) else ""
    kind, _, text = told.partition(": ")
    return TrainingError(text) if kind.endswith("TrainingError") else error


class StateError(ModelError):
    """Training state on disk is of another version or another network."""


@contextlib.contextmanager
def _reading_state(options: FitOptions, begun: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Tell what fails while state is read back as a StateError; `begun` says when reading has ended.

    State of an older build lacks what this one reads; a defect of ours must not be called that.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if not options.resume or begun() or _out_of_memory(error):
            raise
        text = (str(error).strip() or "nothing more is known").splitlines()[0][:120]
        raise StateError(
            f"the state of stage {options.stage} in {options.folder / STATE_FOLDER} cannot be gone on with "
            f"({type(error).__name__}: {text})",
            expected="state of this version and this network",
            remedy="train again into a new folder",
        ) from error


def _fit_once(
    module: pl.LightningModule, loaders: Loaders, options: FitOptions, progress: Progress, resume: bool
) -> None:
    import lightning.pytorch as pl
    from lightning.pytorch.callbacks import EarlyStopping

    from edge_models.fitting.callbacks import Best, Last, Watch, quiet

    state = options.folder / STATE_FOLDER
    watched = loaders.validation is not None
    last = state / f"{options.stage}-last.safetensors"
    monitor = options.monitor if watched else None
    # A saver of our own for the last: Lightning's `save_last` writes only when the best is written.
    curve = options.folder / _LOG_FOLDER / options.stage / "metrics.csv" if options.log == "csv" else None
    watch = Watch(options.stage, options.epochs, options.seed, options.monitor, progress, curve)
    callbacks: list[Callback] = [
        watch,
        Best(state / f"{options.stage}-best.safetensors", monitor, options.mode),
    ]
    if watched and options.patience is not None:
        callbacks.append(
            EarlyStopping(options.monitor, mode=options.mode, patience=options.patience, check_finite=False)
        )
    callbacks.append(Last(last))
    begin = str(last) if resume and last.is_file() else None
    with _reading_state(options, lambda: begin is None or watch.restored), quiet(), _stoppable():
        if begin is not None:
            _curve_of(load_state(last))  # Lightning would go on without it, and forget which epoch was best
        trainer = pl.Trainer(**_trainer_options(options, callbacks, True), max_epochs=options.epochs)
        trainer.fit(module, loaders.train, loaders.validation, ckpt_path=begin)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C stays what it is: Lightning makes an exit without a word of it."""
    try:
        yield
    except SystemExit as left:
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from left


def _trainer_options(options: FitOptions, callbacks: Sequence[Callback], logged: bool) -> dict[str, Any]:
    from edge_models.fitting.callbacks import SafetensorsIO

    machine = options.machine
    several = machine.devices > 1
    return {
        "accelerator": machine.accelerator,
        "devices": machine.devices,
        "strategy": "ddp_spawn" if several else "auto",
        "precision": machine.lightning_precision,
        "deterministic": True if machine.accelerator == "cpu" else "warn",
        "callbacks": list(callbacks),
        "plugins": [SafetensorsIO()],
        "logger": _logger(options) if logged else False,
        "default_root_dir": options.folder,
        "gradient_clip_val": options.clip,
        "accumulate_grad_batches": options.pieces,
        "enable_checkpointing": bool(callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1_000_000,  # the curve is per epoch
        "use_distributed_sampler": False,  # EpochBatches does it
    }


def _logger(options: FitOptions) -> Logger | bool:
    # Watch writes the CSV: Lightning's own logger forgets the epochs before a resume.
    if options.log != "tensorboard":
        return False
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(save_dir=options.folder, name=_LOG_FOLDER, version=options.stage)


def _curve_of(state: Mapping[str, Any]) -> tuple[Mapping[str, float], ...]:
    return tuple(cast(list[dict[str, float]], state["callbacks"]["Watch"]["history"]))


def _place() -> tuple[int, int]:
    """Rank of this process and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


__all__ = [
    "EpochBatches",
    "FitOptions",
    "FitResult",
    "Loaders",
    "Machine",
    "Progress",
    "Silence",
    "TrainingError",
    "find_learning_rate",
    "finish_run",
    "fit",
    "loader",
    "make_scratch",
    "open_run",
    "refuse_folder",
]
