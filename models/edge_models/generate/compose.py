"""Composes labelled pictures: cut-outs and text on backgrounds, with boxes and masks; the same seed, the same set.

Pasting objects so is Dwibedi et al. 2017 (arXiv 1708.01642); differing blur, light and noise hide the seams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Pixels
from edge_app.media.folders import is_junk
from edge_app.media.pictures import read_picture
from edge_app.system.files import json_bytes, sha256_of_file, write_private
from edge_models.data.folder import find_unlabelled
from edge_models.data.made import marked, write_made
from edge_models.generate.cutouts import MASK_ENDING, CutOut, read_cutout
from edge_models.generate.lettering import (
    DIGITS,
    characters_of,
    draw_letters,
    draw_plate,
    find_fonts,
    read_texts,
    text_of,
)
from edge_models.generate.made_folder import made_folder

PLATE: Final = "plate"
"""What a plate is called whose text has no class."""
PICTURES, MASKS, BOXES, FACTS = "pictures", "masks", "boxes.json", "made.json"
_SEVERAL: Final = "several"
"""Folder of the pictures where each holds more than one object: they have no class of their own."""
_LEAST_SEEN: Final = 0.5
"""Share of an object that nothing may hide, cut off or cover."""
_TRIES: Final = 8
"""Places tried for an object before it is left out of a picture."""
_PLATE_WIDTH: Final = (0.3, 0.45)
"""Of the object that a plate is put on."""


@dataclass(frozen=True, slots=True)
class ComposeOptions:
    """One set of pictures. Raises UsageError for values out of range."""

    output: Path
    objects: Path | None = None
    """A sub-folder of cut-outs per class, or cut-outs of one class."""
    backgrounds: Path | None = None
    """Any pictures; None: plain ones are made."""
    text: str = ""
    """"digits", or patterns as `read_texts` takes them. On objects, where there are any, as number plates. With classes
    a picture is of the class of its text, whatever the object; an empty pattern leaves the object without a plate."""
    fonts: Path | None = None
    count: int = 100
    """Pictures of each class; of all together where each holds several objects."""
    per_picture: int = 1
    """Most objects in a picture."""
    width_px: int = 256
    height_px: int = 256
    scale: tuple[float, float] = (0.35, 0.8)
    """Longer side of an object, as a share of the picture's shorter one."""
    turn: float = 12.0
    """Degrees, to either side."""
    occlusion: float = 0.2
    """Chance that something covers a part of an object."""
    mirror: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        checks: list[tuple[bool, str, Any, str]] = [
            (1 <= self.count <= 100_000, "number of pictures", self.count, "1 to 100000"),
            (1 <= self.per_picture <= 20, "objects in a picture", self.per_picture, "1 to 20"),
            (min(self.width_px, self.height_px) >= 16 and max(self.width_px, self.height_px) <= 4096, "size",
             f"{self.width_px}x{self.height_px}", "16 to 4096 pixels a side"),
            (0 < self.scale[0] <= self.scale[1] <= 1, "scale", self.scale, "two shares above 0, to 1"),
            (0 <= self.turn <= 180, "turn", self.turn, "0 to 180 degrees"),
            (0 <= self.occlusion <= 1, "occlusion", self.occlusion, "0 to 1"),
            (self.seed >= 0, "seed", self.seed, "0 or more"),
            (len(self.text) <= 2000 and self.text.isprintable(), "text", self.text[:40], "printable characters"),
        ]  # fmt: skip
        for good, what, found, expected in checks:
            if not good:
                raise UsageError(f"found {found} as {what}", expected=expected)
        if self.objects is None and not self.text:
            raise UsageError("nothing to compose", expected="a folder of cut-outs, or --text")
        if self.text == DIGITS and self.objects is not None:
            raise UsageError(f"--text {DIGITS} beside objects", remedy="leave one out, or give a pattern such as A99")
        if self.objects is None and "" in [one for patterns in self.texts.values() for one in patterns]:
            raise UsageError(f"--text {self.text} has a class without text", expected="objects to leave bare")

    @property
    def texts(self) -> dict[str, tuple[str, ...]]:
        """The patterns by class; {} for digits and where there is no text."""
        return read_texts(self.text) if self.text not in ("", DIGITS) else {}


@dataclass(frozen=True, slots=True)
class Composed:
    """What was made."""

    folder: Path
    pictures: int
    by_class: dict[str, int]
    """Objects."""
    fonts: int
    notes: tuple[str, ...]
    """What was left out, and why."""


@dataclass(slots=True)
class _Placed:
    label: str
    text: str
    seen: NDArray[np.float32]
    """(H, W) its visible alpha."""
    whole: float
    """Sum of its alpha before anything hid it."""
    sha256: str


@dataclass(slots=True)
class _Stock:
    """What pictures are made of."""

    options: ComposeOptions
    classes: list[str]
    cutouts: dict[str, list[Path]]
    backgrounds: list[Path]
    fonts: tuple[Path, ...]
    unusable: dict[Path, str] = field(default_factory=dict)

    def draw(self, label: str, rng: np.random.Generator) -> list[CutOut]:
        """An object of a class, and the plate that goes on it where text is wanted."""
        if self.options.text == DIGITS:
            return [draw_letters(label, self.fonts, rng)]
        words: list[CutOut] = []
        if texts := self.options.texts:
            patterns = texts[""] if "" in texts else texts[label]
            pattern = patterns[int(rng.integers(len(patterns)))]
            if pattern:
                words = [draw_plate(text_of(pattern, rng), PLATE if "" in texts else label, self.fonts, rng)]
        kinds = sorted(self.cutouts) if texts and "" not in texts else [label]
        if not self.cutouts:
            return words
        files = [(path, kind) for kind in kinds for path in self.cutouts[kind] if path not in self.unusable]
        while files:
            path, kind = files[int(rng.integers(len(files)))]
            try:
                return [_cutout(path, kind), *words]
            except MediaError as error:
                self.unusable[path] = str(error)
                files.remove((path, kind))
        raise UsageError(
            f"no picture of {' or '.join(kinds)} can be cut out ({next(iter(self.unusable.values()))})",
            expected="transparency, masks or plain backgrounds",
        )


@lru_cache(maxsize=256)
def _cutout(path: Path, label: str) -> CutOut:
    return read_cutout(path, label)


def compose(options: ComposeOptions, tell: Callable[[int, int], None] = lambda done, total: None) -> Composed:
    """Make the set in a new folder, which appears under its name when it is whole.

    Raises UsageError for folders and fonts that give nothing, EdgeError when the disk refuses.
    """
    with made_folder(options.output) as scratch:
        stock, notes = _stock(options)
        annotations, by_class = _fill(scratch, stock, tell)
        notes += [f"left out: {why}" for _, why in sorted(stock.unusable.items())]
        told = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
        write_private(scratch / BOXES, json_bytes(annotations))
        facts = {"by": "edge-app compose", "options": told | {"output": options.output.name}, "notes": notes}
        write_private(scratch / FACTS, json_bytes(facts))
    return Composed(options.output, len(annotations["images"]), dict(by_class), len(stock.fonts), tuple(notes))


def _stock(options: ComposeOptions) -> tuple[_Stock, list[str]]:
    notes: list[str] = []
    fonts: tuple[Path, ...] = ()
    if options.text:
        patterns = [one for some in options.texts.values() for one in some] or [DIGITS]
        found = find_fonts(options.fonts, "".join(map(characters_of, patterns)))
        fonts = found.files
        notes += [f"font {path.name}: left out: {why}" for path, why in found.left_out]
    cutouts: dict[str, list[Path]] = {}
    if options.objects is not None:
        files = [path for path in find_unlabelled(options.objects) if not path.name.endswith(MASK_ENDING)]
        root = options.objects
        for path in files:
            inside = path.relative_to(root).parts
            cutouts.setdefault(inside[0] if len(inside) > 1 else root.resolve().name, []).append(path)
        if is_junk(next(iter(cutouts))):
            raise UsageError(f"{root} has no name for a class", remedy="put the cut-outs into a sub-folder per class")
    if named := sorted(options.texts.keys() - {""}):
        classes = named
    elif cutouts:
        classes = sorted(cutouts)
    else:
        classes = sorted(characters_of(DIGITS)) if options.text == DIGITS else [PLATE]
    backgrounds = find_unlabelled(options.backgrounds) if options.backgrounds is not None else []
    return _Stock(options, classes, cutouts, backgrounds, fonts), notes


def _fill(root: Path, stock: _Stock, tell: Callable[[int, int], None]) -> tuple[dict[str, Any], Counter[str]]:
    """Write pictures and masks; returns the boxes as COCO tells them, and how many objects of each class there are."""
    options = stock.options
    names = [*sorted(stock.cutouts), *([PLATE] if "" in options.texts else stock.classes)]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names), 1)}
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    by_class: Counter[str] = Counter()
    total = options.count * (len(stock.classes) if options.per_picture == 1 else 1)
    for number in range(total):
        rng = np.random.default_rng([options.seed, number])
        first = stock.classes[number % len(stock.classes)]
        wanted = [first]
        if options.per_picture > 1:
            wanted = [str(name) for name in rng.choice(stock.classes, int(rng.integers(1, options.per_picture + 1)))]
        pixels, placed, background = _picture(stock, wanted, rng)
        inside = Path(first if options.per_picture == 1 else _SEVERAL) / f"{number:06d}.png"
        for folder in (root / PICTURES, root / MASKS):
            (folder / inside).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        sources = [one.sha256 for one in placed if one.sha256] + ([background] if background else [])
        facts = {"seed": options.seed, "number": number, "objects": [one.label for one in placed]}
        write_made(root / PICTURES / inside, pixels, marked("edge-app compose", sources, facts))
        # Value n of the mask is the n-th object of the picture, 0 is the background.
        owners = np.zeros(pixels.shape[:2], np.uint8)
        images.append({"id": number, "file_name": str(Path(PICTURES) / inside), "width": options.width_px,
                       "height": options.height_px})  # fmt: skip
        for order, one in enumerate(placed, 1):
            visible = one.seen > 0.5
            owners[visible] = order
            ys, xs = np.nonzero(visible)
            x, y = int(xs.min()), int(ys.min())
            box = [x, y, int(xs.max()) + 1 - x, int(ys.max()) + 1 - y]
            boxes.append({"id": len(boxes) + 1, "image_id": number, "category_id": numbers[one.label], "bbox": box,
                          "area": int(visible.sum()), "iscrowd": 0, "text": one.text,
                          "seen": round(float(one.seen.sum()) / one.whole, 3)})  # fmt: skip
            by_class[one.label] += 1
        write_made(root / MASKS / inside, np.repeat(owners[..., None], 3, 2), marked("edge-app compose", sources, {}))
        tell(number + 1, total)
    categories = [{"id": number, "name": name} for name, number in numbers.items()]
    return {"images": images, "annotations": boxes, "categories": categories}, by_class


def _picture(stock: _Stock, wanted: Sequence[str], rng: np.random.Generator) -> tuple[Pixels, list[_Placed], str]:
    """One picture, what lies on it from back to front, and the SHA-256 of its background."""
    options = stock.options
    canvas, background = _background(stock, rng)
    placed: list[_Placed] = []
    for label in wanted:
        parts = stock.draw(label, rng)
        for _ in range(_TRIES):
            after, new = _put(canvas, parts, options, rng)
            covered = 1 - np.maximum.reduce([one.seen for one in new])
            if all((one.seen * covered).sum() >= _LEAST_SEEN * one.whole for one in placed) and all(
                one.seen.sum() >= _LEAST_SEEN * one.whole and (one.seen > 0.5).sum() >= 4 for one in new
            ):
                for one in placed:
                    one.seen = np.asarray(one.seen * covered, np.float32)
                canvas, placed = after, [*placed, *new]
                break
    if not placed:
        return _picture(stock, wanted, rng)
    # One lens and one sensor over everything, so that no seam tells what was pasted.
    soft = cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.3, 1.0)))
    grainy = soft * rng.uniform(0.8, 1.15) + rng.normal(0, rng.uniform(0, 5), soft.shape)
    return np.clip(np.rint(grainy), 0, 255).astype(np.uint8), placed, background


def _background(stock: _Stock, rng: np.random.Generator) -> tuple[NDArray[np.float32], str]:
    """A random part of a random background, stretched over the picture; without any, a plain ground with a slope."""
    width, height = stock.options.width_px, stock.options.height_px
    while stock.backgrounds:
        path = stock.backgrounds[int(rng.integers(len(stock.backgrounds)))]
        try:
            seen = read_picture(path)
        except MediaError as error:
            stock.unusable[path] = str(error)
            stock.backgrounds.remove(path)
            if not stock.backgrounds:
                raise UsageError(f"no background can be read ({error})", expected="pictures") from error
            continue
        high, wide = seen.shape[:2]
        share = rng.uniform(0.5, 1.0) * min(wide / width, high / height)
        w, h = max(1, int(share * width)), max(1, int(share * height))
        left, top = int(rng.integers(0, wide - w + 1)), int(rng.integers(0, high - h + 1))
        cut = seen[top : top + h, left : left + w]
        how = cv2.INTER_AREA if w > width else cv2.INTER_LINEAR
        return cv2.resize(cut, (width, height), interpolation=how).astype(np.float32), sha256_of_file(path)
    ground = np.full(3, rng.uniform(0, 255)) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
    ramp = np.linspace(-1, 1, width)[None, :, None] * rng.normal(0, 12) + np.linspace(-1, 1, height)[
        :, None, None
    ] * rng.normal(0, 12)
    return np.clip(ground + ramp, 0, 255).astype(np.float32), ""


def _put(
    canvas: NDArray[np.float32], parts: Sequence[CutOut], options: ComposeOptions, rng: np.random.Generator
) -> tuple[NDArray[np.float32], list[_Placed]]:
    """The canvas with an object on it, its shadow under it and perhaps something over it."""
    height, width = canvas.shape[:2]
    base = parts[0]
    high, wide = base.alpha.shape
    side = rng.uniform(*options.scale) * min(width, height)
    scale = side / max(high, wide)
    corners = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float64) - (wide / 2, high / 2)
    if options.mirror and not options.text and rng.random() < 0.5:
        corners[:, 0] *= -1
    angle = np.deg2rad(rng.uniform(-options.turn, options.turn))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = scale * corners @ turn.T + rng.normal(0, 0.04 * side, (4, 2))
    reach = np.abs(corners).max(axis=0)
    centre = [
        rng.uniform(min(0.8 * r, size / 2), max(size - 0.8 * r, size / 2))
        for r, size in zip(reach, (width, height), strict=True)
    ]
    onto = (corners + centre).astype(np.float32)
    shadow = bool(rng.random() < 0.6) and options.text != DIGITS
    drop, dark = rng.uniform(-0.08, 0.08, 2) * side, float(rng.uniform(0.2, 0.55))
    light, slope = rng.uniform(0.75, 1.2), rng.normal(0, 0.15)
    blur = float(rng.uniform(0.2, 0.9))
    result = canvas
    placed: list[_Placed] = []
    for part in parts:
        where = onto
        if part is not base:
            share = rng.uniform(*_PLATE_WIDTH)
            tall = share * wide * part.alpha.shape[0] / part.alpha.shape[1] / high
            x, y = rng.uniform(0.3, 0.7) - share / 2, min(0.95 - tall, rng.uniform(0.6, 0.8))
            inner = np.array([[[x, y], [x + share, y], [x + share, y + tall], [x, y + tall]]], np.float32)
            unit = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
            where = cv2.perspectiveTransform(inner, cv2.getPerspectiveTransform(unit, onto))[0]
        colour, alpha, whole = _warped(part, where, (width, height), light, slope, blur)
        if part.text and part is base and options.text == DIGITS:
            colour = _apart(colour, alpha, canvas, rng)
        if part is base and shadow:
            moved = cv2.warpAffine(alpha, np.array([[1, 0, drop[0]], [0, 1, abs(drop[1])]]), (width, height))
            soft = cv2.GaussianBlur(moved, (0, 0), max(0.8, 0.04 * side))
            result = np.asarray(result * (1 - dark * soft[..., None]), np.float32)
        result = np.asarray(result * (1 - alpha[..., None]) + colour * alpha[..., None], np.float32)
        placed.append(_Placed(part.label, part.text, alpha, whole, part.sha256))
    if rng.random() < options.occlusion:
        cover = np.zeros((height, width), np.float32)
        spot = onto[int(rng.integers(4))] * 0.7 + onto.mean(axis=0) * 0.3
        axes = tuple(max(1, int(one)) for one in rng.uniform(0.08, 0.3, 2) * side)
        cv2.ellipse(cover, tuple(int(v) for v in spot), axes, float(rng.uniform(0, 180)), 0, 360, 1.0, cv2.FILLED)
        cover = np.asarray(cv2.GaussianBlur(cover, (0, 0), 0.8), np.float32)
        # Covered by another part of the scene itself, turned over: texture that belongs there.
        result = np.asarray(result * (1 - cover[..., None]) + canvas[::-1, ::-1] * cover[..., None], np.float32)
        for one in placed:
            one.seen = np.asarray(one.seen * (1 - cover), np.float32)
    return result, placed


def _warped(
    part: CutOut, onto: NDArray[np.float32], size: tuple[int, int], light: float, slope: float, blur: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Colours (H, W, 3) and alpha (H, W) on the canvas; and what its alpha sums to, cut off by no edge."""
    high, wide = part.alpha.shape
    side = float(np.ptp(onto, axis=0).max())
    # Shrunk first: warping from many pixels to few would skip most of them.
    shrink = min(1.0, 1.5 * side / max(high, wide))
    small = (max(1, round(wide * shrink)), max(1, round(high * shrink)))
    colour = cv2.resize(part.colour, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    alpha = cv2.resize(part.alpha, small, interpolation=cv2.INTER_AREA)
    corners = np.array([[0, 0], [small[0], 0], [small[0], small[1]], [0, small[1]]], np.float32)
    how = cv2.getPerspectiveTransform(corners, onto)
    ramp = light * (1 + slope * np.linspace(-1, 1, small[0], dtype=np.float32))[None, :, None]
    drawn = cv2.warpPerspective(
        np.dstack([colour * ramp, 255 * alpha]), how, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    # Colours reach as far as the edge's soft alpha does: around the object they are what is nearest.
    weight = cv2.warpPerspective(np.ones((small[1], small[0]), np.float32), how, size)
    whole = float(alpha.sum()) * cv2.contourArea(onto) / (small[0] * small[1])
    seen = cv2.GaussianBlur(drawn[..., 3] / 255, (0, 0), blur)
    return np.clip(drawn[..., :3] / np.maximum(weight, 0.2)[..., None], 0, 255), np.clip(seen, 0, 1), max(whole, 1.0)


def _apart(
    colour: NDArray[np.float32], alpha: NDArray[np.float32], canvas: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """Ink that can be read on its ground: brighter or darker by at least 80 of 255."""
    ground = float((canvas.mean(axis=2) * alpha).sum() / max(1e-6, float(alpha.sum())))
    choices = [one for one in (ground - rng.uniform(80, 255), ground + rng.uniform(80, 255)) if 0 <= one <= 255]
    ink = float(rng.choice(choices)) if choices else (0.0 if ground > 127 else 255.0)
    tint = colour - colour.mean(axis=2, keepdims=True)
    return np.asarray(np.clip(ink + 0.3 * tint, 0, 255), np.float32)
