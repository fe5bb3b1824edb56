"""The documents name commands that exist, files that are there."""

import re
import shlex
from pathlib import Path

import pytest

from edge_app.cli.commands import parse
from edge_app.cli.summaries import SUMMARIES

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:console|sh)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.match(r"(?:\S*/)?(edge-app(?: [^|&>#]*)?)", line.strip().removeprefix("$ "))
                if found and found[1].strip() != "edge-app":
                    yield pytest.param(found[1], id=f"{page.name}: {found[1][:50]}")


@pytest.mark.parametrize("line", commands())
def test_a_command_in_the_documents_is_understood(line):
    words = shlex.split(line)[1:]
    assert parse(words).path.startswith(f"edge-app {words[0]}")


def test_what_the_pages_link_to_is_there():
    links = [(page, to) for page in PAGES for to in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))]
    files = [(page, to) for page, to in links if "://" not in to]
    assert len(files) > 5
    assert [f"{page.name}: {to}" for page, to in files if not (page.parent / to).exists()] == []


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not [name for name in SUMMARIES if name not in ("tui", "completion") and name not in text]
