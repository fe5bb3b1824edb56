"""Processes killed in the middle of every change to the gallery: nobody lost, nothing left of the forgotten.

EDGE_APP_KILLS says how many kills; 100 are run before a release.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_app.gallery import archive
from edge_app.gallery.archive import export_gallery
from edge_app.gallery.storage import Vault
from tests.gallery.test_storage import files_hold, shots

REPOSITORY = Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("EDGE_APP_KILLS", "8"))

CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:2]
import numpy as np
from edge_app.gallery import archive
from edge_app.gallery.archive import import_gallery
from edge_app.gallery.import_encodings import import_encodings
from edge_app.gallery.storage import Vault
from tests.gallery.test_storage import shots
archive.SCRYPT_N = 2**8
log = open(sys.argv[3], "a", buffering=1)
run, exported = sys.argv[4], Path(sys.argv[5])
with Vault(Path(sys.argv[2])) as vault:
    print("ready", flush=True)
    for number in range(10_000):
        name = f"enrolled-r{run:0>3}n{number:05d}"
        def done(what):
            log.write(what + "\\n")
        vault.add(name, shots(2, seed=number, size=64), (b"kept picture" * 50, None))
        done(f"enroll {name}")
        vault.add(name, shots(2, seed=number, size=32, model="later"))
        done(f"reenroll {name}")
        new = name.replace("enrolled", "renamed")
        vault.rename(name, new)
        done(f"rename {name} {new}")
        other = f"imported-r{run:0>3}i{number:05d}"
        import_encodings(vault, "m", {other: np.random.default_rng(number + 5).normal(size=(3, 64))}, "file")
        done(f"import {other}")
        import_gallery(vault, exported, "correct horse")
        done("imported exported")
        log.write(f"forgetting {other}\\n")
        vault.forget(other)
        done(f"forget {other}")
        log.write("forgetting exported\\n")
        vault.forget("exported")
        done("forget exported")
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("protected", [False, True])
def test_kills_lose_nobody_and_leave_nothing(home, tmp_path, monkeypatch, protected):
    monkeypatch.setattr(archive, "SCRYPT_N", 2**8)
    exported, log = tmp_path / "exported.edge", tmp_path / "log"
    with Vault(tmp_path / "other" / "gallery.db") as other:
        other.add("exported", shots(2, seed=99, size=64), (b"picture of exported" * 50, None))
        export_gallery(other, exported, "correct horse")
    if protected:
        with Vault(home.gallery_path) as vault:
            vault.protect("file")
    rng = random.Random(13)
    journals = 0
    for kill in range(100 * KILLS):
        if kill >= KILLS and journals:  # a busy machine may hit no transaction for a while
            break
        words = [
            sys.executable,
            "-c",
            CHILD,
            str(REPOSITORY),
            str(home.gallery_path),
            str(log),
            str(kill),
            str(exported),
        ]
        process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.0, 1.5))
        process.kill()
        process.wait()
        process.stdout.close()
        journals += (home.path / "gallery.db-journal").exists()
        present, gone, later, pending = set(), set(), set(), set()
        for line in log.read_text().splitlines() if log.exists() else ():
            what, *names = line.split()
            if what in {"enroll", "import"}:
                present.add(names[0])
            elif what == "imported":
                present.add("exported")
                gone.discard("exported")
            elif what == "reenroll":
                later.add(names[0])
            elif what == "rename":
                present.discard(names[0])
                present.add(names[1])
                gone.add(names[0])
                if names[0] in later:
                    later.add(names[1])
            elif what == "forgetting":
                pending.add(names[0])
            elif what == "forget":
                present.discard(names[0])
                pending.discard(names[0])
                gone.add(names[0])
        with Vault(home.gallery_path) as vault:
            vault.verify()
            here = {one.name: one for one in vault.roster()}
            # What was killed before it could say that it was done may have happened: a rename, a forgetting.
            may_be_gone = pending | {name for name in present if name.replace("enrolled", "renamed") in here}
            lost = present - set(here) - may_be_gone
            assert not lost
            assert not {name for name in gone if name in here and name != "exported"}
            for name, one in here.items():
                assert dict(one.templates) in ({"m": 2}, {"m": 2, "later": 2}, {"m": 3})
                assert name not in later or one.templates.get("later") == 2
        # A journal whose header had not reached the disk says nothing is to be undone: it stays until the next change,
        # and holds pages as they are in the file.
        left = [path for path in home.path.iterdir() if path.suffix != ".key"]
        assert {path.name for path in left} <= {"gallery.db", "gallery.db-journal"}
        content = b"".join(path.read_bytes() for path in left)
        # Names are long: four bytes are found by chance in an encrypted gallery once in about a hundred runs. None
        # is the beginning of another: where a page ends within a longer name that is there, the shorter stood alone.
        for name in gone - {"exported"}:
            assert name.encode() not in content, name
        if "exported" in gone and "exported" not in here:
            assert b"picture of exported" not in content
        if protected:
            assert not files_hold(home.path, b"kept picture") and not files_hold(home.path, b"named-r")
            assert not files_hold(home.path, b"enrolled-r")
    assert journals, "no kill hit a transaction, so the test proves nothing"
