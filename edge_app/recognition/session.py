"""A session: one data folder opened to look for one kind of thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from edge_app.core.model_card import ModelCard
from edge_app.core.task import LookFor, Words
from edge_app.core.types import Frame, Seen
from edge_app.system.data_folder import Home
from edge_app.system.settings import Settings

if TYPE_CHECKING:  # a classifier is served without what only a gallery needs
    from edge_app.gallery.storage import Vault
    from edge_app.model_store.choose_build import Choice


class Recognizer(Protocol):
    """Makes something of a frame. Keeps no state between frames, so several threads may call it."""

    @property
    def look_for(self) -> LookFor: ...

    @property
    def card(self) -> ModelCard | None:
        """The model that answers; None where no model does."""

    @property
    def words(self) -> Words:
        """How its results are told."""

    @property
    def finds_faces(self) -> bool:
        """Whether each finding is a face; False: the whole picture, or one box of it."""

    @property
    def explains(self) -> bool:
        """Whether `observe` can say where in a finding it saw its answer."""

    def observe(self, frame: Frame, *, explain: bool = False, any_way_up: bool = False) -> Seen:
        """Look at one frame; with `explain` and where it can, findings carry heatmaps. Raises EdgeError.

        `any_way_up`: it is a photograph, in which faces are looked for on their side and upside down too.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Session:
    """Everything that looking for one kind of thing needs, over one data folder. Immutable."""

    home: Home
    settings: Settings
    recognizer: Recognizer
    vault: Vault | None = None
    """The stored gallery; None where nothing is enrolled."""
    choice: Choice | None = None
    """Which build of the model runs, and why."""

    @property
    def look_for(self) -> LookFor:
        return self.recognizer.look_for

    def close(self) -> None:
        """Close the gallery's file."""
        if self.vault is not None:
            self.vault.close()
