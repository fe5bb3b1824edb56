"""Small breakages of Python source: which ones a file offers, and the text with one of them made."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOMS = {
    **{f"edge_app/{name}": f"edge_app/{name}" for name in (
        "accuracy", "bench", "cli", "core", "gallery", "inference", "live", "media", "model_store", "notify",
        "recognition", "system", "tui",
    )},
    "edge_models": "models/edge_models",
    "edge_export": "export/edge_export",
}  # fmt: skip
"""Room -> its folder in the repository."""

_FLIPPED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One place of one file and what is put there."""

    file: str
    """Relative to the repository."""
    line: int
    kind: str
    original: str
    mutant: str
    start: int
    end: int
    """Characters of the file's text that `mutant` replaces."""
    name: str = ""

    def apply(self, text: str) -> str:
        """The file's text with this breakage in it."""
        if text[self.start : self.end] != self.original:
            raise ValueError(f"{self.file}:{self.line} no longer reads {self.original!r}")
        return text[: self.start] + self.mutant + text[self.end :]


def probed(text: str, numbered: Sequence[tuple[int, Mutant]]) -> str:
    """The text of a file with a call of `hit_mutant(number)` where each of these mutants would act; else as before.

    The function is a builtin that the process under test brings (`trial.PLUGIN`); without it nothing happens.
    """
    insertions = []
    for number, mutant in numbered:
        call = f"getattr(__import__('builtins'), 'hit_mutant', int)({number})"
        size = mutant.end - mutant.start
        if mutant.kind == "removed":
            insertions.append((mutant.start, 1, -size, f"{call}; "))
        else:
            # Whoever begins at the same place is the outer one if it is longer, and ends later.
            insertions += [(mutant.start, 1, -size, f"({call}, "), (mutant.end, 0, size, ")[1]")]
    for place, _, _, words in sorted(insertions, reverse=True):
        text = text[:place] + words + text[place:]
    return text


def mutants_of(file: str, text: str) -> list[Mutant]:
    """Every breakage that `text` offers: words, annotations and decorators are left alone."""
    tree = ast.parse(text)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    lines = text.splitlines(keepends=True)

    def at(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = []
    for node, kind, mutant in _breakages(tree):
        start, end = at(node.lineno, node.col_offset), at(node.end_lineno or 0, node.end_col_offset or 0)
        original = text[start:end]
        # Put a bracket around what may bind otherwise in its new place.
        broken = f"({mutant})" if isinstance(node, ast.expr) and not isinstance(node, ast.Constant) else mutant
        found.append(Mutant(file, node.lineno, kind, original, broken, start, end))
    return found


def _breakages(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str, str]]:
    for node in _code(tree):
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            for flipped in _FLIPPED[type(node.ops[0])]:
                yield node, "comparison", ast.unparse(ast.Compare(node.left, [flipped()], node.comparators))
        elif isinstance(node, ast.BoolOp):
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield node, "and/or", ast.unparse(ast.BoolOp(other, node.values))
        elif isinstance(node, ast.BinOp) and type(node.op) in _SWAPPED:
            texts = any(isinstance(part, ast.JoinedStr | ast.Constant) and not _number(part)
                        for part in (node.left, node.right))  # fmt: skip
            if not texts:
                yield node, "arithmetic", ast.unparse(ast.BinOp(node.left, _SWAPPED[type(node.op)](), node.right))
        elif isinstance(node, ast.Constant):
            if isinstance(node.value, bool):
                yield node, "constant", str(not node.value)
            elif isinstance(node.value, int):
                yield node, "constant", repr(node.value + 1 if abs(node.value) < 10 else node.value * 2)
            elif isinstance(node.value, float):
                yield node, "constant", repr(node.value * 1.5 or 1.0)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield node, "condition", ast.unparse(node.operand)
        elif isinstance(node, ast.Raise | ast.AugAssign | ast.Continue | ast.Break | ast.Delete) or _only_acts(node):
            yield node, "removed", "pass"
        if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
            yield node.test, "condition", f"not ({ast.unparse(node.test)})"


def _only_acts(node: ast.AST) -> bool:
    """Whether it is a statement that gives nothing a name, so that what follows still runs without it."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call | ast.Await)
    return isinstance(node, ast.Assign) and all(isinstance(t, ast.Attribute | ast.Subscript) for t in node.targets)


def _number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes that run and whose place is known: no f-strings, annotations, decorators or defaults of types."""
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(node, ast.Call):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.JoinedStr | ast.Assert) or not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield from _code(child)


def sample(repository: Path, lines: int, seed: int, only: Sequence[str] = ()) -> list[Mutant]:
    """One breakage for each of `lines` lines: two a room, or fewer where there are too many rooms, the rest anywhere.

    `only` restricts it to rooms whose name holds one of these words. The same seed and files give the same.
    """
    rng = random.Random(seed)
    by_room: dict[str, list[tuple[str, int]]] = {}
    all_mutants: dict[tuple[str, int], list[Mutant]] = {}
    for room, folder in ROOMS.items():
        if only and not any(word in room for word in only):
            continue
        for path in sorted((repository / folder).rglob("*.py")):
            file = path.relative_to(repository).as_posix()
            for mutant in mutants_of(file, path.read_text(encoding="utf-8")):
                all_mutants.setdefault((file, mutant.line), []).append(mutant)
                if len(all_mutants[file, mutant.line]) == 1:
                    by_room.setdefault(room, []).append((file, mutant.line))
    chosen: list[tuple[str, int]] = []
    for places in by_room.values():
        chosen += rng.sample(places, min(len(places), 2, lines // len(by_room)))
    rest = sorted(set(all_mutants) - set(chosen))
    chosen += rng.sample(rest, min(len(rest), max(0, lines - len(chosen))))
    return [rng.choice(all_mutants[place]) for place in sorted(chosen)]
