"""The screen that enrolls a person from the camera, guided, or from files, and shows what is kept before it stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Final, Literal

from rich.text import Text
from textual import work
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Static

from edge_app.core.counts import counted
from edge_app.core.errors import MediaError
from edge_app.core.plain_text import plain
from edge_app.core.task import PEOPLE, LookFor
from edge_app.core.types import Embedding
from edge_app.gallery.enrollment import Collection, EnrollOptions, Origin, Refusal, Resemblance, Shot, Verdict
from edge_app.media.live_camera import CameraState
from edge_app.recognition.gallery_session import same_person_floor
from edge_app.tui import gallery_queries
from edge_app.tui.capture_guide import Advice, Guide, view_of
from edge_app.tui.face_text import marks_of
from edge_app.tui.inbox import Capture, Look, LookAt, Pause, Run, Update
from edge_app.tui.picture.widget import Thumbnail
from edge_app.tui.screens.base import Ask, hidden
from edge_app.tui.screens.capture import CaptureScreen, Looks
from edge_app.tui.screens.dialogs import Choose

Stage = Literal["name", "source", "camera", "files", "review"]
"""Where the user is; shots are taken in "camera" alone."""

_CHOOSE_SOURCE: Final = "Press c to use the camera, or f for picture files; nothing is taken before"


class EnrollScreen(CaptureScreen):
    """Learns one person."""

    NONE_YET = "No shot yet"
    FIRST = "Type a name and press enter; then choose: c the camera, f picture files"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "review", "See what is kept"),
        Binding("enter", "save", "Save"),
        Binding("enter", "done", "Live picture"),
        Binding("c", "camera", "Camera"),
        Binding("f", "files", "From files"),
        Binding("1", "drop(1)", "Drop a shot", key_display="1-9"),
        *(hidden(str(number), f"drop({number})", f"Drop shot {number}") for number in range(2, 10)),
        Binding("m", "mirror", "Mirror"),
        Binding("escape", "leave", "Leave", priority=True),
    ]

    def __init__(self, name: str = "") -> None:
        """Ask for a name first, unless one is given: then shots are added to that person."""
        super().__init__(name)
        self._stage: Stage = "name"
        self._collection: Collection | None = None
        self._known: gallery_queries.Known | None = None
        self._options = EnrollOptions(allow_lookalike=True)
        self._guide: Guide | None = None
        self._verdicts: list[Verdict] = []
        """What would become of each look, while they are reviewed."""
        self._borrowed = False

    def on_unmount(self) -> None:
        """Look no more for faces to enroll."""
        if self._borrowed:
            self.edge.resume_model()

    @property
    def stage(self) -> Stage:
        """Where the user is."""
        return self._stage

    @property
    def looks(self) -> Looks:
        """What was collected, from whichever source."""
        return self._collection.looks if self._collection else ()

    @property
    def taken(self) -> Sequence[Shot]:
        """The shots among them."""
        return self._collection.shots if self._collection else ()

    @work
    async def begin(self, name: str) -> None:
        """Settle the name; nothing is taken before a source is chosen."""
        with self.telling():
            known: gallery_queries.Known = await self.order(Run(lambda bench: gallery_queries.known(bench, name)))
            if known.twin is not None:
                question = f"{known.twin} is enrolled already, and differs from {name} by capital letters only."
                answers = {"same": f"It is {known.twin}: add to that person", "other": f"{name} is somebody else"}
                answer = await self.app.push_screen_wait(Choose(question, answers))
                if answer is None:
                    self.query_one("#name", Input).focus()
                    return
                if answer == "same":
                    name = known.twin
                    known = await self.order(Run(lambda bench: gallery_queries.known(bench, name)))
            bench = self.edge.worker.people
            floor = same_person_floor(bench.thresholds, EnrollOptions().same_person_floor)
            self._options = EnrollOptions(allow_lookalike=True, same_person_floor=floor, ignored=known.ignored)
            self._known = known
            self._collection = Collection(name, self._options, known.embeddings)
            self.keep_name(name)
            self._go("source")
            if known.qualities:
                self.caution(f"{name} has {self.count(len(known.qualities))} already: new ones are added")

    def _go(self, stage: Stage, words: str = _CHOOSE_SOURCE) -> None:
        """Come to a stage, and say what can be done there."""
        self._stage = stage
        self.query_one("#review").display = stage == "review"
        self.picture.display = self.query_one("#shots").display = stage != "review"
        # What is under the cursor of a dialog must not be taken: the worker hears of it before anything else.
        self.edge.worker.send(Capture(stage == "camera"))
        self.advise(words, well=False)
        self.refresh_bindings()
        self.picture.focus()

    # From the camera

    @work(exclusive=True, group="source")
    async def action_camera(self) -> None:
        """Take shots of whoever is before the camera."""
        if self._collection is None or self._known is None:
            return
        mix = await self._mixes("camera")
        if mix is None:
            return
        with self.telling():
            await self.order(Pause(False))
            if not LookFor(self.edge.settings.model).is_people:
                # A classifier sees no faces: they are looked for until this screen closes.
                self._borrowed = True
                await self.order(Look(PEOPLE))
            self._begin_with("camera", mix)
            self._guide = Guide(
                self._collection, self._options, resembles=self._resemblance, earlier=self._known.qualities
            )
            self.caution("")
            self._go("camera", "Look at the camera")

    async def _mixes(self, source: Origin) -> bool | None:
        """Whether shots of another source are kept beside those of this one; None: the user would rather not."""
        collection = self._collection
        if collection is None or not collection.looks or collection.source in (None, source):
            return False
        answers = {
            "mix": f"Keep them, beside those from the {source}",
            "discard": f"Discard them, and take those from the {source} alone",
        }
        before = "from the camera" if collection.source == "camera" else "from files"
        held = self.count(len(collection.looks))
        answer = await self.app.push_screen_wait(Choose(f"{self._who} has {held} {before}.", answers))
        return None if answer is None else answer == "mix"

    def _begin_with(self, source: Origin, mix: bool) -> None:
        collection = self._collection
        assert collection is not None
        if not mix and collection.source not in (None, source):
            collection.discard()
        collection.choose(source, mix=mix)
        self.show_taken()

    def _resemblance(self, embedding: Embedding) -> str:
        """A warning when a face is as near to somebody else as one shot is to the next."""
        parts = self.edge.worker.people.recognizer
        nearest = parts.gallery.nearest(embedding, other_than=self._who, rule=parts.rule)
        if nearest is None or nearest[1] < parts.rule.threshold:
            return ""
        return f"This face looks like {nearest[0]}, who is enrolled already (similarity {nearest[1]:.2f})."

    def show(self, update: Update) -> None:
        """Draw the picture, and take a shot when it is right."""
        seen = update.seen
        if self._saved or self._stage == "review" or self.app.screen is not self:
            return
        if seen is not None:
            self.picture.show(seen.frame.pixels, marks_of(update.tracks))
        if self._stage != "camera" or self._guide is None:
            return
        if update.trouble or update.status.state is not CameraState.LIVE:
            self.advise(update.trouble or update.status.message or "No picture", well=False)
        elif seen is not None:
            self._follow(self._guide.consider(update.shot, seen.frame.time_s))

    def _follow(self, advice: Advice) -> None:
        if advice.discarded:
            self._go("source")
            self.caution(f"{advice.text}. Nothing more is taken until you press c or f.")
            self.show_taken()
            return
        self.advise(advice.text, well=advice.well)
        if advice.warning:
            self.caution(f"{advice.warning} You will be asked about it.")
        if advice.taken is not None:
            self.show_taken()

    # From files

    @work(exclusive=True, group="source")
    async def action_files(self) -> None:
        """Take shots from picture files; the camera takes none meanwhile."""
        if self._collection is None:
            return
        before = self._stage
        self._go("files", "Which pictures?")
        mix = await self._mixes("files")
        looks: Looks | None = None
        if mix is not None:
            question = Ask(f"Which pictures of {self._who}?", self._look_at, hint="files or folders, as in a shell")
            looks = await self.app.push_screen_wait(question)
        if looks is None or mix is None:
            self._go(before, "Look at the camera" if before == "camera" else _CHOOSE_SOURCE)
            return
        self._begin_with("files", mix)
        for source, look in looks:
            self._collection.add(source, look)
        pictures = counted(len(self.looks), "picture")
        self._go("files", f"{pictures}: enter shows what is kept, f takes more")
        self.caution("")
        self.show_taken()

    async def _look_at(self, typed: str) -> Looks:
        paths = await self.edge.beside(lambda: self.edge.desk.pictures_named(typed))
        looks: Looks = await self.order(LookAt(paths))
        if all(isinstance(look, Refusal) and look.reason == "unreadable" for _, look in looks):
            raise MediaError("; ".join(look.message for _, look in looks if isinstance(look, Refusal)))
        return looks

    # What was taken

    def labels(self) -> Sequence[str]:
        """Number, view and sharpness of each shot: a key drops the one of that number."""
        return [f"{n} {_short(look)}" for n, (_, look) in enumerate(self.looks, 1)]

    def show_taken(self) -> None:
        """Show what was collected as thumbnails."""
        self.refresh_bindings()
        crops = [look.crop if isinstance(look, Shot) else None for _, look in self.looks]
        self.show_captures(list(zip(self.labels(), crops, strict=True)))

    @work(exclusive=True, group="source")
    async def action_drop(self, number: int) -> None:
        """Take a shot back."""
        if self._collection is None or self._saved or number > len(self.looks):
            return
        self._collection.drop(number - 1)
        self.show_taken()
        if self._stage == "review":
            await self._review()

    # What is kept

    @work(exclusive=True, group="source")
    async def action_review(self) -> None:
        """Show what would be kept, and what not and why."""
        await self._review()

    async def _review(self) -> None:
        collection = self._collection
        if collection is None or not collection.looks:
            self._go("source")
            self.caution(f"there is no {self.ONE} to save yet")
            return
        self._go("review", "One moment…")
        with self.telling():
            self._verdicts = await self.order(
                Run(lambda bench: collection.judge(bench.recognizer.gallery, bench.recognizer.rule))
            )
            kept = sum(verdict.accepted for verdict in self._verdicts)
            words = f"{kept} of {self.count(len(self._verdicts))} would be kept: "
            words += "enter saves, a number drops one, esc goes back" if kept else "a number drops one, esc goes back"
            self.advise(words, well=kept > 0)
            found = self._question()
            self.caution(_likeness(self._who, found) if found else "")
            await self._list_verdicts()

    async def _list_verdicts(self) -> None:
        rows = [
            Horizontal(
                Static(classes="no-shot")
                if verdict.shot is None
                else Thumbnail(self.edge.desk.terminal, verdict.shot.crop),
                Static(_verdict_words(number, verdict), classes="verdict"),
                classes="verdict-row",
            )
            for number, verdict in enumerate(self._verdicts, 1)
        ]
        shown = self.query_one("#review", VerticalScroll)
        async with self.batch():
            await shown.remove_children()
            await shown.mount_all(rows)
        shown.focus()

    def _question(self) -> Resemblance | None:
        """Whom the shots that would be kept look like most, where that is somebody else."""
        found = [one.resembles for one in self._verdicts if one.accepted and one.resembles is not None]
        return max(found, key=lambda one: one.similarity, default=None)

    @work
    async def action_save(self) -> None:
        """Store what is kept; a resemblance to somebody enrolled is asked about first."""
        if self._saving:
            return
        if not any(verdict.accepted for verdict in self._verdicts):
            self.caution("Nothing of this can be kept: esc goes back")
            return
        self._saving = True
        try:
            name, found = self._who, self._question()
            if found is not None:
                answers = {"other": f"{name} is somebody else: enroll {name}"}
                if not (self.edge.worker.people.recognizer.gallery.ignored & {found.name, name}):
                    answers["same"] = f"It is {found.name}: give these shots to {found.name}"
                answer = await self.app.push_screen_wait(Choose(f"{_likeness(name, found)} Who is it?", answers))
                if answer is None:
                    return
                name = found.name if answer == "same" else name
            with self.telling():
                verdicts = await self.store(name, self.looks, self._options)
                if not any(verdict.accepted for verdict in verdicts):
                    self.caution(f"Nothing was stored: {verdicts[0].refusal.message if verdicts[0].refusal else ''}")
        finally:
            self._saving = False

    async def facts(self) -> tuple[str, tuple[str, ...], str]:
        """See `CaptureScreen`."""
        found: gallery_queries.Profile = await self.order(
            Run(lambda session: gallery_queries.profile(session, self._who))
        )
        better: tuple[str, ...] = gallery_queries.worst_facts(found)
        if found.hard_to_tell:
            better = (gallery_queries.HARD_TO_TELL, *better)
        after = "nothing will be told of this stranger." if found.ignored else "you will be greeted by name."
        candidates = self.edge.worker.people.candidates
        if candidates is not None and found.name not in candidates and not found.ignored:
            after = "you will be greeted by name where you are among the candidates."
        return self.count(len(found.templates)), better, after

    def action_leave(self) -> None:
        """From the review back to what was taken; from there to where one came from, and what was not saved is gone."""
        if self._stage != "review" or self._saved:
            self.dismiss()
            return
        self.caution("")
        if self._collection is not None and self._collection.source == "camera":
            self._go("camera", "Look at the camera")
        else:
            self._go("files", "enter shows what is kept, f takes more pictures, c uses the camera")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer only the keys that do something now; those of the two sources are shown, dim, from the start."""
        if action == "done":
            return self._saved
        if action in {"review", "save"}:
            return not self._saved and self._stage != "name" and (self._stage == "review") == (action == "save")
        if action in {"camera", "files"}:
            if self._stage == "name":
                return None
            return not self._saved and self._stage != "review"
        if action == "drop":
            return bool(self.looks) and not self._saved
        if action == "mirror":
            return self._stage not in ("name", "review") and not self._saved
        return True


def _short(look: Shot | Refusal) -> str:
    if isinstance(look, Refusal):
        return look.reason.replace("-", " ")
    return f"{view_of(look.quality)} {look.quality.sharpness:.2f}"


def _likeness(name: str, found: Resemblance) -> str:
    return (
        f"{name} looks like {found.name}, who is enrolled already (similarity {found.similarity:.2f}, strangers stay "
        f"under {found.threshold:.2f})."
    )


def _verdict_words(number: int, verdict: Verdict) -> Text:
    """What would become of one picture, and why."""
    text = Text()
    if verdict.accepted:
        text.append(f"{number} kept", "bold green")
    else:
        text.append(f"{number} not kept", "bold yellow")
    text.append(f"  {plain(verdict.source)}\n", "dim")
    if verdict.shot is not None:
        q = verdict.shot.quality
        text.append(f"{view_of(q)}, {q.face_px:.0f} px, detail {q.sharpness:.2f}, light {q.brightness:.0f}\n", "dim")
    if verdict.refusal is not None:
        text.append(f"{plain(verdict.refusal.message)}\n", "yellow")
    if verdict.warning:
        text.append(f"{plain(verdict.warning)}\n", "yellow")
    if verdict.resembles is not None:
        found = verdict.resembles
        text.append(f"looks like {found.name} ({found.similarity:.2f})\n", "yellow")
    return text
