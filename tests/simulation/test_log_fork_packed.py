"""Forks and copies of a log whose finished segments are compressed, or just being."""

from __future__ import annotations

import pytest
from tests.simulation.disk import SimulatedDisk
from tests.simulation.forks import (
    ENDS,
    FORK_ID,
    LOG_ID,
    RECORDS,
    SOURCE,
    TARGET,
    check_log,
    files_of,
    read,
    world,
)

from headrace.engine.log import LogReader
from headrace.engine.log import manifest as manifests
from headrace.engine.log.catalog import Catalog
from headrace.engine.log.compare import compare
from headrace.engine.log.compression import compress
from headrace.engine.log.copying import copy
from headrace.engine.log.fork import fork
from headrace.engine.log.frame import PLAIN
from headrace.engine.log.segment import Walk, read_header


def pack(disk: SimulatedDisk, path: str = SOURCE) -> None:
    """Compress every finished segment of the log at *path*."""
    manifest = manifests.load(disk, path)
    assert manifest is not None
    catalog = Catalog(disk, path, manifest)
    for entry in manifest.segments[:-1]:
        assert compress(disk, path, catalog, entry) is not None


def packed_world() -> SimulatedDisk:
    disk = world(extras=False)
    pack(disk)
    assert [path[-4:] for path in sorted(files_of(disk, SOURCE))].count(".hrz") == 2
    return disk


def test_fork_at_every_sequence_of_a_compressed_log() -> None:
    """Compressed segments are shared as they are; the one that is cut is written plain again."""
    for sequence in range(1, len(RECORDS) + 1):
        disk = packed_world()
        before = files_of(disk, SOURCE)
        made = fork(SOURCE, sequence, TARGET, files=disk, new_id=lambda: FORK_ID)
        assert made.sequence == max(end for end in ENDS if end <= sequence)
        (last,) = [path for path in files_of(disk, TARGET) if path.endswith(".hrl")]
        fd = disk.open(last, 0)
        header = read_header(disk, fd, last)
        walk = Walk(disk, fd, offset=64, sequence=header.base, chain=header.crc)
        assert {frame.codec for frame in walk.frames()} == {PLAIN}
        disk.close(fd)
        check_log(disk, TARGET, RECORDS[: made.sequence], FORK_ID)
        assert files_of(disk, SOURCE) == before


def test_copy_of_a_compressed_log() -> None:
    """It is compressed too, and every byte of it was checked."""
    disk = packed_world()
    copy(SOURCE, TARGET, files=disk)
    for path, data in files_of(disk, SOURCE).items():
        if path.endswith((".hrz", ".hrl", "MANIFEST")):
            assert files_of(disk, TARGET)[path.replace(SOURCE, TARGET)] == data
    check_log(disk, TARGET, RECORDS, LOG_ID)


def test_compressing_one_of_two_does_not_make_them_differ() -> None:
    """A log and its fork share what they hold, however each of them keeps it."""
    disk = world(extras=False)
    fork(SOURCE, None, TARGET, files=disk, new_id=lambda: FORK_ID)
    before = files_of(disk, TARGET)
    pack(disk)
    assert files_of(disk, TARGET) == before
    with LogReader(SOURCE, files=disk) as one, LogReader(TARGET, files=disk) as other:
        found = compare(one, other)
    assert (found.same, found.common) == (True, len(RECORDS))
    assert found.shared > 0
    check_log(disk, TARGET, RECORDS, FORK_ID)


@pytest.mark.parametrize("forks", [True, False])
def test_segments_that_are_compressed_meanwhile(forks: bool) -> None:
    """Whenever compression comes in between, what is made is whole."""

    def make(disk: SimulatedDisk) -> None:
        if forks:
            fork(SOURCE, None, TARGET, files=disk, new_id=lambda: FORK_ID)
        else:
            copy(SOURCE, TARGET, files=disk)

    disk = world(extras=False)
    disk.calls.clear()
    make(disk)
    for calls in range(len(disk.calls)):
        disk = world(extras=False)
        left = [calls]

        def before(
            _name: str, _path: str, disk: SimulatedDisk = disk, left: list[int] = left
        ) -> None:
            left[0] -= 1
            if left[0] == -1:
                pack(disk)

        disk.before = before
        make(disk)
        disk.before = lambda _name, _path: None
        assert read(disk, SOURCE) == RECORDS
        check_log(disk, TARGET, RECORDS, FORK_ID if forks else LOG_ID)
