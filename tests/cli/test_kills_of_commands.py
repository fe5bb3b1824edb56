"""Whole commands killed at random moments: nobody is lost, nothing is left, and the next command works.

EDGE_APP_COMMAND_KILLS says how many kills, 8 by default, one of each command; 100 are run before a release, where
training and exporting, which take a minute, have a tenth of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_app.gallery.salvage import faults
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from edge_app.model_store.onnx_inspect import with_card
from edge_app.system.data_folder import Home
from tests.gallery.test_storage import files_hold
from tests.model_store import onnx_by_hand as by_hand
from tests.model_store.test_install import COLOURS

KILLS = int(os.environ.get("EDGE_APP_COMMAND_KILLS", "8"))
REPOSITORY = Path(__file__).resolve().parents[2]
SEED = int(os.environ.get("EDGE_APP_COMMAND_KILLS_SEED", "0"))
PHRASE = "correct horse battery"
OBAMA, BIDEN = "Barack Obama", "Joe Biden"

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

State = dict[str, dict[str, int]]


@dataclass
class Place:
    """A folder with a data folder, the inputs of a command and what it makes."""

    root: Path
    home: Home = field(init=False)

    def __post_init__(self) -> None:
        self.home = Home(self.root / "home")

    def start(self, words: list[str]) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_APP_")}
        paths = [REPOSITORY, REPOSITORY / "models", REPOSITORY / "export"]
        environment |= {"EDGE_APP_HOME": str(self.home.path), "EDGE_APP_PASSPHRASE": PHRASE, "OMP_NUM_THREADS": "1"}
        environment |= {"TMPDIR": str(self.root / "tmp"), "PYTHONPATH": os.pathsep.join(map(str, paths))}
        (self.root / "tmp").mkdir(exist_ok=True)
        with (self.root / "said").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "edge_app", *words], cwd=self.root, env=environment, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip

    def run(self, words: list[str]) -> None:
        code = self.start(words).wait(1800)
        assert code == 0, f"{words}: {code}, {(self.root / 'said').read_text(errors='replace')[-2000:]}"

    def state(self) -> State:
        """Who is enrolled with how many templates of which models; the file must be without a fault."""
        assert faults(self.home.gallery_path) == []
        with Vault(self.home.gallery_path) as vault:
            return {one.name: dict(one.templates) for one in vault.roster()}

    def files(self) -> set[str]:
        return {
            str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file() and path.name != "said"
        }

    def processes(self) -> list[str]:
        """Command lines of whatever still runs for this folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                where = os.readlink(path / "cwd")  # noqa: PTH115 - a link that may be gone by now
                line = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if where == str(self.root) or str(self.root).encode() in line:
                found.append(line.replace(b"\0", b" ").decode(errors="replace"))
        return found


@dataclass
class Command:
    """One that is killed."""

    words: list[str]
    again: Callable[[Place, Command], list[str]]
    """What is run after a kill: it finishes what was begun, or only looks when all was done."""
    is_atomic: bool = True
    """All of the gallery changes at once; else person by person."""
    before: State = field(default_factory=dict)
    after: State = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    """What is there when it ran through."""
    took_s: float = 0.0


def same_unless_done(place: Place, command: Command) -> list[str]:
    return ["gallery", "list"] if place.state() == command.after else command.words


def add_unless_there(place: Place, command: Command) -> list[str]:
    path = place.home.models_dir / "installed.json"
    there = path.exists() and json.loads(path.read_text())["models"]
    return ["models", "list"] if there else command.words


def resumed(place: Place, command: Command) -> list[str]:
    if not (place.root / "run" / "run.json").exists():
        return command.words
    finished = (place.root / "run" / "report.json").exists() and (place.root / "run" / "report.html").exists()
    return ["models", "list"] if finished else [*command.words, "--resume"]


def exported_unless_there(place: Place, command: Command) -> list[str]:
    return ["models", "list"] if (place.root / "out.onnx").exists() else command.words


TRAIN = ["train", "classifier", "classes", "--output", "run", "--search", "0", "--unfreeze", "0", "--epochs", "1",
         "--backbone", "efficientnet-lite0", "--device", "cpu", "--workers", "0"]  # fmt: skip


def commands() -> dict[str, Command]:
    return {
        "enroll": Command(["enroll", "New Person", "new.jpg", "--allow-lookalike"], same_unless_done),
        "forget": Command(["gallery", "forget", OBAMA, "--yes"], same_unless_done),
        "rename": Command(["gallery", "rename", BIDEN, "Joseph"], same_unless_done),
        "import": Command(["gallery", "import", "exported.edge"], same_unless_done),
        "models add": Command(["models", "add", "colours.onnx"], add_unless_there),
        "reenroll": Command(["gallery", "reenroll"], same_unless_done, is_atomic=False),
        "train": Command(TRAIN, resumed),
        "export": Command(["export", "run", "--data", "classes", "-o", "out.onnx"], exported_unless_there),
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    """For each command a folder in which it can run."""
    pytest.importorskip("torch")
    base = Place(tmp_path_factory.mktemp("base"))
    base.home.change_settings(keep_pictures=True)
    people = sample.people()
    base.run(["enroll", OBAMA, *map(str, people[OBAMA])])
    base.run(["gallery", "export", "exported.edge"])
    base.run(["gallery", "rename", OBAMA, "First"])
    base.run(["gallery", "forget", "First", "--yes"])
    for name in (BIDEN, OBAMA):
        base.run(["enroll", name, *map(str, people[name])])
    shutil.copy(sample.stranger(), base.root / "new.jpg")
    (base.root / "colours.onnx").write_bytes(with_card(by_hand.colour_classifier(), COLOURS))
    rng = np.random.default_rng(0)
    for number, label in enumerate(("dark", "light")):
        (base.root / "classes" / label).mkdir(parents=True)
        for index in range(8):
            pixels = rng.integers(120 * number, 120 * number + 100, (64, 64, 3), np.uint8)
            Image.fromarray(pixels).save(base.root / "classes" / label / f"{index}.png")
    made = {"base": base}
    for name in commands():
        made[name] = copied(base, base.root.with_name(name.replace(" ", "-")))
    with Vault(made["import"].home.gallery_path) as vault:
        vault.forget(OBAMA)
    older = sqlite3.connect(made["reenroll"].home.gallery_path, isolation_level=None)
    older.execute("UPDATE model SET name = 'older'")
    older.close()
    made["export"].run(TRAIN)
    return made


def copied(place: Place, to: Path) -> Place:
    shutil.copytree(place.root, to)
    return Place(to)


def test_a_killed_command_loses_nobody_and_leaves_nothing(prepared: dict[str, Place], tmp_path: Path) -> None:
    rng = random.Random(SEED)
    known = commands()
    for name, command in known.items():
        place = copied(prepared[name], tmp_path / f"whole {name}")
        command.before = place.state()
        started_s = time.monotonic()
        place.run(command.words)
        command.took_s = time.monotonic() - started_s
        command.after, command.files = place.state(), place.files()
        assert command.after != command.before or command.files != prepared[name].files(), name
    quick = [name for name in known if name not in ("train", "export")]
    order = [*quick, "train", *quick, "export", *quick] if len(known) < KILLS else [*known]
    told: dict[str, list[str]] = {name: [] for name in known}
    wrong: list[str] = []
    for kill in range(KILLS):
        name = order[kill % len(order)]
        command = known[name]
        for attempt in range(5):
            place = copied(prepared[name], tmp_path / f"kill {kill} {attempt}")
            began_s = time.monotonic()
            process = place.start(command.words)
            after_s = rng.uniform(0.0, command.took_s)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(after_s)
                # The machine has less to do than when it was measured.
                command.took_s = min(command.took_s, time.monotonic() - began_s)
            process.send_signal(signal.SIGKILL)
            killed = process.wait() == -signal.SIGKILL
            if killed:
                break
            shutil.rmtree(place.root)
        try:
            told[name].append(check(place, command, name) if killed else "was over")
        except AssertionError as error:
            wrong.append(f"kill {kill} of {name} after {after_s:.2f} s: {error}")
            print(wrong[-1][:1500], flush=True)
        else:
            shutil.rmtree(place.root, ignore_errors=not killed)
        print(f"{kill + 1}/{KILLS} {name} after {after_s:.2f} of {command.took_s:.2f} s", flush=True)
    print({name: {word: words.count(word) for word in sorted(set(words))} for name, words in told.items()})
    assert not wrong, "\n".join(wrong)
    assert sum(word != "was over" for words in told.values() for word in words) >= KILLS / 2


def check(place: Place, command: Command, name: str) -> str:
    """What is there after a kill, and after the next command; says whether the kill came before the change."""
    deadline_s = time.monotonic() + 120
    while place.processes() and time.monotonic() < deadline_s:
        time.sleep(0.2)
    assert not place.processes(), f"still running: {place.processes()}"
    state = place.state()
    changed = {who for who in {*command.before, *command.after} if command.before.get(who) != command.after.get(who)}
    for who in {*command.before, *command.after, *state}:
        held = state.get(who)
        assert held in (command.before.get(who), command.after.get(who)), f"{who} has {held}"
    if command.is_atomic:
        assert state in (command.before, command.after), f"half changed: {state}"
    was_done = state == command.after and bool(changed)
    place.run(command.again(place, command))
    assert place.state() == command.after, f"afterwards {place.state()}"
    left = place.files() - command.files
    assert not left, f"left over: {sorted(left)}"
    missing = {path for path in command.files - place.files() if not Path(path).name.startswith(".")}
    assert not missing, f"missing: {sorted(missing)}"
    if name == "forget":
        assert not files_hold(place.home.path, OBAMA.encode()), "the forgotten name is still in a file"
    return "done" if was_done else "not yet"
