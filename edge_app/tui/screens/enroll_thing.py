"""The screen that enrolls a thing: captures of the box that is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np
from textual import work
from textual.binding import Binding, BindingType

from edge_app.core.types import Pixels, Seen
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
from edge_app.tui.inbox import Capture, Pause, Run, Update
from edge_app.tui.model_text import marks_of_findings
from edge_app.tui.picture.area import Area
from edge_app.tui.picture.mosaic import Mark
from edge_app.tui.picture.widget import Picture
from edge_app.tui.screens.box_keys import BOX_ACTIONS, BOX_KEYS, BoxScreen
from edge_app.tui.screens.capture import CaptureScreen

_MOST: Final = 9


class ThingScreen(BoxScreen, CaptureScreen):
    WHAT = "Enroll a thing"
    ASKS = "what is it called? then enter"
    NONE_YET = "No capture yet"
    ONE, MANY = "capture", "captures"
    ENOUGH = 2

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "capture", "Capture"),
        Binding("enter", "save", "Save"),
        Binding("enter", "done", "Live picture"),
        Binding("backspace", "drop", "Drop the last"),
        *BOX_KEYS,
        Binding("w", "whole", "Whole picture"),
        Binding("m", "mirror", "Mirror"),
        Binding("i", "insist", "Insist"),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, name: str = "") -> None:
        """Things are enrolled for the image embedder that looks at the picture."""
        super().__init__(name)
        self._begun = self._lookalike = False
        self._captures: list[tuple[Shot, Pixels]] = []
        """Each with the pixels of its box."""
        self._look: Shot | Refusal | None = None
        self._seen: Seen | None = None

    @property
    def taken(self) -> Sequence[Shot]:
        """The captures so far."""
        return [shot for shot, _ in self._captures]

    def labels(self) -> Sequence[str]:
        """Number and size of each capture."""
        return [f"{n} {p.shape[1]}x{p.shape[0]}" for n, (_, p) in enumerate(self._captures, 1)]

    def thumbnail(self, number: int) -> Pixels:
        """The pixels of a capture's box."""
        return self._captures[number][1]

    @work
    async def begin(self, name: str) -> None:
        """Start to capture what is called `name`."""
        with self.telling():
            await self.order(Pause(False))
            await self.order(Capture(True))
            self._begun = True
            self.keep_name(name)
            self._advise()

    def show(self, update: Update) -> None:
        """Draw the picture and the box."""
        if self._saved or update.seen is None or update.look_for.is_people:
            return
        self._seen, self._look = update.seen, update.shot
        self._draw(update.seen)

    def _draw(self, seen: Seen) -> None:
        marks = marks_of_findings(seen)
        if self.area is not None and self.is_behind(seen):
            marks = [Mark(self.area.box, "", "new")]
        self.picture.show(seen.frame.pixels, marks)

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the picture that is shown; None before the first."""
        return self._seen.frame.size_px if self._seen is not None else None

    def look_at(self, area: Area | None) -> None:
        """Look for the thing in this box from now on, and show it before there is an answer."""
        super().look_at(area)
        if self._seen is not None:
            self._draw(self._seen)

    def on_picture_dragged(self, event: Picture.Dragged) -> None:
        """A box is drawn with the mouse."""
        if self._seen is not None and not event.done:
            self.picture.show(self._seen.frame.pixels, [Mark(event.box, "", "new")])
        elif self._seen is not None:
            self.look_at(Area(event.box, *self._seen.frame.size_px))

    def action_capture(self) -> None:
        """Keep what lies in the box now."""
        look, seen = self._look, self._seen
        if look is None or seen is None or not seen.findings:
            self.edge.tell("there is no picture yet", severity="warning")
        elif self.is_behind(seen):
            self.caution("The box has just moved: wait for the next picture, then press space")
        elif isinstance(look, Refusal):
            self.caution(f"Not taken: {look.message}")
        elif len(self._captures) >= _MOST:
            self.caution(f"{_MOST} captures are enough: press enter to save")
        else:
            self._captures.append((look, _cut(seen)))
            self.caution("")
            self._advise()
            self.show_taken()

    def action_drop(self) -> None:
        """Take the last capture back."""
        if self._captures:
            self._captures.pop()
            self._advise()
            self.show_taken()

    def _advise(self) -> None:
        words = {
            0: "Show it, put a box around it (mouse, or b and the arrows), and press space",
            1: "Turn it or move it a little, and press space again",
        }.get(len(self._captures), "Enter saves; another side makes it surer")
        self.advise(words, well=len(self._captures) >= self.ENOUGH)

    def action_save(self) -> None:
        """Store what was taken; after that, leave."""
        if len(self.taken) < self.ENOUGH:
            self.caution(f"{len(self.taken)} of {self.ENOUGH} {self.MANY}: one more side is needed")
        elif not self._saving:
            self._store(allow_lookalike=False)

    def action_insist(self) -> None:
        """Store it although it looks like something else."""
        if self._lookalike and not self._saved:
            self._store(allow_lookalike=True)

    @work
    async def _store(self, *, allow_lookalike: bool) -> None:
        self._saving = True
        try:
            with self.telling():
                looks = tuple((shot.source, shot) for shot in self.taken)
                verdicts = await self.store(self._who, looks, EnrollOptions(allow_lookalike=allow_lookalike))
                refusals = [verdict.refusal for verdict in verdicts if verdict.refusal is not None]
                if len(refusals) == len(verdicts):
                    self._lookalike = any(refusal.reason == "looks-like-somebody-else" for refusal in refusals)
                    insist = " Press i if it is another one all the same." if self._lookalike else ""
                    self.refresh_bindings()
                    self.caution(f"Nothing was stored: {refusals[0].message.split(', or insist')[0]}.{insist}")
        finally:
            self._saving = False

    async def facts(self) -> tuple[str, tuple[str, ...], str]:
        """See `CaptureScreen`."""
        name, model_id = self._who, self.edge.settings.model
        stored = await self.order(Run(lambda people: len(people.vault.identity(name, model_id).templates)))
        return self.count(stored), (), "it will be named when it is seen."

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action in {"save", "done"}:
            return self._saved == (action == "done")
        if action in {"capture", "mirror"}:
            return self._begun and not self._saved
        if action in BOX_ACTIONS:
            return self._begun and not self._saved and self.offers(action)
        if action == "insist":
            return self._lookalike and not self._saved
        if action == "drop":
            return bool(self._captures) and not self._saved
        return True


def _cut(seen: Seen) -> Pixels:
    """The pixels of the box."""
    x1, y1, x2, y2 = (round(float(value)) for value in seen.findings[0].box)
    return np.ascontiguousarray(seen.frame.pixels[max(0, y1) : max(y2, y1 + 1), max(0, x1) : max(x2, x1 + 1)])
