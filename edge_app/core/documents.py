"""JSON and TOML that somebody else may have written or a disk may have damaged: bounded when parsed, then typed.

`parse_json` and `parse_toml` cost milliseconds whatever they are given; `typed` turns plain values into dataclasses,
each value of the kind that its field's annotation says. Wrong ones are told with their path: `input.mean[1]`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import EnumType
from functools import cache
from typing import Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from edge_app.core.errors import EdgeError
from edge_app.core.plain_text import plain as plain_text

MOST_DEPTH: Final = 16
MOST_VALUES: Final = 200_000
"""Objects, lists, numbers and texts in one document; ImageNet-21k's labels are 21,841."""
_MOST_DOTS: Final = 16
_LARGEST: Final = 2**63
_NO_HALVES: Final = re.compile("[\ud800-\udfff]")
_STRINGS: Final = re.compile(
    r'"""(?:\\[\s\S]?|[^\\])*?(?:"""|\Z)|' + r"'''[\s\S]*?(?:'''|\Z)|"
    r'"(?:\\[^\n]?|[^"\\\n])*(?:"|\n|\Z)|' + r"'[^'\n]*(?:'|\n|\Z)|#[^\n]*"
)
"""TOML's strings and comments; every alternative ends somewhere, so that nothing is read twice."""
_REASON: Final = re.compile(r"(?s)(?P<reason>.*?)(?: - at `\$\.?(?P<path>.*)`)?")

Kind = TypeVar("Kind")


class DocumentError(ValueError):
    """What is wrong with a document, and where; one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(plain_text(" ".join(reason.split()), longest=500))


def parse_json(content: bytes | str, *, most_bytes: int, halves: bool = False) -> Any:
    """Plain values out of JSON in UTF-8; a byte-order mark is passed over, as Windows editors write one.

    `halves` allows halves of characters in texts: Python puts them in place of a file name's bytes that are not UTF-8.
    Raises DocumentError for what is no JSON, too large, nested too deeply, or holds a number that is not finite.
    """
    if len(content) > most_bytes:
        raise DocumentError(f"it has more than {most_bytes} bytes")
    try:
        text = content.removeprefix("\ufeff") if isinstance(content, str) else content.decode("utf-8-sig")
        plain = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except ValueError as error:
        raise DocumentError(str(error)) from error
    _check_bounds(plain, halves)
    return plain


def parse_toml(content: bytes, *, most_bytes: int) -> dict[str, Any]:
    """Plain values out of TOML. Raises DocumentError as `parse_json` does, and for keys of more than 16 dots: tomllib
    takes 10 s and 700 MB over one of 40,000.
    """
    import tomllib

    if len(content) > most_bytes:
        raise DocumentError(f"it has more than {most_bytes} bytes")
    try:
        text = content.decode("utf-8-sig")
        if any(part.count(".") > _MOST_DOTS for part in re.split(r"[=\n\[\]{},]", _STRINGS.sub("x", text))):
            raise DocumentError(f"a key has more than {_MOST_DOTS} dots")
        plain = tomllib.loads(text)
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except ValueError as error:
        raise DocumentError(str(error)) from error
    _check_bounds(plain, halves=False)
    return plain


def _refuse_constant(name: str) -> float:
    raise DocumentError(f"it holds {name}")


def _check_bounds(plain: object, halves: bool) -> None:
    count, level, depth = 0, [plain], 0
    while level:
        depth += 1
        count += len(level)
        if depth > MOST_DEPTH or count > MOST_VALUES:
            limit = f"{MOST_DEPTH} levels" if depth > MOST_DEPTH else f"{MOST_VALUES} values"
            raise DocumentError(f"it has more than {limit}")
        deeper: list[object] = []
        for value in level:
            if isinstance(value, dict):
                deeper += value.keys()
                deeper += value.values()
            elif isinstance(value, list):
                deeper += value
            elif isinstance(value, int) and not -_LARGEST <= value < _LARGEST:
                raise DocumentError("it holds a number of more than 64 bits")
            elif isinstance(value, float) and not math.isfinite(value):
                raise DocumentError("it holds a number that is not finite")
            elif isinstance(value, str) and not halves and _NO_HALVES.search(value):
                raise DocumentError("it holds half a character")
        level = deeper


def typed(plain: object, kind: type[Kind], *, known: bool = True) -> Kind:
    """Plain values as a dataclass, a mapping or a tuple of them; lists become tuples where the annotation says so.

    `known` refuses fields that a dataclass does not have. Raises DocumentError with the path of what is wrong; what a
    dataclass's own checks raise comes through.
    """
    import msgspec  # 11 ms, against pydantic's 140

    try:
        if known:
            _refuse_unknown(plain, kind, "")
        return msgspec.convert(plain, kind, strict=True)
    except msgspec.ValidationError as error:
        # Of the dataclasses' own checks, msgspec wraps ValueErrors only.
        raise DocumentError(_reason(str(error))) from error
    except RecursionError as error:
        raise DocumentError("it is nested too deeply") from error
    except UnicodeEncodeError as error:  # half a character where one of several words is expected
        raise DocumentError("it holds half a character") from error


def check_fields(made: Any, refusal: type[EdgeError]) -> None:
    """Hold every field of a frozen dataclass to its annotation, for its `__post_init__`.

    Lists become tuples and numpy's numbers plain ones. Raises `refusal` naming the field.
    """
    import msgspec

    kind: Any = type(made)
    for name, hint in _hints(kind).items():
        value = getattr(made, name)
        if hasattr(value, "dtype") and getattr(value, "ndim", 1) == 0:
            value = value.item()
        try:
            object.__setattr__(made, name, msgspec.convert(value, hint, strict=True))
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            reason, path = _split(str(error) if isinstance(error, msgspec.ValidationError) else "plain text")
            place = f"{name}{path if path.startswith('[') else '.' + path if path else ''}"
            shown = "" if isinstance(value, dict | list | tuple) or is_dataclass(value) else f" {_shown(value)}"
            words = get_args(hint) if get_origin(hint) is Literal else tuple(hint) if isinstance(hint, EnumType) else ()
            if words:
                raise refusal(f"{place} is{shown}", expected="one of " + ", ".join(words)) from error
            raise refusal(f"{place} is{shown or ' wrong'}", expected=reason.removeprefix("expected ")) from error


def _shown(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:100]
    except (TypeError, ValueError):
        return type(value).__name__


@cache
def _hints(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _refuse_unknown(plain: object, kind: Any, path: str) -> None:
    if isinstance(kind, type) and is_dataclass(kind):
        if isinstance(plain, Mapping):
            hints = _hints(kind)
            for name in plain:
                if name not in hints:
                    raise DocumentError(f"{path}{str(name)[:60]!r} is unknown, expected one of {', '.join(hints)}")
            for field in fields(kind):
                if field.default is field.default_factory is MISSING and field.name not in plain:
                    raise DocumentError(f"{path}{field.name} is missing")
            for name, hint in hints.items():
                _refuse_unknown(plain.get(name), hint, f"{path}{name}.")
    elif get_origin(kind) in (tuple, list) and isinstance(plain, list) and is_dataclass(get_args(kind)[0]):
        for number, each in enumerate(plain):
            _refuse_unknown(each, get_args(kind)[0], f"{path.removesuffix('.')}[{number}].")


def _split(message: str) -> tuple[str, str]:
    """Msgspec's message as a reason in small letters, and a path without its "$"."""
    found = _REASON.fullmatch(message)
    assert found is not None
    reason, path = found["reason"].replace("`", ""), found["path"] or ""
    return reason[:1].lower() + reason[1:].replace(", got ", ", found "), path


def _reason(message: str) -> str:
    reason, path = _split(message)
    return f"{path}: {reason}" if path else reason
