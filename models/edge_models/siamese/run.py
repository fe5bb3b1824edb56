"""`edge-app train siamese`: fine-tunes an embedder on a folder of identities and measures what that was worth.

Writes OUTPUT/embedder-best.safetensors, siamese.html and siamese.json. Identities are split, never pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.system.files import json_bytes
from edge_models.data.augment import AugmentOptions
from edge_models.data.checks import scan
from edge_models.data.class_folders import CheckOptions
from edge_models.data.folder import PictureFolder, hashes_of
from edge_models.fitting.callbacks import not_a_number
from edge_models.fitting.checkpoint import Checkpoint, package_versions, save, write_atomic
from edge_models.fitting.fit import FitOptions, Progress, finish_run, open_run, refuse_folder
from edge_models.fitting.options import LARGEST, absolute, passed_on
from edge_models.fitting.report_parts import read_report
from edge_models.fitting.run_folder import Hold
from edge_models.networks.backbone import Backbone, base_of
from edge_models.networks.embedder import SFACE, Crops, check_base, check_served_alike, create_embedder, crops_of
from edge_models.siamese.fit import BANK_FOLDER, MONITOR, Maps, Tuned, embed_cached, is_whole, lower_layers, tune
from edge_models.siamese.judge import (
    Judgement,
    SplitScores,
    few_identities,
    judge,
    judgements_of,
    plain,
    score,
    table,
    verdict,
)
from edge_models.siamese.options import SiameseOptions
from edge_models.siamese.page import page

CHECKPOINT_NAME: Final = "embedder-best.safetensors"
REPORT_NAME: Final = "siamese.json"
PAGE_NAME: Final = "siamese.html"
MIN_IDENTITIES: Final = 4
"""Two to learn from and two held out: with fewer there is no pair of two identities on each side."""
FEW_PICTURES: Final = 5
"""Identities with fewer pictures are named: 5-shot accuracy leaves them out."""
CHECKS: Final = CheckOptions(min_classes=MIN_IDENTITIES, few_per_class=FEW_PICTURES, noun="identity", min_side_px=32)
CHOOSING_FROM: Final = 10
"""From so many identities to train on, a fifth of them is kept to stop and mix by; below, none can be spared."""

_STAGE: Final = "split"

Ints = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    """Identity numbers of one split; disjoint, each ascending."""

    learning: Ints
    choosing: Ints
    held_out: Ints


@dataclass(frozen=True, slots=True)
class SiameseResult:
    """What a run came to."""

    checkpoint: Path
    report: Path
    html: Path
    judgements: tuple[Judgement, ...]
    verdict: str
    """One sentence: better than its base only where the interval says so."""

    def summary(self) -> list[str]:
        """The figures and the verdict as lines of text."""
        return [*table(self.judgements), self.verdict, f"checkpoint: {self.checkpoint}", f"report: {self.html}"]


def train(options: SiameseOptions, progress: Progress) -> SiameseResult:
    """Fine-tune once per split, judge all, keep the first split's network.

    Raises UsageError for a folder or options that make no sense, ModelError for a base that cannot be had,
    TrainingError when the loss, a weight or an embedding is not a number.
    """
    with Hold(options.output) as hold:
        _refuse_nonsense(options)
        options.machine.check()
        check_base(options.base)
        refuse_folder(options.output, resume=options.resume)
        folder = scan(options.directory, CHECKS)
        for finding in folder.findings:
            progress.note(f"{finding.kind}: {', '.join(finding.files[:3])} {finding.detail}; {finding.action}")
        base = create_embedder(options.base, weights=options.weights)
        begun = options.configuration(absolute) | {
            "data_sha256": folder.sha256,
            "base_sha256": base.source.origin_sha256,
        }
        if options.resume:
            open_run(options.output, begun, resume=True)
            if finished := _finished(options.output):
                progress.note(f"the run in {options.output} is finished already; nothing was trained again")
                finish_run(options.output, options.output / BANK_FOLDER)
                return finished
        crops = _usable(crops_of(folder, base, aligned=options.aligned, detector=options.detector, progress=progress))
        if base.name == SFACE and options.weights is None:
            check_served_alike(base, crops.images[:8])
        divisions = divide(np.unique(crops.labels), options)
        if not options.resume:
            open_run(options.output, begun, resume=False)
            hold.take()
        _tell_what_is_missing(crops, progress)
        bank = lower_layers(base, crops.images, options, progress)
        tuned = [_tune(base, bank, crops, division, options, k, progress) for k, division in enumerate(divisions)]
        before = [_score(base, bank, crops, division, options) for division in divisions]
        after = [
            _score(one.network, bank, crops, division, options, f"{_STAGE}{k}")
            for k, (one, division) in enumerate(zip(tuned, divisions, strict=True))
        ]
        judgements = judge(before, after)
        result = _write(options, folder, base, tuned, divisions, judgements, (before, after))
        finish_run(options.output, options.output / BANK_FOLDER)
        return result


def _finished(output: Path) -> SiameseResult | None:
    """What a run came to that ended before; its page is written last, so where it is everything is."""
    if not (output / PAGE_NAME).is_file():
        return None
    path = output / REPORT_NAME
    report = read_report(path)
    return SiameseResult(
        output / CHECKPOINT_NAME, path, output / PAGE_NAME, judgements_of(report["figures"]), report["verdict"]
    )


def divide(identities: Ints, options: SiameseOptions) -> list[Division]:
    """Divide (I,) identity numbers `options.splits` times, depending on the seed alone.

    Splits first take turns: with 12 identities, 4 held out and 3 splits, everyone is held out once. Raises
    UsageError unless two identities are left on every side.
    """
    total = len(identities)
    held_out = options.held_out if options.held_out is not None else max(2, round(total / 3))
    rest = total - held_out
    choosing = options.choosing if options.choosing is not None else (max(2, rest // 5) if rest >= CHOOSING_FROM else 0)
    if held_out < 2 or rest - choosing < 2 or choosing == 1 or choosing < 0:
        raise UsageError(
            f"of {total} identities {held_out} are held out and {choosing} kept to choose by",
            expected="at least two held out, two to learn from, and none or two to choose by",
        )
    divisions: list[Division] = []
    per_round = max(1, total // held_out)
    for number in range(options.splits):
        order = np.random.default_rng([options.seed, 2, number // per_round]).permutation(identities)
        order = np.roll(order, -held_out * (number % per_round))
        parts = np.split(order, [held_out, held_out + choosing])
        divisions.append(Division(np.sort(parts[2]), np.sort(parts[1]), np.sort(parts[0])))
    return divisions


def _refuse_nonsense(options: SiameseOptions) -> None:
    least = {"splits": 1, "epochs": 1, "unfreeze": 1, "views": 0, "identities_per_batch": 2, "pictures_per_batch": 2}
    for name, minimum in least.items():
        if getattr(options, name) < minimum:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}", expected=f"at least {minimum}")
    if not 0 < options.learning_rate <= LARGEST:
        raise UsageError(f"found {options.learning_rate} as learning rate", expected=f"above 0, to {LARGEST:g}")
    # It refuses what it cannot draw; here, before a folder is made.
    AugmentOptions("face", options.augmentation, options.webcam)


def _usable(crops: Crops) -> Crops:
    """Leave out identities of which fewer than two pictures are left: they make no genuine pair."""
    counts = np.bincount(crops.labels) if len(crops.labels) else np.zeros(1, np.intp)
    kept = counts[crops.labels] >= 2
    if len(np.unique(crops.labels[kept])) < MIN_IDENTITIES:
        raise UsageError(
            f"{len(np.unique(crops.labels[kept]))} identities have two pictures with a face",
            expected=f"at least {MIN_IDENTITIES}",
            remedy="add pictures; for crops that are aligned already, use --aligned",
        )
    return Crops(crops.images[kept], crops.labels[kept], crops.without_face)


def _tell_what_is_missing(crops: Crops, progress: Progress) -> None:
    if crops.without_face:
        named = ", ".join(crops.without_face[:5]) + (" ..." if len(crops.without_face) > 5 else "")
        progress.note(f"no face was found in {counted(len(crops.without_face), 'picture')}, left out: {named}")


def _tune(
    base: Backbone,
    bank: Maps,
    crops: Crops,
    division: Division,
    options: SiameseOptions,
    number: int,
    progress: Progress,
) -> Tuned:
    fitting = FitOptions(
        folder=options.output,
        stage=f"{_STAGE}{number}",
        epochs=options.epochs,
        seed=options.seed,
        batch_size=options.identities_per_batch * options.pictures_per_batch,
        machine=options.machine,
        monitor=MONITOR,
        mode="max",
        patience=options.patience,
        resume=options.resume,
        log=options.log_word,
    )
    return tune(base, bank, crops.labels, (division.learning, division.choosing), options, fitting, progress)


def _score(
    network: Backbone,
    bank: Maps,
    crops: Crops,
    division: Division,
    options: SiameseOptions,
    stage: str = "",
) -> SplitScores:
    """Judge on the held-out identities; `stage` is the one that a tuned network comes from, for the error it raises."""
    positions = np.flatnonzero(np.isin(crops.labels, division.held_out))
    embeddings = embed_cached(network, bank, positions, options.unfreeze)
    # Weights can be numbers so large that what they make of a picture is none.
    if stage and not is_whole(embeddings):
        raise not_a_number(stage, options.epochs - 1, "an embedding")
    return score(embeddings, crops.labels[positions].astype(np.int64))


def _write(
    options: SiameseOptions,
    folder: PictureFolder,
    base: Backbone,
    tuned: Sequence[Tuned],
    divisions: Sequence[Division],
    judgements: tuple[Judgement, ...],
    scores: tuple[Sequence[SplitScores], Sequence[SplitScores]],
) -> SiameseResult:
    told = verdict(judgements)
    output = options.output
    result = SiameseResult(output / CHECKPOINT_NAME, output / REPORT_NAME, output / PAGE_NAME, judgements, told)
    parts = {name: getattr(divisions[0], name) for name in ("learning", "choosing", "held_out")}
    names = [[folder.classes[i] for i in part] for part in (divisions[0].learning, divisions[0].choosing)]
    chosen = {"chosen_by": names[1], "verdict": told, "mixture": tuned[0].mixture}
    save(
        result.checkpoint,
        Checkpoint(
            kind="embedder",
            tensors=tuned[0].network.state_dict(),
            base=base_of(base),
            input=base.input,
            crop=base.crop,
            head={},
            classes=tuple(names[0]),
            configuration=passed_on(options) | chosen,
            metrics={
                f"{judgement.name}, {side}": estimate.value
                for judgement in judgements
                for side, estimate in (("before", judgement.before), ("after", judgement.after))
                if math.isfinite(estimate.value)
            },
            data_sha256=folder.sha256,
            split=hashes_of(
                folder, {name: np.flatnonzero(np.isin(folder.labels, part)).tolist() for name, part in parts.items()}
            ),
        ),
    )
    splits = [
        {
            "learning": [folder.classes[i] for i in division.learning],
            "choosing": [folder.classes[i] for i in division.choosing],
            "held_out": [folder.classes[i] for i in division.held_out],
            "mixture": one.mixture,
            "history": [dict(entry) for entry in one.history],
        }
        for one, division in zip(tuned, divisions, strict=True)
    ]
    report = {
        "command": options.command(),
        "working_folder": str(Path.cwd()),
        "verdict": told,
        "figures": plain(judgements),
        "splits": splits,
        "few": few_identities(judgements),
        "base": {"name": base.name, **asdict(base.source)},
        "pictures": {"folder": str(folder.root), "count": len(folder.pictures), "identities": len(folder.classes)},
        "findings": [asdict(finding) for finding in folder.findings],
        "checkpoint": CHECKPOINT_NAME,
        "configuration": options.configuration() | chosen,
        "data_sha256": folder.sha256,
        "versions": package_versions(),
    }
    write_atomic(result.report, json_bytes(report))
    write_atomic(result.html, page(report, scores))
    return result
