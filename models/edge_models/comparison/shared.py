"""What the trials of a folder share: features, views of single pictures, the pool, networks; each with its price."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar, cast

import torch

from edge_app.core.errors import UsageError
from edge_app.system.files import sha256_of_file
from edge_models.classifier.adapt import adopt_statistics
from edge_models.classifier.material import compute_bank
from edge_models.classifier.network import TransferClassifier
from edge_models.classifier.options import STUDENTS, ClassifierOptions
from edge_models.classifier.scratch import epochs_of, fit_all
from edge_models.classifier.small_data import with_unlabelled
from edge_models.classifier.stages import Workshop
from edge_models.classifier.start import starting_backbone
from edge_models.data.batch_views import plain_views
from edge_models.data.folder import PictureFolder, Split
from edge_models.data.judging import Seen
from edge_models.data.pool import read_pool
from edge_models.fitting.progress import Progress
from edge_models.fitting.run_folder import make_scratch
from edge_models.networks.backbone import Backbone, features_of
from edge_models.networks.backbones import create_backbone
from edge_models.networks.feature_cache import FeatureBank, FeatureCache, ViewPlan
from edge_models.networks.known_classes import KNOWING
from edge_models.networks.pretrained_run import FILE, load_pretrained, pretrained_backbone
from edge_models.networks.small_resnet import PREFIX
from edge_models.selfsup.options import PretrainOptions
from edge_models.selfsup.pretrain import pretrain

RUN_PRETRAINED: Final = "pretrained"
"""Folder of the pretraining, in that of the comparison: `--from` takes it."""

Made = TypeVar("Made")


@dataclass(slots=True, eq=False)
class Views:
    """Views of single rows beside the plain one, through one network; each is computed when a trial first needs it."""

    backbone: Backbone
    plan: ViewPlan
    features: torch.Tensor
    """(V, N, D); where a row's views are not known yet they are its plain one."""
    known: set[int] = field(default_factory=set)
    seconds: float = 0.0
    """Spent on all that are known."""

    def price(self, rows: Sequence[int]) -> float:
        """Seconds of so many rows."""
        return self.seconds / max(1, len(self.known)) * len(rows)


@dataclass(slots=True, eq=False)
class Shared:
    """What the trials of a folder share; each part is made when a trial first asks, and its price is kept apart."""

    options: ClassifierOptions
    """Settled; its output is the comparison's folder."""
    folder: PictureFolder
    backbone: Backbone
    progress: Progress
    backgrounds: Path | None
    """To compose on; None: plain ones."""
    clock: Callable[[], float]
    seconds: dict[str, float]
    """Price of each part by name."""
    parts: dict[str, object] = field(default_factory=dict)
    inside_s: float = 0.0
    """Spent on parts by this process."""

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """A part by its name, which is made and priced if it is not there yet."""
        if name not in self.parts:
            begun_s = self.clock()
            self.parts[name] = make()
            took_s = self.clock() - begun_s
            # A run that goes on finds the features in its cache: the price is that of the first time.
            self.seconds[name] = max(self.seconds.get(name, 0.0), took_s)
            self.inside_s += took_s
        return cast(Made, self.parts[name])

    @property
    def bare(self) -> ClassifierOptions:
        """The options without other views: what doing without sees, as the default does with a frozen base."""
        return replace(self.options, views=0, unfreeze=0, hierarchy=None, style=None)

    def features(self) -> FeatureBank:
        """Of every picture of the folder, plain views alone."""
        return self.once("features", lambda: compute_bank(self.bare, self.backbone, self.folder, self.progress))

    def pooled(self, work: Workshop) -> tuple[Workshop, tuple[int, ...]]:
        """The workshop with the pool's rows, and which they are."""
        pool = self.options.unlabelled
        assert pool is not None
        # One pool for every seed, and each seed judges by others: none of the folder's pictures may be in it.
        told = replace(work, progress=self.progress, split=Split((), (), tuple(range(len(self.folder.pictures)))))
        whole, rows = self.once("pool", lambda: with_unlabelled(told, pool))
        return replace(work, bank=whole.bank, targets=whole.targets, extra=whole.extra), rows

    def student(self, work: Workshop) -> Backbone:
        """The network of noisy students."""
        name = STUDENTS.get(self.options.student, self.options.student) or work.backbone.name
        if name == work.backbone.name:
            return work.backbone
        return self.once("student", lambda: create_backbone(name, size=self.options.size))

    def views(self, name: str, work: Workshop, rows: Sequence[int], plan: ViewPlan) -> tuple[FeatureBank, float]:
        """The bank of `work` with the plan's views of `rows`, and what these cost; kept by `name` for other trials."""
        backbone, wanted = work.backbone, replace(plan, random=0, mirror=False)
        paths = work.paths
        files = [(picture.path, picture.sha256) for picture in self.folder.pictures]
        files += [(path, sha256_of_file(path)) for path in paths[len(files) :]] if len(paths) > len(files) else []
        cache = self._cache()

        def begun() -> Views:
            same = backbone is self.backbone
            plain = work.bank.plain if same else cache.bank(backbone, files, wanted).plain
            return Views(backbone, plan, plain.expand(plan.count, -1, -1).clone())

        views = self.once(name, begun)
        if missing := sorted(set(rows) - views.known):
            begun_s = self.clock()
            bank = cache.bank(backbone, [files[row] for row in missing], plan)
            views.features[:, missing] = bank.features
            views.known.update(missing)
            took_s = self.clock() - begun_s
            views.seconds += took_s
            self.inside_s += took_s
        return FeatureBank(views.features, None), views.price(rows)

    def target(self) -> list[tuple[Path, str]]:
        """The pictures to adapt to, with their SHA-256: none of those that judge in any trial, nor one like them."""

        def made() -> list[tuple[Path, str]]:
            root = self.options.adapt
            assert root is not None
            pool = read_pool(root, self.folder, range(len(self.folder.pictures)))
            for note in pool.notes(root):
                self.progress.note(note)
            if not pool.files:
                raise UsageError(f"{root} holds no picture to adapt to", expected="others than those that judge")
            return list(pool.files)

        return self.once("target's files", made)

    def target_features(self) -> torch.Tensor:
        """(M, D) of the pictures to adapt to."""

        def made() -> torch.Tensor:
            return self._cache().bank(self.backbone, self.target(), ViewPlan(0, mirror=False)).plain

        return self.once("target", made)

    def adapted(self) -> FeatureBank:
        """Of every picture of the folder, with the batch-norm statistics of the pictures to adapt to."""

        def made() -> FeatureBank:
            network = copy.deepcopy(self.backbone)
            adopt_statistics(network, plain_views([path for path, _ in self.target()], network.input, network.crop))
            return compute_bank(self.bare, network, self.folder, self.progress)

        return self.once("adapted network", made)

    def knowing(self) -> FeatureBank:
        """Of every picture of the folder, with the chances of the classes that the network knows."""

        def made() -> FeatureBank:
            network = starting_backbone(replace(self.options, backbone=self.backbone.name + KNOWING))
            return compute_bank(self.bare, network, self.folder, self.progress)

        return self.once("known classes", made)

    def small_pictures(self) -> torch.Tensor:
        """(N, 3, S, S) uint8 of every picture of the folder, as a small ResNet takes them."""

        def made() -> torch.Tensor:
            network = self._untrained(0)
            return plain_views([picture.path for picture in self.folder.pictures], network.input, network.crop)

        return self.once("small pictures", made)

    def from_scratch(self, work: Workshop, name: str) -> tuple[TransferClassifier, float]:
        """A small network whose every layer learned from the trial's pictures alone, from random weights and with
        nothing watched, and what that cost: other methods of the trial go on from a copy."""
        images, part = self.small_pictures(), f"from-scratch {name}"

        def made() -> TransferClassifier:
            with make_scratch() as scratch:
                options = replace(work.options, output=scratch, from_run=None)
                network = self._untrained(options.seed)
                bank = FeatureBank(features_of(network, images, options.machine.accelerator)[None], None)
                lesson = replace(work, options=options, backbone=network, bank=bank)
                head, _ = fit_all(lesson, images, work.split.fit, None, "scratch", epochs_of(options))
            return TransferClassifier(network, head).eval()

        network = self.once(part, made)
        return network, self.seconds[part]

    def _untrained(self, seed: int) -> Backbone:
        return create_backbone(f"{PREFIX}{self.options.depth}", pretrained=False, seed=seed)

    def pretrained(self) -> tuple[Path, FeatureBank]:
        """The run of a network that was pretrained on the pool, and its features of the folder's pictures."""
        run, pool = self.options.output / RUN_PRETRAINED, self.options.unlabelled
        assert pool is not None

        def made() -> FeatureBank:
            if not (run / FILE).is_file():
                begun = (run / "run.json").is_file()
                # One network for every seed, and each judges by others.
                every = Seen.of(self.folder, range(len(self.folder.pictures)))
                pretrain(PretrainOptions(pool, run, resume=begun, device=self.options.device), self.progress, every)
            network = pretrained_backbone(load_pretrained(run))
            return compute_bank(self.bare, network, self.folder, self.progress)

        return run, self.once("pretraining", made)

    def _cache(self) -> FeatureCache:
        assert self.options.cache is not None
        return FeatureCache(self.options.cache, self.progress, self.options.machine.accelerator)
