"""Versions of tasks, and where they are executed, on the command line."""

from __future__ import annotations

from pathlib import Path

import anyio
from tests.cli.command import Call

APP = """
from headrace import App

app = App("shop")


@app.task(name="bill", version="1")
async def bill_once(order: int) -> int:
    return order


@app.task(version="2")
def bill(order: int) -> int:
    return order


@app.task(process=True)
def draw(order: int) -> int:
    return order
"""


def test_check_lists_all_versions_and_where_each_task_runs(headrace: Call, tmp_path: Path) -> None:
    """Older versions finish their own runs, so they are there as well."""
    (tmp_path / "shop.py").write_text(APP)

    tasks = headrace("check", "shop.py", "-o", "json").json["tasks"]
    out = headrace("check", "shop.py").out

    assert [(task["task"], task["version"], task["runs_in"]) for task in tasks] == [
        ("bill", "1", "event loop"),
        ("bill", "2", "thread"),
        ("draw", None, "process"),
    ]
    assert "version" in out


def test_list_of_runs_shows_versions_where_there_are_any(headrace: Call, tmp_path: Path) -> None:
    """Which code a run belongs to is what one looks for when two are at work."""
    from headrace import App

    async def bill(order: int) -> int:
        return order

    async def launch(version: str | None) -> None:
        app = App("shop")
        app.task(version=version)(bill)
        async with app.open(tmp_path / "shop.log") as engine:
            await engine.launch(bill, 7)
            await engine.drain()

    anyio.run(launch, None)
    assert "version" not in headrace("runs", "list", "shop.log").out
    anyio.run(launch, "2")
    assert "version" in headrace("runs", "list", "shop.log").out
    rows = headrace("runs", "list", "shop.log", "-o", "json").json
    assert [row["version"] for row in rows] == ["2", None]
