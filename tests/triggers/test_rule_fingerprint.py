"""Law L8: what makes a rule another rule."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import msgspec
import pytest

from headrace import any_of, on, silent
from headrace.engine.decider import RunMode
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule


class Reading(msgspec.Struct):
    celsius: float


class Renamed(msgspec.Struct):
    celsius: float


class Wider(msgspec.Struct):
    celsius: float
    place: str = ""


def high(event: Any) -> bool:
    return bool(event.data > 1)


def low(event: Any) -> bool:
    return bool(event.data < 1)


def of(pattern: Pattern[Any], mode: RunMode = "parallel", version: str | None = None) -> str:
    return Rule("r", pattern, mode, version).fingerprint()


a, b, c = on("a"), on("b"), on("c")

DIFFERENT: list[Pattern[Any]] = [
    a,
    b,
    on("*"),
    on(">"),
    on("a", int),
    on("a", str),
    on("a", Reading),
    on("a", Wider),
    a.where(high),
    a.where(low),
    a.where(high).where(low),
    a.where(low).where(high),
    a.key(high),
    a.key(high).where(high),
    a.where(high).key(high),
    a.count(2, within=5),
    a.count(3, within=5),
    a.count(2, within=6),
    a.count(2, within=None),
    a.count(2, within=5, mode="edge"),
    a.count(2, within=5, mode="every"),
    a.count(2, within=5).where(high),
    a.where(high).count(2, within=5),
    a.count(2, within=5).count(3, within=5),
    a.count(3, within=5).count(2, within=5),
    silent(a, for_=5),
    silent(a, for_=6),
    silent(a, for_=5, repeat="every"),
    silent(a, for_=5, expect=["k"]),
    silent(a, for_=5, expect=["k", "l"]),
    silent(a, for_=5, expect=["l", "k"]),
    silent(a.count(2, within=5), for_=5),
    silent(a, for_=5).count(2, within=5),
    silent(silent(a, for_=5), for_=6),
    any_of(a),
    any_of(a, b),
    any_of(b, a),
    any_of(a, b, c),
    any_of(any_of(a, b), c),
    any_of(a, any_of(b, c)),
    any_of(any_of(a, b, c)),
    any_of(any_of(a), b, c),
    any_of(a, b).where(high),
    any_of(a, b.where(high)),
    any_of(a.where(high), b),
    any_of(a, b).key(high),
    any_of(a, b.key(high)),
    any_of(a, b).count(2, within=5),
    any_of(a, b.count(2, within=5)),
    any_of(a, any_of(b).count(2, within=5)),
    any_of(any_of(a, b).where(high), c),
    any_of(any_of(a, b.where(high)), c),
    any_of(a, b.where(high), c),
    silent(any_of(a, b), for_=5),
    any_of(a, silent(b, for_=5)),
]


def test_patterns_that_differ_have_different_fingerprints() -> None:
    """Whatever is changed in a pattern, its state is not taken over by what it became."""
    digests = [of(pattern) for pattern in DIFFERENT]
    same = [
        (repr(DIFFERENT[i]), repr(DIFFERENT[j]))
        for i, j in combinations(range(len(DIFFERENT)), 2)
        if digests[i] == digests[j]
    ]

    assert same == []


def test_the_mode_is_a_part_of_the_rule() -> None:
    """What a firing does while a run is active is recorded, so a change of it is a change."""
    assert len({of(a, "parallel"), of(a, "single"), of(a, "restart")}) == 3


def test_patterns_that_say_the_same_are_the_same() -> None:
    """A rule keeps its state when the app is only written differently."""
    limit = 1.0

    def warm(e: Any) -> bool:
        """Say whether it is warm."""
        return bool(e.data > 1)

    assert of(a.where(high)) == of(on("a").where(warm))
    assert of(a.where(lambda e: e.data > limit)) == of(a.where(lambda x: x.data > limit))
    assert of(on("a", Reading)) != of(on("a", Wider))
    assert of(a.count(2, within=60)) == of(a.count(2, within=60.0))


def test_a_value_that_a_condition_closes_over_is_a_part_of_the_rule() -> None:
    """A threshold out of a configuration counts as if it were written in the condition."""

    def above(limit: float) -> Pattern[Any]:
        return a.where(lambda e: e.data > limit)

    assert of(above(1)) == of(above(1))
    assert of(above(1)) != of(above(2))


def test_a_version_stands_for_the_functions_alone() -> None:
    """With `version=` functions may change, and subjects and numbers still count."""
    assert of(a.where(high), version="1") == of(a.where(low), version="1")
    assert of(a.where(high), version="1") != of(a.where(high), version="2")
    assert of(a.where(high), version="1") != of(b.where(high), version="1")
    nested = any_of(silent(a.where(high), for_=3), b)
    other = any_of(silent(a.where(low), for_=3), b)
    assert of(nested, version="1") == of(other, version="1")


def test_a_function_that_cannot_be_digested_asks_for_a_version() -> None:
    """The message says what to do."""
    with pytest.raises(TypeError, match=r'version="1"'):
        of(a.where(eval("lambda e: True")))

    assert of(a.where(eval("lambda e: True")), version="1")
