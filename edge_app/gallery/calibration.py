"""Thresholds measured on the user's own pictures, kept per model file in place of those that its card brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from edge_app.core.cohort import Cohort
from edge_app.core.documents import DocumentError, parse_json, typed
from edge_app.core.errors import EdgeError, ModelError
from edge_app.core.model_card import ModelCard, OperatingPoint, check_operating_points
from edge_app.model_store.catalogue import catalogue
from edge_app.system.data_folder import Home
from edge_app.system.files import readable_os_errors, write_json

_FILE_LIMIT_BYTES: Final = 16 << 20
"""A cohort takes 0.1 MB."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Thresholds of one model file, told by its hash: another file starts from its card again."""

    model_id: str
    sha256: str
    """Hash of the model file."""
    identities: int
    pictures: int
    points: tuple[OperatingPoint, ...]
    """For one template and for the mean of two."""
    cohort: Cohort | None = None
    """What the points were measured with, where the card brings none of its own."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What turns similarities into names: points and the cohort that they were measured with belong together."""

    points: tuple[OperatingPoint, ...]
    cohort: Cohort | None


def thresholds_of(home: Home | None, card: ModelCard, sha256: str | None = None) -> Thresholds:
    """The thresholds that hold here: those calibrated on the user's folder, else the card's.

    `sha256` is the hash of the model's file; without it, of the build of that id and precision at hand. Raises
    EdgeError when the file of calibrations is damaged.
    """
    stored = _stored(home) if home else ()
    of_model = [one for one in stored if one.model == card.id]
    if home and of_model:
        if sha256 is None:
            builds = (e.sha256 for e in catalogue(home) if (e.id, e.precision) == (card.id, card.precision))
            sha256 = next(builds, "")
        for one in of_model:
            if one.sha256 == sha256:
                # Calibrations of 0.1.0 hold for plain cosines, whatever the card brings today.
                cohort = one.cohort or calibrated_with(card)
                return Thresholds(one.points, cohort if any(point.evened for point in one.points) else None)
    return Thresholds(card.operating_points, card.cohort if any(p.evened for p in card.operating_points) else None)


def calibrated_with(card: ModelCard) -> Cohort | None:
    """The card's cohort as thresholds from a folder use it: whoever is in the folder is the crowd that counts."""
    return card.cohort and replace(card.cohort, kinds=None)


def points_of(home: Home | None, card: ModelCard, sha256: str | None = None) -> tuple[OperatingPoint, ...]:
    """The operating points of `thresholds_of`, to show."""
    return thresholds_of(home, card, sha256).points


def save(home: Home, calibrations: Sequence[Calibration], created_s: float) -> None:
    """Keep calibrations, each in place of an earlier one of the same file."""
    hashes = {one.sha256 for one in calibrations}
    kept = [one for one in _stored(home) if one.sha256 not in hashes]
    made = [
        _Stored(one.model_id, one.sha256, one.points, created_s, one.identities, one.pictures, one.cohort)
        for one in calibrations
    ]
    _write(home, [*kept, *made])


def reset(home: Home, model_id: str) -> int:
    """Go back to the card's operating points; returns how many calibrations of that model were deleted."""
    stored = _stored(home)
    kept = [one for one in stored if one.model != model_id]
    if len(kept) < len(stored):
        _write(home, kept)
    return len(stored) - len(kept)


def path_of(home: Home) -> Path:
    """The file that keeps calibrations."""
    return home.path / "calibrations.json"


@dataclass(frozen=True, slots=True)
class _Stored:
    """One entry of the file."""

    model: str
    sha256: str
    points: tuple[OperatingPoint, ...]
    created_s: float = 0.0
    identities: int = 0
    pictures: int = 0
    cohort: Cohort | None = None


@dataclass(frozen=True, slots=True)
class _File:
    calibrations: tuple[_Stored, ...]


def _stored(home: Home) -> tuple[_Stored, ...]:
    path = path_of(home)
    with readable_os_errors(path.parent):
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return ()
    try:
        stored = typed(parse_json(content, most_bytes=_FILE_LIMIT_BYTES), _File).calibrations
        for one in stored:
            check_operating_points(one.points)
    except (DocumentError, ModelError) as error:
        raise EdgeError(
            f"the calibrations in {path} cannot be read: {error}", remedy="delete that file and calibrate again"
        ) from error
    return stored


def _write(home: Home, stored: Sequence[_Stored]) -> None:
    write_json(path_of(home), {"calibrations": [asdict(one) for one in stored]})
