"""What the user chose: every setting, its default and its range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_app.core.documents import check_fields
from edge_app.core.errors import UsageError
from edge_app.core.plain_text import plain

_TEXT_LIMIT = 4096
"""Characters: an address of a stream, the path of a file."""


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
    liveness: Literal["off", "passive", "challenge"] = "off"
    """What Live and `watch` make of whether somebody lives: nothing, what installed liveness networks say, or in
    Live, at a key, a challenge."""
    threads: int | None = None
    """Threads for each model, 1 to 1024; None: chosen for this machine."""

    def __post_init__(self) -> None:
        check_fields(self, UsageError)
        if not 0.0 < self.fpir < 1.0:
            raise UsageError(f"fpir is {self.fpir}", expected="a share between 0 and 1, such as 0.01")
        if not 0.0 <= self.margin <= 1.0:
            raise UsageError(f"margin is {self.margin}", expected="a difference of similarities in [0, 1]")
        for name in ("detector", "embedder", "model"):
            if not getattr(self, name).strip():
                raise UsageError(f"{name} is empty", expected="the id of a model; `edge-app models list` shows them")
        for name in ("detector", "embedder", "model", "source"):
            text = getattr(self, name) or ""
            whole = "".join(one for one in text if not "\udc80" <= one <= "\udcff")  # bytes of a file's name
            if len(text) > _TEXT_LIMIT or plain(whole) != whole:
                raise UsageError(f"{name} is no plain text of at most {_TEXT_LIMIT} characters")
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise UsageError(f"threads is {self.threads}", expected="1 to 1024, or null for the app's choice")
