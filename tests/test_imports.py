"""The law of the house: arrows point at the runtime, and a process that needs little loads little."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import edge_app

ROOM = Path(edge_app.__file__).parent
MODULES = sorted(
    info.name for info in pkgutil.walk_packages([str(ROOM)], "edge_app.") if info.name not in {"edge_app.__main__"}
)
TRAINING = {"torch", "torchvision", "timm", "onnx", "onnxscript", "facenet_pytorch", "lightning", "sklearn"}


def loaded_after(code):
    """Names of the top-level modules in a fresh interpreter after running `code`."""
    script = f"import sys\n{code}\nprint(*sorted({{name.split('.')[0] for name in sys.modules}}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_no_module_of_the_laptop_side_loads_the_training_side():
    assert len(MODULES) > 20
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in MODULES)
    assert not loaded_after(code) & TRAINING


def test_the_help_loads_neither_onnx_runtime_nor_opencv():
    code = "from edge_app.cli import parser\nparser().format_help()"
    assert not loaded_after(code) & (TRAINING | {"onnxruntime", "cv2", "PIL", "textual", "numpy.random._pickle"})


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


SOURCES = sorted(ROOM.rglob("*.py"))


def test_one_module_talks_to_onnx_runtime_and_one_to_the_gallery_s_file():
    assert [p.name for p in SOURCES if "onnxruntime" in set(imports(p))] == ["runtime.py"]
    assert [p.name for p in SOURCES if "sqlite3" in set(imports(p)) and p.name not in {"vault.py"}] == ["database.py"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOM)))
def test_only_the_command_line_prints_and_exits(path):
    if "cli" in path.parts or path.name == "__main__.py":
        return
    called = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & {"print", "exit", "quit"}


def test_the_rooms_behind_the_runtime_do_not_look_ahead():
    models = sorted((ROOM.parent / "models").rglob("*.py"))
    assert not [p.name for p in models if "export" in set(imports(p))]
    assert not [p.name for p in SOURCES if "cli" not in p.parts and set(imports(p)) & {"models", "export"}]
