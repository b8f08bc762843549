from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.lanes import Lanes


def popped(lanes: Lanes) -> list[int]:
    """Take everything out."""
    return [lanes.pop() for _ in range(len(lanes))]


def test_a_busy_key_does_not_hold_up_the_others() -> None:
    """One of each key in turn: a device that fires a thousand times waits behind itself."""
    lanes = Lanes()
    for item in range(5):
        lanes.push("loud", item)
    lanes.push("quiet", 10)
    lanes.push("calm", 20)

    assert popped(lanes) == [0, 10, 20, 1, 2, 3, 4]


def test_within_a_key_the_oldest_goes_first() -> None:
    """Runs of one key start in the order of their firings."""
    lanes = Lanes()
    for item in (3, 1, 2):
        lanes.push(("rule", "k"), item)

    assert popped(lanes) == [3, 1, 2]


def test_a_key_that_comes_back_goes_to_the_end_of_the_round() -> None:
    """A key gets no second turn before the others had theirs."""
    lanes = Lanes()
    lanes.push("a", 1)
    lanes.push("b", 2)
    lanes.push("c", 3)
    assert lanes.pop() == 1
    lanes.push("a", 4)

    assert popped(lanes) == [2, 3, 4]


def test_an_item_can_be_taken_out() -> None:
    """A run that its parent carries out itself does not start a second time."""
    lanes = Lanes()
    lanes.push("a", 1)
    lanes.push("a", 2)
    lanes.push("b", 3)

    assert lanes.discard("a", 1)
    assert lanes.discard("b", 3)
    assert not lanes.discard("a", 1)
    assert not lanes.discard("nobody", 1)
    assert not lanes.discard("b", 3)
    assert popped(lanes) == [2]


def test_nothing_comes_out_of_nothing() -> None:
    """Taking from empty lanes is a mistake that shows."""
    lanes = Lanes()
    with pytest.raises(IndexError):
        lanes.pop()
    lanes.push("a", 1)
    lanes.pop()

    with pytest.raises(IndexError):
        lanes.pop()
    assert len(lanes) == 0


class LanesMachine(RuleBasedStateMachine):
    """Against a list of lanes that is gone through from the front."""

    def __init__(self) -> None:
        super().__init__()
        self.lanes = Lanes()
        self.model: list[tuple[str, list[int]]] = []
        self.count = 0

    @rule(lane=st.sampled_from("abcd"))
    def push(self, lane: str) -> None:
        self.count += 1
        self.lanes.push(lane, self.count)
        for name, items in self.model:
            if name == lane:
                items.append(self.count)
                return
        self.model.append((lane, [self.count]))

    @precondition(lambda self: self.model)
    @rule()
    def pop(self) -> None:
        lane, items = self.model.pop(0)
        assert self.lanes.pop() == items.pop(0)
        if items:
            self.model.append((lane, items))

    @rule(lane=st.sampled_from("abcd"), item=st.integers(1, 30))
    def discard(self, lane: str, item: int) -> None:
        there = [entry for entry in self.model if entry[0] == lane and item in entry[1]]
        assert self.lanes.discard(lane, item) == bool(there)
        for entry in there:
            entry[1].remove(item)
            if not entry[1]:
                self.model.remove(entry)

    @invariant()
    def length(self) -> None:
        assert len(self.lanes) == sum(len(items) for _, items in self.model)


TestLanesAreARoundRobin = pytest.mark.slow(LanesMachine.TestCase)
