"""Index files: a shortcut that may be damaged, missing or wrong, and never gives a wrong answer."""

from __future__ import annotations

import errno
import tracemalloc
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.simulation.disk import Inode, SimulatedDisk
from tests.simulation.session import Session, contents, record, records

from headrace.engine.errors import LogCorrupt
from headrace.engine.log import FileLog, LogReader, index_file
from headrace.engine.log import manifest as manifests
from headrace.engine.log.frame import Frame
from headrace.engine.log.index import ACTIVE_STEP_BYTES, Entry, SparseIndex
from headrace.engine.log.segment import Walk
from headrace.engine.log.verify import verify
from headrace.engine.log.walker import OpenSegments, step

PATH = "/log"
COUNT = 60
START_NS = 1_700_000_000_000_000_000


def log_on(disk: SimulatedDisk, log_id: bytes = b"i" * 16) -> FileLog:
    return FileLog(PATH, files=disk, reserve_bytes=0, segment_bytes_max=900, new_id=lambda: log_id)


@pytest.fixture(autouse=True)
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the small segments of these tests have indexes of several entries."""
    monkeypatch.setattr("headrace.engine.log.index.ACTIVE_STEP_BYTES", 100)
    monkeypatch.setattr("headrace.engine.log.index.FILE_STEP_BYTES", 100)


@pytest.fixture(name="disk")
def make_disk() -> SimulatedDisk:
    """Give a disk with a log of several segments that was closed."""
    return written()


def written(log_id: bytes = b"i" * 16) -> SimulatedDisk:
    disk = SimulatedDisk()
    session = Session(log_on(disk, log_id))
    for first in range(1, COUNT, 3):
        session.put(records(first, first), records(first + 1, first + 2))
    session.log.close()
    return disk


def index_paths(disk: SimulatedDisk) -> list[str]:
    return sorted(path for path in disk.names if path.endswith(".idx"))


def put(disk: SimulatedDisk, path: str, data: bytes) -> None:
    disk.names[path] = inode = Inode()
    inode.data, inode.links = bytearray(data), 1


def check_answers(disk: SimulatedDisk) -> None:
    """Ask for every record by its sequence and by its time, from a reader and from the log."""
    with LogReader(PATH, files=disk, lease=False) as reader:
        for sequence in range(1, COUNT + 1):
            assert reader.fetch([sequence]) == {sequence: record(sequence)}
            assert reader.sequence_at(START_NS + sequence) == sequence
    log = log_on(disk)
    log.open(lambda: None)
    for sequence in range(1, COUNT + 1):
        assert log.fetch([sequence]) == {sequence: record(sequence)}
    assert contents(log) == records(1, COUNT)
    log.close()


def test_each_finished_segment_has_an_index(disk: SimulatedDisk) -> None:
    """It is written when the segment is finished; the open segment has none."""
    segments = sorted(path for path in disk.names if path.endswith(".hrl"))
    assert len(segments) >= 3
    assert index_paths(disk) == [path.replace(".hrl", ".idx") for path in segments[:-1]]
    check_answers(disk)


def test_index_is_used_and_makes_the_way_short(disk: SimulatedDisk) -> None:
    """The entries of an index file are finer than those that the segment itself keeps."""
    manifest = manifests.load(disk, PATH)
    assert manifest is not None
    for entry in manifest.segments[:-1]:
        fine_index = index_file.load(disk, PATH, entry.base, entry.digest)
        assert fine_index is not None
        assert len(fine_index) >= 4
    disk.calls.clear()
    with LogReader(PATH, files=disk, lease=False) as reader:
        reader.fetch([5])
    assert f"open {index_paths(disk)[0]}" in disk.calls


def test_index_cut_at_every_byte(disk: SimulatedDisk) -> None:
    """An index of any length gives the right answers, and `verify` has nothing against it."""
    path = index_paths(disk)[1]
    whole = bytes(disk.names[path].data)
    for length in range(len(whole)):
        put(disk, path, whole[:length])
        check_answers(disk)
        assert verify(PATH, files=disk).ok


def test_index_with_a_flipped_bit_in_every_byte(disk: SimulatedDisk) -> None:
    """One wrong bit in any byte is noticed, and the segment's own index is used."""
    rng = Random(1)
    path = index_paths(disk)[1]
    whole = bytes(disk.names[path].data)
    for offset in range(len(whole)):
        damaged = bytearray(whole)
        damaged[offset] ^= 1 << rng.randrange(8)
        put(disk, path, bytes(damaged))
        check_answers(disk)


def test_index_of_another_segment_or_log(disk: SimulatedDisk) -> None:
    """An index is believed only for the segment whose digest it names."""
    paths = index_paths(disk)
    other = written(b"o" * 16)
    for path in paths:
        for strange in (disk.names[paths[0]].data, other.names[path].data):
            damaged = disk.killed()
            put(damaged, path, bytes(strange))
            check_answers(damaged)


def test_missing_index(disk: SimulatedDisk) -> None:
    """Nothing depends on an index."""
    for path in index_paths(disk):
        disk.unlink(path)
    check_answers(disk)


def test_unreadable_index(disk: SimulatedDisk) -> None:
    """A disk that cannot read an index is no reason not to read the log."""
    for name in ("open", "pread", "close"):
        disk.fail(name, 1, errno.EIO, path=".idx")
        with LogReader(PATH, files=disk, lease=False) as reader:
            assert reader.fetch([2]) == {2: record(2)}


@pytest.mark.parametrize("name", ["open", "pwrite", "rename", "close"])
def test_index_that_cannot_be_written(name: str) -> None:
    """The log goes on without it, and leaves no half of one behind."""
    disk = SimulatedDisk()
    disk.fail(name, 1, errno.ENOSPC, path=".idx")
    session = Session(log_on(disk))
    for first in range(1, COUNT, 3):
        session.put(records(first, first), records(first + 1, first + 2))
    session.log.close()
    assert session.log.failure is None
    assert not [path for path in disk.names if path.endswith(".tmp")]
    check_answers(disk)


def test_rebuilt_index_is_the_one_that_was_written(disk: SimulatedDisk) -> None:
    """Whoever writes an index, from memory or from the segment, writes the same bytes."""
    manifest = manifests.load(disk, PATH)
    assert manifest is not None
    for entry in manifest.segments[:-1]:
        path = f"{PATH}/{index_file.name_of(entry.base)}"
        whole = bytes(disk.names[path].data)
        put(disk, path, b"damaged")
        assert index_file.rebuild(disk, PATH, entry) >= 4
        assert bytes(disk.names[path].data) == whole


def test_no_index_is_built_of_a_damaged_segment(disk: SimulatedDisk) -> None:
    """Damage is reported with its place; an index that hides it would be worse than none."""
    manifest = manifests.load(disk, PATH)
    assert manifest is not None
    entry = manifest.segments[0]
    path = f"{PATH}/{index_file.name_of(entry.base)}"
    disk.unlink(path)
    segment = disk.names[f"{PATH}/00000000000000000001.hrl"].data
    for offset in range(64, len(segment), 7):
        segment[offset] ^= 1
        with pytest.raises(LogCorrupt):
            index_file.rebuild(disk, PATH, entry)
        segment[offset] ^= 1
    del segment[entry.seal_offset :]
    with pytest.raises(LogCorrupt, match="the end of a segment"):
        index_file.rebuild(disk, PATH, entry)
    assert path not in disk.names


numbers = st.integers(0, 2**64 - 1)


@given(
    st.lists(st.tuples(numbers, numbers, numbers), max_size=30).map(sorted),
    st.lists(numbers, max_size=5),
)
def test_index_file_answers_as_the_index_in_memory(entries: list[Entry], asked: list[int]) -> None:
    """The same place for every sequence and time, whatever the numbers are."""
    times = sorted(entry[2] for entry in entries)
    entries = [(*entry[:2], at_ns) for entry, at_ns in zip(entries, times, strict=True)]
    data = index_file.encode(7, b"d" * 16, entries)
    found = index_file.decode(data, 7, b"d" * 16)
    assert found is not None
    assert len(found) == len(entries)
    known = SparseIndex(entries)
    for number in [*asked, *(number for entry in entries for number in entry)]:
        assert found.place_of(number) == known.place_of(number)
        assert found.place_before(number) == known.place_before(number)
    assert index_file.decode(data, 8, b"d" * 16) is None
    assert index_file.decode(data, 7, b"e" * 16) is None


def test_index_in_memory_is_small() -> None:
    """An open segment of a long-lived engine has an entry for every few frames of it."""
    count = 10_000
    tracemalloc.start()
    try:
        index = SparseIndex()
        for number in range(count):
            index.add(2**40 + number, number * ACTIVE_STEP_BYTES, 2**60 + number)
        size_bytes, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(index) == count
    assert index.place_of(2**40 + 77) == (2**40 + 77, 77 * ACTIVE_STEP_BYTES)
    assert size_bytes <= 30 * count  # three columns of eight bytes, which grow in steps


def test_open_segment_is_looked_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who looks for records of the segment that is written now walks over each frame once."""
    walked: list[int] = []

    def counted(opened: OpenSegments, base: int, walk: Walk) -> Frame:
        frame = step(opened, base, walk)
        walked.append(frame.base)
        return frame

    monkeypatch.setattr("headrace.engine.log.reader.step", counted)
    disk = SimulatedDisk()
    session = Session(FileLog(PATH, files=disk, reserve_bytes=0))
    for first in range(1, COUNT, 3):
        session.put(records(first, first), records(first + 1, first + 2))
    with LogReader(PATH, files=disk, lease=False) as reader:
        for last in range(COUNT, COUNT + 5):
            for sequence in (last, 1, 20, last):
                assert reader.fetch([sequence]) == {sequence: record(sequence)}
            session.put(records(last + 1, last + 1))
        for sequence in range(1, COUNT + 1):
            assert reader.sequence_at(START_NS + sequence) == sequence
    assert walked == [*range(1, COUNT, 3), *range(COUNT + 1, COUNT + 6)]
    session.log.close()


def test_reader_without_head_finds_what_a_new_segment_holds() -> None:
    """A reader that comes into a new segment without HEAD reads the list of segments anew."""
    disk = SimulatedDisk()
    session = Session(log_on(disk))
    session.put(records(1, 3))
    with LogReader(PATH, files=disk, lease=False) as reader:
        assert reader.fetch([2]) == {2: record(2)}
        del disk.names[f"{PATH}/HEAD"]
        for first in range(4, COUNT, 3):
            session.put(records(first, first + 2))
            last = reader.refresh()
            assert last >= first - 1
            assert reader.fetch([last]) == {last: record(last)}
            assert list(reader.read(after=last)) == []
    assert len(index_paths(disk)) >= 2
    session.log.close()
