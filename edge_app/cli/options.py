"""What several commands share: options, the data folder, progress, tables. Imports nothing heavy at module level."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import click
from click.shell_completion import CompletionItem

from edge_app.cli.parameters import Arguments, Option
from edge_app.cli.process import coloured, give_up_output, tell_error
from edge_app.core.errors import EdgeError, UsageError
from edge_app.core.plain_text import json_line, plain

if TYPE_CHECKING:
    from rich.table import Table

    from edge_app.inference.detector import DetectorOptions
    from edge_app.recognition.faces import PeopleSession
    from edge_app.system.data_folder import Home
    from edge_app.system.settings import Settings


def json_flag() -> Option:
    return Option("--json", kind=bool, help="print JSON for scripts")


LIVENESS: Final = ("challenge", "passive", "off")
"""How `verify` may ask whether somebody lives."""


def recognition() -> list[Option]:
    """The options of everything that looks at faces; each overrides the setting of the same name."""
    section = "Recognition"
    return [
        Option("--fpir", kind=float, metavar="P", section=section,
            help="share of strangers that may be named (default 0.01)"),
        Option("--margin", kind=float, metavar="M", section=section,
            help="least lead over the second best (default 0.05)"),
        Option("--precision", kind=("auto", "fp32", "int8", "fp16"), section=section,
            help="build of the embedder (default auto)"),
        Option("--detector", metavar="NAME", section=section,
            help="yunet, mtcnn, or a YuNet that you added (default yunet)"),
        Option("--min-face", kind=float, metavar="PX", section=section, help="smallest face to find (default 24)"),
        Option("--threads", kind=int, metavar="N", section=section,
            help="threads for each model (default: one per core)"),
    ]  # fmt: skip


def candidates() -> Option:
    return Option("--candidates", kind=Path, metavar="FILE", section="Recognition",
        help="name nobody but those in FILE, a name a line (lines that begin with # are comments; read once, at the "
        "start): fewer people need less likeness. All others who are enrolled stay known, as rivals: whoever is "
        "nearest to one of them is told as unknown and gets no candidate's name")  # fmt: skip


def chosen_candidates(args: Arguments) -> tuple[str, ...] | None:
    """The names in the file of --candidates; None where it was not given. Raises UsageError."""
    path: Path | None = getattr(args, "candidates", None)
    if path is None:
        return None
    from edge_app.gallery.candidates import read_candidates

    return read_candidates(path)


_OVERRIDES = ("fpir", "margin", "precision", "detector", "threads")


def settings(args: Arguments) -> tuple[Home, Settings]:
    """The data folder and its settings, overridden by the options that were given."""
    from edge_app.system.data_folder import Home

    home = Home.locate(args.home)
    given = {name: getattr(args, name, None) for name in _OVERRIDES}
    return home, replace(home.settings(), **{name: value for name, value in given.items() if value is not None})


def people(args: Arguments, *, model: str | None = None, tell_missing: bool = True) -> PeopleSession:
    """Open the recognition of people for the options that were given, over another embedder where `model` names one.

    Says on standard error whom this embedder lacks.
    """
    from edge_app.recognition.open_session import OpenOptions, open_people
    from edge_app.recognition.reenroll import missing_line

    home, chosen = settings(args)
    if model is not None:
        chosen = replace(chosen, embedder=model)
    session = open_people(
        home, chosen, OpenOptions(detector=detector_options(args), candidates=chosen_candidates(args))
    )
    if session.gone.people or session.gone.strangers:
        warn(f"by the gallery's retention these went: {', '.join((*session.gone.people, *session.gone.strangers))}")
    if tell_missing and (told := missing_line(home, session.vault, session.recognizer.embedder.card)):
        warn(told)
    return session


def exchange(home: Home, *, connect_s: float = 3.0) -> bool:
    """Take in and send what changed, where the gallery is shared with other machines; says what a user should know.

    False where this machine goes on alone.
    """
    if not home.gallery_path.exists():
        return True
    from edge_app.gallery.storage import Vault

    with Vault(home.gallery_path) as vault:
        if vault.connection() is None:
            return True
        from edge_app.fleet.follower import catch_up, lines

        found = catch_up(vault, connect_s=connect_s)
    for line in lines(found):
        warn(line)
    return found is None or found.done is not None


def detector_options(args: Arguments) -> DetectorOptions | None:
    """What --min-face asks of the detector, None for nothing. Raises UsageError when it makes no sense."""
    smallest = getattr(args, "min_face", None)
    if smallest is None:
        return None
    if not 12 <= smallest <= 10_000:
        raise UsageError(f"--min-face is {smallest}", expected="12 to 10000 pixels")
    from edge_app.inference.detector import DetectorOptions

    return DetectorOptions(min_face_px=smallest)


class Bar(Protocol):
    """Where progress is told; rich's `Progress` is one."""

    def add_task(self, description: str, *, total: float | None) -> Any:
        """Begin a line; what it returns names the line."""

    def advance(self, task: Any, /) -> None:
        """One more is done."""

    def update(
        self,
        task: Any,
        /,
        *,
        description: str | None = None,
        total: float | None = None,
        completed: float | None = None,
    ) -> None:
        """Say another thing of a line."""


class _NoBar:
    """Where progress goes that nobody sees."""

    def add_task(self, *_: Any, **__: Any) -> None: ...

    advance = update = add_task


def progress(*, shown: bool = True) -> contextlib.AbstractContextManager[Bar]:
    """A progress bar on standard error that vanishes when done; nothing when that is not a terminal, or not `shown`."""
    if not (shown and sys.stderr.isatty()):
        # rich is 60 ms of processor time at the start, a tenth of what it takes to classify a picture.
        return contextlib.nullcontext(_NoBar())
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """A plain table for people."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(title=plain(title) or None, box=box.SIMPLE_HEAD, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        # Names come from users: brackets in them are not markup.
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


def show(renderable: Any) -> None:
    """Print something rich to standard output, unwrapped where that is not a terminal."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    with _output():
        console.print(renderable)


@contextlib.contextmanager
def _output() -> Iterator[None]:
    """Say so when standard output takes nothing; a reader that went away is no failure worth a line."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        give_up_output()
        raise EdgeError(f"standard output cannot be written: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Coloured:
    """A piece of a line that is shown in a colour, where the terminal has any."""

    text: str
    colour: str
    """One of click's names, such as "green"."""


def say(*parts: str | Coloured) -> None:
    """Print one line of a result to standard output and flush it.

    Whatever is neither JSON nor a table is printed by this alone, so that no name can steer the terminal or make a
    line of its own.
    """
    with _output():
        print(_painted(parts), flush=True)


def say_lines(text: str) -> None:
    """Print several lines, which hold nothing from outside that could be a line break."""
    for line in text.splitlines():
        say(line)


def print_exactly(text: str, end: str = "\n") -> None:
    """Print what another program reads, as it is: a path in the bytes that it has on the disk."""
    with _output():
        buffer = getattr(sys.stdout, "buffer", None)
        if buffer is None:
            print(text, end=end, flush=True)
            return
        sys.stdout.flush()
        buffer.write(os.fsencode(text + end))
        buffer.flush()


def print_json(value: Any) -> None:
    """Print one JSON value on one line and flush it: a reader may be waiting."""
    # Names in any script pass through any pipe: escaped where it does not speak UTF-8.
    line = json_line(value, ascii_only=(sys.stdout.encoding or "").lower().replace("-", "") != "utf8")
    with _output():
        print(line, flush=True)


def warn(text: str) -> None:
    """One line on standard error: what is wrong, or what the user must know."""
    tell_error(text, colour="yellow")


def note(text: str) -> None:
    """One line on standard error that --quiet leaves out: a hint, or a sum at the end."""
    if not asked_for("quiet"):
        warn(text)


def confirmed(question: str) -> bool:
    """Ask a person at a terminal; yes where there is none, for a script has decided already."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    return click.confirm(plain(question), default=False, err=True)


def enrolled_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names in the gallery, for a shell; none where it cannot be read."""
    from edge_app.gallery.storage import Vault
    from edge_app.system.data_folder import Home

    above: click.Context | None = ctx
    given = None
    while given is None and above is not None:
        given, above = above.params.get("home"), above.parent
    try:
        with Vault(Home.locate(given).gallery_path) as vault:
            names = vault.names()
    except EdgeError:
        return []
    return [CompletionItem(name) for name in names if name.casefold().startswith(incomplete.casefold())]


_TOLD: Final = "told"
"""Under which name the data folder remembers what its user was told."""


def tell_once(home: Home, what: str, text: str) -> None:
    """Note a sentence that is new to the data folder: the first one of its kind, and each that differs from the last.

    With --verbose always, with --quiet never.
    """
    told = home.recall(_TOLD) or {}
    if asked_for("verbose") or told.get(what) != text:
        note(text)
    if told.get(what) != text and not asked_for("quiet"):
        with contextlib.suppress(EdgeError):  # a data folder that cannot be written is told the same next time
            home.remember(_TOLD, {**told, what: text})


def asked_for(flag: str) -> bool:
    """Whether --quiet or --verbose was given to the command that runs."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.params.get(flag))


def _painted(parts: Iterable[str | Coloured]) -> str:
    paint = coloured(sys.stdout)
    return "".join(
        plain(part)
        if isinstance(part, str)
        else click.style(plain(part.text), fg=part.colour)
        if paint
        else plain(part.text)
        for part in parts
    )
