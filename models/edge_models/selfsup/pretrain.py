"""`edge-app train pretrain`: a network learns what pictures look like from a pool without labels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError, UsageError
from edge_app.media.pictures import read_picture
from edge_app.system.files import json_bytes, sha256_of, sha256_of_file
from edge_models.data.batch_views import plain_views
from edge_models.data.checks import scan
from edge_models.data.folder import PictureFolder, Split, split_pictures
from edge_models.data.judging import Seen, left_out
from edge_models.data.likeness import Thumbnail, thumbnail_of
from edge_models.data.pool import distinct_pictures
from edge_models.fitting.checkpoint import Checkpoint, load_state, save, save_state, write_atomic
from edge_models.fitting.fit import Machine, finish_run, open_run, refuse_folder
from edge_models.fitting.options import absolute, passed_on
from edge_models.fitting.progress import Progress
from edge_models.fitting.run_folder import STATE_FOLDER, Hold
from edge_models.networks.backbone import Backbone, base_of, features_of
from edge_models.networks.backbones import DEFAULT, create_backbone
from edge_models.networks.feature_cache import default_threads
from edge_models.networks.known_classes import KNOWING
from edge_models.networks.pretrained_run import FILE
from edge_models.networks.small_resnet import PREFIX
from edge_models.selfsup.learner import Lessons
from edge_models.selfsup.options import AUTO, PretrainOptions

REPORT: Final = "pretrain.json"
_LEAST_POOL: Final = 16
_SMALL_PX: Final = 44
COLLAPSED: Final = 0.3
"""Share of the untrained network's spread or effective rank under which features have collapsed. On 512 pictures of
cifar10_small/unlabelled, after 2 or 3 epochs over 1,000 others: the five methods kept 0.62 of the rank (byol) or more
and no less than 0.99 of the spread; at a rate of 0.3 vicreg fell to 0.07 of the rank, simclr to 0.07 of the rank and of
the spread; vicreg without its spread term, simclr without what drives pictures apart, to 0.36 and 0.40 of the rank and
still falling, while their spread grew: spread alone tells no collapse into few dimensions."""


@dataclass(frozen=True, slots=True)
class Pretrained:
    """What a run came to."""

    checkpoint: Path
    report: Path
    pictures: int
    epochs: tuple[dict[str, float], ...]
    """Of each: loss, spread, rank, seconds, and probe where there is a labelled folder."""


def pretrain(options: PretrainOptions, progress: Progress, judges: Seen | None = None) -> Pretrained:
    """Pretrain and write the network with what tells the pictures of its pool.

    Pictures of the pool that will judge, those of `options.labelled` or else `judges`, are left out and told. Raises
    UsageError for a pool of too few others; EdgeError when features collapse.
    """
    torch.set_num_threads(default_threads())
    device = Machine(cast(Literal["auto", "cpu", "cuda", "mps"], options.device)).accelerator
    with Hold(options.output) as hold:
        refuse_folder(options.output, resume=options.resume)
        judged = _Probe(options, progress) if options.labelled is not None else None
        pool = _read_pool(options.directory, progress, judges if judged is None else judged.judges)
        torch.manual_seed(options.seed)
        backbone = _backbone(options, pool.files)
        # A network that cannot be had leaves no folder behind.
        open_run(options.output, options.configuration(absolute) | {"pool_sha256": pool.sha256}, resume=options.resume)
        hold.take()
        lessons = Lessons(options, backbone, pool.files, device)
        path, told = options.output / STATE_FOLDER / "pretrain.safetensors", list[dict[str, float]]()
        if options.resume and path.is_file():
            state = load_state(path)
            lessons.load(state)
            told, before = list(state["told"]), tuple(state["before"])
        else:
            before = lessons.spread()
        progress.stage(options.method, options.epochs)
        for epoch in range(len(told), options.epochs):
            began_s = time.monotonic()
            loss, (spread, rank) = lessons.epoch(epoch), lessons.spread()
            line = {"loss": loss, "spread": spread, "rank": rank, "seconds": round(time.monotonic() - began_s, 2)}
            if judged is not None and (epoch % 5 == 4 or epoch + 1 == options.epochs):
                line["probe"] = judged.accuracy(backbone, device)
            told.append(line)
            if not np.isfinite(loss) or collapsed((spread, rank), before):
                raise EdgeError(
                    f"{options.method} collapsed in epoch {epoch + 1}: its features have a spread of {spread:.3f} and "
                    f"an effective rank of {rank:.1f}, before training {before[0]:.3f} and {before[1]:.1f}: pictures "
                    "look like one another to it",
                    expected=f"at least {COLLAPSED:.0%} of each",
                    remedy="a lower --learning-rate, a larger --batch-size, or another --method",
                )
            path.parent.mkdir(mode=0o700, exist_ok=True)
            save_state(path, lessons.state() | {"told": told, "before": list(before)})
            detail = f"loss {loss:.3f}, spread {spread:.2f}, rank {rank:.0f}"
            progress.advance(epoch + 1, detail + (f", probe {line['probe']:.1%}" if "probe" in line else ""))
        return _write(options, backbone.cpu().eval(), pool, told)


def collapsed(now: tuple[float, float], before: tuple[float, float]) -> bool:
    """Whether features that had a spread and an effective rank (`spread_of`) tell too few pictures apart now."""
    return any(not found >= COLLAPSED * was for found, was in zip(now, before, strict=True))


def _backbone(options: PretrainOptions, files: Sequence[Path]) -> Backbone:
    name = options.backbone
    if name == AUTO:
        sides = [min(read_picture(path).shape[:2]) for path in files[:64]]
        name = f"{PREFIX}8" if float(np.median(sides)) <= _SMALL_PX else DEFAULT
    if KNOWING in name:
        # Layers change in pretraining, and what tells the classes from their output would not.
        raise UsageError(f"found {name} to pretrain", expected=f"the network alone, without {KNOWING}")
    return create_backbone(name, size=options.size, seed=options.seed)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    """Pictures that differ."""

    files: Sequence[Path]
    seen: Seen

    @property
    def sha256(self) -> str:
        """Of the pool, whatever its files are called."""
        return sha256_of("".join(sorted(self.seen.hashes)))


def _read_pool(root: Path, progress: Progress, apart: Seen | None) -> _Pool:
    files, thumbnails = list[Path](), list[Thumbnail]()
    for path, pixels in distinct_pictures(root, _LEAST_POOL, progress):
        files.append(path)
        thumbnails.append(thumbnail_of(pixels))
    seen = Seen([sha256_of_file(path) for path in files], thumbnails)
    if apart is None or not (judging := seen.are_among(apart)).any():
        return _Pool(files, seen)
    progress.note(left_out(root, [path.name for path, judges in zip(files, judging, strict=True) if judges]))
    rest = np.flatnonzero(~judging).tolist()
    if len(rest) < _LEAST_POOL:
        raise UsageError(
            f"{root} holds {counted(len(rest), 'picture')} to learn from", expected=f"at least {_LEAST_POOL}",
            remedy="others than those that judge",
        )  # fmt: skip
    return _Pool([files[at] for at in rest], Seen([seen.hashes[at] for at in rest], [thumbnails[at] for at in rest]))


class _Probe:
    """A labelled folder: a linear probe on what does not judge tells progress."""

    def __init__(self, options: PretrainOptions, progress: Progress) -> None:
        assert options.labelled is not None
        progress.stage("checking", 1)
        self.folder: PictureFolder = scan(options.labelled)
        self.split: Split = split_pictures(self.folder, seed=options.seed)
        self._images: Tensor | None = None

    @property
    def judges(self) -> Seen:
        """What is not to be in the pool."""
        return Seen.of(self.folder, self.split.judging)

    def accuracy(self, backbone: Backbone, device: str) -> float:
        """Share right on the selection part of a ridge regression from the train part's features to its labels."""
        if self._images is None:
            self._images = plain_views([p.path for p in self.folder.pictures], backbone.input, backbone.crop)
        features = features_of(backbone, self._images, device).double()
        learn, judge = list(self.split.train), list(self.split.selection)
        features = (features - features[learn].mean(0)) / (features[learn].std(0) + 1e-6)
        truth = functional.one_hot(torch.from_numpy(self.folder.labels.astype(np.int64))).double()
        gram = features[learn].T @ features[learn] + 0.1 * len(learn) * torch.eye(features.shape[1]).double()
        matrix = torch.linalg.solve(gram, features[learn].T @ (truth[learn] - truth[learn].mean(0)))
        guesses = (features[judge] @ matrix + truth[learn].mean(0)).argmax(1)
        return float((guesses == truth[judge].argmax(1)).double().mean())


def _write(options: PretrainOptions, backbone: Backbone, pool: _Pool, told: Sequence[dict[str, float]]) -> Pretrained:
    base, pictures = base_of(backbone), len(pool.files)
    origin = f"{base.origin}; {options.method} on {pictures} pictures without labels"
    checkpoint = Checkpoint(
        "backbone", backbone.state_dict(), type(base)(**asdict(base) | {"origin": origin}), backbone.input,
        backbone.crop, {}, configuration=passed_on(options), data_sha256=pool.sha256,
        metrics={name: value for name, value in told[-1].items() if name != "seconds"},
        split={"pool": tuple(pool.seen.hashes)}, pool=torch.from_numpy(np.stack(pool.seen.thumbnails)),
    )  # fmt: skip
    path, report = options.output / FILE, options.output / REPORT
    write_atomic(report, json_bytes({"command": options.command(), "pictures": pictures, "epochs": list(told)}))
    save(path, checkpoint)
    finish_run(options.output)
    return Pretrained(path, report, pictures, tuple(told))
