"""The log of commands: private, bounded, and without anything of people in it."""

import logging
import os
import re
import stat

import pytest

from edge_app.cli import main
from edge_app.core.errors import GalleryError
from edge_app.system.log import Faults, log_command, write_log


def lines(home):
    return home.log_path.read_text().splitlines()


def test_every_command_leaves_one_line_of_how_it_ended(home, capsys, monkeypatch):
    home.path.mkdir()
    assert main(["models", "list", "--home", str(home.path)]) == 0
    assert main(["gallery", "show", "Ada Secretname", "--home", str(home.path)]) == 1
    assert main(["recognize", str(home.path / "Ada-secret.jpg"), "--home", str(home.path)]) != 0
    first, second, third = lines(home)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO edge-app models list, \d+\.\d\d s, ended with 0", first)
    assert re.search(r"WARNING edge-app gallery show, .* failed: GalleryError at \w+\.py:\d+:\w+ < ", second)
    assert "recognize" in third and not re.search("ecret", home.log_path.read_text())
    assert stat.S_IMODE(home.log_path.stat().st_mode) == 0o600


def test_a_data_folder_that_is_not_there_is_not_made_for_the_log(home, capsys):
    assert main(["models", "list", "--home", str(home.path), "--precision", "fp32"]) == 0
    assert not home.path.exists()


def test_it_rotates_and_both_files_are_private(tmp_path):
    path = tmp_path / "edge-app.log"
    for number in range(90):
        write_log(path, f"{number} " + "x" * 10_000)
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["edge-app.log", "edge-app.log.1"]
    assert all(file.stat().st_size <= 512 << 10 for file in tmp_path.iterdir())
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in tmp_path.iterdir())
    assert " 89 x" in path.read_text()[-10_100:]


def test_a_log_that_others_could_read_is_closed_to_them(tmp_path):
    path = tmp_path / "edge-app.log"
    path.write_text("")
    path.chmod(0o644)
    write_log(path, "x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are POSIX")
def test_a_link_in_its_place_is_not_followed(tmp_path):
    letter = tmp_path / "letter.txt"
    letter.write_text("dear Ada")
    (tmp_path / "edge-app.log").symlink_to(letter)
    with pytest.raises(OSError):
        write_log(tmp_path / "edge-app.log", "x")
    log_command(tmp_path / "edge-app.log", "edge-app x", 1.0, 0)  # no command fails for it
    assert letter.read_text() == "dear Ada"


def test_a_full_disk_stops_no_command_and_is_told_of_a_fault(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "open", full)
    log_command(tmp_path / "edge-app.log", "edge-app x", 1.0, 0)
    assert "No space left" in Faults(tmp_path / "edge-app.log").report(RuntimeError("Ada"))
    assert capsys.readouterr().err == ""


def test_the_same_fault_is_logged_once_a_minute(tmp_path):
    now = [0.0]
    faults = Faults(tmp_path / "edge-app.log", lambda: now[0])
    for _ in range(3):
        assert faults.report(GalleryError("the gallery of Ada is locked")) == "the gallery of Ada is locked"
    assert "see" in faults.report(ValueError("Ada"))
    now[0] = 61.0
    faults.report(ValueError("Ada"))
    told = (tmp_path / "edge-app.log").read_text()
    assert len(told.splitlines()) == 3 and "Ada" not in told and "ERROR ValueError" in told


def test_nobody_else_s_logging_is_touched():
    before = logging.root.handlers[:]
    import edge_app.system.log  # noqa: F401

    assert logging.root.handlers == before and not logging.getLogger("edge_app").handlers
