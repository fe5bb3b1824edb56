"""The process around a command: streams that are closed, full or of another encoding, and signals that end it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_app.cli import main, process
from edge_app.core.errors import EdgeError

posix = pytest.mark.skipif(os.name != "posix", reason="file descriptors and signals as POSIX has them")
EDGE = [sys.executable, "-m", "edge_app"]


@pytest.fixture
def shell(home, tmp_path):
    """Runs `edge-app` with redirections of a shell, in a data folder of this test."""

    def run(line, encoding="utf-8", **variables):
        command = line.replace("edge-app", f"'{sys.executable}' -m edge_app", 1)
        environment = os.environ | {"EDGE_APP_HOME": str(home.path)} | variables
        return subprocess.run(
            ["bash", "-c", command], capture_output=True, encoding=encoding, cwd=tmp_path, env=environment, timeout=300
        )

    return run


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("line", ["gallery list --json", "gallery list", "models list", "--help", "completion fish"])
def test_a_full_standard_output_is_one_line(shell, line):
    done = shell(f"edge-app {line} > /dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("edge-app: standard output") and done.stderr.count("\n") == 1


@posix
def test_a_closed_standard_output_is_one_line(shell):
    done = shell("edge-app gallery list --json >&-")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "standard output cannot be written" in done.stderr


@posix
def test_a_reader_that_goes_away_is_no_error(shell):
    done = shell("edge-app --help | true; exit ${PIPESTATUS[0]}")
    assert done.returncode in (0, 1) and done.stderr == ""


@posix
def test_errors_never_enter_the_results_where_standard_error_is_closed(shell):
    done = shell("edge-app recognize nothing.jpg --json 2>&-")
    assert (done.returncode, done.stdout) == (1, "")
    done = shell("edge-app gallery list --json 2>&-")
    assert json.loads(done.stdout) == {"people": []}


@posix
def test_no_file_of_ours_gets_the_number_of_a_closed_stream(tmp_path):
    script = (
        "import os, sys; from edge_app.cli import process; process.open_standard_streams();"
        "found = os.open('f', os.O_CREAT | os.O_WRONLY); sys.exit(found)"
    )
    command = ["bash", "-c", f"'{sys.executable}' -c \"{script}\" 0<&- 1>&- 2>&-"]
    assert subprocess.run(command, cwd=tmp_path, timeout=300).returncode == 3


@posix
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_are_printed_in_any_encoding(shell, home, encoding):
    from edge_app.media import sample

    pictures = [str(path) for path in sample.people()["Barack Obama"]]
    assert main(["enroll", "Zoë 李小龍", *pictures, "--home", str(home.path)]) == 0
    done = shell("edge-app gallery list", encoding, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0 and "Zo" in done.stdout and done.stderr == ""
    done = shell("edge-app gallery list --json", encoding, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert json.loads(done.stdout)["people"][0]["name"] == "Zoë 李小龍"


AT_IMPORT = """
import os, signal, sys
import edge_app.__main__ as program
class Interrupting:
    left = int(sys.argv.pop(1))
    def find_spec(self, *_):
        Interrupting.left -= 1
        if Interrupting.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
program.start()
"""


@posix
@pytest.mark.parametrize("number", [1, 2, 3, 5, 8, 13, 20, 30])
def test_ctrl_c_while_the_program_starts_shows_no_traceback(number, home):
    command = [sys.executable, "-c", AT_IMPORT, str(number), "gallery", "list", "--home", str(home.path)]
    # Whoever runs the tests in the background, or by nohup, has it ignored here and in every child.
    taken = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **taken)
    assert done.returncode in (-signal.SIGINT, 130) and done.stdout == ""
    assert done.stderr in ("", "edge-app: stopped\n")


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 130)])
@posix
def test_a_signal_ends_a_command_after_it_has_tidied_up(name, code, monkeypatch, capsys, tmp_path):
    left = tmp_path / "half"

    def slow(*_args, **_options):
        left.write_text("half")
        try:
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(10)
        finally:
            left.unlink()

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    if before[getattr(signal, name)] is signal.SIG_IGN:
        pytest.skip("the tests were started with this signal ignored, as nohup does: that holds")
    monkeypatch.setattr("edge_app.cli.gallery.run_list", slow)
    assert main(["gallery", "list"]) == code
    assert not left.exists() and capsys.readouterr().err == "edge-app: stopped\n"
    assert {one: signal.getsignal(one) for one in before} == before


@posix
def test_a_signal_in_the_middle_of_an_import_waits_until_it_is_done(tmp_path):
    (tmp_path / "slow_module.py").write_text(
        "import time\nprint('began', flush=True)\ntime.sleep(1)\nprint('done', flush=True)"
    )
    code = (
        "import sys, time\nfrom edge_app.cli import process\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "try:\n    with process.signals_as_interrupts():\n        import slow_module\n        time.sleep(60)\n"
        "except process.Stopped as stop:\n    print('stopped', stop.number, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stdout.readline() == "began\n"
        child.terminate()
        assert child.stdout.read() == f"done\nstopped {signal.SIGTERM.value}\n"


def test_an_ignored_hang_up_stays_ignored(monkeypatch):
    monkeypatch.setattr(signal, "signal", pytest.fail)
    before = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda n: signal.SIG_IGN if n != signal.SIGINT else before(n))
    with process.signals_as_interrupts():
        pass


def test_a_fault_of_ours_is_one_line_and_an_entry_in_the_log(monkeypatch, capsys, home):
    def broken(_args):
        raise TypeError("the secret name of a picture")

    monkeypatch.delenv("EDGE_APP_DEBUG")
    monkeypatch.setattr("edge_app.cli.gallery.run_list", broken)
    assert main(["gallery", "list", "--home", str(home.path)]) == 1
    err = capsys.readouterr().err
    assert err == f"edge-app: internal fault (TypeError); see {home.log_path}\n"
    assert "TypeError at" in home.log_path.read_text() and "secret" not in home.log_path.read_text()
    monkeypatch.setenv("EDGE_APP_DEBUG", "1")
    with pytest.raises(TypeError):
        main(["gallery", "list"])


def test_a_failure_of_the_disk_is_one_line(monkeypatch, capsys):
    def full(_args):
        raise OSError(28, "No space left on device", "/somewhere/\x1b[31mfile")

    monkeypatch.setattr("edge_app.cli.gallery.run_list", full)
    assert main(["gallery", "list"]) == 1
    assert capsys.readouterr().err == "edge-app: /somewhere/\\x1b[31mfile: No space left on device\n"
    monkeypatch.setattr("edge_app.cli.gallery.run_list", lambda _: (_ for _ in ()).throw(EdgeError("known")))
    assert main(["gallery", "list"]) == 1


@pytest.mark.parametrize("name", ["worker", "another"])
def test_a_live_loop_inside_a_network_does_not_make_of_the_exit_code_an_abort(name):
    """ONNX Runtime aborts where Python ends under a thread that runs it: seen on an emulated machine."""
    code = f"""
import atexit, sys, threading, time
import edge_app.cli
from edge_app.__main__ import start
def main():
    threading.Thread(target=time.sleep, args=(60,), name={name!r}, daemon=True).start()
    atexit.register(print, "the end of Python")
    print("results")
    return 3
edge_app.cli.main = main
start()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout == ("results\n" if name == "worker" else "results\nthe end of Python\n")
