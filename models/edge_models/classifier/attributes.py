"""Attributes that a user states of classes: a class without pictures is recognized by the attributes it shares.

Direct attribute prediction (Lampert et al. 2009): a logistic regression for each attribute, whose chances make those of
a class. Over classes, log chances are sums of the attributes' logits but for what all classes have in common, so that a
class without pictures is one more row of the same linear head: the network that is served stays what it was.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edge_app.accuracy.intervals import wilson
from edge_app.core.attributes import MOST_ATTRIBUTES, Attribute
from edge_app.core.errors import ModelError, UsageError
from edge_app.core.names import valid_name
from edge_models.classifier.heads import logits_of, solve_head
from edge_models.classifier.network import Head, TransferClassifier, feature_scale
from edge_models.classifier.recipe import Trained
from edge_models.classifier.stages import Workshop
from edge_models.data.yaml_file import read_yaml

EXPECTED: Final = "a class and its attributes on each line, such as `tiger: [stripes, fur]`"
_LEAST_CLASSES: Final = 3
"""With pictures, where a class has none: each is left out in turn to learn how far attributes may be believed."""
_MOST_LEFT_OUT: Final = 20
_MOST_UNSEEN: Final = 1000

Float32s = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Stated:
    """What a user says of classes."""

    classes: tuple[str, ...]
    """Those of the folder in their order, those without pictures behind them."""
    names: tuple[str, ...]
    """Of the M attributes."""
    table: NDArray[np.bool_]
    """(classes, M) which class has which."""
    pictured: int
    """Classes of the folder."""

    @property
    def unseen(self) -> tuple[str, ...]:
        """Classes without pictures."""
        return self.classes[self.pictured :]

    @property
    def told(self) -> tuple[Attribute, ...]:
        """As a card holds them, with bars still to be measured."""
        columns = zip(self.names, self.table.T, strict=True)
        return tuple(
            Attribute(name, tuple(c for c, has in zip(self.classes, column, strict=True) if has))
            for name, column in columns
        )


def read_attributes(path: Path, classes: Sequence[str]) -> Stated:
    """Read a YAML file: each class of the folder with a list of its attributes, and classes that have no pictures.

    Raises UsageError that names what is wrong: a class of the folder left out, an attribute that does not tell the
    folder's classes apart, a class without pictures that has the very attributes of another.
    """
    plain = read_yaml(path, EXPECTED)

    def refuse(found: str, expected: str = EXPECTED, remedy: str = "") -> UsageError:
        return UsageError(f"{path}: {found}", expected=expected, remedy=remedy)

    if not isinstance(plain, dict) or not plain:
        raise refuse("it holds no classes")
    folded = {unicodedata.normalize("NFC", name): name for name in classes}
    said: dict[str, tuple[str, ...]] = {}
    for key, value in plain.items():
        try:
            name = valid_name(key)
            name = folded.get(name, name)
            listed = [value] if isinstance(value, str) and value else value or []
            if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
                raise refuse(f"the attributes of {name!r} are no list of words")
            words = tuple(valid_name(str(one)) for one in listed)
        except UsageError as error:
            raise error if str(path) in error.found else refuse(error.found, error.expected, error.remedy) from error
        if name in said:
            raise refuse(f"{name!r} stands there twice")
        if len(set(words)) != len(words):
            raise refuse(f"{name!r} has an attribute twice")
        said[name] = words
    if left := [name for name in classes if name not in said]:
        raise refuse(f"it leaves out {', '.join(left[:6])}", "every class of the folder", f"write `{left[0]}: []`")
    known = set(classes)
    order = (*classes, *(name for name in said if name not in known))
    if len(order) - len(classes) > _MOST_UNSEEN:
        raise refuse(f"{len(order) - len(classes)} classes have no pictures", f"at most {_MOST_UNSEEN}")
    names = tuple(dict.fromkeys(word for name in order for word in said[name]))
    if not 1 <= len(names) <= MOST_ATTRIBUTES:
        raise refuse(f"it names {len(names)} attributes", f"1 to {MOST_ATTRIBUTES}")
    table = np.array([[word in said[name] for word in names] for name in order])
    count = len(classes)
    for word, column in zip(names, table[:count].T, strict=True):
        if column.all() or not column.any():
            have = "every class" if column.all() else "no class"
            raise refuse(f"{have} of the folder has {word!r}", "some that have it and some that lack it")
    if len(order) > count and count < _LEAST_CLASSES:
        raise refuse(f"{count} classes have pictures", f"{_LEAST_CLASSES} or more, where another has none")
    for number in range(count, len(order)):
        if twin := [order[i] for i in range(len(order)) if i != number and (table[i] == table[number]).all()]:
            raise refuse(f"{order[number]!r}, which has no pictures, has the very attributes of {twin[0]!r}", "others")
    try:
        stated = Stated(order, names, table, count)
        _ = stated.told
    except ModelError as error:
        raise refuse(error.found, error.expected) from error
    return stated


@dataclass(frozen=True, slots=True)
class Belief:
    """How a row made of attributes compares with rows that were learned from pictures."""

    gain: float
    offset: float


def belief_of(work: Workshop, stated: Stated) -> Belief:
    """Learned by leaving out each class of the train part in turn and judging the selection part, its own pictures
    weighing as much as an even share of all."""
    parts = list(_left_out(work, stated, work.split.train, work.split.selection))

    def loss(parameters: NDArray[np.float64]) -> float:
        total = 0.0
        for number, logits, score, labels in parts:
            seen = logits.copy()
            seen[:, number] = np.exp(parameters[0]) * score + parameters[1]
            seen -= seen.max(axis=1, keepdims=True)
            chance = seen[np.arange(len(labels)), labels] - np.log(np.exp(seen).sum(axis=1))
            own = labels == number
            share = 1 / logits.shape[1]
            total -= share * float(chance[own].mean()) + (1 - share) * float(chance[~own].mean())
        return total + 0.01 * float(parameters @ parameters)

    from scipy.optimize import minimize  # type: ignore[import-untyped]

    usable = [one for one in parts if (one[3] == one[0]).any() and (one[3] != one[0]).any()]
    if not usable:
        raise UsageError(
            "no class can be left out to learn how far attributes are to be believed",
            expected="classes with a picture in the selection part",
        )
    parts = usable
    best = min(
        (minimize(loss, np.array([begin, 0.0]), method="Nelder-Mead") for begin in (-1.0, 0.0, 1.0)),
        key=lambda one: float(one.fun),
    )
    return Belief(float(np.exp(best.x[0])), float(best.x[1]))


def with_unseen(work: Workshop, head: Head, stated: Stated, belief: Belief, learned: Sequence[int]) -> Head:
    """The head with a row for every class without pictures; `learned` are the pictures that it learned from."""
    matrix, bias = _attribute_rows(work, stated.table, learned)
    scale = float(head.scale) / feature_scale(_views(work, learned))
    rows, offsets = _dap(matrix, bias, stated, learned, work, stated.table[stated.pictured :])
    whole = Head(head.linear.in_features, len(stated.classes))
    whole.scale.copy_(head.scale)
    with torch.no_grad():
        whole.linear.weight.copy_(torch.cat([head.linear.weight, belief.gain * scale * rows]))
        whole.linear.bias.copy_(torch.cat([head.linear.bias, belief.gain * offsets + belief.offset]))
    return whole.eval()


def widened(work: Workshop, trained: Trained, stated: Stated) -> tuple[Trained, dict[str, Any]]:
    """The same networks with rows for the classes without pictures, and the report of `left_out_report`."""
    belief = belief_of(work, stated)

    def wider(model: TransferClassifier, learned: Sequence[int]) -> TransferClassifier:
        return TransferClassifier(model.backbone, with_unseen(work, model.head, stated, belief, learned))

    judged = wider(trained.judged, work.split.fit)
    everything = tuple(sorted(work.split.fit + work.split.validation))
    model = wider(trained.model, everything) if trained.learned_all else judged
    logits = logits_of(judged.head, work.bank.plain[list(work.split.validation)])
    told = left_out_report(work, stated, belief)
    share = told["found"]
    work.progress.note(
        f"{', '.join(stated.unseen[:6])}: recognized by attributes alone; how well, nothing can measure without "
        f"pictures. Of the classes of the folder, each left out in turn and judged among all, {share['value']:.0%} of "
        f"{told['trials']} pictures were found so ({share['low']:.0%} to {share['high']:.0%}; guessing "
        f"{1 / stated.pictured:.0%})"
    )
    return replace(trained, model=model, judged=judged, logits=logits), told


def left_out_report(work: Workshop, stated: Stated, belief: Belief) -> dict[str, Any]:
    """How well each class of the folder is recognized by its attributes alone, had it no pictures: judged on the
    validation part, among all classes of the folder."""
    right = trials = 0
    classes: dict[str, Any] = {}
    for number, logits, score, labels in _left_out(work, stated, work.split.fit, work.split.validation):
        seen = logits.copy()
        seen[:, number] = belief.gain * score + belief.offset
        own = labels == number
        found = int((seen[own].argmax(axis=1) == number).sum())
        classes[stated.classes[number]] = {"found": found, "pictures": int(own.sum())}
        right, trials = right + found, trials + int(own.sum())
    share = wilson(right, trials)
    return {"classes": classes, "found": {"value": share.value, "low": share.low, "high": share.high}, "trials": trials}


def _left_out(work: Workshop, stated: Stated, learn: Sequence[int], judge: Sequence[int]) -> Any:
    """For each class that is left out: its number, logits (n, C) of a head that never saw it, the attributes' score
    (n,) of it, and the labels (n,) of the pictures that judge."""
    labels = work.folder.labels
    at, count = np.array(learn, np.intp), stated.pictured
    at = at[at < len(labels)]
    judged = np.array(judge, np.intp)
    features = work.bank.plain[judged]
    for number in np.unique(np.linspace(0, count - 1, min(count, _MOST_LEFT_OUT)).astype(int)).tolist():
        rest = at[labels[at] != number]
        others = [c for c in range(count) if c != number]
        varied = stated.table[others].any(axis=0) & ~stated.table[others].all(axis=0)
        if not varied.any():
            continue
        views = _views(work, rest)
        targets = work.targets[rest.tolist()][:, others].repeat(len(work.bank.features), 1)
        head = solve_head(views, targets / targets.sum(1, keepdim=True), work.options.ridge * len(work.bank.features))
        logits = np.full((len(judged), count), -np.inf)
        logits[:, others] = logits_of(head, features)
        table = stated.table[:, varied]
        matrix, bias = _attribute_rows(work, table, rest)
        rows, offsets = _dap(matrix, bias, stated, rest, work, table[[number]], table)
        score = (features / feature_scale(views)) @ rows[0] + offsets[0]
        yield number, logits, score.double().numpy(), labels[judged]


def _views(work: Workshop, at: Sequence[int] | NDArray[np.intp]) -> Tensor:
    views = work.bank.features[:, [int(i) for i in at]]
    return views.reshape(-1, views.shape[2])


def _attribute_rows(
    work: Workshop, table: NDArray[np.bool_], at: Sequence[int] | NDArray[np.intp]
) -> tuple[Tensor, Tensor]:
    """(M, D) and (M,): a logistic regression for each attribute, on scaled features; L-BFGS, as `solve_head`."""
    views = _views(work, at)
    wanted = torch.from_numpy(table[work.folder.labels[[int(i) for i in at]]]).float()
    wanted = wanted.repeat(len(work.bank.features), 1)
    rows = views / feature_scale(views)
    matrix = torch.zeros(table.shape[1], rows.shape[1], requires_grad=True)
    bias = torch.zeros(table.shape[1], requires_grad=True)
    strength = work.options.ridge / len(at)
    optimizer = torch.optim.LBFGS(
        [matrix, bias], max_iter=60, tolerance_grad=1e-4, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = rows @ matrix.T + bias
        loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(0).sum()
        loss = loss + 0.5 * strength * matrix.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return matrix.detach(), bias.detach()


def _dap(
    matrix: Tensor,
    bias: Tensor,
    stated: Stated,
    at: Sequence[int] | NDArray[np.intp],
    work: Workshop,
    wanted: NDArray[np.bool_],
    table: NDArray[np.bool_] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows (U, D) and offsets (U,) of classes that have the `wanted` (U, M) attributes: the sum of their attributes'
    logits, less how common each attribute, or its lack, is among the pictures; a mean over attributes."""
    own = (stated.table if table is None else table)[work.folder.labels[[int(i) for i in at]]]
    common = torch.from_numpy(np.clip(own.mean(axis=0), 0.01, 0.99)).float()
    has = torch.from_numpy(wanted).float()
    prior = has @ common.log() + (1 - has) @ (1 - common).log()
    count = has.shape[1]
    return has @ matrix / count, (has @ bias - prior) / count
