"""Batches are measured over the same pictures in every way, and every way takes its turn in each round."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_app.bench import batches as batchbench
from edge_app.cli import main
from edge_app.core.errors import UsageError
from edge_app.inference.onnx_model import Model
from edge_app.model_store import shipped
from edge_app.system.parallel import cores
from tests.model_store.planted import colour_card, write_colours


def test_every_way_gives_the_same_pictures_to_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_colours(tmp_path / "colours.onnx")
    seen: list[tuple[int, float]] = []

    def run(_: Model, batch: np.ndarray, outputs: object) -> tuple[np.ndarray, ...]:
        assert outputs == ("logits",)
        seen.append((len(batch), float(batch.sum())))
        return ()

    monkeypatch.setattr(Model, "run", run)
    rows = batchbench.measure([path], 2)
    ways = {(1, 1), (1, cores()), (cores(), 1)}
    assert {(row["workers"], row["threads"]) for row in rows} == ways
    assert [row["batch"] for row in rows] == list(batchbench.SIZES) * len(ways)
    assert all(row["ms"] >= 0 and row["cpu_ms"] >= 0 and row["file"] == path.name for row in rows)
    runs = sum(-(-batchbench.PICTURES // size) for size in batchbench.SIZES)
    assert len(seen) == 3 * len(ways) * runs  # the warm-up round, and two
    lap = seen[: batchbench.PICTURES]
    assert sum(count for count, _ in lap) == batchbench.PICTURES
    total = sum(value for _, value in lap)
    assert sum(v for _, v in seen) == pytest.approx(total * 3 * len(ways) * len(batchbench.SIZES), rel=1e-4)


def test_the_first_round_warms_up_and_medians_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_colours(tmp_path / "colours.onnx")
    cells = len({(1, 1), (1, cores()), (cores(), 1)}) * len(batchbench.SIZES)
    laps = iter([(1e6, 1e6)] * cells + [(ms, 2 * ms) for ms in (1.0, 5.0, 30.0) for _ in range(cells)])
    monkeypatch.setattr(batchbench, "_lap", lambda *_: next(laps))
    rows = batchbench.measure([path], 3)
    assert {(row["ms"], row["cpu_ms"]) for row in rows} == {(5.0, 10.0)} and len(rows) == cells


def test_inputs_are_normalized_as_the_card_says(tmp_path: Path) -> None:
    from edge_app.inference import onnx_model

    inputs = batchbench._inputs(onnx_model.load(write_colours(tmp_path / "c.onnx", colour_card())))
    assert inputs.shape == (batchbench.PICTURES, 3, 32, 32) and inputs.dtype == np.float32
    assert 0.0 <= float(inputs.min()) < 0.01 and 0.99 < float(inputs.max()) <= 1.0


def test_a_network_of_any_size_is_refused() -> None:
    [yunet] = [entry for entry in shipped.entries() if entry.id == "yunet"]
    with pytest.raises(UsageError, match="one input size"):
        batchbench.measure([yunet.path], 1)


def test_the_command_prints_a_row_for_every_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_colours(tmp_path / "colours.onnx")
    assert main(["bench", "--batches", str(path), "--rounds", "1", "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "16 a run" in out and f"{cores()} at once" in out
    told = json.loads((tmp_path / "out" / "batches.json").read_text())
    assert {row["batch"] for row in told["batches"]} == {1, 2, 4, 8, 16} and "processor" in told["machine"]
