"""What is left of commands that were killed is removed; what belongs to somebody stays."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_app.cli import main
from edge_app.core.errors import ModelError
from edge_app.model_store import catalogue, install
from edge_app.model_store.candidates import candidate_file, remove_abandoned
from edge_app.model_store.install import remove
from edge_app.model_store.onnx_inspect import inspect_bytes, with_card
from edge_app.system.files import sha256_of
from tests.model_store import onnx_by_hand as by_hand
from tests.model_store.test_install import COLOURS, write


def left(home):
    """Names in the folder of models beside the list, its lock and the files it names."""
    listed = {entry.path.name for entry in catalogue.installed(home)}
    return sorted({path.name for path in home.models_dir.iterdir()} - listed - {".lock", "installed.json"})


def dead_candidate(home):
    """A candidate of a process that was killed, as 0.1.0 left it too."""
    home.models_dir.mkdir(parents=True, exist_ok=True)
    path = home.models_dir / ".candidate.abcdef.part"
    path.write_bytes(b"half a model")
    return path


def test_a_dead_candidate_goes_and_a_living_one_stays(home):
    with candidate_file(home, b"mine") as candidate:
        dead = dead_candidate(home)
        (home.models_dir / ".installed.json.x.part").write_text("{")
        remove_abandoned(home)
        assert candidate.read_bytes() == b"mine" and not dead.exists()
    assert left(home) == []


@pytest.mark.parametrize("words", [["list"], ["verify"], ["show", "sface"], ["use", "sface"]], ids=lambda w: w[0])
def test_every_models_command_removes_it(home, words, capsys):
    dead = dead_candidate(home)
    assert main(["models", *words, "--home", str(home.path)]) == 0
    assert not dead.exists()


def test_a_file_of_ours_that_no_list_names_goes_but_nobody_else_s(home, tmp_path):
    entry = install.add(home, write(tmp_path))
    content = with_card(by_hand.colour_classifier(weights=[0.1] * 9), COLOURS)
    ours = home.models_dir / f"colours-int8-{sha256_of(content)[:12]}.onnx"
    ours.write_bytes(content)
    kept = [home.models_dir / name for name in ("colours-int8-000000000000.onnx", "mine.onnx", "notes.txt")]
    for path in kept:
        path.write_bytes(content)
    remove_abandoned(home)
    assert not ours.exists() and all(path.exists() for path in (*kept, entry.path))
    # Without its list nobody knows what is whose.
    ours.write_bytes(content)
    catalogue.list_path(home).write_text("{")
    remove_abandoned(home)
    catalogue.list_path(home).unlink()
    remove_abandoned(home)
    assert ours.exists()


def test_a_full_disk_leaves_nothing(home, tmp_path, monkeypatch):
    path = write(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="free some space"):
        install.add(home, path)
    monkeypatch.undo()
    assert left(home) == [] and catalogue.installed(home) == ()


def test_a_lock_that_is_a_link_empties_nothing(home, tmp_path):
    letter = tmp_path / "letter.txt"
    letter.write_text("dear Ada")
    home.models_dir.mkdir(parents=True)
    (home.models_dir / ".lock").symlink_to(letter)
    with pytest.raises(Exception, match="is a link"):
        install.add(home, write(tmp_path))
    assert letter.read_text() == "dear Ada"
    dead_candidate(home)
    remove_abandoned(home)  # reading goes on
    assert catalogue.installed(home) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"file": ".."}, {"file": "."}, {"file": ""}, {"file": "a/b.onnx"}, {"file": "..\\b.onnx"}, {"file": "a\x1b[2J"},
        {"file": 3}, {"id": "../x"}, {"id": ""}, {"precision": "fp8"}, {"task": "magic"}, {"sha256": "0"},
        {"bytes": -1}, {"bytes": 10**30}, {"bytes": "many"}, {"bytes": None},
    ],
    ids=str,
)  # fmt: skip
def test_a_list_that_somebody_edited_is_one_line(home, tmp_path, change):
    install.add(home, write(tmp_path))
    path = catalogue.list_path(home)
    plain = json.loads(path.read_text())
    plain["models"][0] |= change
    path.write_text(json.dumps(plain))
    with pytest.raises(ModelError, match="cannot be read") as told:
        catalogue.installed(home)
    assert str(told.value).isprintable() and str(path) in str(told.value)


def test_a_gone_embedder_hides_no_list_and_the_doctor_names_it(home, capsys):
    home.change_settings(embedder="gone", model="lost")
    assert main(["models", "list", "--home", str(home.path)]) == 0
    out, err = capsys.readouterr()
    assert "sface" in out and "models use sface" in err and "'lost'" in err
    assert main(["models", "list", "--json", "--home", str(home.path)]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "gone" in listed["why"] and not any(row["in_use"] for row in listed["models"] if row["id"] == "sface")
    assert main(["doctor", "--home", str(home.path)]) == 1
    out = capsys.readouterr().out
    assert "'gone'" in out and "'lost'" in out
    assert main(["models", "use", "sface", "--home", str(home.path)]) == 0
    assert home.settings().embedder == "sface"


def test_the_doctor_says_ill_for_a_damaged_installed_model_and_list(home, tmp_path, capsys):
    entry = install.add(home, write(tmp_path))
    assert main(["doctor", "--home", str(home.path)]) == 0
    entry.path.write_bytes(entry.path.read_bytes()[:-1])
    assert main(["doctor", "--home", str(home.path)]) == 1
    assert f"ILL  model: {entry.path.name} has changed" in capsys.readouterr().out
    catalogue.list_path(home).write_text("[")
    assert main(["doctor", "--home", str(home.path)]) == 1
    assert "ILL  models: the list of installed models" in capsys.readouterr().out


@pytest.mark.slow
def test_an_add_killed_at_any_moment_leaves_all_or_nothing(home, tmp_path):
    old = install.add(home, write(tmp_path))
    command = [sys.executable, "-m", "edge_app", "models", "add", "--home", str(home.path)]
    sface = catalogue.build(None, "sface", "int8").path.read_bytes()
    path = tmp_path / "face.onnx"
    card = inspect_bytes(sface, "sface").card
    path.write_bytes(with_card(sface, card))
    for number in range(14):
        child = subprocess.Popen([*command, str(path), "--id", "mine"], stdout=subprocess.DEVNULL)
        # The last ones are killed once something of theirs lies there.
        started, wait_s = time.monotonic(), 0.25 * number
        while time.monotonic() - started < wait_s and child.poll() is None:
            time.sleep(0.01)
            if number > 7 and list(home.models_dir.glob("mine-*")):
                break
        child.send_signal(signal.SIGKILL)
        child.wait()
        remove_abandoned(home)
        assert left(home) == []
        entries = catalogue.installed(home)
        assert old in entries and len(entries) <= 2
        for entry in entries:
            catalogue.open_entry(entry, threads=1)
            if entry.id == "mine":
                remove(home, "mine")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_the_trial_of_a_killed_add_ends_with_it(home, tmp_path):
    slow = tmp_path / "x.onnx"
    slow.write_bytes(catalogue.build(None, "sface", "fp32").path.read_bytes())
    command = [sys.executable, "-m", "edge_app", "models", "add", str(slow), "--id", "x", "--home", str(home.path)]
    parent = subprocess.Popen(command)

    def trial():
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                found.append(path.read_bytes())
        return [line for line in found if b"sandbox_check" in line and os.fsencode(home.path) in line]

    until = time.monotonic() + 120
    while not (seen := trial()) and time.monotonic() < until:
        time.sleep(0.01)
    assert seen
    parent.kill()
    parent.wait()
    until = time.monotonic() + 120  # it asks the system once it has loaded what it needs
    while trial() and time.monotonic() < until:
        time.sleep(0.05)
    assert not trial()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("share", [0.2, 0.4, 0.6, 0.8])
def test_a_models_add_that_is_asked_to_end_leaves_nothing_itself(home, tmp_path, share):
    path = write(tmp_path)
    words = [sys.executable, "-m", "edge_app", "models", "add", str(path), "--home"]
    began_s = time.monotonic()
    assert subprocess.run([*words, str(tmp_path / "other")], capture_output=True, check=False).returncode == 0
    took_s = time.monotonic() - began_s
    process = subprocess.Popen([*words, str(home.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(share * took_s)
    process.terminate()
    _, said = process.communicate(timeout=300)
    assert (process.returncode, said) in (
        (143, b"edge-app: stopped\n"),
        (-signal.SIGTERM, b""),
    ) or not process.returncode
    assert not home.models_dir.exists() or len(left(home)) == 0
