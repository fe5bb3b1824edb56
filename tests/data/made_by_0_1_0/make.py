"""Made the files beside it: run with edge-app 0.1.0 and its training extras installed, in an empty folder.

`pictures/` is what both runs learned from; `finished/` is a classifier's run folder, `embedder.safetensors` an
embedder's checkpoint; `stopped/` is the run folder of a classifier that was stopped when its head was fitted and its
refit was to begin. The network is timm's smallest with coarse random weights, which compress well.
"""

import contextlib
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from models.classifier_options import ClassifierOptions
from models.progress import Silence
from models.siamese_options import SiameseOptions
from safetensors.torch import save_file

from models import classifier_run, siamese


def paint(root: Path) -> None:
    """Four kinds of eight pictures, a coloured square on grey noise each."""
    rng = np.random.default_rng(0)
    for kind, colour in {
        "amber": (0, 160, 230),
        "blue": (220, 60, 20),
        "green": (40, 200, 40),
        "red": (30, 30, 220),
    }.items():
        (root / kind).mkdir(parents=True)
        for number in range(8):
            picture = np.repeat(np.repeat(rng.integers(60, 200, (6, 6, 1)), 8, 0), 8, 1).astype(np.uint8)
            picture = np.repeat(picture, 3, 2)
            x, y = rng.integers(4, 20, 2)
            picture[y : y + 22, x : x + 22] = colour
            cv2.imwrite(str(root / kind / f"{number}.png"), picture)


class Stop(Silence):
    """Stops a run where its second stage begins."""

    def stage(self, name: str, total: int) -> None:
        if name == "refit-head":
            raise KeyboardInterrupt


here = Path()
paint(here / "pictures")
torch.manual_seed(0)
weights = timm.create_model("test_efficientnet", pretrained=False, num_classes=0).state_dict()
coarse = {k: (v if not v.is_floating_point() else (v * 16).round() / 16).contiguous() for k, v in weights.items()}
save_file(coarse, "weights.safetensors")
network = {"weights": here / "weights.safetensors", "device": "cpu"}
common = {"backbone": "timm:test_efficientnet", "epochs": 6, "unfreeze": 0, "views": 0, "log": "none", **network}
classifier_run.train_classifier(ClassifierOptions(here / "pictures", here / "finished", **common), Silence())

with contextlib.suppress(KeyboardInterrupt):
    classifier_run.train_classifier(ClassifierOptions(here / "pictures", here / "stopped", **common), Stop())
for told in (*here.glob("*/run.json"), *here.glob("finished/report.*")):
    told.write_text(told.read_text().replace(str(here.absolute()), "/home/ada"))
embedder = SiameseOptions(
    here / "pictures", here / "people", base="timm:test_efficientnet", epochs=1, views=0, aligned=True, **network
)
siamese.train(embedder, Silence()).checkpoint.rename("embedder.safetensors")
