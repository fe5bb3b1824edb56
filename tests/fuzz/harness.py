"""Runs entry points on mutated inputs, in processes that are watched: for exceptions, escape codes, time and memory.

An entry point is a function of the input and an empty folder; what it returns is taken as what a user is shown:

    @entry_point("json", seeds=[b'{"fpir": 0.01}'])
    def settings(data, folder):
        (folder / "settings.json").write_bytes(data)
        return say("doctor", "--home", folder)

It may raise EdgeError, whose line is then what is shown. Everything else is a fault. Put it into a module of
`tests/fuzz/entry_points`; `python -m tests.fuzz` finds it there.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import pkgutil
import random
import resource
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_app.core.errors import EdgeError
from tests.fuzz.mutate import mutated

TIME_LIMIT_S = 10.0
"""Of processor time; see `_PATIENCE`."""
_PATIENCE = 6
"""So many times the limit by the clock on the wall, for what waits and takes no processor time."""
MEMORY_LIMIT_BYTES = 1 << 30
"""Beyond what the process held when it began: libraries alone may take half as much."""
_REPOSITORY = Path(__file__).resolve().parents[2]

Run = Callable[[bytes, Path], "str | None"]
Seeds = Sequence[bytes] | Callable[[], Sequence[bytes]]
REGISTRY: dict[str, EntryPoint] = {}


@dataclass(frozen=True)
class EntryPoint:
    """Where strangers' bytes come in."""

    name: str
    kind: str
    """How inputs are mutated: "bytes", "json" or "toml"."""
    seeds: Seeds
    """Valid inputs, or a function that makes them, once a process."""
    run: Run
    share: float = 1.0
    """How many inputs it gets beside the others: what takes long gets fewer."""

    def valid(self) -> tuple[bytes, ...]:
        """The valid inputs."""
        return tuple(self.seeds() if callable(self.seeds) else self.seeds)


@dataclass
class Tally:
    """What came of the inputs of one entry point."""

    name: str
    inputs: int = 0
    refused: int = 0
    """Inputs that ended in one line for the user: most should, or the mutations are too tame or too wild."""
    exceptions: list[str] = field(default_factory=list)
    control_codes: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    large: list[str] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)
    """The process died: a native crash, or all memory."""

    @property
    def faults(self) -> list[str]:
        """Everything that must not happen."""
        return [*self.exceptions, *self.control_codes, *self.slow, *self.large, *self.crashes]


def entry_point(kind: str, seeds: Seeds, share: float = 1.0) -> Callable[[Run], Run]:
    """Register a function as an entry point under its module's and its own name; see `EntryPoint.share`."""

    def register(run: Run) -> Run:
        name = f"{run.__module__.rpartition('.')[2]}.{run.__name__}"
        REGISTRY[name] = EntryPoint(name, kind, seeds, run, share)
        return run

    return register


def load_entry_points() -> dict[str, EntryPoint]:
    """Everything that is registered in `tests/fuzz/entry_points`."""
    from tests.fuzz import entry_points

    for info in pkgutil.iter_modules(entry_points.__path__):
        importlib.import_module(f"{entry_points.__name__}.{info.name}")
    return REGISTRY


def say(*words: object) -> str:
    """Run a command of edge-app in this process; returns what it printed. An internal fault is raised."""
    from edge_app.cli import main

    os.environ["EDGE_APP_DEBUG"] = "1"  # a fault of ours comes through instead of becoming a line
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
    shown = out.buffer.getvalue().decode("utf-8", "replace")  # type: ignore[attr-defined]
    if code not in (0, 1, 2):
        raise AssertionError(f"exit code {code}: {shown[:300]}")
    return shown


def parsed(data: bytes) -> Any:
    """The JSON document of an input; None where a mutation left none: then there is nothing to build from it."""
    try:
        return json.loads(data.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None


def parsed_texts(data: bytes, most: int = 12) -> list[str]:
    """The texts of a JSON list, so many at most."""
    found = parsed(data)
    return [one for one in found if isinstance(one, str)][:most] if isinstance(found, list) else []


def controls(shown: str) -> list[str]:
    """Characters of an output that could steer a terminal, as escapes; line breaks and tabs may be ours."""
    from edge_app.core.plain_text import plain

    bare = shown.replace("\n", " ").replace("\t", " ").replace("\r\n", " ")
    return [] if plain(bare) == bare else [repr(one) for one in bare if plain(one) != one and one not in "\u200c\u200d"]


def input_of(entry: EntryPoint, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """The same bytes for the same numbers, whatever ran before."""
    return mutated(entry.kind, seeds, random.Random(f"{seed}:{entry.name}:{number}"))


# The worker's side


def work(name: str, seed: int, first: int, last: int) -> None:
    """Run inputs [first, last) of one entry point; tell before each, and after each one that is a fault."""
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    entry = load_entry_points()[name]
    seeds = entry.valid()
    for data in seeds:
        # Libraries are loaded, and their memory is not counted.
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(EdgeError):
            entry.run(data, Path(folder))
    channel.write(json.dumps({"ready": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}) + "\n")
    for number in range(first, last):
        data = input_of(entry, seeds, seed, number)
        channel.write(json.dumps({"begun": number}) + "\n")
        told: dict[str, Any] = {"done": number}
        folder = Path(tempfile.mkdtemp(prefix="edge-app-fuzz-"))
        try:
            shown = entry.run(data, folder) or ""
        except EdgeError as error:
            shown, told["refused"] = str(error), True
            if "\n" in shown:
                told["exception"] = f"{number}: an error of several lines: {shown[:200]!r}"
        except (Exception, SystemExit, KeyboardInterrupt) as error:  # noqa: BLE001
            shown = ""
            frames = [f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[-4:]]
            told["exception"] = f"{number}: {type(error).__name__}: {str(error)[:200]!r} at {' > '.join(frames)}"
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if found := controls(shown):
            told["control"] = f"{number}: {', '.join(sorted(set(found))[:5])} in {shown[:300]!r}"
        channel.write(json.dumps(told) + "\n")


# The watcher's side


def fuzz(name: str, seed: int, inputs: int, time_limit_s: float = TIME_LIMIT_S, modules: Sequence[str] = ()) -> Tally:
    """Run so many inputs of one entry point and count what came of them; `modules` are imported for its sake."""
    tally = Tally(name)
    first = 0
    while first < inputs:
        first = _run_worker(tally, name, seed, first, inputs, time_limit_s, modules)
    return tally


def _run_worker(
    tally: Tally, name: str, seed: int, first: int, last: int, time_limit_s: float, modules: Sequence[str]
) -> int:
    """One process until it ends or has to be ended; returns the number of the next input."""
    code = "".join(f"import {module};" for module in modules) + "from tests.fuzz.harness import work;"
    command = [sys.executable, "-P", "-c", f"{code}work({name!r}, {seed}, {first}, {last})"]
    paths = [str(_REPOSITORY), *(str(_REPOSITORY / room) for room in ("models", "export"))]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    environment |= {"OMP_NUM_THREADS": "1", "EDGE_APP_DEBUG": "1", "NO_COLOR": "1"}
    with (
        tempfile.TemporaryFile() as chatter,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=chatter, env=environment) as child,
    ):
        assert child.stdout is not None
        selector = selectors.DefaultSelector()
        selector.register(child.stdout, selectors.EVENT_READ)
        current, begun_s, begun_cpu_s, held, buffer = first, 0.0, 0.0, 0, b""
        ready, why = False, ""
        while not why:
            if not selector.select(0.2):
                if ready and _is_slow(child.pid, time.monotonic() - begun_s, begun_cpu_s, time_limit_s):
                    why = "slow"
                elif ready and _memory(child.pid) - held > MEMORY_LIMIT_BYTES:
                    why = "large"
                elif not ready and begun_s and time.monotonic() - begun_s > 300:
                    why = "start"
                begun_s = begun_s or time.monotonic()
                continue
            chunk = os.read(child.stdout.fileno(), 1 << 16)
            if not chunk:
                break
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                told = json.loads(line)
                if "ready" in told:
                    ready, held = True, told["ready"]
                elif "begun" in told:
                    current, begun_s, begun_cpu_s = told["begun"], time.monotonic(), _processor_s(child.pid)
                else:
                    tally.inputs += 1
                    tally.refused += told.get("refused", False)
                    tally.exceptions += [told["exception"]] if "exception" in told else []
                    tally.control_codes += [told["control"]] if "control" in told else []
                    current = told["done"] + 1
                    if _memory(child.pid) - held > MEMORY_LIMIT_BYTES:
                        why = "large after"
        if why:
            child.kill()
        code_ = child.wait()
        chatter.seek(0)
        last_words = chatter.read()[-2000:].decode("utf-8", "replace")
    if not ready:
        raise RuntimeError(f"the worker of {name} did not come up (exit code {code_}, {why}): {last_words}")
    if why == "large after":
        tally.large.append(f"{current - 1}: more than {MEMORY_LIMIT_BYTES >> 20} MB")
    elif why:
        tally.inputs += 1
        (tally.slow if why == "slow" else tally.large).append(f"{current}: {why}")
        current += 1
    elif code_:
        tally.inputs += 1
        tally.crashes.append(f"{current}: the process died with {code_}: {last_words[-300:]!r}")
        current += 1
    return current


def _is_slow(pid: int, wall_s: float, begun_cpu_s: float, limit_s: float) -> bool:
    """Whether an input took its time itself: beside other work an idle second may last ten."""
    return wall_s > limit_s and (_processor_s(pid) - begun_cpu_s > limit_s or wall_s > _PATIENCE * limit_s)


def _processor_s(pid: int) -> float:
    """Seconds of processor time that a process took so far; 0 where the system does not tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> int:
    """The most that a process held so far, in bytes; 0 where the system does not tell."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)
