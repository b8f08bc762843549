"""Compression of finished segments: whatever happens meanwhile, the records stay what they were."""

from __future__ import annotations

import errno
from contextlib import suppress
from functools import partial
from random import Random

import msgspec
import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, contents, record, records

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import FileLog, LogReader, compression
from headrace.engine.log import manifest as manifests
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.compression import compress
from headrace.engine.log.frame import ZLIB
from headrace.engine.log.manifest import Manifest, Segment
from headrace.engine.log.salvage import salvage
from headrace.engine.log.segment import Walk
from headrace.engine.log.verify import verify

PATH = "/log"
COUNT = 120
OPERATIONS = ["open", "pread", "pwrite", "fsync", "fdatasync", "rename", "sync_directory", "unlink"]


def log_on(disk: SimulatedDisk) -> FileLog:
    return FileLog(
        PATH, files=disk, reserve_bytes=0, segment_bytes_max=900, new_id=lambda: b"i" * 16
    )


@pytest.fixture(name="disk")
def make_disk() -> SimulatedDisk:
    """Give a disk with a log of several segments that was closed."""
    return written()


def written() -> SimulatedDisk:
    disk = SimulatedDisk()
    session = Session(log_on(disk))
    for first in range(1, COUNT, 10):
        session.put(records(first, first + 3), records(first + 4, first + 9))
    session.log.close()
    for inode in disk.names.values():
        inode.durable = bytes(inode.data)
    return disk


def listed(disk: SimulatedDisk) -> Manifest:
    manifest = manifests.load(disk, PATH)
    assert manifest is not None
    return manifest


def compress_all(disk: SimulatedDisk) -> list[Segment]:
    """Compress every finished segment; return what the list says of them."""
    catalog = Catalog(disk, PATH, listed(disk))
    for entry in catalog.manifest.segments[:-1]:
        if entry.packed is None:
            compress(disk, PATH, catalog, entry)
    return catalog.manifest.segments[:-1]


def names(disk: SimulatedDisk, suffix: str) -> list[str]:
    return sorted(path for path in disk.names if path.endswith(suffix))


def check_whole(disk: SimulatedDisk) -> None:
    """Read all records in each way that there is, and write some more."""
    report = verify(PATH, files=disk)
    assert report.ok, report.errors
    assert report.records == COUNT
    with LogReader(PATH, files=disk, lease=False) as reader:
        assert [r for _, batch in reader.read() for r in batch] == records(1, COUNT)
        for sequence in range(1, COUNT + 1, 4):
            assert reader.fetch([sequence]) == {sequence: record(sequence)}
    session = Session(log_on(disk))
    assert contents(session.log) == records(1, COUNT)
    assert contents(session.log, after=COUNT // 2) == records(COUNT // 2 + 1, COUNT)
    for sequence in range(1, COUNT + 1, 4):
        assert session.log.fetch([sequence]) == {sequence: record(sequence)}
    session.put(records(COUNT + 1, COUNT + 1))
    session.log.close()
    assert not names(disk, ".tmp")
    segments = listed(disk).segments
    assert {f"{PATH}/{entry.file_name}" for entry in segments} == {
        *names(disk, ".hrl"),
        *names(disk, ".hrz"),
    }


def test_compressed_log_is_the_same_log(disk: SimulatedDisk) -> None:
    """Smaller files, the same records under the same sequences, in all ways to read them."""
    before = listed(disk).segments[:-1]
    entries = compress_all(disk)
    assert len(entries) >= 3
    for entry, old in zip(entries, before, strict=True):
        assert entry.packed is not None
        assert entry.packed.size_bytes == len(disk.names[f"{PATH}/{entry.file_name}"].data)
        assert entry.packed.size_bytes < entry.size_bytes
        assert msgspec.structs.replace(entry, packed=None) == old
    assert names(disk, ".hrl") == [f"{PATH}/{listed(disk).segments[-1].file_name}"]
    check_whole(disk)


def test_reader_that_has_the_old_file_open(disk: SimulatedDisk) -> None:
    """Whoever reads goes on where they are, and finds the new file for what comes next."""
    with LogReader(PATH, files=disk, lease=False) as reader:
        batches = reader.read()
        found = list(next(batches)[1])
        assert reader.fetch([1, COUNT // 2]) == {1: record(1), COUNT // 2: record(COUNT // 2)}
        compress_all(disk)
        for sequence in range(1, COUNT + 1):
            assert reader.fetch([sequence]) == {sequence: record(sequence)}
        for _, batch in batches:
            found += batch
        assert found == records(1, COUNT)
        assert [r for _, batch in reader.read() for r in batch] == records(1, COUNT)


def test_log_that_is_open_while_it_is_compressed() -> None:
    """The writer goes on, what it knew of the old file does no harm, and nothing is left over."""
    disk = SimulatedDisk()
    session = Session(log_on(disk))
    with LogReader(PATH, files=disk, lease=False) as reader:
        for first in range(1, COUNT, 5):
            session.put(records(first, first + 4))
            assert session.log.fetch([first]) == {first: record(first)}
            assert reader.fetch([first + 4]) == {first + 4: record(first + 4)}
            log = session.log
            assert isinstance(log, FileLog)
            assert log._store is not None
            catalog = log._store.catalog
            for entry in catalog.manifest.segments[:-1]:
                if entry.packed is None:
                    assert compress(disk, PATH, catalog, entry) is not None
            assert contents(session.log) == records(1, first + 4)
            rest = [r for _, batch in reader.read(after=first) for r in batch]
            assert rest == records(first + 1, first + 4)
            assert reader.fetch([1]) == {1: record(1)}
    session.log.close()
    assert len(names(disk, ".hrz")) >= 3
    check_whole(disk)


def test_nothing_is_replaced_for_no_gain() -> None:
    """Bytes that do not shrink stay where they are."""
    disk, rng = SimulatedDisk(), Random(5)
    session = Session(log_on(disk))
    for _ in range(4):
        session.put([msgspec.msgpack.encode((1, 2, rng.randbytes(900)))])
    session.log.close()
    assert not any(entry.packed for entry in compress_all(disk))
    assert not names(disk, ".hrz")
    assert not names(disk, ".tmp")


def test_given_up(disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes the log does not wait for a segment to be finished."""
    monkeypatch.setattr(compression, "STEP_BYTES", 100)
    catalog = Catalog(disk, PATH, listed(disk))
    entry = catalog.manifest.segments[0]
    for after in range(4):
        left = iter([True] * after)
        assert compress(disk, PATH, catalog, entry, pause=partial(next, left, False)) is None
        assert not names(disk, ".hrz")
        assert not names(disk, ".tmp")
    assert compress(disk, PATH, catalog, entry) is not None
    check_whole(disk)


def test_segment_that_was_removed_meanwhile(disk: SimulatedDisk) -> None:
    """Compression brings nothing back that retention has removed."""
    manifest = listed(disk)
    entry, *kept = manifest.segments
    catalog = Catalog(disk, PATH, manifest)

    def retain(_: Manifest) -> Manifest:
        return msgspec.structs.replace(manifest, segments=kept, first_sequence=kept[0].base)

    catalog.change(retain)
    assert compress(disk, PATH, catalog, entry) is None
    assert not names(disk, ".hrz")


def calls_of() -> list[str]:
    """Return the operations of compressing the log of `written`."""
    disk = written()
    before = len(disk.calls)
    compress_all(disk)
    return disk.calls[before:]


@pytest.mark.parametrize("seed", range(3))
def test_power_loss_after_every_operation(seed: int) -> None:
    """Whenever the power goes, each record is there, and the next start clears up."""
    for calls in range(len(calls_of())):
        disk = written()
        disk.durable_names, disk.unsynced_names = dict(disk.names), []
        disk.durable_folders = set(disk.folders)
        disk.power_off_after(calls)
        with suppress(OSError):
            compress_all(disk)
        left = disk.crash(Random(seed * 1_000_003 + calls))
        assert verify(PATH, files=left).ok
        check_whole(left)


@pytest.mark.parametrize("name", OPERATIONS)
def test_error_at_every_operation(name: str) -> None:
    """Whatever fails, the log stays readable beside it, and another attempt succeeds."""
    count = sum(call.startswith(f"{name} ") for call in calls_of())
    assert count
    for nth in range(1, count + 1):
        disk = written()
        disk.fail(name, nth, errno.ENOSPC if name == "pwrite" else errno.EIO)
        with suppress(OSError):
            compress_all(disk)
        disk.before = lambda _name, _path: None
        with LogReader(PATH, files=disk, lease=False) as reader:
            assert [r for _, batch in reader.read() for r in batch] == records(1, COUNT)
        check_whole(disk)
        assert all(entry.packed for entry in compress_all(disk)[:3])


def test_damaged_segment_is_not_compressed(disk: SimulatedDisk) -> None:
    """Damage is reported and kept: nothing takes the place of what is not understood."""
    catalog = Catalog(disk, PATH, listed(disk))
    entry = catalog.manifest.segments[0]
    path = f"{PATH}/{entry.file_name}"
    for offset in range(64, entry.seal_offset, 11):
        disk.names[path].data[offset] ^= 1
        with pytest.raises(LogCorrupt):
            compress(disk, PATH, catalog, entry)
        disk.names[path].data[offset] ^= 1
    assert not names(disk, ".hrz")
    check_whole(disk)


def test_damage_in_a_compressed_segment(disk: SimulatedDisk) -> None:
    """A flipped bit or a cut anywhere is found by `verify`, and no wrong record is read."""
    rng = Random(1)
    entry = compress_all(disk)[1]
    path = f"{PATH}/{entry.file_name}"
    whole = bytes(disk.names[path].data)
    for offset in range(len(whole)):
        flipped = bytearray(whole)
        flipped[offset] ^= 1 << rng.randrange(8)
        for damaged in (flipped, bytearray(whole[:offset])):
            disk.names[path].data = damaged
            report = verify(PATH, files=disk)
            assert [fault.file for fault in report.errors][:1] == [path]
            found: list[bytes] = []
            with suppress(LogCorrupt), LogReader(PATH, files=disk, lease=False) as reader:
                for _, batch in reader.read():
                    found += batch
            assert found == records(1, len(found))


def test_salvage_reads_compressed_segments(disk: SimulatedDisk) -> None:
    """What is intact of a damaged log is found, compressed or not."""
    entry = compress_all(disk)[1]
    data = disk.names[f"{PATH}/{entry.file_name}"].data
    data[100] ^= 1
    found = salvage(PATH, "/new", files=disk)
    assert len(found.gaps) == 1
    assert entry.base <= found.gaps[0].first <= found.gaps[0].last < entry.next_sequence
    assert found.records == COUNT - (found.gaps[0].last - found.gaps[0].first + 1)


def test_frames_are_compressed_one_by_one(disk: SimulatedDisk) -> None:
    """A compressed segment has the same frames, so that a place in it is found as fast."""
    entry = compress_all(disk)[0]
    assert entry.packed is not None
    fd = disk.open(f"{PATH}/{entry.file_name}", 0)
    walk = Walk(disk, fd, offset=64, sequence=1, chain=None)
    frames = list(walk.frames(entry.packed.seal_offset))
    assert {frame.codec for frame in frames} == {ZLIB}
    assert [frame.count for frame in frames] == [10] * len(frames)
    disk.close(fd)
