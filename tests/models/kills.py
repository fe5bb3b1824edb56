"""Commands killed at several moments, and with no space to write to: what may be left of them, and what may not."""

import os
import random
import resource
import signal
import subprocess
import sys
import time

import torch

from edge_models.fitting.checkpoint import load_state


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _environment(home):
    return {**os.environ, "EDGE_APP_HOME": str(home), "OMP_NUM_THREADS": "1"}


def _call(words, home, **more):
    return subprocess.run([sys.executable, "-m", "edge_app", *words], env=_environment(home), capture_output=True,
                          text=True, check=False, timeout=300, **more)  # fmt: skip


def _stamps(folder, pattern):
    return {(path, path.stat().st_mtime_ns) for path in folder.glob(pattern) if path.is_file()}


def _killed_writing(words, home, folder, pattern, rng):
    """Whether the command was killed, a moment after it first wrote a file of that pattern."""
    before = _stamps(folder, pattern)
    process = subprocess.Popen([sys.executable, "-m", "edge_app", *words], env=_environment(home),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    while process.poll() is None:
        try:
            wrote = not _stamps(folder, pattern) <= before
        except FileNotFoundError:  # a file that went between its name and its time
            wrote = True
        if wrote:
            break
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.1))
    process.kill()
    return process.wait() == -signal.SIGKILL


def _no_space(words, home, most_bytes):
    found = _call(words, home, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes,) * 2))
    [line] = [one for one in found.stderr.splitlines() if one.startswith("edge-app: ")]
    assert found.returncode == 1 and "Traceback" not in found.stderr
    return line


def training_survives(tmp_path, words, name, most_bytes=100_000):
    """A training ends with the same network `name` however often it was killed, and leaves none where nothing fits."""
    home, whole, cut = tmp_path / "home", tmp_path / "whole", tmp_path / "cut"
    line = _no_space([*words, "--output", str(tmp_path / "full")], home, most_bytes)
    assert "no space" in line and not (tmp_path / "full" / name).exists()
    assert _call([*words, "--output", str(whole)], home).returncode == 0
    rng, killed = random.Random(0), 0
    for pattern in ("cut/run.json", "cut/**/*"):
        more = ["--resume"] if (cut / "run.json").exists() else []
        killed += _killed_writing([*words, "--output", str(cut), *more], home, tmp_path, pattern, rng)
        if (cut / name).exists():
            load_state(cut / name)  # whole wherever it stands
    more = ["--resume"] if (cut / "run.json").exists() else []
    ended = _call([*words, "--output", str(cut), *more], home)
    assert killed and ended.returncode == 0, ended.stderr
    first, second = (load_state(folder / name)["weights"] for folder in (whole, cut))
    assert first.keys() == second.keys() and all(torch.equal(first[one], second[one]) for one in first)
    assert contents(whole).keys() == contents(cut).keys()


def finished_is_left_alone(run, train_again):
    """`train_again` goes on with a finished run, whose state a kill kept from being removed: nothing is learned."""
    before = {path.name: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    (run / "state").mkdir()
    told = train_again()
    assert told.looks[-1]["step"] == 6 and told.checkpoint.name in before
    assert {path.name: path.read_bytes() for path in run.rglob("*")} == before


def making_survives(tmp_path, words, most_bytes=500):
    """A folder that `words` makes is whole or not there, and what a kill left is swept by the next call."""
    home, whole, cut = tmp_path / "home", tmp_path / "made-whole", tmp_path / "made-cut"
    line = _no_space([*words, str(tmp_path / "made-full")], home, most_bytes)
    assert "cannot be written" in line and not list(tmp_path.glob("*made-full*"))
    assert _call([*words, str(whole)], home).returncode == 0
    rng, killed = random.Random(0), 0
    for number in range(20):
        if number >= 2 and killed:  # on a busy machine it may be over before it is seen to have begun
            break
        killed += _killed_writing([*words, str(cut)], home, tmp_path, "*made-cut*/**/*", rng)
        if cut.exists():
            assert contents(cut) == contents(whole)
            cut.rename(tmp_path / f"whole-{number}")
    ended = _call([*words, str(cut)], home)
    assert killed and ended.returncode == 0, ended.stderr
    assert contents(cut) == contents(whole) and len(contents(cut)) > 1
    assert not list(tmp_path.glob(".made-cut*"))
