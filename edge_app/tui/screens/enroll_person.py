"""Enrollment from the live picture: a name, guided shots, and what came of it.

Hides the order of naming, capturing, saving. In: updates with looks. Out: one `Enroll` command at the end; until then
nothing is stored, so quitting in between leaves nothing behind.
"""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType

from edge_app.core.types import Embedding
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict
from edge_app.media.live_camera import CameraState
from edge_app.recognition.face_session import same_person_floor
from edge_app.tui import gallery_queries
from edge_app.tui.capture_guide import Advice, Guide, view_of
from edge_app.tui.face_text import marks_of
from edge_app.tui.inbox import Capture, Enroll, LookAt, Pause, Run, Update, UseModel
from edge_app.tui.model_text import FACES
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
        self._lookalike = self._borrowed = False
        self._saved = self._saving = False

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
            if self.edge.settings.model != FACES:
                # A classifier sees no faces: they are looked for until this screen closes.
                self._borrowed = True
                await self.order(UseModel(FACES))
            await self.order(Capture(True))
            bench = self.edge.worker.workbench
            floor = same_person_floor(bench.points, EnrollOptions().same_person_floor)
            self._guide = Guide(EnrollOptions(same_person_floor=floor), resembles=self._resemblance, earlier=earlier)
            self.keep_name(name)
            if earlier:
                self.edge.tell(f"{name} has {_shots(len(earlier))} already: new ones are added")

    def _resemblance(self, embedding: Embedding) -> str:
        """A warning when a face is as near to somebody else as one shot is to the next."""
        parts = self.edge.worker.workbench.recognizer
        nearest = parts.gallery.nearest(embedding, other_than=self._who)
        if nearest is None or nearest[1] < parts.rule.threshold:
            return ""
        return f"This face looks like {nearest[0]}, who is enrolled already (similarity {nearest[1]:.2f})."

    def show(self, update: Update) -> None:
        """Draw the picture, and take a shot when it is right."""
        if self._saved:
            return
        observation = update.observation
        if observation is not None:
            self.picture.show(observation.frame.pixels, marks_of(update.tracks))
        if self._guide is None:
            return
        if update.trouble or update.status.state is not CameraState.LIVE:
            self._advise(Advice(update.trouble or update.status.message or "No picture", well=False))
        elif observation is not None:
            look = update.look if isinstance(update.look, Shot | Refusal) else None
            advice = self._guide.consider(look, observation.frame.time_s)
            self._advise(advice)
            if advice.taken is not None:
                self._show_shots()

    def _advise(self, advice: Advice) -> None:
        self.advise(advice.text, well=advice.well)
        if advice.warning:
            self.caution(f"{advice.warning} Leave with esc if it is the same person.")

    def _show_shots(self) -> None:
        """Show the thumbnails, numbered as they are dropped."""
        shots = self._guide.shots if self._guide else ()
        self.show_captures([(_label(number, shot), shot.crop) for number, shot in enumerate(shots, 1)])

    def action_drop(self, number: int) -> None:
        """Take a shot back."""
        if self._guide is not None and not self._saved and number <= len(self._guide.shots):
            self._guide.drop(number - 1)
            self._show_shots()

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
            self._show_shots()

    def action_save(self) -> None:
        """Store the shots; after that, leave."""
        if not self._saving:
            self._store(allow_lookalike=False)

    def action_insist(self) -> None:
        """Store the shots although they look like somebody else's."""
        if self._lookalike and not self._saved:
            self._store(allow_lookalike=True)

    @work
    async def _store(self, *, allow_lookalike: bool) -> None:
        guide = self._guide
        if guide is None or not guide.shots:
            self.edge.tell("there is no shot to save yet", severity="warning")
            return
        self._saving = True
        try:
            with self.telling():
                looks = tuple((shot.source, shot) for shot in guide.shots)
                options = EnrollOptions(allow_lookalike=allow_lookalike)
                await self._report(await self.order(Enroll(self._who, looks, options)))
        finally:
            self._saving = False

    async def _report(self, verdicts: list[Verdict]) -> None:
        """Say what was refused; when anything was stored, show what came of it."""
        refusals = [verdict.refusal for verdict in verdicts if verdict.refusal is not None]
        if len(refusals) == len(verdicts):
            self._lookalike = any(refusal.reason == "looks-like-somebody-else" for refusal in refusals)
            insist = " Press i if it is somebody else all the same." if self._lookalike else ""
            self.refresh_bindings()
            self.caution(f"Nothing was stored: {refusals[0].message.split(', or insist')[0]}.{insist}")
            return
        found = await self.order(Run(lambda bench: gallery_queries.profile(bench, self._who)))
        await self.order(Capture(False))
        self._saved = True
        self._show_facts(found, len(verdicts) - len(refusals), refusals)

    def _show_facts(self, found: gallery_queries.Profile, stored: int, refusals: list[Refusal]) -> None:
        text = Text()
        text.append(f"● {found.name} is enrolled with {_shots(len(found.templates))}", "bold green")
        text.append(f" ({stored} of them new)\n\n" if stored != len(found.templates) else "\n\n")
        for refusal in refusals:
            text.append(f"not taken: {refusal.message}\n\n", "yellow")
        text.append("What could be better\n", "bold")
        for fact in gallery_queries.worst_facts(found):
            text.append(f"  • {fact}\n")
        text.append("\nPress enter for the live picture: you will be greeted by name.", "dim")
        self.show_facts(text)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now."""
        if action in {"save", "done"}:
            return self._saved == (action == "done")
        if action == "insist":
            return self._lookalike and not self._saved
        if action in {"files", "drop", "mirror"}:
            return self._guide is not None and not self._saved
        return True


def _label(number: int, shot: Shot) -> str:
    return f"{number} {view_of(shot.quality)} {shot.quality.sharpness:.2f}"


def _shots(count: int) -> str:
    return "1 shot" if count == 1 else f"{count} shots"
