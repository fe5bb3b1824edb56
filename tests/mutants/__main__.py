"""Breaks lines of the product one at a time, in a copy, and tells which breakages no test notices.

Example: `python -m tests.mutants --seed 1 --lines 40`. Exit code 1 unless all are killed. The quick tests
that import a broken file, and the others of its room, run once on the unbroken code, to see which come past the line;
those run on the broken code until one fails. Where none does (a constant that is read once), all of them run.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from pathlib import Path

from tests.mutants.mutate import sample
from tests.mutants.named import named
from tests.mutants.trial import Trial, copy_of, covering_tests

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="which lines, and which breakage of each")
    parser.add_argument("--lines", type=int, default=40, help="how many, over all rooms, two a room at least")
    parser.add_argument("--only", action="append", default=[], metavar="ROOM", help="rooms whose name holds this")
    parser.add_argument("--named", action="store_true", help="the breakages of tests/mutants/named.py instead")
    parser.add_argument("--slow", action="store_true", help="run the slow tests too")
    parser.add_argument(
        "--time-limit", type=float, default=600.0, metavar="S", help="seconds for the tests of one mutant"
    )
    parser.add_argument("--list", action="store_true", help="only show what would be broken, and the tests for it")
    parser.add_argument("--pick", type=int, nargs="+", metavar="N", help="only these of the list, counted from 1")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    args = parser.parse_args()
    mutants = named(REPOSITORY) if args.named else sample(REPOSITORY, args.lines, args.seed, args.only)
    if not mutants:
        parser.error("there is nothing to break")
    picked = [(n, mutant) for n, mutant in enumerate(mutants, 1) if not args.pick or n in args.pick]
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copy is deleted then too
    trials = []
    with copy_of(REPOSITORY) as copy:
        copy.slow, copy.time_limit_s = args.slow, args.time_limit
        if not args.list and not args.named:
            print(
                f"running the tests of {len(picked)} files once, to see which reach what", file=sys.stderr, flush=True
            )
            copy.find_reaching_tests([mutant for _, mutant in picked])
        for number, mutant in picked:
            if args.list:
                trial = Trial(mutant, "", "", tuple(covering_tests(copy.root, mutant.file)), 0.0)
            else:
                trial = copy.try_out(mutant)
            trials.append(trial)
            print("\n".join(_told(number, trial)), file=sys.stderr if args.json else sys.stdout, flush=True)
        trials = trials if args.list else copy.confirmed(trials)
    signal.signal(signal.SIGTERM, before)
    counts = Counter(trial.verdict for trial in trials)
    if args.json:
        rows = [_row(trial) for trial in trials]
        json.dump({"seed": args.seed, "counts": counts, "mutants": rows}, sys.stdout, indent=2)
        print()
    elif not args.list:
        for trial in trials:
            if trial.verdict == "unsure":
                print(
                    f"{trial.by} fails on the unbroken code too: {trial.mutant.file}:{trial.mutant.line} is not judged"
                )
        print(f"{len(trials)} mutants: " + ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.items())))
    return 0 if args.list or counts["killed"] == len(trials) else 1


def _told(number: int, trial: Trial) -> list[str]:
    mutant = trial.mutant
    what = f" {mutant.name}" if mutant.name else ""
    lines = [f"{number:3} {trial.verdict or mutant.kind:9} {mutant.file}:{mutant.line}{what}"]
    lines += [f"    - {_short(mutant.original)}", f"    + {_short(mutant.mutant)}"]
    if trial.by:
        return [*lines, f"    {trial.by} ({trial.seconds:.0f} s)"]
    return [*lines, f"    tests: {' '.join(trial.tried) or 'none'}"]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 160 else text[:157] + "..."


def _row(trial: Trial) -> dict[str, object]:
    mutant = trial.mutant
    return {
        "file": mutant.file,
        "line": mutant.line,
        "name": mutant.name,
        "kind": mutant.kind,
        "original": mutant.original,
        "mutant": mutant.mutant,
        "verdict": trial.verdict,
        "by": trial.by,
        "tried": trial.tried,
        "seconds": round(trial.seconds, 1),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    sys.exit(main())
