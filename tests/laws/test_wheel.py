"""The laptop side as users get it: a wheel in a clean environment, run from a folder full of files of their own."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OWN = ("cv2", "numpy", "json", "signal", "click", "onnxruntime", "textual", "PIL", "msgspec", "tomllib", "logging")
"""Files of the user's that are called as libraries are."""
FOLDERS = ("models", "export", "edge_models", "tests")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(
        REPOSITORY, source, ignore=shutil.ignore_patterns(".*", "tests", "docs", "build", "*.egg-info", "__pycache__")
    )
    build = [sys.executable, "-P", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    if done.returncode and "No matching distribution" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    [made] = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory):
    """The folder of programs of a new environment that holds the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if os.name == "nt" else "bin")
    install = [binaries / "python", "-m", "pip", "install", "--quiet", "-c", REPOSITORY / "constraints.txt", wheel]
    done = subprocess.run(install, capture_output=True, text=True, check=False, env=surroundings(folder))
    if done.returncode and ("No matching distribution" in done.stderr or "onnection" in done.stderr):
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    return binaries


def surroundings(home):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGE_APP", "VIRTUAL"))}
    return kept | {"HOME": str(home), "XDG_DATA_HOME": str(home / "data"), "USERPROFILE": str(home)}


@pytest.fixture
def folder(tmp_path):
    """A folder of the user's whose Python files leave a mark when they are run."""
    place = tmp_path / "mine"
    place.mkdir()
    for name in OWN:
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write('{name} ')\n")
    for name in FOLDERS:
        (place / name).mkdir()
        (place / name / "__init__.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'a').write('{name} ')\n")
    return place


def marks(folder):
    path = folder.parent / "RAN"
    return path.read_text().split() if path.exists() else []


def test_the_wheel_holds_edge_app_alone(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top.partition("-")[0] for top in tops} == {"edge_app"} and len(tops) == 2
    assert any(name.endswith("sface-int8.onnx") for name in names) and any(name.endswith(".tcss") for name in names)


def test_the_environment_is_the_laptop_s(binaries):
    listed = subprocess.run(
        [binaries / "python", "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
    )
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert "edge-app" in names and not names & {"torch", "torchvision", "onnx", "timm", "pytest", "scikit-learn"}


def test_the_marks_are_seen(folder):
    subprocess.run([sys.executable, "-c", "import json"], cwd=folder, check=False, env=surroundings(folder.parent))
    assert marks(folder)[:1] == ["json"]


def run(start, words, folder):
    command = [*map(str, start), *map(str, words)]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=surroundings(folder.parent)
    )
    assert "Traceback" not in done.stderr and not marks(folder), (words, done.stderr, marks(folder))
    return done


@pytest.mark.parametrize("how", ["edge-app", "python -m"])
def test_every_command_works_and_runs_none_of_the_user_s_files(binaries, folder, how):
    start = [binaries / "edge-app"] if how == "edge-app" else [binaries / "python", "-m", "edge_app"]
    package = next(binaries.parent.rglob("site-packages/edge_app"))
    pictures = sorted((package / "media" / "sample").glob("*.jpg"))
    obama = [path for path in pictures if "obama" in path.name]
    assert len(obama) >= 3
    model = folder / "face.onnx"
    shutil.copy(package / "zoo" / "sface-int8.onnx", model)

    def works(*words):
        done = run(start, words, folder)
        assert done.returncode == 0, (words, done.stdout[-500:], done.stderr)
        return done.stdout

    assert "recognize" in works("--help")
    assert "Barack Obama" in works("demo")
    works("enroll", "Barack Obama", *obama[:2])
    assert "Barack Obama" in works("recognize", obama[2])
    assert "sface" in works("models", "list")
    works("models", "add", "face.onnx", "--id", "mine")
    works("models", "use", "mine")
    works("models", "verify")
    works("gallery", "list")
    works("doctor")
    for words, extra in ((["train", "classifier", "x"], "train"), (["export", "x"], "export")):
        done = run(start, words, folder)
        assert done.returncode != 0 and f"[{extra}]" in done.stderr, done.stderr
