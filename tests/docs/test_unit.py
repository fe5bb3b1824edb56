"""The systemd unit of the recipes, as systemd reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "docs" / "recipes.md"
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    found = re.search(r"```ini\n# /etc/systemd/system/(edge-app-door\.service)\n(.*?)```", RECIPES.read_text(), re.S)
    assert found is not None
    path = tmp_path / found[1]
    program = tmp_path / "edge-app"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = found[2].replace("ExecStart=/opt/edge-app/bin/edge-app ", f"ExecStart={program} ")
    assert str(program) in text
    path.write_text(text)
    return path


@needs_systemd
def test_the_unit_has_no_fault(unit: Path):
    told = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert [line for line in (told.stdout + told.stderr).splitlines() if unit.name in line] == []
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=sometimes"))
    told = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
    assert "restart" in (told.stdout + told.stderr).lower()


@needs_systemd
def test_the_exposure_is_what_the_recipe_says(unit: Path):
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(unit)]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    level = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    said = re.search(r"exposure by `systemd-analyze security` is ([\d.]+)", RECIPES.read_text())
    assert level is not None and said is not None
    assert float(level[1]) <= float(said[1])
