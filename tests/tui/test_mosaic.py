"""Pictures as cells: built answers, read back out of the escape sequences."""

from __future__ import annotations

import re

import numpy as np
import pytest
from rich.cells import cell_len

from edge_app.tui.picture.mosaic import Mark, Mosaic
from edge_app.tui.picture.palette import palette_numbers
from edge_app.tui.picture.terminal import Terminal

TRUE = Terminal("truecolor")
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def plain(columns: int, rows: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((rows, columns, 3), colour, np.uint8)


def replayed(text: str) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """What a terminal would show: each character with its colour and its ground."""
    cells, ink, paper = [], (), ()
    for codes, character in re.findall(r"\x1b\[([\d;]*)m|([^\x1b])", text):
        if character:
            cells.append((character, ink, paper))
            continue
        numbers = [int(code) for code in codes.split(";")]
        while numbers and numbers != [0]:
            kind, count = numbers[0], 5 if numbers[1] == 2 else 3
            colour = tuple(numbers[2:count])
            ink, paper = (colour, paper) if kind == 38 else (ink, colour)
            numbers = numbers[count:]
        if numbers == [0]:
            ink = paper = ()
    assert (ink, paper) == ((), ())
    return cells


def lines(mosaic: Mosaic) -> list[str]:
    return [strip._render_cache or "" for strip in mosaic.strips]


def painted(
    pixels: np.ndarray, *marks: Mark, terminal: Terminal = TRUE, cells: tuple[int, int] = (8, 4), **more
) -> Mosaic:
    mosaic = Mosaic(terminal)
    mosaic.resize(*cells)
    mosaic.paint(pixels, marks, **more)
    return mosaic


def test_each_cell_shows_two_pixels_one_above_the_other() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mosaic = painted(pixels)
    # What is nearly the ground's colour already is not sent.
    shown = np.where((pixels.max(axis=2) > 6)[..., None], pixels, 0)
    for y, line in enumerate(lines(mosaic)):
        cells = replayed(line)
        assert [cell[0] for cell in cells] == ["▀"] * 8
        assert [cell[1] for cell in cells] == [tuple(pixel) for pixel in shown[2 * y].tolist()]
        assert [cell[2] for cell in cells] == [tuple(pixel) for pixel in shown[2 * y + 1].tolist()]


def test_segments_say_the_same_as_the_escape_sequences() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    mosaic = painted(pixels, Mark((1, 2, 6, 7), "Zoë", "known"))
    assert len(mosaic.strips) == 4
    for strip in mosaic.strips:
        told = [
            (segment.text, tuple(segment.style.color.triplet), tuple(segment.style.bgcolor.triplet))
            for segment in strip
        ]
        assert told == replayed(strip._render_cache)
        assert strip.cell_length == 8
        assert [segment.text for segment in strip.crop(2, 5)] == [text for text, _, _ in told[2:5]]


def test_a_colour_is_sent_once_for_a_run() -> None:
    mosaic = painted(plain(8, 8, RED))
    assert lines(mosaic)[0] == "\x1b[38;2;255;0;0;48;2;255;0;0m" + "▀" * 8 + "\x1b[0m"


def test_only_lines_that_changed_are_made_again() -> None:
    mosaic = painted(plain(8, 8, RED))
    assert mosaic.paint(plain(8, 8, RED)) == []
    noisy = plain(8, 8, RED)
    noisy[..., 0] -= np.random.default_rng(3).integers(0, 7, (8, 8), dtype=np.uint8)
    assert mosaic.paint(noisy) == []
    spot = plain(8, 8, RED)
    spot[5, 3] = BLUE
    assert mosaic.paint(spot) == [2]
    assert mosaic.paint(plain(8, 8, RED)) == [2]


def test_a_slow_change_is_seen_in_the_end() -> None:
    mosaic = painted(plain(8, 8, (0, 0, 0)))
    for value in range(0, 101, 2):
        mosaic.paint(plain(8, 8, (value, value, value)))
    assert abs(replayed(lines(mosaic)[0])[0][1][0] - 100) <= 6


def test_the_picture_keeps_its_shape() -> None:
    wide = painted(plain(200, 50, RED), cells=(40, 20))
    rows = [y for y, line in enumerate(lines(wide)) if "255;0;0" in line]
    assert len(rows) == 5  # 40 columns wide, so 10 pixels and 5 lines high
    tall = painted(plain(50, 200, RED), cells=(40, 20))
    assert sum(cell[1] == RED for cell in replayed(lines(tall)[10])) == 10


def test_a_mirror_flips_the_picture_and_the_box_but_not_the_words() -> None:
    pixels = plain(40, 40, RED)
    pixels[:, 20:] = BLUE
    mark = Mark((2, 10, 10, 30), "Ada", "known")
    straight = painted(pixels, mark, cells=(40, 20))
    flipped = painted(pixels, mark, cells=(40, 20), mirror=True)
    # The label is above the box, whose top edge is at pixel 10: line 4. Words keep their order.
    assert straight.strips[4].text.index("Ada") < 10
    assert flipped.strips[4].text.index("Ada") > 25
    assert replayed(lines(straight)[0])[0][1] == RED
    assert replayed(lines(flipped)[0])[0][1] == BLUE
    assert straight.strips[5].text.index("┌") == 2
    assert flipped.strips[5].text.index("┐") == 38


@pytest.mark.parametrize("name", ["Ada", "山田太郎", "Ñandú", "นภา", "e\u0301le\u0300ve", "👩 Eileen", "x" * 80])
def test_labels_of_any_script_keep_the_line_as_wide_as_it_is(name: str) -> None:
    mosaic = painted(plain(40, 40, RED), Mark((4, 10, 30, 30), name, "known"), cells=(40, 20))
    assert len(mosaic.strips) == 20
    for strip in mosaic.strips:
        assert cell_len("".join(character for character, _, _ in replayed(strip._render_cache))) == 40
        assert sum(cell_len(segment.text) for segment in strip) == 40


@pytest.mark.parametrize(
    "box", [(-50, -50, -10, -10), (-20, -20, 20, 20), (30, 30, 90, 90), (100, 100, 200, 200), (5, 5, 5.1, 5.1)]
)
def test_boxes_past_the_edge_do_no_harm(box: tuple[float, float, float, float]) -> None:
    mosaic = painted(plain(40, 40, RED), Mark(box, "Ada", "unknown"), cells=(40, 20))
    assert len(mosaic.strips) == 20
    assert all(strip.cell_length == 40 for strip in mosaic.strips)


def test_known_unknown_and_new_differ_without_colour() -> None:
    mono = Terminal("mono")
    frames = {}
    for kind in ("known", "unknown", "new"):
        mosaic = painted(plain(40, 40, (0, 0, 0)), Mark((10, 10, 30, 30), "", kind), terminal=mono, cells=(40, 20))
        frames[kind] = "".join(strip.text for strip in mosaic.strips)
    assert len(set(frames.values())) == 3
    assert "│" in frames["known"] and "╎" in frames["unknown"] and not {"│", "╎"} & set(frames["new"])


def test_256_colours_use_the_palette_only() -> None:
    mosaic = painted(plain(8, 8, (200, 30, 90)), terminal=Terminal("256"))
    codes = re.findall(r"\x1b\[([\d;]+)m", "".join(lines(mosaic)))
    assert codes and all(re.fullmatch(r"(38;5;\d+)?;?(48;5;\d+)?", code) for code in codes if code != "0")


def test_the_nearest_palette_colour_is_found() -> None:
    colours = np.array([(255, 0, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (118, 118, 118)], np.uint8)
    assert palette_numbers(colours).tolist() == [196, 21, 231, 16, 243]


def test_no_colour_and_no_unicode_is_plain_text() -> None:
    pixels = np.tile(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (40, 1, 3))
    mosaic = painted(
        pixels, Mark((4, 10, 30, 30), "Ada", "known"), terminal=Terminal("mono", unicode=False), cells=(40, 20)
    )
    text = "\n".join(lines(mosaic))
    assert text.isascii() and "\x1b" not in text
    first = lines(mosaic)[0]
    assert first[0] == " " and first[-1] == "@"


def test_a_far_terminal_is_sent_less() -> None:
    pixels = np.random.default_rng(4).integers(100, 140, (80, 80, 3), dtype=np.uint8)
    near, far = (
        painted(pixels, terminal=Terminal("truecolor", remote=remote), cells=(80, 40)) for remote in (False, True)
    )
    assert far.bytes_encoded < near.bytes_encoded


def test_an_area_of_no_size_draws_nothing() -> None:
    mosaic = Mosaic(TRUE)
    assert mosaic.paint(plain(8, 8, RED)) == []
    mosaic.resize(0, 4)
    assert mosaic.paint(plain(8, 8, RED)) == []


@pytest.mark.parametrize(
    ("environment", "ink"),
    [
        ({"COLORTERM": "truecolor", "TERM": "xterm-256color"}, "truecolor"),
        ({"COLORTERM": "24bit", "TERM": "xterm"}, "truecolor"),
        ({"TERM": "xterm-kitty"}, "truecolor"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "truecolor"),
        ({"TERM": "xterm-direct"}, "truecolor"),
        ({"TERM": "", "WT_SESSION": "1"}, "truecolor"),
        ({"TERM": "xterm-256color"}, "256"),
        ({"TERM": "tmux-256color", "TMUX": "/tmp/x"}, "256"),
        ({"TERM": "xterm"}, "mono"),
        ({"TERM": "linux"}, "mono"),
        ({}, "mono"),
        ({"COLORTERM": "truecolor", "NO_COLOR": "1"}, "mono"),
    ],
)
def test_what_a_terminal_can_show_is_told_from_its_environment(environment: dict[str, str], ink: str) -> None:
    terminal = Terminal.detect(environment, "UTF-8")
    assert terminal.ink == ink
    assert bool(terminal.lacks) == (ink != "truecolor")
    assert terminal.unicode


def test_a_terminal_without_utf_8_is_told_so() -> None:
    terminal = Terminal.detect({"COLORTERM": "truecolor"}, "ANSI_X3.4-1968")
    assert not terminal.unicode
    assert "UTF-8" in terminal.lacks[0]
    mosaic = painted(plain(8, 8, WHITE), Mark((2, 2, 6, 6), "A", "known"), terminal=terminal)
    assert "".join(lines(mosaic)).isascii()


def words_of(mosaic: Mosaic) -> str:
    """What stands on label grounds, line by line; the picture and the frames as blanks."""
    grounds = {(0, 125, 92), (230, 159, 0), (70, 90, 110), (60, 60, 60)}
    return "\n".join(
        "".join(character if paper in grounds else "\t" for character, _, paper in replayed(line))
        for line in lines(mosaic)
    )


def test_labels_of_faces_that_are_close_make_room_for_one_another() -> None:
    """Each is whole and stands alone, whichever way the boxes lie over each other."""
    names = ("Alejandra 0.81", "Andrew 0.75", "? unknown", "Bo 0.90")
    kinds = ("known", "known", "unknown", "known")
    rng = np.random.default_rng(5)
    for _ in range(40):
        x, y = rng.integers(10, 60, 4), rng.integers(4, 30, 4)
        boxes = [(float(a), float(b), float(a + 24), float(b + 24)) for a, b in zip(x, y, strict=True)]
        marks = [Mark(box, name, kind) for box, name, kind in zip(boxes, names, kinds, strict=True)]
        shown = words_of(painted(plain(100, 60, (90, 90, 90)), *marks, cells=(100, 30)))
        for name in names:
            assert shown.count(f" {name} ") == 1, (name, boxes)


def test_where_there_is_no_room_a_label_is_cut_and_says_so_or_is_left_out() -> None:
    rng = np.random.default_rng(6)
    whole, cut = 0, 0
    for _ in range(60):
        names = ("Alejandra 0.81", "Andrew 0.75", "Wilhelmina 0.70", "Bartholomew 0.66", "Chen 0.91")
        boxes = [(float(x), float(y), float(x + 5), float(y + 6)) for x, y in rng.integers(0, 8, (5, 2))]
        marks = [Mark(box, name, "known") for box, name in zip(boxes, names, strict=True)]
        shown = words_of(painted(plain(16, 12, (90, 90, 90)), *marks, cells=(16, 6)))
        for piece in re.findall(r"[^\t\n]+", shown):
            for label in re.findall(r" (\S.*?) (?= |$)", piece):
                whole += label in names
                cut += label.endswith("…")
                assert label in names or any(label[:-1] and name.startswith(label[:-1]) for name in names), shown
    assert whole > 60 and cut > 10
