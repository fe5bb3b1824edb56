"""Seeded mutations of valid inputs: of bytes, of JSON by its structure, of TOML by its lines."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Sequence
from typing import Any

HOSTILE = (
    "\x1b[2J", "\x1b]0;title\x07", "\u202e", "\x00", "\x9b2J", "\r", "\n", "\t", "\u2028", "\ud800", "\udce9", "",
    "..", ".", "/", "../../x", "a" * 10_000, "é" * 300, "\U0010ffff", "%s%n", "nan", "null", "-1", "1e999",
    "\\u001b[2J",
)  # fmt: skip
NUMBERS = (
    0, -0.0, 1, -1, 2, 0.5, 1e-300, 1e300, 1e308, float("nan"), float("inf"), -float("inf"), 2**31, 2**31 - 1, -(2**31),
    2**32, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400, 255, 256, 65536, 1e-9, True, False,
)  # fmt: skip
VARINTS = (b"\x00", b"\x7f", b"\x80\x01", b"\xff" * 9 + b"\x01", b"\xff" * 10, b"\xff\xff\xff\xff\x0f", b"\x80" * 12)


def mutated(kind: str, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One input: a seed, changed one to four times in the way of its `kind` ("bytes", "json" or "toml")."""
    data = rng.choice(seeds)
    if kind == "json":
        data = json_mutated(data, rng)
    elif kind == "toml":
        data = toml_mutated(data, rng)
    if kind == "bytes" or rng.random() < 0.1:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = bytes_mutated(data, seeds, rng)
    return data


def bytes_mutated(data: bytes, seeds: Sequence[bytes], rng: random.Random) -> bytes:
    """One change somewhere, at a place that is as likely near the beginning as anywhere."""
    size = len(data)
    at = rng.randrange(size + 1) if rng.random() < 0.5 else min(size, int(rng.expovariate(1 / 64)))
    span = min(size - at, rng.choice((1, 2, 4, 8, 64, 512)))
    match rng.randrange(10):
        case 0 | 1 if at < size:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 2:
            return data[:at] + rng.randbytes(span) + data[at + span :]
        case 3:
            return data[:at] + data[at + span :]
        case 4:
            return data[:at] + data[at : at + span] * rng.choice((2, 3, 50, 1000)) + data[at + span :]
        case 5:
            return data[:at]
        case 6:
            return data[:at] + rng.choice(VARINTS) + data[at + rng.choice((0, 1)) :]
        case 7:
            hostile = rng.choice(HOSTILE).encode("utf-8", "surrogatepass")[:2000]
            return data[:at] + hostile + data[at + rng.choice((0, len(hostile))) :]
        case 8:
            other = rng.choice(seeds)
            return data[:at] + other[min(at, len(other)) :]
        case _:
            number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63)).to_bytes(8, rng.choice(("little", "big")))
            width = rng.choice((2, 4, 8))
            return data[:at] + number[:width] + data[at + width :]


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """A JSON value that nobody expects."""
    match rng.randrange(8 if depth < 3 else 5):
        case 0 | 1:
            return rng.choice(HOSTILE)
        case 2 | 3:
            return rng.choice(NUMBERS)
        case 4:
            return rng.choice((None, [], {}, [[]], [None], {"": ""}))
        case 5:
            return [odd_value(rng, depth + 1) for _ in range(rng.choice((1, 2, 3, 40)))] if rng.random() < 0.3 else [1]
        case 6:
            return {rng.choice(HOSTILE): odd_value(rng, depth + 1)} if rng.random() < 0.7 else {"a": 1}
        case _:
            deep: Any = 0
            for _ in range(rng.choice((3, 17, 200, 900))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            return deep


def json_mutated(data: bytes, rng: random.Random) -> bytes:
    """A document changed at one to four of its places."""
    document = json.loads(data)
    try:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            document = _changed(document, rng)
        return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    except RecursionError:
        return b"[" * rng.choice((100, 10_000, 200_000))


def _changed(document: Any, rng: random.Random) -> Any:
    inside: list[tuple[Any, Any]] = []
    level = [document]
    while level:
        value = level.pop()
        if isinstance(value, dict):
            inside += [(value, key) for key in value]
            level += value.values()
        elif isinstance(value, list) and len(value) < 1000:
            inside += [(value, index) for index in range(len(value))]
            level += value
    if not inside or rng.random() < 0.02:
        return odd_value(rng)
    holder, key = rng.choice(inside)
    match rng.randrange(7):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(HOSTILE)] = holder.pop(key)
        case 2 if isinstance(holder, dict):
            holder[rng.choice((*HOSTILE, key + "s"))] = odd_value(rng)
        case 3 if isinstance(holder, list):
            holder += [copy.deepcopy(holder[key]) for _ in range(rng.choice((1, 2, 500)))]
        case 4:
            other, place = rng.choice(inside)
            # Copies: a document that holds itself cannot be written.
            holder[key] = copy.deepcopy(other[place]) if place in (other if isinstance(other, dict) else ()) else None
        case _:
            holder[key] = odd_value(rng)
    return document


def toml_mutated(data: bytes, rng: random.Random) -> bytes:
    """A document whose lines are changed: other values, other keys, keys of dots, nests of brackets."""
    lines = data.decode().splitlines()
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(lines) + 1)
        odd = odd_value(rng)
        name = lines[at].partition("=")[0].strip() if at < len(lines) else "x"
        text = _as_toml(odd, rng)
        match rng.randrange(8):
            case 0 | 1 | 2:
                lines[at : at + 1] = [f"{name} = {text}"]
            case 3:
                lines[at : at + 1] = []
            case 4:
                lines.insert(at, rng.choice((f'"{name}" = 1', f"{name}.{name} = {text}", f"[{name}]", f"[[{name}]]")))
            case 5:
                lines.insert(at, "a." * rng.choice((5, 17, 3000, 40_000)) + "a = 1")
            case 6:
                lines.insert(at, "x = " + rng.choice(("[", "{a=", '"""', "'''", '"\\')) * rng.choice((1, 50, 5000)))
            case _:
                lines.insert(at, re.sub(r"[\r\n]", "", rng.choice(HOSTILE)) + f" = {text}")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _as_toml(value: Any, rng: random.Random) -> str:
    try:
        text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    except RecursionError:
        text = "[" * 1000
    return text.replace("null", "1979-05-27").replace("NaN", "nan").replace("Infinity", "inf")
