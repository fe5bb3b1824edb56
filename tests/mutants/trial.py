"""Breaks a copy of the repository, one mutant at a time, and runs the tests that cover the broken file."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from tests.mutants.mutate import Mutant, probed

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - .*)?$", re.MULTILINE)
_PASSED, _NO_TESTS = 0, 5
_MOST_ELSEWHERE = 10
_TESTS_OF = {"edge_models": "models", "edge_export": "export"}
"""Folders of tests whose name is not the package's."""


PLUGIN = """
import builtins, json, os, time
import pytest
reached, seconds, running = {}, {}, [None]
def hit(number):
    if running[0]:
        reached.setdefault(number, {})[running[0]] = None
builtins.hit_mutant = hit
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    running[0], started = item.nodeid, time.process_time()
    try:
        return (yield)
    finally:
        seconds[item.nodeid], running[0] = time.process_time() - started, None
def pytest_unconfigure(config):
    found = {number: sorted(tests, key=lambda test: seconds.get(test, 0.0)) for number, tests in reached.items()}
    with open(os.environ["MUTANTS_REACHED"], "w") as file:
        json.dump(found, file)
"""
"""For pytest: notes which tests come past the probes of `mutate.probed`, the quickest first."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of one mutant."""

    mutant: Mutant
    verdict: str
    """killed, survived, "timed out", or "unsure" when the test that failed fails on the unbroken code too."""
    by: str
    """The test that failed."""
    tried: tuple[str, ...]
    """Files of tests, in the order in which they were run."""
    seconds: float


@dataclass(slots=True)
class Copy:
    """A copy of the repository in a temporary folder."""

    root: Path
    time_limit_s: float = 600.0
    slow: bool = False
    """Also the tests that `make test` leaves out."""
    _reaching: dict[Mutant, list[str]] = field(default_factory=dict)
    """Tests that come past a mutant's place, the quickest first."""

    def find_reaching_tests(self, mutants: Sequence[Mutant]) -> None:
        """Run the tests of all these files once, unbroken, to learn which come past which mutant."""
        tests = sorted({test for mutant in mutants for test in covering_tests(self.root, mutant.file)})
        by_file: dict[str, list[tuple[int, Mutant]]] = {}
        for number, mutant in enumerate(mutants):
            by_file.setdefault(mutant.file, []).append((number, mutant))
        before = {file: (self.root / file).read_text(encoding="utf-8") for file in by_file}
        found = self.root.parent / "reached.json"
        (self.root / "mutants_plugin.py").write_text(PLUGIN, encoding="utf-8")
        try:
            for file, numbered in by_file.items():
                text = probed(before[file], numbered)
                with suppress(SyntaxError):  # a number in a pattern of `match` cannot be a call
                    ast.parse(text)
                    self._write(self.root / file, text)
            self._pytest(tests, "-p", "mutants_plugin", more={"MUTANTS_REACHED": str(found)}, time_limit_s=None)
        finally:
            for file, text in before.items():
                self._write(self.root / file, text)
        reached = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}
        self._reaching = {mutants[int(number)]: names for number, names in reached.items()}

    def try_out(self, mutant: Mutant) -> Trial:
        """Break one file, test, mend it again."""
        started_s = time.monotonic()
        tests = self._reaching.get(mutant) or covering_tests(self.root, mutant.file)
        path = self.root / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            self._write(path, mutant.apply(text))
            code, printed = self._pytest(tests, "-x", time_limit_s=self.time_limit_s) if tests else (_NO_TESTS, "")
        finally:
            self._write(path, text)
        failed = _FAILED.search(printed)
        by = failed.group(1) if failed else ""
        if code is None:
            verdict = "timed out"
        elif code in (_PASSED, _NO_TESTS):
            verdict = "survived"
        else:
            verdict = "killed"
            by = by or (printed.strip().splitlines() or ["pytest said nothing"])[-1]
        return Trial(mutant, verdict, by, tuple(tests), time.monotonic() - started_s)

    def confirmed(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials again: only a test that passes on the unbroken code has noticed anything."""
        failing = {trial.by for trial in trials if trial.verdict == "killed"}
        sound = {by for by in failing if (self.root / by.split("::")[0]).is_file()}
        code, printed = self._pytest(sorted(sound)) if sound else (_PASSED, "")
        if code is None:
            sound.clear()
        elif code != _PASSED:
            sound -= set(_FAILED.findall(printed))
        unsure = failing - sound
        return [replace(trial, verdict="unsure") if trial.by in unsure else trial for trial in trials]

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        # Python takes a compiled file of the same second and length for that of the new text.
        Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)

    def _pytest(
        self,
        tests: Sequence[str],
        *options: str,
        more: Mapping[str, str] = MappingProxyType({}),
        time_limit_s: float | None = None,
    ) -> tuple[int | None, str]:
        """Exit code (None: it took too long) and what was printed. Ends what it started."""
        temporary = self.root.parent / "t"
        temporary.mkdir(exist_ok=True)
        inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
        paths = os.pathsep.join([*(str(self.root / folder) for folder in ("", "models", "export")), *inherited])
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
        child = subprocess.Popen(
            [*command, *options, *([] if self.slow else ["-m", "not slow"]), *tests],
            cwd=self.root,
            env=os.environ
            | {"PYTHONPATH": paths, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "500", **more},
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            printed, _ = child.communicate(timeout=time_limit_s)
            return child.returncode, printed
        except subprocess.TimeoutExpired:
            return None, ""
        finally:
            _end(child)
            shutil.rmtree(temporary, ignore_errors=True)


def _end(child: subprocess.Popen[str]) -> None:
    """End a process and whatever it left behind in its session."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _not_copied(folder: str, names: list[str]) -> list[str]:
    built = ("build", "dist") if (Path(folder) / "pyproject.toml").is_file() else ()
    return [name for name in names if name.startswith(".") or name == "__pycache__" or name in built]


@contextmanager
def copy_of(repository: Path) -> Iterator[Copy]:
    """A copy without caches and environments, which is deleted at the end; `../shared` is where it was."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder) / "checkout"
        shutil.copytree(repository, root, ignore=_not_copied)
        shared = repository.parent / "shared"
        if shared.is_dir():
            (root.parent / "shared").symlink_to(shared)
        yield Copy(root)


def covering_tests(repository: Path, file: str) -> list[str]:
    """Files of tests that may notice a broken `file`: those that import it first, then the others of its room.

    Where half of the tests import it, like the nouns, its own room has to notice.
    """
    module = file.removeprefix("models/").removeprefix("export/").removesuffix(".py").removesuffix("/__init__")
    package, *rest = module.split("/")
    room = repository / "tests" / _TESTS_OF.get(package, rest[0] if rest else package)
    importing, others, elsewhere = [], [], []
    for path in sorted((repository / "tests").rglob("test_*.py")):
        test = path.relative_to(repository).as_posix()
        if module.replace("/", ".") in _imports(path):
            (importing if room in path.parents else elsewhere).append(test)
        elif room in path.parents:
            others.append(test)
    name = Path(file).stem
    importing.sort(key=lambda test: (name not in test, test))
    return importing + (elsewhere if len(elsewhere) <= _MOST_ELSEWHERE else []) + others


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
