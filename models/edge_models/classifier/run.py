"""`edge-app train classifier`: checks a folder, trains, judges, and writes a checkpoint and a report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from edge_app.core.errors import UsageError
from edge_app.media.pictures import read_picture, write_picture
from edge_models.classifier import odd_pictures
from edge_models.classifier.analysis import probabilities
from edge_models.classifier.attributes import Stated, widened
from edge_models.classifier.bias import balance
from edge_models.classifier.hierarchy import distances, soft_targets
from edge_models.classifier.material import (
    CACHE,
    Material,
    cache_folder,
    compute_bank,
    read_material,
    split_of,
    styles_asked,
)
from edge_models.classifier.options import AUTO, SELF, STUDENTS, ClassifierOptions
from edge_models.classifier.recipe import Trained, train
from edge_models.classifier.report import HTML_NAME, JSON_NAME, Circumstances, Report, collect, write
from edge_models.classifier.search import Searched, chosen, features_at, search
from edge_models.classifier.small_data import taught_by, train_with_teacher
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.classifier.start import refuse_seen, settled, starting_backbone
from edge_models.data.augment import AugmentOptions, contact_sheet, view_maker
from edge_models.data.checks import scan
from edge_models.data.folder import Split, find_unlabelled, hashes_of
from edge_models.data.groups import find_sessions
from edge_models.fitting.checkpoint import Checkpoint, save, write_atomic
from edge_models.fitting.fit import Progress, finish_run, open_run, refuse_folder
from edge_models.fitting.options import absolute, passed_on
from edge_models.fitting.report_parts import read_report
from edge_models.fitting.run_folder import Hold, begun_with
from edge_models.networks.backbone import Backbone, base_of
from edge_models.networks.backbones import DEFAULT, check_name, create_backbone
from edge_models.networks.feature_cache import FeatureBank, FeatureCache, default_threads
from edge_models.networks.joined import JOIN
from edge_models.networks.small_resnet import PREFIX

_SHEET_PICTURES: Final = 6
_SESSIONS: Final = "sessions.csv"
_AS_0_1_0: Final[Mapping[str, Any]] = {
    "keep_out": True, "search": 0.0, "split_by": "", "size": None, "from_run": None, "from_scratch": False, "depth": 8,
    "adapt": None, "adapt_by": "self-training", "rounds": 0, "student": "", "cap": 0, "hard_labels": False,
    "head": "logistic", "ensemble": 1, "distil": False, "balance": "none", "balance_by": "",
    "roi": "", "hierarchy": None, "style": None, "attributes": None,
}  # fmt: skip
"""Options that 0.1.0 did not have, and how it worked."""


@dataclass(frozen=True, slots=True)
class ClassifierResult:
    """What a run came to."""

    checkpoint: Path
    html: Path
    json: Path
    report: Report


@dataclass(slots=True)
class _Notebook:
    """Passes progress on and keeps the notes for the report."""

    told: Progress
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.told.note(text)

    def stage(self, name: str, total: int) -> None:
        self.told.stage(name, total)

    def advance(self, done: int, detail: str = "") -> None:
        self.told.advance(done, detail)


def train_classifier(options: ClassifierOptions, progress: Progress) -> ClassifierResult:
    """Check, train, judge, write; see `edge_models.classifier.recipe`.

    Raises UsageError for a folder or options that make no sense or a run that another process holds, ModelError for a
    backbone that cannot be had or a folder that cannot be written, TrainingError when the loss is not a number.
    """
    started_s = time.perf_counter()
    torch.set_num_threads(default_threads())
    notebook = _Notebook(progress)
    with Hold(options.output) as hold:
        _refuse_early(options)
        material = read_material(options, notebook)
        folder = material.folder
        asked = options = _as_begun(options)
        options = settled(options, folder)
        backbone = None if options.backbone == AUTO else starting_backbone(options)
        begun = {**material.hashes, "base_sha256": backbone.source.origin_sha256 if backbone else AUTO}
        open_run(options.output, asked.configuration(absolute) | begun, resume=options.resume, unsaid=_AS_0_1_0)
        hold.take()
        if options.resume and (finished := _finished(options.output)):
            progress.note(f"the run in {options.output} is finished already; nothing was trained again")
            finish_run(options.output, options.output / CACHE)
            return finished
        if not options.split_by and (sessions := find_sessions(folder)) is not None:
            write_atomic(options.output / _SESSIONS, sessions.csv(folder))
            notebook.note(sessions.sentence(options.output / _SESSIONS))
        split = split_of(folder, options)
        refuse_seen(options, folder, split)
        found = None
        if options.search and not options.backbone.startswith(PREFIX):
            found = search(options, folder, split, notebook, keep=options.output, cache=cache_folder(options))
            notebook.note(found.sentence())
        options = chosen(options, found)
        if (material.hierarchy is not None or material.unseen) and options.head != "logistic":
            options = replace(options, head="logistic")
            notebook.note("the logistic head is used, which learns with a hierarchy and takes classes without pictures")
        if material.unseen:
            options = replace(options, unfreeze=0)
        backbone = backbone or starting_backbone(options)
        if not backbone.source.commercial_use:
            notebook.note(f"{backbone.name}: no commercial use ({backbone.source.licence})")
        work = _workshop(options, material, split, backbone, found, notebook)
        trained = _train(work)
        shipped = trained.model.backbone
        if shipped.name != work.backbone.name:  # a student's, or one fine-tuned at a side of its own
            work = replace(work, backbone=shipped, options=replace(work.options, backbone=shipped.name))
        wide, left_out = trained, None
        if material.stated is not None and material.unseen:
            wide, left_out = widened(work, trained, material.stated)
        path = save_best(work, wide, asked, material.stated)
        tried = asdict(found) if found else None
        about = Circumstances(path, material.table, notebook.notes, started_s, asked, tried)
        report = collect(work, trained, about) | {"left_out": left_out}
        html, data = write(options.output, report, work, trained)
        finish_run(options.output, options.output / CACHE)
        return ClassifierResult(path, html, data, report)


def _as_begun(options: ClassifierOptions) -> ClassifierOptions:
    """A run that version 0.1.0 began goes on as that would have: what it did not know stays as it was then."""
    if not options.resume:
        return options
    begun = begun_with(options.output)
    missing = {name: value for name, value in _AS_0_1_0.items() if name not in begun}
    if options.confidence is None and begun.get("confidence") is not None:
        missing["confidence"] = begun["confidence"]
    if not options.epochs and begun.get("epochs"):
        missing["epochs"] = begun["epochs"]  # where 0 was none yet
    if "search" in missing and options.backbone == AUTO:
        missing["backbone"] = DEFAULT
    return replace(options, **missing)


def _refuse_early(options: ClassifierOptions) -> None:
    """What can be told to be wrong before pictures are read and a folder is made."""
    options.machine.check()
    if options.split_by and options.groups is None:
        raise UsageError(f"--split-by {options.split_by} without --groups", expected="a CSV with that column")
    if options.balance in ("groups", "dro") and options.groups is None:
        raise UsageError(f"--balance {options.balance} without --groups", expected="a CSV that tells the groups")
    if options.backbone != AUTO:
        check_name(options.backbone)
    elif options.weights is not None:
        raise UsageError("--weights without --backbone", expected="the network whose weights they are")
    if (options.rounds or options.student) and options.unlabelled is None:
        raise UsageError("--rounds or --student without --unlabelled", expected="a folder of pictures without labels")
    if options.student:
        if not options.rounds:
            raise UsageError("--student without --rounds", expected="how often a student teaches the next")
        check_name(STUDENTS.get(options.student, options.student))
    if options.style is not None and options.style != Path(SELF) and len(find_unlabelled(options.style)) < 2:
        raise UsageError(f"{options.style} holds one picture to take styles from", expected="two or more")
    if options.adapt is not None:
        if options.unlabelled is not None or options.generations:
            raise UsageError("--adapt beside --unlabelled or --generations", remedy="leave one out")
        find_unlabelled(options.adapt)
    refuse_folder(options.output, resume=options.resume)
    _ = options.augment
    if options.unlabelled is not None:
        find_unlabelled(options.unlabelled)


def _finished(output: Path) -> ClassifierResult | None:
    """What a run came to that ended before; the page is written last, so where it is everything is."""
    html, data = output / HTML_NAME, output / JSON_NAME
    if not html.is_file():
        return None
    report = read_report(data)
    return ClassifierResult(output / str(report["checkpoint"]), html, data, report)


def _workshop(
    options: ClassifierOptions,
    material: Material,
    split: Split,
    backbone: Backbone,
    found: Searched | None,
    progress: Progress,
) -> Workshop:
    """Features, targets and weights of the pictures, and what a search `found` them to be worth."""
    folder = material.folder
    styles = styles_asked(options, backbone, folder, split, progress)
    bank = compute_bank(options, backbone, folder, progress, styles)
    if sentence := odd_pictures.show(folder, bank.plain, options.output):
        progress.note(sentence)
    targets = hard_targets(folder)
    if material.hierarchy is not None:
        targets = soft_targets(targets, distances(material.hierarchy, folder.classes))
    weights = balance(options, folder, material.groups, bank.plain, targets)
    work = Workshop(
        options, folder, split, backbone, bank, targets, progress,
        balance=weights, hierarchy=material.hierarchy, styles=styles,
    )  # fmt: skip
    if found is None:
        return work
    work = replace(work, deep=0 if material.unseen else found.deep, side=found.side, patient=found.patient)
    if work.deep and work.side:
        cache = FeatureCache(cache_folder(options), progress, options.machine.accelerator)
        seen = features_at(options, options.backbone, work.side, folder, cache)
        work = replace(work, small=FeatureBank(seen[None], None))
    if found.teacher:
        # Of several backbones, which the search has computed before.
        plain = replace(options, views=0, unfreeze=0)
        names = found.teacher.split(JOIN)
        together = [compute_bank(plain, create_backbone(name), folder, progress).plain for name in names]
        work = taught_by(work, torch.cat(together, dim=1))
    return work


def _train(work: Workshop) -> Trained:
    if work.options.adapt is not None:
        from edge_models.classifier.adapt import train_adapted

        return train_adapted(work, work.options.adapt)
    if work.backbone.name.startswith(PREFIX):
        from edge_models.classifier.scratch import train_every_layer

        return train_every_layer(work)
    if work.options.unlabelled is None and not work.options.generations:
        return train(work)
    if work.options.rounds:
        from edge_models.classifier.noisy_student import train_students

        return train_students(work)
    return train_with_teacher(work)


def save_best(work: Workshop, trained: Trained, asked: ClassifierOptions, stated: Stated | None = None) -> Path:
    """Write the checkpoint, which tells what was `asked` for and what was used, and what was `stated` of classes.

    Its name tells the validation accuracy, and no other of the run is left beside it.
    """
    folder, options, backbone = work.folder, work.options, trained.model.backbone
    labels = folder.labels[list(work.split.validation)]
    right = float((trained.logits.argmax(axis=1) == labels).mean())
    chances = probabilities(trained.logits, trained.temperature)
    loss = float(-np.log(np.maximum(chances[np.arange(len(labels)), labels], 1e-12)).mean())
    checkpoint = Checkpoint(
        "classifier",
        trained.model.state_dict(),
        base_of(backbone),
        backbone.input,
        backbone.crop,
        trained.model.head.described,
        folder.classes if stated is None else stated.classes,
        trained.temperature,
        passed_on(asked)
        | {"used": {"backbone": options.backbone, "ridge": options.ridge, "size_px": backbone.input.width_px}},
        {"validation_accuracy": right, "validation_loss": loss, "validation_pictures": float(len(labels))},
        folder.sha256,
        split=hashes_of(
            folder,
            {
                "train": [i for i in work.split.train if i < len(folder.pictures)],
                "selection": work.split.selection,
                "validation": work.split.validation,
            },
        ),
        learned_all=trained.learned_all,
        hierarchy=work.hierarchy,
        attributes=() if stated is None else stated.told,
        judged={"logits": torch.from_numpy(trained.logits).float(), "labels": torch.from_numpy(labels)},
    )
    path = options.output / f"best-{trained.chosen}-{100 * right:.1f}.safetensors"
    save(path, checkpoint)
    # What a kill left may be called otherwise: a GPU does not come to the same figure to the bit.
    for older in {*options.output.glob("best-*.safetensors")} - {path}:
        older.unlink()
    return path


def show_augmentation(options: ClassifierOptions, path: Path) -> Path:
    """Write a sheet of what the network sees of a few pictures: the plain view that serving sees, and random ones.

    Raises UsageError for options or a file name that make no sense, MediaError when it cannot be written.
    """
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"{path} has no picture's ending", expected=".png, .jpg or .webp")
    folder = scan(options.directory)
    options = chosen(settled(options, folder), None)
    backbone = starting_backbone(options)
    plain = view_maker(AugmentOptions(strength=0.0), backbone.input, backbone.crop)
    view = view_maker(options.augment, backbone.input, backbone.crop)
    shown = np.linspace(0, len(folder.pictures) - 1, min(_SHEET_PICTURES, len(folder.pictures))).astype(int)
    pictures = [read_picture(folder.pictures[i].path) for i in shown]
    write_picture(path, contact_sheet(pictures, plain, view, seed=options.seed))
    return path
