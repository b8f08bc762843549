"""A copy: the same log on another disk, made while it is in use."""

from __future__ import annotations

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
    files_of,
    log_on,
    read,
    world,
)
from tests.simulation.session import Session, record

from headrace.engine.errors import LogCorrupt, LogUnusable
from headrace.engine.log import LogReader
from headrace.engine.log import manifest as manifests
from headrace.engine.log.copying import copy
from headrace.engine.log.fork import fork


@pytest.mark.parametrize("close", [True, False])
def test_copy_is_the_same_log(close: bool) -> None:
    """It has the id, the records and the neighbours of the original, which is untouched."""
    disk = world(close=close)
    before = files_of(disk, SOURCE)
    made = copy(SOURCE, TARGET, files=disk)
    assert files_of(disk, SOURCE) == before
    assert not disk.descriptors
    assert (made.log_id, made.first_sequence, made.last_sequence) == (LOG_ID, 1, len(RECORDS))
    assert {path.removeprefix(f"{TARGET}/") for path in files_of(disk, TARGET)} == {
        path.removeprefix(f"{SOURCE}/") for path in before if not path.endswith(("LOCK", ".tmp"))
    }
    check_log(disk, TARGET, RECORDS, LOG_ID)


def test_copy_of_a_closed_log_has_the_same_bytes() -> None:
    """But for HEAD, which counts its versions, nothing tells a copy from the original."""
    disk = world()
    copy(SOURCE, TARGET, files=disk)
    originals = files_of(disk, SOURCE)
    for path, data in files_of(disk, TARGET).items():
        if not path.endswith("HEAD"):
            assert data == originals[path.replace(TARGET, SOURCE)], path


def test_copy_shares_nothing_with_the_original() -> None:
    """A backup is a backup of the bytes: damage to the one does not reach the other."""
    disk = world()
    copy(SOURCE, TARGET, files=disk)
    for path in files_of(disk, TARGET):
        assert disk.names[path].links == 1, path
    assert f"{TARGET}/{BLOB}" in disk.names
    assert all(f"{TARGET}/{name}" in disk.names for name in SNAPSHOTS)


def test_copy_of_a_log_that_is_open() -> None:
    """At any moment a copy holds exactly what is committed, and opens as a closed log."""
    disk = SimulatedDisk()
    session = Session(log_on(disk, SOURCE))
    for place, unit in enumerate(UNITS, 1):
        session.put(unit)
        target = f"/at{place}"
        assert copy(SOURCE, target, files=disk).last_sequence == ENDS[place]
        with LogReader(target, files=disk) as reader:
            assert reader.refresh() == ENDS[place]
            assert reader.closed_cleanly
        check_log(disk, target, RECORDS[: ENDS[place]], LOG_ID)
    session.log.close()


def test_copy_of_a_fork() -> None:
    """A copy of a fork is that fork: its id, its parent, the segments of both writers."""
    disk = world()
    fork(SOURCE, 20, "/fork", files=disk, new_id=lambda: FORK_ID)
    session = Session(log_on(disk, "/fork"))
    for unit in UNITS:
        session.put(unit)
    session.log.close()
    expected = read(disk, "/fork")
    copy("/fork", TARGET, files=disk)
    assert files_of(disk, TARGET)[f"{TARGET}/MANIFEST"] == files_of(disk, "/fork")["/fork/MANIFEST"]
    check_log(disk, TARGET, expected, FORK_ID)


def test_copy_of_an_empty_log() -> None:
    """A log without records is copied like any other."""
    disk = SimulatedDisk()
    Session(log_on(disk, SOURCE)).log.close()
    assert copy(SOURCE, TARGET, files=disk).last_sequence == 0
    check_log(disk, TARGET, [], LOG_ID)


def test_copy_again_needs_a_new_path() -> None:
    """A backup is never written over by the next one."""
    disk = world()
    copy(SOURCE, TARGET, files=disk)
    before = files_of(disk, TARGET)
    with pytest.raises(LogUnusable, match="found something there"):
        copy(SOURCE, TARGET, files=disk)
    assert files_of(disk, TARGET) == before


@pytest.mark.slow
def test_copy_finds_every_damaged_byte() -> None:
    """Nothing damaged is copied: a flipped bit anywhere in a segment is named, with its place."""
    whole = world(extras=False)
    manifest = manifests.load(whole, SOURCE)
    assert manifest is not None
    names = [path for path in files_of(whole, SOURCE) if path.endswith(".hrl")]
    ends = {f"{SOURCE}/{e.base:020d}.hrl": e.size_bytes for e in manifest.segments if e.sealed}
    for name in names:
        for offset in range(0, len(whole.names[name].data), 3):
            disk = world(extras=False)
            disk.names[name].data[offset] ^= 0x20
            if name not in ends and offset >= len(disk.names[name].data) - 40:
                continue  # the mark of a clean end: nobody relies on it
            with pytest.raises(LogCorrupt, match=name):
                copy(SOURCE, TARGET, files=disk)
            assert TARGET not in disk.folders
            assert not files_of(disk, TARGET)


def test_copy_and_original_can_be_opened_apart() -> None:
    """Restoring a copy on another path needs nothing but its directory."""
    disk = world()
    copy(SOURCE, TARGET, files=disk)
    for path in list(files_of(disk, SOURCE)):
        del disk.names[path]
    session = Session(log_on(disk, TARGET))
    session.put([record(len(RECORDS) + 1)])
    session.log.close()
    assert read(disk, TARGET) == [*RECORDS, record(len(RECORDS) + 1)]
