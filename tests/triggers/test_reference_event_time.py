"""Rules that go by event time against the reference model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from tests.reference.functions import time_of
from tests.reference.happened import Given, Happened, Unsettled
from tests.reference.model import Model
from tests.reference.playing import START, actual, assert_same, declared, end_of, play
from tests.reference.shell import ns
from tests.reference.spec import Batch, EventTime, On, Spec
from tests.reference.strategies import ANY, BY_EVENT_TIME, by_event_time, changed
from tests.reference.timelines import SUBJECTS, stamped_timelines, timelines

from headrace.engine import record as r
from headrace.engine.clock import NS

ALIGNED_S = 840
"""A multiple of every period and window there is."""


@pytest.mark.slow
@settings(max_examples=600)
@given(spec=BY_EVENT_TIME, timeline=stamped_timelines())
def test_rules_by_event_time_are_what_the_model_says(spec: Spec, timeline: list[Given]) -> None:
    """Events wait for the watermark, then all goes by their own times, firing by firing."""
    shell = play(declared(spec).start(ns(START)), timeline)

    assert_same(shell, spec, timeline)
    assert shell.refold().dump() == shell.kernel.dump()


@pytest.mark.slow
@given(spec=ANY, timeline=timelines())
def test_events_in_order_are_what_they_are_in_log_time(spec: Spec, timeline: list[Given]) -> None:
    """Where event time is log time and ties may wait, a rule fires the same by either."""
    stamped = [event._replace(data=[event.data, event.at]) for event in timeline]
    end = end_of(timeline)
    ended = [*stamped, *(Given(end, subject, [0, end + 1]) for subject in SUBJECTS)]
    by_time = by_event_time(spec, 1, "drop")

    assert meant(by_time, ended) == meant(without_event_time(by_time), stamped)
    assert_same(play(declared(by_time).start(ns(START)), ended), by_time, ended)


def meant(spec: Spec, timeline: list[Given]) -> list[Happened]:
    """What the model says, where it says anything."""
    try:
        return Model(timeline, start=START, until=end_of(timeline)).firings(spec)
    except Unsettled:
        reject()


def without_event_time(spec: Any) -> Any:
    return changed(spec, lambda part: part.source if isinstance(part, EventTime) else part)


@pytest.mark.slow
@given(spec=BY_EVENT_TIME, timeline=stamped_timelines(), periods=st.integers(1, 10**6))
def test_a_shift_in_event_time_shifts_the_firings(
    spec: Spec, timeline: list[Given], periods: int
) -> None:
    """Nothing depends on what time it is, nor on what log time is by then."""
    shift = periods * ALIGNED_S
    spec = without_sizes(spec)
    here = play(declared(spec).start(ns(START)), timeline)
    later = [event._replace(data=shifted(event.data, shift)) for event in timeline]
    there = play(declared(spec).start(ns(START)), later)

    moved = [[one._replace(at=one.at + ns(shift)) for one in group] for group in actual(here)]
    assert actual(there) == moved


def without_sizes(spec: Any) -> Any:
    """Return *spec* with no batch by bytes: a later time may take more of them."""

    def change(part: Any) -> Any:
        if isinstance(part, Batch) and part.bytes_max is not None:
            return part._replace(bytes_max=None, n=part.n or 2)
        return part

    return changed(spec, change)


def shifted(data: list[Any], shift: float) -> list[Any]:
    return [data[0], data[1] + shift if isinstance(data[1], int) else data[1]]


@pytest.mark.slow
@given(timeline=stamped_timelines(), lateness=st.integers(0, 5))
def test_late_events_are_counted_and_told(timeline: list[Given], lateness: int) -> None:
    """Nobody wonders where an event is: each that came too late is a record."""
    shell = play(declared(EventTime(On(">"), time_of, lateness)).start(ns(START)), timeline)
    model = Model(timeline, start=START, until=end_of(timeline))
    model.firings(EventTime(On(">"), time_of, lateness))

    assert model.released is not None
    late = [timeline[number].data[1] for number in model.released.late]
    assert [made.time_ns / NS for made in shell.of_kind(r.RuleLate)] == late
