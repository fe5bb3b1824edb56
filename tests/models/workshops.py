"""Folders and workshops of features that a test makes up: no picture is read."""

import numpy as np

from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.stages import Workshop, hard_targets
from edge_models.data.folder import Picture, PictureFolder, split_pictures
from edge_models.fitting.progress import Silence
from edge_models.networks.feature_cache import FeatureBank


def folder_of(labels, groups=None):
    pictures = tuple(
        Picture(f"{i}.png", f"{i}.png", label, f"{i:064d}", (96, 96), None, 0.1) for i, label in enumerate(labels)
    )
    groups = np.arange(len(labels)) if groups is None else np.array(groups)
    return PictureFolder("nowhere", ("ant", "bee"), pictures, groups, ())


def workshop(tmp_path, labels, features, **changes):
    options = ClassifierOptions(tmp_path, tmp_path / "run", device="cpu", log="none", unfreeze=0, **changes)
    folder = folder_of(labels)
    bank = FeatureBank(features[None], None)
    return Workshop(options, folder, split_pictures(folder, seed=0), None, bank, hard_targets(folder), Silence())
