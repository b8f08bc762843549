"""Each operator, over anything and under anything, against the reference model."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.happened import Given
from tests.reference.playing import START, assert_same, declared, play
from tests.reference.shell import ns
from tests.reference.spec import Count, CountMode, On, Spec, Throttle, Windows
from tests.reference.strategies import family
from tests.reference.timelines import timelines

FAMILIES = {
    "filters": ("where", "key", "dedupe"),
    "thresholds": ("crosses", "hold"),
    "rates": ("count", "debounce", "throttle", "rate_limit"),
    "windows": ("batch", "tumbling", "hopping", "session", "aggregate"),
    "joins": ("any_of", "all_of", "absent", "silent"),
}


@pytest.mark.slow
@pytest.mark.parametrize("names", FAMILIES.values(), ids=FAMILIES.keys())
def test_operators_are_what_the_model_says(names: tuple[str, ...]) -> None:
    """On random timelines with ties, whatever is before and behind, firing by firing."""

    @settings(max_examples=500)
    @given(spec=family(*names), timeline=timelines())
    def same(spec: Spec, timeline: list[Given]) -> None:
        shell = play(declared(spec).start(ns(START)), timeline)

        assert_same(shell, spec, timeline)

    same()


@pytest.mark.parametrize("mode", ["reset", "edge", "every"])
def test_a_count_is_not_for_the_reason_of_what_it_counts(mode: CountMode) -> None:
    """Also where it counts numbers only: that a burst began or ended is not why it fires."""
    spec = Count(Throttle(On("a.x"), 1, "both"), 2, 9, mode)
    timeline = [Given(0, "a.x", 0), Given(0.5, "a.x", 1)]

    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)


HOUR = 3600
CHANGES = {
    "Europe/Berlin": 1_711_846_800,  # 2024-03-31T01:00Z, a day of 23 hours
    "America/New_York": 1_730_613_600,  # 2024-11-03T06:00Z, one of 25
    "Asia/Kolkata": 1_711_846_800,  # none, and not a whole number of hours from UTC
    "UTC": 1_711_846_800,
}


@st.composite
def days(draw: st.DrawFn) -> tuple[Windows, list[Given]]:
    """Windows of days around a change of the clocks, and events at their borders."""
    zone = draw(st.sampled_from(sorted(CHANGES)))
    size, every = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    spec = Windows(On("x"), size * 24 * HOUR, every * 24 * HOUR, zone, draw(st.booleans()))
    begin = CHANGES[zone] - 60 * HOUR
    halves = draw(st.lists(st.integers(0, 240), max_size=12).map(sorted))
    events = [Given(begin + half * HOUR / 2, "x", half) for half in halves]
    return spec, [*events, Given(begin + 200 * HOUR, "end", None)]


@pytest.mark.slow
@settings(max_examples=150)
@given(case=days())
def test_days_are_what_the_model_says(case: tuple[Windows, list[Given]]) -> None:
    """From midnight to midnight of a time zone, also where the clocks are changed."""
    spec, timeline = case
    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)
