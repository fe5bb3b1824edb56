"""The tool breaks what it says it breaks, and tells a noticed breakage from one that nobody notices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mutants import __main__ as command
from tests.mutants.mutate import ROOMS, Mutant, mutants_of, probed, sample
from tests.mutants.named import named
from tests.mutants.trial import covering_tests

REPOSITORY = Path(__file__).resolve().parents[2]


def broken(text: str) -> set[str]:
    return {mutant.apply(text) for mutant in mutants_of("f.py", text)}


@pytest.mark.parametrize(
    ("text", "mutants"),
    [
        ("x = a < b", {"x = (a <= b)", "x = (a >= b)"}),
        ("x = 'é' in b", {"x = ('é' not in b)"}),
        ("x = a and b", {"x = (a or b)"}),
        ("x = a + b * c", {"x = (a - b * c)", "x = a + (b / c)"}),
        ("x = 3", {"x = 4"}),
        ("x = 100", {"x = 200"}),
        ("x = 0.5", {"x = 0.75"}),
        ("x = 0.0", {"x = 1.0"}),
        ("x = True", {"x = False"}),
        ("if f(a):\n    g()\n", {"if (not (f(a))):\n    g()\n", "if f(a):\n    pass\n"}),
        ("if not a:\n    b.c = d\n", {"if (a):\n    b.c = d\n", "if not a:\n    pass\n"}),
        ("for x in y:\n    n += z\n", {"for x in y:\n    pass\n"}),
        (
            "while a < 3:\n    break\n",
            {
                f"while {a}:\n    {b}\n"
                for a, b in [("(a <= 3)", "break"), ("(a >= 3)", "break"), ("a < 4", "break"), ("a < 3", "pass")]
            },
        ),
        ("raise E(x) from y", {"pass"}),
    ],
)
def test_each_kind_of_breakage(text, mutants):
    assert broken(text) == mutants


@pytest.mark.parametrize(
    "text",
    [
        '"""Words 1 < 2."""',
        "x: Literal[3]",
        "@dataclass(frozen=True)\nclass A:\n    pass\n",
        'x = f"{a + b}"',
        "x = 'a' + b",
        "if TYPE_CHECKING:\n    f()\n",
        "x = a",
    ],
)
def test_words_types_and_decorators_are_left_alone(text):
    assert broken(text) == set()


def test_a_mutant_of_another_text_is_refused():
    with pytest.raises(ValueError, match="no longer reads"):
        Mutant("f.py", 1, "constant", "3", "4", 4, 5).apply("x = 5")


def test_the_same_seed_breaks_the_same_lines():
    one, same, other = (sample(REPOSITORY, 9, seed, ["core", "system"]) for seed in (3, 3, 4))
    assert one == same != other


@pytest.mark.slow
def test_every_room_has_two_lines_of_forty():
    chosen = sample(REPOSITORY, 40, 3)
    assert len({(mutant.file, mutant.line) for mutant in chosen}) == 40
    for folder in ROOMS.values():
        assert sum(mutant.file.startswith(folder + "/") for mutant in chosen) >= 2, folder
    for mutant in chosen:
        compile(mutant.apply((REPOSITORY / mutant.file).read_text(encoding="utf-8")), mutant.file, "exec")


def test_the_named_breakages_still_fit_the_product():
    assert len(named(REPOSITORY)) == 13


@pytest.mark.slow
def test_tests_that_import_a_file_come_before_the_rest_of_its_room():
    tests = covering_tests(REPOSITORY, "edge_app/live/scene_change.py")
    assert tests[0] == "tests/live/test_scene_change.py" and "tests/live/test_tracker.py" in tests
    assert covering_tests(REPOSITORY, "models/edge_models/networks/backbones.py")[-1].startswith("tests/models/")


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A repository with one product file of two breakable lines, and a test of the first."""
    root = tmp_path / "repository"
    (root / "edge_app" / "core").mkdir(parents=True)
    (root / "tests" / "core").mkdir(parents=True)
    for folder in ("edge_app", "edge_app/core", "tests", "tests/core"):
        (root / folder / "__init__.py").touch()
    (root / "edge_app/core/sums.py").write_text("def more(x):\n    return x + 2\n\n\ndef less(x):\n    return x - y\n")
    (root / "tests/core/test_sums.py").write_text(
        "from edge_app.core.sums import more\n\n\ndef test_more():\n    assert more(1) == 3\n"
    )
    monkeypatch.setattr(command, "REPOSITORY", root)
    return root


@pytest.mark.slow
def test_what_is_noticed_is_killed_and_the_rest_survives(planted, monkeypatch, capsys, tmp_path):
    before = {path: path.read_bytes() for path in planted.rglob("*.py")}
    monkeypatch.setattr("sys.argv", ["mutants", "--lines", "2", "--json"])
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    assert command.main() == 1
    told = json.loads(capsys.readouterr().out)
    assert [(row["line"], row["verdict"]) for row in told["mutants"]] == [(2, "killed"), (6, "survived")]
    assert told["mutants"][0]["by"] == "tests/core/test_sums.py::test_more"
    assert told["counts"] == {"killed": 1, "survived": 1}
    # Nothing is left behind, in the checkout or beside it.
    assert {path: path.read_bytes() for path in planted.rglob("*.py")} == before
    assert not list((tmp_path / "temporary").iterdir()) and not list(planted.rglob("__pycache__"))


@pytest.mark.slow
def test_a_test_that_fails_anyway_has_noticed_nothing(planted, monkeypatch, capsys):
    (planted / "tests/core/test_sums.py").write_text(
        "import edge_app.core.sums\n\n\ndef test_it():\n    assert 1 == 2\n"
    )
    monkeypatch.setattr("sys.argv", ["mutants", "--lines", "1"])
    assert command.main() == 1
    told = capsys.readouterr().out
    assert "fails on the unbroken code too" in told and "1 unsure" in told


def test_a_probe_tells_that_its_line_ran_and_changes_nothing(monkeypatch):
    text = "def f(a, b=2):\n    if a < 1 + b:\n        raise KeyError(a)\n    return a and not (b * 2 > 3)\n"
    hit = []
    monkeypatch.setattr("builtins.hit_mutant", hit.append, raising=False)
    numbered = list(enumerate(mutants_of("f.py", text)))
    names: dict = {}
    exec(compile(probed(text, numbered), "f.py", "exec"), names)
    assert [numbered[n][1].original for n in hit] == ["2"]  # the default is read once, as it is defined
    hit.clear()
    assert names["f"](9) is False
    assert "raise KeyError(a)" not in {numbered[n][1].original for n in hit} and len(set(hit)) > 6
    with pytest.raises(KeyError):
        names["f"](0)
    assert "raise KeyError(a)" in {numbered[n][1].original for n in hit}
