"""Recognition from Python: `People` opens a data folder, enrolls, and says who is in a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from edge_app.core.errors import MediaError
from edge_app.core.names import valid_name
from edge_app.core.types import Frame, Pixels, Seen
from edge_app.gallery.enrollment import EnrollOptions, Refusal, Shot, Verdict
from edge_app.gallery.matching import MatchRule
from edge_app.live.events import LiveEvent
from edge_app.media.pictures import read_picture
from edge_app.recognition.faces import PeopleSession
from edge_app.recognition.open_session import open_people
from edge_app.system.closing import Closing
from edge_app.system.data_folder import Home

Picture = str | PathLike[str] | Pixels
"""A picture's file, or its pixels: (H, W, 3) uint8, RGB."""


class People(Closing):
    """The people of one data folder, and the models that recognize them.

    >>> import edge_app
    >>> with edge_app.People("door") as people:
    ...     people.enroll("Ada Lovelace", "ada1.jpg", "ada2.jpg")
    ...     people.who("party.jpg")
    ['Ada Lovelace', None]

    Everything is read from and written to `folder` (None: the user's own, as the command line has it), private to the
    user. One object serves one thread; open another for another.
    """

    def __init__(self, folder: str | PathLike[str] | None = None, **settings: Any) -> None:
        """Load the models and the gallery; takes about half a second.

        `settings` stand for those of the folder, by the names of `edge_app.Settings`: fpir=0.001, precision="fp32".
        Raises EdgeError, in one line, for whatever is wrong with the folder, a setting or a model.
        """
        home = Home.locate(None if folder is None else Path(folder))
        self.session: PeopleSession = open_people(home, replace(home.settings(), **settings))
        """The parts: detector, embedder, gallery, rule. Replaced by a newer one when the gallery has changed."""

    def close(self) -> None:
        """Close the gallery's file."""
        self.session.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Who is enrolled for the embedder in use, sorted."""
        return tuple(sorted(self.session.recognizer.gallery.names))

    @property
    def rule(self) -> MatchRule:
        """From which similarity on somebody is named, and why; `rule.words` says it."""
        return self.session.recognizer.rule

    def enroll(self, name: str, *pictures: Picture, allow_lookalike: bool = False) -> list[Verdict]:
        """Learn a person from pictures in which the face stands out; two are enough.

        Returns what became of each picture, in order: `verdict.accepted`, or `verdict.refusal.message`. Nothing is
        stored when all were refused. `allow_lookalike` takes somebody who resembles a person already enrolled.
        Raises UsageError for a name that cannot be one.
        """
        looks: list[tuple[str, Shot | Refusal]] = []
        for picture in pictures:
            source = "pixels" if isinstance(picture, np.ndarray) else Path(picture).name
            try:
                looks.append((source, self.session.recognizer.shot(_pixels(picture), source)))
            except MediaError as error:
                looks.append((source, Refusal("unreadable", str(error))))
        options = EnrollOptions(allow_lookalike=allow_lookalike)
        verdicts = self.session.enroll(valid_name(name), looks, options)
        self.session = self.session.refreshed()
        return verdicts

    def forget(self, name: str) -> None:
        """Delete a person, with all templates and kept pictures. Raises GalleryError when nobody has the name."""
        self.session.vault.forget(valid_name(name))
        self.session = self.session.refreshed()

    def observe(self, picture: Picture) -> Seen:
        """Everybody in a picture, the largest face first.

        Each finding has `box` (4,) x1, y1, x2, y2 in pixels, `name` (None: nobody enrolled), `answer.similarity` in
        [-1, 1] to the nearest identity, and `face.landmarks` (5, 2). Raises MediaError for what is no picture.
        """
        return self.session.recognizer.observe(Frame(_pixels(picture)))

    def who(self, picture: Picture) -> list[str | None]:
        """The names in a picture, the largest face first; None for each stranger."""
        return [finding.name for finding in self.observe(picture).findings]

    def verify(self, name: str, picture: Picture) -> bool:
        """Whether that person is in the picture. A photo of the person passes: this is no lock by itself."""
        return valid_name(name) in self.who(picture)

    def watch(
        self, source: str, report: Callable[[str], object] = print, *, realtime: bool = False
    ) -> Iterator[LiveEvent]:
        """Yield who comes and goes in front of a camera ("0"), a video file, a folder or a stream, in order of time.

        Ends with the source, or with ctrl-C. `report` is told of troubles; `realtime` plays a file at its own speed.
        Raises MediaError when the source makes no sense.
        """
        from edge_app.notify.watcher import Stop, watch

        with Stop() as stop, closing(watch(self.session, source, stop, report, realtime=realtime)) as events:
            yield from events


def _pixels(picture: Picture) -> Pixels:
    return picture if isinstance(picture, np.ndarray) else read_picture(Path(picture))
