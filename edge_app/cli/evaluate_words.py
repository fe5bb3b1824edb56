"""What `evaluate` prints for people; with --json nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edge_app.cli import options
from edge_app.cli.evaluate_parts import share_of


def tell(report: Mapping[str, Any]) -> None:
    if "peer" in report:
        _tell_peer(report["made"], report["peer"])
        return
    for each in report.get("written", [report]):
        title = f"{each['file']}: card written" if "file" in each else f"{each['model']} {each['precision']}"
        options.say(f"{title}: {each['pictures']:,} pictures of {each['identities']:,} people")
        options.say(f"  faces not found: {each['faces not found']}")
        if each["pairs"]:
            options.say(f"  10-fold accuracy on the pairs: {share_of(each['pairs']['accuracy'])}")
        _tell_galleries(each)
    if "refused" in report:
        _tell_gate(report)
    for each in report.get("written", [report]):
        if "judged" in each:
            _tell_judged(each)
    if "groups" in report:
        _tell_groups(report["groups"])


def _tell_galleries(report: Mapping[str, Any]) -> None:
    asked = f"{report['fpir asked']:.1%}"
    rows = []
    for each in report["galleries"]:
        realized, apart = each["open_set"]["realized"], each["held_out"]
        rows.append(
            (
                f"{each['people']}",
                share_of(each["open_set"]["fnir_at_fpir"]),
                f"{each['threshold']:.3f}",
                share_of(realized["fpir"]),
                share_of(realized["fnir"]),
                f"{apart['fpir']:.2%} / {apart['fnir']:.2%} ({apart['people']} people)" if apart else "",
            )
        )
    columns = ("people", f"FNIR at FPIR {asked}", "threshold", "FPIR that happens", "FNIR", "held-out FPIR / FNIR")
    if rows:
        options.show(options.table(f"two pictures each, strangers asked for: {asked}", columns, rows))
    elif why := report.get("no galleries"):
        options.say(f"  {why}")
    points = [
        (f"{p['fmr']:.0e}", f"{p['templates']}", f"{p['threshold']:.4f}", f"{p['impostor_pairs']:,}")
        for p in report["operating points"]
    ]
    if points:
        options.show(options.table("operating points", ("FMR", "templates", "similarity", "impostor pairs"), points))
    else:
        options.say("  no operating points: they want pictures of two people at least")


def _tell_groups(groups: Mapping[str, Any]) -> None:
    rows: list[tuple[str, ...]] = [
        (each["group"], f"{each['fmr']:g}", share_of(each["happened"]), f"{each['pairs']:,}", f"{each['left_out']:,}")
        for each in groups["fmr"]
    ]
    columns: tuple[str, ...] = ("group", "FMR asked", "happened", "pairs of strangers", "left out as one person")
    options.show(options.table("two strangers of one group taken for one person", columns, rows))
    rows = [
        (
            each["group"],
            f"{each['people']}",
            f"{each['templates']}",
            f"{each['fpir']:.1%}",
            share_of(each["happened"]),
            f"{each['happened']['trials']:,}",
            f"{each['peers']:.1f}",
        )
        for each in groups["fpir"]
    ]
    columns = ("group", "people", "pictures", "FPIR asked", "happened", "strangers", "of their kind")
    options.show(options.table("strangers named in galleries of their own group", columns, rows))
    options.say("of their kind: for how many people of his own kind the gallery counts to a stranger, on average")


def _tell_judged(report: Mapping[str, Any]) -> None:
    judged = report["judged"]
    options.say(
        f"{report['file']}: judged on people kept aside, {judged['strangers']:,} strangers by group, "
        f"{judged['pairs_left_out']:,} pairs left out as one person; no thresholds rest on: "
        f"{', '.join(judged['left_out']) or 'nothing'}"
    )
    _tell_groups(judged)
    rows = [
        (
            f"{each['people']}",
            f"{each['templates']}",
            *(share_of(each[which][rate]) for which in ("evened", "plain") for rate in ("fpir", "fnir")),
        )
        for each in judged["crowd"]
    ]
    columns = ("people", "pictures", "FPIR", "FNIR", "FPIR with plain cosines", "FNIR with plain cosines")
    options.show(options.table("the crowd, 1 % asked", columns, rows))


def _tell_gate(report: Mapping[str, Any]) -> None:
    refused = report["refused"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in refused["reasons"].items())
    share = f"{refused['share']:.2%}"
    options.say(f"  the enrollment gate refuses {share} of the pictures as they are ({reasons or 'none'})")
    rows = [
        (name, f"{each['share']:.1%}", f"{each['pictures']}", ", ".join(f"{k} {v}" for k, v in each["reasons"].items()))
        for name, each in report.get("spoiled", {}).items()
    ]
    if rows:
        options.show(options.table("spoiled on purpose", ("pictures", "refused", "of", "why"), rows))


def _tell_peer(made: Mapping[str, Any], peer: Mapping[str, Any]) -> None:
    options.say(
        f"{made['library']}, upsample {made['upsample']}: {peer['pictures']:,} pictures, {made['seconds']:.0f} s"
    )
    options.say(f"  faces not found: {peer['not_found']} (left out of the galleries; their pairs are told different)")
    if peer["pairs"]:
        options.say(f"  10-fold accuracy on the pairs: {share_of(peer['pairs']['accuracy'])}")
    rows = [
        (
            f"{each['people']}",
            f"{each['named_at_tolerance']:.2%}",
            f"{each['missed_at_tolerance']:.2%}",
            f"{each['fnir_at_fpir']:.2%}",
            f"{each['tolerance_at_fpir']:.3f}",
        )
        for each in peer["galleries"]
    ]
    tolerance = f"{peer['tolerance']:g}"
    columns = (
        "people",
        f"strangers named at {tolerance}",
        f"FNIR at {tolerance}",
        "FNIR at FPIR 1 %",
        "tolerance for that",
    )
    options.show(options.table("two pictures each, the nearer counts", columns, rows))
