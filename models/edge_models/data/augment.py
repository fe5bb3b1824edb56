"""Random views of pictures, (H, W, 3) uint8 of any size in, uint8 of the network's input size out; MixUp and CutMix.

The same seed gives the same view on any machine and in any worker process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2  # type: ignore[import-untyped]

from edge_app.core.errors import UsageError
from edge_app.core.model_card import InputSpec
from edge_app.core.types import Pixels
from edge_app.inference.geometry import in_region, is_whole, prepare, resize
from edge_models.fitting.seeds import seed_of

Subject = Literal["thing", "face"]
Mixing = Literal["none", "mixup", "cutmix"]
View = Callable[[Pixels, int], Pixels]
"""(H, W, 3) uint8 picture and a seed -> (h, w, 3) uint8 view of the network's input size."""

MAX_STRENGTH: Final = 2.0

_GAP_PX: Final = 4
"""Between two views of a contact sheet."""
_PAPER: Final = 255


@dataclass(frozen=True, slots=True)
class AugmentOptions:
    """How much the views differ from the picture."""

    subject: Subject = "thing"
    """Faces are aligned: they are shifted and turned a little, and never cropped, squeezed or turned upside down."""
    strength: float = 1.0
    """0: the plain view; 1: the default; 2: twice that."""
    webcam: float = 0.0
    """Chance of each webcam fault, [0, 1]: low light, colour cast, motion blur, noise, JPEG."""
    upside_down: bool = False
    """Vertical flips, for pictures without an upside: cells, parts on a table. Refused for faces."""
    mirror: bool = True
    """Horizontal flips, for pictures whose left and right mean nothing."""

    def __post_init__(self) -> None:
        if not 0 <= self.strength <= MAX_STRENGTH:
            raise UsageError(f"found an augmentation strength of {self.strength}", expected=f"0 to {MAX_STRENGTH:g}")
        if not 0 <= self.webcam <= 1:
            raise UsageError(f"found a webcam share of {self.webcam}", expected="0 to 1")
        if self.upside_down and self.subject == "face":
            raise UsageError("vertical flips of faces were asked for", remedy="leave --upside-down out")


def view_maker(options: AugmentOptions, spec: InputSpec, crop: str) -> View:
    """Build the function that draws a random view. Strength 0 without faults gives
    `edge_app.inference.geometry.prepare`'s view."""
    geometry = _geometry(options, spec)
    colour = _colour(options.strength)

    def view(pixels: Pixels, seed: int) -> Pixels:
        if options.strength == 0 and options.webcam == 0:
            return prepare(pixels, spec, crop)
        # torchvision draws from torch's global generator; the fork leaves that as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if options.subject == "face" or options.strength == 0:
                pixels = prepare(pixels, spec, crop)
            else:
                pixels = in_region(pixels, crop)
                if is_whole(crop) and spec.width_px and spec.height_px:
                    # Serving squeezes it into the input: so does what is cut from it here.
                    pixels = resize(pixels, round(_LARGER * spec.width_px), round(_LARGER * spec.height_px))
            image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
            image = colour(geometry(image))
            faults = np.random.default_rng(seed)
            seen = cast(Pixels, np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
            return _webcam(seen, options.webcam, options.strength or 1.0, faults)

    return view


def _geometry(options: AugmentOptions, spec: InputSpec) -> v2.Transform:
    s, size = options.strength, (spec.height_px or 0, spec.width_px or 0)
    flips = [v2.RandomHorizontalFlip(0.5)] if options.mirror else []
    flips += [v2.RandomVerticalFlip(0.5)] if options.upside_down else []
    if s == 0:
        return v2.Identity()
    if options.subject == "face":
        shift = min(0.1, 0.03 * s)
        moved = v2.RandomAffine(
            6 * s, translate=(shift, shift), scale=(1 - 0.05 * s, 1 + 0.05 * s), interpolation=_BILINEAR
        )
        return v2.Compose([moved, *flips])
    # From a third of the picture upwards at strength 1: less loses the subject of a small folder.
    part = v2.RandomResizedCrop(size, scale=(max(0.1, 1 - 0.65 * s), 1.0), interpolation=_BILINEAR, antialias=True)
    return v2.Compose([part, *flips])


_LARGER: Final = 1.5
"""Times the input: the smallest part that strength 1 cuts out has 0.59 of a picture's side."""
_BILINEAR: Final = v2.InterpolationMode.BILINEAR
_ALPHA: Final = {"mixup": 0.2, "cutmix": 1.0}
"""As their papers train on ImageNet."""


def _colour(strength: float) -> v2.Transform:
    if strength == 0:
        return v2.Identity()
    return v2.ColorJitter(0.3 * strength, 0.3 * strength, 0.3 * strength, min(0.5, 0.02 * strength))


def _webcam(pixels: Pixels, chance: float, strength: float, rng: np.random.Generator) -> Pixels:
    """Domain randomization (Tobin et al. 2017): the faults of cheap cameras, in the order a camera adds them."""
    for fault in (_motion_blur, _low_light, _colour_cast, _noise, _jpeg):
        if rng.random() < chance:
            pixels = fault(pixels, strength, rng)
    return pixels


def _clipped(values: NDArray[np.floating]) -> Pixels:
    return cast(Pixels, np.clip(np.rint(values), 0, 255).astype(np.uint8))


def _motion_blur(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    import cv2

    length = int(rng.integers(3, 4 + int(6 * strength)))
    kernel = np.zeros((length, length), np.float32)
    angle = rng.uniform(0, np.pi)
    centre, reach = (length - 1) / 2, (length - 1) / 2
    for t in np.linspace(-reach, reach, 4 * length):
        kernel[round(centre + t * np.sin(angle)), round(centre + t * np.cos(angle))] = 1
    return cast(Pixels, cv2.filter2D(pixels, -1, kernel / kernel.sum()))


def _low_light(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    gain = 1 - rng.uniform(0.2, min(0.9, 0.2 + 0.5 * strength))
    gamma = rng.uniform(0.8, 1.4)
    return _clipped(255 * gain * (pixels / 255.0) ** gamma)


def _colour_cast(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    return _clipped(pixels * (1 + rng.uniform(-0.25, 0.25, 3) * min(1.5, strength)))


def _noise(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    sigma = rng.uniform(2, 2 + 14 * strength)
    return _clipped(pixels + rng.normal(0, sigma, pixels.shape))


def _jpeg(pixels: Pixels, strength: float, rng: np.random.Generator) -> Pixels:
    import cv2

    quality = int(rng.integers(max(5, int(60 - 35 * strength)), 80))
    _, coded = cv2.imencode(".jpg", np.ascontiguousarray(pixels[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cast(Pixels, cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.ascontiguousarray(decoded[..., ::-1])


def mix(inputs: Tensor, targets: Tensor, mixing: Mixing, alpha: float | None = None) -> tuple[Tensor, Tensor]:
    """Mix every example of a batch with its neighbour; `targets` (N, C) are probabilities.

    MixUp (Zhang et al. 2018) works on anything, CutMix (Yun et al. 2019) on (N, C, h, w) only. The share of each is
    drawn from Beta(alpha, alpha), once a batch, by torch's global generator; None is the alpha of either paper.
    """
    if mixing == "none" or len(inputs) < 2:
        return inputs, targets
    alpha = _ALPHA[mixing] if alpha is None else alpha
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    if mixing == "cutmix":
        if inputs.ndim != 4:
            raise UsageError(f"CutMix was asked for on inputs of shape {tuple(inputs.shape)}", expected="(N, C, h, w)")
        height, width = inputs.shape[2:]
        h, w = round(height * (1 - share) ** 0.5), round(width * (1 - share) ** 0.5)
        top = int(torch.randint(0, height - h + 1, ()))
        left = int(torch.randint(0, width - w + 1, ()))
        mixed = inputs.clone()
        mixed[:, :, top : top + h, left : left + w] = inputs.roll(1, 0)[:, :, top : top + h, left : left + w]
        inputs, share = mixed, 1 - h * w / (height * width)
    else:
        inputs = share * inputs + (1 - share) * inputs.roll(1, 0)
    return inputs, share * targets + (1 - share) * targets.roll(1, 0)


def contact_sheet(pictures: Sequence[Pixels], plain: View, view: View, *, views: int = 8, seed: int = 0) -> Pixels:
    """A row per picture: what serving sees of it, a gap, and `views` random views; (H, W, 3) uint8."""
    rows = []
    for row, pixels in enumerate(pictures):
        seen = [plain(pixels, seed), *(view(pixels, seed_of(seed, column, row)) for column in range(views))]
        gaps = [np.pad(seen[0], ((0, _GAP_PX), (0, 4 * _GAP_PX), (0, 0)), constant_values=_PAPER)]
        gaps += [np.pad(one, ((0, _GAP_PX), (0, _GAP_PX), (0, 0)), constant_values=_PAPER) for one in seen[1:]]
        rows.append(np.concatenate(gaps, axis=1))
    return cast(Pixels, np.concatenate(rows, axis=0)[:-_GAP_PX, :-_GAP_PX])
