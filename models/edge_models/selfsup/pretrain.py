"""`edge-app train pretrain`: a network learns what pictures look like from a pool without labels."""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.media.pictures import read_picture
from edge_app.system.files import json_bytes, sha256_of, sha256_of_file
from edge_models.data.batch_views import BatchViews, plain_views
from edge_models.data.checks import scan, thumbnail_of
from edge_models.data.folder import PictureFolder, Split, find_unlabelled, split_pictures
from edge_models.fitting.checkpoint import Checkpoint, load_state, save, save_state, write_atomic
from edge_models.fitting.fit import Machine, finish_run, open_run, refuse_folder
from edge_models.fitting.options import absolute, passed_on
from edge_models.fitting.progress import Progress
from edge_models.fitting.run_folder import STATE_FOLDER, Hold
from edge_models.networks.backbone import Backbone, base_of, features_of, normalize
from edge_models.networks.backbones import DEFAULT, create_backbone
from edge_models.networks.feature_cache import default_threads
from edge_models.networks.pretrained_run import FILE
from edge_models.networks.small_resnet import PREFIX
from edge_models.selfsup.losses import byol, nt_xent, spread_of, vicreg, where_hidden
from edge_models.selfsup.options import AUTO, PretrainOptions

REPORT: Final = "pretrain.json"
_LEAST_POOL: Final = 16
_SMALL_PX: Final = 44
_IN_MEMORY_BYTES: Final = 1_500_000_000
_PROJECTED: Final = 128
_SLOW: Final = 0.99
"""Share of itself that BYOL's slow network keeps at each step."""
_HIDDEN_SHARE: Final = 0.6
_NOISE: Final = 0.25
"""Of normalized pixels, that the denoising autoencoder takes away (Vincent et al. 2008)."""
_WATCHED: Final = 512
_DECAY: Final = 1e-4
"""AdamW's, of matrices and kernels; none of norms and biases."""
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


def pretrain(options: PretrainOptions, progress: Progress) -> Pretrained:
    """Pretrain and write the network with the hashes of its pool.

    Raises UsageError for a pool that holds pictures which will judge, or too few; EdgeError when features collapse.
    """
    torch.set_num_threads(default_threads())
    device = Machine(cast(Literal["auto", "cpu", "cuda", "mps"], options.device)).accelerator
    with Hold(options.output) as hold:
        refuse_folder(options.output, resume=options.resume)
        files, hashes, pixels, thumbs = _read_pool(options.directory, progress)
        judged = _Probe(options, progress) if options.labelled is not None else None
        if judged is not None:
            judged.refuse(options.directory, files, hashes, pixels, thumbs)
        open_run(options.output, options.configuration(absolute) | {"pool_sha256": sha256_of("".join(sorted(hashes)))},
                 resume=options.resume)  # fmt: skip
        hold.take()
        torch.manual_seed(options.seed)
        backbone = _backbone(options, files)
        fresh = backbone.name.startswith(PREFIX)
        learner = _Learner(backbone, options.method).to(memory_format=torch.channels_last).to(device)
        for parameter in learner.parameters():
            parameter.requires_grad_(True)
        rate = options.learning_rate * (1 if fresh else 0.1)
        # On a CPU with bf16 units an epoch of small-resnet-8 takes half the time (3.9 s instead of 7.7 for 6,000).
        half = device == "cuda" or (device == "cpu" and bool(torch.cpu.get_capabilities().get("amx_bf16", False)))
        taught = learner.taught()
        optimizer = torch.optim.AdamW(
            [{"params": [p for p in taught if p.ndim > 1], "weight_decay": _DECAY},
             {"params": [p for p in taught if p.ndim <= 1], "weight_decay": 0.0}], lr=rate)  # fmt: skip
        size = backbone.input.width_px or 0
        whole = len(files) * 3 * size * size <= _IN_MEMORY_BYTES
        images = plain_views(files, backbone.input, backbone.crop) if whole else None
        batch = min(options.batch_size, len(files))
        steps = len(files) // batch
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, rate, total_steps=max(2, steps * options.epochs), pct_start=0.1
        )
        path, told, first = options.output / STATE_FOLDER / "pretrain.safetensors", [], 0
        if options.resume and path.is_file():
            state = load_state(path)
            learner.load_state_dict(state["learner"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            told, first, before = list(state["told"]), len(state["told"]), tuple(state["before"])
        watched = images[:_WATCHED] if images is not None else plain_views(
            files[:_WATCHED], backbone.input, backbone.crop)  # fmt: skip
        if not told:
            before = spread_of(features_of(backbone, watched, device))
        progress.stage(options.method, options.epochs)
        for epoch in range(first, options.epochs):
            began_s, losses = time.monotonic(), []
            draw = torch.Generator().manual_seed(1_000_003 * options.seed + epoch)
            order = torch.randperm(len(files), generator=draw)[: steps * batch].view(steps, batch)
            learner.train()
            for at in order:
                seen = images[at] if images is not None else plain_views(
                    [files[int(i)] for i in at], backbone.input, backbone.crop)  # fmt: skip
                loss = learner.loss(seen.to(device).float(), draw, half=half)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
                learner.after_step()
                losses.append(float(loss.detach()))
            spread, rank = spread_of(features_of(backbone, watched, device))
            line = {"loss": float(np.mean(losses)), "spread": spread, "rank": rank,
                    "seconds": round(time.monotonic() - began_s, 2)}  # fmt: skip
            if judged is not None and (epoch % 5 == 4 or epoch + 1 == options.epochs):
                line["probe"] = judged.accuracy(backbone, device)
            told.append(line)
            if not np.isfinite(line["loss"]) or collapsed((spread, rank), before):
                raise EdgeError(
                    f"{options.method} collapsed in epoch {epoch + 1}: its features have a spread of {spread:.3f} and "
                    f"an effective rank of {rank:.1f}, before training {before[0]:.3f} and {before[1]:.1f}: pictures "
                    "look like one another to it",
                    expected=f"at least {COLLAPSED:.0%} of each",
                    remedy="a lower --learning-rate, a larger --batch-size, or another --method",
                )
            path.parent.mkdir(mode=0o700, exist_ok=True)
            save_state(path, {"learner": learner.state_dict(), "optimizer": optimizer.state_dict(),
                              "schedule": schedule.state_dict(), "told": told, "before": list(before)})  # fmt: skip
            detail = f"loss {line['loss']:.3f}, spread {spread:.2f}, rank {rank:.0f}"
            progress.advance(epoch + 1, detail + (f", probe {line['probe']:.1%}" if "probe" in line else ""))
        return _write(options, backbone.cpu().eval(), hashes, pixels, told)


def collapsed(now: tuple[float, float], before: tuple[float, float]) -> bool:
    """Whether features that had a spread and an effective rank (`spread_of`) tell too few pictures apart now."""
    return any(not found >= COLLAPSED * was for found, was in zip(now, before, strict=True))


class _Learner(nn.Module):
    """A backbone with what a method needs beside it; `loss` takes (N, 3, H, W) float32 of 0 to 255."""

    def __init__(self, backbone: Backbone, method: str) -> None:
        super().__init__()
        self.backbone, self.method = backbone, method
        self._view = BatchViews(0.2, 0.5, grey=0.2, hue=0.1)
        width = backbone.features
        self.slow: nn.Module | None = None
        if method in ("simclr", "byol", "vicreg"):
            self.projector = nn.Sequential(
                nn.Linear(width, 4 * _PROJECTED), nn.BatchNorm1d(4 * _PROJECTED), nn.ReLU(),
                nn.Linear(4 * _PROJECTED, _PROJECTED),
            )  # fmt: skip
            if method == "byol":
                self.predictor = nn.Sequential(
                    nn.Linear(_PROJECTED, 2 * _PROJECTED), nn.BatchNorm1d(2 * _PROJECTED), nn.ReLU(),
                    nn.Linear(2 * _PROJECTED, _PROJECTED),
                )  # fmt: skip
                self.slow = copy.deepcopy(nn.Sequential(backbone, self.projector))
        else:
            side = backbone.input.width_px or 0
            with torch.inference_mode():
                maps = backbone.eval().maps(torch.zeros(1, 3, side, side))
            if maps.ndim != 4:
                raise UsageError(f"{backbone.name} has no feature maps to rebuild pictures from",
                                 remedy="a convolutional network, or --method simclr")  # fmt: skip
            layers: list[nn.Module] = [nn.Conv2d(maps.shape[1], 64, 1)]
            at = int(maps.shape[2])
            while at < side:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
                at *= 2
            self.decoder = nn.Sequential(*layers, nn.Conv2d(64, 3, 3, padding=1))

    def taught(self) -> list[nn.Parameter]:
        """What the optimizer changes: all but the slow network."""
        slow = {id(parameter) for parameter in self.slow.parameters()} if self.slow is not None else set()
        return [parameter for parameter in self.parameters() if id(parameter) not in slow]

    def loss(self, images: Tensor, draw: torch.Generator, half: bool = False) -> Tensor:
        """Of one batch; the network's layers in bf16 where `half`."""
        spec, kind = self.backbone.input, images.device.type
        if self.method in ("mae", "autoencoder"):
            truth = normalize(BatchViews(0.5, 0.2)(images, draw), spec)
            side = truth.shape[-1]
            if self.method == "mae":
                cells = max(4, side // 4)
                hidden = (torch.rand(len(truth), 1, cells, cells, generator=draw) < _HIDDEN_SHARE).float()
                hidden = functional.interpolate(hidden, size=side).to(truth.device)
                seen = truth * (1 - hidden)
            else:
                hidden = torch.ones_like(truth[:, :1])
                seen = truth + _NOISE * torch.randn(truth.shape, generator=draw).to(truth.device)
            with torch.autocast(kind, torch.bfloat16, enabled=half):
                made = self.decoder(self.backbone.maps(seen.contiguous(memory_format=torch.channels_last))).float()
            if made.shape[-1] != side:
                made = functional.interpolate(made, size=side)
            return where_hidden(made, truth, hidden)
        views = normalize(torch.cat([self._view(images, draw) for _ in range(2)]), spec)
        views = views.contiguous(memory_format=torch.channels_last)
        with torch.autocast(kind, torch.bfloat16, enabled=half):
            features = self.backbone(views)
        one, two = (self.projector(part) for part in features.float().chunk(2))
        if self.method == "simclr":
            return nt_xent(one, two)
        if self.method == "vicreg":
            return vicreg(one, two)
        assert self.slow is not None
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16, enabled=half):
            slow_one, slow_two = self.slow(views).float().chunk(2)
        return (byol(self.predictor(one), slow_two) + byol(self.predictor(two), slow_one)) / 2

    def after_step(self) -> None:
        """The slow network follows."""
        if self.slow is None:
            return
        with torch.no_grad():
            fast = nn.Sequential(self.backbone, self.projector)
            for kept, new in zip(self.slow.parameters(), fast.parameters(), strict=True):
                kept.lerp_(new, 1 - _SLOW)


def _backbone(options: PretrainOptions, files: Sequence[Path]) -> Backbone:
    name = options.backbone
    if name == AUTO:
        sides = [min(read_picture(path).shape[:2]) for path in files[:64]]
        name = f"{PREFIX}8" if float(np.median(sides)) <= _SMALL_PX else DEFAULT
    return create_backbone(name, size=options.size, seed=options.seed)


def _read_pool(
    root: Path, progress: Progress
) -> tuple[list[Path], list[str], list[str], list[np.ndarray[Any, np.dtype[np.uint8]]]]:
    """Files, SHA-256 of bytes and of pixels, thumbnails; what cannot be read is told and left out, as are repeats."""
    files, hashes, pixels, thumbs = [], [], [], []
    found, bad = find_unlabelled(root), 0
    known: set[str] = set()
    progress.stage("reading", len(found))
    for done, path in enumerate(found, 1):
        try:
            seen = read_picture(path)
        except MediaError:
            bad += 1
            continue
        content = hashlib.sha256(repr(seen.shape).encode() + seen.tobytes()).hexdigest()
        if content not in known:
            known.add(content)
            files.append(path)
            hashes.append(sha256_of_file(path))
            pixels.append(content)
            thumbs.append(thumbnail_of(seen))
        if done % 64 == 0 or done == len(found):
            progress.advance(done)
    if bad or len(files) + bad < len(found):
        progress.note(f"{root}: {bad} unreadable and {len(found) - bad - len(files)} repeated pictures left out")
    if len(files) < _LEAST_POOL:
        raise UsageError(f"{root} holds {len(files)} pictures that differ", expected=f"at least {_LEAST_POOL}")
    return files, hashes, pixels, thumbs


class _Probe:
    """A labelled folder: its judging pictures must not be in the pool; a linear probe on the others tells progress."""

    def __init__(self, options: PretrainOptions, progress: Progress) -> None:
        assert options.labelled is not None
        progress.stage("checking", 1)
        self.folder: PictureFolder = scan(options.labelled)
        self.split: Split = split_pictures(self.folder, seed=options.seed)
        self._images: Tensor | None = None

    def refuse(
        self, root: Path, files: Sequence[Path], hashes: Sequence[str], pixels: Sequence[str],
        thumbs: Sequence[np.ndarray[Any, np.dtype[np.uint8]]],
    ) -> None:  # fmt: skip
        """Raise UsageError where the pool holds a picture that will judge, or nearly one."""
        from edge_models.data.checks import near_between
        from edge_models.networks.pretrained_run import pixels_hash

        judging = [self.folder.pictures[i] for i in self.split.validation]
        by_bytes, by_pixels = dict(zip(hashes, files, strict=True)), dict(zip(pixels, files, strict=True))
        same = {by_bytes.get(p.sha256) or by_pixels.get(pixels_hash(p.path)) for p in judging} - {None}
        near = {files[j] for _, j in near_between([p.thumbnail for p in judging], thumbs)} - same
        if same or near:
            names = ", ".join(str(path) for path in sorted(path for path in (*same, *near) if path)[:3])
            raise UsageError(
                f"{root} holds {len(same)} of the {len(judging)} pictures that will judge, and {len(near)} nearly like "
                f"one ({names})",
                expected="pictures that nothing will be judged by",
                remedy="take them out of the pool; another --seed judges by others",
            )

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


def _write(
    options: PretrainOptions, backbone: Backbone, hashes: Sequence[str], pixels: Sequence[str],
    told: Sequence[dict[str, float]],
) -> Pretrained:  # fmt: skip
    last = told[-1]
    base = base_of(backbone)
    origin = f"{base.origin}; {options.method} on {len(hashes)} pictures without labels"
    checkpoint = Checkpoint(
        "backbone", backbone.state_dict(), type(base)(**asdict(base) | {"origin": origin}), backbone.input,
        backbone.crop, {}, configuration=passed_on(options), data_sha256=sha256_of("".join(sorted(hashes))),
        metrics={name: value for name, value in last.items() if name != "seconds"},
        split={"pool": tuple(hashes), "pool_pixels": tuple(pixels)},
    )  # fmt: skip
    path, report = options.output / FILE, options.output / REPORT
    write_atomic(report, json_bytes({"command": options.command(), "pictures": len(hashes), "epochs": list(told)}))
    save(path, checkpoint)
    finish_run(options.output)
    return Pretrained(path, report, len(hashes), tuple(told))
