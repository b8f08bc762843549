"""Backwards through a log: from states in memory, which are few, and never from its beginning."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace import App, FileLog, on
from headrace.engine.inspect import stepper
from headrace.engine.inspect.stepper import Stepper
from headrace.engine.log import LogReader
from headrace.engine.payload import encode_event
from headrace.engine.record import EngineStarted, EventStored, Record, decode, encode

NS = 1_000_000_000
EVENTS = 1500

app = App("steps")


@app.rule(on("a").key(lambda e: e.data % 7).count(900, within=1000))
def many() -> None: ...


HOT = {"at": -1}
"""What no fingerprint shows: a rule that reads it decides otherwise, and is the same rule."""


@app.rule(on("a").where(lambda e: e.data == HOT["at"]))
def hot() -> None: ...


@pytest.fixture
def reader(tmp_path: Path) -> LogReader:
    """A log of many events without a snapshot, in which nothing fires."""
    log = FileLog(tmp_path / "long.log", durability="flushed")
    log.open(lambda: None)
    log.append([encode(EngineStarted(0, "", "input", app.decider().fingerprints()))])
    for number in range(EVENTS):
        log.append([encode(EventStored(number * NS, "a", encode_event(number, "a")))])
    log.commit()
    log.close()
    return LogReader(tmp_path / "long.log")


class Read:
    """Decodes records, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, sequence: int, raw: bytes) -> Record:
        self.count += 1
        return decode(raw)


def test_backwards_costs_the_way_from_a_state_in_memory(reader: LogReader) -> None:
    """A step back from the end does not go through the whole log once more."""
    read = Read()
    walk = Stepper(reader, app.decider, read)
    walk.go_to(EVENTS)
    read.count = 0
    walk.go_to(EVENTS - 1)

    assert walk.sequence == EVENTS - 1
    assert read.count <= stepper.KEPT_EVERY


def test_the_state_is_the_same_whichever_way_it_was_come_to(reader: LogReader) -> None:
    """Forwards, backwards, and straight there."""
    walk = Stepper(reader, app.decider, Read())
    for place in (1200, 40, 900, 899, 1, 0, 1499):
        walk.go_to(place)
        straight = Stepper(reader, app.decider, Read(), at=place)

        assert walk.sequence == straight.sequence == place
        assert walk.kernel.dump() == straight.kernel.dump()


@pytest.mark.parametrize(("states", "size"), [(3, 1 << 30), (1 << 30, 100_000)])
def test_states_in_memory_are_bounded(
    reader: LogReader, monkeypatch: pytest.MonkeyPatch, states: int, size: int
) -> None:
    """In number and in bytes, however long the log is; the way back is longer then."""
    monkeypatch.setattr(stepper, "KEPT_EVERY", 10)
    monkeypatch.setattr(stepper, "KEPT_MAX", states)
    monkeypatch.setattr(stepper, "KEPT_BYTES_MAX", size)
    walk = Stepper(reader, app.decider, Read())
    for _ in range(EVENTS):
        walk.forward()
        assert len(walk._kept) <= states
        assert walk._size_bytes() <= size
    assert walk._kept
    walk.go_to(700)

    assert walk.kernel.dump() == Stepper(reader, app.decider, Read(), at=700).kernel.dump()


def test_backwards_where_a_rule_has_diverged(
    reader: LogReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From there on it has no state, and the states in memory lack it: older ones have to do."""
    monkeypatch.setitem(HOT, "at", 700)
    walk = Stepper(reader, app.decider, Read())
    walk.go_to(EVENTS)
    assert "hot" not in walk.kernel.state.active
    for place in (1400, 705, 600):
        walk.go_to(place)

        assert walk.sequence == place
        assert walk.kernel.dump() == Stepper(reader, app.decider, Read(), at=place).kernel.dump()
