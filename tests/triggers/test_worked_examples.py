"""The worked examples of the semantics, each as it stands there."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from headrace import Firing, any_of, on, silent
from headrace.testing import firings
from headrace.triggers.nodes import CountMode, Repeat
from headrace.triggers.pattern import Pattern

a, b = on("a"), on("b")


def at(*seconds: float, subject: str = "a") -> list[tuple[float, str, Any]]:
    """A timeline of events on one subject; the data is the time."""
    return [(t, subject, t) for t in seconds]


def times(fired: list[Firing[Any]]) -> list[float]:
    return [f.at for f in fired]


def windows(fired: list[Firing[Any]]) -> list[list[float]]:
    return [[event.t for event in f.events] for f in fired]


# ---------------------------------------------------------------- filter, any_of


def test_a_filter_fires_once_for_each_event_that_matches() -> None:
    """`on(subject, Type).where(p)` fires once per matching event."""
    fired = firings(on("a.*", int).where(lambda e: e.data > 3), [(1, "a.b", 5), (2, "a.c", 3)])

    assert [(f.at, f.key, f.reason, f.steps, f.count) for f in fired] == [(1.0, None, None, {}, 1)]
    assert [(e.t, e.subject, e.data) for e in fired[0].events] == [(1.0, "a.b", 5)]


def test_any_of_fires_once_for_one_event() -> None:
    """Even when several branches match, and the firing names the branches."""
    pattern = any_of(on("a.*"), on("a.b").where(lambda e: e.data > 0), on("c"))
    fired = firings(pattern, [(1, "a.b", 1), (2, "a.b", 0), (3, "c", 0), (4, "d", 0)])

    assert [(f.at, f.branches) for f in fired] == [(1, [0, 1]), (2, [0]), (3, [2])]


def test_any_of_within_any_of_fires_once() -> None:
    """However branches are nested, one event counts once."""
    pattern = any_of(any_of(on("a"), on("*")), any_of(on("a")), on("b"))
    fired = firings(pattern, [(1, "a", 1), (2, "b", 1)])

    assert [(f.at, f.branches) for f in fired] == [(1, [0, 1]), (2, [0, 2])]


def test_any_of_counts_an_event_once() -> None:
    """A count over `any_of` advances by one for an event that several branches match (L5)."""
    pattern = any_of(on("a"), on("*"), on(">")).count(2, within=10)

    assert windows(firings(pattern, at(1, 2, 3, 4))) == [[1, 2], [3, 4]]


class Celsius(Struct):
    value: float


class Fahrenheit(Struct):
    value: float


def test_any_of_reads_an_event_as_the_branch_that_it_met() -> None:
    """Where branches have types of the same shape, the firing has the one that matched."""
    hot = on("a", Celsius).where(lambda e: e.data.value > 40)
    pattern: Pattern[Celsius | Fahrenheit] = any_of(hot, on("a", Fahrenheit))
    fired = firings(pattern, [(1, "a", {"value": 39.0}), (2, "a", {"value": 41.0})])

    assert [(f.branches, f.events[0].data) for f in fired] == [
        ([1], Fahrenheit(39)),
        ([0, 1], Celsius(41)),
    ]


def test_any_of_joins_keys_by_key() -> None:
    """Branches that give one event two keys are two firings, one for each automaton."""
    pattern = any_of(on("a").key(lambda e: "x"), on("*").key(lambda e: "y"), on("a").key(len_key))
    fired = firings(pattern, [(1, "a", "x")])

    assert [(f.key, f.branches) for f in fired] == [("x", [0, 2]), ("y", [1])]


def test_a_key_behind_any_of_is_the_only_one() -> None:
    """One event advances an automaton once (L5), whatever keys the branches gave it before."""
    either = any_of(a, a.key(lambda e: "x"), on("*").key(lambda e: "y"))

    assert [f.branches for f in firings(either.key(lambda e: "k"), at(1))] == [[0, 1, 2]]
    for pattern in (either.key(lambda e: "k"), either.where(lambda e: True).key(lambda e: "k")):
        assert windows(firings(pattern.count(2, within=9), at(1, 2, 3))) == [[1, 2]]


def len_key(event: Any) -> str:
    return str(event.data)


# ---------------------------------------------------------------- count

COUNT_TABLE: list[tuple[tuple[float, ...], CountMode, list[float]]] = [
    ((0, 50, 70, 80, 85, 90, 200), "reset", [80]),
    ((0, 50, 70, 80, 85, 90, 200), "edge", [80]),
    ((0, 50, 70, 80, 85, 90, 200), "every", [80, 85, 90]),
    ((0, 50, 70, 80, 200), "reset", [80]),
    ((0, 50, 70, 80, 200), "edge", [80]),
    ((0, 50, 70, 80, 200), "every", [80]),
    ((0, 30, 60), "reset", []),
    ((0, 30, 60), "edge", []),
    ((0, 30, 60), "every", []),
    ((0, 50, 70, 80, 115), "edge", [80, 115]),
]


@pytest.mark.parametrize(("events", "mode", "expected"), COUNT_TABLE)
def test_the_count_table(events: tuple[float, ...], mode: CountMode, expected: list[float]) -> None:
    """n=3, W=60, as the table of the semantics has it; edge re-arms also as time passes."""
    assert times(firings(a.count(3, within=60, mode=mode), at(*events))) == expected


def test_a_firing_has_all_of_the_window() -> None:
    """`reset` fires with the window and clears it; `edge` and `every` fire with the window too."""
    events = at(0, 50, 70, 80, 85, 90)

    assert windows(firings(a.count(3, within=60), events)) == [[50, 70, 80]]
    assert windows(firings(a.count(3, within=60, mode="edge"), events)) == [[50, 70, 80]]
    assert windows(firings(a.count(3, within=60, mode="every"), events)) == [
        [50, 70, 80],
        [50, 70, 80, 85],
        [50, 70, 80, 85, 90],
    ]


def test_reset_begins_anew_with_the_next_event() -> None:
    """What has fired counts for nothing any more."""
    assert windows(firings(a.count(2, within=60), at(1, 2, 3, 4, 5))) == [[1, 2], [3, 4]]


def test_edge_re_arms_only_below_the_number() -> None:
    """While the window stays full there is one firing, however many events come."""
    pattern = a.count(2, within=10, mode="edge")

    assert times(firings(pattern, at(0, 5, 10, 14, 19, 24))) == [5, 10, 24]
    assert times(firings(pattern, at(0, 5, 9, 14, 18, 23))) == [5]


@pytest.mark.parametrize("mode", ["reset", "edge", "every"])
def test_a_count_of_one_in_any_mode(mode: CountMode) -> None:
    """n=1: `reset` and `every` fire for each event, `edge` once until the window is empty."""
    expected = {"reset": [0, 4, 5, 10], "every": [0, 4, 5, 10], "edge": [0, 10]}

    assert times(firings(a.count(1, within=5, mode=mode), at(0, 4, 5, 10))) == expected[mode]


def test_a_count_without_a_window_never_forgets() -> None:
    """`within=None` counts for ever."""
    pattern = a.count(3, within=None)

    assert times(firings(pattern, at(0, 10**6, 10**9, 10**9, 2 * 10**9))) == [10**9]


def test_ties_count_one_after_the_other() -> None:
    """Events of the same time are events like any others."""
    assert windows(firings(a.count(2, within=1), at(3, 3, 3, 3, 3))) == [[3, 3], [3, 3]]
    assert times(firings(a.count(2, within=1, mode="every"), at(3, 3, 3))) == [3, 3]


# ---------------------------------------------------------------- silent

SILENT_TABLE: list[tuple[Repeat, list[float]]] = [("once", [8, 19]), ("every", [8, 19, 25, 31])]


@pytest.mark.parametrize(("repeat", "expected"), SILENT_TABLE)
def test_the_silent_table(repeat: Repeat, expected: list[float]) -> None:
    """W=6, start 0, x at 2 12 13: once → 8 19; every → 8 19 25 31."""
    assert times(firings(silent(a, for_=6, repeat=repeat), at(2, 12, 13), until=31)) == expected


def test_a_watchdog_fires_once_until_the_next_event() -> None:
    """One x at 0 with repeat="once" fires at 6 only."""
    assert times(firings(silent(a, for_=6), at(0), until=1000)) == [6]
    assert times(firings(silent(a, for_=6), at(0, 100), until=1000)) == [6, 106]


def test_a_watchdog_begins_with_a_key_s_first_event() -> None:
    """What was never heard of is not missed."""
    assert firings(silent(a, for_=6), [], until=100) == []
    assert firings(silent(a, for_=6), at(5, subject="b"), until=100) == []


def test_expected_keys_are_watched_from_the_activation_on() -> None:
    """A sensor that never says anything is noticed too, if it was named."""
    pattern = silent(a.key(lambda e: e.data), for_=6, expect=["s1", "s2"])
    fired = firings(pattern, [(2, "a", "s1"), (3, "a", "s3")], until=30)

    assert [(f.at, f.key) for f in fired] == [(6, "s2"), (8, "s1"), (9, "s3")]
    assert fired[0].events == []


def test_each_key_has_a_watchdog_of_its_own() -> None:
    """A loud sensor does not hide a silent one."""
    pattern = silent(a.key(lambda e: e.data), for_=6)
    fired = firings(pattern, [(0, "a", "s1"), (1, "a", "s2"), (5, "a", "s1")], until=30)

    assert [(f.at, f.key) for f in fired] == [(7, "s2"), (11, "s1")]


def test_the_firing_of_a_watchdog_names_the_last_event() -> None:
    """Whoever is woken wants to know what was heard last."""
    (fired,) = firings(silent(a, for_=6), at(1, 2, 3), until=30)

    assert (fired.at, [(e.t, e.data) for e in fired.events]) == (9, [(3, 3)])


# ---------------------------------------------------------------- L2: half-open


def test_an_event_at_the_end_of_a_window_is_outside() -> None:
    """[s, s+d): at exactly s+d it is too late, a nanosecond earlier it is not."""
    pattern = a.count(2, within=60)

    assert firings(pattern, at(0, 60)) == []
    assert times(firings(pattern, at(0, 59.999999999))) == [59.999999999]


def test_an_event_at_the_due_time_comes_too_late_for_a_watchdog() -> None:
    """The timer fires first (L3), then the event re-arms it."""
    pattern = silent(a, for_=6)

    assert times(firings(pattern, at(0, 6), until=12)) == [6, 12]
    assert times(firings(pattern, at(0, 5.999999999), until=11.99)) == []
    assert times(firings(pattern, at(0, 5.999999999), until=12)) == [11.999999999]


@pytest.mark.parametrize("duration", [1e-9, 0.3, 59.9, 999_999_999.0])
def test_half_open_holds_to_the_nanosecond(duration: float) -> None:
    """The shortest and the longest duration end exactly where they say."""
    assert firings(a.count(2, within=duration), at(0, duration)) == []
    assert len(firings(a.count(2, within=duration), at(0, 0))) == 1
    assert len(firings(silent(a, for_=duration), at(0), until=duration)) == 1


# ---------------------------------------------------------------- composition


def test_written_order_is_execution_order() -> None:
    """A condition before a count chooses what is counted, one behind it which firings count."""
    odd = at(1, 2, 3, 4, 5, 6)

    assert windows(firings(a.where(is_odd).count(2, within=99), odd)) == [[1, 3]]
    assert windows(firings(a.count(2, within=99).where(is_odd), odd)) == []
    assert windows(firings(a.count(3, within=99).where(is_odd), odd)) == [[1, 2, 3]]


def is_odd(event: Any) -> bool:
    return bool(event.data % 2)


def test_a_count_of_counts_names_all_events() -> None:
    """Each stage hands on the sequences that caused it."""
    pattern = a.count(2, within=10).count(2, within=10)

    assert windows(firings(pattern, at(1, 2, 3, 4, 5, 6, 7))) == [[1, 2, 3, 4]]


def test_a_watchdog_over_a_count_waits_for_the_count() -> None:
    """Silence of a pattern, not of its events."""
    pattern = silent(a.count(2, within=10), for_=5)

    assert times(firings(pattern, at(0, 1, 3), until=30)) == [6]
    assert times(firings(pattern, at(0, 1, 3, 4), until=30)) == [9]


def test_a_count_of_silences_counts_them_at_their_due_times() -> None:
    """A firing's time for later stages is its due time (L3)."""
    pattern = silent(a, for_=5, repeat="every").count(3, within=11)

    assert times(firings(pattern, at(0), until=31)) == [15, 30]
    assert (
        times(firings(silent(a, for_=5, repeat="every").count(3, within=10), at(0), until=90)) == []
    )


def test_a_watchdog_of_a_watchdog_fires_on_the_way() -> None:
    """Timers that a timer arms fire in the same go, each at its own time (L3)."""
    pattern = silent(silent(a, for_=2), for_=3)

    assert times(firings(pattern, at(0), until=100)) == [5]
    assert times(firings(pattern, at(0, 100))) == [5]


@pytest.mark.parametrize(
    "pattern",
    [
        any_of(silent(a, for_=3), b),
        any_of(b, silent(a, for_=3, repeat="every")).count(1, within=1),
    ],
    ids=repr,
)
def test_any_of_takes_watchdogs(pattern: Pattern[Any]) -> None:
    """`any_of` fires by timer where one of its branches does."""
    assert times(firings(pattern, [(0, "a", 1), (1, "b", 1)], until=3)) == [1, 3]


# ---------------------------------------------------------------- the one-line test itself


def test_firings_refuses_time_that_goes_back() -> None:
    """A timeline in disorder is a mistake in the test, not late events."""
    with pytest.raises(ValueError, match=r"4 comes after 5"):
        firings(a, at(5, 4))
    with pytest.raises(ValueError, match=r"-1 comes after 0"):
        firings(a, at(-1))
    with pytest.raises(ValueError, match=r"4 comes after 5"):
        firings(a, at(5), until=4)
    with pytest.raises(ValueError, match="nan"):
        firings(a, at(float("nan")))


def test_firings_takes_any_function() -> None:
    """A condition typed into a shell has no source to digest; a test does not need one."""
    assert len(firings(a.where(eval("lambda e: e.time == 3.5")), at(3.5, 4))) == 1
