"""Who may be named today: the file, the threshold for so many, and those left out, who stay rivals."""

import numpy as np
import pytest

from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.core.types import Embedding
from edge_app.gallery.candidates import check_candidates, read_candidates
from edge_app.gallery.matching import Gallery
from edge_app.gallery.storage import Vault
from edge_app.media import sample
from tests.gallery.test_matching import POINTS, at, gallery, rule

PEOPLE = {"Ada": (0,), "Eva": (8,), "Bob": (90,)}


def written(tmp_path, content):
    path = tmp_path / "today.txt"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "content",
    [
        "Zoë Ada\nBob #2\n".encode(),
        "\ufeffZoë Ada\r\n\r\n# cleaners\r\n  Bob #2  \r\n".encode(),
        "Zoe\u0308 Ada\rBob #2\rBob #2".encode(),
    ],
)
def test_names_are_read_as_they_are_enrolled(tmp_path, content):
    assert read_candidates(written(tmp_path, content)) == ("Zoë Ada", "Bob #2")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "names nobody"),
        (b"# only this\n\n", "names nobody"),
        (b"\xff\xfeA\x00", "not UTF-8"),
        (b"Ada\nB/ob\n", "line 2"),
    ],
)
def test_a_file_that_names_nobody_right_is_refused(tmp_path, content, told):
    with pytest.raises(UsageError, match=told):
        read_candidates(written(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_candidates(tmp_path / "none.txt")
    with pytest.raises(UsageError, match="cannot be read"):
        read_candidates(tmp_path)


def test_whoever_is_left_out_gets_no_candidate_s_name():
    few = gallery(PEOPLE).limited_to(["Ada", "Bob", "Nobody"])
    as_eva, as_ada, as_bob = few.match([at(8), at(-3), at(95)], rule(0.9))
    # Eva is near enough to Ada to be taken for her, were Eva not known.
    alone = gallery({"Ada": (0,), "Bob": (90,)})
    assert alone.match([at(8)], rule(0.9))[0].name == "Ada"
    assert (as_eva.name, as_eva.left_out, as_eva.claimed) == (None, "Eva", "Eva")
    assert (as_ada.name, as_ada.left_out) == ("Ada", None) and as_bob.name == "Bob"
    assert few.match([at(180)], rule(0.9))[0].claimed is None


def test_an_ignored_person_stays_ignored_in_or_out_of_the_file():
    known = Gallery("m", ("Ada", "Eva"), np.stack([at(0).vector, at(60).vector]), np.array([0, 1]), ["Eva"])
    for names in (["Ada"], ["Ada", "Eva"]):
        [match] = known.limited_to(names).match([at(60)], rule(0.9))
        assert (match.name, match.ignored, match.left_out) == (None, "Eva", None)


def test_the_threshold_is_for_the_candidates():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(1000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names = [f"p{n}" for n in range(1000)]
    everybody = Gallery("m", names, vectors, np.arange(1000))
    ten = Gallery("m", names[:10], vectors[:10], np.arange(10))
    limited = everybody.limited_to(names[:10])
    asked = (POINTS, 0.01, 0.0)
    assert limited.rule(*asked).threshold == ten.rule(*asked).threshold < everybody.rule(*asked).threshold
    assert "10 people as candidates" in limited.rule(*asked).words
    assert limited.match([Embedding(vectors[500], "m")], limited.rule(*asked))[0].left_out == "p500"


def test_somebody_not_enrolled_is_asked_about(home, tmp_path):
    with Vault(home.gallery_path) as vault:
        for names in (("Ada",), tuple(f"p{number}" for number in range(1000))):
            with pytest.raises(UsageError, match="not enrolled"):
                check_candidates(vault, names)


@pytest.fixture
def two(home, capsys):
    """A data folder that knows the two sample people."""
    for name, pictures in sample.people().items():
        assert main(["enroll", name, *map(str, pictures), "--home", str(home.path)]) == 0
    capsys.readouterr()
    return list(sample.people())


@pytest.mark.usefixtures("young_process")
def test_recognize_watch_and_verify_name_candidates_alone(home, two, tmp_path, capsys):
    inside, outside = two
    today = written(tmp_path, f"# today\n{inside}\n".encode())
    end = ["--candidates", str(today), "--home", str(home.path)]
    for who, said in ((inside, inside), (outside, "unknown")):
        probe = sample.people()[who][0]
        assert main(["recognize", str(probe), *end]) == 0
        told = capsys.readouterr()
        assert said in told.out and outside not in told.out.split(":", 1)[1]
        assert main(["watch", str(probe), *end]) == 0
        told = capsys.readouterr().out
        assert ("recognized" in told and inside in told) if who == inside else ("unknown" in told and who not in told)
    probe = sample.people()[outside][0]
    assert main(["verify", outside, "--source", str(probe), "--liveness", "off", *end]) == 2
    assert "not among the candidates" in capsys.readouterr().err
    probe = sample.people()[inside][0]
    assert main(["verify", inside, "--source", str(probe), "--liveness", "off", *end]) == 0


def test_a_mistyped_candidate_ends_the_command_in_one_line(home, two, tmp_path, capsys):
    today = written(tmp_path, f"{two[0]}x\n".encode())
    probe = sample.people()[two[0]][0]
    for command in (["recognize", str(probe)], ["watch", str(probe)], ["verify", two[0], "--source", str(probe)]):
        assert main([*command, "--candidates", str(today), "--home", str(home.path)]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert f"did you mean '{two[0]}'?" in line
