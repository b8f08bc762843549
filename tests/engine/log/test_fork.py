"""A fork: a log with the first records of another, which goes its own way."""

from __future__ import annotations

import errno

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.forks import (
    BLOB,
    ENDS,
    FORK_ID,
    LOG_ID,
    RECORDS,
    SNAPSHOTS,
    SOURCE,
    TARGET,
    UNITS,
    check_log,
    decision,
    disk_with,
    files_of,
    log_on,
    read,
    units,
    world,
)
from tests.simulation.session import Session, record, records

from headrace.engine.clock import VirtualClock
from headrace.engine.errors import LogCorrupt, LogMismatch, LogUnusable
from headrace.engine.log import FileLog, LogReader
from headrace.engine.log import manifest as manifests
from headrace.engine.log.fork import Fork, fork
from headrace.engine.log.frame import FORK, MORE
from headrace.engine.log.salvage import salvage
from headrace.engine.log.segment import Gap, Walk, name_of, read_header
from headrace.engine.log.verify import verify


def fork_at(disk: SimulatedDisk, sequence: int | None, target: str = TARGET) -> Fork:
    return fork(SOURCE, sequence, target, files=disk, new_id=lambda: FORK_ID, clock=VirtualClock())


def segments_of(disk: SimulatedDisk, folder: str) -> list[str]:
    return sorted(path for path in files_of(disk, folder) if path.endswith(".hrl"))


@pytest.mark.slow
@pytest.mark.parametrize("close", [True, False])
def test_fork_at_every_sequence(close: bool) -> None:
    """Wherever it is cut, the fork holds whole units, goes on, and the origin is untouched."""
    for sequence in range(1, len(RECORDS) + 1):
        disk = world(close=close)
        assert len(segments_of(disk, SOURCE)) >= 3
        before = files_of(disk, SOURCE)
        end = max(end for end in ENDS if end <= sequence)
        made = fork_at(disk, sequence)
        assert (made.sequence, made.asked, made.log_id) == (end, sequence, FORK_ID)
        assert (made.parent.log_id, made.first_sequence) == (LOG_ID, 1)
        next_end = min(end for end in ENDS if end >= sequence)
        assert made.left_out == (None if end == sequence else (end + 1, next_end))
        check_log(disk, TARGET, RECORDS[:end], FORK_ID)
        assert files_of(disk, SOURCE) == before
        assert not disk.descriptors
        check_log(disk, SOURCE, RECORDS, LOG_ID, clean=close)


def test_finished_segments_are_shared() -> None:
    """A fork of a large log costs neither room nor time: what is finished is linked."""
    disk = world()
    bases = [int(path[-24:-4]) for path in segments_of(disk, SOURCE)]
    for number, base in enumerate(bases[1:], 1):
        made = fork_at(disk, base - 1, f"/at{base}")
        assert made.linked == number
        assert made.copied_bytes < 200
        for path in segments_of(disk, SOURCE)[:number]:
            name = path.rpartition("/")[2]
            assert disk.names[path] is disk.names[f"/at{base}/{name}"]
    assert disk.names[segments_of(disk, SOURCE)[0]].links == len(bases)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_disk_that_cannot_link_gets_copies(code: int) -> None:
    """A fork on another disk, or on one without hard links, is the same log."""
    disk = world()

    def refuse(name: str, _path: str) -> None:
        if name == "link":
            raise OSError(code, "no")

    disk.before = refuse
    before = files_of(disk, SOURCE)
    made = fork_at(disk, len(RECORDS))
    disk.before = lambda _name, _path: None
    assert made.linked == 0
    assert disk.names[segments_of(disk, SOURCE)[0]].links == 1
    sizes = [len(disk.names[path].data) for path in segments_of(disk, TARGET)]
    assert made.copied_bytes == sum(sizes)
    check_log(disk, TARGET, RECORDS, FORK_ID)
    assert files_of(disk, SOURCE) == before


def test_fork_of_a_fork_of_a_fork() -> None:
    """Segments keep the id of the log that wrote them, through any number of forks."""
    disk = world()
    expected, path = RECORDS, SOURCE
    for generation in range(1, 4):
        log_id = bytes([generation]) * 16
        new = f"/fork{generation}"
        made = fork(path, len(expected) - 1, new, files=disk, new_id=[log_id].pop)
        expected = expected[: made.sequence]
        with LogReader(path, files=disk) as reader:
            assert made.parent.log_id == reader.log_id
        session = Session(log_on(disk, new))
        for unit in (more := units(12, len(expected) + 1)):
            session.put(unit)
        session.log.close()
        expected = [*expected, *(r for unit in more for r in unit)]
        assert verify(new, files=disk).ok
        assert read(disk, new) == expected
        path = new
    manifest = manifests.load(disk, path)
    assert manifest is not None
    assert len({entry.log_id for entry in manifest.segments}) == 4
    found = salvage(path, "/salvaged", files=disk)
    assert (found.records, found.gaps) == (len(expected), [])
    check_log(disk, path, expected, bytes([3]) * 16)


def test_origin_and_fork_go_apart() -> None:
    """What is written to one is never seen in the other."""
    disk = world()
    fork_at(disk, ENDS[7])
    origin, other = Session(log_on(disk, SOURCE)), Session(log_on(disk, TARGET))
    mine, theirs = units(9, len(RECORDS) + 1), units(10, ENDS[7] + 1)
    for unit, another in zip(mine, theirs, strict=False):
        origin.put(unit)
        other.put(another)
    other.put(theirs[-1])
    origin.log.close()
    other.log.close()
    assert read(disk, SOURCE) == [*RECORDS, *(r for unit in mine for r in unit)]
    assert read(disk, TARGET) == [*RECORDS[: ENDS[7]], *(r for unit in theirs for r in unit)]
    assert verify(SOURCE, files=disk).ok
    assert verify(TARGET, files=disk).ok


def test_fork_says_where_it_left() -> None:
    """MANIFEST and the frame at the fork name the origin, the record and its checksum."""
    disk = world()
    made = fork_at(disk, ENDS[7])
    manifest = manifests.load(disk, TARGET)
    assert manifest is not None
    assert manifest.parent == made.parent
    assert manifest.config["forked_from"] == SOURCE
    path = segments_of(disk, TARGET)[-1]
    fd = disk.open(path, 0)
    header = read_header(disk, fd, path)
    assert header.log_id == FORK_ID
    walk = Walk(disk, fd, offset=64, sequence=header.base, chain=header.crc)
    marks = [frame for frame in walk.frames() if frame.kind == FORK]
    assert [frame.base for frame in marks] == [made.sequence + 1]


def test_what_is_beside_the_segments_is_shared_too() -> None:
    """Snapshots up to the fork and blobs are there; what was half-written is not."""
    for sequence, count in ((8, 0), (9, 1), (19, 1), (len(RECORDS), 2)):
        disk = world()
        made = fork_at(disk, sequence)
        end = made.sequence
        names = {path.removeprefix(f"{TARGET}/") for path in files_of(disk, TARGET)}
        kept = {name for name in SNAPSHOTS if int(name[5:25]) <= end}
        assert len(kept) <= count
        assert made.snapshot == max((int(name[5:25]) for name in kept), default=0)
        others = {name for name in names if not name.endswith((".hrl", ".idx"))}
        assert others == {"MANIFEST", "HEAD", BLOB, *kept}
        assert disk.names[f"{TARGET}/{BLOB}"] is disk.names[f"{SOURCE}/{BLOB}"]


def test_snapshot_that_goes_meanwhile_is_left_out() -> None:
    """A writer that replaces a snapshot while the log is forked does not stop the fork."""
    disk = world()

    def remove(name: str, path: str) -> None:
        if name == "link" and path.endswith(SNAPSHOTS[0]):
            disk.names.pop(f"{SOURCE}/{SNAPSHOTS[0]}", None)

    disk.before = remove
    fork_at(disk, None)
    assert f"{TARGET}/{SNAPSHOTS[0]}" not in disk.names
    check_log(disk, TARGET, RECORDS, FORK_ID)


@pytest.mark.slow
def test_unit_that_spans_frames_is_never_cut() -> None:
    """A unit too large for one frame is kept or left out whole, and its ends are named."""
    disk = SimulatedDisk()
    session = Session(FileLog(SOURCE, files=disk, reserve_bytes=0, new_id=lambda: LOG_ID))
    large = [record(3), *(decision(n) for n in range(4, 70_004))]
    session.put([record(1), decision(2)])
    session.put(large, [record(70_004)])
    session.log.close()
    data = files_of(disk, SOURCE)[segments_of(disk, SOURCE)[0]]
    assert data[64 + data[64:].find(b"HRF1", 8) + 11] & MORE, "no frame goes on in the next"
    for sequence in (3, 65_600, 70_002):
        made = fork_at(disk, sequence, f"/at{sequence}")
        assert (made.sequence, made.left_out) == (2, (3, 70_003))
        assert read(disk, f"/at{sequence}") == [record(1), decision(2)]
    assert fork_at(disk, 70_003).left_out is None
    assert read(disk, TARGET) == [record(1), decision(2), *large]
    assert verify(TARGET, files=disk).ok


def test_log_that_lost_its_beginning_is_forked_at_what_it_keeps() -> None:
    """After retention every kept record can be forked at; what is gone is said to be gone."""
    disk = world()
    manifest = manifests.load(disk, SOURCE)
    assert manifest is not None
    first = manifest.segments[1].base
    left = manifests.Manifest(
        1, LOG_ID, manifest.created_ns, first, manifest.segments[1:], None, manifest.config
    )
    manifests.store(disk, SOURCE, left)
    disk.unlink(segments_of(disk, SOURCE)[0])
    for sequence in range(ENDS[ENDS.index(first - 1) + 1], len(RECORDS) + 1):
        made = fork_at(disk, sequence, f"/at{sequence}")
        assert made.first_sequence == first
        assert read(disk, f"/at{sequence}") == RECORDS[first - 1 : made.sequence]
        report = verify(f"/at{sequence}", files=disk)
        assert (report.ok, report.first_sequence) == (True, first)
        session = Session(log_on(disk, f"/at{sequence}"))
        session.put([record(made.sequence + 1)])
        session.log.close()
    with pytest.raises(LogMismatch, match=f"expected record {first - 1}, found records {first} to"):
        fork_at(disk, first - 1)


def test_gap_of_a_salvaged_log_is_kept() -> None:
    """A fork of a salvaged log has the same gaps; in one it ends before it."""
    disk = SimulatedDisk()
    session = Session(log_on(disk, SOURCE))
    session.put(records(1, 4))
    log = session.log
    assert isinstance(log, FileLog)
    assert log._store is not None
    log._store.write_gap(Gap(5, 8, "lost"))
    log._next = 9
    session.put(records(9, 12))
    log.close()
    for sequence, end in ((4, 4), (5, 4), (7, 4), (8, 8), (9, 9), (12, 12)):
        target = f"/at{sequence}"
        made = fork_at(disk, sequence, target)
        assert made.sequence == end
        assert read(disk, target) == (records(1, 4) + records(9, 12))[: max(4, end - 4)]
        assert verify(target, files=disk).ok
        again = Session(log_on(disk, target))
        assert again.log.next_sequence == end + 1
        again.log.close()


def test_empty_log_is_forked() -> None:
    """A log without records has forks without records."""
    disk = SimulatedDisk()
    session = Session(log_on(disk, SOURCE))
    session.log.close()
    assert fork_at(disk, None).sequence == 0
    check_log(disk, TARGET, [], FORK_ID)
    with pytest.raises(LogMismatch, match="expected record 1, found no record at all"):
        fork_at(disk, 1, "/other")


def test_sequences_that_are_not_there_are_refused() -> None:
    """Nothing is made when the place does not exist, or lies in the very first unit."""
    disk = world()
    for sequence in (-1, 0, len(RECORDS) + 1, 10**9):
        with pytest.raises(LogMismatch, match=f"expected record {sequence}, found records 1 to"):
            fork_at(disk, sequence)
    session = Session(log_on(disk, "/large"))
    session.put([record(1), decision(2), decision(3)], [record(4)])
    session.log.close()
    with pytest.raises(LogMismatch, match="the first one is 1 to 3; choose 3 or a later one"):
        fork("/large", 2, TARGET, files=disk)
    assert TARGET not in disk.folders


def test_fork_of_a_log_that_is_open() -> None:
    """While the writer goes on, a fork takes what is committed, and no lock."""
    disk = SimulatedDisk()
    session = Session(log_on(disk, SOURCE))
    for place, unit in enumerate(UNITS, 1):
        session.put(unit)
        made = fork_at(disk, None, f"/at{place}")
        assert made.sequence == ENDS[place]
        assert read(disk, f"/at{place}") == RECORDS[: ENDS[place]]
    session.log.append([record(0)])
    assert fork_at(disk, None).sequence == len(RECORDS), "what is not committed is not taken"
    session.log.close()


def test_records_that_nobody_can_cut_back_are_taken() -> None:
    """Power loss may take HEAD back; of a log that nobody writes, each whole unit counts."""
    disk = world(close=False)
    del disk.names[f"{SOURCE}/HEAD"]
    assert fork_at(disk, None).sequence == len(RECORDS)
    lock = disk.open(f"{SOURCE}/LOCK", 0)
    assert disk.lock(lock), "the lock was given back"
    # With a writer the last group is not proven: it might still be cut back.
    assert fork_at(disk, None, "/other").sequence == ENDS[12]


def test_target_that_is_taken_is_refused() -> None:
    """A fork never writes over anything: not a log, not a file, not the origin itself."""
    disk = world()
    disk.names["/file"] = disk.names[f"{SOURCE}/HEAD"]
    fork_at(disk, 3, "/taken")
    disk.folders.add("/other")
    disk.names["/other/thing"] = disk.names["/file"]
    before = {path: bytes(inode.data) for path, inode in disk.names.items()}
    for target in ("/file", "/taken", "/other"):
        with pytest.raises(LogUnusable, match="expected a new path, found something there"):
            fork_at(disk, 3, target)
    for target in (SOURCE, f"{SOURCE}/fork"):
        with pytest.raises(LogUnusable, match="expected a path outside of the log"):
            fork_at(disk, 3, target)
    assert {path: bytes(inode.data) for path, inode in disk.names.items()} == before
    disk.folders.add("/empty")
    fork_at(disk, 3, "/empty")
    check_log(disk, "/empty", RECORDS[: ENDS[2]], FORK_ID)


def test_source_that_is_no_log_is_refused() -> None:
    """A path without a log, or with half a fork, is named, and nothing is made."""
    disk = SimulatedDisk()
    disk.folders.add("/nothing")
    for source in ("/missing", "/nothing"):
        with pytest.raises(LogUnusable, match="expected an event log, found none"):
            fork(source, 1, TARGET, files=disk)
    disk = disk_with({"/half/UNFINISHED.tmp": b""})
    with pytest.raises(LogUnusable, match="a fork or a copy that was cut short"):
        fork("/half", 1, TARGET, files=disk)
    disk = disk_with({"/log/00000000000000000001.hrl": b""})
    with pytest.raises(LogCorrupt, match="the list of segments"):
        fork(SOURCE, 1, TARGET, files=disk)
    assert TARGET not in disk.folders


def test_half_a_fork_is_not_taken_for_a_log() -> None:
    """Neither an engine nor a reader mistakes it for an empty or a damaged log."""
    disk = disk_with({"/half/UNFINISHED.tmp": b"", "/half/00000000000000000001.hrl": b"x" * 100})
    for look in (
        lambda: log_on(disk, "/half").open(lambda: None),
        lambda: LogReader("/half", files=disk),
        lambda: verify("/half", files=disk),
    ):
        with pytest.raises(LogUnusable, match="cut short; make it again, or remove the directory"):
            look()


def test_fork_that_somebody_else_is_making_is_left_alone() -> None:
    """Two forks at once into one directory: the second is refused, the first is whole."""
    disk = world()
    seen: list[str] = []

    def meanwhile(name: str, path: str) -> None:
        if name == "link" and path.endswith(".hrl") and not seen:
            seen.append(path)
            with pytest.raises(LogUnusable, match="somebody else is making"):
                fork_at(disk, 3)

    disk.before = meanwhile
    fork_at(disk, None)
    disk.before = lambda _name, _path: None
    assert seen
    check_log(disk, TARGET, RECORDS, FORK_ID)


@pytest.mark.parametrize("moment", ["mkdir", "link"])
def test_segments_that_retention_removes_meanwhile(moment: str) -> None:
    """If the list of segments changes under a fork it begins anew, and takes what is kept."""
    disk = world()
    manifest = manifests.load(disk, SOURCE)
    assert manifest is not None
    first = manifest.segments[1].base
    kept = manifests.Manifest(1, LOG_ID, 0, first, manifest.segments[1:], None, manifest.config)
    looked: list[str] = []

    def retain(name: str, path: str) -> None:
        if name == "mkdir" and path == TARGET:
            looked.append(path)
        oldest = f"{SOURCE}/{name_of(1)}"
        if name == moment and path.startswith(TARGET) and oldest in disk.names:
            disk.names[f"{SOURCE}/MANIFEST"].data[:] = manifests.encode(kept)
            del disk.names[oldest]

    disk.before = retain
    made = fork_at(disk, None)
    assert len(looked) == 2
    assert (made.first_sequence, made.sequence) == (first, len(RECORDS))
    assert read(disk, TARGET) == RECORDS[first - 1 :]
