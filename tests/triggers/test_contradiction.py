"""Conditions that can never be true together are found, and none that can."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from tests.triggers.test_condition import Said, datas, leaves, made

from headrace import Condition, Event, any_of, field, on, sequence
from headrace.triggers.contradiction import contradictions, first_contradiction
from headrace.triggers.expression import parse_condition

NEVER = [
    "x > 5 and x < 3",
    "x > 5 and x < 5",
    "x > 5 and x <= 5",
    "x >= 5 and x < 5",
    "x == 5 and x != 5",
    "x == 5 and x == 6",
    "x == 5 and x == '5'",
    "x == True and x == 1",
    "x in [1, 2] and x > 2",
    "x in [1, 2] and x in [3, 4]",
    "x > 5 and x == 'a'",
    "x > 5 and x < 'a'",
    "x > 5 and x.matches('a')",
    "x == 'b' and x.matches('^a')",
    "x > 'b' and x < 'a'",
    "x.between(1, 3) and x.between(4, 5)",
    "x.between(1, 3) and x > 3",
    "y > 1 and (x > 5 and z > 1) and x < 3",
    "data > 5 and data < 3",
]
PERHAPS = [
    "x >= 5 and x <= 5",
    "x > 5 and x < 6",
    "x > 5 or x < 3",
    "x > 5 and y < 3",
    "x.a > 5 and x.b < 3",
    "x in [1, 3] and x > 2",
    "x == 1 and x == 1.0",
    "x == None and x.exists()",
    "x > 5 and not x < 3",
    "x.matches('^a') and x.matches('^b')",
    "x.between(1, 3) and x.between(3, 5)",
    "x != 1 and x != 2",
    "x > 'a' and x.matches('a')",
]


@pytest.mark.parametrize("text", NEVER)
def test_what_excludes_each_other_is_found(text: str) -> None:
    """A typing error in a limit makes a rule that never fires; `check` tells."""
    found = first_contradiction([parse_condition(text)])
    assert found is not None

    assert all(str(one).removeprefix("field('x')") in str(parse_condition(text)) for one in found)


@pytest.mark.parametrize("text", PERHAPS)
def test_what_can_hold_is_left_alone(text: str) -> None:
    """A false alarm would teach people to look away."""
    assert first_contradiction([parse_condition(text)]) is None


@pytest.mark.slow
@given(leaves, leaves, datas)
def test_no_data_fulfils_what_is_called_a_contradiction(one: Said, other: Said, data: Any) -> None:
    """Only what is certain is said."""
    conditions: list[Condition] = [made(one), made(other)]
    event = Event(1, "a", data, 0)
    if all(condition(event) for condition in conditions):
        assert first_contradiction(conditions) is None


def test_only_conditions_on_one_event_are_compared() -> None:
    """Two branches, two steps, or what stands behind another operator may well differ."""
    more, less = field("x") > 5, field("x") < 3
    a, b = on("a"), on("b")
    key = field("k")

    def found(pattern: Any) -> list[tuple[Condition, Condition]]:
        return list(contradictions(pattern.node))

    assert found(a.where(more).key(key).where(less)) == [(more, less)]
    assert found(a.where(more).where(less).count(3, within=5).where(less)) == [(more, less)]
    assert found(any_of(a.where(more), b.where(less))) == []
    assert found(sequence(a.where(more), b.where(less))) == []
    assert found(a.where(more).debounce(5).where(less)) == []
    assert found(a.where(lambda e: e.data > 5).where(less)) == []
