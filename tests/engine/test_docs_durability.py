"""docs/durability.md tells the truth: what it shows can be executed as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest

from headrace import App, FileLog, LogFull

PAGE = Path(__file__).parents[2] / "docs" / "durability.md"
BLOCKS = re.compile(r"```python\n(.*?)```", re.DOTALL).findall(PAGE.read_text())


def executed(code: str, **names: Any) -> dict[str, Any]:
    exec(compile(code, str(PAGE), "exec"), names)
    return names


async def test_what_opens_an_engine_opens_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the event is in the log that the page names."""
    monkeypatch.chdir(tmp_path)
    code = f"async def main():\n{indent(BLOCKS[0], '    ')}    return sequence"
    sequence = await executed(code, app=App("plant"))["main"]()

    assert sequence > 0
    assert (tmp_path / "plant.log").is_dir()


async def test_what_waits_for_room_goes_on_once_there_is() -> None:
    """It is put again for as long as the disk is full, and only then."""

    class Engine:
        """One whose disk is full twice."""

        def __init__(self) -> None:
            self.done: list[Any] = []

        async def emit(self, subject: str, data: Any) -> int:
            if self.done.count("ready") < 2:
                raise LogFull("no room")
            self.done.append((subject, data))
            return 7

        async def ready(self) -> None:
            self.done.append("ready")

    engine = Engine()
    assert await executed(BLOCKS[1])["keep"](engine, "a.b", 1) == 7
    assert engine.done == ["ready", "ready", ("a.b", 1)]


async def test_logs_can_be_made_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the settings that the page names."""
    monkeypatch.chdir(tmp_path)
    assert len(BLOCKS) == 4
    names: dict[str, Any] = {}
    for block in BLOCKS[2:]:
        names = executed(block, **{"FileLog": FileLog, **names})
        async with App("plant").open(names["log"]) as engine:
            assert await engine.emit("a") > 0
