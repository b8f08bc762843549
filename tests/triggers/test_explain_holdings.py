"""What an automaton holds, as `headrace state` shows it: each operator in words."""

from __future__ import annotations

from typing import Any

import pytest
from tests.triggers.played import RULE, Played, Timeline, at, played

from headrace import absent, all_of, field, group, not_, on, sequence, silent, step
from headrace.triggers.explain.holdings import Holding
from headrace.triggers.explain.rules import automaton_view, held, own_timers, timer_text
from headrace.triggers.pattern import Pattern

a, b, c, x = (on(name) for name in "abcx")
NS = 1_000_000_000


def holdings(made: Played, *keys: Any) -> list[Holding]:
    return list(held(made.rules, RULE, made.kernel.state.at_ns, keys))


def said(holding: Holding) -> tuple[str, str, str, list[int], float | None, float | None]:
    """Return a holding with its times in seconds."""
    since, until = (None if ns is None else ns / NS for ns in (holding.since_ns, holding.until_ns))
    return holding.operator, holding.has, holding.waits_for, holding.events, since, until


GROUP = "sequence(…, group('g', step('p', …), step('q', …)).times(1, 2, greedy=False), within=9)"

# Events have the sequences 2, 3 …, as long as nothing fires.
OPERATORS: dict[str, tuple[Pattern[Any], Timeline, tuple[Any, ...]]] = {
    "count": (
        a.count(3, within=60),
        at(0, 50, 70),
        ("count(3, within=60)", "2 of 3", "1 more", [3, 4], 50, 110),
    ),
    "count, all of it": (
        a.count(3, within=60).aggregate(len),
        at(0, 50),
        ("count(3, within=60)", "2 of 3", "1 more", [2, 3], 0, 60),
    ),
    "count that has fired": (
        a.count(2, within=60, mode="edge"),
        at(0, 10),
        (
            "count(2, within=60, mode='edge')",
            "2 of 2",
            "fewer than 2: it has fired, and re-arms then (mode='edge')",
            [2, 3],
            0,
            60,
        ),
    ),
    "sequence": (
        sequence(a, b, within=10),
        at(3),
        ("sequence(…, …, within=10)", "1 of 2 steps", "step 's2': on('b')", [2], 3, 13),
    ),
    "sequence with a negation": (
        sequence(a, not_(x), b, within=10),
        at(3),
        (
            "sequence(…, not_(…), …, within=10)",
            "1 taken",
            "step 's3': on('b'); not_(on('x')) kills it",
            [2],
            3,
            13,
        ),
    ),
    "sequence, strict": (
        sequence(a, b, contiguity="strict"),
        at(3),
        (
            "sequence(…, …, contiguity='strict')",
            "1 taken",
            "step 's2': on('b'); any other event kills it",
            [2],
            3,
            None,
        ),
    ),
    "sequence that time completes": (
        sequence(a, not_(x), within=10),
        at(3),
        (
            "sequence(…, not_(…), within=10)",
            "1 taken",
            "the end of its time; not_(on('x')) kills it",
            [2],
            3,
            13,
        ),
    ),
    "sequence with a loop and a gap": (
        sequence(a, step("l", b).times(1, 3), c, within_gap=5),
        [*at(1), *at(2, 3, subject="b")],
        (
            "sequence(…, step('l', …).times(1, 3), …, within_gap=5)",
            "3 taken",
            "step 'l': on('b') or step 's3': on('c')",
            [2, 3, 4],
            1,
            8,
        ),
    ),
    "group": (
        sequence(a, group("g", step("p", b), step("q", c)).times(1, 2), within=9),
        [*at(1), *at(2, subject="b")],
        (
            GROUP,
            "2 taken",
            "step 'q': on('c')",
            [2, 3],
            1,
            10,
        ),
    ),
    "all_of": (
        all_of(a, b, c, within=100),
        [*at(0, 10), *at(15, subject="b")],
        ("all_of(…, …, …, within=100)", "2 of 3", "on('c')", [3, 4], 10, 110),
    ),
    "absent": (
        absent(b, after=a, within=10),
        at(5),
        ("absent(…, after=…, within=10)", "armed", "no on('b') until then: it fires", [2], 5, 15),
    ),
    "silent": (
        silent(a, for_=6),
        at(2),
        ("silent(…, for_=6)", "a watch", "no event until then: it fires", [2], 2, 8),
    ),
    "crosses, within": (
        a.crosses(field(), above=30, hysteresis=2),
        [(0, "a", 20)],
        (
            "crosses(field(), above=30, hysteresis=2)",
            "not above 30",
            "a value above 30",
            [],
            None,
            None,
        ),
    ),
    "crosses, beyond": (
        a.crosses(field(), below=10, hysteresis=1),
        [(0, "a", 5)],
        (
            "crosses(field(), below=10, hysteresis=1)",
            "below 10, from the first on",
            "a value above 11, which re-arms it",
            [],
            None,
            None,
        ),
    ),
    "hold": (
        a.where(field() > 30).hold(for_=30),
        [(5, "a", 31), (10, "a", 33)],
        ("hold(for_=30)", "true", "the condition to stay true until then", [2, 3], 5, 35),
    ),
    "debounce": (
        a.debounce(quiet=10, max_wait=25),
        at(0, 8),
        ("debounce(quiet=10, max_wait=25)", "a burst of 2", "quiet until then", [2, 3], 0, 18),
    ),
    "session": (
        a.session(10),
        at(0, 8),
        ("session(10)", "a burst of 2", "quiet until then", [2, 3], 0, 18),
    ),
    "throttle, trailing": (
        a.throttle(period=20, edge="trailing"),
        at(0, 8),
        (
            "throttle(period=20, edge='trailing')",
            "a period",
            "the end of the period, which fires its last event",
            [3],
            0,
            20,
        ),
    ),
    "batch": (
        a.batch(3, within=10),
        at(0, 4),
        ("batch(3, within=10)", "2 in the parcel", "1 more or the end of its time", [2, 3], 0, 10),
    ),
    "tumbling": (
        a.tumbling(10),
        at(12, 14),
        (
            "tumbling(10)",
            "2 in windows that have not ended",
            "the end of the first of them",
            [2, 3],
            10,
            20,
        ),
    ),
    "hopping": (
        a.hopping(10, every=5),
        at(12),
        (
            "hopping(10, every=5)",
            "1 in windows that have not ended",
            "the end of the first of them",
            [2],
            5,
            15,
        ),
    ),
    "event_time": (
        a.event_time(lambda e: e.data, lateness=5).count(2, within=60),
        at(10),
        (
            "event_time",
            "an event ahead of the watermark",
            "the watermark to pass its time",
            [2],
            10,
            None,
        ),
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_holds(name: str) -> None:
    """Somebody at night reads what it has, since when, and what would let it go on."""
    pattern, timeline, expected = OPERATORS[name]
    (holding,) = holdings(played(pattern, timeline))

    assert said(holding) == expected


FIRED: dict[str, tuple[Pattern[Any], Timeline, tuple[Any, ...]]] = {
    "crosses": (
        a.crosses(field(), above=30),
        [(0, "a", 20), (1, "a", 31)],
        (
            "crosses(field(), above=30)",
            "above 30, fired",
            "a value below 30, which re-arms it",
            [],
            None,
            None,
        ),
    ),
    "dedupe": (
        a.dedupe(lambda e: e.data, ttl=5),
        [(15, "a", "same")],
        (
            "dedupe(…, ttl=5)",
            "'same' was accepted",
            "its time to end: equal ones are dropped before",
            [],
            15,
            20,
        ),
    ),
    "throttle": (
        a.throttle(period=20),
        at(10),
        (
            "throttle(period=20)",
            "a period that has fired",
            "the end of the period: all before it are suppressed",
            [],
            10,
            30,
        ),
    ),
    "rate_limit": (
        a.rate_limit(1, per=10),
        at(0, 3, 4),
        ("rate_limit(1, per=10)", "2 waiting", "its turn: 2 wait", [4, 5], 3, 10),
    ),
    "debounce, leading": (
        a.debounce(quiet=10, edge="leading"),
        at(0),
        (
            "debounce(quiet=10, edge='leading')",
            "a burst whose first has fired",
            "its end, which fires nothing",
            [],
            0,
            10,
        ),
    ),
    "hold": (
        a.where(field() > 30).hold(for_=5),
        [(0, "a", 31), (7, "a", 32)],
        ("hold(for_=5)", "true, and fired", "the condition to be false", [], None, None),
    ),
}


@pytest.mark.parametrize("name", FIRED)
def test_what_an_operator_holds_after_it_has_fired(name: str) -> None:
    """Why it does not fire again is a question of the same night."""
    pattern, timeline, expected = FIRED[name]
    (holding,) = holdings(played(pattern, timeline))

    assert said(holding) == expected


def test_each_partial_match_of_a_key_is_there_with_its_steps() -> None:
    """Several starts are open at once; each has its own end."""
    made = played(sequence(a, step("mid", b), c, within=10), [*at(0), *at(1, subject="b"), *at(2)])
    first, second = holdings(made)

    assert (first.steps, first.until_ns) == ({"s1": [2], "mid": [3]}, 10 * NS)
    assert (second.steps, second.until_ns) == ({"s1": [4]}, 12 * NS)
    assert first.waits_for == "step 's3': on('c')"
    assert second.waits_for == "step 'mid': on('b')"


def test_one_key_is_found_among_many() -> None:
    """With a hundred thousand keys one looks at one."""
    keyed = a.key(lambda e: e.data[0]).dedupe(lambda e: e.data[1], ttl=50).count(5, within=60)
    made = played(keyed, [(t, "a", [t % 3, t]) for t in range(9)])

    assert [(h.operator, h.key, h.events) for h in holdings(made, 1) if h.events] == [
        ("count(5, within=60)", 1, [3, 6, 9])
    ]
    assert {h.key for h in holdings(made, 1)} == {1}
    assert len(holdings(made)) == 9 + 3
    assert holdings(made, "nobody") == []


def test_what_has_run_out_is_not_shown_as_open() -> None:
    """Some operators drop it only with the next event; for a person it is gone."""
    for pattern in (a.count(3, within=60), all_of(a, c, within=60), a.dedupe(None, ttl=60)):
        made = played(pattern, [*at(0), (60, "b", None)])
        assert holdings(made) == [], pattern


def test_what_a_rule_is_beside_its_keys() -> None:
    """Its pattern, whether it takes events, its watermark and what its timers are of."""
    made = played(a.event_time(lambda e: e.data, lateness=5, idle=20).debounce(quiet=3), at(12, 18))
    view = automaton_view(made.rules, made.kernel.state, RULE)

    assert view["pattern"].startswith("on('a').event_time(…, lateness=5, idle=20)")
    assert view["in_force"] is True
    assert view["why_not"] is None
    assert view["watermark_ns"] == 13 * NS
    assert view["waiting"] == 1
    assert view["sources"] == {"local": {"newest_ns": 18 * NS, "idle": False}}
    (timer,) = made.kernel.state.timers._armed.live
    assert timer_text(made.rules, RULE, timer[1]) == "the watermark of event_time"
    ((due_ns, slot, _),) = own_timers(made.rules, RULE)
    assert (due_ns, timer_text(made.rules, RULE, slot)) == (15 * NS, "debounce(quiet=3)")


def test_a_rule_that_has_changed_says_so() -> None:
    """Its state there is not known to today's rule, and an empty list would be a lie."""
    made = played(a.count(3, within=60), at(0))
    made.kernel.state.rules[RULE] = "another fingerprint"
    made.kernel.state.active.clear()

    view = automaton_view(made.rules, made.kernel.state, RULE)
    assert view["why_not"] == "it was another one there: it has changed since"
