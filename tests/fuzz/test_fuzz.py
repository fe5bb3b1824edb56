"""The fuzzer finds what is planted, and a short run of it finds nothing in the product."""

import json
import random
import tomllib

import pytest

from edge_app.core.errors import EdgeError
from edge_app.gallery import archive, keys
from tests.fuzz.harness import controls, fuzz, input_of, load_entry_points, say
from tests.fuzz.mutate import mutated

ENTRY_POINTS = load_entry_points()
PLANTED = ["tests.fuzz.planted"]


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_short_run_finds_nothing(name, tmp_path, monkeypatch):
    entry = ENTRY_POINTS[name]
    for module in (archive, keys):  # entry points set them lower
        monkeypatch.setattr(module, "SCRYPT_N", module.SCRYPT_N)
    for variable in ("EDGE_APP_HOME", "EDGE_APP_WEBHOOK", "EDGE_APP_MQTT", "EDGE_APP_PASSPHRASE"):
        monkeypatch.setenv(variable, "")
    seeds = entry.valid()
    assert seeds
    for number in range(max(2, round(25 * min(1, entry.share)))):
        folder = tmp_path / str(number)
        folder.mkdir()
        data = input_of(entry, seeds, 0, number)
        try:
            shown = entry.run(data, folder) or ""
        except EdgeError as error:
            shown = str(error)
        assert not controls(shown), (number, shown)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_a_longer_run_under_watch_finds_nothing(name):
    inputs = max(10, round(200 * min(1, ENTRY_POINTS[name].share)))
    tally = fuzz(name, seed=1, inputs=inputs)
    assert tally.inputs == inputs and not tally.faults


@pytest.mark.slow
def test_what_is_planted_is_found_and_counted():
    well = fuzz("planted.well", 0, 40, modules=PLANTED)
    assert well.inputs == 40 and not well.faults and 0 < well.refused < 40
    raises = fuzz("planted.raises", 0, 20, modules=PLANTED)
    assert raises.inputs == 20 and len(raises.exceptions) >= 10 and "ValueError" in raises.exceptions[0]
    assert "SystemExit" in fuzz("planted.exits", 0, 3, modules=PLANTED).exceptions[0]
    steers = fuzz("planted.steers", 0, 20, modules=PLANTED)
    assert len(steers.control_codes) >= 10 and "\\x1b" in steers.control_codes[0]
    sleeps = fuzz("planted.sleeps", 0, 2, time_limit_s=1, modules=PLANTED)
    assert sleeps.inputs == 2 and len(sleeps.slow) >= 1 and not sleeps.crashes
    crashes = fuzz("planted.crashes", 0, 3, modules=PLANTED)
    assert crashes.inputs == 3 and len(crashes.crashes) >= 2


def test_the_same_seed_gives_the_same_inputs_and_another_does_not():
    entry = ENTRY_POINTS["model_store.card"]
    seeds = entry.valid()
    first = [input_of(entry, seeds, 0, number) for number in range(20)]
    assert first == [input_of(entry, seeds, 0, number) for number in range(20)]
    assert first != [input_of(entry, seeds, 1, number) for number in range(20)] and len(set(first)) > 15


@pytest.mark.slow
def test_mutations_stay_near_enough_to_be_read():
    rng = random.Random(0)
    document = json.dumps({"a": [1, 2, {"b": "c"}], "d": 0.5, "e": "text"}).encode()
    read = sum(_parses(json.loads, mutated("json", [document], rng)) for _ in range(300))
    assert 200 < read < 300
    read = sum(
        _parses(tomllib.loads, mutated("toml", [b'a = 1\nb = "c"\n'], rng).decode("utf-8", "replace"), 10_000)
        for _ in range(300)
    )
    assert 30 < read < 300


def _parses(parse, data, limit=1 << 30):
    try:
        parse(data) if len(data) < limit else None
    except (ValueError, RecursionError):
        return False
    return len(data) < limit


def test_escape_codes_are_told_from_our_own_line_breaks():
    assert controls("two\nlines\tand a tab") == []
    assert controls("نیم\u200cفاصله") == []
    assert controls("a\x1b[2J\x07") == ["'\\x1b'", "'\\x07'"] and controls("\u202eabc")


def test_a_command_is_run_in_this_process_and_what_it_prints_is_returned(tmp_path):
    assert "sface" in say("models", "show", "sface", "--home", tmp_path)
    assert "there is no" in say("models", "show", "nothing", "--home", tmp_path)
