"""The language of docstrings: no template, and none that only repeats a name."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
ROOMS = ("edge_app", "models", "export", "tests")
TEMPLATE = re.compile(
    r"(?:^|[.:;]\s+)(?:[Hh]ides\s|In: |Out: )|\b[Ff]lows (?:in|out)\b|\b[Kk]nows nothing\b|\b[Tt]ells nobody\b"
)
"""Phrases of the template that once stood over every module."""
FILLING = re.compile(
    r"a|an|and|as|at|be|by|each|for|from|in|is|it|its|of|on|one|or|that|the|this|to|was|what|which|with"
)


def files():
    """Path in the repository -> text."""
    found = [path for room in ROOMS for path in sorted((REPOSITORY / room).rglob("*.py"))]
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in found}


def texts(tree):
    """Every docstring with its line: of the module, classes, functions, and under fields and constants."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def stems(text):
    words = re.findall(r"[a-z]+", re.sub(r"([A-Z])", r" \1", text).lower())
    return {re.sub(r"(?<=[a-z]{3})(?:ing|ed|es|s|e)$", "", word) for word in words if not FILLING.fullmatch(word)}


def repeats(node):
    """Whether the docstring of a function or class has no word that its name and arguments lack."""
    text = ast.get_docstring(node)
    known = stems(node.name)
    if not isinstance(node, ast.ClassDef):
        known |= {stem for argument in node.args.args for stem in stems(argument.arg)}
    return text is not None and stems(text) <= known


def template(text):
    return [line for line, words in texts(ast.parse(text)) if TEMPLATE.search(" ".join(words.split()))]


def restating(text):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, kinds) and repeats(node)]


def test_no_docstring_follows_the_template_or_repeats_a_name():
    found = {file: template(text) + restating(text) for file, text in files().items()}
    assert {file: places for file, places in found.items() if places} == {} and len(found) > 300


def test_every_module_says_what_it_is():
    trees = {file: ast.parse(text) for file, text in files().items()}
    assert [file for file, tree in trees.items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    "text",
    [
        '"""Files fetched: hides HTTP."""',
        '"""Hides the pool. In: items."""',
        '"""A map.\n\nFlows\nin: items."""',
        'x = 1\n"""What it is. Out: words."""',
        'class Box:\n    """Knows nothing of pixels."""',
    ],
)
def test_the_template_is_told(text):
    assert template(text)


def test_a_repeated_name_is_told():
    assert restating('def read_frames(path):\n    """Reads the frames of a path."""') == ["read_frames"]
    assert not restating('def read_frames(path):\n    """RGB, in the order of the file."""')
    assert not template('"""It cannot tell a face from what hides it."""')
