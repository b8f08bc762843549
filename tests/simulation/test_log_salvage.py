"""Salvage finds every frame that is intact, whatever happened to the others."""

from __future__ import annotations

import errno
from contextlib import suppress
from random import Random

import pytest
from tests.simulation import test_log_damage as damage
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, record, records

from headrace.engine.errors import LogError, LogUnusable
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.blobs import FileBlobs, digest_of
from headrace.engine.log.copying import copy as copy_log
from headrace.engine.log.frame import SEGMENT_HEADER_BYTES, frame_size
from headrace.engine.log.salvage import salvage
from headrace.engine.log.snapshots import FileSnapshots
from headrace.engine.log.verify import verify


def salvaged(disk: SimulatedDisk) -> dict[int, bytes]:
    """Salvage the log on *disk* and return what the new log holds, by sequence."""
    before = damage.files_of(disk)
    found = salvage(damage.PATH, "/new", files=disk)
    after = {n: d for n, d in damage.files_of(disk).items() if not n.startswith("/new")}
    assert after == before, "the source was changed"
    report = verify("/new", files=disk)
    assert report.ok, report.errors
    assert report.records == found.records
    with LogReader("/new", files=disk) as reader:
        got = {s: r for first, batch in reader.read() for s, r in enumerate(batch, first)}
    missing = {s for gap in found.gaps for s in range(gap.first, gap.last + 1)}
    assert set(got) | missing == set(range(1, damage.COUNT + 1))
    assert not set(got) & missing
    assert found.complete == (not missing)
    return got


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_every_other_frame_is_found(how: str) -> None:
    """Damage to one frame costs its records and no others, in any segment."""
    disk: SimulatedDisk = getattr(damage.written(), how)
    for name in damage.segments_of(disk):
        data = damage.files_of(disk)[name]
        offset, sequence = SEGMENT_HEADER_BYTES, int(name[:20])
        while offset < len(data):
            size, count = (
                frame_size(data[offset:]),
                int.from_bytes(data[offset + 8 : offset + 10], "little"),
            )
            for at in (offset, offset + 20, offset + size - 1):
                changed = bytearray(data)
                changed[at] ^= 0x10
                got = salvaged(damage.copy(disk, **{name: bytes(changed)}))
                lost = set(range(sequence, sequence + count))
                kept = set(range(1, damage.COUNT + 1)) - lost
                assert got == {s: record(s) for s in kept}
            offset += size
            sequence += count


@pytest.mark.parametrize("name", ["MANIFEST", "HEAD", "LOCK"])
def test_records_do_not_depend_on_other_files(name: str) -> None:
    """All records are found without the list of segments, without HEAD, without the lock."""
    disk = damage.copy(damage.written().closed, **{name: None})
    assert salvaged(disk) == {s: record(s) for s in range(1, damage.COUNT + 1)}


def test_missing_segment_is_a_gap() -> None:
    """A segment that is gone is noted in the new log, which can be written and read on."""
    disk = damage.written().closed
    name = damage.segments_of(disk)[1]
    last = int(damage.segments_of(disk)[2][:20]) - 1
    disk = damage.copy(disk, **{name: None})
    got = salvaged(disk)
    assert set(range(1, damage.COUNT + 1)) - set(got) == set(range(int(name[:20]), last + 1))
    session = Session(FileLog("/new", files=disk, reserve_bytes=0))
    session.put(records(damage.COUNT + 1, damage.COUNT + 2))
    assert session.log.fetch([last, last + 1]) == {last + 1: record(last + 1)}
    after = [
        s
        for first, batch in session.log.read(after=last - 1)
        for s in range(first, first + len(batch))
    ]
    assert after == list(range(last + 1, damage.COUNT + 3))
    session.log.close()


def test_salvage_never_writes_over_anything() -> None:
    """A target that exists, and a source that is no log, are refused."""
    disk = damage.written().closed
    with pytest.raises(LogUnusable, match="expected a new path"):
        salvage(damage.PATH, damage.PATH, files=disk)
    disk.folders.add("/empty")
    with pytest.raises(LogUnusable, match="found no segment"):
        salvage("/empty", "/new", files=disk)


SNAPSHOTS = (10, damage.COUNT - 4)


RESULT = b"a large result"


def with_snapshots(*, oldest: int) -> SimulatedDisk:
    """A log that was closed, with snapshots that refer to the records from *oldest* on.

    And with a large result in a file of its own.
    """
    disk = damage.written().closed
    FileBlobs(disk, damage.PATH).put(RESULT)
    for sequence in SNAPSHOTS:
        file = FileSnapshots(disk, damage.PATH).begin(sequence)
        file.write([b"state at %d" % sequence])
        file.finish(oldest_sequence=oldest, record=record(sequence))
    return disk


def test_only_snapshots_of_what_was_found_are_taken() -> None:
    """One is left out if its own record was not found; what else it may need is told."""
    disk = with_snapshots(oldest=3)
    segment, *_, last = damage.segments_of(disk)
    assert salvage(damage.PATH, "/new", files=disk).snapshots == [*SNAPSHOTS]
    assert SNAPSHOTS[0] < int(last[:20]) <= SNAPSHOTS[1]
    lost_own = damage.copy(with_snapshots(oldest=3), **{last: None})
    found = salvage(damage.PATH, "/new", files=lost_own)
    assert found.snapshots == [SNAPSHOTS[0]]
    assert (len(found.left_out), found.doubts) == (1, [])
    assert found.obstacle == found.gaps[-1]
    data = bytearray(damage.files_of(with_snapshots(oldest=3))[segment])
    data[SEGMENT_HEADER_BYTES + frame_size(data[SEGMENT_HEADER_BYTES:]) + 20] ^= 1
    for oldest, doubts in (8, 2), (9, 0):
        disk = damage.copy(with_snapshots(oldest=oldest), **{segment: bytes(data)})
        found = salvage(damage.PATH, "/new", files=disk)
        assert [(gap.first, gap.last) for gap in found.gaps] == [(5, 8)]
        assert found.snapshots == [*SNAPSHOTS]
        assert found.obstacle is None
        assert len(found.doubts) == doubts


def test_segment_of_another_log_is_not_taken() -> None:
    """A file that somebody put into the place of a segment is a loss, and is named."""
    disk = damage.written().closed
    name = damage.segments_of(disk)[1]
    other = damage.files_of(damage.written(log_id=b"o" * 16).closed)[name]
    found = salvage(damage.PATH, "/new", files=damage.copy(disk, **{name: other}))
    (gap,) = found.gaps
    assert gap.first == int(name[:20])
    assert "expected a segment of log 6969" in gap.reason


@pytest.mark.parametrize("fault", ["power", errno.EIO, errno.ENOSPC])
def test_salvage_on_a_disk_that_fails(fault: str | int) -> None:
    """Cut short at any moment, it leaves nothing, a whole log, or what says that it is none."""
    calm = with_snapshots(oldest=3)
    calm.calls.clear()
    salvage(damage.PATH, "/new", files=calm)
    names = {call.split()[0] for call in calm.calls}
    kinds = ["power"] if fault == "power" else sorted(names)
    for kind in kinds:
        for nth in range(1, 1 + sum(c.split()[0] == kind or fault == "power" for c in calm.calls)):
            disk = with_snapshots(oldest=3)
            if isinstance(fault, str):
                disk.power_off_after(nth - 1)
            else:
                disk.fail(kind, nth, fault, path="/new")
            with suppress(LogError):
                salvage(damage.PATH, "/new", files=disk)
            left = disk.crash(Random(nth))
            if "/new/MANIFEST" not in left.names:
                continue
            log = FileLog("/new", files=left, reserve_bytes=0)
            with suppress(LogUnusable):
                log.open(lambda: None)
                assert log.committed_sequence in (0, damage.COUNT)
                if log.committed_sequence:
                    assert log.blobs.get(digest_of(RESULT)) == RESULT
                for sequence in log.snapshots.sequences():
                    parts = log.snapshots.read(sequence, log.fetch([sequence]).get(sequence))
                    assert list(parts) == [b"state at %d" % sequence]
                log.close()


def test_salvage_that_finds_no_room_leaves_nothing() -> None:
    """It can be made again at the same path."""
    disk = with_snapshots(oldest=3)
    disk.fail("pwrite", 8, errno.ENOSPC, path="/new")
    with pytest.raises(LogError, match="room"):
        salvage(damage.PATH, "/new", files=disk)
    assert not [name for name in damage.files_of(disk) if name.startswith("/new")]
    assert salvage(damage.PATH, "/new", files=disk).complete


def test_salvage_that_was_cut_short_is_no_log() -> None:
    """What a killed salvage leaves cannot be taken for all that there was to save."""
    disk = with_snapshots(oldest=3)
    disk.calls.clear()
    salvage(damage.PATH, "/new", files=disk)
    calls = [call.split()[0] for call in disk.calls]
    disk = with_snapshots(oldest=3)
    disk.power_off_after(len(calls) - 1 - calls[::-1].index("rename"))
    with pytest.raises(LogUnusable):
        salvage(damage.PATH, "/new", files=disk)
    left = disk.killed()
    for use in (
        lambda: LogReader("/new", files=left),
        lambda: FileLog("/new", files=left).open(lambda: None),
        lambda: verify("/new", files=left),
        lambda: copy_log("/new", "/copy", files=left),
    ):
        with pytest.raises(LogUnusable, match="a salvage of /log that is under way or was cut"):
            use()
