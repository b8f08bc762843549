"""Where two logs part, for any two."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.simulation.disk import SimulatedDisk
from tests.simulation.forks import (
    ENDS,
    FORK_ID,
    RECORDS,
    SOURCE,
    TARGET,
    files_of,
    log_on,
    world,
)
from tests.simulation.session import Session, record

from headrace.engine.log import FileLog, LogReader
from headrace.engine.log import manifest as manifests
from headrace.engine.log.compare import Comparison, compare
from headrace.engine.log.copying import copy
from headrace.engine.log.fork import fork
from headrace.engine.log.segment import Gap


def compared(disk: SimulatedDisk, a: str, b: str) -> Comparison:
    with LogReader(a, files=disk) as one, LogReader(b, files=disk) as other:
        return compare(one, other)


def write(disk: SimulatedDisk, path: str, numbers: list[int], groups: int) -> None:
    session = Session(
        FileLog(path, files=disk, reserve_bytes=0, segment_bytes_max=200 + 100 * groups)
    )
    for start in range(0, len(numbers), groups):
        session.put(*([record(number)] for number in numbers[start : start + groups]))
    session.log.close()


numbers = st.lists(st.integers(0, 2), max_size=30)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(common=numbers, a=numbers, b=numbers, groups=st.tuples(*[st.integers(1, 7)] * 2))
def test_it_finds_the_first_difference(
    common: list[int], a: list[int], b: list[int], groups: tuple[int, int]
) -> None:
    """However the records are spread over groups and segments, it agrees with two lists."""
    disk = SimulatedDisk()
    one, other = common + a, common + b
    write(disk, "/a", one, groups[0])
    write(disk, "/b", other, groups[1])
    found = compared(disk, "/a", "/b")
    pairs = list(zip(one, other, strict=False))
    same = next((n for n, (x, y) in enumerate(pairs) if x != y), len(pairs))
    if one == other:
        assert found == Comparison(1, None, len(one), 0, 0, 0)
    else:
        assert found == Comparison(1, same + 1, same, 0, len(one) - same, len(other) - same)
    assert found.same == (one == other)


def test_shared_segments_are_not_read() -> None:
    """A fork of a large log is compared by its last segment alone."""
    disk = world()
    fork(SOURCE, ENDS[-3], TARGET, files=disk, new_id=lambda: FORK_ID)
    session = Session(log_on(disk, TARGET))
    session.put([record(1000)])
    session.log.close()
    disk.calls.clear()
    found = compared(disk, SOURCE, TARGET)
    shared = sorted(path for path in files_of(disk, SOURCE) if path.endswith(".hrl"))[:-1]
    assert len(shared) == 2
    assert found == Comparison(1, 31, 30, 30, len(RECORDS) - 30, 1)
    name = shared[0].rpartition("/")[2]
    assert not [call for call in disk.calls if call.endswith(name)]


def test_copy_is_the_same() -> None:
    """A log and its copy do not part, and neither do two logs without records."""
    disk = world()
    copy(SOURCE, TARGET, files=disk)
    found = compared(disk, SOURCE, TARGET)
    assert (found.same, found.common) == (True, len(RECORDS))
    write(disk, "/a", [], 1)
    write(disk, "/b", [], 1)
    assert compared(disk, "/a", "/b") == Comparison(1, None, 0, 0, 0, 0)


def test_prefix_is_a_difference() -> None:
    """A log that is only shorter parts from the longer one where it ends."""
    disk = world()
    fork(SOURCE, ENDS[4], TARGET, files=disk, new_id=lambda: FORK_ID)
    found = compared(disk, TARGET, SOURCE)
    assert (found.at, found.only_a, found.only_b) == (ENDS[4] + 1, 0, len(RECORDS) - ENDS[4])


def test_gap_is_a_difference() -> None:
    """What a salvage did not find makes the logs part there."""
    disk = SimulatedDisk()
    write(disk, "/a", [1, 2, 3, 4, 5], 1)
    session = Session(FileLog("/b", files=disk, reserve_bytes=0))
    session.put([record(1)], [record(2)])
    assert isinstance(session.log, FileLog)
    assert session.log._store is not None
    session.log._store.write_gap(Gap(3, 4, "lost"))
    session.log._next = 5
    session.put([record(5)])
    session.log.close()
    assert compared(disk, "/a", "/b").at == 3
    assert compared(disk, "/b", "/a").at == 3


def test_logs_that_keep_nothing_in_common_part_at_once() -> None:
    """Where one log has removed all that the other holds, nothing is the same."""
    disk = world()
    fork(SOURCE, ENDS[2], TARGET, files=disk, new_id=lambda: FORK_ID)
    manifest = manifests.load(disk, SOURCE)
    assert manifest is not None
    kept = manifest.segments[1:]
    manifests.store(
        disk,
        SOURCE,
        msgspec.structs.replace(manifest, segments=kept, first_sequence=kept[0].base),
    )
    first = kept[0].base
    rest = len(RECORDS) - first + 1
    assert compared(disk, SOURCE, TARGET) == Comparison(first, first, 0, 0, rest, 0)
    assert compared(disk, TARGET, SOURCE) == Comparison(first, first, 0, 0, 0, rest)
