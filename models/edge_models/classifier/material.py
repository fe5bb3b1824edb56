"""What a classifier learns from: a checked folder, what files beside it tell, its split, its features, its styles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.core.hierarchy import Hierarchy
from edge_app.system.files import sha256_of
from edge_models.classifier.attributes import Stated, read_attributes
from edge_models.classifier.bias import column_to_balance
from edge_models.classifier.hierarchy import read_hierarchy
from edge_models.classifier.options import SELF, ClassifierOptions
from edge_models.data.checks import scan
from edge_models.data.folder import PictureFolder, Split, keep_together, split_pictures
from edge_models.data.groups import GroupTable, read_table
from edge_models.data.pool import read_pool
from edge_models.fitting.progress import Progress
from edge_models.networks.backbone import Backbone
from edge_models.networks.feature_cache import FeatureBank, FeatureCache, ViewPlan
from edge_models.networks.style import Styles, styles_of

CACHE: Final = "cache"
"""Folder of a run for features, where the options name no other."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The labelled pictures of a run, and what files beside them tell."""

    folder: PictureFolder
    table: GroupTable | None
    """Of --groups."""
    groups: tuple[str, ...] | None
    """What is to be balanced: a value for each picture."""
    stated: Stated | None
    """Of --attributes."""
    hierarchy: Hierarchy | None

    @property
    def unseen(self) -> bool:
        """Whether there are classes without pictures."""
        return self.stated is not None and bool(self.stated.unseen)

    @property
    def hashes(self) -> Mapping[str, str]:
        """What must be the same when a run is gone on with."""
        told = {"data_sha256": self.folder.sha256}
        if self.hierarchy is not None:
            told["families_sha256"] = sha256_of(repr(self.hierarchy))
        if self.stated is not None:
            told["attributes_sha256"] = sha256_of(repr((self.stated.classes, self.stated.told)))
        return told


def read_material(options: ClassifierOptions, progress: Progress) -> Material:
    """Check the folder, read the files beside it, and tell what was found. Raises UsageError for what makes no sense
    together."""
    folder, table = grouped(scan_told(options.directory, progress), options)
    groups = column_to_balance(options, table)
    stated = None if options.attributes is None else read_attributes(options.attributes, folder.classes)
    known = folder.classes if stated is None else stated.classes
    hierarchy = None if options.hierarchy is None else read_hierarchy(options.hierarchy, known)
    if table is not None and (sentence := table.sentence()):
        progress.note(sentence)
    material = Material(folder, table, groups, stated, hierarchy)
    if material.unseen and (not options.solvable or options.epochs or options.generations):
        raise UsageError(
            "classes without pictures beside another --loss, --mixing, --dropout, --epochs or --generations",
            expected="the head that is solved, on the frozen base",
        )
    return material


def scan_told(directory: Path, progress: Progress) -> PictureFolder:
    """Check a folder and tell what was found, file by file."""
    progress.stage("checking", 1)
    folder = scan(directory, tell=lambda done, total: progress.advance(done, f"of {total}"))
    for finding in folder.findings:
        files = ", ".join(finding.files[:3]) + (f" and {len(finding.files) - 3} more" if len(finding.files) > 3 else "")
        progress.note(f"{finding.kind}: {files}: {finding.detail}; {finding.action}")
    return folder


def grouped(folder: PictureFolder, options: ClassifierOptions) -> tuple[PictureFolder, GroupTable | None]:
    """The folder, with what --split-by names kept on one side of its splits, and what the --groups CSV tells."""
    if options.groups is None:
        return folder, None
    table = read_table(options.groups, folder)
    return (keep_together(folder, table.column(options.split_by)) if options.split_by else folder), table


def split_of(folder: PictureFolder, options: ClassifierOptions) -> Split:
    """The split that a run with these options uses."""
    return split_pictures(
        folder,
        seed=options.seed,
        validation_share=options.validation_share,
        selection_share=options.selection_share,
    )


def cache_folder(options: ClassifierOptions) -> Path:
    """Where features are kept."""
    return options.cache or options.output / CACHE


def compute_bank(
    options: ClassifierOptions,
    backbone: Backbone,
    folder: PictureFolder,
    progress: Progress,
    styles: Styles | None = None,
) -> FeatureBank:
    """Features of every picture, from the cache where they are there already; random views in `styles`."""
    plan = ViewPlan(options.views, options.mirrored, options.unfreeze, options.augment)
    pictures = [(picture.path, picture.sha256) for picture in folder.pictures]
    cache = FeatureCache(cache_folder(options), progress, options.machine.accelerator)
    return cache.bank(backbone, pictures, plan, styles)


def styles_asked(
    options: ClassifierOptions, backbone: Backbone, folder: PictureFolder, split: Split, progress: Progress
) -> Styles | None:
    """The styles of --style, of a folder's pictures without those that judge or of the train part's; None where there
    are none.

    Raises UsageError for a folder that holds fewer than two others.
    """
    if options.style is None:
        return None
    if options.style == Path(SELF):
        files = [(folder.pictures[i].path, folder.pictures[i].sha256) for i in split.train]
    else:
        pool = read_pool(options.style, folder, split.judging)
        files = sorted(pool.files + pool.labelled)
        for note in replace(pool, labelled=()).notes(options.style):
            progress.note(note)
        if len(files) < 2:
            raise UsageError(
                f"{options.style} holds {counted(len(files), 'picture')} to take styles from",
                expected="two or more that do not judge",
                remedy=f"--style {SELF} takes the styles of those that are learned from",
            )
    return styles_of(backbone, files, progress)
