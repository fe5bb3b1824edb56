"""`edge-app translate apply`: pictures get the look that a translator learned, and keep labels, boxes and masks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edge_app.core.errors import MediaError, UsageError
from edge_app.core.types import Pixels
from edge_app.inference.geometry import resize
from edge_app.media.pictures import read_picture
from edge_app.system.files import json_bytes, sha256_of_file, write_private
from edge_models.data.folder import find_unlabelled
from edge_models.data.made import mark_of, marked, sources_of, write_made
from edge_models.generate.adversarial import as_tensor, shared_out, to_pixels
from edge_models.generate.compose import BOXES, FACTS, MASKS, PICTURES
from edge_models.generate.cutouts import MASK_ENDING, transparency_of
from edge_models.generate.made_folder import made_folder
from edge_models.generate.translate import load_translator, run


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` wrote."""

    folder: Path
    pictures: int
    boxes: int
    """Of the pictures, kept as they were; 0 where the folder told none."""
    notes: tuple[str, ...]


def apply(
    run_folder: Path, source: Path, out: Path, tell: Callable[[int, int], None] = lambda done, total: None
) -> Applied:
    """Translate every picture of a folder into a new one, at its own size, in sub-folders of the same names.

    Transparency stays. Of a folder that `edge-app compose` made the boxes and masks come along: nothing moves. Raises
    UsageError for a run without a translator, a folder that is there or lies within the source; EdgeError when the
    disk refuses.
    """
    translator = load_translator(run_folder)
    net, size = translator.net, translator.size
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies within {source}", expected="a folder of its own", remedy="name another")
    composed = (source / BOXES).is_file() and (source / PICTURES).is_dir()
    root = source / PICTURES if composed else source
    files = find_unlabelled(root)
    masks = [file for file in files if file.name.endswith(MASK_ENDING)]
    files = [file for file in files if not file.name.endswith(MASK_ENDING)]
    named: dict[str, str] = {}
    unreadable: list[str] = []
    taken, beside = set[Path](), set(files)
    with made_folder(out) as scratch:
        for start in range(0, len(files), 64):
            part = [(file, pixels) for file in files[start : start + 64] if (pixels := _read(file, unreadable))
                    is not None]  # fmt: skip
            if not part:
                continue
            made = to_pixels(run(net, as_tensor([resize(pixels, size, size) for _, pixels in part]), "cpu")).numpy()
            for (file, pixels), one in zip(part, made, strict=True):
                inside = file.relative_to(root)
                name = inside.with_suffix(".png")
                if name != inside and (name in taken or root / name in beside):
                    name = inside.with_name(inside.name + ".png")
                taken.add(name)
                goal = scratch / PICTURES / name
                goal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                own = [sha256_of_file(file), *sources_of(mark_of(file) or {})]
                mark = marked("edge-app translate", shared_out(translator.target, len(files), len(named), own),
                              {"source": inside.name})  # fmt: skip
                whole = resize(one, pixels.shape[1], pixels.shape[0])
                if (alpha := transparency_of(file, pixels)) is not None:
                    whole = np.dstack([whole, (255 * alpha).round().astype(np.uint8)])
                write_made(goal, whole, mark)
                named[inside.as_posix()] = name.as_posix()
            tell(start + len(part), len(files))
        if not named:
            raise UsageError(f"no picture of {root} can be read ({unreadable[0]})", expected="pictures")
        for mask in masks:
            _copy(mask, scratch / PICTURES / mask.relative_to(root))
        boxes = _copy_boxes(source, scratch, named) if composed else 0
        notes = tuple(f"left out: {why}" for why in unreadable)
        facts = {
            "by": "edge-app translate apply",
            "translator": translator.command,
            "source": source.name,
            "notes": notes,
        }
        write_private(scratch / FACTS, json_bytes(facts))
    return Applied(out, len(named), boxes, notes)


def _read(path: Path, unreadable: list[str]) -> Pixels | None:
    try:
        return read_picture(path)
    except MediaError as error:
        unreadable.append(str(error))
        return None


def _copy(path: Path, goal: Path) -> None:
    goal.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copyfile(path, goal)
    goal.chmod(0o600)


def _copy_boxes(source: Path, scratch: Path, named: Mapping[str, str]) -> int:
    """The boxes of the pictures that were translated, as they are, and their masks; how many boxes."""
    try:
        told = json.loads((source / BOXES).read_text(encoding="utf-8"))
        images = [one | {"file_name": f"{PICTURES}/{named[inside]}"} for one in told["images"]
                  if (inside := str(one["file_name"]).removeprefix(f"{PICTURES}/")) in named]  # fmt: skip
        kept = {one["id"] for one in images}
        boxes = [one for one in told["annotations"] if one["image_id"] in kept]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{source / BOXES} cannot be read ({error})", expected="what `edge-app compose` wrote",
                         remedy=f"translate {source / PICTURES} alone") from error  # fmt: skip
    for inside, name in named.items():
        mask = source / MASKS / inside
        if mask.is_file():
            _copy(mask, scratch / MASKS / name)
    write_private(scratch / BOXES, json_bytes(told | {"images": images, "annotations": boxes}))
    return len(boxes)
