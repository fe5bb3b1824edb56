"""Breaks a copy of the repository, one mutant at a time, and runs the tests that cover the broken file."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.mutants.mutate import Mutant

_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+?\.py(?:::.*?)?)(?: - .*)?$", re.MULTILINE)
_PASSED, _NO_TESTS = 0, 5
_TESTS_OF = {"edge_models": "models", "edge_export": "export"}
"""Folders of tests whose name is not the package's."""


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

    def try_out(self, mutant: Mutant) -> Trial:
        """Break one file, test, mend it again."""
        started_s = time.monotonic()
        tests = covering_tests(self.root, mutant.file)
        path = self.root / mutant.file
        text = path.read_text(encoding="utf-8")
        try:
            self._write(path, mutant.apply(text))
            code, printed = self._pytest(tests) if tests else (_NO_TESTS, "")
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
        code, printed = self._pytest(sorted(sound), first_only=False) if sound else (_PASSED, "")
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

    def _pytest(self, tests: Sequence[str], *, first_only: bool = True) -> tuple[int | None, str]:
        """Exit code (None: it took too long) and what was printed. Ends what it started."""
        temporary = self.root.parent / "t"
        temporary.mkdir(exist_ok=True)
        paths = os.pathsep.join(str(self.root / folder) for folder in ("", "models", "export"))
        command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
        child = subprocess.Popen(
            [*command, *(["-x"] if first_only else []), *([] if self.slow else ["-m", "not slow"]), *tests],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": paths, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", "COLUMNS": "500"},
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            printed, _ = child.communicate(timeout=self.time_limit_s)
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


@contextmanager
def copy_of(repository: Path) -> Iterator[Copy]:
    """A copy without caches and environments, which is deleted at the end; `../shared` is where it was."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        root = Path(folder) / "checkout"
        shutil.copytree(
            repository, root, ignore=shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info")
        )
        shared = repository.parent / "shared"
        if shared.is_dir():
            (root.parent / "shared").symlink_to(shared)
        yield Copy(root)


def covering_tests(repository: Path, file: str) -> list[str]:
    """Files of tests that may notice a broken `file`: those that import it first, then the others of its room."""
    module = file.removeprefix("models/").removeprefix("export/").removesuffix(".py").removesuffix("/__init__")
    package, *rest = module.split("/")
    room = repository / "tests" / _TESTS_OF.get(package, rest[0] if rest else package)
    importing, others = [], []
    for path in sorted((repository / "tests").rglob("test_*.py")):
        test = path.relative_to(repository).as_posix()
        if module.replace("/", ".") in _imports(path):
            importing.append(test)
        elif room in path.parents:
            others.append(test)
    name = Path(file).stem
    importing.sort(key=lambda test: (name not in test, room.name not in test, test))
    return importing + others


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found
