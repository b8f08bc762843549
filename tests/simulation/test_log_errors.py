"""Each operation on the disk fails once: nothing is acknowledged wrongly, and a restart heals."""

from __future__ import annotations

import errno
from random import Random

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, contents, record, records
from tests.simulation.unthreaded import written_at_once

from headrace.engine.errors import DurabilityLost, LogError, LogFull, LogUnusable
from headrace.engine.log import FileLog
from headrace.engine.log.verify import verify

PATH = "/var/log"
GROUPS = 8
KINDS = [
    *("open", "pwrite", "fsync", "fdatasync", "rename", "sync_directory", "pread", "truncate"),
    *("close", "size", "listdir", "mkdir", "kind", "lock", "unlock", "is_named"),
]


def fresh_disk() -> SimulatedDisk:
    disk = SimulatedDisk()
    disk.folders.add("/var")
    disk.durable_folders.add("/var")
    return disk


def log_on(disk: SimulatedDisk) -> FileLog:
    return FileLog(PATH, files=disk, reserve_bytes=0, segment_bytes_max=400)


def write(disk: SimulatedDisk, *, restart: bool = True) -> tuple[int, LogError | None]:
    """Write groups of two and three until something fails; say what was acknowledged."""
    acknowledged = 0
    try:
        session = Session(log_on(disk))
        try:
            for group in range(GROUPS):
                first = group * 5 + 1
                if group == GROUPS // 2 and restart:
                    session.log.close()
                    session = Session(log_on(disk))
                session.put(records(first, first + 1), records(first + 2, first + 4))
                acknowledged = session.log.committed_sequence
        finally:
            acknowledged = max(acknowledged, session.log.committed_sequence)
            session.log.close()
    except LogError as error:
        return acknowledged, error
    return acknowledged, None


def calls(name: str) -> int:
    """Return how often a run without faults calls the operation *name*."""
    disk = fresh_disk()
    assert write(disk) == (GROUPS * 5, None)
    return sum(call.startswith(f"{name} ") for call in disk.calls)


@written_at_once()
def check_restart(disk: SimulatedDisk, acknowledged: int) -> None:
    """Check that a restart without faults finds what was acknowledged, and can go on."""
    disk.before = lambda _name, _path: None
    disk.free_bytes = None
    session = Session(log_on(disk))
    found = contents(session.log)
    assert len(found) >= acknowledged
    assert found == records(1, len(found))
    session.put([record(len(found) + 1)])
    session.log.close()
    report = verify(PATH, files=disk)
    assert report.ok, report.errors
    assert report.records == len(found) + 1


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("how", ["killed", "crashed"])
def test_input_output_error_at_every_call(name: str, how: str) -> None:
    """After an I/O error at any call of each kind, all that was acknowledged is there.

    The machine goes on (the page cache is kept) or loses its power at that moment.
    """
    assert calls(name)
    for nth in range(1, calls(name) + 1):
        disk = fresh_disk()
        disk.fail(name, nth, errno.EIO)
        acknowledged, _ = write(disk)
        left = disk.killed() if how == "killed" else disk.crash(Random(nth))
        check_restart(left, acknowledged)


def put_until_rotation(session: Session) -> None:
    """Write enough for a new segment, whose creation needs an fsync."""
    for _ in range(30):
        session.put([record(0)])


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EROFS])
def test_no_file_can_be_opened_any_more(code: int) -> None:
    """From any moment on: no descriptors are left, or the disk has become read-only."""
    for nth in range(1, calls("open") + 1):
        disk = fresh_disk()
        left = nth

        def refuse(called: str, path: str) -> None:
            nonlocal left
            left -= called == "open"
            if called == "open" and left <= 0:
                raise OSError(code, "refused", path)

        disk.before = refuse
        acknowledged, error = write(disk)
        assert error is None or isinstance(error, LogUnusable | DurabilityLost)
        check_restart(disk.killed(), acknowledged)


@pytest.mark.parametrize("name", ["fsync", "fdatasync"])
def test_sync_error_is_final(name: str) -> None:
    """After a failed sync nothing is acknowledged any more, and no sync is tried again."""
    session = Session(log_on(disk := fresh_disk()))
    session.put(records(1, 3))
    disk.fail(name, 1, errno.EIO)
    with pytest.raises(DurabilityLost, match="is safe"):
        put_until_rotation(session)
    committed = session.log.committed_sequence
    failed_at = len(disk.calls)
    with pytest.raises(DurabilityLost):
        session.log.append([record(0)])
    with pytest.raises(DurabilityLost):
        session.log.close()
    assert session.log.committed_sequence == committed
    assert not [call for call in disk.calls[failed_at:] if "sync" in call]
    assert isinstance(session.log.failure, DurabilityLost)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_at_every_write(code: int) -> None:
    """Without room nothing is acknowledged and nothing is left behind; a restart goes on."""
    for nth in range(1, calls("pwrite") + 1):
        disk = fresh_disk()
        disk.fail("pwrite", nth, code)
        acknowledged, error = write(disk)
        assert error is None or isinstance(error, LogFull | LogUnusable | DurabilityLost)
        check_restart(disk.killed(), acknowledged)


def test_disk_that_fills_up_at_every_byte() -> None:
    """A disk that takes a part of a write and no more leaves whole units only."""
    for free_bytes in range(600, 1400, 7):
        disk = fresh_disk()
        disk.free_bytes = free_bytes
        acknowledged, error = write(disk, restart=False)
        assert isinstance(error, LogFull | LogUnusable | DurabilityLost)
        segments = [path for path in disk.names if path.endswith(".hrl")]
        assert acknowledged % 5 == 0
        assert segments
        check_restart(disk.killed(), acknowledged)


def test_short_writes() -> None:
    """A disk that takes writes in pieces stores them whole."""
    for seed in range(20):
        disk = fresh_disk()
        disk.short_writes = Random(seed)
        assert write(disk) == (GROUPS * 5, None)
        disk.short_writes = None
        check_restart(disk.killed(), GROUPS * 5)


def test_full_disk_is_cut_back() -> None:
    """A write that does not fit is removed up to the last whole unit, and says what to do."""
    disk = fresh_disk()
    session = Session(log_on(disk))
    session.put(records(1, 2))
    before = bytes(disk.names[f"{PATH}/00000000000000000001.hrl"].data)
    disk.free_bytes = 50
    with pytest.raises(LogFull, match="nothing after record 2 was written; make room"):
        session.put(records(3, 5))
    assert bytes(disk.names[f"{PATH}/00000000000000000001.hrl"].data) == before
    assert (session.log.committed_sequence, contents(session.log)) == (2, records(1, 2))
    with pytest.raises(LogFull):
        session.log.close()


def test_what_was_not_written_does_not_come_back() -> None:
    """Whoever was told that nothing was written may write it again: power loss changes nothing."""
    for free_bytes in range(10_000, 200_000, 9_000):
        disk = fresh_disk()
        log = FileLog(PATH, files=disk, reserve_bytes=0)
        session = Session(log)
        session.put(records(1, 2))
        disk.free_bytes = free_bytes
        with pytest.raises(LogFull):
            session.put(*([record(number, size_bytes=30_000)] for number in range(3, 12)))
        for seed in range(4):
            left = FileLog(PATH, files=disk.crash(Random(seed)), reserve_bytes=0)
            left.open(lambda: None)
            assert contents(left) == records(1, 2)
            left.close()


def test_full_log_leaves_nothing_unsynced() -> None:
    """At level ``flushed`` what was written before becomes durable, though nothing follows it."""
    disk = fresh_disk()
    log = FileLog(PATH, files=disk, durability="flushed", sync_interval_s=3600)
    session = Session(log)
    session.put(records(1, 2))
    assert log.durable_sequence == 0
    disk.free_bytes = 0
    with pytest.raises(LogFull):
        session.put(records(3, 5))
    assert log.durable_sequence == 2
    with pytest.raises(LogFull):
        log.close()


def test_log_goes_on_when_there_is_room_again() -> None:
    """After `LogFull` nothing is taken until there is room; then it goes on without a gap."""
    disk = fresh_disk()
    session = Session(FileLog(PATH, files=disk, segment_bytes_max=400, reserve_bytes=300))
    session.put(records(1, 2))
    disk.free_bytes = 20
    with pytest.raises(LogFull):
        session.put(records(3, 5))
    assert isinstance(session.log, FileLog)
    assert "/var/log/RESERVE" not in disk.names
    for free_bytes in (100, 500):  # the reserve and something to write to
        disk.free_bytes = free_bytes
        assert not session.log.resume()
        assert "/var/log/RESERVE" not in disk.names
    with pytest.raises(LogFull):
        session.log.append(records(3, 5))
    disk.free_bytes = 4000
    assert session.log.resume()
    assert (session.log.failure, session.log.next_sequence, session.log.pending_bytes) == (
        None,
        3,
        0,
    )
    session.put(records(3, 20))
    assert contents(session.log) == records(1, 20)
    session.log.close()
    check_restart(disk, 20)


def test_full_log_can_be_closed() -> None:
    """What was kept in reserve is room enough to mark a clean end."""
    disk = fresh_disk()
    session = Session(FileLog(PATH, files=disk, reserve_bytes=300))
    session.put(records(1, 2))
    disk.free_bytes = 0
    with pytest.raises(LogFull):
        session.put(records(3, 5))
    with pytest.raises(LogFull):
        session.log.close()
    disk.free_bytes = None
    log = log_on(disk)
    log.open(lambda: None)
    assert log.recovery is not None
    assert log.recovery.clean
    log.close()


@pytest.mark.parametrize(
    ("name", "code", "error"),
    [("fdatasync", errno.EIO, DurabilityLost), ("pwrite", errno.ENOSPC, LogFull)],
)
def test_who_waits_for_a_sync_learns_of_the_failure(
    name: str, code: int, error: type[LogError]
) -> None:
    """At level ``memory`` a record is committed long before the disk refuses it."""
    disk = fresh_disk()
    log = FileLog(PATH, files=disk, durability="memory", sync_interval_s=3600, reserve_bytes=0)
    session = Session(log)
    session.put(records(1, 2))
    log.sync(2)
    disk.fail(name, 1, code)
    session.put(records(3, 5))
    with pytest.raises(error):
        log.sync(5)
    assert (log.committed_sequence, log.durable_sequence) == (5, 2)
    with pytest.raises(error):
        log.close()
    check_restart(disk.killed(), 2)


def test_read_error_is_not_the_end_of_the_log() -> None:
    """A record that the disk cannot read is an error, not one that does not exist."""
    disk = fresh_disk()
    session = Session(log_on(disk))
    session.put(records(1, 3))
    disk.fail("pread", 3, errno.EIO, path=".hrl")  # after two of the header
    with pytest.raises(LogUnusable, match="expected to read record 1, found"):
        contents(session.log)
    assert contents(session.log) == records(1, 3)
    session.log.close()


def test_deleted_segment_stops_the_log() -> None:
    """If somebody deletes the directory under a running writer, nothing more is acknowledged."""
    disk = fresh_disk()
    session = Session(log_on(disk))
    session.put(records(1, 2))
    for name in disk.listdir(PATH):
        disk.unlink(f"{PATH}/{name}")
    with pytest.raises(DurabilityLost, match="deleted"):
        session.put(records(3, 3))
    assert session.log.committed_sequence == 2
