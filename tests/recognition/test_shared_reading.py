"""Sessions made of one: several cameras read a changed gallery once."""

from dataclasses import replace

import numpy as np
import pytest

from edge_app.core.types import Embedding, Template
from edge_app.gallery.storage import Vault
from edge_app.live.face_mode import FaceMode
from edge_app.recognition import gallery_session
from edge_app.recognition.open_session import OpenOptions, open_people
from tests.gallery.test_storage import QUALITY


def enroll(home, name, seed):
    vector = np.random.default_rng(seed).normal(size=128)
    with Vault(home.gallery_path) as vault:
        vector = (vector / np.linalg.norm(vector)).astype(np.float32)
        vault.add(name, [Template(Embedding(vector, "sface"), QUALITY, "", 1.0)])


@pytest.fixture
def reads(monkeypatch):
    """Counts how often the gallery is read."""
    counted, real = [], gallery_session.load_gallery

    def load(vault, embedder):
        counted.append(1)
        return real(vault, embedder)

    monkeypatch.setattr(gallery_session, "load_gallery", load)
    return counted


@pytest.mark.parametrize("candidates", [None, ("Ada",)])
def test_cameras_share_one_reading_of_a_changed_gallery(home, reads, candidates):
    enroll(home, "Ada", 1)
    session = open_people(home, None, OpenOptions(candidates=candidates))
    modes = [FaceMode(session) for _ in range(3)]
    assert len(reads) == 1
    for number, name in enumerate(("Bob", "Cyd"), 2):
        enroll(home, name, number)
        for mode in modes:
            mode.gallery_changed()
        assert len(reads) == number
        galleries = {id(mode.session.recognizer.gallery) for mode in modes}
        cohorts = {id(mode.session.recognizer.rule.cohort) for mode in modes}
        # With a cohort each, what is kept for one would be made anew at every face.
        assert len(galleries) == len(cohorts) == 1
        assert set(modes[0].session.recognizer.gallery.names) >= {"Ada", name}
    session.close()


def test_one_session_alone_reads_what_it_is_asked_to_read_anew(home, reads):
    enroll(home, "Ada", 1)
    session = open_people(home)
    assert session.refreshed().recognizer.gallery is not session.recognizer.gallery and len(reads) == 2


def test_a_change_between_two_cameras_is_not_missed(home, reads):
    enroll(home, "Ada", 1)
    first = open_people(home)
    second = replace(first)
    enroll(home, "Bob", 2)
    first = first.refreshed()
    enroll(home, "Cyd", 3)
    assert set(second.refreshed().recognizer.gallery.names) == {"Ada", "Bob", "Cyd"}
    assert set(first.refreshed().recognizer.gallery.names) == {"Ada", "Bob", "Cyd"} and len(reads) == 3
