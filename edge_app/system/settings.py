"""What the user chose: every setting, its default and its range."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from edge_app.core.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """What the user chose, validated at birth: a wrong kind or range raises UsageError."""

    fpir: float = 0.01
    """Share of strangers that may be called somebody, (0, 1)."""
    margin: float = 0.05
    """Least lead in similarity over the runner-up identity, [0, 1]."""
    precision: Literal["auto", "fp32", "int8", "fp16"] = "auto"
    """Build of the model: auto takes the one that was measured faster on this machine."""
    detector: str = "yunet"
    """Which network finds faces: yunet, mtcnn, or the id of an installed one."""
    embedder: str = "sface"
    """Id of the face embedder whose templates are matched."""
    model: str = "faces"
    """What recognize, watch and Live look for: "faces", or the id of a classifier or a general image embedder."""
    source: str | None = None
    """Camera number, file or address that live commands open; None: the first camera."""
    keep_pictures: bool = False
    """Whether enrollment keeps the face pictures beside the templates."""
    threads: int | None = None
    """Threads for each model, at least 1; None: chosen for this machine."""

    def __post_init__(self) -> None:
        kinds = get_type_hints(type(self))
        for name in (field.name for field in fields(self)):
            _check_kind(name, getattr(self, name), kinds[name])
        if not 0.0 < self.fpir < 1.0:
            raise UsageError(f"fpir is {self.fpir}", expected="a share between 0 and 1, such as 0.01")
        if not 0.0 <= self.margin <= 1.0:
            raise UsageError(f"margin is {self.margin}", expected="a difference of similarities in [0, 1]")
        for name in ("detector", "embedder", "model"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name} is empty", expected="the id of a model; `edge-app models list` shows them")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}", expected="at least 1, or null for the app's choice")


def _check_kind(name: str, value: object, kind: Any) -> None:
    """Refuse a value that is not of its field's annotation; an int passes for a float, a bool never for a number."""
    allowed = get_args(kind) or (kind,)
    if any(isinstance(choice, str) for choice in allowed):
        fits, expected = value in allowed, "one of " + ", ".join(allowed)
    else:
        wanted = (*allowed, int) if float in allowed else allowed
        fits = type(value) in wanted
        expected = " or ".join("null" if one is type(None) else one.__name__ for one in allowed)
    if not fits:
        raise UsageError(f"{name} is {json.dumps(value, ensure_ascii=False, default=str)}", expected=expected)
