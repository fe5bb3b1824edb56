"""The laws of the house, as one table: which room may import which, and what a process may load."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = {
    "edge_app": "core system media inference model_store gallery accuracy recognition fleet live "
    "library notify|bench|tui cli",
    "edge_models": "fitting data networks classifier|siamese|generate|selfsup comparison cli",
    "edge_export": "graph check build makers cli",
}
"""Packages of each room in order: each imports only what stands before it; those with a bar between them stand beside
each other and do not import one another."""
FOLDERS = {"edge_app": "edge_app", "edge_models": "models/edge_models", "edge_export": "export/edge_export"}
"""Import names in the order of the arrows: a room imports itself and the rooms before it."""
FORBIDDEN = {("accuracy", "live")}
TRAINING = {"torch", "torchvision", "timm", "onnx", "onnxscript", "facenet_pytorch", "lightning", "sklearn"}
PEERS = {"bench/peer_live.py", "bench/peer_speed.py", "accuracy/face_recognition_encode.py"}
"""Scripts that the interpreter of another library runs; nothing imports the peers here."""
RANK = {
    room: {name: i for i, names in enumerate(order.split()) for name in names.split("|")}
    for room, order in ROOMS.items()
}


def files():
    for room, folder in FOLDERS.items():
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            inside = path.relative_to(REPOSITORY / folder)
            yield room, inside.as_posix(), path.read_text(encoding="utf-8")


def imported(text):
    """Every module that a file imports, in functions too, and every one that it names to importlib or a child."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a line belongs"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = node.value.replace("/", ".").replace(";", " ").split()
            yield from (word for word in words if word.split(".")[0] in ("edge_models", "edge_export"))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "find_spec",
            "__import__",
        ):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def offences(room, inside, text):
    """What of a file's imports breaks the laws."""
    order, package = RANK[room], inside.partition("/")[0]
    for name in imported(text):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if room == "edge_app" and top in TRAINING and inside not in PEERS:
            yield name
        if top not in FOLDERS:
            continue
        if list(FOLDERS).index(top) > list(FOLDERS).index(room) or (
            top == room
            and target != package
            and {package, target} <= order.keys()
            and (order[target] >= order[package] or (package, target) in FORBIDDEN)
        ):
            yield name


def test_every_arrow_points_at_a_room_before():
    found = {f"{room}/{inside}": sorted(offences(room, inside, text)) for room, inside, text in files()}
    assert {file: names for file, names in found.items() if names} == {} and len(found) > 150


def test_every_file_lies_in_a_room_of_the_table():
    inside = [(room, file.partition("/")[0]) for room, file, _ in files() if "/" in file]
    assert set(inside) <= {(room, package) for room, order in RANK.items() for package in order}


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        ("core/types.py", "from edge_app.system import data_folder"),
        ("tui/app.py", "def f():\n    from edge_app.bench import live_loop"),
        ("accuracy/plots.py", "import edge_app.live.worker"),
        ("cli/train.py", "import importlib\nimportlib.import_module('edge_models.cli.train')"),
        ("model_store/sandbox_check.py", "CHILD = 'from edge_export.graph import card; card.main()'"),
        ("inference/onnx_model.py", "import torch"),
    ],
)
def test_the_table_tells_an_arrow_that_points_up(inside, text):
    assert list(offences("edge_app", inside, text))


def test_the_table_lets_an_arrow_down_pass():
    assert not list(offences("edge_app", "tui/app.py", "from edge_app.core.types import Face\nimport numpy"))


MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages([str(REPOSITORY / "edge_app")], "edge_app.")
    if info.name not in {"edge_app.__main__"}
)


def loaded_after(code):
    """Names of the top-level modules in a fresh interpreter after running `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_of_the_laptop_side_loads_the_training_side():
    assert len(MODULES) > 100
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in MODULES)
    assert not loaded_after(code) & TRAINING


def test_the_help_loads_neither_onnx_runtime_nor_opencv():
    code = "from edge_app.cli import main\nassert main(['--help']) == 0"
    assert not loaded_after(code) & (TRAINING | {"onnxruntime", "cv2", "PIL", "textual", "numpy.random._pickle"})


def test_one_module_talks_to_onnx_runtime_and_few_to_the_gallery_s_file():
    def users(package):
        sources = [(inside, text) for room, inside, text in files() if room == "edge_app"]
        return [inside for inside, text in sources if package in {name.split(".")[0] for name in imported(text)}]

    assert users("onnxruntime") == ["inference/onnx_model.py"]
    rooms = ("blocks", "records", "rows", "salvage", "sqlite_file", "storage")
    assert users("sqlite3") == [f"gallery/{name}.py" for name in rooms]
