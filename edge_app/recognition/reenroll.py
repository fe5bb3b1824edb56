"""People and things follow to another embedder: from the pictures that were kept, when the user kept them.

Hides which kept picture serves which model. Flows in: a `Workbench`, or a `ThingBench`, over the embedder in use. Flows
out: new templates beside the old ones, which stay, and a `Reenrolled` line for everybody who had none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from edge_app.core.errors import MediaError
from edge_app.core.model_card import ModelCard
from edge_app.core.types import Face, Float32s, Quality, Template
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, judge_shots, template_of
from edge_app.gallery.kept_pictures import kept_picture
from edge_app.gallery.storage import Vault
from edge_app.inference.face_quality import measure
from edge_app.inference.geometry import CROPS
from edge_app.recognition.face_session import Workbench, left_behind, own_embeddings, same_person_floor, thing_models
from edge_app.recognition.things import ThingBench, ThingShot, enroll_things
from edge_app.system.data_folder import Home

_OLD_CROPS: Final = {crop.size_px: name for name, crop in CROPS.items()}
"""Galleries made before kept the upright crop alone; its side tells which template it follows."""
NO_PICTURE: Final = "no picture was kept"


@dataclass(frozen=True, slots=True)
class Reenrolled:
    """What became of one person or thing."""

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


def reenroll_things(
    bench: ThingBench, options: EnrollOptions | None = None, clock: Callable[[], float] = time.time
) -> Iterator[Reenrolled]:
    """The same for things, over another general image embedder."""
    bench = replace(bench, settings=replace(bench.settings, keep_pictures=True))
    for name in bench.missing:
        yield _thing(bench, name, options or EnrollOptions(), clock)
        bench = bench.refreshed()


def missing_line(home: Home, vault: Vault, card: ModelCard) -> str | None:
    """One line that says who, or what, must be enrolled again for an embedder and how; None when nobody must."""
    missing = left_behind(home, vault, card.id)
    if not missing:
        return None
    of_things = card.task == "image-embedding"
    one, many = ("thing", "things") if of_things else ("person", "people")
    count = f"1 {one}" if len(missing) == 1 else f"{len(missing)} {many}"
    listed = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
    kept = sum(each.pictures > 0 for each in vault.roster() if each.name in set(missing))
    command = "edge-app gallery reenroll" + (f" --model {card.id}" if of_things else "")
    how = "enroll from new pictures" if not kept else f"`{command}` tries {kept} from kept pictures"
    return f"{count} must be enrolled again for {card.id}: {listed}; {how}"


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


def _thing(bench: ThingBench, name: str, options: EnrollOptions, clock: Callable[[], float]) -> Reenrolled:
    looks: list[tuple[str, ThingShot | Refusal]] = []
    reasons: list[str] = []
    for template, picture in _pictures(bench, name, of_things=True):
        made = NO_PICTURE if picture is None else _thing_shot(bench, template, picture)
        if isinstance(made, ThingShot):
            looks.append((template.source, made))
        else:
            reasons.append(f"{template.source}: {made}")
    verdicts = enroll_things(bench, name, looks, options, clock=clock)
    reasons += [f"{v.source}: {v.refusal.message}" for v in verdicts if v.refusal]
    return Reenrolled(name, sum(v.accepted for v in verdicts), tuple(reasons))


def _thing_shot(bench: ThingBench, template: Template, picture: bytes) -> ThingShot | str:
    """The shot that a kept area gives, or why it gives none."""
    try:
        kept = kept_picture(picture)
    except MediaError as error:
        return str(error)
    if kept.face is not None or kept.upright_crop:
        return "the kept picture is of a face"
    height, width = kept.pixels.shape[:2]
    shot = bench.reader.shot(kept.pixels, template.source, np.array([0, 0, width, height], np.float32))
    if isinstance(shot, Refusal):
        return shot.message
    measured = replace(shot.quality, face_px=shot.quality.face_px / kept.scale)
    return replace(shot, quality=measured, kept=picture)


def _pictures(
    bench: Workbench | ThingBench, name: str, *, of_things: bool = False
) -> list[tuple[Template, bytes | None]]:
    """The templates of the model with the most kept pictures: the same picture must not count twice."""
    things = thing_models(bench.home, bench.vault)
    [line] = [one for one in bench.vault.roster() if one.name == name]
    best: list[tuple[Template, bytes | None]] = []
    for model in line.templates:
        if (model in things) != of_things:
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


def _whole_crop(size_px: int) -> Float32s:
    return np.array([0, 0, size_px, size_px], np.float32)


def _landmarks(crop: str) -> Float32s:
    return np.array(CROPS[crop].landmarks, np.float32)
