"""The People screen: everyone enrolled, or every thing, how well they are known, and whom they could be taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, ItemGrid, VerticalScroll
from textual.message import Message
from textual.widgets import DataTable, Static

from edge_app.core.counts import counted
from edge_app.core.errors import EdgeError
from edge_app.core.names import valid_name
from edge_app.core.types import Pixels
from edge_app.recognition.reenroll import reenroll
from edge_app.tui import gallery_queries
from edge_app.tui.capture_guide import view_of
from edge_app.tui.face_text import ago_words
from edge_app.tui.inbox import Rename, Run
from edge_app.tui.picture.widget import Thumbnail
from edge_app.tui.screens.base import Ask, EdgeScreen, KeyBar, back, hidden
from edge_app.tui.screens.enroll_person import EnrollScreen
from edge_app.tui.screens.enroll_thing import ThingScreen


class Roster(DataTable[Text]):
    """The table of people; tells when there is another width to fill."""

    class Resized(Message):
        """The table has another width."""

    def on_resize(self) -> None:
        """Another size."""
        self.post_message(self.Resized())


class PeopleScreen(EdgeScreen[None]):
    """The roster of people, or of things."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "rename", "Rename"),
        Binding("a", "add", "Add shots"),
        Binding("x", "forget", "Forget"),
        hidden("delete", "forget", "Forget"),
        Binding("u", "undo", "Undo"),
        Binding("n", "reenroll", "Enroll again"),
        Binding("e", "app.enroll", "Enroll new"),
        Binding("slash", "find", "Find"),
        Binding("asterisk", "from_the_first", "All"),
        Binding("question_mark", "app.help", "Help"),
        *back(),
    ]

    def __init__(self, things: str | None = None) -> None:
        """People, unless `things` names the model that knows things."""
        super().__init__()
        self._things = things
        self._missing = 0
        self._people: tuple[gallery_queries.Person, ...] = ()
        self._start = ""  # the name from which on a long list is shown
        self._is_whole = True
        self._is_reading_on = False
        self._threshold = 0.0
        self._filled_width = 0
        self._widths: dict[str, int] = {}

    def compose(self) -> ComposeResult:
        """The table, and the chosen one beside it."""
        yield Static(id="title")
        with Horizontal():
            yield Roster(cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="detail"):
                yield Static(id="about")
                yield ItemGrid()
        yield KeyBar()

    def on_mount(self) -> None:
        """Ask for the rows."""
        self.query_one("#detail").can_focus = False
        self.table.focus()
        self.refresh_rows()

    def on_roster_resized(self) -> None:
        """Another width has room for other columns."""
        if self._people and self.is_attached and self.table.size.width != self._filled_width:
            self._fill()

    @property
    def table(self) -> DataTable[Text]:
        """The roster's table."""
        return self.query_one(DataTable)

    @property
    def chosen(self) -> str | None:
        """The name under the cursor."""
        table = self.table
        if not table.row_count or not table.is_valid_coordinate(table.cursor_coordinate):
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    @work(exclusive=True, group="rows")
    async def refresh_rows(self, then: str | None = None) -> None:
        """Read the roster again, and put the cursor on `then`, or leave it where it was."""
        with self.telling():
            page = await self._page(start=self._start, most=max(gallery_queries.PAGE, len(self._people)))
            if then is not None and not page.is_last and then not in [person.name for person in page.people]:
                self._start = then
                page = await self._page(start=then)
            self._people, self._threshold, self._missing = page.people, page.threshold, page.missing
            self._is_whole = page.is_last
            self._fill(then)
            self.refresh_bindings()
            self._write_title(page)
            if not page.people and self._start:
                await self._describe(Text(f"No name comes after {self._start}: / looks for another.", "dim"), [])
            elif not page.people:
                none = "Nobody" if self._things is None else "No thing"
                await self._describe(Text(f"{none} is enrolled yet: press e.", "dim"), [])

    async def _page(
        self, *, start: str = "", after: str = "", most: int = gallery_queries.PAGE
    ) -> gallery_queries.Page:
        page: gallery_queries.Page = await self.order(
            Run(lambda bench: gallery_queries.roster(bench, self._things, start=start, after=after, most=most))
        )
        return page

    @work(group="more")
    async def _read_on(self) -> None:
        """Add the next page of a long list below."""
        if self._is_whole or self._is_reading_on or not self._people:
            return
        self._is_reading_on = True
        try:
            with self.telling():
                shown = self._people
                page = await self._page(after=shown[-1].name)
                if self._people is shown and self._widths:  # not read anew meanwhile
                    self._people, self._is_whole = (*shown, *page.people), page.is_last
                    self._add_rows(page.people)
        finally:
            self._is_reading_on = False

    @work
    async def action_find(self) -> None:
        """Show a long list from another name on."""

        async def settled(typed: str) -> str:
            return valid_name(typed)

        start = await self.app.push_screen_wait(Ask("From which name on?", settled, hint="the beginning of a name"))
        if start is not None:
            self._start, self._people = start, ()
            self.table.move_cursor(row=0)
            self.refresh_rows()

    def action_from_the_first(self) -> None:
        """Show a long list from its beginning."""
        self._start, self._people = "", ()
        self.table.move_cursor(row=0)
        self.refresh_rows()

    def _fill(self, then: str | None = None) -> None:
        """Write the rows, and put the cursor on `then`, or leave it where it was.

        Widths are decided here: left to itself the table takes them from whichever rows it has drawn so far, and cuts
        what does not fit in the middle of a word.
        """
        table = self.table
        if not table.size.width:  # not laid out yet
            self.call_after_refresh(self._fill, then)
            return
        self._filled_width = table.size.width
        where = table.cursor_row
        rows = [_cells(person, self._threshold, self.edge.desk.now_s()) for person in self._people]
        self._widths = _widths(rows, table.size.width)
        table.clear(columns=True)
        for label, width in self._widths.items():
            table.add_column(label, key=label, width=width)
        self._add_rows(self._people)
        names = [person.name for person in self._people]
        table.move_cursor(row=names.index(then) if then in names else min(where, max(0, len(names) - 1)))

    def _add_rows(self, people: Sequence[gallery_queries.Person]) -> None:
        now_s = self.edge.desk.now_s()
        for person in people:
            row = _cells(person, self._threshold, now_s)
            cells = [row[label] for label in self._widths]
            for cell, width in zip(cells, self._widths.values(), strict=True):
                cell.truncate(width, overflow="ellipsis")
            self.table.add_row(*cells, key=person.name)

    def _write_title(self, page: gallery_queries.Page) -> None:
        count, model_id = page.everybody, page.model_id
        of_things = self._things is not None
        one, many = ("thing", "things") if of_things else ("person", "people")
        text = Text.assemble((" Things " if of_things else " People ", "bold reverse"))
        text.append(f"  {counted(count, one, many)}")
        text.append(f", known to {model_id}" if of_things else "")
        if self._start:
            text.append(f", from {self._start} on")
        if self._missing:
            words = f"  ·  {self._missing} must be enrolled again for {model_id}: n tries their kept pictures"
            text.append(words, "yellow")
        self.query_one("#title", Static).update(text)

    @work(exclusive=True, group="detail")
    async def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The cursor moved: tell more of that person."""
        name = event.row_key.value
        if event.cursor_row >= len(self._people) - _LEFT_TO_READ_ON:
            self._read_on()
        if name is None:
            return
        try:
            found: gallery_queries.Profile = await self.order(
                Run(lambda bench: gallery_queries.profile(bench, name, self._things))
            )
        except EdgeError as error:
            # Another process may have forgotten or renamed that person a moment ago.
            await self._describe(Text(str(error), "yellow"), [])
            return
        with self.telling():
            kept = [self.edge.desk.decode(picture) for picture in found.pictures if picture is not None]
            await self._describe(_about(found, "person" if self._things is None else "thing"), kept)

    async def _describe(self, text: Text, kept: list[Pixels]) -> None:
        self.query_one("#about", Static).update(text)
        grid = self.query_one(ItemGrid)
        await grid.remove_children()
        await grid.mount_all([Thumbnail(self.edge.desk.terminal, pixels) for pixels in kept])

    @work
    async def action_rename(self) -> None:
        """Give somebody another name."""
        old = self.chosen
        if old is None:
            return

        async def rename(typed: str) -> str:
            new = valid_name(typed)
            if new != old:
                await self.order(Rename(old, new))
            return new

        new = await self.app.push_screen_wait(Ask(f"What is {old} called from now on?", rename, value=old))
        if new is not None:
            self.refresh_rows(new)

    def action_add(self) -> None:
        """More shots of somebody."""
        if self.chosen is not None:
            more = EnrollScreen(self.chosen) if self._things is None else ThingScreen(self.chosen)
            self.app.push_screen(more, self._after_adding)

    def _after_adding(self, _: None) -> None:
        self.refresh_rows()

    @work
    async def action_forget(self) -> None:
        """Delete somebody; until the app closes it can be undone."""
        name = self.chosen
        if name is None:
            return
        with self.telling():
            forgotten = await self.order(Run(lambda bench: gallery_queries.forget(bench, name)))
            self.edge.forgotten.append(forgotten)
            self.edge.tell(f"{name} is forgotten; u brings {name} back until the app closes", severity="warning")
            self.refresh_rows()

    @work(exclusive=True, group="reenroll")
    async def action_reenroll(self) -> None:
        """Enroll everyone who is a stranger to the embedder in use, from kept pictures; the live picture waits."""
        with self.telling():
            done = await self.order(Run(lambda bench: tuple(reenroll(bench))))
            learned = [one.name for one in done if one.templates]
            left = [f"{one.name} ({one.reasons[0]})" if one.reasons else one.name for one in done if not one.templates]
            if learned:
                self.edge.tell(f"enrolled again from kept pictures: {', '.join(learned)}")
            if left:
                self.edge.tell(f"enroll from new pictures: {', '.join(left)}", severity="warning", timeout_s=12)
            self.refresh_rows()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer to enroll again only where somebody must be, and to find where the list is long."""
        if action == "find":
            return bool(self._start) or not self._is_whole
        if action == "from_the_first":
            return bool(self._start)
        return self._missing > 0 if action == "reenroll" else True

    @work
    async def action_undo(self) -> None:
        """Bring the last one who was forgotten back."""
        if not self.edge.forgotten:
            self.edge.tell("nobody was forgotten since the app was opened")
            return
        forgotten = self.edge.forgotten[-1]
        with self.telling():
            await self.order(Run(lambda bench: gallery_queries.restore(bench, forgotten)))
            self.edge.forgotten.pop()
            self.edge.tell(f"{forgotten.name} is back")
            self.refresh_rows(forgotten.name)

    def action_back(self) -> None:
        """To the live picture."""
        self.dismiss()


_COLUMNS: Final = ("name", "shots", "quality", "last seen", "nearest other", "model")
"""As they stand."""
_WEIGHTIEST_FIRST: Final = ("name", "shots", "nearest other", "last seen", "quality", "model")
"""Where there is no room for all, the last of these go."""
_LEAST_NAME: Final = 16
_LEAST_NEAREST: Final = 12
"""Cells: a similarity, and enough of a name to know whose."""


def _cells(person: gallery_queries.Person, threshold: float, now_s: float) -> dict[str, Text]:
    """What stands in each column."""
    near = Text("nobody", "dim")
    if person.nearest is not None:
        name, similarity = person.nearest
        near = Text(f"{similarity:.2f} {name}", "bold red" if similarity >= threshold else "")
    if not person.shots:
        near = Text("enroll again", "yellow")
    who = Text.assemble(person.name, (" (ignored)", "dim")) if person.ignored else Text(person.name)
    return {
        "name": who,
        "shots": Text(str(person.shots), "yellow" if person.shots == 1 else "", justify="right"),
        "quality": Text("" if person.quality is None else f"{person.quality:.0%}", justify="right"),
        "last seen": Text(ago_words(person.last_seen_s, now_s)),
        "model": Text(", ".join(person.models), "" if person.shots else "yellow"),
        "nearest other": near,
    }


def _widths(rows: Sequence[Mapping[str, Text]], room: int) -> dict[str, int]:
    """The columns that fit into `room` cells, in the order in which they stand, with their widths."""
    wanted = {label: max(len(label), *(row[label].cell_len for row in rows), 1) for label in _COLUMNS}
    least = wanted | {
        "name": min(wanted["name"], _LEAST_NAME),
        "nearest other": min(wanted["nearest other"], max(len("nearest other"), _LEAST_NEAREST)),
    }
    used = 0
    chosen: list[str] = []
    for label in _WEIGHTIEST_FIRST:
        if chosen and used + least[label] + _PADDING > room:
            break
        chosen.append(label)
        used += least[label] + _PADDING
    widths: dict[str, int] = {label: least[label] for label in _COLUMNS if label in chosen}
    for label in ("name", "nearest other"):
        if label in widths:
            more = min(wanted[label] - widths[label], room - used)
            widths[label] += max(0, more)
            used += max(0, more)
    return widths


_LEFT_TO_READ_ON: Final = 100
"""Rows below the cursor at which the next page is read."""
_PADDING: Final = 2
"""Blank cells that the table puts around each column."""


def _about(found: gallery_queries.Profile, noun: str) -> Text:
    """One person, or one thing, in words."""
    text = Text.assemble((found.name + "\n", "bold"))
    if found.ignored:
        text.append("A known stranger: nothing is told of this face, and it gets nobody's name.\n", "yellow")
    if found.hard_to_tell:
        text.append(f"{gallery_queries.HARD_TO_TELL}\n", "yellow")
    kept = any(found.pictures)
    if found.stranger_to:
        known = found.templates[-1].embedding.model_id
        how = "n tries the kept pictures" if kept else "no picture is kept: press a for new shots"
        text.append(
            f"Known to {known} only: a stranger to {found.stranger_to} until enrolled again; {how}.\n", "yellow"
        )
    for number, template in enumerate(found.templates, 1):
        q = template.quality
        view = f"{view_of(q)}, " if noun == "person" else ""
        text.append(f"{number} {view}{q.face_px:.0f} px, detail {q.sharpness:.2f}, light {q.brightness:.0f}\n")
        text.append(f"  {template.source}\n", "dim")
    if not found.stranger_to:
        facts = (
            gallery_queries.worst_facts(found) if noun == "person" else (gallery_queries.nearest_words(found, noun),)
        )
        text.append("\n" + "".join(f"{fact}\n" for fact in facts))
    if not kept:
        text.append("\nNo picture is kept, only templates.", "dim")
    return text
