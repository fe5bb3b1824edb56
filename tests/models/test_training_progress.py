"""What a user sees while training goes on: lines without control characters in a file, figures on a terminal."""

import io

import pytest
from rich.console import Console
from rich.text import Text

from edge_models.cli.compare import _show_comparison
from edge_models.cli.progress import TrainingProgress


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def told(*, terminal, quiet=False, width=80):
    out = io.StringIO()
    clock = Clock()
    console = Console(file=out, force_terminal=terminal, width=width)
    return TrainingProgress(quiet=quiet, console=console, clock=clock), out, clock


def test_a_file_gets_plain_lines_when_they_are_due_and_each_stage_s_last():
    progress, out, clock = told(terminal=False)
    with progress:
        progress.stage("checking", 1)
        progress.advance(7, "of 40")
        progress.stage("head", 40)
        for epoch in range(1, 24):
            clock.now_s += 2
            progress.advance(epoch, f"loss {1 / epoch:.3f}")
        progress.note("selection loss: [1] of 2")
        progress.stage("tune", 8)
    assert out.getvalue().splitlines() == [
        "checking: 7 of 40",
        "head: 8 of 40, loss 0.125",
        "head: 16 of 40, loss 0.062",
        "selection loss: [1] of 2",
        "head: 23 of 40, loss 0.043",
    ]


def test_nothing_is_told_twice_and_loading_is_no_news_in_a_file():
    progress, out, clock = told(terminal=False)
    with progress:
        progress.stage("PyTorch", 1)
        clock.now_s = 20
        progress.advance(1)
        progress.stage("head", 2)
        clock.now_s = 60
        progress.advance(2, "loss 0.1")
    assert out.getvalue() == "head: 2 of 2, loss 0.1\n"


def test_with_json_only_notes_are_told():
    progress, out, _ = told(terminal=True, quiet=True)
    with progress:
        progress.stage("head", 2)
        progress.advance(1, "loss 0.1")
        progress.note("a picture was left out")
    assert out.getvalue() == "a picture was left out\n"


def test_eighty_columns_of_a_terminal_hold_stage_epoch_loss_and_validation():
    progress, out, _ = told(terminal=True)
    with progress:
        progress.stage("refit-head", 40)
        progress.advance(22)
        progress.advance(23, "loss 0.041, validation 0.093, 100.0 % right")
        progress._bars.refresh()
        shown = Text.from_ansi(out.getvalue()).plain
    assert "refit-head" in shown and "23/40" in shown and " left" in shown
    assert "loss 0.041, validation 0.093, 100.0 % right" in shown
    # The terminal's echo of ctrl-C must not break the line, or one bar more than there were would be left behind.
    assert max(len(line.rstrip("\r")) for line in shown.splitlines() if "23/40" in line) <= 78


@pytest.mark.parametrize("name", ["[bold]x", "[/]"])
def test_names_from_users_are_not_markup(name):
    progress, out, _ = told(terminal=True)
    with progress:
        progress.note(f"{name}: left out")
        progress.stage("trials", 2)
        progress.advance(1, name)
        progress._bars.refresh()
    assert out.getvalue().count(name) >= 2


def test_a_comparison_fits_eighty_columns_and_leaves_the_plain_row_bare(capsys):
    figures = {"with": 0.9, "without": 0.925, "gain": -0.025, "low": -0.119, "high": 0.069, "verdict": "not shown"}
    rows = [
        {"method": name, "accuracy": figures, "recall": figures, "seconds": 90.0}
        for name in ("plain", "cosine+cross-entropy")
    ]
    told_of = {"sentences": ["None of these is shown to be better than doing without."], "recommended": []}
    table = {"rows": rows, "per_class": 10, "unequal_classes": True} | told_of
    _show_comparison({"seeds": [0, 1, 2, 3, 4], "judged": 245, "tables": [table]})
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(map(len, lines)) <= 80
    assert "10 labels per class, mean of 5 seeds, 245 pictures judged" in f"{lines[0]} {lines[1]}"
    assert [line.split() for line in lines if line.startswith("  plain")] == [["plain", "90.0", "1.5", "min"]] * 2
    assert "-11.9 to +6.9   not shown" in " ".join(lines)
