"""People follow to another embedder: from the pictures that were kept, when the user kept them.

Hides which kept picture serves which model. Flows in: a `Workbench` over the embedder in use. Flows out: new templates
beside the old ones, which stay, and a `Reenrolled` line for everybody who had none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edge_app.assembly import Workbench, own_embeddings, same_person_floor, thing_models
from edge_app.domain import Face, Floats, MediaError, Quality, Template
from edge_app.enroll import EnrollOptions, Shot, judge_shots, template_of
from edge_app.keeping import kept_picture
from edge_app.quality import measure
from edge_app.vision import CROPS

_OLD_CROPS: Final = {crop.size_px: name for name, crop in CROPS.items()}
"""Galleries made before kept the upright crop alone; its side tells which template it follows."""
NO_PICTURE: Final = "no picture was kept"


@dataclass(frozen=True, slots=True)
class Reenrolled:
    """What became of one person."""

    name: str
    templates: int
    """Templates of the model in use that were made; 0: has to be enrolled again from new pictures."""
    reasons: tuple[str, ...]
    """Why pictures did not serve, one line each."""


def reenroll(
    bench: Workbench, options: EnrollOptions | None = None, clock: Callable[[], float] = time.time
) -> Iterator[Reenrolled]:
    """Enroll everybody in `bench.missing` again, one after the other, each in one transaction.

    Pictures pass the same gate as at enrollment, and are kept beside the new templates too. Refresh the bench after.
    """
    for name in bench.missing:
        yield _one(bench, name, options or EnrollOptions(), clock())
        bench = bench.refreshed()


def missing_line(bench: Workbench) -> str | None:
    """One line that says who must be enrolled again and how; None when nobody must."""
    missing = bench.missing
    if not missing:
        return None
    people = "1 person" if len(missing) == 1 else f"{len(missing)} people"
    listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    kept = sum(one.pictures > 0 for one in bench.vault.roster() if one.name in set(missing))
    how = "enroll from new pictures" if not kept else f"`edge-app gallery reenroll` tries {kept} from kept pictures"
    return f"{people} must be enrolled again for {bench.recognizer.embedder.model_id}: {listed}; {how}"


def _one(bench: Workbench, name: str, options: EnrollOptions, now_s: float) -> Reenrolled:
    reasons: list[str] = []
    shots: list[Shot] = []
    for template, picture in _pictures(bench, name):
        made = NO_PICTURE if picture is None else _shot(bench, template, picture)
        if isinstance(made, Shot):
            shots.append(made)
        else:
            reasons.append(f"{template.source}: {made}")
    own = own_embeddings(bench.vault, name, bench.recognizer.embedder.model_id)
    floor = replace(options, same_person_floor=same_person_floor(bench.points, options.same_person_floor))
    verdicts = judge_shots(name, shots, own, bench.recognizer.gallery, bench.recognizer.rule, floor)
    reasons += [f"{v.source}: {v.refusal.message}" for v in verdicts if v.refusal]
    taken = [v.shot for v in verdicts if v.accepted and v.shot is not None]
    if taken:
        bench.vault.add(name, [template_of(shot, now_s) for shot in taken], [shot.kept for shot in taken])
    return Reenrolled(name, len(taken), tuple(reasons))


def _pictures(bench: Workbench, name: str) -> list[tuple[Template, bytes | None]]:
    """The templates of the model with the most kept pictures: the same picture must not count twice."""
    things = thing_models(bench.home)
    [line] = [one for one in bench.vault.roster() if one.name == name]
    best: list[tuple[Template, bytes | None]] = []
    for model in line.templates:
        if model in things:
            continue
        found = list(zip(bench.vault.identity(name, model).templates, bench.vault.pictures(name, model), strict=True))
        if not best or _kept(found) > _kept(best):
            best = found
    return best


def _kept(found: list[tuple[Template, bytes | None]]) -> int:
    return sum(picture is not None for _, picture in found)


def _shot(bench: Workbench, template: Template, picture: bytes) -> Shot | str:
    """The shot that a kept picture gives, or why it gives none."""
    embedder = bench.recognizer.embedder
    try:
        kept = kept_picture(picture)
    except MediaError as error:
        return str(error)
    if kept.face is None:
        if not kept.upright_crop:
            return "the kept picture is of a thing"
        height, width = kept.pixels.shape[:2]
        if height != width or _OLD_CROPS.get(width) != embedder.crop:
            return f"an earlier version kept a crop of {width}x{height} px, too little for {embedder.crop}"
        [embedding] = embedder.embed(kept.pixels[None])
        # The face in its frame is gone; what was measured on it then still holds.
        face = Face(_whole_crop(width), _landmarks(embedder.crop), min(1.0, max(0.0, template.quality.score)))
        return Shot(template.source, face, kept.pixels, template.quality, embedding, picture)
    crops = embedder.crops(kept.pixels, [kept.face])
    [embedding] = embedder.embed(crops)
    measured: Quality = replace(measure(kept.face, crops[0]), face_px=kept.face.size_px / kept.scale)
    return Shot(template.source, kept.face, crops[0], measured, embedding, picture)


def _whole_crop(size_px: int) -> Floats:
    return np.array([0, 0, size_px, size_px], np.float32)


def _landmarks(crop: str) -> Floats:
    return np.array(CROPS[crop].landmarks, np.float32)
