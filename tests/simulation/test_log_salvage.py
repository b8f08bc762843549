"""Salvage finds every frame that is intact, whatever happened to the others."""

from __future__ import annotations

import pytest
from tests.simulation import test_log_damage as damage
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, record, records

from headrace.engine.errors import LogUnusable
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.frame import SEGMENT_HEADER_BYTES, frame_size
from headrace.engine.log.salvage import salvage
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


@pytest.mark.parametrize("close", [True, False])
def test_every_other_frame_is_found(close: bool) -> None:
    """Damage to one frame costs its records and no others, in any segment."""
    disk = damage.written(close=close)
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
    disk = damage.copy(damage.written(close=True), **{name: None})
    assert salvaged(disk) == {s: record(s) for s in range(1, damage.COUNT + 1)}


def test_missing_segment_is_a_gap() -> None:
    """A segment that is gone is noted in the new log, which can be written and read on."""
    disk = damage.written(close=True)
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
    disk = damage.written(close=True)
    with pytest.raises(LogUnusable, match="expected a new path"):
        salvage(damage.PATH, damage.PATH, files=disk)
    disk.folders.add("/empty")
    with pytest.raises(LogUnusable, match="found no segment"):
        salvage("/empty", "/new", files=disk)
