"""Putting events into a log and stopping runs, with an engine and without."""

from __future__ import annotations

import io
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.command import WAIT_S, Call, Start, await_engine, records

from headrace.cli import door
from headrace.engine.control_wire import NAME
from headrace.engine.log import FileLog
from headrace.engine.record import CancelRequested, EventOffered, EventStored

APP = """
from headrace import App, Run, on

app = App("plant")

@app.rule(on("a.*"))
async def each() -> None: ...

@app.rule(on("long"))
async def long(run: Run) -> None:
    await run.sleep(1000)
"""


@pytest.fixture
def empty(headrace: Call, tmp_path: Path) -> Path:
    """A log that an engine has opened and closed."""
    (tmp_path / "app.py").write_text(APP)
    assert run_once(headrace, "") == []
    return tmp_path / "plant.log"


def run_once(headrace: Call, lines: str) -> list[Any]:
    """Let an engine work until nothing is left to do; return subject and data of the events."""
    Path("lines.jsonl").write_text(lines)
    done = headrace("run", "app.py", "--log", "plant.log", "--from", "lines.jsonl")
    assert done.code == 0, done.err
    return [(e["subject"], e["data"]) for e in events(headrace)]


def events(headrace: Call) -> list[Any]:
    return headrace("log", "cat", "plant.log", "--kind", "event", "-o", "jsonl").jsonl


# ---------------------------------------------------------------- without an engine


@pytest.mark.slow
def test_an_event_waits_for_the_next_start(headrace: Call, empty: Path) -> None:
    """Whoever emits to a log that nobody runs is told so, and nothing is lost."""
    done = headrace(
        "emit", empty, "a.x", '{"level": 3}', "--id", "e", "--source", "s", "--key", "k"
    )
    assert (done.code, done.out) == (0, "3\n")
    assert "no engine runs" in done.err
    again = headrace("emit", empty, "a.x", "--id", "e", "--source", "s", "-o", "json")
    assert again.json == {"log": str(empty), "sequence": 4, "state": "offered"}

    assert run_once(headrace, "") == [("a.x", {"level": 3})]
    (event,) = events(headrace)
    assert (event["id"], event["source"], event["key"], event["offer"]) == ("e", "s", "k", 3)
    (fired,) = headrace("log", "cat", empty, "--kind", "rule.fired", "-o", "jsonl").jsonl
    assert fired["events"] == [event["sequence"]]


@pytest.mark.parametrize(
    ("data", "stored"),
    [("-5", -5), ('"open"', "open"), ("null", None), ("[1.5, true]", [1.5, True])],
)
def test_data_is_json(headrace: Call, empty: Path, data: str, stored: Any) -> None:
    """What is given is what rules see, also what looks like an option."""
    assert headrace("emit", empty, "b", data).code == 0
    assert run_once(headrace, "") == [("b", stored)]


def test_the_time_may_be_ago(headrace: Call, empty: Path) -> None:
    """The event's own time is kept, as people say it."""
    before_ns = time.time_ns()
    assert headrace("emit", empty, "b", "--time", "-15m").code == 0
    assert headrace("emit", empty, "b", "--time", "2026-03-01T08:00:00.5+01:00").code == 0
    ago, said = [x.time_ns for x in records(empty) if isinstance(x, EventOffered)]
    assert ago is not None
    assert abs(before_ns - 900 * 10**9 - ago) < WAIT_S * 10**9
    assert said == 1_772_348_400_500_000_000


@pytest.mark.slow
def test_many_events_come_from_a_file_or_a_pipe(
    headrace: Call, empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script pipes what it has; what is printed says what became of each line."""
    lines = "".join(json.dumps({"subject": "b", "data": n}) + "\n" for n in range(1200))
    (tmp_path / "many.jsonl").write_text(lines)
    done = headrace("emit", empty, "--from", "many.jsonl", "--source", "s")
    assert done.out.split() == [str(n) for n in range(3, 1203)]
    done = headrace("emit", empty, "--jsonl", "many.jsonl", "-o", "jsonl")
    assert done.jsonl[0] == {"sequence": 1203, "state": "offered"}

    assert run_once(headrace, "") == [("b", n) for n in [*range(1200), *range(1200)]]
    assert {event.get("source") for event in events(headrace)} == {"s", None}


@pytest.mark.slow
def test_many_events_come_from_standard_input(shell: Call, empty: Path) -> None:
    """A dash says so, as the subject or as the file."""
    lines = '{"subject": "b", "data": 1}\n{"subject": "b", "data": 2}'
    assert shell("emit", empty, "-", stdin=lines).out.split() == ["3", "4"]
    assert shell("emit", empty, "--from", "-", stdin=lines).out.split() == ["5", "6"]


def test_a_bad_line_says_what_was_stored(headrace: Call, empty: Path, tmp_path: Path) -> None:
    """The lines before it are in the log and printed; it says where to go on."""
    (tmp_path / "bad.jsonl").write_text(
        '{"subject": "b"}\n{"subject": "run.x"}\n{"subject": "c"}\n'
    )
    done = headrace("emit", empty, "--from", "bad.jsonl")

    assert (done.code, done.out) == (1, "3\n")
    assert done.last_error.startswith("bad.jsonl:2: expected an event that can be stored, found")
    assert "the lines before it are stored" in done.last_error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plant.log", "run.x"], 2, "reserved"),
        (["plant.log", "a..b"], 2, "expected a token"),
        (["plant.log", "a", "{open"], 2, "expected JSON"),
        (["plant.log", "a", "open"], 2, "quotes of its own"),
        (["plant.log", "a", "--time", "soon"], 2, "--time 'soon': expected a time"),
        (["plant.log", "a", "--key", "x" * 700], 2, "at most 600 characters"),
        (["plant.log"], 2, "expected a SUBJECT"),
        (["plant.log", "a", "--from", "x"], 2, "give one of them"),
        (["plant.log", "--from", "x", "--id", "e"], 2, "in the lines"),
        (["plant.log", "--from", "nothing.jsonl"], 4, "found nothing there"),
        (["nothing.log", "a"], 4, "expected an event log, found nothing there"),
    ],
    ids=repr,
)
def test_what_is_no_event_is_refused(
    headrace: Call, empty: Path, arguments: list[str], code: int, said: str
) -> None:
    """One line says why, and the log is as it was."""
    before = len(records(empty))
    done = headrace("emit", *arguments)

    assert done.code == code
    assert said in done.last_error
    assert len(records(empty)) == before


@pytest.mark.slow
def test_a_run_is_cancelled_by_the_next_start(headrace: Call, start: Start, empty: Path) -> None:
    """What was under way when the engine died need not go on."""
    process = start("run", "app.py", "--log", "plant.log")
    await_engine(empty)
    assert headrace("emit", empty, "long").code == 0
    process.kill()
    process.communicate(timeout=WAIT_S)
    (run,) = headrace("runs", "list", empty, "--status", "active", "-o", "json").json
    done = headrace("runs", "cancel", empty, run["run"], "--reason", "never mind")
    assert (done.code, "no engine runs" in done.err) == (0, True)

    run_once(headrace, "")
    (ended,) = headrace("runs", "list", empty, "--status", "cancelled", "-o", "json").json
    assert (ended["run"], ended["error"]) == (run["run"], "never mind")
    done = headrace("runs", "cancel", empty, run["run"])
    said = f"run {run['run']} is not open: it has ended, or never was"
    assert (done.code, done.last_error) == (4, said)


@pytest.mark.slow
def test_a_lock_without_an_engine_that_answers(
    headrace: Call, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 5 says to a script: somebody is there and cannot be asked."""
    monkeypatch.setattr(door, "PATIENCE_S", 0.1)
    holder = FileLog(empty)
    holder.open(lambda: None)
    try:
        for arguments in (["emit", empty, "a"], ["runs", "cancel", empty, 1]):
            done = headrace(*arguments)
            assert done.code == 5
            assert "held by pid" in done.last_error
            assert "an engine has to answer" in done.last_error
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(empty / NAME))
        assert headrace("emit", empty, "a").code == 5
    finally:
        holder.close()
    assert headrace("emit", empty, "a").code == 0


# ---------------------------------------------------------------- beside an engine


@pytest.mark.slow
def test_a_running_engine_stores_at_once(
    headrace: Call, start: Start, empty: Path, tmp_path: Path
) -> None:
    """From another terminal: emit, see it react, cancel its run."""
    process = start("run", "app.py", "--log", "plant.log", "--grace", "0")
    await_engine(empty)
    done = headrace("emit", empty, "a.x", "1", "-o", "json")
    assert (done.code, done.json["state"], done.err) == (0, "stored", "")
    (tmp_path / "many.jsonl").write_text('{"subject": "long"}\n{"subject": "b"}\n')
    done = headrace("emit", empty, "--from", "many.jsonl", "-o", "jsonl")
    assert [row["state"] for row in done.jsonl] == ["stored", "stored"]
    (run,) = headrace("runs", "list", empty, "--status", "active", "-o", "json").json

    done = headrace("runs", "cancel", empty, run["run"], "--reason", "not needed", "-o", "json")
    assert (done.code, done.json["state"]) == (0, "stored")
    assert isinstance(records(empty)[done.json["sequence"] - 1], CancelRequested)
    for arguments, code in (
        (["runs", "cancel", empty, 1], 4),
        (["runs", "cancel", empty, 1, "--reason", "\udcff"], 1),
    ):
        assert headrace(*arguments).code == code
    process.terminate()
    process.communicate(timeout=WAIT_S)
    (ended,) = headrace("runs", "list", empty, "--status", "cancelled", "-o", "json").json
    assert ended["error"] == "not needed"


@pytest.mark.slow
def test_emitting_over_the_death_of_the_engine(headrace: Call, start: Start, empty: Path) -> None:
    """Engines come and are killed, a script goes on emitting: each event is stored once."""
    printed, sent = list[int](), 0
    for life in range(4):
        process = start("run", "app.py", "--log", "plant.log", "--grace", "0")
        await_engine(empty)
        for _ in range(5):
            done = headrace("emit", empty, "a.x", str(sent), "--id", str(sent), "--source", "s")
            assert done.code == 0, done.err
            printed.append(int(done.out))
            sent += 1
        process.kill()
        process.communicate(timeout=WAIT_S)
        assert (empty / NAME).exists()  # nobody was left to remove it
        for _ in range(3):
            done = headrace("emit", empty, "a.x", str(sent), "--id", str(sent), "--source", "s")
            assert (done.code, "no engine runs" in done.err) == (0, True), life
            printed.append(int(done.out))
            sent += 1
    assert run_once(headrace, "")[-1] == ("a.x", sent - 1)

    stored = [x for x in records(empty) if isinstance(x, EventStored)]
    assert [msgspec.msgpack.decode(event.data) for event in stored] == list(range(sent))
    assert len(set(printed)) == sent
    fired = headrace("log", "cat", empty, "--kind", "rule.fired", "-o", "jsonl").jsonl
    assert len(fired) == sent
    assert headrace("log", "verify", empty).code == 0


def test_standard_input_is_read_by_the_command_itself(
    headrace: Call, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The import takes a pipe too."""
    lines = io.BytesIO(b'{"subject": "b", "data": 7}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    done = headrace("log", "import", "-", empty, "-o", "json")
    assert (done.code, done.json["imported"]) == (0, 1)
    assert run_once(headrace, "") == [("b", 7)]
