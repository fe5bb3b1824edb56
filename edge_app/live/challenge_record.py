"""Challenges kept as folders of pictures, and gone through once more.

A recording is a folder of JPEG files, one a frame, and `challenge.json`: when each frame was taken, and what was asked
when. It holds a person's face: the folder is private, and nothing is recorded unless the user says so.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from edge_app.core.documents import DocumentError, parse_json, typed
from edge_app.core.errors import MediaError
from edge_app.core.types import Frame
from edge_app.inference.face_mesh import FaceMesh
from edge_app.live.challenge import Challenge, ChallengeOptions, Movement, Progress
from edge_app.live.challenge_mode import ChallengeMode
from edge_app.media.pictures import read_picture, write_picture
from edge_app.recognition.faces import PeopleSession
from edge_app.system.files import make_private_folder, write_json
from edge_app.system.new_file import NewFiles

FILE: Final = "challenge.json"
_MOST_BYTES: Final = 1_000_000
_MOST_FRAMES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Prompt:
    """One thing that was asked."""

    at_s: float
    movement: str


@dataclass(frozen=True, slots=True)
class Recording:
    """A challenge as it was."""

    times_s: tuple[float, ...]
    """When each frame was taken, on a clock that starts anywhere; frame n is the file `000n.jpg`, n from 0."""
    prompts: tuple[Prompt, ...]
    mirrored: bool = False
    outcome: str = ""
    """What came of it then; not of what it would be today."""

    @property
    def script(self) -> tuple[tuple[float, Movement], ...]:
        """Times and movements that were asked for."""
        return tuple((one.at_s, Movement(one.movement)) for one in self.prompts)


@dataclass(slots=True, eq=False)
class Recorder:
    """Writes a recording while the challenge goes on; use it in a `with` statement."""

    folder: Path
    """A new folder is made in here for each recording."""
    options: ChallengeOptions = field(default_factory=ChallengeOptions)
    _place: Path | None = None
    _times_s: list[float] = field(default_factory=list)
    _prompts: list[Prompt] = field(default_factory=list)
    _outcome: str = ""

    def __call__(self, frame: Frame, progress: Progress) -> None:
        """Take a frame, and what was asked when it was seen. Raises EdgeError when it cannot be written."""
        if len(self._times_s) >= _MOST_FRAMES:
            return
        if self._place is None:
            make_private_folder(self.folder)
            [self._place] = NewFiles().free(self.folder / time.strftime("challenge-%Y%m%d-%H%M%S"))
            make_private_folder(self._place)
        write_picture(self._place / f"{len(self._times_s):04}.jpg", frame.pixels, quality=95, replace=False)
        self._times_s.append(round(frame.time_s, 4))
        if len(progress.steps) > len(self._prompts):
            step = progress.steps[-1]
            self._prompts.append(Prompt(round(step.asked_s, 4), step.movement.value))
        self._outcome = progress.outcome

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._place is not None:
            prompts = [{"at_s": one.at_s, "movement": one.movement} for one in self._prompts]
            told = {"times_s": self._times_s, "prompts": prompts}
            write_json(self._place / FILE, told | {"mirrored": self.options.mirrored, "outcome": self._outcome})


def read_recording(folder: Path) -> Recording:
    """Read what a recording says of itself; its pictures are read later. Raises MediaError when it is none."""
    path = folder / FILE
    try:
        recording: Recording = typed(parse_json(path.read_bytes(), most_bytes=_MOST_BYTES), Recording)
        scripted = [one.movement for one in recording.prompts if one.movement not in list(Movement)]
        if scripted:
            raise DocumentError(f"there is no movement {scripted[0]!r}")
        if sorted(recording.times_s) != list(recording.times_s) or not recording.times_s:
            raise DocumentError("the frames' times do not rise")
    except (OSError, DocumentError) as error:
        raise MediaError(
            f"{path} cannot be read: {error}", expected="a challenge that `verify --record` kept"
        ) from error
    return recording


def replay(folder: Path, session: PeopleSession, mesh: FaceMesh) -> Progress:
    """Judge a recording as a challenge is judged today, whoever the person is. Raises MediaError."""
    recording = read_recording(folder)
    options = ChallengeOptions(turns=len(recording.prompts), mirrored=recording.mirrored)
    challenge = Challenge(options, script=recording.script, similar_from=session.recognizer.rule.same_person or -1.0)
    mode = ChallengeMode(session, None, mesh, challenge)
    for index, time_s in enumerate(recording.times_s):
        mode.observe(Frame(read_picture(folder / f"{index:04}.jpg"), index, time_s))
        if mode.progress.outcome != "waiting":
            break
    return mode.progress
