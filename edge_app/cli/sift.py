"""The command `sift`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_app.cli import options
from edge_app.cli.parameters import Argument, Arguments, Command, Option
from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError, UsageError

if TYPE_CHECKING:
    from edge_app.library.sift import How, Plan, Tally

_MORE = """\
Steps, each of which sees what the last one left:
  faces:0  faces:>=2     how many faces there are
  MODEL:LABEL>=0.9       a classifier's probability (MODEL:LABEL: its answer)
  NAME                   an enrolled person is there (or name:NAME)
  like:IMAGE>=0.8        as alike as that to a picture, by --embedder
  sharp  sharp>=0.2      not blurred
  larger:640             the shorter side has so many pixels
  not STEP               the opposite

OUT/kept gets links to what passed every step; nothing of yours is moved
without --move, and --undo OUT takes everything back. OUT/decisions.csv has
every decision, OUT/sift.html a few pictures of each side of each step. The
same command again goes on where it was stopped."""


def command() -> Command:
    return Command(
        "sift",
        run,
        example="edge-app sift pile/ --into desks/ --step larger:640 --step sharp --step faces:0\n"
        "         edge-app sift --undo desks/",
        more=_MORE,
        params=[
            Argument("source", "DIR", "the pile: a folder of pictures", kind=Path, required=False),
            Option("--into", kind=Path, metavar="OUT", help="a new folder, or that of a run to go on with"),
            Option("--step", repeated=True, metavar="STEP", help="one more question; in this order, cheap ones first"),
            Option("--recursive", kind=bool, help="look into the sub-folders of the pile too"),
            Option("--copy", kind=bool, help="copy what is kept instead of linking to it"),
            Option("--move", kind=bool, help="move what is kept out of the pile"),
            Option("--undo", kind=Path, metavar="OUT", help="move back, unlink, and delete what that run wrote"),
            Option("--embedder", metavar="ID", help="general image embedder for like: (default: the only one)"),
            options.json_flag(),
            *options.recognition(),
        ],
    )  # fmt: skip


def run(args: Arguments) -> int:
    """Sift a pile, or undo that; 1 when nothing was kept."""
    if args.undo is not None:
        return _undo(args)
    for given, name, what in ((args.source, "DIR", "a folder of pictures"), (args.into, "--into OUT", "a new folder"),
                              (args.step, "--step STEP", "at least one question")):  # fmt: skip
        if not given:
            raise UsageError(f"there is no {name}", expected=what)
    if args.copy and args.move:
        raise UsageError("both --copy and --move were given", expected="one of them")
    import cv2

    from edge_app.library.sift import PAGE, Plan, sift
    from edge_app.library.sift_page import page
    from edge_app.library.steps import parse_step
    from edge_app.library.tools import Tools
    from edge_app.system.files import write_private
    from edge_app.system.parallel import cores

    cv2.setNumThreads(1)
    home, settings = options.settings(args)
    # Each picture on one thread, all cores on different pictures.
    tools = Tools(home, replace(settings, threads=args.threads or 1), options.detector_options(args), args.embedder)
    how: How = "move" if args.move else "copy" if args.copy else "link"
    plan = Plan(str(args.source.absolute()), tuple(one.strip() for one in args.step), how, args.recursive)
    try:
        steps = [parse_step(step, tools) for step in plan.steps]
        with options.progress() as bar:
            task = bar.add_task("sifting", total=None)
            tally = sift(
                plan,
                steps,
                args.into,
                tools,
                cores(),
                lambda total: bar.update(task, total=total),
                lambda: bar.advance(task),
            )
        write_private(args.into / PAGE, page(plan, tally, args.into))
    finally:
        tools.close()
    _tell(args, plan, tally)
    return 0 if tally.kept else 1


def _tell(args: Arguments, plan: Plan, tally: Tally) -> None:
    if args.json:
        options.print_json(
            {
                "pictures": tally.pictures,
                "kept": tally.kept,
                "unreadable": tally.unreadable,
                "resumed": tally.resumed,
                "steps": [
                    {"step": step, "seen": seen, "passed": passed}
                    for step, seen, passed in zip(plan.steps, tally.seen, tally.passed, strict=True)
                ],
                "into": str(args.into),
            }
        )
    else:
        rows = [
            (str(number), step, f"{seen:,}", f"{passed:,}")
            for number, (step, seen, passed) in enumerate(zip(plan.steps, tally.seen, tally.passed, strict=True), 1)
        ]
        options.show(options.table("", ("", "step", "seen", "passed"), rows))
        what = {"link": "linked", "copy": "copied", "move": "moved"}[plan.how]
        options.say(f"{tally.kept:,} of {tally.pictures:,} pictures {what} into {args.into / 'kept'}")
    if (barren := tally.barren()) is not None:
        options.warn(
            f"nothing passes step {barren + 1}, {plan.steps[barren]}: 0 of {tally.seen[barren]:,}; "
            f"{args.into / 'sift.html'} shows some of them"
        )
    if tally.unreadable:
        options.note(f"{tally.unreadable:,} could not be read; decisions.csv says why")
    if tally.resumed:
        options.note(f"{tally.resumed:,} were decided by an earlier run")


def _undo(args: Arguments) -> int:
    from edge_app.library.sift import undo

    if args.source is not None or args.into is not None or args.step:
        raise UsageError("--undo takes the folder of a sift alone", expected="edge-app sift --undo OUT")
    done = undo(args.undo)
    for problem in done.problems:
        options.warn(problem)
    if args.json:
        options.print_json({"moved_back": done.back, "removed": done.removed, "problems": done.problems})
    else:
        options.say(f"{counted(done.back, 'picture')} moved back, {done.removed:,} links and copies deleted")
    if done.problems:
        raise EdgeError(
            f"{counted(len(done.problems), 'file')} left in {args.undo}", remedy="look at them, then undo again"
        )
    return 0
