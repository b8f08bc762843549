"""Signals from the command line: to a running engine, and to a log that nobody has open."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.command import Call, Start, await_engine, records

from headrace.engine.record import SignalSent

DESK = """
import msgspec
from headrace import App, Firing, Run, on

app = App("desk")


class Answer(msgspec.Struct):
    approved: bool


@app.rule(on("request", int))
async def ask(run: Run, firing: Firing[int]) -> list[object]:
    answer = await run.receive("answer", Answer)
    firing = await run.wait(on("paid"), since=run.cause, timeout=1e6)
    return [answer.approved, firing.sequences]
"""


@pytest.fixture
def desk(headrace: Call, tmp_path: Path) -> Path:
    """A log with one run that waits for a signal, and its app beside it."""
    (tmp_path / "desk.py").write_text(DESK)
    lines = [{"subject": "request", "data": 7, "time": 1e9}, {"subject": "paid", "time": 1e9}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    finish(headrace, tmp_path / "desk.log", "in.jsonl")
    return tmp_path / "desk.log"


def finish(headrace: Call, log: Path, lines: str = "empty.jsonl") -> None:
    """Let an engine do what there is to do."""
    (log.parent / "empty.jsonl").write_text("")
    done = headrace("run", "desk.py", "--log", log, "--from", lines, "--clock", "input")
    assert done.code == 0, done.err


def waiting(headrace: Call, log: Path) -> int:
    """Return the run that is open."""
    rows = headrace("runs", "list", log, "--status", "active", "-o", "json").json
    return rows[0]["run"] if rows else 0


def test_a_signal_waits_for_the_next_start(headrace: Call, desk: Path) -> None:
    """Without an engine it is written down, and received when one runs."""
    run = waiting(headrace, desk)
    assert "receive answer  pending" in headrace("runs", "show", desk, run).out
    done = headrace("runs", "signal", desk, run, "answer", '{"approved": true}', "-o", "json")
    assert (done.code, "no engine runs" in done.err) == (0, True)
    assert (done.json["run"], done.json["signal"], done.json["state"]) == (run, "answer", "offered")
    finish(headrace, desk)

    story = headrace("runs", "show", desk, run, "-o", "json").json
    assert (story["status"], story["result"]) == (
        "completed",
        [True, [story["steps"][1]["events"][0]]],
    )
    assert [(step["kind"], step["status"]) for step in story["steps"]] == [
        ("receive", "done"),
        ("wait", "done"),
    ]
    text = headrace("runs", "show", desk, run).out
    assert 'receive answer  done {"approved":true}' in text
    assert "wait on('paid')" in text


@pytest.mark.slow
def test_a_running_engine_hands_it_on_at_once(headrace: Call, start: Start, desk: Path) -> None:
    """Over its socket; what it refuses is said as it is without an engine."""
    live = desk.parent / "live.log"
    engine = start("run", "desk.py", "--log", "live.log")
    await_engine(live)
    try:
        headrace("emit", live, "request", 7)
        while not (run := waiting(headrace, live)):
            pass
        headrace("emit", live, "paid")
        done = headrace("runs", "signal", live, run, "answer", '{"approved": false}', "-o", "json")
        assert (done.code, done.json["state"]) == (0, "stored")
        while waiting(headrace, live):
            pass
        done = headrace("runs", "signal", live, run, "answer")
        assert (done.code, f"run {run} is not open" in done.last_error) == (4, True)
    finally:
        engine.terminate()
        engine.communicate()
    assert engine.returncode == 0


def test_what_is_no_signal_is_said(headrace: Call, desk: Path) -> None:
    """And nothing is written."""
    run = waiting(headrace, desk)
    for arguments, code, part in (
        ((99999, "answer"), 4, "run 99999 is not open"),
        ((run, ""), 2, "expected a name"),
        ((run, "answer", "{yes"), 2, "expected JSON"),
        (("x", "answer"), 2, ""),
    ):
        done = headrace("runs", "signal", desk, *arguments)
        assert (done.code, part in done.last_error) == (code, True), done.err
    assert not [record for record in records(desk) if isinstance(record, SignalSent)]
