"""`edge-app generate sample`: pictures out of a generator, none of them a near-copy, and what they are worth.

Worth is told twice on the pictures that the generator never saw: how far what is made lies from them (KID, Binkowski et
al. 2018, arXiv 1801.01401), and what learning from it as well does to a classifier's accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_app.accuracy.intervals import Estimate, paired
from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.types import Pixels
from edge_app.inference.geometry import prepare, resize
from edge_app.media.pictures import read_picture
from edge_app.system.files import json_bytes, write_private
from edge_models.data.checks import scan
from edge_models.data.folder import find_again
from edge_models.data.made import marked, write_made
from edge_models.fitting.progress import Progress
from edge_models.fitting.seeds import seed_of
from edge_models.generate.adversarial import COLLAPSED, as_tensor, shared_out, spread, to_pixels, to_range
from edge_models.generate.compose import FACTS, PICTURES
from edge_models.generate.gan import NOISE, Drawer, draw_pictures, load_generator
from edge_models.generate.made_folder import made_folder
from edge_models.generate.options import SampleOptions
from edge_models.networks.backbone import Backbone, normalize
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import default_threads

_NEAREST: Final = 0.01
"""Two distinct pictures of the learning part are closer than the limit in this share of cases at the most."""
_LOOK_PX: Final = 16
_DRAWS: Final = 10
"""Pictures drawn for each that is wanted, at the most."""
_BATCH: Final = 64

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Sampled:
    """What was made, and what it is worth."""

    folder: Path
    pictures: int
    refused: int
    """Drawn and thrown away: near-copies of pictures learned from."""
    kid: tuple[float, float]
    """Of what was made, against the pictures kept out, and its standard error."""
    kid_of_real: tuple[float, float]
    """Of the pictures learned from, against the same: as near as can be expected."""
    accuracy: float
    """Of a linear head on the pictures learned from, on those kept out."""
    accuracy_with_made: float
    gain: Estimate
    """Paired over the pictures kept out."""
    judged: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Near:
    """Tells near-copies in one way of seeing: rows of unit length, whose distance is that of a chord."""

    taken: Rows
    """(N, D) of the pictures learned from, and of their mirror images where those were learned too."""
    limit: float

    @classmethod
    def of(cls, taken: Rows, groups: NDArray[np.intp], mirrored: Rows | None) -> Near:
        """The limit is of the distances between distinct pictures: `groups` (N,) says which are nearly the same."""
        apart = distances(taken, taken)
        apart[groups[:, None] == groups[None, :]] = np.inf
        nearest = apart.min(1)
        known = nearest[np.isfinite(nearest)]
        limit = float(np.quantile(known, _NEAREST)) if len(known) else 0.0
        return cls(taken if mirrored is None else np.concatenate([taken, mirrored]), limit)

    def copies(self, made: Rows) -> NDArray[np.bool_]:
        """(M,) whether each of (M, D) is nearer to a picture than distinct pictures are to each other."""
        return np.asarray(distances(made, self.taken).min(1) < self.limit)


def sample(options: SampleOptions, progress: Progress) -> Sampled:
    """Make pictures in a new folder, a sub-folder per class.

    Raises UsageError for a run without a generator, or whose pictures are gone; EdgeError for a generator that copies.
    """
    torch.set_num_threads(default_threads())
    drawer = load_generator(options.run)
    with made_folder(options.output) as scratch:
        progress.stage("checking", 1)
        root = options.pictures or drawer.directory
        folder = scan(root, tell=lambda done, total: progress.advance(done, f"of {total}"))
        found = find_again(folder, {"learned": drawer.learned, "kept out": drawer.kept_out})
        learned, kept = list(found.parts["learned"]), list(found.parts["kept out"])
        if folder.classes != drawer.classes:
            raise UsageError(
                f"the sub-folders of {root} are {', '.join(folder.classes)}",
                expected=f"those that the generator learned from: {', '.join(drawer.classes)}",
                remedy="name where they lie with --from",
            )
        if not kept:
            raise UsageError(
                f"of the {len(drawer.kept_out)} pictures that the generator never saw none is in {root}",
                expected="some: they judge", remedy="name where they lie with --from",
            )  # fmt: skip
        if len(learned) < max(1, len(drawer.learned)):
            raise UsageError(
                f"of the {len(drawer.learned)} pictures that the generator learned from {len(learned)} are in {root}",
                expected="all of them: near-copies are found by them, and the others judge",
                remedy="name where they lie with --from",
            )
        backbone = create_backbone(options.backbone).eval()
        pictures = [read_picture(folder.pictures[i].path) for i in (*learned, *kept)]
        progress.stage(f"features of {backbone.name}", len(pictures))
        real = features_of(backbone, pictures, progress)
        seen, unseen = real[: len(learned)], real[len(learned) :]
        small = [resize(one, drawer.size, drawer.size) for one in pictures[: len(learned)]]
        groups = folder.groups[learned]
        mirrored = [np.ascontiguousarray(one[:, ::-1]) for one in small] if drawer.mirror else None
        near = [
            Near.of(look(small), groups, look(mirrored) if mirrored else None),
            # Seen at the generator's size: a copy is as coarse as all that it makes.
            Near.of(unit(features_of(backbone, small)), groups,
                    unit(features_of(backbone, mirrored)) if mirrored else None),
        ]  # fmt: skip
        drawn, rows, refused = _draw(drawer, options, backbone, near, progress)
        labels = np.repeat(np.arange(len(drawer.classes)), options.count)
        truth, judged = folder.labels[learned], folder.labels[kept]
        sources = [folder.pictures[i].sha256 for i in learned]
        for number, (label, one) in enumerate(zip(labels, drawn, strict=True)):
            inside = Path(drawer.classes[label]) / f"{number:06d}.png"
            (scratch / PICTURES / inside).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = {"seed": options.seed, "number": number}
            write_made(scratch / PICTURES / inside, one,
                       marked("edge-app generate", shared_out(sources, len(labels), number), facts))  # fmt: skip
        without = head_right(seen, truth, unseen, judged)
        together = head_right(np.concatenate([seen, rows]), np.concatenate([truth, labels]), unseen, judged,
                              made=len(rows))  # fmt: skip
        gain = paired(together.astype(np.float64) - without)
        notes = [
            f"refused {refused} of {refused + len(drawn)} drawn pictures, near-copies of what was learned from"
        ] if refused else []  # fmt: skip
        notes += _collapsed(drawer, drawn, labels, small, truth)
        result = Sampled(
            options.output, len(drawn), refused, kid(rows, unseen), kid(seen, unseen), float(without.mean()),
            float(together.mean()), gain, len(kept), tuple(notes),
        )  # fmt: skip
        facts_of: dict[str, Any] = {
            "by": "edge-app generate sample", "generator": drawer.command, "seed": options.seed,
            "refused": refused, "kid": result.kid, "kid_of_real": result.kid_of_real, "judged": len(kept),
            "accuracy": result.accuracy, "accuracy_with_made": result.accuracy_with_made,
            "gain": [gain.value, gain.low, gain.high], "kept_out": [folder.pictures[i].name for i in kept],
        }  # fmt: skip
        write_private(scratch / FACTS, json_bytes(facts_of))
    return result


def _draw(
    drawer: Drawer, options: SampleOptions, backbone: Backbone, near: Sequence[Near], progress: Progress
) -> tuple[list[Pixels], Rows, int]:
    """As many pictures of each class as wanted, in their order, their features, and how many were near-copies."""
    drawn: list[Pixels] = []
    rows: list[Rows] = []
    refused = 0
    progress.stage("drawing", options.count * len(drawer.classes))
    for label, name in enumerate(drawer.classes):
        kept, tried = 0, 0
        while kept < options.count:
            if tried >= _DRAWS * options.count + _BATCH:
                raise EdgeError(
                    f"of {tried} pictures drawn of {name} {tried - kept} are near-copies of pictures learned from",
                    expected=f"{options.count} that are none",
                    remedy="a smaller --count, or a generator trained for fewer --steps or on more pictures",
                )
            size = min(_BATCH, options.count - kept)
            draw = torch.Generator().manual_seed(seed_of(options.seed, label, tried))
            made = list(to_pixels(draw_pictures(drawer.net, torch.randn(size, NOISE, generator=draw), label)).numpy())
            found = features_of(backbone, made)
            copies = near[0].copies(look(made)) | near[1].copies(unit(found))
            drawn += [one for one, copy in zip(made, copies, strict=True) if not copy]
            rows.append(found[~copies])
            kept, tried, refused = kept + int((~copies).sum()), tried + size, refused + int(copies.sum())
            progress.advance(label * options.count + kept)
    return drawn, np.concatenate(rows), refused


def _collapsed(
    drawer: Drawer, drawn: Sequence[Pixels], labels: NDArray[np.intp], small: Sequence[Pixels], truth: NDArray[np.intp]
) -> list[str]:
    """A note for each class whose pictures are hardly more than one picture, which no judgement of them all shows."""
    notes = []
    for label, name in enumerate(drawer.classes):
        made, real = (
            spread(to_range(as_tensor([pictures[i] for i in np.flatnonzero(of == label)[:_BATCH]])))
            for pictures, of in ((drawn, labels), (small, truth))
        )
        if (labels == label).sum() > 1 and made < COLLAPSED * real:
            notes.append(f"{name}: what is made differs {made / real:.2f} times as much as its pictures: the generator "
                         "has collapsed to few")  # fmt: skip
    return notes


def features_of(backbone: Backbone, pictures: Sequence[Pixels], progress: Progress | None = None) -> Rows:
    """(N, D) features of pictures of any size, each prepared as serving does."""
    rows: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(pictures), 16):
            part = as_tensor([prepare(one, backbone.input, backbone.crop) for one in pictures[start : start + 16]])
            rows.append(backbone(normalize(part, backbone.input)).float())
            if progress is not None:
                progress.advance(min(start + 16, len(pictures)))
    return np.asarray(torch.cat(rows).numpy(), np.float32)


def look(pictures: Sequence[Pixels]) -> Rows:
    """(N, D) of unit length: pictures seen at 16 px, whatever their light and contrast."""
    seen = functional.adaptive_avg_pool2d(as_tensor(pictures).float(), _LOOK_PX).flatten(1).numpy()
    return unit(seen - seen.mean(1, keepdims=True))


def unit(rows: NDArray[np.float32]) -> Rows:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def distances(one: Rows, two: Rows) -> NDArray[np.float64]:
    """(N, M) Euclidean distances."""
    squares = (one.astype(np.float64) ** 2).sum(1)[:, None] + (two.astype(np.float64) ** 2).sum(1)[None, :]
    return np.asarray(np.sqrt(np.maximum(squares - 2 * one.astype(np.float64) @ two.T.astype(np.float64), 0)))


def kid(made: Rows, real: Rows) -> tuple[float, float]:
    """The unbiased squared MMD of two sets of features (M, D) and (N, D) under the kernel (x.y / D + 1)^3, 0 in the
    mean where both are of one kind, and its standard error by leaving each picture out once."""
    if min(len(made), len(real)) < 3:
        return float("nan"), float("nan")

    def kernel(one: Rows, two: Rows) -> NDArray[np.float64]:
        return np.asarray((one.astype(np.float64) @ two.T.astype(np.float64) / one.shape[1] + 1) ** 3)

    inner = [kernel(rows, rows) for rows in (made, real)]
    for matrix in inner:
        np.fill_diagonal(matrix, 0)
    across, (m, n) = kernel(made, real), (len(made), len(real))
    totals = [matrix.sum() for matrix in inner]
    value = totals[0] / (m * (m - 1)) + totals[1] / (n * (n - 1)) - 2 * across.mean()
    # Of the set without picture i: its row and column leave the sum.
    ones = (totals[0] - 2 * inner[0].sum(1)) / ((m - 1) * (m - 2)) + totals[1] / (n * (n - 1)) - 2 * (
        across.sum() - across.sum(1)) / ((m - 1) * n)  # fmt: skip
    twos = totals[0] / (m * (m - 1)) + (totals[1] - 2 * inner[1].sum(1)) / ((n - 1) * (n - 2)) - 2 * (
        across.sum() - across.sum(0)) / (m * (n - 1))  # fmt: skip
    variance = (m - 1) * ones.var() + (n - 1) * twos.var()
    return float(value), float(np.sqrt(variance))


def head_right(
    features: Rows, labels: NDArray[np.intp], judged: Rows, truth: NDArray[np.intp], made: int = 0
) -> NDArray[np.bool_]:
    """(V,) which of the judged a logistic head names rightly; the last `made` rows weigh what the others do at most."""
    from sklearn.linear_model import LogisticRegression

    weights = np.ones(len(features))
    if made:
        weights[-made:] = min(1.0, (len(features) - made) / made)
    head = LogisticRegression(C=10.0, max_iter=500).fit(unit(features), labels, weights)
    return np.asarray(head.predict(unit(judged)) == truth)
