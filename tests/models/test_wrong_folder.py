"""A folder that cannot be learned from is refused before torch is loaded: 4.5 s and 970 MB."""

import subprocess
import sys

import pytest

from edge_app.media.pictures import write_picture
from tests.model_store.planted import plain

CODE = """
import sys
from edge_app.cli import main
code = main(sys.argv[1:])
sys.exit(9 if "torch" in sys.modules else code)
"""


@pytest.mark.parametrize("kind", ["classifier", "siamese"])
@pytest.mark.parametrize("what", ["absent", "a file", "empty", "one class"])
def test_it_is_refused_without_torch(tmp_path, kind, what):
    pytest.importorskip("torch")
    folder = tmp_path / "data"
    if what == "a file":
        folder.write_text("x")
    elif what != "absent":
        folder.mkdir()
    if what == "one class":
        (folder / "ants").mkdir()
        write_picture(folder / "ants" / "a.png", plain((1, 2, 3)))
    words = ["train", kind, str(folder), "--output", str(tmp_path / "run"), "--home", str(tmp_path / "home")]
    done = subprocess.run([sys.executable, "-c", CODE, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert str(folder) in done.stderr and not (tmp_path / "run").exists()
