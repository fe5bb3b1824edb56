"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_app.home import Home

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Pictures for developing that are not part of the project."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is not shipped")
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A data folder that does not exist yet."""
    return Home(tmp_path / "home")
