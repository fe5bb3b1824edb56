"""No process that the product starts runs files of the folder it happens to stand in."""

import ast

from tests.laws.test_layers import files


def unsafe(text):
    """Command lines that begin with this interpreter and let the current folder onto its path."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.List | ast.Tuple):
            continue
        words = [ast.unparse(one) for one in node.elts]
        if "sys.executable" not in words:
            continue
        after = words[words.index("sys.executable") + 1 :]
        runs_module_or_code = {"'-c'", "'-m'"} & set(after)
        # `python -m edge_app` takes the current folder off its path by itself, before it imports anything.
        if runs_module_or_code and "'-P'" not in after and after[:2] != ["'-m'", "'edge_app'"]:
            yield " ".join(words)


def test_the_law_tells_a_child_that_looks_around():
    assert list(unsafe("run([sys.executable, '-c', 'import json'])"))
    assert list(unsafe("run((sys.executable, '-S', '-m', 'pip'))"))
    assert not list(unsafe("run([sys.executable, '-P', '-c', code]); run([sys.executable, '-m', 'edge_app', 'x'])"))


def test_every_child_leaves_the_current_folder_off_its_path():
    found = {f"{room}/{inside}": list(unsafe(text)) for room, inside, text in files()}
    assert {file: lines for file, lines in found.items() if lines} == {} and len(found) > 150
