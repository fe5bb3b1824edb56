"""The page of a sift: what each step saw and passed, with a few pictures of each side."""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from edge_app.core.counts import counted
from edge_app.core.errors import MediaError
from edge_app.core.plain_text import plain
from edge_app.library.sift import KEPT, Decision, Plan, Tally, read_decisions
from edge_app.media.pictures import read_picture

_SHOWN: Final = 8
"""Pictures of each side of a step."""
_THUMB_PX: Final = 144

_STYLE: Final = """
body{font:16px/1.45 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
h2{font-size:1.1rem;margin:2rem 0 .3rem}h3{font-size:.95rem;font-weight:600;margin:.6rem 0 .2rem}
.bar{background:#ddd;height:.6rem;border-radius:.3rem;overflow:hidden}.bar i{display:block;height:100%;background:#2a7}
.row{display:flex;flex-wrap:wrap;gap:.5rem}figure{margin:0;width:144px}figure img{max-width:144px;max-height:144px}
figcaption{font-size:.75rem;overflow-wrap:anywhere;color:#555}code{background:#f3f3f3;padding:0 .25rem}
"""


def page(plan: Plan, tally: Tally, out: Path) -> str:
    """The whole page as one HTML file with its pictures inside.

    The pictures are drawn by a hash of their names, so that a resumed sift shows the same ones. What cannot be read any
    more is left out.
    """
    samples = _samples(plan, out)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>sift of {_text(plan.source)}</title>",
        f"<style>{_STYLE}</style><h1>{tally.kept:,} of {tally.pictures:,} pictures kept</h1>",
        f"<p>From <code>{_text(plan.source)}</code>, by {counted(len(plan.steps), 'step')}, each of which saw "
        "what the one before it left. Every decision is in <code>decisions.csv</code>.",
        f" {tally.unreadable:,} could not be read." if tally.unreadable else "",
    ]
    for number, step in enumerate(plan.steps):
        seen, passed = tally.seen[number], tally.passed[number]
        share = 100 * passed / seen if seen else 0.0
        parts.append(
            f"<h2>{number + 1}. <code>{_text(step)}</code>: {passed:,} of {seen:,} passed</h2>"
            f"<div class=bar><i style='width:{share:.1f}%'></i></div>"
        )
        for title, side in (("passed", samples[number][0]), ("did not pass", samples[number][1])):
            figures = "".join(_figure(plan, out, one, number) for one in side)
            parts.append(f"<h3>{title}</h3><div class=row>{figures or 'none'}</div>")
    return "\n".join(parts)


def _samples(plan: Plan, out: Path) -> list[tuple[list[Decision], list[Decision]]]:
    """For every step a few decisions on what passed and on what did not."""
    count = len(plan.steps)
    sides: list[tuple[list[tuple[int, str, Decision]], ...]] = [([], []) for _ in range(count)]
    for decision in read_decisions(out, plan):
        if decision.outcome == "unreadable":
            continue
        digest = hashlib.sha256(decision.picture.encode("utf-8", "surrogateescape")).digest()
        last = max(i for i in range(count) if decision.values[i] != "")
        for number in range(last + 1):
            passed = decision.outcome == "kept" or number < last
            entry = (-int.from_bytes(digest[:6], "big"), decision.picture, decision)
            heap = sides[number][0 if passed else 1]
            if len(heap) < _SHOWN:
                heapq.heappush(heap, entry)
            elif entry[:2] > heap[0][:2]:
                heapq.heapreplace(heap, entry)
    return [(_decisions(passed), _decisions(stopped)) for passed, stopped in sides]


def _decisions(heap: Sequence[tuple[int, str, Decision]]) -> list[Decision]:
    return [decision for _, _, decision in sorted(heap, key=lambda entry: entry[:2], reverse=True)]


def _figure(plan: Plan, out: Path, decision: Decision, number: int) -> str:
    origin = Path(plan.source) / decision.picture
    moved = out / KEPT / decision.picture
    try:
        pixels = read_picture(origin if origin.exists() else moved, max_px=_THUMB_PX)
    except MediaError:
        return ""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), "RGB").save(buffer, "JPEG", quality=80)
    data = base64.b64encode(buffer.getvalue()).decode()
    name, value = _text(decision.picture), _text(decision.values[number])
    return (
        f"<figure><img alt='' src='data:image/jpeg;base64,{data}'><figcaption>{value}<br>{name}</figcaption></figure>"
    )


def _text(text: str) -> str:
    """Fit for a page: no markup, nothing that steers, no half characters."""
    return html.escape(plain(text).encode("utf-8", "replace").decode())
