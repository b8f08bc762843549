from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.engine import timers as timers_module
from headrace.engine.timers import LEFT_SPARE, TimerId, Timers

OWNERS = st.sampled_from(["", "hot", "quiet"])
KEYS = st.sampled_from([None, 0, 1, "k", ("a", 1), 2.5, b"x"])
TIMERS = st.tuples(OWNERS, st.integers(0, 1), KEYS)
DUE_NS = st.integers(0, 6)  # few, so that ties and moves to the same time are frequent


class SortedList:
    """The obvious set of timers: a list that is sorted anew for each question."""

    def __init__(self) -> None:
        self.armed: list[tuple[int, int, TimerId]] = []
        self.order = 0

    def arm(self, timer: TimerId, due_ns: int) -> None:
        self.disarm(timer)
        self.order += 1
        self.armed.append((due_ns, self.order, timer))

    def disarm(self, timer: TimerId) -> None:
        self.armed = [entry for entry in self.armed if entry[2] != timer]

    def first(self) -> tuple[int, TimerId] | None:
        if not self.armed:
            return None
        due_ns, _, timer = min(self.armed, key=lambda entry: entry[:2])
        return due_ns, timer


class TimersMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.timers = Timers()
        self.model = SortedList()

    @initialize(spare=st.sampled_from([0, 2, LEFT_SPARE]))
    def begin(self, spare: int) -> None:
        """Tidy up all the time, now and then, or never."""
        self.patch = patch.object(timers_module, "LEFT_SPARE", spare)
        self.patch.start()

    @rule(timer=TIMERS, due_ns=DUE_NS)
    def arm(self, timer: TimerId, due_ns: int) -> None:
        self.timers.arm(timer, due_ns)
        self.model.arm(timer, due_ns)

    @rule(timer=TIMERS)
    def disarm(self, timer: TimerId) -> None:
        self.timers.disarm(timer)
        self.model.disarm(timer)

    @rule(owner=OWNERS)
    def disarm_owner(self, owner: str) -> None:
        self.timers.disarm_owner(owner)
        for _, _, timer in list(self.model.armed):
            if timer[0] == owner:
                self.model.disarm(timer)

    @rule()
    def fire(self) -> None:
        assert self.timers.first() == self.model.first()
        first = self.model.first()
        if first is not None:
            self.timers.disarm(first[1])
            self.model.disarm(first[1])

    @rule()
    def look(self) -> None:
        assert self.timers.first() == self.model.first()

    @rule(timer=TIMERS)
    def ask(self, timer: TimerId) -> None:
        due = {armed: due_ns for due_ns, _, armed in self.model.armed}
        assert self.timers.due_ns(timer) == due.get(timer)

    # Not looked at after each step: looking tidies the heap up, and would hide what a
    # sequence of moves without a look in between does to it.

    @invariant()
    def counts(self) -> None:
        assert len(self.timers) == len(self.model.armed)

    @invariant()
    def dump_is_all(self) -> None:
        listed = [[*timer, due_ns, order] for due_ns, order, timer in sorted_by_time(self.model)]
        assert self.timers.dump() == [self.model.order, listed]

    def teardown(self) -> None:
        """All that is left comes out in the order of law L3."""
        self.patch.stop()
        while (first := self.model.first()) is not None:
            assert self.timers.first() == first
            self.timers.disarm(first[1])
            self.model.disarm(first[1])
        assert self.timers.first() is None
        assert len(self.timers) == 0


def sorted_by_time(model: SortedList) -> list[tuple[int, int, TimerId]]:
    return sorted(model.armed, key=lambda entry: entry[:2])


TestTimersAreASortedList = pytest.mark.slow(TimersMachine.TestCase)


def drained(timers: Timers) -> list[tuple[int, TimerId]]:
    """Fire everything."""
    fired = []
    while (first := timers.first()) is not None:
        fired.append(first)
        timers.disarm(first[1])
    return fired


def test_ties_fire_in_the_order_of_arming() -> None:
    """Law L3: at the same due time, who was armed first fires first, whatever its name."""
    timers = Timers()
    for owner in ("z", "a", "m"):
        timers.arm((owner, 0, None), 5)

    assert [timer[0] for _, timer in drained(timers)] == ["z", "a", "m"]


def test_a_timer_that_is_armed_again_for_the_same_time_goes_to_the_end() -> None:
    """The order of arming is that of the last arming, or a fold could not know it."""
    timers = Timers()
    for owner in ("a", "b", "a"):
        timers.arm((owner, 0, None), 5)

    assert [timer[0] for _, timer in drained(timers)] == ["b", "a"]


def test_a_watchdog_that_moves_on_costs_one_entry() -> None:
    """A million readings of a sensor leave one entry, not a million."""
    timers = Timers()
    for due_ns in range(1_000):
        timers.arm(("quiet", 0, "s1"), due_ns)

    assert len(timers._calendar) == 1
    assert drained(timers) == [(999, ("quiet", 0, "s1"))]


@pytest.mark.slow
@given(moves=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 50)), max_size=200))
def test_the_calendar_holds_little_more_than_what_is_armed(moves: list[tuple[str, int]]) -> None:
    """Moving timers to and fro leaves nothing behind once the calendar is looked at."""
    timers = Timers()
    for _ in range(5):
        for owner, due_ns in moves:
            timers.arm((owner, 0, None), due_ns)
            timers.first()
        drained(timers)

    assert len(timers._calendar) == 0
    assert timers._left == {}


@pytest.mark.slow
def test_timers_that_are_disarmed_early_leave_little() -> None:
    """A time-out of a day that is not needed does not cost its memory for a day."""
    timers, day_ns = Timers(), 86_400 * 10**9
    for number in range(10):
        timers.arm(("", number, 1), day_ns + 10 - number)
    for number in range(10, 20 * LEFT_SPARE):
        timers.arm(("", number, 1), day_ns + number * 10**9)
        timers.disarm(("", number, 1))

    assert len(timers._left) <= len(timers) + LEFT_SPARE
    assert len(timers._calendar) <= 2 * len(timers) + LEFT_SPARE
    assert [timer[1] for _, timer in drained(timers)] == [*range(9, -1, -1)]


@pytest.mark.parametrize("due_ns", [-(2**63), 0, 2**62, 2**64 - 1])
def test_any_time_that_a_record_can_hold_is_a_due_time(due_ns: int) -> None:
    """Timers of log times before 1970 and far in the future keep their place."""
    timers = Timers()
    timers.arm(("a", 0, None), 0)
    timers.arm(("b", 0, None), due_ns)

    expected = sorted([(0, "a"), (due_ns, "b")], key=lambda pair: pair[0])
    assert [(due, timer[0]) for due, timer in drained(timers)] == expected


def test_a_dump_is_the_same_bytes_for_the_same_timers() -> None:
    """What is compared between live and fold does not depend on how the heap came about."""

    def made(*dues_ns: int) -> bytes:
        timers = Timers()
        for due_ns in dues_ns:
            timers.arm(("a", 0, ("k", 1)), due_ns)
        timers.first()
        dumped: Any = timers.dump()
        return msgspec.msgpack.encode(dumped)

    assert made(5, 9) == made(9, 9) == made(1, 9)
    assert made(5, 9) != made(5, 8)
    assert made(9) != made(9, 9), "the next arming has another order"


def test_keys_of_one_owner_are_timers_of_their_own() -> None:
    """Every (rule, stage, key) has its own timer; only the owner's are dropped with it."""
    timers = Timers()
    timers.arm(("quiet", 0, "k"), 3)
    timers.arm(("quiet", 1, "k"), 2)
    timers.arm(("quiet", 0, ("k", 1)), 1)
    timers.arm(("", 0, "k"), 4)
    timers.disarm_owner("quiet")

    assert drained(timers) == [(4, ("", 0, "k"))]
