"""What every `EventLog` keeps: each implementation runs each of these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.simulation.session import Session, contents, record, records

from headrace.engine.errors import EventRefused, LogClosed, LogLocked, SnapshotUnusable
from headrace.engine.log import EventLog, FileLog, MemoryLog
from headrace.engine.log.copying import copy
from headrace.engine.log.fork import fork
from headrace.engine.log.frame import RECORD_BYTES_MAX

Make = Callable[[], EventLog]


@pytest.fixture(params=["memory", "fsynced", "flushed", "unsynced", "small", "forked", "copied"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Give a function that returns the log, anew after each restart."""
    path = tmp_path / "log"
    memory = MemoryLog()
    kinds: dict[str, Make] = {
        "memory": lambda: memory,
        "fsynced": lambda: FileLog(path),
        "flushed": lambda: FileLog(path, durability="flushed"),
        "unsynced": lambda: FileLog(path, durability="memory"),
        "small": lambda: FileLog(path, segment_bytes_max=300),
        "forked": lambda: FileLog(path, segment_bytes_max=300),
        "copied": lambda: FileLog(path),
    }
    if request.param in ("forked", "copied"):
        Session(FileLog(tmp_path / "origin")).log.close()
        if request.param == "forked":
            fork(tmp_path / "origin", None, path)
        else:
            copy(tmp_path / "origin", path)
    made: list[EventLog] = []

    def make_one() -> EventLog:
        made.append(kinds[str(request.param)]())
        return made[-1]

    yield make_one
    for log in made:
        log.close()


def test_new_log_is_empty(make: Make) -> None:
    """Sequences begin at 1, and nothing is committed before anything was appended."""
    session = Session(make())
    log = session.log
    assert (log.next_sequence, log.committed_sequence, log.durable_sequence) == (1, 0, 0)
    assert (log.pending_bytes, log.failure, contents(log)) == (0, None, [])
    assert len(log.log_id) == 16


def test_records_come_back_in_order(make: Make) -> None:
    """What was committed is read as it was appended, with sequences without gaps."""
    session = Session(make())
    for first in range(1, 100, 3):
        assert session.put(records(first, first), records(first + 1, first + 2)) == first + 2
    assert contents(session.log) == records(1, 99)


@pytest.mark.parametrize("after", [0, 1, 5, 6, 7, 19, 20, 25])
def test_read_begins_exactly_after(make: Make, after: int) -> None:
    """Reading after a sequence begins with the next one, also in the middle of a group."""
    session = Session(make())
    for first in (1, 7, 14):
        session.put(records(first, {1: 6, 7: 13, 14: 20}[first]))
    assert contents(session.log, after) == records(after + 1, 20)


def test_uncommitted_records_are_not_read(make: Make) -> None:
    """What was appended and not committed is seen by nobody, and has its sequence already."""
    session = Session(make())
    session.put(records(1, 2))
    session.log.append(records(3, 4))
    log = session.log
    assert (log.next_sequence, log.committed_sequence) == (5, 2)
    assert log.pending_bytes >= sum(map(len, records(3, 4)))
    assert contents(log) == records(1, 2)
    assert log.fetch([2, 3]) == {2: record(2)}


def test_pending_bytes_go_down_to_zero(make: Make) -> None:
    """Back-pressure ends once everything is written."""
    session = Session(make())
    session.put(records(1, 50))
    session.log.close()
    assert session.log.pending_bytes == 0


def test_fetch_finds_any_of_them(make: Make) -> None:
    """Records are found by sequence in any order; those that do not exist are left out."""
    session = Session(make())
    for first in range(1, 200, 4):
        session.put(records(first, first + 3))
    wanted = [200, 1, 77, 78, 79, 150, 3, 201, 0]
    assert session.log.fetch(wanted) == {s: record(s) for s in wanted if 1 <= s <= 200}
    assert session.log.fetch([]) == {}


def test_close_writes_what_was_appended(make: Make) -> None:
    """A clean end loses nothing, also if `commit` was not called; closing again is harmless."""
    log = make()
    session = Session(log)
    session.put(records(1, 3))
    log.append(records(4, 5))
    log.close()
    log.close()
    again = Session(make())
    assert again.log.next_sequence == 6
    assert contents(again.log) == records(1, 5)


def test_reopened_log_goes_on(make: Make) -> None:
    """A restart keeps the log's id and the sequences."""
    log_id = b""
    for start in range(5):
        session = Session(make())
        assert not log_id or session.log.log_id == log_id
        log_id = session.log.log_id
        assert session.log.committed_sequence == start * 10
        session.put(records(start * 10 + 1, start * 10 + 10))
        session.log.close()
    session = Session(make())
    assert contents(session.log) == records(1, 50)


def test_closed_log_refuses(make: Make) -> None:
    """Before it is opened and after it is closed a log takes nothing."""
    log = make()
    for _ in range(2):
        with pytest.raises(LogClosed, match="open it first"):
            log.append([record(1)])
        with pytest.raises(LogClosed, match="open it first"):
            log.commit()
        log.open(lambda: None)
        log.close()


def test_second_writer_is_refused(make: Make) -> None:
    """While a log is open nobody else can open it; afterwards they can."""
    first = make()
    first.open(lambda: None)
    second = make()
    with pytest.raises(LogLocked, match="found"):
        second.open(lambda: None)
    first.append([record(1)])
    first.close()
    second.open(lambda: None)
    assert contents(second) == [record(1)]


def test_record_that_is_too_long_is_refused(make: Make) -> None:
    """A record over the limit is refused with its unit; one at the limit is stored."""
    session = Session(make())
    longest = record(1, size_bytes=RECORD_BYTES_MAX - len(record(1, size_bytes=70_000)) + 70_000)
    assert len(longest) == RECORD_BYTES_MAX
    with pytest.raises(EventRefused, match="at most 1048576 bytes"):
        session.log.append([record(1), longest + b"\0"])
    assert session.log.next_sequence == 1
    session.put([longest])
    assert contents(session.log) == [longest]


def test_empty_unit_is_an_error(make: Make) -> None:
    """A unit without records is a mistake of the caller."""
    session = Session(make())
    with pytest.raises(ValueError, match="at least one record"):
        session.log.append([])


@pytest.mark.slow
def test_units_larger_than_a_frame(make: Make) -> None:
    """A unit of more records, and of more bytes, than a frame can hold is stored whole."""
    session = Session(make())
    many = records(1, 70_000)
    large = [record(n, size_bytes=1_000_000) for n in range(70_001, 70_020)]
    session.put(many[:3], many[3:])
    session.put(large, [record(70_020)])
    session.log.close()
    session = Session(make())
    assert contents(session.log) == [*many, *large, record(70_020)]
    assert session.log.fetch([65_537, 70_019]) == {65_537: many[65_536], 70_019: large[-1]}


def test_commit_without_records_is_harmless(make: Make) -> None:
    """Committing nothing changes nothing."""
    session = Session(make())
    session.log.commit()
    session.put(records(1, 1))
    session.log.commit()
    assert contents(session.log) == records(1, 1)


@pytest.mark.slow
def test_read_while_groups_are_written(make: Make) -> None:
    """Each read sees a whole prefix, whatever the writer is doing at that moment."""
    session = Session(make())
    log = session.log
    for first in range(1, 400, 2):
        log.append(records(first, first + 1))
        log.commit()
        committed = log.committed_sequence
        found = contents(log)
        assert len(found) >= committed
        assert found == records(1, len(found))
        wanted = {1, committed} if committed else set[int]()
        assert log.fetch(wanted) == {s: record(s) for s in wanted}
    session.wait(400)
    assert contents(log) == records(1, 400)


def test_sync_returns_once_records_survive(make: Make) -> None:
    """Whoever builds on a record, such as a snapshot, can wait for more than its commit."""
    session = Session(make())
    log = session.log
    for first in range(1, 60, 3):
        log.append(records(first, first + 2))
        log.commit()
        log.sync(first + 2)
        if isinstance(log, FileLog):
            assert log.durable_sequence >= first + 2
        assert contents(log) == records(1, first + 2)
    log.close()
    with pytest.raises(LogClosed, match="open it first"):
        log.sync(60)


def test_snapshots_are_kept_for_their_log(make: Make) -> None:
    """Two that are of use, each only for the record that it was made with, also when reopened."""
    session = Session(make())
    session.put(*([record(number)] for number in range(1, 41)))
    for sequence in (10, 20, 30):
        file = session.log.snapshots.begin(sequence)
        file.write([b"part one of %d" % sequence, b"two"])
        file.write([b"three"])
        file.finish(oldest_sequence=sequence - 5, record=record(sequence))
        session.log.snapshots.prune()
    given_up = session.log.snapshots.begin(40)
    given_up.write([b"half"])
    given_up.abort()
    session.log.close()

    log = Session(make()).log
    snapshots = log.snapshots
    assert snapshots.sequences() == [30, 20]
    assert snapshots.needs() == {30: 25, 20: 15}
    stored = log.fetch([30])[30]
    assert list(snapshots.read(30, stored)) == [b"part one of 30", b"two", b"three"]
    for other in (record(31), None):
        with pytest.raises(SnapshotUnusable):
            list(snapshots.read(30, other))
    snapshots.discard(30)
    file = snapshots.begin(35)
    file.finish(oldest_sequence=36, record=record(35))
    snapshots.prune()
    assert snapshots.sequences() == [35, 20]
    assert snapshots.needs() == {35: 35, 20: 15}
