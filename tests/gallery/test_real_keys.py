"""Keys in a real keyring (GNOME's, over a session bus of its own) and in systemd's credentials, where they are here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_app.core.errors import GalleryError
from edge_app.gallery import keys
from edge_app.gallery.storage import Vault
from tests.gallery.test_protection import enrolled, same

pytestmark = pytest.mark.slow

LOCK = "import secretstorage as s; s.get_default_collection(s.dbus_init()).lock()"
SCRIPT = """
set -e
printf secret | gnome-keyring-daemon --unlock --components=secrets --daemonize > "$HOME/daemon.log" 2>&1
for try in 1 2 3 4 5 6 7 8 9; do
  {python} -c "import secretstorage as s; s.get_default_collection(s.dbus_init())" 2> "$HOME/bus.log" && break
  sleep 0.5
done
edge="{python} -m edge_app"
$edge gallery protect --with keyring
$edge gallery list
{python} -c "{lock}"
$edge gallery list || echo "exit $?"
"""


@pytest.fixture
def gnome(home) -> dict[str, str]:
    pytest.importorskip("secretstorage")
    if not (shutil.which("gnome-keyring-daemon") and shutil.which("dbus-run-session")):
        pytest.skip("no GNOME keyring")
    place = home.path.parent / "gnome"
    for name in ("run", "share/dbus-1/services"):
        (place / name).mkdir(parents=True, mode=0o700)
    told = {"HOME": str(place), "XDG_RUNTIME_DIR": str(place / "run"), "XDG_DATA_HOME": str(place / "share")}
    return {k: v for k, v in os.environ.items() if k != "DISPLAY"} | told | {"EDGE_APP_HOME": str(home.path)}


def session_of(environment: dict[str, str], prompter: str) -> tuple[list[str], str]:
    """Protect a gallery, list it, lock the keyring and list it again; `prompter` stands for the dialog."""
    service = Path(environment["XDG_DATA_HOME"]) / "dbus-1/services/org.gnome.keyring.SystemPrompter.service"
    service.write_text(f"[D-BUS Service]\nName=org.gnome.keyring.SystemPrompter\nExec={prompter}\n")
    script = SCRIPT.format(python=sys.executable, lock=LOCK)
    done = subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", script],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    own = [line for line in done.stderr.splitlines() if line.startswith("edge-app:")]
    return own, done.stdout


@pytest.mark.parametrize(("prompter", "said"), [
    ("/bin/false", "the system's keyring refused"),
    ("/bin/sleep 40", "a dialog that nobody sees"),
])  # fmt: skip
def test_a_real_keyring_opens_the_gallery_until_it_is_locked(home, gnome, prompter, said):
    enrolled(home.gallery_path)
    own, out = session_of(gnome, prompter)
    assert out.count("Ada Lovelace") == 1 and out.rstrip().endswith("exit 1")
    assert said in own[-1] and "Traceback" not in out


def test_systemd_keeps_a_key_for_this_machine_alone(home, tmp_path, monkeypatch):
    if not shutil.which("systemd-creds") or os.geteuid() != 0:
        pytest.skip("no systemd-creds, or not root")
    enrolled(home.gallery_path)
    with Vault(home.gallery_path) as vault:
        try:
            vault.protect("systemd-creds")
        except GalleryError as error:
            pytest.skip(str(error))
    monkeypatch.setattr(keys, "_unlocked", {})
    with Vault(home.gallery_path) as vault:
        same(vault)
    secret = tmp_path / "another.secret"
    monkeypatch.setenv("SYSTEMD_CREDENTIAL_SECRET", str(secret))
    subprocess.run(["systemd-creds", "setup"], check=True, capture_output=True)
    assert secret.exists()
    monkeypatch.setattr(keys, "_unlocked", {})
    with Vault(home.gallery_path) as vault, pytest.raises(GalleryError, match="another machine sealed"):
        vault.names()
