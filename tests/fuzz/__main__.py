"""`python -m tests.fuzz --seed 0 --inputs 50000`: mutated inputs at every entry point; exit code 1 on any fault."""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.fuzz.harness import fuzz, input_of, load_entry_points


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=50_000, help="of all entry points together")
    parser.add_argument("--only", default="", help="entry points whose name holds this")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--show", type=int, metavar="N", help="write input N of the one entry point to standard output")
    args = parser.parse_args()
    names = [name for name in load_entry_points() if args.only in name]
    if not names:
        parser.error(f"no entry point is called like {args.only!r}")
    if args.show is not None:
        entry = load_entry_points()[names[0]]
        sys.stdout.buffer.write(input_of(entry, entry.valid(), args.seed, args.show))
        return 0
    registry = load_entry_points()
    shares = sum(registry[name].share for name in names)
    each = {name: -int(-args.inputs * registry[name].share // shares) for name in names}
    started_s = time.monotonic()
    print(f"{'entry point':34} {'inputs':>7} {'refused':>8} exceptions codes >10s >1GB crashes", flush=True)
    tallies = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for done in as_completed([pool.submit(fuzz, name, args.seed, each[name]) for name in names]):
            tally = done.result()
            kinds = (tally.exceptions, tally.control_codes, tally.slow, tally.large, tally.crashes)
            share = tally.refused / max(1, tally.inputs)
            counts = "{:10} {:5} {:4} {:4} {:7}".format(*map(len, kinds))
            print(f"{tally.name:34} {tally.inputs:7} {share:8.0%} {counts}", flush=True)
            tallies.append(tally)
    for tally in tallies:
        for fault in tally.faults[:10]:
            print(f"{tally.name} {fault}")
    total = sum(tally.inputs for tally in tallies)
    faults = sum(len(tally.faults) for tally in tallies)
    print(f"{total:,} inputs, seed {args.seed}, {time.monotonic() - started_s:.0f} s: {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
