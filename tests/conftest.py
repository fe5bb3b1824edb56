"""Fixtures that several test files share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from edge_app.system.data_folder import Home

# As `edge-app train` does, before torch is imported: threads that spin while they wait made tests of training take ten
# times as long beside other work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A fault of ours is a traceback in a test, not the one line that the command line makes of it.
os.environ["EDGE_APP_DEBUG"] = "1"

# How long an example takes says something about the machine, and about what else it does.
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Pictures for developing that are not part of the project."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not shipped")
    return folder


@pytest.fixture(scope="session", autouse=True)
def data_folder_of_nobody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands without `--home` write their log into a folder of the tests, not into that of whoever runs them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session", autouse=True)
def builds_are_measured() -> Iterator[None]:
    """As on a machine where INT8 is twice as fast: each new data folder would measure for half a second.

    `tests/model_store/test_choose_build.py` really measures.
    """
    pace = {"fp32": 10.0, "fp16": 10.0, "int8": 5.0}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "edge_app.model_store.choose_build._measure",
            lambda shipped, threads: {entry.precision: pace[entry.precision] for entry in shipped},
        )
        yield


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A data folder that does not exist yet."""
    return Home(tmp_path / "home")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Pictures of 64 pixels lose more by being handed between threads than they gain."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def young_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time-outs count from the start of the process; that of the tests is old."""
    monkeypatch.setattr("edge_app.system.timing.process_began_s", time.monotonic)
