"""Accuracy and processor time of `edge-app train classifier` beside other trainers, on a part kept aside.

The part is chosen by the pictures' hashes, so that it is the same in every contest: who tunes on the rest has not
seen it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import edge_app
import edge_models
from edge_app.accuracy.intervals import over_repeats, paired, wider
from edge_app.core.counts import counted
from edge_app.core.errors import UsageError
from edge_app.system.files import json_bytes
from edge_models.classifier import contestants
from edge_models.classifier.contestants import CONTESTANTS, LENT, NEEDS
from edge_models.data.checks import scan
from edge_models.data.folder import PictureFolder
from edge_models.fitting.checkpoint import make_folder, write_atomic
from edge_models.fitting.progress import Progress
from edge_models.fitting.run_folder import make_scratch

Turn = dict[str, Any]
"""`answers` of one contestant with one seed, and `cpu_s`."""
OURS: Final = "edge-app"
_FILE: Final = "contest.json"
_TENTHS: Final = 10


@dataclass(frozen=True, slots=True)
class Contest:
    """Who learns what."""

    per_class: int | None
    """Pictures of each class to learn from; None: all that are not kept aside."""
    seeds: tuple[int, ...]
    who: tuple[str, ...]
    search: float
    """Minutes of our own search."""
    python: str = sys.executable
    """The interpreter that runs the others: of an environment of theirs."""
    kept_tenths: int = 3
    """Tenths of the pictures that are kept aside."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.who) - set(CONTESTANTS))
        if unknown:
            raise UsageError(f"nobody is called {unknown[0]!r}", expected=", ".join(CONTESTANTS))
        if not self.seeds:
            raise UsageError("no seed to learn with", expected="one or more")
        if self.per_class is not None and self.per_class < 2:
            raise UsageError(f"found {counted(self.per_class, 'picture')} per class", expected="2 or more")


def kept_aside(folder: PictureFolder, tenths: int) -> NDArray[np.bool_]:
    """(N,) which pictures judge: by the smallest hash of their near-duplicates, so that no group is torn."""
    first: dict[int, str] = {}
    for picture, group in zip(folder.pictures, folder.groups.tolist(), strict=True):
        first[group] = min(first.get(group, picture.sha256), picture.sha256)
    return np.array([int(first[group][:8], 16) % _TENTHS < tenths for group in folder.groups.tolist()])


def drawn(folder: PictureFolder, aside: NDArray[np.bool_], per_class: int | None, seed: int) -> list[int]:
    """The pictures that one seed learns from. Raises UsageError for a class with too few."""
    rng = np.random.default_rng([seed, 11])
    found: list[int] = []
    for label, name in enumerate(folder.classes):
        own = np.flatnonzero(~aside & (folder.labels == label))
        wanted = len(own) if per_class is None else per_class
        if len(own) < max(2, wanted):
            raise UsageError(
                f"class {name} has {counted(len(own), 'picture')} to learn from", expected=f"{max(2, wanted)} or more"
            )
        found += rng.permutation(own)[:wanted].tolist()
    return sorted(found)


def hold(directory: Path, contest: Contest, progress: Progress, keep: Path | None = None) -> dict[str, Any]:
    """Let everybody learn and judge them; a table ready for JSON.

    Finished turns are kept in `keep`/contest.json and not run again.
    """
    folder = scan(directory)
    aside = kept_aside(folder, contest.kept_tenths)
    if not aside.any():
        raise UsageError(f"{directory} is too small to keep a part aside", expected="a few dozen pictures")
    judge = np.flatnonzero(aside)
    done = _read(keep)
    found: dict[str, list[Turn]] = {who: [] for who in contest.who}
    absent = {who: why for who in contest.who if (why := _absent(who, contest.python))}
    turns = [(who, seed) for seed in contest.seeds for who in contest.who if who not in absent]
    progress.stage("contest", len(turns))
    for number, (who, seed) in enumerate(turns, 1):
        key = f"{who} | {contest.per_class or 'all'} | {seed} | {folder.sha256[:12]}" + (
            f" | {contest.search:g}" if who == OURS else ""
        )
        if key not in done:
            learn = drawn(folder, aside, contest.per_class, seed)
            done[key] = _turn(who, seed, folder, learn, judge, contest)
            if keep is not None:
                make_folder(keep)
                write_atomic(keep / _FILE, json_bytes(done))
        found[who].append(done[key])
        progress.advance(number, f"{who}, seed {seed}: {done[key]['cpu_s']:.0f} s of processor time")
    return {
        "folder": str(directory),
        "per_class": contest.per_class,
        "seeds": list(contest.seeds),
        "judged": len(judge),
        "absent": absent,
        "rows": [_row(who, turns, found.get(OURS), folder.labels[judge]) for who, turns in found.items() if turns],
    }


def _turn(
    who: str, seed: int, folder: PictureFolder, learn: Sequence[int], judge: NDArray[np.intp], contest: Contest
) -> Turn:
    """One contestant with one seed: its answers, and what the process and its children cost."""
    with make_scratch() as scratch:
        task, answer = scratch / "task.json", scratch / "answer.json"
        (scratch / "work").mkdir()
        told = {
            "learn": [(str(folder.pictures[i].path.resolve()), folder.pictures[i].label) for i in learn],
            "judge": [str(folder.pictures[int(i)].path.resolve()) for i in judge],
            "classes": list(folder.classes),
            "seed": seed,
            "search": contest.search,
            "scratch": str(scratch / "work"),
        }
        task.write_text(json.dumps(told), encoding="utf-8")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        python = sys.executable if who == OURS else contest.python
        command = [python, "-m", "edge_models.classifier.contestants", who, str(task), str(answer)]
        ended = subprocess.run(command, capture_output=True, text=True, env=_environment(), check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ended.returncode or not answer.is_file():
            last = (ended.stderr.strip() or "it said nothing").splitlines()[-1]
            raise UsageError(f"{who} failed ({last[:200]})", remedy="leave it out with --who")
        cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        return {"answers": json.loads(answer.read_text()), "cpu_s": round(cpu_s, 2)}


def _environment() -> dict[str, str]:
    """Ours, with the folders that hold this program's packages first and those of its libraries as a last resort.

    Another environment has no edge_models of its own, and AutoGluon does not run with our transformers.
    """
    roots = dict.fromkeys(str(Path(package.__path__[0]).parent) for package in (edge_app, edge_models))
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(roots),
        LENT: os.pathsep.join(path for path in sys.path if path and path not in roots),
    }


def _absent(who: str, python: str) -> str:
    """Why a contestant cannot enter; nothing where it can."""
    if who not in NEEDS:
        return ""
    try:
        asked = [python, "-c", f"from {contestants.__name__} import borrow; borrow(); import {NEEDS[who]}"]
        ended = subprocess.run(asked, capture_output=True, text=True, env=_environment(), check=False)
    except OSError as error:
        raise UsageError(f"{python} cannot be run ({error.strerror})", expected="a Python interpreter") from error
    return (ended.stderr.strip().splitlines() or ["cannot be imported"])[-1] if ended.returncode else ""


def _row(
    who: str, turns: Sequence[Mapping[str, Any]], ours: Sequence[Mapping[str, Any]] | None, labels: NDArray[np.intp]
) -> dict[str, Any]:
    right = np.array([np.array(turn["answers"]) == labels for turn in turns])
    weights = 1 / (len(np.unique(labels)) * np.bincount(labels)[labels])
    row: dict[str, Any] = {
        "who": who,
        "accuracy": float(right.mean()),
        "balanced": float((right * weights).sum(axis=1).mean()),
        "cpu_s": round(float(np.mean([turn["cpu_s"] for turn in turns])), 1),
        "seeds": [float(one.mean()) for one in right],
    }
    if ours is not None and who != OURS:
        theirs = np.array([np.array(turn["answers"]) == labels for turn in ours]).astype(float)
        gain = paired((theirs - right).mean(axis=0))
        if len(turns) > 1:
            gain = wider(gain, over_repeats((theirs - right).mean(axis=1)))
        row["ours_gains"] = {"value": gain.value, "low": gain.low, "high": gain.high}
    return row


def _read(keep: Path | None) -> dict[str, Turn]:
    path = keep and keep / _FILE
    if not path or not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{path} holds no contest ({error})", remedy="name another folder") from error
    if not isinstance(kept, dict):
        raise UsageError(f"{path} holds no contest", remedy="name another folder")
    return kept
