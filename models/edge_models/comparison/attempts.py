"""A method tried on the pictures of one seed and one number of labels: learned by, and judged."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.system.files import sha256_of_file
from edge_models.classifier.adapt import adapt_network, coral
from edge_models.classifier.heads import logits_of, solve_head
from edge_models.classifier.hierarchy import distances, read_hierarchy, soft_targets
from edge_models.classifier.losses import one_hot
from edge_models.classifier.material import styles_asked
from edge_models.classifier.network import predict
from edge_models.classifier.noisy_student import NOISE, best_student, calibrated, take, taught
from edge_models.classifier.options import HEADS, SELF, UNFREEZE
from edge_models.classifier.scratch import train_every_layer
from edge_models.classifier.small_data import STUDENT_DROPOUT, add_pseudo_labels, distilled, with_rows
from edge_models.classifier.stages import Workshop, fit_head
from edge_models.comparison.gains import PLAIN, Bools
from edge_models.comparison.methods import ADAPTING, CHANGES, EVERY_LAYER, ROUNDS, TEACHERS
from edge_models.comparison.shared import Shared
from edge_models.data.batch_views import plain_views
from edge_models.fitting.run_folder import make_scratch
from edge_models.generate.compose import PICTURES, ComposeOptions, compose
from edge_models.generate.cutouts import read_cutout
from edge_models.generate.gan import train as train_generator
from edge_models.generate.options import GanOptions, SampleOptions
from edge_models.generate.sample import sample
from edge_models.networks.feature_cache import FeatureBank, FeatureCache, ViewPlan
from edge_models.networks.pretrained_run import load_pretrained, pretrained_backbone

_MADE_EACH: Final = 2
_MOST_MADE: Final = 40
"""Pictures made of each learning picture, and most of a class."""
GAN_STEPS: Final = 3000
"""Of a generator's training, in every trial."""


@dataclass(frozen=True, slots=True)
class Tried:
    """What a method came to on the validation part of a trial."""

    right: Bools
    counts: dict[str, int]
    curve: tuple[Bools, ...] = ()
    parts_s: float = 0.0
    """Price of the views, or of the network, that it needs and that other trials may have made."""


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """What a trial of one seed and one number of labels has before it."""

    shared: Shared
    work: Workshop
    """Plain views alone; its split holds so many labels."""
    hidden: tuple[int, ...]
    """Rows whose labels are hidden by the number."""
    name: str
    """Of the seed and the number."""

    def pool(self) -> tuple[Workshop, tuple[int, ...]]:
        """The workshop with pictures without labels, those of the pool or those that hide theirs, and their rows."""
        return (self.work, self.hidden) if self.shared.options.unlabelled is None else self.shared.pooled(self.work)

    def taught(self, offered: Sequence[int], taken: Sequence[int], said: NDArray[np.intp]) -> dict[str, int]:
        """Counts of what a teacher `said` of the rows `taken`."""
        counts = {"learned": len(self.work.split.fit), "offered": len(offered), "taken": len(taken)}
        if self.shared.options.unlabelled is None:
            counts["wrong"] = int((said != self.work.folder.labels[list(taken)]).sum())
        return counts

    def judged(self, work: Workshop, stage: str) -> Bools:
        """Which pictures of the validation part a head gets right that learned from everything else it may."""
        head, _ = fit_head(work, work.split.fit, None, f"{stage.replace('+', '-')}-{self.name}")
        return _right(work, logits_of(head, work.bank.plain[list(work.split.validation)]))


def attempt(method: str, desk: Desk) -> Tried:
    """Learn by a method (or plainly) and judge."""
    work, learned = desk.work, {"learned": len(desk.work.split.fit)}
    if method == PLAIN:
        return Tried(desk.judged(work, method), learned)
    if method in CHANGES:
        changed = replace(work, options=replace(work.options, **CHANGES[method]))
        return Tried(desk.judged(changed, method), learned)
    if method == "known-classes":
        return Tried(desk.judged(replace(work, bank=desk.shared.knowing()), method), learned)
    if method == "families":
        assert desk.shared.options.hierarchy is not None
        tree = read_hierarchy(desk.shared.options.hierarchy, work.folder.classes)
        targets = soft_targets(work.targets, distances(tree, work.folder.classes))
        return Tried(desk.judged(replace(work, targets=targets), method), learned)
    if method == "augmented":
        options = desk.shared.options
        plan = ViewPlan(options.views, options.mirror, augment=options.augment)
        bank, views_s = desk.shared.views(method, work, work.split.fit, plan)
        return Tried(desk.judged(replace(work, bank=bank), method), learned, parts_s=views_s)
    if method == "styled":
        return _styled(desk)
    if method == "distillation":
        curve, given = [], work.targets
        for generation in range(max(1, work.options.generations)):
            work = distilled(work, given)
            curve.append(desk.judged(work, f"{method}-{generation}"))
        return Tried(curve[0], learned, tuple(curve))
    if method == "noisy-student":
        return _student(desk)
    if method in TEACHERS:
        return _with_teacher(method, desk)
    if method in EVERY_LAYER:
        return _every_layer(method, desk)
    if method == "composed":
        return _composed(desk)
    if method == "generated":
        return _generated(desk)
    if method == "coral":
        fit = list(work.split.fit)
        moved = coral(work.bank.plain[fit], desk.shared.target_features())
        head = solve_head(moved, work.targets[fit], work.options.ridge)
        return Tried(_right(work, logits_of(head, work.bank.plain[list(work.split.validation)])), learned)
    if method == "batch-norm":
        return Tried(desk.judged(replace(work, bank=desk.shared.adapted()), method), learned)
    run, bank = desk.shared.pretrained()
    with make_scratch() as scratch:
        # Every layer learns, or the head alone where the selection part says so.
        options = replace(work.options, output=scratch, keep_out=True, head=HEADS[0])
        network = pretrained_backbone(load_pretrained(run))
        trained = train_every_layer(replace(work, options=options, backbone=network, bank=bank))
    return Tried(_right(work, trained.logits), learned)


def _right(work: Workshop, logits: np.ndarray[Any, np.dtype[np.float64]]) -> Bools:
    right: Bools = logits.argmax(axis=1) == work.folder.labels[list(work.split.validation)]
    return right


def _styled(desk: Desk) -> Tried:
    """Random views in the style of other pictures, of --style or of those learned from; all are the trial's own."""
    shared, work = desk.shared, desk.work
    options, at = shared.options, list(work.split.fit)
    files = [(work.folder.pictures[row].path, work.folder.pictures[row].sha256) for row in at]
    plan = ViewPlan(max(1, options.views), options.mirror, augment=options.augment)
    with make_scratch() as scratch:
        cache = FeatureCache(scratch, work.progress, options.machine.accelerator)
        wanted = replace(options, views=plan.random, style=options.style or Path(SELF), adapt=None, rounds=0)
        learning = replace(work.split, train=work.split.fit, selection=())
        styles = styles_asked(wanted, shared.backbone, work.folder, learning, work.progress)
        bank = cache.bank(shared.backbone, files, plan, styles)
    features = work.bank.plain.expand(plan.count, -1, -1).clone()
    features[:, at] = bank.features
    right = desk.judged(replace(work, bank=FeatureBank(features, None)), "styled")
    return Tried(right, {"learned": len(at)})


def _with_teacher(method: str, desk: Desk) -> Tried:
    """Pseudo-labels once, or heads as noisy students in rounds, on the pool or on what hides its labels."""
    shared, views_s = desk.shared, 0.0
    work, rows = desk.pool()
    if method == "pseudo-labels":
        student, teaching = add_pseudo_labels(work, rows)
        taken, said = list(teaching.rows), student.targets[list(teaching.rows)].argmax(1).numpy()
    else:
        options = shared.options
        strength = min(2.0, NOISE * options.augmentation)
        noisy = replace(
            work.options,
            dropout=max(options.dropout, STUDENT_DROPOUT),
            augmentation=strength,
            views=max(1, options.views),
        )
        plan = ViewPlan(noisy.views, mirror=False, augment=noisy.augment)  # half of the random views are mirrored
        student, learner, head_name = replace(work, options=noisy, backbone=shared.student(work)), work, "teacher"
        for number in range(1, (options.rounds or ROUNDS[method]) + 1):
            head, _ = fit_head(learner, learner.split.train, learner.split.selection, f"{head_name}-{desk.name}")
            selection, pool = (logits_of(head, learner.bank.plain[list(at)]) for at in (work.split.selection, rows))
            chances = calibrated(learner, selection, pool)
            believed = take(work, rows, chances)
            learner = taught(student, work, believed, chances, rows)
            bank, views_s = shared.views(method, student, learner.split.fit, plan)
            learner, head_name = replace(learner, bank=bank), f"round-{number}"
        student, taken, said = learner, [rows[i] for i in believed.rows], believed.labels
    return Tried(desk.judged(student, method), desk.taught(rows, taken, said), parts_s=views_s)


def _student(desk: Desk) -> Tried:
    """What --rounds does: layers of the student learn too. Where no student is better than its teacher on the
    selection part, it is what doing without is."""
    shared, (work, rows) = desk.shared, desk.pool()
    with make_scratch() as scratch:
        options = replace(
            work.options, output=scratch, keep_out=True, unfreeze=UNFREEZE,
            rounds=shared.options.rounds or ROUNDS["noisy-student"],
        )  # fmt: skip
        # Its layers change in place, and the other trials need the network as it was.
        work = replace(work, options=options, backbone=copy.deepcopy(work.backbone))
        trained, took = best_student(work, rows)
    counts = desk.taught(rows, [rows[i] for i in took[-1].rows], took[-1].labels) | {"rounds": len(took)}
    if trained is None:
        shared.progress.note(f"noisy-student, {desk.name}: no student is better than its teacher on the selection part")
        return Tried(desk.judged(desk.work, "noisy-student"), counts)
    return Tried(_right(work, trained.logits), counts)


def _every_layer(method: str, desk: Desk) -> Tried:
    """A small network from random weights, as it is or adapted to the other domain."""
    shared, work, fit = desk.shared, desk.work, list(desk.work.split.fit)
    learned, base_s = shared.from_scratch(work, desk.name)
    network = copy.deepcopy(learned)
    if method in ADAPTING:
        there = plain_views([path for path, _ in shared.target()], network.backbone.input, network.backbone.crop)
        here = shared.small_pictures()[fit], work.targets[fit]
        options = replace(work.options, adapt_by=method)
        adapt_network(network, here, there, replace(work, options=options))
    paths = [work.paths[row] for row in work.split.validation]
    logits = predict(network, paths, work.options.machine.accelerator)
    return Tried(_right(work, logits), {"learned": len(fit)}, parts_s=base_s)


def _composed(desk: Desk) -> Tried:
    """Cut-outs of the learning pictures on other backgrounds, made anew for each trial, beside those pictures."""
    work, folder = desk.work, desk.work.folder
    with make_scratch() as scratch:
        for row in work.split.fit:
            picture = folder.pictures[row]
            try:
                read_cutout(picture.path, folder.classes[picture.label])
            except MediaError:
                continue
            _link(work, row, scratch / "objects")
        width, height = (int(np.median([p.size_px[side] for p in folder.pictures])) for side in (0, 1))
        shrink = min(1.0, 256 / max(width, height))
        wanted = ComposeOptions(
            scratch / "made", scratch / "objects", desk.shared.backgrounds, count=_made_each(work),
            width_px=max(16, round(width * shrink)), height_px=max(16, round(height * shrink)),
            # As large as in the pictures they were cut from, which show little else.
            scale=(0.6, 1.0), mirror=desk.shared.options.mirror, seed=work.options.seed,
        )  # fmt: skip
        made = compose(wanted).folder if (scratch / "objects").is_dir() else None
        return _with_made(desk, made, scratch, "composed")


def _generated(desk: Desk) -> Tried:
    """Pictures of a generator that learned from the learning pictures alone; one a trial, and none where it fails."""
    work, options, made = desk.work, desk.shared.options, None
    with make_scratch() as scratch:
        # Its report judges by what it did not learn from, and decides nothing by that.
        for part, rows in (("train", work.split.fit), ("test", work.split.validation)):
            for row in rows:
                _link(work, row, scratch / "real" / part)
        wanted = GanOptions(scratch / "real", scratch / "generator", steps=GAN_STEPS, mirror=options.mirror,
                            seed=work.options.seed, device=options.device)  # fmt: skip
        try:
            train_generator(wanted, work.progress)
            wish = SampleOptions(scratch / "generator", scratch / "made", _made_each(work))
            made = sample(wish, work.progress).folder
        except UsageError:
            raise
        except EdgeError as error:  # it collapsed, or copies
            desk.shared.progress.note(f"generated, {desk.name}: {error}")
        return _with_made(desk, made, scratch, "generated")


def _link(work: Workshop, row: int, root: Path) -> None:
    """A link to a picture below `root`, in a folder called as its class."""
    picture = work.folder.pictures[row]
    place = root / work.folder.classes[picture.label]
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{row:06d}{picture.path.suffix}").symlink_to(os.path.abspath(picture.path))  # noqa: PTH100


def _made_each(work: Workshop) -> int:
    """Pictures made of each class."""
    return min(_MOST_MADE, _MADE_EACH * round(len(work.split.fit) / work.classes))


def _with_made(desk: Desk, made: Path | None, scratch: Path, method: str) -> Tried:
    """Learn from the pictures of a folder that was `made`, if any, beside those of the learning part."""
    work, rows = desk.work, tuple[int, ...]()
    if files := sorted((made / PICTURES).rglob("*.png")) if made is not None else []:
        labels = torch.tensor([work.folder.classes.index(path.parent.name) for path in files])
        hashed = [(path, sha256_of_file(path)) for path in files]
        work, rows = with_rows(work, hashed, one_hot(labels, work.classes), scratch / "features")
    work = replace(work, split=replace(work.split, train=work.split.train + rows))
    return Tried(desk.judged(work, method), {"learned": len(desk.work.split.fit), "made": len(rows)})
