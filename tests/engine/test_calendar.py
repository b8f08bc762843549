from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.calendar import SMALL, Calendar, Entry

# Ties, neighbours, the borders of buckets of every width, and the far ends of time.
TIMES = st.one_of(
    st.integers(0, 5),
    st.builds(
        lambda bits, number, off: max(0, (number << bits) + off),
        st.sampled_from([20, 30, 40]),
        st.integers(0, 3),
        st.integers(-1, 1),
    ),
    st.integers(-(2**63), 2**64 - 1),
)


@pytest.mark.slow
@given(steps=st.lists(st.one_of(TIMES, st.none()), max_size=60))
def test_a_calendar_gives_what_a_heap_gives(steps: list[int | None]) -> None:
    """Earliest first, of one time in the order of putting in, in whatever order they come."""
    calendar, heap = Calendar(), list[Entry]()
    for order, due_ns in enumerate(steps):
        if due_ns is not None:
            calendar.put((due_ns, order, "x"))
            heapq.heappush(heap, (due_ns, order, "x"))
        elif heap:
            assert calendar.first() == heapq.heappop(heap)
            calendar.pop()
    while heap:
        assert calendar.first() == heapq.heappop(heap)
        calendar.pop()

    assert calendar.first() is None
    assert len(calendar) == 0


@pytest.mark.slow
@given(spread_bits=st.integers(0, 50), seed=st.randoms(use_true_random=False))
def test_large_buckets_are_dealt_out(spread_bits: int, seed: object) -> None:
    """Many entries of one bucket come in order too, also with others put in meanwhile."""
    from random import Random

    assert isinstance(seed, Random)
    calendar, count = Calendar(), 3 * SMALL
    entries = [(seed.getrandbits(spread_bits or 1), order, None) for order in range(count)]
    for entry in entries[: 2 * SMALL]:
        calendar.put(entry)
    taken: list[Entry] = []
    later = iter(entries[2 * SMALL :])
    while (first := calendar.first()) is not None:
        calendar.pop()
        taken.append(first)
        # As a kernel does: nothing is armed before what has just fired.
        late = next(later, None)
        if late is not None:
            calendar.put((first[0] + late[0], late[1], None))

    assert len(taken) == count
    assert [entry[0] for entry in taken] == sorted(entry[0] for entry in taken)
