"""Dead letters from the command line: to list, to show, to redrive; and runs to cancel."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import anyio
import pytest
from tests.cli.command import Call, Start, await_engine, records

from headrace import App, FileLog, Run
from headrace.cli.errors import INTERRUPTED
from headrace.engine.log.files import Data, SystemFiles
from headrace.engine.offline import OfflineLog
from headrace.engine.record import RunRedriven

pytestmark = pytest.mark.slow

SHOP = """
from pathlib import Path
from headrace import App, Firing, Run, StepFailed, on

app = App("shop")


@app.task
async def reserve(order: int) -> str:
    return f"reserved {order}"


@app.task
async def pay(order: int) -> str:
    if not Path("bank").exists():
        raise OSError("the bank is closed")
    return f"paid {order}"


@app.rule(on("order", int))
async def buy(run: Run, firing: Firing[int]) -> list[str]:
    order = firing.events[0].data
    return [await run.call(reserve, order), await run.call(pay, order)]


@app.task
async def stay(run: Run) -> None:
    await run.sleep(1e6)
"""

LINES = [
    {"subject": "order", "data": number, "time": 1_700_000_000 + number} for number in range(3)
]


@pytest.fixture
def shop(headrace: Call, tmp_path: Path) -> Path:
    """A log with three dead letters, and its app beside it."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    done = headrace("run", "shop.py", "--log", "shop.log", "--from", "in.jsonl", "--clock", "input")
    assert done.code == 0, done.err
    return tmp_path / "shop.log"


def dead(headrace: Call, log: Path, *options: object) -> list[int]:
    """Return the dead letters, newest first."""
    rows = headrace("runs", "list", log, "--failed", *options, "-o", "json").json
    return [row["run"] for row in rows]


def finish(headrace: Call, log: Path) -> None:
    """Let an engine do what there is to do."""
    (log.parent / "empty.jsonl").write_text("")
    done = headrace("run", "shop.py", "--log", log, "--from", "empty.jsonl", "--clock", "input")
    assert done.code == 0, done.err


def test_dead_letters_are_listed(headrace: Call, shop: Path) -> None:
    """By task and by time, newest first."""
    assert len(dead(headrace, shop)) == 3
    assert len(dead(headrace, shop, "--task", "buy")) == 3
    assert dead(headrace, shop, "--task", "pay") == []
    newest = dead(headrace, shop, "--since", "2023-11-14T22:13:22Z")
    assert newest == dead(headrace, shop)[:1]
    assert dead(headrace, shop, "--since", "-1m") == []
    done = headrace("runs", "list", shop, "--since", "yesterday")
    assert (done.code, "--since 'yesterday'" in done.last_error) == (2, True)


def test_a_dead_letter_is_shown_with_all_that_led_to_it(headrace: Call, shop: Path) -> None:
    """Input, attempt, traceback, causes and steps: enough to know what to do."""
    run = dead(headrace, shop)[0]
    story = headrace("runs", "show", shop, run, "-o", "json").json

    assert story["status"] == "dead"
    assert [event["data"] for event in story["input"]] == [2]
    (failure,) = story["failures"]
    assert failure["began_at"] == failure["at"] == "2023-11-14T22:13:22Z"
    assert "the bank is closed" in failure["error"]
    assert "raise" in failure["traceback"] or "StepFailed" in failure["traceback"]
    assert [(step["task"], step["status"]) for step in story["steps"]] == [
        ("reserve", "completed"),
        ("pay", "failed"),
    ]
    (cause,) = story["causes"]
    assert (cause["kind"], cause["name"]) == ("event", "order")
    step = story["steps"][0]["run"]
    causes = headrace("runs", "show", shop, step, "-o", "json").json["causes"]
    assert [(one["kind"], one["name"]) for one in causes] == [("run", "buy"), ("event", "order")]
    text = headrace("runs", "show", shop, step).out
    assert f"because of run {run}  buy" in text
    assert "because of event" in text


@pytest.mark.slow
def test_a_redrive_waits_for_the_next_start(headrace: Call, shop: Path) -> None:
    """Without an engine it is written down, and done when one runs."""
    run = dead(headrace, shop)[-1]
    (shop.parent / "bank").touch()
    done = headrace("runs", "redrive", shop, run, "-o", "jsonl")
    assert (done.code, "no engine runs" in done.err) == (0, True)
    assert done.jsonl == [{"run": run, "sequence": done.jsonl[0]["sequence"], "state": "offered"}]
    assert headrace("runs", "redrive", shop, run).code == 1  # it is open now
    finish(headrace, shop)

    story = headrace("runs", "show", shop, run, "-o", "json").json
    assert (story["status"], story["attempt"]) == ("completed", 2)
    assert story["result"] == ["reserved 0", "paid 0"]
    assert len(story["redriven"]) == 1
    rows = headrace("runs", "list", shop, "-o", "json").json
    assert [row["status"] for row in rows if row["run"] == run] == ["completed"]
    assert len(dead(headrace, shop)) == 2
    assert "redriven at" in headrace("runs", "show", shop, run).out


def test_all_of_a_task_are_redriven_at_a_rate(headrace: Call, shop: Path) -> None:
    """One command after the bank has opened."""
    (shop.parent / "bank").touch()
    done = headrace("runs", "redrive", shop, "--task", "buy", "--rate", "1000/s", "-o", "json")
    assert (done.code, len(done.json)) == (0, 3)
    finish(headrace, shop)
    assert dead(headrace, shop) == []


def test_since_picks_the_newer_ones(headrace: Call, shop: Path) -> None:
    """Such as those since the outage began."""
    newest = dead(headrace, shop)[0]
    done = headrace(
        "runs", "redrive", shop, "--since", "2023-11-14T22:13:22Z", "--from-start", "-o", "json"
    )
    assert [row["run"] for row in done.json] == [newest]
    (asked,) = [record for record in records(shop) if isinstance(record, RunRedriven)]
    assert (asked.run, asked.from_start) == (newest, True)


def test_what_cannot_be_redriven_is_said(headrace: Call, shop: Path) -> None:
    """And the others are redriven all the same."""
    run = dead(headrace, shop)[0]
    done = headrace("runs", "redrive", shop, 99999)
    assert (done.code, "no such run" in done.last_error) == (4, True)
    done = headrace("runs", "redrive", shop, 99999, run, "--rate", "1000/s", "-o", "json")
    assert (done.code, [row["run"] for row in done.json]) == (4, [run])
    assert "no such run" in done.err
    for options in ([], [run, "--task", "buy"]):
        done = headrace("runs", "redrive", shop, *options)
        assert (done.code, "expected either runs" in done.last_error) == (2, True)
    done = headrace("runs", "redrive", shop, run, "--rate", "often")
    assert (done.code, "--rate 'often'" in done.last_error) == (2, True)
    assert headrace("runs", "redrive", shop, "--task", "pay", "-o", "json").json == []


@pytest.mark.slow
def test_a_running_engine_redrives_at_once(headrace: Call, start: Start, shop: Path) -> None:
    """Over its socket."""
    run = dead(headrace, shop)[0]
    engine = start("run", "shop.py", "--log", "live.log")
    live = shop.parent / "live.log"
    await_engine(live)
    try:
        headrace("emit", live, "order", 7)
        while not (letters := dead(headrace, live)):
            pass
        (shop.parent / "bank").touch()
        done = headrace("runs", "redrive", live, letters[0], "-o", "json")
        assert (done.code, done.json[0]["state"]) == (0, "stored")
        while (
            headrace("runs", "show", live, letters[0], "-o", "json").json["status"] != "completed"
        ):
            pass
        done = headrace("runs", "redrive", live, letters[0])
        assert (done.code, "was given up" in done.last_error) == (4, True)
    finally:
        engine.terminate()
        engine.communicate()
    assert engine.returncode == 0
    assert run


def test_many_runs_are_cancelled(headrace: Call, shop: Path) -> None:
    """One call for all of them."""

    async def main() -> list[int]:
        app = App("shop")
        app.task(name="stay")(stay)
        async with app.open(shop, clock="input", grace_s=0) as engine:
            return [await engine.launch(stay) for _ in range(2)]

    runs = anyio.run(main)
    done = headrace("runs", "cancel", shop, *runs, 99999, "-o", "json")
    assert (done.code, [row["run"] for row in done.json]) == (4, runs)
    finish(headrace, shop)
    rows = headrace("runs", "list", shop, "--status", "cancelled", "-o", "json").json
    assert sorted(row["run"] for row in rows) == runs


async def stay(run: Run) -> None:
    """Wait for longer than any test."""
    await run.sleep(1e6)


def fail() -> None:
    """Fail as long as there is no bank."""
    if not Path("bank").exists():
        raise OSError("the bank is closed")


@pytest.mark.slow
def test_a_dead_letter_outlives_its_records(headrace: Call, tmp_path: Path) -> None:
    """Retention has removed what made it; it is listed and redriven all the same."""
    app, folder = App("t"), tmp_path / "old.log"
    app.task(fail)

    def log() -> FileLog:
        return FileLog(folder, segment_bytes_max=20_000, keep_bytes=1)

    async def age() -> int:
        async with app.open(log(), snapshot_every=0) as engine:
            run = await engine.launch(fail)
            await engine.drain()
            for _ in range(3):
                await engine.emit_many([("fill", "x" * 500) for _ in range(100)])
                await engine.snapshot()
            return run

    async def go_on() -> list[int]:
        async with app.open(log()) as engine:
            await engine.drain()
            return [view.id for view in engine.runs("completed")]

    run = anyio.run(age)
    assert headrace("log", "info", folder, "-o", "json").json["first_sequence"] > run
    assert dead(headrace, folder) == [run]
    (tmp_path / "bank").touch()
    assert headrace("runs", "redrive", folder, run).code == 0
    assert anyio.run(go_on) == [run]
    assert dead(headrace, folder) == []


def test_what_was_asked_for_is_told_though_the_disk_is_full_then(
    headrace: Call, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looks at the output knows which of them have to be redriven once more."""
    letters = sorted(dead(headrace, shop))
    left, write = 2, SystemFiles.pwrite

    def pwrite(self: SystemFiles, fd: int, data: Data, offset_bytes: int) -> int:
        nonlocal left
        if Path(f"/proc/self/fd/{fd}").readlink().suffix == ".hrl":
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, fd, data, offset_bytes)

    with monkeypatch.context() as full:
        full.setattr(SystemFiles, "pwrite", pwrite)
        done = headrace("runs", "redrive", shop, "--task", "buy", "--rate", "1000/s", "-o", "json")
    stored = [record.run for record in records(shop) if isinstance(record, RunRedriven)]
    assert [row["run"] for row in done.json] == stored == letters[:2]
    assert (done.code, "No space left" in done.last_error) == (1, True)


def test_what_was_asked_for_is_told_though_somebody_has_enough(
    headrace: Call,
    shop: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A redrive at a slow rate is ended with Ctrl-C."""
    letters = sorted(dead(headrace, shop))
    redrive, asked = OfflineLog.redrive, list[int]()

    def interrupted(self: OfflineLog, run_id: int, *, from_start: bool) -> int:
        if asked:
            raise KeyboardInterrupt
        asked.append(run_id)
        return redrive(self, run_id, from_start=from_start)

    monkeypatch.setattr(OfflineLog, "redrive", interrupted)
    with pytest.raises(SystemExit, match=str(INTERRUPTED)):
        headrace("runs", "redrive", shop, "--task", "buy", "-o", "json")
    assert [row["run"] for row in json.loads(capsys.readouterr().out)] == letters[:1]


def test_failed_and_a_status_are_one_too_many(headrace: Call, shop: Path) -> None:
    """They say different things, and nobody could tell which of them counts."""
    done = headrace("runs", "list", shop, "--failed", "--status", "completed")
    assert (done.code, done.out) == (2, "")
    assert "expected --failed or --status, found both" in done.last_error


def test_what_a_run_would_undo_is_shown(headrace: Call, tmp_path: Path) -> None:
    """What it registered, and what was executed of that, each in its place."""
    app, folder = App("t"), tmp_path / "saga.log"

    @app.task
    async def release(what: str) -> None: ...

    @app.task
    async def book(run: Run) -> None:
        await run.compensate(release, "hotel")
        raise OSError("no flight")

    async def live() -> int:
        async with app.open(folder) as engine:
            run = await engine.launch(book)
            await engine.drain()
            return run

    run = anyio.run(live)
    registered, undone = headrace("runs", "show", folder, run, "-o", "json").json["steps"]
    assert (registered["kind"], registered["task"]) == ("compensate", "release")
    lines = headrace("runs", "show", folder, run).out.splitlines()
    told = f'to undo: release {{"what":"hotel"}}  record {registered["sequence"]}'
    assert [line.strip() for line in lines].count(told) == 1
    assert any(f"release  run {undone['run']}  completed" in line for line in lines)
