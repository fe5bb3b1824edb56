"""What a model is for, and what depends on that."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


@dataclass(frozen=True, slots=True)
class Words:
    """How results of one kind are told."""

    nothing: str
    """Nothing was found."""
    unknown: str
    """Something was found and not named."""
    measure: str
    """What the number beside a name is."""
    noun: str
    nouns: str


_PEOPLE: Final = Words("no face", "somebody unknown", "similarity", "person", "people")
_THINGS: Final = Words("nothing to judge", "something unknown", "similarity", "thing", "things")
_CLASSES: Final = Words("nothing to judge", "not sure", "probability", "class", "classes")


class Task(StrEnum):
    """The tasks that a card may name; the values are what the card's JSON holds."""

    FACE_DETECTION = "face-detection"
    FACE_EMBEDDING = "face-embedding"
    IMAGE_EMBEDDING = "image-embedding"
    CLASSIFICATION = "classification"
    LIVENESS = "liveness"

    @property
    def embeds(self) -> bool:
        """Whether its output is a point that is compared with what is enrolled: it names, and needs a gallery."""
        return self in (Task.FACE_EMBEDDING, Task.IMAGE_EMBEDDING)

    @property
    def classifies(self) -> bool:
        """Whether its output is a probability for each label of the card."""
        return self in (Task.CLASSIFICATION, Task.LIVENESS)

    @property
    def words(self) -> Words:
        """How its results are told."""
        if self.classifies:
            return _CLASSES
        return _THINGS if self is Task.IMAGE_EMBEDDING else _PEOPLE

    @property
    def setting(self) -> str:
        """The setting that says which model of this task is in use."""
        return {Task.FACE_EMBEDDING: "embedder", Task.FACE_DETECTION: "detector"}.get(self, "model")


@dataclass(frozen=True, slots=True)
class LookFor:
    """What frames are looked at for: a built-in word such as "faces", or the id of a model that tells what it sees."""

    word: str

    def __str__(self) -> str:
        return self.word

    @property
    def is_people(self) -> bool:
        """Whether the people of the gallery are looked for."""
        return self == PEOPLE


PEOPLE: Final = LookFor("faces")
