"""Damage to every byte of every file: it is found, or what was acknowledged is all there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import NamedTuple

import pytest
from tests.simulation.disk import Inode, SimulatedDisk
from tests.simulation.session import Session, contents, record, records
from tests.simulation.unthreaded import written_at_once

from headrace.engine.errors import LogCorrupt, LogUnusable, LogVersion
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log.frame import FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES, frame_size
from headrace.engine.log.verify import verify

PATH = "/log"
COUNT = 24
LARGE_COUNT, LARGE_BYTES = 16, 260
"""Records, and payload in each, where all bytes of all files are damaged: 6 KB of log."""
HUGE_BYTES = 2700
"""The same in the nights: 64 KB of log."""
SAME_EVERY = 7
"""Of the bytes that a kill leaves as a close does, one in so many is damaged again."""
TOLERATED = ("HEAD", "LOCK", ".idx")
"""How the names of files end whose loss alone never hides a loss of records."""


class Left(NamedTuple):
    """What the same writer leaves, depending on how it ends."""

    closed: SimulatedDisk
    killed: SimulatedDisk


def written(*, log_id: bytes = b"i" * 16, count: int = COUNT, size_bytes: int = 0) -> Left:
    """Return what is left of a log of at least three segments."""
    disk = SimulatedDisk()
    session = Session(log_on(disk, log_id))
    for first in range(1, count, 4):
        one, two, three, four = (
            record(number, size_bytes=size_bytes) for number in range(first, first + 4)
        )
        session.put([one, two], [three, four])
    killed = copy(disk)
    session.log.close()
    assert len(segments_of(killed)) >= 3
    return Left(closed=disk, killed=killed)


def log_on(disk: SimulatedDisk, log_id: bytes = b"i" * 16) -> FileLog:
    return FileLog(PATH, files=disk, reserve_bytes=0, segment_bytes_max=350, new_id=lambda: log_id)


def copy(disk: SimulatedDisk, **changed: bytes | None) -> SimulatedDisk:
    """Return a copy of *disk* where files have other bytes, or (``None``) are missing."""
    left = SimulatedDisk()
    left.folders.update(disk.folders)
    changes = {f"{PATH}/{name}": data for name, data in changed.items()}
    for path, inode in disk.names.items():
        data = changes.get(path, bytes(inode.data))
        if data is not None:
            left.names[path] = made = Inode()
            made.data = bytearray(data)
            made.links = 1
    return left


def files_of(disk: SimulatedDisk) -> dict[str, bytes]:
    return {path.removeprefix(f"{PATH}/"): bytes(i.data) for path, i in disk.names.items()}


def segments_of(disk: SimulatedDisk) -> list[str]:
    return sorted(name for name in files_of(disk) if name.endswith(".hrl"))


def whole_of(disk: SimulatedDisk, count: int = COUNT) -> list[bytes]:
    """Return the records of an undamaged log."""
    with LogReader(PATH, files=copy(disk)) as reader:
        found = [record for _, batch in reader.read() for record in batch]
    assert len(found) == count
    return found


def outcome(disk: SimulatedDisk, whole: list[bytes] | None = None) -> str:
    """Open and read the log: ``intact``, ``corrupt``, ``newer``, or ``lost`` (a failure)."""
    log = log_on(disk)
    before = files_of(disk)
    try:
        log.open(lambda: None)
    except LogCorrupt:
        after = files_of(disk)
        before["LOCK"] = after["LOCK"]
        assert after == before, "a corrupt log was changed"
        return "corrupt"
    except LogVersion:
        return "newer"
    try:
        found = contents(log)
    except LogCorrupt:
        return "corrupt"
    finally:
        log.close()
    return "intact" if found == (whole or records(1, COUNT)) else "lost"


def sequences_read(disk: SimulatedDisk, whole: list[bytes]) -> int | None:
    """Read beside the writer: how many records; ``None`` if damage was reported."""
    try:
        with LogReader(PATH, files=disk) as reader:
            found = [record for _, batch in reader.read() for record in batch]
    except (LogCorrupt, LogVersion, LogUnusable):
        return None
    assert found == whole[: len(found)]
    return len(found)


@pytest.fixture(autouse=True)
def no_thread() -> Iterator[None]:
    """Open tens of thousands of logs without starting a thread for each: none is written to."""
    with written_at_once():
        yield


@pytest.fixture(scope="module", params=["closed", "killed"])
def disk(request: pytest.FixtureRequest) -> SimulatedDisk:
    """Give a disk with a log of at least three segments; tests change copies of it."""
    made: SimulatedDisk = getattr(written(), request.param)
    return made


@pytest.fixture(scope="module")
def large() -> Left:
    """Give one with longer records, for tests of every byte."""
    made = written(count=LARGE_COUNT, size_bytes=LARGE_BYTES)
    assert sum(map(len, files_of(made.killed).values())) >= 6000
    return made


@pytest.fixture(scope="module", params=["closed", "killed"])
def huge(request: pytest.FixtureRequest) -> SimulatedDisk:
    """Give one of 64 KB, for the nights."""
    made: SimulatedDisk = getattr(written(size_bytes=HUGE_BYTES), request.param)
    assert sum(map(len, files_of(made).values())) >= 64_000
    return made


def damages(
    disk: SimulatedDisk, change: Callable[[bytes, int], bytes], besides: SimulatedDisk | None
) -> Iterator[tuple[str, int, SimulatedDisk]]:
    """Yield copies of *disk* with one file changed at one byte, for all files and bytes.

    Of files that are the same on *besides*, only for some bytes.
    """
    known = {} if besides is None else files_of(besides)
    for name, data in files_of(disk).items():
        every = SAME_EVERY if known.get(name) == data else 1
        for offset in range(0, len(data), every):
            yield name, offset, copy(disk, **{name: change(data, offset)})


def test_undamaged_log_is_intact(disk: SimulatedDisk) -> None:
    """The harness itself: without damage everything is found."""
    assert outcome(copy(disk)) == "intact"
    assert verify(PATH, files=copy(disk)).ok


def test_every_file_cut_at_every_byte(large: Left) -> None:
    """A file of any length: the whole log or `LogCorrupt`, from `open`, `verify` and reading."""
    check_cuts(large.closed, LARGE_COUNT)
    check_cuts(large.killed, LARGE_COUNT, besides=large.closed)


@pytest.mark.soak
def test_every_file_of_64_kb_cut_at_every_byte(huge: SimulatedDisk) -> None:
    """The same with a larger log."""
    check_cuts(huge)


def check_cuts(
    disk: SimulatedDisk, count: int = COUNT, *, besides: SimulatedDisk | None = None
) -> None:
    whole = whole_of(disk, count)
    for name, offset, damaged in damages(disk, lambda data, offset: data[:offset], besides):
        where = f"{name} cut at {offset}"
        intact = name.endswith(TOLERATED)
        report = verify(PATH, files=damaged)
        assert report.ok == intact, where
        # Without HEAD the last group of a killed writer is not proven, so it is not shown.
        allowed = (count, count - 4 if name == "HEAD" else count if intact else None)
        assert sequences_read(damaged, whole) in allowed, where
        assert outcome(damaged, whole) == ("intact" if intact else "corrupt"), where


def test_every_byte_with_a_flipped_bit(large: Left) -> None:
    """One wrong bit in any byte is found, and `verify` names the file that it is in."""
    check_flips(large.closed, Random(1), LARGE_COUNT)
    check_flips(large.killed, Random(1), LARGE_COUNT, besides=large.closed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_every_byte_of_64_kb_with_a_flipped_bit(huge: SimulatedDisk, seed: int) -> None:
    """The same with a larger log, three times with other bits."""
    check_flips(huge, Random(seed))


def check_flips(
    disk: SimulatedDisk, rng: Random, count: int = COUNT, *, besides: SimulatedDisk | None = None
) -> None:
    whole = whole_of(disk, count)

    def flip(data: bytes, offset: int) -> bytes:
        changed = bytearray(data)
        changed[offset] ^= 1 << rng.randrange(8)
        return bytes(changed)

    for name, offset, damaged in damages(disk, flip, besides):
        where = f"{name} flipped at {offset}"
        intact = name.endswith(TOLERATED)
        report = verify(PATH, files=damaged)
        assert report.ok == intact, where
        if not intact:
            assert report.errors[0].file == f"{PATH}/{name}", where
            assert report.errors[0].acknowledged
        assert outcome(damaged, whole) == ("intact" if intact else "corrupt"), where


def test_every_bit_of_headers(disk: SimulatedDisk) -> None:
    """Where lengths, sequences and checksums are, each of the bits counts."""
    for name in segments_of(disk):
        data = files_of(disk)[name]
        places = list(range(SEGMENT_HEADER_BYTES))
        offset = SEGMENT_HEADER_BYTES
        for frame in frames_of(data):
            places += range(offset, offset + FRAME_HEADER_BYTES)
            offset += len(frame)
        for place in places:
            for bit in range(8):
                changed = bytearray(data)
                changed[place] ^= 1 << bit
                found = outcome(copy(disk, **{name: bytes(changed)}))
                assert found in ("corrupt", "newer"), (name, place, bit)


@pytest.mark.parametrize("size", [512, 64, 1])
def test_zeroed_and_garbled_stretches(disk: SimulatedDisk, size: int) -> None:
    """A stretch of zeros or of garbage anywhere in a segment is found."""
    rng = Random(2)
    for name in segments_of(disk):
        data = files_of(disk)[name]
        for start in range(0, len(data), max(size, 16)):
            stop = min(start + size, len(data))
            for filling in (bytes(stop - start), rng.randbytes(stop - start)):
                if data[start:stop] != filling:
                    damaged = copy(disk, **{name: data[:start] + filling + data[stop:]})
                    assert outcome(damaged) == "corrupt", f"{name} {start}"


def test_missing_files(disk: SimulatedDisk) -> None:
    """A file that was deleted is noticed, unless nothing depends on it."""
    for name in files_of(disk):
        expected = "intact" if name.endswith(TOLERATED) else "corrupt"
        assert outcome(copy(disk, **{name: None})) == expected, name


def frames_of(data: bytes) -> list[bytes]:
    frames: list[bytes] = []
    offset = SEGMENT_HEADER_BYTES
    while offset < len(data):
        size = frame_size(data[offset:])
        frames.append(data[offset : offset + size])
        offset += size
    return frames


def test_frames_swapped_repeated_removed(disk: SimulatedDisk) -> None:
    """Frames whose own checksums are right are still noticed in the wrong place."""
    for name in segments_of(disk):
        data = files_of(disk)[name]
        head, frames = data[:SEGMENT_HEADER_BYTES], frames_of(data)
        for i in range(len(frames)):
            removed = frames[:i] + frames[i + 1 :]
            repeated = frames[: i + 1] + frames[i:]
            swapped = [*frames[:i], *reversed(frames[i : i + 2]), *frames[i + 2 :]]
            changed = [removed, repeated] + ([swapped] if swapped != frames else [])
            for parts in changed:
                damaged = copy(disk, **{name: head + b"".join(parts)})
                found = outcome(damaged)
                # A frame after the last one that HEAD knows was never acknowledged.
                torn = name == segments_of(disk)[-1] and parts == repeated and i == len(frames) - 1
                assert found == ("intact" if torn else "corrupt"), (name, i)


def test_segments_swapped_or_foreign(disk: SimulatedDisk) -> None:
    """A segment of another log, or of another place in this one, is not accepted."""
    files = files_of(disk)
    names = segments_of(disk)
    foreign = files_of(written(log_id=b"o" * 16).closed)
    for name in names:
        assert outcome(copy(disk, **{name: foreign[name]})) == "corrupt"
        for other in names:
            if other != name:
                assert outcome(copy(disk, **{name: files[other]})) == "corrupt"
                swapped = copy(disk, **{name: files[other], other: files[name]})
                assert outcome(swapped) == "corrupt"


def test_older_segment_is_noticed(disk: SimulatedDisk) -> None:
    """An older copy of the last segment, whole in itself, is a loss that HEAD knows of."""
    name = segments_of(disk)[-1]
    data = files_of(disk)[name]
    for count in range(len(frames_of(data))):
        older = data[:SEGMENT_HEADER_BYTES] + b"".join(frames_of(data)[:count])
        assert outcome(copy(disk, **{name: older})) == "corrupt"


def test_without_head_and_cut_inside_the_log(disk: SimulatedDisk) -> None:
    """Without HEAD too, damage before the last frame is told from a torn write."""
    name = segments_of(disk)[-1]
    data = files_of(disk)[name]
    frames = frames_of(data)
    assert len(frames) >= 2
    damaged = bytearray(data)
    damaged[SEGMENT_HEADER_BYTES + 45] ^= 1  # in the body of the first of them
    assert outcome(copy(disk, **{name: bytes(damaged), "HEAD": None})) == "corrupt"


def test_newer_format_is_refused(disk: SimulatedDisk) -> None:
    """A log of a later format is refused by name, not taken for damage."""
    from headrace.engine.log import manifest

    old = manifest.decode("MANIFEST", files_of(disk)["MANIFEST"])
    fields = [getattr(old, name) for name in old.__struct_fields__]
    fields[0] = 2
    newer = manifest.Manifest(*fields)
    damaged = copy(disk, MANIFEST=manifest.encode(newer))
    assert outcome(damaged) == "newer"
    with pytest.raises(LogVersion, match="newer headrace"):
        LogReader(PATH, files=damaged)
