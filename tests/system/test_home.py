"""The data folder: where it is, what it lets others see, what a full or spoiled disk does to it."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from edge_app.core.errors import EdgeError, UsageError
from edge_app.system.data_folder import Home
from edge_app.system.files import make_private_folder, write_private
from edge_app.system.settings import Settings

posix = pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_option_wins_over_the_environment_and_that_over_the_platform(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_APP_HOME", str(tmp_path / "variable"))
    assert Home.locate(tmp_path / "option").path == tmp_path / "option"
    assert Home.locate(None).path == tmp_path / "variable"
    monkeypatch.setenv("EDGE_APP_HOME", "")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))
    assert Home.locate("").path == tmp_path / "xdg" / "edge-app"
    assert list(tmp_path.iterdir()) == []


def test_the_folder_on_linux_is_where_0_1_0_had_it(tmp_path, monkeypatch):
    monkeypatch.delenv("EDGE_APP_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("", "not/absolute"):  # the XDG specification: to be ignored
        monkeypatch.setenv("XDG_DATA_HOME", variable)
        assert Home.locate(None).path == tmp_path / ".local/share/edge-app"


def test_a_relative_option_and_a_tilde_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Home.locate("here").path == tmp_path / "here"
    assert Home.locate("~/there").path == tmp_path / "there"


def test_without_any_home_folder_one_line_asks_for_the_option(monkeypatch):
    for variable in ("EDGE_APP_HOME", "XDG_DATA_HOME", "APPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(EdgeError, match="--home"):
        Home.locate(None)


def test_reading_an_absent_home_makes_nothing(home):
    assert home.settings() == Settings()
    assert home.recall("speed") is None
    assert home.unknown_settings() == ()
    assert home.exposed() == ()
    assert not home.path.exists()


def test_settings_and_measurements_come_back(home):
    chosen = Settings(
        fpir=0.001, margin=0, precision="int8", detector="mtcnn", source="2", keep_pictures=True, threads=1
    )
    home.change_settings(**asdict(chosen))
    home.remember("precision sface", {"fp32_ms": 7.5, "cpu": "Zweikern"})
    home.remember("other", {"x": 1})
    home.remember("other", {"x": 2})
    assert home.settings() == chosen
    assert home.recall("precision sface") == {"fp32_ms": 7.5, "cpu": "Zweikern"}
    assert home.recall("other") == {"x": 2}


@posix
def test_files_are_closed_to_others_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        home = Home(tmp_path / "deep" / "home")
        home.change_settings()
        write_private(home.models_dir / "mine" / "m.onnx", b"x")
    finally:
        os.umask(before)
    folders = (home.path, home.path.parent, home.models_dir, home.models_dir / "mine")
    assert {mode(path) for path in folders} == {0o700}
    assert mode(home.settings_path) == mode(home.models_dir / "mine" / "m.onnx") == 0o600
    assert home.exposed() == ()
    home.settings_path.chmod(0o644)
    assert home.exposed() == (home.settings_path,)


@posix
def test_an_empty_folder_is_closed_but_one_in_use_keeps_its_mode(tmp_path):
    for name, content in (("empty", ()), ("used", ("letter.txt",)), ("shared", ())):
        folder = tmp_path / name
        folder.mkdir()
        folder.chmod(0o1777 if name == "shared" else 0o755)
        for file in content:
            (folder / file).write_text("x")
        make_private_folder(folder)
    assert mode(tmp_path / "empty") == 0o700
    assert mode(tmp_path / "used") == 0o755
    assert mode(tmp_path / "shared") == 0o1777


def test_keys_of_a_newer_version_survive_saving_and_are_listed(home):
    write_private(home.settings_path, b'{"glow": 3, "fpir": 0.2}')
    assert home.settings().fpir == 0.2
    home.change_settings(fpir=0.3)
    plain = json.loads(home.settings_path.read_text())
    assert plain["glow"] == 3
    assert plain["fpir"] == 0.3
    assert home.unknown_settings() == ("glow",)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[1]",
        b"\xff\xfe",
        b'{"fpir": "high"}',
        b'{"fpir": true}',
        b'{"fpir": NaN}',
        b'{"fpir": 1}',
        b'{"margin": -0.1}',
        b'{"precision": "fp8"}',
        b'{"detector": null}',
        b'{"source": 0}',
        b'{"keep_pictures": 1}',
        b'{"threads": 0}',
        b'{"threads": 1.5}',
    ],
)
def test_broken_settings_are_one_line_that_names_the_file(home, text):
    write_private(home.settings_path, text)
    with pytest.raises(EdgeError) as caught:
        home.settings()
    line = str(caught.value)
    assert str(home.settings_path) in line
    assert "delete it" in line
    assert "\n" not in line


def test_saving_does_not_overwrite_settings_it_cannot_read(home):
    write_private(home.settings_path, b'{"fpir": 0.2,')
    with pytest.raises(EdgeError, match=r"settings\.json"):
        home.change_settings()
    assert home.settings_path.read_bytes() == b'{"fpir": 0.2,'


def test_settings_are_validated_at_birth():
    with pytest.raises(UsageError, match="fpir"):
        Settings(fpir=0.0)
    with pytest.raises(UsageError, match="one of auto, fp32, int8"):
        Settings(precision="fast")  # type: ignore[arg-type]


def test_spoiled_measurements_count_as_none_and_are_replaced(home):
    write_private(home.measurements_path, b"{{{")
    assert home.recall("speed") is None
    home.remember("speed", {"ms": 3})
    assert home.recall("speed") == {"ms": 3}


def test_a_full_disk_is_one_line_and_leaves_the_earlier_file(home, monkeypatch):
    write_private(home.log_path, b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EdgeError, match="free some space") as caught:
        write_private(home.log_path, b"after")
    assert str(home.path) in str(caught.value)
    assert home.log_path.read_bytes() == b"before"
    assert [path.name for path in home.path.iterdir()] == [home.log_path.name]


def test_a_file_where_the_folder_should_be_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(EdgeError, match="move that file away"):
            Home(path).remember("speed", {})


@posix
def test_a_read_only_folder_is_one_line(tmp_path, monkeypatch):
    home = Home(tmp_path / "locked" / "home")

    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    if os.getuid() == 0:  # root may write anywhere
        monkeypatch.setattr(Path, "mkdir", refused)
    else:
        home.path.parent.mkdir(mode=0o500)
    with pytest.raises(EdgeError, match="make it writable, or choose another folder with --home"):
        home.remember("speed", {})


def test_processes_that_change_different_settings_at_once_undo_nothing_of_each_other(home):
    code = "from pathlib import Path; import sys; from edge_app.system.data_folder import Home; "
    code += "home, field, unit = Home(Path(sys.argv[1])), sys.argv[2], eval(sys.argv[3]); "
    code += "[home.change_settings(**{field: n * unit}) and home.remember(field, {'n': n}) for n in range(1, 41)]"
    fields = (("threads", "1"), ("fpir", "1 / 64"))
    running = [subprocess.Popen([sys.executable, "-c", code, str(home.path), *field]) for field in fields]
    assert [process.wait(300) for process in running] == [0, 0]
    assert (home.settings().threads, home.settings().fpir) == (40, 0.625)
    assert [home.recall(field) for field, _ in fields] == [{"n": 40}, {"n": 40}]
