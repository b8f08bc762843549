"""Power loss, kills and errors at every moment of a log that is shortened and held."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from functools import partial
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import SameDay, Session, contents, record, records
from tests.simulation.unthreaded import written_at_once

from headrace.engine.errors import LogError, LogUnusable, SegmentGone
from headrace.engine.log import Durability, FileLog, LogReader, segment
from headrace.engine.log.lease import Lease, is_lease
from headrace.engine.log.verify import verify

PATH = "/log"
GROUPS = 18
GROUP = 5
KINDS = (
    "open",
    "pwrite",
    "fsync",
    "fdatasync",
    "rename",
    "sync_directory",
    "pread",
    "unlink",
    "listdir",
    "lock",
    "close",
)


class Story:
    """A log that is written, shortened, held and opened again until something happens."""

    def __init__(self, disk: SimulatedDisk, durability: Durability = "fsynced") -> None:
        self.disk = disk
        self.durability: Durability = durability
        self.durable = 0
        self.may_be_gone = 1
        """What is before this may have been removed; everything else was to be kept."""
        self.gone = 1
        """What is before this was said to be removed."""
        self.held = 0
        """The first record that is held for sure."""
        self.failed: list[LogError] = []

    def log(self) -> FileLog:
        return FileLog(
            PATH,
            files=self.disk,
            durability=self.durability,
            segment_bytes_max=400,
            keep_bytes=0,
            reserve_bytes=0,
            clock=SameDay(),
            new_id=lambda: b"i" * 16,
        )

    def tell(self) -> None:
        """Go through it; a `LogError` of the log itself ends it."""
        session = Session(self.log())
        for group in range(GROUPS):
            first = group * GROUP + 1
            session.put(records(first, first + 1), records(first + 2, first + GROUP - 1))
            self.durable = session.log.durable_sequence
            log = session.log
            assert isinstance(log, FileLog)
            if group == 6:
                self._try(partial(self._hold, log, 28))
            if group == 12:
                self._try(partial(self._release, log))
            if group % 3 == 2:
                self._try(partial(self._retain, log))
            if group == 9:
                session.log.close()
                self.durable = log.durable_sequence
                session = Session(self.log())
        session.log.close()
        self._try(partial(self._retain, self.log()))

    def _try(self, act: Callable[[], None]) -> None:
        """A removal or a hold that fails does not stop the log."""
        try:
            act()
        except LogUnusable as error:
            self.failed.append(error)

    def _hold(self, log: FileLog, sequence: int) -> None:
        log.hold("audit", sequence)
        self.held = sequence

    def _release(self, log: FileLog) -> None:
        self.held = 0
        log.release("audit")

    def _retain(self, log: FileLog) -> None:
        limit = max(1, self.durable - 12)
        self.may_be_gone = max(self.may_be_gone, min(limit, self.held or limit))
        self.gone = max(self.gone, log.retain(limit).first_sequence)

    def check_once(self, disk: SimulatedDisk, seen: set[Hashable]) -> None:
        """Check what is left on *disk*, unless a story that came as far left the same before."""
        told = (self.durable, self.may_be_gone, self.gone, self.held)
        left = (disk.found(), told)
        if left not in seen:
            self.check(disk)
            seen.add(left)

    @written_at_once()
    def check(self, disk: SimulatedDisk) -> None:
        """Check what is left on *disk*, before a restart and after it."""
        self.disk = disk
        if f"{PATH}/MANIFEST" in disk.names:
            report = verify(PATH, files=disk)
            assert report.ok, report.errors
        session = Session(self.log())
        found = list(session.log.read())
        first = found[0][0] if found else 1
        assert self.gone <= first <= self.may_be_gone
        rest = contents(session.log, first - 1) if first > 1 else contents(session.log)
        last = first + len(rest) - 1
        assert rest == records(first, last)
        assert last >= self.durable
        assert self.held == 0 or first <= self.held
        names = disk.listdir(PATH)
        bases = sorted(filter(None, map(segment.base_of, names)))
        assert bases[0] == first
        assert all(int(name[:20]) >= first for name in names if name.endswith(".idx"))
        assert not any(map(is_lease, names))
        log = session.log
        assert isinstance(log, FileLog)
        with LogReader(PATH, files=disk) as reader:
            assert self.held in (0, reader.manifest.holds.get("audit"))
        log.release("audit")
        session.put([record(last + 1)], [record(last + 2)])
        log.retain(last + 1)
        assert contents(session.log, last + 1) == records(last + 2, last + 2)
        session.log.close()
        assert verify(PATH, files=disk).ok


def calls(durability: Durability = "fsynced") -> list[str]:
    """Return the operations of a story in which nothing happens."""
    disk = SimulatedDisk()
    story = Story(disk, durability)
    story.tell()
    assert story.failed == []
    assert story.gone > 60
    return [call.partition(" ")[0] for call in disk.calls]


def lose_power(calls_done: int, durability: Durability, seed: int) -> None:
    disk = SimulatedDisk()
    disk.power_off_after(calls_done)
    story = Story(disk, durability)
    with suppress(LogError):
        story.tell()
    story.check(disk.crash(Random(seed * 1_000_003 + calls_done)))


@pytest.mark.parametrize("durability", ["fsynced", "flushed"])
@pytest.mark.parametrize("seed", range(1))
def test_power_loss_after_every_operation(durability: Durability, seed: int) -> None:
    """A removal is whole or has not been; what was held or not given up is there."""
    for calls_done in range(len(calls(durability))):
        lose_power(calls_done, durability, seed)


def test_kill_after_every_operation() -> None:
    """When only the process ends, the same holds, and nothing of a removed segment is left."""
    seen: set[Hashable] = set()
    for calls_done in range(len(calls())):
        disk = SimulatedDisk()
        disk.power_off_after(calls_done)
        story = Story(disk)
        with suppress(LogError):
            story.tell()
        story.check_once(disk.killed(), seen)


def test_power_loss_after_a_restart() -> None:
    """A restart believes no list of segments that power loss could still take back."""
    for calls_done in range(len(calls())):
        disk = SimulatedDisk()
        disk.power_off_after(calls_done)
        story = Story(disk)
        with suppress(LogError):
            story.tell()
        left = disk.killed()
        story.disk = left
        session = Session(story.log())
        crashed = left.crash(Random(calls_done))
        session.log.close()
        story.check(crashed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["killed", "crashed"])
def test_input_output_error_at_every_call(kind: str, how: str) -> None:
    """After an error of the disk at any call, no record is gone that was not given up."""
    seen: set[Hashable] = set()
    for nth in range(1, calls().count(kind) + 1):
        disk = SimulatedDisk()
        disk.fail(kind, nth, errno.EIO)
        story = Story(disk)
        with suppress(LogError):
            story.tell()
        disk.before = lambda _name, _path: None
        left = disk.killed() if how == "killed" else disk.crash(Random(nth))
        left.before = lambda _name, _path: None
        story.check_once(left, seen)


def shortened(disk: SimulatedDisk) -> Session:
    """Give a log of several segments that gives up everything, on *disk*."""
    session = Session(Story(disk).log())
    for first in range(1, 60, GROUP):
        session.put(records(first, first + GROUP - 1))
    return session


def failing_removals() -> None:
    """Let each operation of one removal fail, and see what the log and its readers have then."""
    counting = SimulatedDisk()
    session = shortened(counting)
    before = len(counting.calls)
    assert isinstance(session.log, FileLog)
    session.log.retain(40)
    count = len(counting.calls) - before
    session.log.close()
    for nth in range(count):
        disk = SimulatedDisk()
        session = shortened(disk)
        log = session.log
        assert isinstance(log, FileLog)
        left = nth

        def fail(_name: str, path: str, disk: SimulatedDisk = disk) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                disk.before = lambda _name, _path: None
                raise OSError(errno.EIO, "Input/output error", path)

        disk.before = fail
        with suppress(LogUnusable):
            log.retain(40)
        disk.before = lambda _name, _path: None
        first = next(log.read())[0]
        assert contents(log, first - 1) == records(first, 60)
        session.put(records(61, 61))
        with LogReader(PATH, files=disk) as reader:
            found = [r for _, batch in reader.read() for r in batch]
        assert found == records(62 - len(found), 61)
        assert log.retain(1 << 60).first_sequence > 40
        log.close()
        again = Session(Story(disk).log())
        assert contents(again.log, 60) == records(61, 61)
        again.log.close()


def test_removal_that_fails_can_be_repeated() -> None:
    """After an error at any operation of a removal the log goes on, and the next one succeeds."""
    failing_removals()


def test_full_disk_does_not_keep_a_log_from_getting_shorter() -> None:
    """A log that is full can make room by itself."""
    disk = SimulatedDisk()
    log = FileLog(PATH, files=disk, segment_bytes_max=400, keep_bytes=0, reserve_bytes=1000)
    session = Session(log)
    for first in range(1, 60, GROUP):
        session.put(records(first, first + GROUP - 1))
    disk.free_bytes = 100
    with pytest.raises(LogError):
        for first in range(61, 200, GROUP):
            session.put(records(first, first + GROUP - 1))
    last = log.committed_sequence
    assert log.retain(50).segments > 3
    assert log.resume()
    session.put(records(last + 1, last + 5))
    assert contents(log, 50) == records(51, last + 5)
    log.close()


def leases_are_honoured() -> None:
    """Shorten a log under a reader, and see that it reads on."""
    disk = SimulatedDisk()
    session = shortened(disk)
    assert isinstance(session.log, FileLog)
    with LogReader(PATH, files=disk) as reader:
        found = 0
        for first, batch in reader.read():
            assert first == found + 1
            found += len(batch)
            session.log.retain(1 << 60)
        assert found == 60
    session.log.close()


def late_leases_are_honoured() -> None:
    """Let a reader come at each operation of a removal, and see that it reads on."""
    counting = SimulatedDisk()
    session = shortened(counting)
    before = len(counting.calls)
    assert isinstance(session.log, FileLog)
    session.log.retain(1 << 60)
    count = len(counting.calls) - before
    session.log.close()
    for nth in range(count):
        disk = SimulatedDisk()
        session = shortened(disk)
        assert isinstance(session.log, FileLog)
        left = nth
        came: list[tuple[int, list[bytes]]] = []
        reading = LogReader(PATH, files=disk).read()

        def come(
            _name: str,
            _path: str,
            disk: SimulatedDisk = disk,
            came: list[tuple[int, list[bytes]]] = came,
            reading: Iterator[tuple[int, list[bytes]]] = reading,
        ) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                disk.before = lambda _name, _path: None
                came.append(next(reading))

        disk.before = come
        session.log.retain(1 << 60)
        disk.before = lambda _name, _path: None
        ((first, batch),) = came
        assert batch + [r for _, more in reading for r in more] == records(first, 60)
        session.log.close()


def test_reader_that_comes_at_any_moment_of_a_removal() -> None:
    """It reads all from where it began: a lease is seen, or the shorter list is."""
    leases_are_honoured()
    late_leases_are_honoured()


def test_hold_that_fails_is_not_there() -> None:
    """Who was told that a hold could not be noted has none, and who has one keeps its records."""
    disk = SimulatedDisk()
    session = shortened(disk)
    log = session.log
    assert isinstance(log, FileLog)
    disk.fail("fsync", 1, errno.EIO)
    with pytest.raises(LogUnusable, match=r"expected to note the hold 'audit', found .* again$"):
        log.hold("audit", 1)
    disk.before = lambda _name, _path: None
    first = log.retain(1 << 60).first_sequence
    assert first > 1
    with pytest.raises(SegmentGone):
        log.hold("audit", 1)
    log.hold("audit", first)
    disk.fail("fsync", 1, errno.EIO)
    with pytest.raises(LogUnusable, match="expected to release the hold 'audit'"):
        log.release("audit")
    disk.before = lambda _name, _path: None
    for number in range(61, 100):
        session.put([record(number)])
    assert log.retain(1 << 60).first_sequence == first
    log.close()


def test_lease_of_a_reader_that_lost_its_machine() -> None:
    """Power loss leaves leases behind, or not; the next start has none of them."""
    for seed in range(20):
        disk = SimulatedDisk()
        session = shortened(disk)
        with Lease(disk, PATH, 1), Lease(disk, PATH, 20):
            session.put(records(61, 61))
            left = disk.crash(Random(seed))
        session.log.close()
        again = Session(Story(left).log())
        assert not any(map(is_lease, left.listdir(PATH)))
        assert contents(again.log) == records(1, 61)
        again.log.close()


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(50))
def test_power_loss_often(seed: int) -> None:
    """Many more schedules of the same."""
    rng = Random(seed)
    durability: Durability = rng.choice(("fsynced", "flushed"))
    count = len(calls(durability))
    for _ in range(1000):
        lose_power(rng.randrange(count), durability, rng.randrange(1 << 30))
