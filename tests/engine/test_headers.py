from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from tests.engine.stand import HANG_S, of_kind

from headrace import App, Emission, Event, EventRefused, Firing, MemoryLog, Run, on
from headrace.engine.control_client import ControlClient
from headrace.engine.control_wire import NAME
from headrace.engine.emission import checked
from headrace.engine.headers import BYTES_MAX, COUNT_MAX
from headrace.engine.log import FileLog, LogReader
from headrace.engine.offline import OfflineLog
from headrace.engine.payload import PAYLOAD_BYTES_MAX
from headrace.engine.record import EventStored, decode

HEADERS = {"traceparent": "00-1-2-01", "tenant": "mill"}


def hearing() -> tuple[App, list[Event[Any]]]:
    """An app that notes the events of ``a.>``, and what its condition has seen of them."""
    app, heard = App("t"), list[Event[Any]]()

    @app.rule(on("a.>").where(lambda e: e.headers is None or e.headers["tenant"] == "mill"))
    async def note(run: Run, firing: Firing[Any]) -> None:
        heard.extend(firing.events)

    return app, heard


async def test_headers_go_with_an_event() -> None:
    """Conditions and runs see what was given, and an event without has none."""
    app, heard = hearing()
    async with app.open(MemoryLog()) as engine:
        await engine.emit("a.1", 1, headers=HEADERS)
        await engine.emit("a.2", 2, id="i", headers={})
        await engine.emit_many([Emission("a.3", 3, headers={"tenant": "other"}), ("a.4", 4)])
        await engine.drain()

    assert [(e.subject, e.headers) for e in heard] == [
        ("a.1", HEADERS),
        ("a.2", None),
        ("a.4", None),
    ]


async def test_runs_give_headers_to_what_they_emit() -> None:
    """As a program does; what cannot be stored fails the attempt, and is not stored."""
    app, heard = hearing()

    @app.rule(on("go"), name="go")
    async def go(run: Run) -> None:
        await run.emit("a.1", 1, headers=HEADERS)
        await run.emit("a.2", 2)
        with pytest.raises(EventRefused, match="printable ASCII"):
            await run.emit("a.3", 3, headers={"a": "é"})

    log = MemoryLog()
    async with app.open(log) as engine:
        await engine.emit("go")
        await engine.drain()
        assert [run.status for run in engine.runs()] == ["completed"] * 3

    assert sorted((e.subject, e.headers) for e in heard) == [("a.1", HEADERS), ("a.2", None)]


async def test_headers_are_taken_as_they_were_given() -> None:
    """What the caller does with its dict afterwards is not in the log."""
    given = dict(HEADERS)
    _, _, full = checked(Emission("a.1", headers=given))
    given["tenant"] = "another"

    assert full is not None
    assert full.headers == HEADERS


async def test_headers_are_there_after_a_restart(tmp_path: Path) -> None:
    """They are in the log: a run that goes on after a restart gets its event with them."""
    app, heard = hearing()
    log = tmp_path / "log"
    with OfflineLog(FileLog(log)) as offline:
        offline.offer([Emission("a.1", 1, headers=HEADERS), Emission("a.2")])
    async with app.open(log) as engine:
        await engine.drain()

    assert [(e.subject, e.headers) for e in heard] == [("a.1", HEADERS), ("a.2", None)]


async def test_headers_come_through_the_control_socket(tmp_path: Path) -> None:
    """What another process emits has headers as what is emitted here."""
    app, heard = hearing()
    log = tmp_path / "log"

    def ask() -> None:
        with ControlClient(log) as client:
            client.emit_many([Emission("a.1", 1, headers=HEADERS)])

    async with app.open(log) as engine:
        with anyio.fail_after(HANG_S):
            while not (log / NAME).exists():
                await checkpoint()
        await to_thread.run_sync(ask)
        await engine.drain()

    assert [event.headers for event in heard] == [HEADERS]


async def test_headers_of_the_past_are_folded_in(tmp_path: Path) -> None:
    """A backfill keeps them, from events and from an older log."""
    app, _ = hearing()
    app.backfill(tmp_path / "one", [Emission("a.1", 1, time=5.0, headers=HEADERS)], name="past")
    app.backfill(tmp_path / "two", tmp_path / "one")
    with LogReader(tmp_path / "two") as reader:
        found = [decode(raw) for _, batch in reader.read() for raw in batch]

    assert [e.headers for e in found if isinstance(e, EventStored)] == [HEADERS]


@pytest.mark.parametrize(
    ("headers", "kind", "says"),
    [
        (
            ["a"],
            TypeError,
            r"event 'a.1', headers: expected a mapping of text to text, found \['a'",
        ),
        ({"a": 1}, TypeError, "expected text for names and values, found 'a': 1"),
        ({"": "x"}, EventRefused, "expected printable ASCII, found '': 'x'; encode it"),
        ({"a": "x\ny"}, EventRefused, "expected printable ASCII, found 'a':"),
        ({"a": "é"}, EventRefused, "expected printable ASCII, found 'a':"),
        ({"a": "\udc80"}, EventRefused, "expected printable ASCII, found 'a':"),
        (
            {str(n): "" for n in range(COUNT_MAX + 1)},
            EventRefused,
            "expected at most 64, found 65",
        ),
        ({"a": "x" * BYTES_MAX}, EventRefused, "expected at most 16384 characters"),
    ],
)
async def test_headers_that_cannot_be_stored_are_refused(
    headers: Any, kind: type[Exception], says: str
) -> None:
    """Before anything is stored, with what was expected and found."""
    log = MemoryLog()
    async with App("t").open(log) as engine:
        with pytest.raises(kind, match=says):
            await engine.emit_many([("a.0", 0), Emission("a.1", 1, headers=headers)])

    assert of_kind(log, EventStored) == []


async def test_headers_and_data_fit_a_record_together() -> None:
    """The largest data and the largest headers are each refused in time only together."""
    data = "x" * (PAYLOAD_BYTES_MAX - 10)
    async with App("t").open(MemoryLog()) as engine:
        await engine.emit("a.1", data, headers={"a": "bcd"})
        with pytest.raises(EventRefused, match=r"1044480 bytes with the data, found 6 and 10444"):
            await engine.emit("a.1", data, headers={"a": "bcdef"})
        widest = {str(n).zfill(3): "y" * 253 for n in range(COUNT_MAX)}
        await engine.emit("a.2", "x" * (PAYLOAD_BYTES_MAX - BYTES_MAX - 5), headers=widest)
