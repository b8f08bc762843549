"""Rules by event time: order, timers, what comes too late, and what has no time."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.shell import Shell, check, ns, rules

from headrace import Firing, absent, all_of, any_of, on, sequence, silent, step
from headrace.engine import record as r
from headrace.engine.clock import NS
from headrace.testing import RuleWarning, firings
from headrace.triggers.event_time import TIME_S_MAX, TIMERS_MAX, time_ns_of
from headrace.triggers.field import field
from headrace.triggers.nodes import Late
from headrace.triggers.pattern import Pattern
from headrace.triggers.reach import check_whole_pattern
from headrace.triggers.ruleset import Rule


def timed(subject: str = "x", *, lateness: float = 0, late: Late = "drop") -> Pattern[Any]:
    """Events on *subject* whose data is their time."""
    return on(subject).event_time(lambda e: e.data, lateness=lateness, late=late)


def arriving(*times: float, subject: str = "x") -> list[tuple[float, str, Any]]:
    """A timeline in which events with these times arrive, 1 s apart."""
    return [(n, subject, time) for n, time in enumerate(times)]


def made(pattern: Pattern[Any], *times: float) -> list[tuple[float, list[float]]]:
    """When *pattern* fires, in event time, and with events of which times."""
    return told(firings(pattern, arriving(*times)))


def told(fired: list[Firing[Any]]) -> list[tuple[float, list[float]]]:
    return [(f.at, [event.data for event in f.events]) for f in fired]


# ---------------------------------------------------------------- order


def test_the_worked_example() -> None:
    """L=5: 10 and 12 are let go when the watermark is 15; 14 is late; 16 waits."""
    assert made(timed(lateness=5), 10, 12, 20, 14, 16) == [(10, [10]), (12, [12])]
    assert made(timed(lateness=5), 10, 12, 20, 14, 16, 21) == [
        (10, [10]),
        (12, [12]),
        (16, [16]),
    ]


def test_an_event_at_the_watermark_goes_on_at_once() -> None:
    """At or before: so without lateness nothing waits, and of a tie the second is late."""
    assert made(timed(), 10, 10, 11, 10.5, 11) == [(10, [10]), (11, [11])]
    assert made(timed(lateness=1), 10, 11, 10, 12) == [(10, [10]), (11, [11])]


def test_ties_go_on_as_they_came() -> None:
    """(t, sequence): events of one time keep the order of the log, whatever came between."""
    timeline = [(n, "x", [time, n]) for n, time in enumerate((5, 3, 5, 3, 20))]
    by_first = on("x").event_time(lambda e: e.data[0], lateness=10)
    fired = firings(by_first, timeline)
    assert [f.events[0].data for f in fired] == [[3, 1], [3, 3], [5, 0], [5, 2]]


def test_times_need_not_begin_with_the_log() -> None:
    """Data of long ago, or of before 1970, is in no relation to log time."""
    assert made(timed(lateness=1).count(2, within=5), -100, -97, -90) == [(-97, [-100, -97])]


@pytest.mark.slow
@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_lateness_enough_makes_any_order_the_right_one(seed: int) -> None:
    """However events are mixed up, rules fire as if they had come in order."""
    chance = random.Random(seed)
    times = [chance.randrange(300) for _ in range(300)]
    pattern = timed(lateness=300).key(lambda e: e.data % 3).count(3, within=4)
    ended = [*times, 1000.5]

    assert made(pattern, *ended) == made(pattern, *sorted(times), 1000.5)


@pytest.mark.slow
def test_ten_thousand_events_out_of_order() -> None:
    """The same with as many as a busy source mixes up, and with timers."""
    chance = random.Random(1)
    times = sorted(chance.uniform(0, 5000) for _ in range(10_000))
    mixed = sorted(times, key=lambda time: time + chance.uniform(0, 20))
    source = timed(lateness=20)
    for pattern in (source.count(5, within=1), silent(source, for_=2), source.tumbling(10)):
        assert made(pattern, *mixed, 9999) == made(pattern, *times, 9999)


def test_key_and_condition_before_it_and_behind_it() -> None:
    """Where they stand decides who waits, not who fires."""
    before = on("x").where(lambda e: e.data > 2).key(lambda e: e.data % 2)
    behind = timed(lateness=4).where(lambda e: e.data > 2).key(lambda e: e.data % 2)
    for pattern in (before.event_time(lambda e: e.data, lateness=4), behind):
        fired = firings(pattern.count(2, within=9), arriving(1, 6, 3, 5, 4, 20))
        assert [(f.at, f.key) for f in fired] == [(5, 1), (6, 0)]


def test_what_a_condition_before_it_turns_down_does_not_move_time() -> None:
    """Conditions before it choose the events whose times count."""
    pattern = on("x").where(lambda e: e.data < 100).event_time(lambda e: e.data, lateness=5)
    assert made(pattern, 10, 999, 11, 12) == []


# ---------------------------------------------------------------- timers and what is behind it


def test_timers_fire_before_an_event_that_comes_when_they_are_due() -> None:
    """Those due ≤ t before each release, then those due ≤ the watermark."""
    assert made(silent(timed(), for_=5), 10, 15, 21) == [(15, [10]), (20, [15])]
    assert made(silent(timed(lateness=5), for_=5), 10, 30) == [(15, [10])]
    assert made(silent(timed(lateness=5), for_=5), 10, 19, 20) == [(15, [10])]


def test_timers_that_timers_arm_fire_on_the_way() -> None:
    """A watchdog that repeats does so for all of the time that an event skips."""
    pattern = silent(timed(), for_=6, repeat="every")
    assert made(pattern, 2, 12, 13, 31) == [(8, [2]), (19, [13]), (25, [13]), (31, [13])]


def test_a_firing_by_timer_says_event_time_and_no_lateness() -> None:
    """Log time is something else, so that no difference to it means anything."""
    (fired,) = firings(silent(timed(), for_=5), [(100, "x", 1_000), (200, "x", 5_000)])
    assert (fired.at, fired.scheduled_at, fired.lateness) == (1_005, 1_005, 0)
    assert fired.events[0].t == 100


ALL_BEHIND: dict[str, tuple[Callable[[Pattern[Any]], Pattern[Any]], list[float], list[Any]]] = {
    "count": (lambda x: x.count(2, within=3), [1, 4, 6], [(6, [4, 6])]),
    "tumbling": (lambda x: x.tumbling(10), [1, 9, 10, 25], [(10, [1, 9]), (20, [10])]),
    "session": (lambda x: x.session(3), [1, 3, 9, 20], [(6, [1, 3]), (12, [9])]),
    "debounce": (lambda x: x.debounce(2), [1, 2, 3, 9], [(5, [1, 2, 3])]),
    "throttle": (lambda x: x.throttle(5), [1, 2, 6, 9], [(1, [1]), (6, [6])]),
    "rate_limit": (
        lambda x: x.rate_limit(1, 4),
        [1, 2, 3, 20],
        [(1, [1]), (5, [2]), (9, [3]), (20, [20])],
    ),
    "dedupe": (lambda x: x.dedupe(None, 5), [1, 2, 6, 9], [(1, [1]), (6, [6])]),
    "batch": (lambda x: x.batch(within=5), [1, 2, 8, 20], [(6, [1, 2]), (13, [8])]),
    "hold": (lambda x: x.where(lambda e: e.data < 8).hold(for_=4), [1, 3, 8, 9], [(5, [1, 3])]),
    "crosses": (lambda x: x.crosses(lambda e: e.data, above=5), [1, 6, 7], [(6, [6])]),
    "aggregate": (
        lambda x: x.tumbling(10).aggregate(len),
        [1, 2, 10],
        [(10, [1, 2])],
    ),
}


@pytest.mark.parametrize("name", ALL_BEHIND)
def test_every_operator_behind_it_goes_by_event_time(name: str) -> None:
    """Log time stands nearly still: nothing of it leaks into a window or a timer."""
    behind, times, expected = ALL_BEHIND[name]
    rule = Rule("r1", behind(timed(lateness=10)), "parallel", version="1")
    shuffled = [times[1], times[0], *times[2:], times[-1] + 10]
    shell = Shell(rules(rule)).start(ns(50_000))
    sequences = {shell.emit(50_000 * NS + n, "x", time): time for n, time in enumerate(shuffled)}

    fired = [
        (made.details.at_ns / NS, [sequences[event] for event in made.events])
        for made in shell.of_kind(r.RuleFired)
        if made.details is not None and made.details.at_ns is not None
    ]
    assert fired == expected
    check(shell)


def test_several_chains_share_one_time() -> None:
    """Both sides of a join wait for each other's events of the same time."""
    a, b = timed("a", lateness=5), timed("b", lateness=5)
    timeline = [(1, "b", 12), (2, "a", 10), (3, "a", 19), (4, "a", 40)]

    assert told(firings(absent(b, after=a, within=4), timeline)) == [(23, [19])]
    assert told(firings(all_of(a, b, within=5), timeline)) == [(12, [12, 10])]
    assert told(firings(any_of(a, b), timeline)) == [(10, [10]), (12, [12]), (19, [19])]


def test_a_sequence_of_events_that_came_in_the_wrong_order() -> None:
    """What happened first is first, and within counts from when it happened."""
    then = timed("b", lateness=5).where(lambda e, m: e.data > m["s"][0].data)
    pattern = sequence(step("s", timed("a", lateness=5)), then, within=4)
    timeline = [(1, "b", 12), (2, "a", 10), (3, "a", 20), (4, "b", 24), (5, "a", 90)]

    (fired,) = firings(pattern, timeline)
    assert fired.at == 12
    assert {name: [event.data for event in taken] for name, taken in fired.steps.items()} == {
        "s": [10],
        "s2": [12],
    }


def test_an_event_that_two_chains_take_is_one_step() -> None:
    """Law L5: it counts once, and is late once."""
    both = any_of(timed(lateness=3), timed("*", lateness=3))
    fired = firings(both.count(2, within=99), arriving(5, 4, 20))
    assert told(fired) == [(5, [4, 5])]

    shell = Shell(rules(both)).start()
    for n, time in enumerate((10, 1, 13)):
        shell.emit(ns(n), "x", time)
    assert [(f.branches, f.events) for f in shell.of_kind(r.RuleFired)] == [([0, 1], [2])]
    assert len(shell.of_kind(r.RuleLate)) == 1
    check(shell)


def test_chains_that_read_one_event_at_two_times() -> None:
    """Each takes it at its own time; it moves the watermark to the later one."""
    begin = on("job").event_time(lambda e: e.data[0], lateness=1)
    end = on("job").event_time(lambda e: e.data[1], lateness=1)
    timeline = [(1, "job", [10, 20]), (2, "job", [22, 30])]
    for pattern, first, second in ((any_of(begin, end), 0, 1), (any_of(end, begin), 1, 0)):
        fired = [(f.at, f.branches) for f in firings(pattern, timeline)]
        assert fired == [(10, [first]), (20, [second]), (22, [first])]


def test_hold_sees_what_conditions_behind_it_turn_down() -> None:
    """A false that arrives after, but happened before the end, ends the wait."""
    hot = timed(lateness=10).where(lambda e: e.data % 2 == 1)
    assert made(hot.hold(for_=4), 1, 9, 4, 30) == [(13, [9])]
    assert made(hot.hold(for_=4), 1, 9, 6, 30) == [(5, [1]), (13, [9])]


@pytest.mark.slow
def test_one_event_from_the_far_future_does_not_fire_for_ever() -> None:
    """A wrong clock costs a bounded number of firings: the rest is skipped, on the grid."""
    pattern = silent(timed(), for_=1, repeat="every")
    fired = firings(pattern, arriving(0, 10**9, 10**9 + 2))

    assert len(fired) == TIMERS_MAX + 1 + 2
    assert fired[TIMERS_MAX].at == TIMERS_MAX + 1
    assert [f.at - 10**9 for f in fired[-2:]] == [1, 2]


# ---------------------------------------------------------------- too late


def test_a_late_event_is_recorded_and_counted() -> None:
    """It is out of this rule only, and `rule.late` tells whoever wants to know."""
    shell = Shell(rules(timed(lateness=5), on("rule.late.r1"), on("x"))).start()
    *_, event = [shell.emit(ns(n), "x", time) for n, time in enumerate((10, 20, 14))]

    assert shell.of_kind(r.RuleLate) == [r.RuleLate("r1", event, ns(14), ns(15))]
    assert shell.stats("r1")["late"] == 1
    assert len([f for f in shell.fired() if f[0] == "r3"]) == 3
    told = [e for e in shell.of_kind(r.EventStored) if e.subject == "rule.late.r1"]
    assert len(told) == 1
    assert len([f for f in shell.fired() if f[0] == "r2"]) == 1
    check(shell)


def test_a_late_event_about_late_events_tells_no_more() -> None:
    """A rule that is late with what it is told of its lateness does not go round for ever."""
    about = on("rule.late.>").event_time(lambda e: 100 - e.recorded_at_ns / NS)
    shell = Shell(rules(timed(), about)).start()
    for n in range(6):
        shell.emit(ns(n), "x", 10 - n)

    assert shell.stats("r1")["late"] == 5
    assert shell.stats("r2")["late"] == 4
    assert len([e for e in shell.of_kind(r.EventStored) if e.subject == "rule.late.r2"]) == 0
    check(shell)


def test_as_now_takes_a_late_event_at_the_watermark() -> None:
    """Nothing is lost, and no time goes back."""
    assert made(timed(lateness=5, late="as_now"), 10, 12, 20, 14, 16, 30) == [
        (10, [10]),
        (12, [12]),
        (15, [14]),
        (16, [16]),
        (20, [20]),
    ]


def test_as_now_is_counted() -> None:
    """Whoever sets the lateness wants to know how often it does not suffice."""
    shell = Shell(rules(timed(late="as_now"))).start()
    for n, time in enumerate((10, 5, 6)):
        shell.emit(ns(n), "x", time)
    assert shell.kernel.state.decider.counters()["r1"]["late_as_now"] == 2
    assert shell.of_kind(r.RuleLate) == []
    check(shell)


def test_late_events_do_not_come_before_timers_that_have_fired() -> None:
    """Taken as now they are as new as the watermark: they wind up a watchdog from there."""
    pattern = silent(timed(late="as_now"), for_=5)
    assert made(pattern, 10, 20, 3, 30) == [(15, [10]), (25, [3])]


# ---------------------------------------------------------------- times

EXACT: list[tuple[object, int]] = [
    (0, 0),
    (1_700_000_000, 1_700_000_000 * NS),
    (1_700_000_000.5, 1_700_000_000_500_000_000),
    (0.1, 100_000_000),
    (-1.5, -1_500_000_000),
    (datetime(1970, 1, 1, tzinfo=UTC), 0),
    (datetime(2023, 11, 14, 22, 13, 20, 123457, tzinfo=UTC), 1_700_000_000_123_457_000),
    (datetime(2023, 11, 15, tzinfo=timezone(timedelta(hours=2))), 1_699_999_200 * NS),
    (datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC), -1000),
    (TIME_S_MAX, TIME_S_MAX * NS),
]


@pytest.mark.parametrize(("given", "expected_ns"), EXACT)
def test_times_are_read_exactly(given: object, expected_ns: int) -> None:
    """Whole numbers and datetimes lose nothing; a float is as exact as it is."""
    assert time_ns_of(given) == expected_ns


NO_TIMES: list[tuple[object, str]] = [
    (
        None,
        "TypeError: expected seconds since the epoch or a datetime with a time zone, found None",
    ),
    ("2026-01-01T00:00:00Z", "found one of type str"),
    (True, "found one of type bool"),
    (b"1", "found one of type bytes"),
    (float("nan"), "found nan"),
    (float("inf"), "found inf"),
    (1_700_000_000_000, "divide it by 1000"),
    (datetime(2026, 1, 1), "found 2026-01-01 00:00:00 without one; give it a tzinfo="),  # noqa: DTZ001
    (datetime(2201, 1, 1, tzinfo=UTC), "not within the years"),
    (datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))), "not within the years"),
]


@pytest.mark.parametrize(("given", "says"), NO_TIMES)
def test_what_is_no_time_is_an_error_that_says_so(given: object, says: str) -> None:
    """The event is out of the rule, the record says what came instead of a time."""
    wrong = given  # as a closure cell it would have to be encoded
    rule = Rule("r1", on("x").event_time(lambda e: wrong), "parallel", version="1")  # type: ignore[arg-type, return-value]
    shell = Shell(rules(rule)).start()
    event = shell.emit(ns(1), "x", 1)

    (error,) = shell.of_kind(r.RuleError)
    assert (error.rule, error.event, error.place) == ("r1", event, "event_time")
    assert says in error.error
    assert shell.stats("r1") == {**shell.stats("r1"), "errors": 1, "fired": 0}
    check(shell)


def test_a_time_function_that_raises_costs_only_its_event() -> None:
    """Law L4: the others go on, and the watermark is where it was."""
    pattern = on("x").event_time(lambda e: 1 / e.data)
    with pytest.warns(RuleWarning, match="event_time: ZeroDivisionError"):
        fired = firings(pattern, arriving(1, 0, 0.5))
    assert [f.at for f in fired] == [1, 2]


def test_a_field_can_be_the_time() -> None:
    """As everywhere else; an event that lacks it is an error, not an event of no time."""
    pattern = on("x").event_time(field("t"), lateness=1)
    with pytest.warns(RuleWarning, match="found None"):
        fired = firings(pattern, [(1, "x", {"t": 5}), (2, "x", {}), (3, "x", {"t": 6.5})])
    assert [f.at for f in fired] == [5]


def test_datetimes_of_the_data() -> None:
    """What msgspec decodes as a datetime is a time as it is."""
    pattern = on("x", datetime).event_time(lambda e: e.data)
    fired = firings(pattern, [(1, "x", "2026-01-01T00:00:00.000001+01:00")])
    assert [f.at_ns for f in fired] == [1_767_222_000_000_001_000]


# ---------------------------------------------------------------- bounds


def test_of_more_than_may_wait_the_oldest_goes() -> None:
    """Law L6: a source that runs ahead cannot fill the memory, and it is recorded."""
    pattern = on("x").event_time(lambda e: e.data, lateness=100, partials_max=3).key(lambda e: "k")
    shell = Shell(rules(pattern)).start()
    for n, time in enumerate((13, 11, 14, 12, 15, 114)):
        shell.emit(ns(n), "x", time)

    assert shell.of_kind(r.RuleEvicted) == [
        r.RuleEvicted("r1", None, "event"),
        r.RuleEvicted("r1", None, "event"),
    ]
    assert [event for _, _, (event,) in shell.fired()] == [2, 4]
    assert shell.stats("r1")["evicted"] == 2
    check(shell)


def test_what_an_event_lets_go_makes_room_for_it() -> None:
    """Nothing is evicted that the same event would have let go."""
    pattern = on("x").event_time(lambda e: e.data, lateness=10, partials_max=3)
    shell = Shell(rules(pattern)).start()
    for n, time in enumerate((1, 2, 3, 20)):
        shell.emit(ns(n), "x", time)
    assert len(shell.fired()) == 3
    assert shell.of_kind(r.RuleEvicted) == []


def test_an_evicted_event_says_its_key() -> None:
    """So that it can be found whose events are lost."""
    pattern = on("x").key(lambda e: "k").event_time(lambda e: e.data, lateness=9, partials_max=1)
    shell = Shell(rules(pattern)).start()
    shell.emit(ns(1), "x", 1)
    shell.emit(ns(2), "x", 2)
    assert [evicted.key for evicted in shell.of_kind(r.RuleEvicted)] == ["k"]


# ---------------------------------------------------------------- refused


def test_it_is_refused_behind_anything_but_filters() -> None:
    """Whatever stands before it would go by log time."""
    x = on("x")
    for before in (
        x.count(2, within=9),
        any_of(x, x),
        silent(x, for_=9),
        timed(),
        timed().key(str),
    ):
        with pytest.raises(ValueError, match=r"event_time\(…\): expected it on each on"):
            before.event_time(lambda e: e.data)


def test_hold_before_which_only_the_time_stands_is_refused() -> None:
    """A condition before it is a filter: nobody would tell of its end."""
    with pytest.raises(ValueError, match=r"hold\(…\): expected a condition"):
        on("x").where(lambda e: e.data).event_time(lambda e: 1).hold(for_=5)
    with pytest.raises(ValueError, match=r"hold\(…\): expected a condition"):
        on("x").where(lambda e: e.data).event_time(lambda e: 1).key(str).hold(for_=5)


def test_a_condition_on_the_match_is_refused_before_it() -> None:
    """There is no match yet when an event comes to wait."""
    with pytest.raises(ValueError, match=r"takes two arguments; put it behind \.event_time"):
        on("x").where(lambda e, m: True).event_time(lambda e: e.data)


MIXED: list[tuple[str, Pattern[Any]]] = [
    ("none", any_of(timed("a"), on("b"))),
    ("lateness", any_of(timed("a"), timed("b", lateness=1))),
    ("late", absent(timed("a"), after=timed("b", late="as_now"), within=5)),
    (
        "idle",
        all_of(
            on("a").event_time(lambda e: e.data, idle=5),
            on("b").event_time(lambda e: e.data),
            within=5,
        ),
    ),
    ("partials_max", any_of(timed("a"), on("b").event_time(lambda e: e.data, partials_max=5))),
]


@pytest.mark.parametrize("pattern", [pattern for _, pattern in MIXED], ids=[n for n, _ in MIXED])
def test_a_rule_goes_by_one_time(pattern: Pattern[Any]) -> None:
    """A rule has one watermark, so all of its events must have the same say in it."""
    with pytest.raises(ValueError, match="the same lateness, idle and late on each"):
        check_whole_pattern(pattern.node)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"lateness": -1}, ValueError, r"lateness=-1"),
    ({"lateness": "5"}, TypeError, r"lateness='5'"),
    ({"lateness": False}, TypeError, r"lateness=False"),
    ({"idle": 0}, ValueError, r"idle=0"),
    ({"late": "keep"}, ValueError, r"late='keep'\): expected 'drop' or 'as_now'"),
    ({"partials_max": 0}, ValueError, r"partials_max=0\): expected a whole number"),
]


@pytest.mark.parametrize(("arguments", "kind", "says"), REFUSED)
def test_arguments_that_cannot_work_are_refused(
    arguments: dict[str, Any], kind: type[Exception], says: str
) -> None:
    """When they are written, with the place and what was expected."""
    with pytest.raises(kind, match=rf"event_time\({says}"):
        on("x").event_time(lambda e: e.data, **arguments)


def test_a_time_that_cannot_be_asked_is_refused() -> None:
    """A path in a text would look like a field."""
    with pytest.raises(TypeError, match=r"\.event_time\('t'\): expected a function"):
        on("x").event_time("t")  # type: ignore[arg-type]
