"""The Python surface: the example of docs/api.md does what it says, and nothing is loaded before it is asked for."""

import contextlib
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edge_app
from edge_app.media import sample

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
BLOCKS = re.findall(r"```(?:python)?\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """The current folder, with the sample people's pictures in it."""
    for path in Path(sample.__file__).parent.glob("*.jpg"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_example_prints_what_the_page_says(pictures):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(BLOCKS[0], {})
    assert printed.getvalue() == BLOCKS[1]


def test_the_page_and_the_package_name_the_same_things():
    listed = set(re.findall(r"^\| `(\w+)", PAGE.read_text(encoding="utf-8"), re.M))
    assert listed | {"LookFor"} == set(edge_app.__all__) - {"__version__"}
    assert all(getattr(edge_app, name) is not None for name in edge_app.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Robot'"):
        _ = edge_app.Robot


def test_arrays_are_pictures_too_refusals_come_back_and_people_are_forgotten(pictures):
    with edge_app.People("door", precision="fp32") as people:
        assert people.names == ()
        [verdict, blank] = people.enroll("Joe", "biden_1.jpg", np.zeros((90, 90, 3), np.uint8))
        assert verdict.accepted and blank.refusal.reason == "no-face"
        assert people.names == ("Joe",) and people.rule.words.startswith("With 1 person enrolled")
        [unreadable] = people.enroll("Eve", "door/gallery.db")
        assert unreadable.refusal.reason == "unreadable" and people.names == ("Joe",)
        people.forget("Joe")
        assert people.who("biden_1.jpg") == [None]
        with pytest.raises(edge_app.EdgeError):
            people.forget("Joe")


def test_importing_the_package_loads_no_model_code():
    code = "import sys, edge_app; print({'numpy', 'cv2', 'onnxruntime', 'edge_app.api'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
