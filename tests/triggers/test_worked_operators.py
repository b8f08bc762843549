"""The worked examples of the operators that thin out, gather and compare, each as it stands."""

from __future__ import annotations

from typing import Any

import pytest

from headrace import Firing, absent, all_of, field, on
from headrace.testing import firings
from headrace.triggers.nodes import Edge, Keep

a, b = on("a"), on("b")

Timeline = list[tuple[float, str, Any]]


def at(*seconds: float, subject: str = "a") -> Timeline:
    """A timeline of events on one subject; the data is the time."""
    return [(t, subject, t) for t in seconds]


def ms(*milliseconds: float) -> Timeline:
    """The same in milliseconds, which are the data."""
    return [(t / 1000, "a", t) for t in milliseconds]


def values(*pairs: tuple[float, Any], subject: str = "a") -> Timeline:
    """A timeline of ``(seconds, data)``."""
    return [(t, subject, data) for t, data in pairs]


def seen(fired: list[Firing[Any]]) -> list[tuple[float, list[Any]]]:
    """When, and with the data of which events."""
    return [(f.at, [event.data for event in f.events]) for f in fired]


def times(fired: list[Firing[Any]]) -> list[float]:
    return [f.at for f in fired]


# ---------------------------------------------------------------- crosses


CROSSING = values(*enumerate([29, 31, 33, 29, 31, 27, 31]))


def test_crossing_a_threshold_fires_on_the_transition_only() -> None:
    """Above 30, h=2: ``29 31 33 29 31 27 31`` → the 2nd and the last."""
    pattern = a.crosses(lambda e: e.data, above=30, hysteresis=2)

    assert times(firings(pattern, CROSSING)) == [1, 6]


def test_without_hysteresis_each_return_arms_again() -> None:
    """Re-arms strictly beyond: what is exactly at the threshold is not below it."""
    pattern = a.crosses(field(), above=30)

    assert times(firings(pattern, CROSSING)) == [1, 4, 6]
    assert times(firings(pattern, values((0, 31), (1, 30), (2, 31), (3, 29), (4, 31)))) == [4]


@pytest.mark.parametrize("initial", [False, True])
def test_the_first_observation_is_no_transition(initial: bool) -> None:
    """Unless ``initial=True``: a plant that is hot when the rule begins."""
    pattern = a.crosses(field(), above=30, initial=initial)
    timeline = values((0, 35), (1, 36), (2, 20), (3, 31))

    assert times(firings(pattern, timeline)) == ([0, 3] if initial else [3])


def test_crossing_downwards_is_the_mirror_image() -> None:
    """Below 10, h=1: fires below 10, arms again above 11."""
    pattern = a.crosses(field("level"), below=10, hysteresis=1)
    levels = [12, 9, 8, 10.5, 9, 11, 9, 11.5, 9]
    timeline = values(*[(t, {"level": level}) for t, level in enumerate(levels)])

    assert times(firings(pattern, timeline)) == [1, 8]


def test_what_is_no_number_is_no_observation() -> None:
    """A missing, wrong or undefined value neither fires nor arms."""
    pattern = a.crosses(field("x"), above=5)
    odd: list[Any] = [{}, {"x": None}, {"x": "9"}, {"x": True}, {"x": float("nan")}]
    timeline = values((0, {"x": 1}), (1, {"x": 6}), *[(2, data) for data in odd], (3, {"x": 7}))

    assert times(firings(pattern, timeline)) == [1]


# ---------------------------------------------------------------- hold


HOLDING = values((0, 20), (5, 31), (10, 33), (34, 29), (40, 31), (60, 32), (70, 35))


def test_a_condition_has_to_hold() -> None:
    """>30 for 30: ``0:20 5:31 10:33 34:29 40:31 60:32 70:35`` → 70 only."""
    fired = firings(a.where(field() > 30).hold(for_=30), HOLDING, until=200)

    assert seen(fired) == [(70, [31, 32])]


def test_it_fires_once_until_the_condition_was_false() -> None:
    """A further event for which it is true neither restarts it nor fires again."""
    timeline = values((0, 31), (50, 31), (90, 31), (100, 1), (101, 31))

    assert times(firings(a.where(field() > 30).hold(for_=30), timeline, until=200)) == [30, 131]


def test_false_at_the_due_time_comes_too_late() -> None:
    """Timers go first (L3), to the nanosecond."""
    pattern = a.where(field() > 30).hold(for_=30)

    assert times(firings(pattern, values((0, 31), (30, 1)))) == [30]
    assert times(firings(pattern, values((0, 31), (29.999999999, 1)), until=99)) == []


def test_the_condition_is_what_stands_nearest() -> None:
    """A `.where` before the `.key` only chooses events; one behind it is what has to hold."""
    hot = (
        a.where(field("kind") == "heat")
        .key(field("room"))
        .where(field("celsius") > 30)
        .hold(for_=10)
    )
    timeline = values(
        (0, {"kind": "heat", "room": "x", "celsius": 31}),
        (1, {"kind": "heat", "room": "y", "celsius": 31}),
        (2, {"kind": "noise", "room": "x", "celsius": 1}),  # is chosen out: changes nothing
        (3, {"kind": "heat", "room": "y", "celsius": 1}),
    )

    assert [(f.at, f.key) for f in firings(hot, timeline, until=99)] == [(10, "x")]


def test_a_key_behind_the_condition_counts_for_events_that_fail_it_too() -> None:
    """`.where(p).key(k).hold(…)`: the event that ends the wait is of the same key."""
    pattern = a.where(field("on") == True).key(field("room")).hold(for_=10)  # noqa: E712
    timeline = values(
        (0, {"on": True, "room": "x"}),
        (0, {"on": True, "room": "y"}),
        (5, {"on": False, "room": "x"}),
    )

    assert [(f.at, f.key) for f in firings(pattern, timeline, until=99)] == [(10, "y")]


# ---------------------------------------------------------------- debounce, session


def test_a_burst_fires_when_it_is_over() -> None:
    """d=50: ``250 350 370 421 480 490 500`` → 300 420 471 550, each with all of its burst."""
    fired = firings(a.debounce(quiet=0.05), ms(250, 350, 370, 421, 480, 490, 500), until=9)

    assert seen(fired) == [
        (0.3, [250]),
        (0.42, [350, 370]),
        (0.471, [421]),
        (0.55, [480, 490, 500]),
    ]


def test_a_burst_is_cut_at_its_longest() -> None:
    """d=10, m=25: ``0 8 16 24 32`` → 25{0,8,16,24} 42{32}."""
    fired = firings(a.debounce(0.01, max_wait=0.025), ms(0, 8, 16, 24, 32), until=9)

    assert seen(fired) == [(0.025, [0, 8, 16, 24]), (0.042, [32])]


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        ("leading", [(0, [0], None), (9, [9], None)]),
        ("trailing", [(3, [0, 1], None), (11, [9], None)]),
        ("both", [(0, [0], "leading"), (3, [1], "trailing"), (9, [9], "leading")]),
    ],
)
def test_a_burst_fires_at_its_edges(edge: Edge, expected: list[Any]) -> None:
    """With both, the end fires only if more came than the beginning told of."""
    fired = firings(a.debounce(2, edge=edge), at(0, 1, 9), until=99)

    assert [(*one, f.reason) for one, f in zip(seen(fired), fired, strict=True)] == expected


def test_a_session_is_all_that_comes_close_together() -> None:
    """At exactly the gap a new one begins: half-open, as everything."""
    assert seen(firings(a.session(5), at(0, 4.9, 9.9, 20), until=99)) == [
        (9.9, [0, 4.9]),
        (14.9, [9.9]),
        (25, [20]),
    ]
    assert seen(firings(a.session(5, max=7), at(0, 4, 6.9, 7, 8), until=99)) == [
        (7, [0, 4, 6.9]),
        (13, [7, 8]),
    ]


# ---------------------------------------------------------------- throttle, rate_limit, dedupe


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        ("leading", [(0.21, [210]), (0.41, [410])]),
        ("trailing", [(0.41, [350]), (0.61, [450])]),
        ("both", [(0.21, [210]), (0.41, [350]), (0.61, [450])]),
    ],
)
def test_the_throttle_table(edge: Edge, expected: list[Any]) -> None:
    """p=200: ``210 250 310 350 410 450``; a trailing firing begins a new period."""
    fired = firings(a.throttle(0.2, edge), ms(210, 250, 310, 350, 410, 450), until=9)

    assert seen(fired) == expected


def test_a_rate_limit_loses_nothing() -> None:
    """One in ten seconds: what is too much waits for its turn, in its order."""
    fired = firings(a.rate_limit(1, per=10), at(0, 1, 2, 35), until=99)

    assert seen(fired) == [(0, [0]), (10, [1]), (20, [2]), (35, [35])]


def test_a_burst_is_what_passes_at_once() -> None:
    """Two in ten seconds with a burst of two: then one each five seconds (GCRA)."""
    fired = firings(a.rate_limit(2, 10), at(0, 0, 0, 0), until=99)

    assert times(fired) == [0, 0, 5, 10]
    assert times(firings(a.rate_limit(2, 10, burst=1), at(0, 0, 0, 0), until=99)) == [0, 5, 10, 15]


def test_a_third_of_a_second_is_not_rounded() -> None:
    """Three in one second: each thousandth turn is due exactly where it should be."""
    fired = firings(a.rate_limit(3, 1, burst=1), [(0, "a", n) for n in range(3001)], until=1001)

    assert (fired[3].at, fired[3000].at) == (1, 1000)
    assert len(fired) == 3001


@pytest.mark.parametrize(("overflow", "expected"), [("drop", [0, 10]), ("latest", [0, 3, 10])])
def test_what_is_too_much_can_be_lost(overflow: Any, expected: list[float]) -> None:
    """``drop`` loses it, ``latest`` lets only the newest wait."""
    fired = firings(a.rate_limit(1, 4, overflow=overflow), at(0, 1, 2, 3, 10), until=99)

    assert [event.data for f in fired for event in f.events] == expected


def test_duplicates_are_dropped_for_a_while() -> None:
    """ttl=5: 15 pass, 18 drop, 19.999 drop, 20 pass; duplicates do not extend it."""
    assert times(firings(a.dedupe(None, ttl=5), at(15, 18, 19.999, 20))) == [15, 20]
    assert times(firings(a.dedupe(None, 5, refresh=True), at(15, 18, 20, 24.9, 30))) == [15, 30]


def test_duplicates_are_told_by_what_is_compared() -> None:
    """By key of the automaton and by what the function gives; ``None`` tells nothing apart."""
    pattern = a.key(field("who")).dedupe(field("id"), ttl=9)
    pairs = [("x", 1), ("y", 1), ("x", 1), ("x", 2), ("x", None), ("x", None)]
    timeline = values(*[(t, {"who": who, "id": id_}) for t, (who, id_) in enumerate(pairs)])

    assert times(firings(pattern, timeline)) == [0, 1, 3, 4, 5]


# ---------------------------------------------------------------- batch, windows


def test_a_batch_is_full_or_over() -> None:
    """n=3, within=10: ``0 4 9 20 31`` → 9{0,4,9} 30{20} 41{31}."""
    fired = firings(a.batch(3, within=10), at(0, 4, 9, 20, 31), until=99)

    assert seen(fired) == [(9, [0, 4, 9]), (30, [20]), (41, [31])]
    assert [f.reason for f in fired] == ["n", "time", "time"]


def test_a_batch_is_bounded_by_bytes() -> None:
    """The bytes are those of the stored data: of a text of three letters there are four."""
    fired = firings(a.batch(bytes_max=8), values((0, "abc"), (1, "def"), (2, "ghi")))

    assert [(f.at, f.reason) for f in fired] == [(1, "bytes")]


def test_tumbling_windows_are_aligned_to_the_epoch() -> None:
    """[k·size, (k+1)·size): they fire by timer, and an event at an end belongs to the next."""
    fired = firings(a.tumbling(10), at(3, 9.999, 10, 25), until=99)

    assert seen(fired) == [(10, [3, 9.999]), (20, [10]), (30, [25])]


def test_hopping_windows_overlap() -> None:
    """Each event is in every window that contains its time."""
    fired = firings(a.hopping(10, every=5), at(3, 7, 12), until=99)

    assert seen(fired) == [(5, [3]), (10, [3, 7]), (15, [7, 12]), (20, [12])]


def test_between_windows_nothing_is_kept() -> None:
    """Windows that begin further apart than they are long leave gaps."""
    assert seen(firings(a.hopping(2, every=5), at(1, 3, 4.9, 5, 6.5), until=99)) == [
        (2, [1]),
        (7, [5, 6.5]),
    ]


def test_empty_windows_fire_only_if_asked() -> None:
    """From a key's first event on."""
    fired = firings(a.tumbling(10, emit_empty=True), at(23, 41), until=60)

    assert seen(fired) == [(30, [23]), (40, []), (50, [41]), (60, [])]


def test_days_are_those_of_a_zone() -> None:
    """Berlin, 29 March 2026: the day has 23 hours, from 23:00 UTC to 22:00 UTC."""
    day, noon = 86_400, 1_774_782_000  # 2026-03-29 11:00 UTC
    fired = firings(a.tumbling(day, tz="Europe/Berlin"), at(noon, noon + day), until=noon + 2 * day)

    assert times(fired) == [1_774_821_600, 1_774_821_600 + day]


def test_an_aggregate_is_made_of_all_events() -> None:
    """Of a window, a count or anything else that has several; conditions behind it see it."""
    sums = a.tumbling(10).aggregate(lambda events: sum(e.data for e in events))
    timeline = at(1, 2, 11, 25, 26)

    assert [(f.at, f.value) for f in firings(sums, timeline, until=99)] == [
        (10, 3),
        (20, 11),
        (30, 51),
    ]
    large = sums.where(lambda e: e.value > 5)
    assert [f.value for f in firings(large, timeline, until=99)] == [11, 51]


# ---------------------------------------------------------------- all_of, absent


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("latest", [(15, ["A10", "B15"]), (25, ["B20", "A25"])]),
        ("first", [(15, ["A0", "B15"]), (25, ["B20", "A25"])]),
        ("all", [(15, ["A0", "A10", "B15"]), (25, ["B20", "A25"])]),
    ],
)
def test_the_all_of_table(keep: Keep, expected: list[Any]) -> None:
    """W=100, ``A0 A10 B15 B20 A25``."""
    timeline: Timeline = [
        (float(name[1:]), name[0].lower(), name) for name in ("A0", "A10", "B15", "B20", "A25")
    ]

    assert seen(firings(all_of(a, b, within=100, keep=keep), timeline)) == expected


def test_all_of_says_which_event_met_what() -> None:
    """By the name of the step, or by its place."""
    (fired,) = firings(all_of(b, a, within=None), [(0, "a", 1), (9, "b", 2)])

    assert {name: [e.data for e in events] for name, events in fired.steps.items()} == {
        "s1": [2],
        "s2": [1],
    }


def test_what_is_too_old_does_not_count() -> None:
    """W=10: at exactly ten seconds it is gone."""
    assert times(firings(all_of(a, b, within=10), [(0, "a", 0), (10, "b", 0)])) == []
    assert times(firings(all_of(a, b, within=10), [(0, "a", 0), (9.9, "b", 0)])) == [9.9]


def test_what_does_not_come_is_noticed() -> None:
    """W=10, A@0: B@9 → none; B@10 → fires @10."""
    pattern = absent(b, after=a, within=10)

    assert firings(pattern, [(0, "a", 0), (9, "b", 0)], until=99) == []
    assert seen(firings(pattern, [(0, "a", "A"), (10, "b", 0)], until=99)) == [(10, ["A"])]


@pytest.mark.parametrize(("rearm", "expected"), [("ignore", [10, 22]), ("restart", [22])])
def test_a_further_beginning(rearm: Any, expected: list[float]) -> None:
    """While it waits it is ignored, unless it is to begin the wait again."""
    pattern = absent(b, after=a, within=10, rearm=rearm)
    timeline: Timeline = [(0, "a", 0), (4, "a", 4), (12, "a", 12)]

    assert times(firings(pattern, timeline, until=99)) == expected


def test_one_event_can_be_the_end_and_the_beginning() -> None:
    """What meets both first ends the wait, and then begins another one."""
    pattern = absent(on("*"), after=a, within=10)

    assert times(firings(pattern, [(0, "a", 0), (5, "a", 0), (9, "c", 0)], until=99)) == []
    assert times(firings(pattern, [(0, "a", 0), (5, "a", 0)], until=99)) == [15]
