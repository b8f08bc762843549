"""Groups: units stay whole and in order, whatever is put together or taken apart."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace.engine.log import group as groups
from headrace.engine.log.group import Group


def group_of(first: int, sizes: list[list[int]]) -> Group:
    """Return a group of units whose records have these sizes."""
    records = [b"r" * size for unit in sizes for size in unit]
    ends = [sum(map(len, sizes[: i + 1])) for i in range(len(sizes))]
    return Group(first, records, ends, sum(map(len, records)))


units = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=20)


@pytest.mark.slow
@given(sizes=units, frame_bytes=st.integers(1, 20))
@example(sizes=[[9, 9, 9], [1]], frame_bytes=20)
def test_units_are_cut_only_where_they_must(sizes: list[list[int]], frame_bytes: int) -> None:
    """Every unit that fits into a frame is in one; frames hold all records in order."""
    limit = pytest.MonkeyPatch()
    limit.setattr(groups, "COUNT_MAX", 5)
    limit.setattr(groups, "FRAME_BYTES", frame_bytes)
    limit.setattr(groups, "BODY_BYTES_MAX", 20 + groups.ARRAY_HEADER_BYTES)
    group = group_of(1, sizes)
    try:
        frames = groups.cut(group)
    finally:
        limit.undo()
    assert frames[-1] == (len(group.records), False)
    start = 0
    for stop, more in frames:
        part = group.records[start:stop]
        assert 0 < len(part) <= 5
        assert sum(map(len, part)) <= 20
        assert more == (stop not in group.ends)
        start = stop
    for unit, end in zip(sizes, group.ends, strict=True):
        if len(unit) <= 5 and sum(unit) <= 20:
            borders = [stop for stop, _ in frames if end - len(unit) < stop < end]
            assert not borders


@pytest.mark.slow
@given(st.lists(units, min_size=1, max_size=10), st.integers(1, 60), st.integers(1, 12))
def test_merged_groups_hold_the_same_units(
    sizes: list[list[list[int]]], frame_bytes: int, count_max: int
) -> None:
    """Nothing is lost or moved, units end where they ended, and no two fit into one frame."""
    limit = pytest.MonkeyPatch()
    limit.setattr(groups, "FRAME_BYTES", frame_bytes)
    limit.setattr(groups, "COUNT_MAX", count_max)
    given_groups: list[Group] = []
    first = 1
    for one in sizes:
        given_groups.append(group_of(first, one))
        first += len(given_groups[-1].records)
    try:
        found = groups.merged(given_groups)
    finally:
        limit.undo()
    assert ends_of(found) == ends_of(given_groups)
    records = [record for group in given_groups for record in group.records]
    assert [record for group in found for record in group.records] == records
    for left, right in pairwise(found):
        size_bytes = left.size_bytes + right.size_bytes
        assert size_bytes > frame_bytes or len(left.records) + len(right.records) > count_max
    for group in found:
        assert group.size_bytes == sum(map(len, group.records))
        assert group in given_groups or (
            group.size_bytes <= frame_bytes and len(group.records) <= count_max
        )


def ends_of(some: list[Group]) -> list[int]:
    """Return the sequences at which the units of *some* groups end, each after the last."""
    return [group.first + end for group in some for end in group.ends]


def test_small_groups_share_a_frame() -> None:
    """Whoever commits each record for itself still gets one frame for all that waited."""
    singles = [group_of(first, [[3]]) for first in range(1, 101)]
    assert groups.merged(singles) == [group_of(1, [[3]] * 100)]
