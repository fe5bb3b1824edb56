"""Beyond what was measured, every command that names people says so in one line, and how to go on."""

import time

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.types import Embedding, Quality, Template
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from edge_app.recognition.open_session import open_people

NAME = "Barack Obama"
[PROBE] = sample.probes()[NAME]
SAID = "cannot be promised for"


@pytest.fixture(scope="module")
def crowd():
    """As many made-up people as the card's pairs promise little for, and the size of their embeddings."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(300, 128)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def say(home, capsys):
    def run(*words):
        code = main([*map(str, words), "--home", str(home.path)])
        told = capsys.readouterr()
        return code, told.out, [line for line in told.err.splitlines() if SAID in line]

    return run


@pytest.fixture
def enrolled(home, say, crowd):
    """Somebody among three hundred, for whom the card promises one stranger in a hundred and not in ten thousand."""
    seen = Quality(112.0, 128.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.99)
    with Vault(home.gallery_path) as vault, vault.transaction():
        for number, vector in enumerate(crowd):
            template = Template(Embedding(vector, "sface"), seen, "made up", time.time())
            vault.add(f"p{number}", [template])
    code, _, said = say("enroll", NAME, *sample.people()[NAME])
    assert code == 0 and not said
    return home


def test_within_the_border_nothing_is_said(enrolled, say):
    for command in (["recognize", PROBE], ["watch", PROBE], ["doctor"]):
        _, out, said = say(*command)
        assert not said and SAID not in out


@pytest.mark.usefixtures("young_process")
@pytest.mark.parametrize(
    "command",
    [
        ["recognize", PROBE],
        ["recognize", PROBE, "--json"],
        ["watch", PROBE],
        ["verify", NAME, "--source", PROBE, "--liveness", "off"],
    ],
    ids=["recognize", "json", "watch", "verify"],
)
def test_beyond_it_one_line_says_so_each_time_and_the_candidates_are_promised(enrolled, say, tmp_path, command):
    strict = [*command, "--fpir", "0.00002"]
    for _ in range(2):
        code, _, [line] = say(*strict)
        assert code == 0 and "--candidates FILE" in line and "301 people" in line
    today = tmp_path / "today.txt"
    today.write_text(NAME)
    code, out, said = say(*strict, "--candidates", today)
    assert code == 0 and not said and (NAME in out or command[0] == "verify")


def test_doctor_says_so(enrolled, say):
    enrolled.change_settings(fpir=0.00002)
    _, out, _ = say("doctor")
    assert SAID in out and "--candidates" in out


def test_enrolling_says_so_when_it_crosses_the_border(home, say):
    say("enroll", NAME, *sample.people()[NAME])
    probe = sample.people()["Joe Biden"]
    share = least_promised(home)
    code, _, said = say("enroll", "Joe Biden", *probe, "--fpir", share)
    assert code == 0 and len(said) == 1 and "2 people" in said[0]
    code, _, said = say("enroll", "Joe Biden", *probe, "--fpir", share)
    assert not said  # it was crossed before


def least_promised(home):
    """The least share that is promised for those enrolled now, and not for one more."""
    session = open_people(home)
    gallery, known = session.recognizer.gallery, session.thresholds
    low, high = 1e-7, 0.5
    for _ in range(60):
        middle = (low * high) ** 0.5
        if gallery.rule(known.points, middle, 0.05, known.cohort).unpromised:
            low = middle
        else:
            high = middle
    session.close()
    return high
