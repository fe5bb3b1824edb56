"""Two processes never train in one run folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from edge_app.core.errors import UsageError
from edge_models.fitting.run_folder import Hold, open_run

HOLDER = """
import sys
from pathlib import Path
from edge_models.fitting.run_folder import Hold
with Hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_folder_that_another_process_holds_is_refused_until_it_dies(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    open_run(tmp_path / "run", {"seed": 1}, resume=False)
    child = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="another process is training in"), Hold(tmp_path / "run"):
        pass
    child.kill()
    child.communicate()
    with Hold(tmp_path / "run"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_folder_that_is_yet_to_be_made_is_held_from_then_on(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with Hold(tmp_path / "run") as hold:
        assert not (tmp_path / "run").exists()
        open_run(tmp_path / "run", {"seed": 1}, resume=False)
        hold.take()
        with pytest.raises(UsageError, match="another process"), Hold(tmp_path / "run"):
            pass
