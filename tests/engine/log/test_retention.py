"""What retention removes, what it leaves, and what keeps it from removing."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.simulation.session import Session, contents, record, records

from headrace.engine.clock import NS, VirtualClock
from headrace.engine.errors import LogClosed, LogLocked, LogUnusable, SegmentGone
from headrace.engine.log import FileLog, LogReader, segment
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.retention import Extent, Need, Policy, removable
from headrace.engine.log.salvage import salvage
from headrace.engine.log.snapshots import FileSnapshots
from headrace.engine.log.verify import verify

SEGMENT_BYTES = 500
GROUPS = 20


def log_at(path: Path, *, keep_bytes: int | None = 0, keep_s: float | None = None) -> FileLog:
    return FileLog(
        path,
        segment_bytes_max=SEGMENT_BYTES,
        keep_bytes=keep_bytes,
        keep_s=keep_s,
        reserve_bytes=0,
    )


def fill(session: Session, groups: int = GROUPS) -> int:
    """Put groups of five records and return the last sequence."""
    for _ in range(groups):
        first = session.log.next_sequence
        session.put(records(first, first + 4))
    return session.log.next_sequence - 1


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    """A log of several segments whose policy keeps nothing."""
    made = Session(log_at(tmp_path / "log"))
    fill(made)
    yield made
    made.log.close()


def log_of(session: Session) -> FileLog:
    assert isinstance(session.log, FileLog)
    return session.log


def bases(path: Path) -> list[int]:
    """Return the segments that there are, as files."""
    return sorted(filter(None, map(segment.base_of, os.listdir(path))))  # noqa: PTH208


def test_whole_segments_below_the_limit_go(session: Session, tmp_path: Path) -> None:
    """The oldest segments go as files, the rest is read as before, and an engine goes on."""
    before = bases(tmp_path / "log")
    assert len(before) > 4
    done = log_of(session).retain(before[3] + 1)

    assert (done.first_sequence, done.segments, done.records) == (before[3], 3, before[3] - 1)
    assert bases(tmp_path / "log") == before[3:]
    assert done.kept_by == (Need(before[3] + 1, "what the engine refers to"),)
    assert [r for _, batch in session.log.read() for r in batch] == records(before[3], 100)
    assert next(session.log.read())[0] == before[3]
    session.put(records(101, 103))
    assert contents(session.log, 100) == records(101, 103)
    session.log.close()
    again = Session(log_at(tmp_path / "log"))
    assert contents(again.log, before[3] - 1) == records(before[3], 103)
    again.log.close()


def test_records_that_are_gone(session: Session, tmp_path: Path) -> None:
    """They are left out of a fetch, and asking for what comes after one is an error."""
    first = log_of(session).retain(60).first_sequence
    assert 1 < first <= 60
    with LogReader(tmp_path / "log") as reader:
        for log in (session.log, reader):
            assert log.fetch([1, first - 1, first, 100]) == {
                first: record(first),
                100: record(100),
            }
            with pytest.raises(SegmentGone, match=r"expected record 2, found that retention has"):
                list(log.read(after=1))
            assert next(iter(log.read(after=first - 1)))[0] == first
        assert reader.first_sequence == first
        assert reader.sequence_at(0) == first


def test_nothing_goes_without_a_policy(tmp_path: Path) -> None:
    """A log keeps everything unless somebody said how much."""
    session = Session(log_at(tmp_path / "log", keep_bytes=None))
    fill(session)
    assert log_of(session).retain(1000).segments == 0
    assert contents(session.log) == records(1, 100)
    session.log.close()


def test_segment_that_is_being_written_stays(session: Session, tmp_path: Path) -> None:
    """However far the limit is, the last segment and its records are there."""
    done = log_of(session).retain(10_000)
    assert bases(tmp_path / "log") == [done.first_sequence]
    assert done.kept_by == ()
    assert fill(session) == 200


def test_keep_bytes(tmp_path: Path) -> None:
    """The newest segments that have so many bytes together stay, and no more than needed."""
    session = Session(log_at(tmp_path / "log", keep_bytes=3 * SEGMENT_BYTES))
    fill(session)
    log_of(session).retain(1000)
    left = {
        base: (tmp_path / "log" / segment.name_of(base)).stat().st_size
        for base in bases(tmp_path / "log")
    }
    assert sum(left.values()) >= 3 * SEGMENT_BYTES
    assert sum(left.values()) - left[min(left)] < 3 * SEGMENT_BYTES
    session.log.close()


def test_keep_s_counts_in_log_time(tmp_path: Path) -> None:
    """What is older than so many seconds before the newest record goes: not by the wall clock."""
    session = Session(log_at(tmp_path / "log", keep_bytes=None, keep_s=35.0))
    for number in range(1, 101):
        session.put([record(number, at_ns=number * NS)])
    first = log_of(session).retain(1000).first_sequence
    assert 1 < first <= 65
    with LogReader(tmp_path / "log") as reader:
        oldest = reader.manifest.segments[0]
    assert oldest.last_at_ns >= 65 * NS
    session.log.close()


def test_segment_without_times_is_as_old_as_the_next_one() -> None:
    """A segment of decisions only goes neither before its time nor never."""
    log_id = bytes(16)
    entries = [
        Segment(1, log_id, sealed=True, next_sequence=11, first_at_ns=1 * NS, last_at_ns=2 * NS),
        Segment(11, log_id, sealed=True, next_sequence=21),
        Segment(21, log_id, sealed=True, next_sequence=31, first_at_ns=3 * NS, last_at_ns=4 * NS),
        Segment(31, log_id),
    ]
    listed = Manifest(1, log_id, 0, 1, entries)

    def removed(newest_s: int) -> int:
        extent = Extent(31, 0, newest_s * NS)
        return len(removable(listed, Policy(keep_s=5.0), [Need(100, "")], extent))

    assert [removed(newest_s) for newest_s in (7, 8, 9, 10)] == [0, 1, 2, 3]


def test_limits_must_not_be_negative(tmp_path: Path) -> None:
    """A wrong policy is refused when the log is named, not when it loses something."""
    with pytest.raises(ValueError, match="keep_bytes must be at least 0 and finite, not -1"):
        log_at(tmp_path / "log", keep_bytes=-1)
    for wrong in (float("nan"), float("inf")):
        expected = f"must be at least 0 and finite, not {wrong}"
        with pytest.raises(ValueError, match=f"keep_s {expected}"):
            FileLog(tmp_path / "log", keep_s=wrong)
        with pytest.raises(ValueError, match=f"segment_age_max_s {expected}"):
            FileLog(tmp_path / "log", segment_age_max_s=wrong)
        with pytest.raises(ValueError, match=f"sync_interval_s {expected}"):
            FileLog(tmp_path / "log", sync_interval_s=wrong)


def test_hold_keeps_until_it_is_released(session: Session, tmp_path: Path) -> None:
    """A legal hold survives restarts, is named where it keeps something, and can be ended."""
    held_at = bases(tmp_path / "log")[2]
    log_of(session).hold("audit 2026", held_at)
    done = log_of(session).retain(1000)
    assert done.first_sequence == held_at
    assert done.kept_by == (Need(held_at, "hold 'audit 2026'"),)
    session.log.close()
    again = Session(log_at(tmp_path / "log"))
    assert log_of(again).retain(1000).segments == 0
    assert log_of(again).release("audit 2026")
    assert not log_of(again).release("audit 2026")
    assert log_of(again).retain(1000).segments > 0
    again.log.close()


def test_hold_of_what_is_gone_is_refused(session: Session, tmp_path: Path) -> None:
    """Nobody believes to have kept what is not there any more."""
    first = log_of(session).retain(50).first_sequence
    with pytest.raises(SegmentGone, match=f"everything before record {first}; go on after"):
        log_of(session).hold("late", first - 1)
    with LogReader(tmp_path / "log") as reader:
        assert reader.manifest.holds == {}
    with pytest.raises(ValueError, match="printable and not empty"):
        log_of(session).hold("", 60)
    with pytest.raises(ValueError, match="from 1 to 18446744073709551615, not at 0"):
        log_of(session).hold("x", 0)


def test_closed_log(session: Session, tmp_path: Path) -> None:
    """A log that no engine holds is shortened without being opened: no byte of it is written."""
    session.log.close()
    log = log_at(tmp_path / "log")
    last = tmp_path / "log" / segment.name_of(bases(tmp_path / "log")[-1])
    before = last.read_bytes()
    log.hold("audit", 30)
    assert log.retain(1000).first_sequence <= 30
    assert log.release("audit")
    log.retain(1000)

    assert last.read_bytes() == before
    report = verify(tmp_path / "log")
    assert report.ok
    assert report.first_sequence == bases(tmp_path / "log")[0] > 30
    assert report.last_sequence == 100


def test_log_that_somebody_else_writes(session: Session, tmp_path: Path) -> None:
    """Only its writer may change what a log lists."""
    with pytest.raises(LogLocked, match="found the log held by pid"):
        log_at(tmp_path / "log").retain(1000)
    with pytest.raises(LogUnusable, match="expected an event log, found none"):
        log_at(tmp_path / "nothing").retain(1000)
    assert not (tmp_path / "nothing").exists()
    assert contents(session.log) == records(1, 100)


def test_forked_child_removes_nothing(session: Session) -> None:
    """The log belongs to the process that opened it."""
    if (pid := os.fork()) == 0:
        try:
            log_of(session).retain(1000)
        except LogClosed:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0


def test_snapshot_keeps_what_comes_after_it(session: Session, tmp_path: Path) -> None:
    """Every snapshot that is there, and whole, can still be started from."""
    snapshots = FileSnapshots(SystemFiles(), str(tmp_path / "log"))
    for sequence, oldest in ((45, 41), (80, 62)):
        snapshot = snapshots.begin(sequence)
        snapshot.finish(oldest_sequence=oldest, record=record(sequence))
    (tmp_path / "log" / f"snap-{1:020d}.hrs").write_bytes(b"damaged")
    done = log_of(session).retain(1000)
    assert done.kept_by[0] == Need(41, "snapshot at 45")
    assert 1 < done.first_sequence <= 41
    assert contents(session.log, 40) == records(41, 100)


def test_files_of_a_removal_that_was_cut_short(session: Session, tmp_path: Path) -> None:
    """A segment and an index that no list names any more go at the next start."""
    folder = tmp_path / "log"
    old = {base: (folder / segment.name_of(base)).read_bytes() for base in bases(folder)[:3]}
    first = log_of(session).retain(1000).first_sequence
    session.log.close()
    for base, data in old.items():
        (folder / segment.name_of(base)).write_bytes(data)
        (folder / f"{base:020d}.idx").write_bytes(b"x")
    assert verify(folder).ok
    again = Session(log_at(folder))
    assert bases(folder) == [first]
    assert not list(folder.glob("*.idx"))
    again.log.close()


def test_index_goes_with_its_segment(session: Session, tmp_path: Path) -> None:
    """Nothing of a removed segment is left."""
    folder = tmp_path / "log"
    for base in bases(folder)[:-1]:
        (folder / f"{base:020d}.idx").write_bytes(b"x")
    log_of(session).retain(bases(folder)[2])
    assert sorted(int(path.stem) for path in folder.glob("*.idx")) == bases(folder)[:-1]


@pytest.mark.slow
def test_removal_beside_a_writer(tmp_path: Path) -> None:
    """Removing in one thread and writing in another disturb neither, and lose nothing."""
    session = Session(log_at(tmp_path / "log"))
    removed = 0
    failures: list[BaseException] = []
    ended = threading.Event()

    def keep_removing() -> None:
        nonlocal removed
        try:
            while not ended.is_set():
                removed += log_of(session).retain(session.log.committed_sequence).segments
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=keep_removing)
    thread.start()
    last = fill(session, 200)
    ended.set()
    thread.join()
    assert failures == []
    removed += log_of(session).retain(1 << 60).segments
    first = bases(tmp_path / "log")[0]
    assert removed > 50
    assert contents(session.log, first - 1) == records(first, last)
    session.log.close()
    assert verify(tmp_path / "log").ok


def test_salvage_of_a_log_that_was_shortened(session: Session, tmp_path: Path) -> None:
    """What was removed on purpose is not missing, and sequences stay as they are."""
    first = log_of(session).retain(50).first_sequence
    session.log.close()
    found = salvage(tmp_path / "log", tmp_path / "new")
    assert found.complete
    assert (found.records, found.first_sequence) == (101 - first, first)
    report = verify(tmp_path / "new")
    assert (report.ok, report.last_sequence) == (True, 100)
    with LogReader(tmp_path / "new") as reader:
        assert [r for _, batch in reader.read() for r in batch] == records(first, 100)


def test_segment_of_an_hour_ends(tmp_path: Path) -> None:
    """A quiet log gets segments that can be removed, too: by their age, at the next write."""
    clock = VirtualClock()
    log = FileLog(tmp_path / "log", clock=clock, segment_age_max_s=3600.0)
    session = Session(log)
    session.put(records(1, 2))
    clock.step_wall(3599.0)
    session.put(records(3, 4))
    assert bases(tmp_path / "log") == [1]
    clock.step_wall(1.0)
    assert bases(tmp_path / "log") == [1]
    session.put(records(5, 6))
    assert bases(tmp_path / "log") == [1, 5]
    clock.step_wall(-7200.0)
    session.put(records(7, 8))
    assert bases(tmp_path / "log") == [1, 5]
    session.log.close()
    clock.step_wall(100_000.0)
    again = Session(FileLog(tmp_path / "log", clock=clock))
    assert bases(tmp_path / "log") == [1, 5]
    again.put(records(9, 9))
    assert bases(tmp_path / "log") == [1, 5, 9]
    assert contents(again.log) == records(1, 9)
    again.log.close()
    assert verify(tmp_path / "log").ok


class FailingFiles(SystemFiles):
    """A disk on which no file can be removed."""

    def unlink(self, path: str) -> None:
        if path.endswith(segment.SUFFIX):
            raise PermissionError(13, "Permission denied", path)
        super().unlink(path)


def test_segment_that_cannot_be_deleted(tmp_path: Path) -> None:
    """It is gone from the log all the same, and goes from the disk as soon as that lets it."""
    session = Session(
        FileLog(
            tmp_path / "log", segment_bytes_max=SEGMENT_BYTES, keep_bytes=0, files=FailingFiles()
        )
    )
    fill(session)
    first = log_of(session).retain(1000).first_sequence
    assert bases(tmp_path / "log")[0] == 1
    assert next(session.log.read())[0] == first
    session.log.close()
    again = Session(log_at(tmp_path / "log"))
    assert bases(tmp_path / "log") == [first]
    again.log.close()


def test_error_names_the_log_and_what_is_gone() -> None:
    """Whoever meets it knows where to go on, and that there is something between."""
    error = SegmentGone("/var/plant.log", wanted=5, first_sequence=100)
    assert (error.path, error.wanted, error.first_sequence) == ("/var/plant.log", 5, 100)
    assert re.match(r"/var/plant\.log: expected record 5, found .*; go on after 99,", str(error))
