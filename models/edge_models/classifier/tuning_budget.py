"""What fine-tuning every layer would cost, at which size, and how much of it a search's budget lasts for."""

from __future__ import annotations

import copy
import math
import time
from typing import Final

import numpy as np
import torch

from edge_app.accuracy.intervals import wilson
from edge_models.classifier.options import ClassifierOptions
from edge_models.classifier.recipe import DEEP, RUNG_EPOCHS, deep_epochs
from edge_models.data.folder import PictureFolder, Split
from edge_models.networks.backbone import Backbone
from edge_models.networks.backbones import lite_of
from edge_models.networks.folded import folded

_LEAST_SIDE: Final = 96
_MUCH_SMALLER: Final = 0.75
_TELLS: Final = 60
"""Pictures of the selection part from which on it chooses among depths of fine-tuning: 32 sign digits took the upper
half, where every layer named more of the others."""
_TIMED: Final = 8
"""Pictures that are looked at to tell how long fine-tuning would take."""
_LOOKS: Final = 5
_LEARNED: Final = 3.5
"""Times as long as looking at it takes learning from a picture: on Lite0 at 128 px, 2.9 ms of processor time for the
view and 20.8 for the step beside 7.0."""
_WORTH: Final = 0.01
"""Share of wrong answers that is worth the budget."""
_MOST_LONGER: Final = 6.0
"""Times the budget that a larger share may be worth."""


def is_much(wrong: int, pictures: int) -> bool:
    """Whether surely so large a share is named wrongly that a fine-tuning is worth all the time that it may take.

    By the lower end of a 95 % interval: four of 32 ants and bees were twelve in a hundred by chance, fine-tuning was
    followed to its end and taken by six pictures, and named 71.6 % of others where the frozen base names 97.
    """
    return wilson(wrong, pictures).low >= _MOST_LONGER * _WORTH


def spent_s(device: str) -> float:
    """Seconds that this process would have taken alone: on a CPU its processor time, shared among its threads.

    By the clock on the wall a default run beside busy neighbours found no time to fine-tune, and named 83.7 % of the
    sign digits instead of 92.3.
    """
    return time.process_time() / torch.get_num_threads() if device == "cpu" else time.monotonic()


def small_side(folder: PictureFolder, name: str) -> int:
    """The input that suits pictures much smaller than a network's own, 0 where they are not or the network is no Lite.

    Sign digits of 100 pixels, 20 of each (development part, one seed): every layer fine-tuned at 128 pixels came from
    78.0 to 89.2 % in 8 epochs of 9 s of processor time; at 224 an epoch takes three times as long.
    """
    lite = lite_of(name)
    if lite is None:
        return 0
    shorter = float(np.median([min(picture.size_px) for picture in folder.pictures]))
    side = max(_LEAST_SIDE, 32 * math.ceil(shorter / 32))
    return side if side <= _MUCH_SMALLER * lite.side_px else 0


def step_s(backbone: Backbone, side: int, device: str) -> float:
    """Seconds that a picture takes which every layer learns from, by how long it takes to be looked at.

    `side` is that of the pictures in pixels; 0: the network's own.
    """
    timed = folded(backbone)
    timed = copy.deepcopy(timed) if timed is backbone else timed
    timed = timed.to(device).to(memory_format=torch.channels_last).eval()
    px = side or timed.input.width_px or 0
    pictures = torch.zeros(_TIMED, 3, px, px, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        timed(pictures).cpu()
        took_s = []
        # The least of a few: one look that a neighbour disturbed left ants and bees without fine-tuning.
        for _ in range(_LOOKS):
            begun_s = spent_s(device)
            timed(pictures).cpu()
            took_s.append(spent_s(device) - begun_s)
    return _LEARNED * min(took_s) / _TIMED


def ways_affordable(options: ClassifierOptions, split: Split, step_s: float, wrong: float) -> int:
    """For how many ways of unfreezing every layer the budget lasts: to choose, to be judged, once more with everything.

    `step_s` is what a picture learned from costs. The more pictures a head on the frozen base names `wrong` (a share),
    the longer it may take: one in a hundred is worth the budget, six are worth six times.
    """
    everything = len(split.fit) + len(split.validation)
    whole_s = step_s * deep_epochs(options, everything) * (len(split.train) + len(split.fit) + everything)
    rung_s = step_s * RUNG_EPOCHS * len(split.train)
    left_s = 60 * options.search * min(_MOST_LONGER, max(1.0, wrong / _WORTH)) - whole_s
    if left_s < 0 or len(split.selection) < _TELLS:
        return int(left_s >= 0)
    return 1 + min(len(DEEP) - 1, int(left_s / rung_s))
