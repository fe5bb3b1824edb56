"""YAML that a user wrote, as nested lists and mappings of texts.

PyYAML only tells what stands where: no value becomes a number, a date or yes and no, for classes may be called `1`,
`2020-01-01` or `no`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

import yaml  # type: ignore[import-untyped]

from edge_app.core.errors import UsageError

Yaml: TypeAlias = "str | list[Yaml] | dict[str, Yaml]"

_LIMIT_BYTES: Final = 1 << 20
_MOST_DEPTH: Final = 32
_MOST_VALUES: Final = 100_000


def read_yaml(path: Path, expected: str) -> Yaml:
    """Read a file; an empty value is the empty text. `expected` says in an error what the file should hold.

    Raises UsageError for what cannot be read, is no YAML, has keys twice, anchors, tags or several documents, or is
    larger than 1 MiB or deeper than 32 levels.
    """
    try:
        if not path.is_file():
            raise UsageError(f"there is no file {path}", expected=expected)
        with path.open("rb") as file:
            content = file.read(_LIMIT_BYTES + 1)
        if len(content) > _LIMIT_BYTES:
            raise UsageError(f"{path} has more than {_LIMIT_BYTES:,} bytes", expected=expected)
        return _built(path, content.decode("utf-8-sig"), expected)
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})", expected=expected) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 text", expected=expected) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
        raise UsageError(f"{path} is no YAML ({where}{problem})", expected=expected) from error


def _built(path: Path, text: str, expected: str) -> Yaml:
    def refuse(what: str, event: yaml.Event) -> UsageError:
        return UsageError(f"{path}, line {event.start_mark.line + 1}: {what}", expected=expected)

    root: list[Yaml] = []
    open_: list[tuple[list[Yaml] | dict[str, Yaml], list[str]]] = [(root, [])]
    documents = values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise refuse("a second document begins", event)
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            open_.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise refuse("an anchor or alias (& or *) stands there", event)
        if event.tag is not None:
            raise refuse(f"a tag ({event.tag}) stands there", event)
        values += 1
        if values > _MOST_VALUES or len(open_) > _MOST_DEPTH:
            raise refuse(f"more than {_MOST_VALUES:,} values or {_MOST_DEPTH} levels", event)
        value: Yaml = event.value if isinstance(event, yaml.ScalarEvent) else []
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0] and value in ("~", "null"):
            value = ""
        if isinstance(event, yaml.MappingStartEvent):
            value = {}
        into, key = open_[-1]
        if isinstance(into, dict) and not key:
            if not isinstance(value, str):
                raise refuse("a name is no plain text", event)
            if value in into:
                raise refuse(f"{value!r} stands there twice", event)
            key.append(value)
            continue
        if isinstance(into, dict):
            into[key.pop()] = value
        else:
            into.append(value)
        if not isinstance(value, str):
            open_.append((value, []))
    return root[0] if root else ""
