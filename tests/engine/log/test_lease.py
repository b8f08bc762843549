"""Leases: what a reader still needs is kept, and what it lost is never passed over."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from pathlib import Path

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, contents, record, records

from headrace.engine.errors import SegmentGone
from headrace.engine.log import FileLog, LogReader, segment
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.lease import EVERYTHING, Held, Lease, is_lease, living
from headrace.engine.log.retention import Need
from headrace.engine.log.verify import verify

PATH = "/log"
COUNT = 100
PID = os.getpid()


class Rig:
    """A log on a disk in memory, several segments long, that gives up all that it may."""

    def __init__(self) -> None:
        self.disk = SimulatedDisk()
        self.log = FileLog(
            PATH, files=self.disk, segment_bytes_max=500, keep_bytes=0, reserve_bytes=0
        )
        self.session = Session(self.log)
        self.fill(20)

    def fill(self, groups: int) -> None:
        for _ in range(groups):
            first = self.log.next_sequence
            self.session.put(records(first, first + 4))

    def bases(self) -> list[int]:
        return sorted(filter(None, map(segment.base_of, self.disk.listdir(PATH))))

    def leases(self) -> list[str]:
        return [name for name in self.disk.listdir(PATH) if is_lease(name)]

    def reader(self, *, lease: bool = True) -> LogReader:
        return LogReader(PATH, lease=lease, files=self.disk)

    def retain(self) -> int:
        """Remove whatever may go; return where the log begins now."""
        return self.log.retain(1 << 60).first_sequence

    def when(self, operation: str, path: str, act: Callable[[], object], *, nth: int = 1) -> None:
        """Let *act* happen before the *nth* such operation on a path that ends so."""
        left = nth

        def before(name: str, at: str) -> None:
            nonlocal left
            if name == operation and at.endswith(path):
                left -= 1
                if left == 0:
                    self.disk.before = lambda _name, _path: None
                    act()

        self.disk.before = before


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A log of several segments."""
    made = Rig()
    yield made
    made.disk.before = lambda _name, _path: None
    made.log.close()


Batches = Generator[tuple[int, list[bytes]]]
Reading = Callable[[Rig, int], Batches]


def by_reader(rig: Rig, after: int) -> Batches:
    yield from rig.reader().read(after=after)


def by_follower(rig: Rig, after: int) -> Batches:
    yield from rig.reader().follow(after=after, wait=lambda: False)


def by_writer(rig: Rig, after: int) -> Batches:
    yield from rig.log.read(after=after)


@pytest.mark.parametrize("read", [by_reader, by_follower, by_writer])
def test_what_a_reader_has_not_read_is_kept(rig: Rig, read: Reading) -> None:
    """However often the log is shortened meanwhile, a reader sees every record once."""
    found: list[bytes] = []
    removed = 0
    for first, batch in read(rig, 0):
        assert first == len(found) + 1
        found += batch
        assert len(rig.leases()) == 1
        before = len(rig.bases())
        rig.retain()
        removed += before - len(rig.bases())

    assert found == records(1, COUNT)
    assert removed == len(Rig().bases()) - 1
    assert rig.leases() == []


def test_reader_that_waits_keeps_what_comes_next(rig: Rig) -> None:
    """A follower that is slow to ask again finds what was written meanwhile, all of it."""
    waits = 0

    def wait() -> bool:
        nonlocal waits
        waits += 1
        rig.fill(20)
        rig.retain()
        return waits < 5

    with rig.reader() as reader:
        batches = [batch for _, batch in reader.follow(wait=wait)]
    assert list(chain.from_iterable(batches)) == records(1, COUNT * 5)
    assert rig.retain() > COUNT * 5


def test_lease_says_what_is_needed(rig: Rig) -> None:
    """It moves on with its reader, segment by segment, and says whose it is."""
    reading = rig.reader().read()
    seen: list[int] = []
    for _ in reading:
        (held,) = living(rig.disk, PATH, rig.disk.listdir(PATH))
        assert held.pid == PID
        seen.append(held.sequence)
    assert sorted(set(seen)) == rig.bases()
    assert len(
        [call for call in rig.disk.calls if call.startswith("pwrite") and "lease" in call]
    ) == len(rig.bases())


def test_reading_that_is_given_up_keeps_nothing(rig: Rig) -> None:
    """A loop that was left early ends its lease with its iterator."""
    reading = by_reader(rig, 0)
    next(reading)
    assert rig.retain() == 1
    reading.close()
    assert rig.retain() == rig.bases()[0] > 1


def test_lease_of_a_dead_reader(rig: Rig) -> None:
    """What a killed reader leaves keeps nothing, and goes."""
    reading = by_reader(rig, 0)
    next(reading)
    for inode in rig.disk.names.values():
        if inode.locked_by is not None and inode is not rig.disk.names[f"{PATH}/LOCK"]:
            inode.locked_by = None  # as the kernel does it
    assert len(rig.leases()) == 1
    assert rig.retain() > 1
    assert rig.leases() == []
    reading.close()


def test_start_removes_leases_of_dead_readers() -> None:
    """They do not pile up in a log that keeps everything."""
    rig = Rig()
    with Lease(rig.disk, PATH, 5):
        rig.log.close()
        left = rig.disk.killed()
    left.names[f"{PATH}/reader-7-1.lease"] = left.names[f"{PATH}/HEAD"]
    log = FileLog(PATH, files=left, reserve_bytes=0)
    log.open(lambda: None)
    assert not any(map(is_lease, left.listdir(PATH)))
    log.close()


def test_lease_that_is_half_written_keeps_everything(rig: Rig) -> None:
    """What a lease needs is believed only if it is whole."""
    with Lease(rig.disk, PATH, 60) as lease:
        assert lease.held
        (name,) = rig.leases()
        data = rig.disk.names[f"{PATH}/{name}"].data
        assert living(rig.disk, PATH, [name]) == [Held(PID, 60)]
        for damaged in (b"", data[:10], bytes(30), data.replace(b"6", b"7", 1)):
            rig.disk.names[f"{PATH}/{name}"].data = bytearray(damaged)
            assert living(rig.disk, PATH, [name]) == [Held(PID, EVERYTHING)]
            assert rig.retain() == 1


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("operation", ["open", "pwrite", "lock"])
def test_reader_that_may_not_write(rig: Rig, operation: str, code: int) -> None:
    """It reads without a lease, and is told when it is overtaken; no record is passed over."""
    rig.disk.fail(operation, 1, code, path=".lease")
    reading = by_reader(rig, 0)
    first, batch = next(reading)
    rig.disk.before = lambda _name, _path: None
    found = [*batch]
    assert rig.leases() == []
    kept = rig.retain()
    with pytest.raises(SegmentGone) as gone:
        for _, batch in reading:
            found += batch
    # What was open stays readable to its end.
    assert found == records(1, len(found))
    assert (gone.value.wanted, gone.value.first_sequence) == (len(found) + 1, kept)
    assert first < kept


def test_reader_without_a_lease_goes_on_behind_a_removal(rig: Rig) -> None:
    """If only what it has read is gone, it goes on."""
    waits = 0

    def wait() -> bool:
        nonlocal waits
        waits += 1
        rig.fill(10)
        # All but what the follower has not read yet.
        rig.log.retain(rig.log.next_sequence - 50)
        return waits < 4

    found: list[bytes] = []
    for first, batch in rig.reader(lease=False).follow(wait=wait):
        assert first == len(found) + 1
        found += batch
    assert found == records(1, COUNT + 3 * 50)


def test_segment_removed_between_list_and_opening(rig: Rig) -> None:
    """A reader that has read the list of segments, and finds the file gone, says so."""
    with rig.reader(lease=False) as reader:
        second = rig.bases()[1]
        rig.when("open", segment.name_of(second), rig.retain)
        with pytest.raises(SegmentGone, match=f"expected record {second}, found that retention"):
            list(reader.read(after=second - 1))


def test_oldest_segment_removed_between_list_and_opening(rig: Rig) -> None:
    """Who asks for all that there is gets all that there is then."""
    with rig.reader(lease=False) as reader:
        rig.when("open", segment.name_of(1), rig.retain)
        (first, *_), *_ = reader.read()
        assert first == rig.bases()[0] > 1


def test_segments_removed_under_a_fetch(rig: Rig) -> None:
    """Gone is gone: it is left out, whether it went before or during the call."""
    with rig.reader() as reader:
        for log in (reader, rig.log):
            rig.fill(20)
            reader.refresh()
            last = rig.log.next_sequence - 1
            rig.when("open", segment.name_of(rig.bases()[1]), rig.retain)
            assert log.fetch([rig.bases()[1], last]) == {last: record(last)}


def test_end_of_the_log_removed_while_it_is_looked_for(rig: Rig) -> None:
    """A reader finds the end of a log whose writer is far ahead by the time it opens it."""
    with rig.reader(lease=False) as reader:
        last = rig.bases()[-1]

        def overtake() -> None:
            rig.fill(20)
            rig.retain()

        rig.when("open", segment.name_of(last), overtake)
        assert reader.refresh() == 2 * COUNT
        assert reader.first_sequence == rig.bases()[0] > last


def test_old_head_that_power_loss_brings_back(rig: Rig) -> None:
    """HEAD is never synced: one that names a segment which is gone is just old."""
    head = bytes(rig.disk.names[f"{PATH}/HEAD"].data)
    rig.fill(20)
    first = rig.retain()
    rig.log.close()
    rig.disk.names[f"{PATH}/HEAD"].data = bytearray(head)
    with rig.reader() as reader:
        assert reader.refresh() == 2 * COUNT
        assert [r for _, batch in reader.read() for r in batch] == records(first, 2 * COUNT)
    report = verify(PATH, files=rig.disk)
    assert (report.ok, report.first_sequence, report.last_sequence) == (True, first, 2 * COUNT)
    log = FileLog(PATH, files=rig.disk, reserve_bytes=0)
    session = Session(log)
    assert contents(session.log, first - 1) == records(first, 2 * COUNT)
    log.close()


def test_reader_that_comes_while_the_list_is_shortened(rig: Rig) -> None:
    """A lease taken after retention has looked for leases is honoured all the same."""
    readings: list[Batches] = []

    def come() -> None:
        reading = by_reader(rig, 0)
        readings.append(reading)
        assert next(reading)[0] == 1

    rig.when("rename", "/MANIFEST", come)
    done = rig.log.retain(1 << 60)
    assert (done.first_sequence, done.segments) == (1, 0)
    assert done.kept_by == (Need(1, f"lease of pid {PID}"),)
    (reading,) = readings
    assert [r for _, batch in reading for r in batch] == records(6, COUNT)
    assert rig.retain() > 1


def test_reader_that_comes_after_the_list_was_shortened(rig: Rig) -> None:
    """It reads the new list, and so needs nothing that is about to go."""
    readings: list[Batches] = []

    def come() -> None:
        reading = by_reader(rig, 0)
        readings.append(reading)
        assert next(reading)[0] > 1

    rig.when("unlink", segment.name_of(1), come)
    first = rig.retain()
    assert rig.bases() == [first]
    readings[0].close()


def test_verification_keeps_what_it_has_not_checked(rig: Rig) -> None:
    """A log that is shortened while it is verified is no damaged one."""
    kept: list[int] = []
    rig.when("open", segment.name_of(rig.bases()[3]), lambda: kept.append(rig.retain()))
    report = verify(PATH, files=rig.disk)
    assert (report.ok, report.records, report.first_sequence) == (True, COUNT, 1)
    assert 1 < kept[0] <= rig.bases()[0]
    assert rig.leases() == []


def test_verification_without_a_lease(rig: Rig) -> None:
    """Where none can be had, a removal is called that, and not damage."""

    def before(name: str, path: str) -> None:
        if name == "open" and path.endswith(".lease"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        if name == "open" and path.endswith(segment.name_of(second)):
            rig.disk.before = lambda _name, _path: None
            rig.retain()

    second = rig.bases()[1]
    rig.disk.before = before
    with pytest.raises(SegmentGone, match=f"expected record {second}"):
        verify(PATH, files=rig.disk)


def test_removed_segments_are_given_back(rig: Rig) -> None:
    """A file that is open keeps its room: neither the log nor a reader holds on to it."""
    with rig.reader() as reader:
        every = range(1, COUNT + 1)
        assert len(reader.fetch(every)) == len(rig.log.fetch(every)) == COUNT
        gone = rig.bases()[:-1]
        rig.retain()
        rig.fill(20)
        reader.refresh()
        rig.log.fetch([COUNT])
        held = {path for _, path in rig.disk.descriptors.values()}
        assert held.isdisjoint(f"{PATH}/{segment.name_of(base)}" for base in gone)


def test_names_of_leases_are_not_taken_twice(rig: Rig) -> None:
    """Two readers of one process each have their own."""
    with Lease(rig.disk, PATH, 10), Lease(rig.disk, PATH, 20) as second:
        second.move(30)
        second.move(25)
        held = living(rig.disk, PATH, rig.disk.listdir(PATH))
        assert sorted(lease.sequence for lease in held) == [10, 30]
    assert rig.leases() == []


def test_lease_that_is_taken_for_a_dead_one_is_made_again(rig: Rig) -> None:
    """Retention may see a lease before its reader has locked it."""
    rig.when("lock", "-1.lease", lambda: rig.log.retain(1))
    with Lease(rig.disk, PATH, 10) as lease:
        assert lease.held
        assert rig.leases() == [f"reader-{PID}-2.lease"]
        assert rig.retain() == 1


class NobodysFiles(SystemFiles):
    """A disk on which another user's leases may not be read."""

    def open(self, path: str, flags: int) -> int:
        if path.endswith(".lease") and not flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied", path)
        return super().open(path, flags)


def test_lease_that_may_not_be_read_keeps_everything(tmp_path: Path) -> None:
    """It cannot be said whether its reader lives: nothing goes, and the report says why."""
    log = FileLog(tmp_path / "log", files=NobodysFiles(), segment_bytes_max=300, keep_bytes=0)
    session = Session(log)
    for first in range(1, 50, 5):
        session.put(records(first, first + 4))
    (tmp_path / "log" / "reader-4711-1.lease").write_bytes(b"")
    assert log.retain(1000).kept_by[0] == Need(EVERYTHING, "lease of pid 4711")
    (tmp_path / "log" / "reader-4711-1.lease").unlink()
    assert log.retain(1000).segments > 0
    log.close()


READER = """
import sys
from headrace.engine.log import LogReader
reading = LogReader(sys.argv[1]).read()
print(next(reading)[0], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_reader_of_another_process(tmp_path: Path) -> None:
    """It keeps what it needs for as long as it lives, and not a moment longer."""
    log = FileLog(tmp_path / "log", segment_bytes_max=300, keep_bytes=0)
    session = Session(log)
    for first in range(1, 50, 5):
        session.put(records(first, first + 4))
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "1\n"
        assert log.retain(1000).kept_by == (Need(1, f"lease of pid {child.pid}"),)
        child.kill()
        child.wait()
        assert log.retain(1000).first_sequence > 1
    log.close()


def test_forked_child_leaves_the_lease_alone(tmp_path: Path) -> None:
    """A child that ends with a copy of the reader does not end the reader's lease."""
    log = FileLog(tmp_path / "log", segment_bytes_max=300, keep_bytes=0)
    session = Session(log)
    for first in range(1, 50, 5):
        session.put(records(first, first + 4))
    reading = (batch for batch in LogReader(tmp_path / "log").read())
    assert next(reading)[0] == 1
    if (pid := os.fork()) == 0:
        reading.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert log.retain(1000).first_sequence == 1
    reading.close()
    assert log.retain(1000).first_sequence > 1
    log.close()
