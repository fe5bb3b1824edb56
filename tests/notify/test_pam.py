"""Logins through PAM: what is written, and what pamtester gets with it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import edge_app
from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.gallery.enrollment import EnrollOptions
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from edge_app.media.pictures import read_picture
from edge_app.notify.pam import PamOptions, helper_of, line_of, service_of
from edge_app.recognition.open_session import open_people
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings

OBAMA, BIDEN = "Barack Obama", "Joe Biden"
PATIENCE_S = 120.0
OPTIONS = PamOptions({"ada": "Ada O'Hara"}, Path("/opt/edge-app/bin/edge-app"), Path("/var/lib/edge-app"))
SUDO = "#%PAM-1.0\nsession required pam_limits.so\n\n@include common-auth\n@include common-account\n"


def run_helper(tmp_path: Path, options: PamOptions, **environment: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "helper"
    path.write_text(helper_of(options))
    return subprocess.run(["/bin/sh", str(path)], env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def shown(tmp_path: Path) -> PamOptions:
    """The program is one that shows its words and its environment."""
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\nfor word in "$@"; do echo "[$word]"; done\nenv | sort\n')
    program.chmod(0o755)
    return replace(OPTIONS, program=program)


def test_the_helper_runs_verify_for_the_person_of_the_account_and_with_nothing_of_the_callers(tmp_path, shown):
    told = run_helper(tmp_path, shown, PAM_USER="ada", EDGE_APP_HOME="/tmp/mine", LD_PRELOAD="", PYTHONPATH="/tmp/evil")
    assert told.returncode == 0 and told.stderr == ""
    assert "[verify]\n" in told.stdout and "[--]\n[Ada O'Hara]\n" in told.stdout
    assert "[--home]\n[/var/lib/edge-app]\n" in told.stdout and "[--liveness]\n[challenge]\n" in told.stdout
    assert "EDGE_APP_HOME" not in told.stdout and "PYTHONPATH" not in told.stdout and "PAM_USER" not in told.stdout


@pytest.mark.parametrize("environment", [
    {"PAM_USER": "eve"}, {}, {"PAM_USER": "root"}, {"PAM_USER": "ada", "PAM_RHOST": "198.51.100.7"},
    {"PAM_USER": "ada) name=x ;; *"}, {"PAM_USER": "*"},
])  # fmt: skip
def test_the_helper_lets_nobody_else_in(tmp_path, shown, environment):
    told = run_helper(tmp_path, shown, **environment)
    assert (told.returncode, told.stdout) == (1, "")


def test_a_program_that_hangs_is_ended(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec sleep 60\n")
    program.chmod(0o755)
    text = helper_of(replace(OPTIONS, program=program)).replace(f"timeout -k 2 {15 + 15}", "timeout -k 2 1")
    (tmp_path / "helper").write_text(text)
    done = subprocess.run(["/bin/sh", str(tmp_path / "helper")], env={"PAM_USER": "ada"}, timeout=50, check=False)
    assert done.returncode not in (0, 1)


@pytest.mark.parametrize(
    "accounts", [{}, {"root": "Ada"}, {"Ada": "Ada"}, {"a b": "Ada"}, {"$(id)": "Ada"}, {"ada": "a/b"}]
)
def test_accounts_that_are_none(accounts):
    with pytest.raises(UsageError):
        helper_of(replace(OPTIONS, accounts=accounts))


def test_the_face_stands_before_the_password_and_the_rest_stays():
    written = service_of("sudo", SUDO, OPTIONS)
    assert written.splitlines().index(line_of(OPTIONS)) == written.splitlines().index("@include common-auth") - 1
    assert [line for line in written.splitlines() if line and line != line_of(OPTIONS)] == [
        x for x in SUDO.splitlines() if x
    ]
    assert line_of(OPTIONS).split()[:2] == ["auth", "sufficient"]


@pytest.mark.parametrize(("service", "text", "said"), [
    ("sshd", SUDO, "sit elsewhere"),
    ("sudo", "auth required pam_permit.so\n", "nothing in sudo asks for a password"),
    ("sudo", "# @include common-auth\naccount required pam_unix.so\n", "nothing in sudo asks"),
    ("../shadow", SUDO, "is no PAM service"),
    ("sudo", line_of(OPTIONS) + "\n" + SUDO, "already"),
])  # fmt: skip
def test_services_that_are_left_alone(service, text, said):
    with pytest.raises(UsageError, match=said):
        service_of(service, text, OPTIONS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("login") / "home")
    home.change_settings(precision="fp32")
    session = open_people(home, Settings(precision="fp32"))
    for name, paths in sample.people().items():
        looks = [(path.name, session.recognizer.shot(read_picture(path), path.name)) for path in paths]
        session.enroll(name, looks, EnrollOptions())
    return home


def test_the_command_writes_two_files_and_touches_nothing_else(home, tmp_path, capsys):
    services = tmp_path / "pam.d"
    services.mkdir()
    (services / "sudo").write_text(SUDO)
    given = ["pam", "--service", "sudo", "--services", str(services), "--home", str(home.path)]
    given += ["--output", str(tmp_path / "out")]
    assert main([*given, "--account", f"ada={OBAMA}"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["edge-app-pam", "sudo"]
    assert (services / "sudo").read_text() == SUDO
    assert "before-edge-app" in capsys.readouterr().out
    for wrong in ("ada=Nobody", "ada", "=x", f"root={OBAMA}"):
        assert main([*given, "--account", wrong]) == 2
    assert main([*given[:2], "gdm", *given[3:], "--account", f"ada={OBAMA}"]) == 2
    capsys.readouterr()


Login = Callable[..., int]
needs_pam = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("pamtester") is None or not Path("/etc/pam.d").is_dir(),
    reason="wants root and pamtester",
)


@pytest.fixture
def authenticate(home: Home, tmp_path: Path) -> Iterator[Login]:
    """Log in through PAM with the written helper; the password behind it is always refused here."""
    service = Path("/etc/pam.d") / f"edge-app-test-{os.getpid()}"
    program = Path(tmp_path / "edge-app")
    here = shlex.quote(str(Path(edge_app.__file__).parents[1]))
    program.write_text(f'#!/bin/sh\nPYTHONPATH={here} exec {sys.executable} -P -m edge_app "$@"\n')
    program.chmod(0o755)

    def helpers() -> list[int]:
        asked = ["pgrep", "-f", str(home.path)]
        return [int(one) for one in subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()]

    def attempt(user: str, source: str, *, background: bool = False, **changed: object) -> int:
        options = PamOptions({"daemon": OBAMA}, program, home.path, source, helper=tmp_path / "helper")
        options = replace(options, **changed)  # type: ignore[arg-type]
        options.helper.write_text(helper_of(options))
        options.helper.chmod(0o755)
        service.write_text(f"{line_of(options)}\nauth required pam_deny.so\naccount required pam_permit.so\n")
        words = ["pamtester", service.name, user, "authenticate"]
        environment = {**os.environ, "EDGE_APP_HOME": "/nowhere", "PAM_RHOST": "", "PYTHONSTARTUP": "/nowhere"}
        with subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, start_new_session=True) as process:
            if background:
                end_s = time.monotonic() + PATIENCE_S
                while not helpers() and process.poll() is None and time.monotonic() < end_s:
                    time.sleep(0.05)
                assert process.poll() is None, "it had ended before the helper was there to be killed"
                while found := helpers():  # one may start another at this very moment
                    for number in found:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(number, signal.SIGKILL)
            return process.wait(2 * PATIENCE_S)

    try:
        yield attempt
    finally:
        service.unlink(missing_ok=True)


@needs_pam
@pytest.mark.slow
def test_pam_lets_the_person_in_and_nobody_else(home, authenticate, tmp_path):
    obama, biden = str(sample.probes()[OBAMA][0]), str(sample.people()[BIDEN][0])
    assert authenticate("daemon", obama, liveness="off", timeout_s=60.0) == 0
    assert authenticate("daemon", biden, liveness="off", timeout_s=60.0) != 0
    assert authenticate("daemon", obama, timeout_s=60.0) != 0  # a photo, and a challenge
    assert authenticate("daemon", str(tmp_path / "no camera"), liveness="off") != 0
    assert authenticate("daemon", obama, liveness="off", timeout_s=0.01) != 0
    assert authenticate("root", obama, liveness="off", timeout_s=60.0) != 0
    assert authenticate("nobody", obama, liveness="off", timeout_s=60.0) != 0
    assert authenticate("daemon", "sample", timeout_s=60.0, background=True) != 0  # the helper is killed
    with Vault(home.gallery_path) as vault:
        assert [event.name for event in vault.events() if event.happening == "login"] == [OBAMA]


@needs_pam
@pytest.mark.slow
def test_pam_rests_after_failures(home, authenticate):
    with Vault(home.gallery_path) as vault:
        for _ in range(10):  # five rest for half a minute, which a busy machine may need to begin
            vault.note_attempt(OBAMA, passed=False)
        assert authenticate("daemon", str(sample.probes()[OBAMA][0]), liveness="off", timeout_s=60.0) != 0
        vault.note_attempt(OBAMA, passed=True)
    assert authenticate("daemon", str(sample.probes()[OBAMA][0]), liveness="off", timeout_s=60.0) == 0
