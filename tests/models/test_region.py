"""A region of the picture is all that a classifier learns from and is served: what lies beside it misleads nobody."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from edge_app.core.errors import UsageError
from edge_app.media.pictures import write_picture
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.run import train_classifier
from edge_models.fitting.checkpoint import load
from edge_models.fitting.progress import Silence


def paint(path, left, right, seed):
    """Stripes of two directions beside each other, on grain."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(100, 140, (96, 192, 3))
    wave = np.where(np.arange(96) // 8 % 2, 70, -70)
    for at, way in ((0, left), (96, right)):
        pixels[:, at : at + 96] += wave[:, None, None] if way == "across" else wave[None, :, None]
    write_picture(path, np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.mark.slow
def test_what_lies_outside_the_region_teaches_nothing(tmp_path):
    # The right half is the class, the left half says the opposite in three of four pictures.
    for name, other in (("across", "along"), ("along", "across")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(24):
            left = name if number % 4 == 0 else other
            paint(tmp_path / "pictures" / name / f"{number}.png", left, name, number + 100 * (name == "along"))
    made = {}
    for roi in ("0.5,0,1,1", "0,0,0.5,1"):
        output = tmp_path / f"run{len(made)}"
        options = ClassifierOptions(
            tmp_path / "pictures", output, epochs=6, unfreeze=0, views=1, device="cpu", cache=tmp_path / "cache",
            search=0, roi=roi,
        )  # fmt: skip
        train_classifier(options, Silence())
        [best] = output.glob("best-*.safetensors")
        made[roi] = load(best)
    assert made["0.5,0,1,1"].crop.endswith("@0.5,0,1,1")
    assert made["0.5,0,1,1"].metrics["validation_accuracy"] >= 0.9
    assert made["0,0,0.5,1"].metrics["validation_accuracy"] < 0.9


def test_a_region_that_is_none_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match="the region is '0,0,0,1'"):
        ClassifierOptions(tmp_path, tmp_path / "run", roi="0,0,0,1")
