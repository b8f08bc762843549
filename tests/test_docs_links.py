"""Every page of the project leads where it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
NO_LETTER = re.compile(r"[^\w\- ]")


def text_of(page: Path) -> str:
    """What a page says, without its programs."""
    return FENCED.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = HEADING.findall(text_of(page))
    return {NO_LETTER.sub("", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_link_leads_nowhere(page: Path) -> None:
    """Neither to a file that is gone nor to a heading that is called otherwise."""
    lost = []
    for link in LINK.findall(text_of(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)

    assert lost == []


def test_every_file_that_the_architecture_names_is_there() -> None:
    """By its folder, or by its name alone where the folder was just named."""
    code = [
        path.relative_to(ROOT).as_posix()
        for folder in ("engine", "triggers", "connectors", "src/headrace")
        for path in (ROOT / folder).rglob("*.py")
    ]
    named = re.findall(r"[\w/]+\.py", (ROOT / "ARCHITECTURE.md").read_text())

    assert len(named) > 80
    assert [
        name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in code)
    ] == []


def test_links_are_found() -> None:
    """What finds them finds them, and a heading by its name."""
    assert sum(len(LINK.findall(text_of(page))) for page in PAGES) > 100
    assert "large-results" in anchors(ROOT / "docs" / "durability.md")
