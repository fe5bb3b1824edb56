"""Enrolling a person from the live picture: guided shots, or files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import work
from textual.binding import Binding, BindingType

from edge_app.core.task import PEOPLE, LookFor
from edge_app.core.types import Embedding
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot
from edge_app.media.live_camera import CameraState
from edge_app.recognition.gallery_session import same_person_floor
from edge_app.tui import gallery_queries
from edge_app.tui.capture_guide import Advice, Guide, view_of
from edge_app.tui.face_text import marks_of
from edge_app.tui.inbox import Capture, Look, LookAt, Pause, Run, Update
from edge_app.tui.screens.base import Ask, hidden
from edge_app.tui.screens.capture import CaptureScreen


class EnrollScreen(CaptureScreen):
    """Learns one person."""

    NONE_YET = "No shot yet"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "save", "Save"),
        Binding("enter", "done", "Live picture"),
        Binding("f", "files", "From files"),
        Binding("1", "drop(1)", "Drop a shot", key_display="1-9"),
        *(hidden(str(number), f"drop({number})", f"Drop shot {number}") for number in range(2, 10)),
        Binding("m", "mirror", "Mirror"),
        Binding("i", "insist", "Insist"),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, name: str = "") -> None:
        """Ask for a name first, unless one is given: then shots are added to that person."""
        super().__init__(name)
        self._guide: Guide | None = None
        self._borrowed = False

    def on_unmount(self) -> None:
        """Look no more for faces to enroll."""
        if self._borrowed:
            self.edge.resume_model()

    @property
    def guide(self) -> Guide | None:
        """The shots taken so far; None before there is a name."""
        return self._guide

    @work
    async def begin(self, name: str) -> None:
        """Start looking for shots of `name`."""
        with self.telling():
            earlier = await self.order(Run(lambda bench: gallery_queries.qualities(bench, name)))
            await self.order(Pause(False))
            if not LookFor(self.edge.settings.model).is_people:
                # A classifier sees no faces: they are looked for until this screen closes.
                self._borrowed = True
                await self.order(Look(PEOPLE))
            await self.order(Capture(True))
            bench = self.edge.worker.people
            floor = same_person_floor(bench.thresholds, EnrollOptions().same_person_floor)
            self._guide = Guide(EnrollOptions(same_person_floor=floor), resembles=self._resemblance, earlier=earlier)
            self.keep_name(name)
            if earlier:
                self.edge.tell(f"{name} has {self.count(len(earlier))} already: new ones are added")

    def _resemblance(self, embedding: Embedding) -> str:
        """A warning when a face is as near to somebody else as one shot is to the next."""
        parts = self.edge.worker.people.recognizer
        nearest = parts.gallery.nearest(embedding, other_than=self._who, rule=parts.rule)
        if nearest is None or nearest[1] < parts.rule.threshold:
            return ""
        return f"This face looks like {nearest[0]}, who is enrolled already (similarity {nearest[1]:.2f})."

    def show(self, update: Update) -> None:
        """Draw the picture, and take a shot when it is right."""
        if self._saved:
            return
        seen = update.seen
        if seen is not None:
            self.picture.show(seen.frame.pixels, marks_of(update.tracks))
        if self._guide is None:
            return
        if update.trouble or update.status.state is not CameraState.LIVE:
            self._advise(Advice(update.trouble or update.status.message or "No picture", well=False))
        elif seen is not None:
            advice = self._guide.consider(update.shot, seen.frame.time_s)
            self._advise(advice)
            if advice.taken is not None:
                self.show_taken()

    def _advise(self, advice: Advice) -> None:
        self.advise(advice.text, well=advice.well)
        if advice.warning and not self._lookalike:
            self.caution(f"{advice.warning} Leave with esc if it is the same person.")

    @property
    def taken(self) -> Sequence[Shot]:
        """The shots taken so far."""
        return self._guide.shots if self._guide else ()

    def labels(self) -> Sequence[str]:
        """Number, view and sharpness of each shot: a key drops the one of that number."""
        return [f"{n} {view_of(s.quality)} {s.quality.sharpness:.2f}" for n, s in enumerate(self.taken, 1)]

    def action_drop(self, number: int) -> None:
        """Take a shot back."""
        if self._guide is not None and not self._saved and number <= len(self._guide.shots):
            self._guide.drop(number - 1)
            self.show_taken()

    @work
    async def action_files(self) -> None:
        """Take shots from picture files."""
        if self._guide is None or self._saved:
            self.edge.tell("type a name first", severity="warning")
            return
        typed = await self.app.push_screen_wait(
            Ask(f"Which pictures of {self._who}?", hint="files or folders, separated by spaces")
        )
        if typed is None:
            return
        with self.telling():
            paths = await self.edge.beside(lambda: self.edge.desk.pictures_named(typed))
            looks = await self.order(LookAt(paths))
            for source, look in looks:
                if isinstance(look, Refusal):
                    self.edge.tell(f"{source}: {look.message}", severity="warning")
                else:
                    self._guide.add(look)
            self.show_taken()

    async def facts(self) -> tuple[str, ...]:
        found = await self.order(Run(lambda session: gallery_queries.profile(session, self._who)))
        return (self.count(len(found.templates)), *gallery_queries.worst_facts(found), "you will be greeted by name.")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action in {"save", "done"}:
            return self._saved == (action == "done")
        if action == "insist":
            return self._lookalike and not self._saved
        if action in {"files", "drop", "mirror"}:
            return self._guide is not None and not self._saved
        return True
