"""`calibrate` of a classifier: what missing each label costs, what that finds, and how often it cries wolf."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from edge_app.cli import options
from edge_app.cli.parameters import Arguments
from edge_app.core.errors import EdgeError, MediaError, UsageError
from edge_app.core.suggest import did_you_mean

if TYPE_CHECKING:
    from edge_app.accuracy.costs import Judged
    from edge_app.accuracy.intervals import Estimate

_OTHERS: Final = "others"
_RATE: Final = 0.05
_FEW: Final = 30


def run(args: Arguments) -> int:
    """Set the costs, and judge them where a folder is given."""
    from edge_app.model_store.catalogue import builds, open_entry
    from edge_app.model_store.costs import set_costs

    if args.model is None:
        raise UsageError("costs are for a classifier", expected="--model with the id of one")
    home, _ = options.settings(args)
    card = open_entry(builds(home, args.model)[0], 1).card
    if not card.task.classifies:
        raise UsageError(f"{args.model} is a model for {card.task}", expected="a classifier for --cost")
    if args.reset:
        set_costs(home, args.model, {})
        options.say(f"{args.model}: every label costs the same again")
        return 0
    if args.cost is None:
        raise UsageError(f"{args.model} is a classifier", expected="--cost LABEL=N,..., what missing a label costs")
    costs = _costs(args.cost, card.labels)
    normal = _normal(args.normal, card.labels, costs)
    report: dict[str, Any] = {"model": args.model, "costs": costs, "normal": normal}
    lines = []
    if args.folder is not None:
        before, after, at_rate, left_out = _judged(args, card.labels, costs, normal)
        report |= {"pictures": sum(one.trials for one in after.found.values()), "left_out": left_out}
        report |= {"before": _plain(before), "after": _plain(after)}
        report |= {"found_at_false_alarms": {"rate": _RATE, **_estimate(at_rate)}}
        lines = [
            f"alarms found: {_words(before.alarmed)} without costs, {_words(after.alarmed)} with them",
            f"false alarms: {_words(before.alarms)} without, {_words(after.alarms)} with",
            f"mean cost of a picture: {before.cost:.3f} without, {after.cost:.3f} with",
            f"alarms found where {_RATE:.0%} of the normal ones cry wolf: {_words(at_rate)}",
        ]
        few = [label for label in card.labels if label not in after.found or after.found[label].trials < _FEW]
        if few and not args.json:
            options.warn(f"fewer than {_FEW} pictures of {', '.join(few[:6])}: their figures say little")
    set_costs(home, args.model, costs)
    if args.json:
        options.print_json(report)
        return 0
    if args.folder is not None:
        rows = [
            (label, f"{costs[label]:g}", _words(before.found[label]), _words(after.found[label]))
            for label in card.labels
            if label in after.found
        ]
        options.show(options.table("", ("label", "cost", "found without", "found with costs"), rows))
    for line in lines:
        options.say(line)
    options.say(f"{args.model} tells the label with the least expected cost from now on; back: --reset")
    return 0


def _costs(text: str, labels: tuple[str, ...]) -> dict[str, float]:
    """A cost for every label. Raises UsageError for a label that there is none of, and for what is no cost."""
    given: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.rpartition("=")
        name = name.strip()
        try:
            cost = float(number)
        except ValueError:
            cost = 0.0
        if not equals or not 0 < cost <= 1e6:
            raise UsageError(f"--cost says {part.strip()!r}", expected="LABEL=N, N above 0, such as free=1,others=20")
        if name not in labels and name != _OTHERS:
            raise UsageError(
                f"there is no label {name!r}", expected=f"one of {', '.join(labels[:20])}, or {_OTHERS}",
                remedy=did_you_mean(name, labels),
            )  # fmt: skip
        if name in given:
            raise UsageError(f"--cost names {name!r} twice", expected="each label once")
        given[name] = cost
    rest = given.pop(_OTHERS, 1.0) if _OTHERS not in labels else 1.0
    return {label: given.get(label, rest) for label in labels}


def _normal(asked: str | None, labels: tuple[str, ...], costs: Mapping[str, float]) -> str:
    if asked is not None:
        if asked not in labels:
            raise UsageError(f"there is no label {asked!r}", expected=f"one of {', '.join(labels[:20])}")
        return asked
    least = min(costs.values())
    cheapest = [label for label in labels if costs[label] == least]
    if len(cheapest) > 1:
        raise UsageError(f"{len(cheapest)} labels cost least", expected="--normal LABEL, whose loss is a false alarm")
    return cheapest[0]


def _judged(
    args: Arguments, labels: tuple[str, ...], costs: Mapping[str, float], normal: str
) -> tuple[Judged, Judged, Estimate, int]:
    """The folder's pictures judged without the costs and with them."""
    import numpy as np

    from edge_app.accuracy.costs import found_at, judge
    from edge_app.core.task import LookFor
    from edge_app.core.types import Classification, Frame
    from edge_app.media.folders import named_folders
    from edge_app.media.pictures import read_picture
    from edge_app.recognition.open_session import OpenOptions, open_session
    from edge_app.system.parallel import cores, ordered_map

    home, settings = options.settings(args)
    session = open_session(
        home,
        replace(settings, threads=args.threads or 1),
        LookFor(args.model),
        OpenOptions(detector=options.detector_options(args)),
    )
    work = []
    for name, pictures in named_folders(args.folder, of="label", unused=[], problem=options.warn):
        if name in labels:
            work += [(path, labels.index(name)) for path in pictures]
        else:
            options.warn(f"left out {name}: no label of {args.model}")

    def look(item: tuple[Any, int]) -> list[float] | None:
        try:
            seen = session.recognizer.observe(Frame(read_picture(item[0])))
        except MediaError as error:
            options.warn(f"left out: {error}")
            return None
        answer = seen.findings[0].answer if seen.findings else None
        if not isinstance(answer, Classification):
            return None
        by_label = {score.label: score.probability for score in answer.scores}
        return [by_label[label] for label in labels]

    with options.progress() as bar:
        task = bar.add_task("looking", total=len(work))
        rows = []
        for row in ordered_map(look, work, cores()):
            bar.advance(task)
            rows.append(row)
    seen = [(row, truth) for row, (_, truth) in zip(rows, work, strict=True) if row is not None]
    usual = labels.index(normal)
    truth = np.array([one for _, one in seen], np.intp)
    if not len(seen) or not (np.any(truth == usual) and np.any(truth != usual)):
        raise EdgeError(f"{args.folder} holds too little", expected=f"pictures of {normal!r} and of another label")
    chances = np.array([row for row, _ in seen])
    return (
        judge(chances, truth, labels, costs, normal, weigh=False),
        judge(chances, truth, labels, costs, normal),
        found_at(chances, truth, usual, _RATE),
        len(work) - len(seen),
    )


def _words(one: Estimate) -> str:
    right = round(one.value * one.trials) if one.trials else 0
    return f"{right} of {one.trials} ({100 * one.low:.0f} to {100 * one.high:.0f} %)"


def _estimate(one: Estimate) -> dict[str, float | int | None]:
    return {"share": one.value if one.trials else None, "low": one.low, "high": one.high, "pictures": one.trials}


def _plain(judged: Judged) -> dict[str, Any]:
    return {
        "found": {label: _estimate(one) for label, one in judged.found.items()},
        "alarms_found": _estimate(judged.alarmed),
        "false_alarms": _estimate(judged.alarms),
        "mean_cost": judged.cost,
    }
