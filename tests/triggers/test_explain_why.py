"""Why a rule did not fire: for each operator the expected explanation, word by word."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.triggers.played import Timeline, at, explained, played

from headrace import absent, all_of, any_of, field, not_, on, sequence, silent, step
from headrace.engine.record import EventStored, RuleFired
from headrace.triggers.explain.why import Why
from headrace.triggers.pattern import Pattern

a, b, c, x = (on(name) for name in "abcx")
T0 = "1970-01-01T00:00:"


def values(*data: Any) -> Timeline:
    """One event a second on ``a``."""
    return [(t, "a", value) for t, value in enumerate(data)]


def why(pattern: Pattern[Any], timeline: Timeline, *keys: Any) -> Why:
    """Ask about the last event of *timeline*."""
    made = played(pattern, timeline)
    events = [n for n, one in enumerate(made.records, 1) if isinstance(one, EventStored)]
    return explained(made, events[-1], *keys)


def placeless(text: str) -> str:
    return re.sub(r"\(\S*\.py:\d+\)", "(PLACE)", text)


Case = tuple[Pattern[Any], Timeline, str, list[str]]
"""A pattern, a timeline, why its last event fires nothing, and what would have made it fire."""

CASES: dict[str, Case] = {
    "a field": (
        a.where(field("celsius") > 90),
        values({"celsius": 71.5}),
        "turned down by celsius = 71.5 > 90: no",
        ["field('celsius') > 90 had held (celsius was 71.5)"],
    ),
    "a field that is missing": (
        a.where(field("celsius") > 90),
        values({}),
        "turned down by celsius > 90: missing",
        ["field('celsius') > 90 had held (celsius was missing)"],
    ),
    "fields that are joined": (
        a.where((field("x") > 1) & ~(field("y") == 2)),
        values({"x": 0, "y": 2}),
        "turned down by (field('x') > 1) & ~(field('y') == 2): no (x = 0 > 1: no; y = 2 == 2: yes)",
        ["(field('x') > 1) & ~(field('y') == 2) had held (x was 0, y was 2)"],
    ),
    "a function": (
        a.where(lambda e: e.data["celsius"] > 90),
        values({"celsius": 71.5}),
        "turned down by lambda e: e.data[\"celsius\"] > 90 (PLACE): no (e.data['celsius'] = 71.5)",
        ["lambda e: e.data[\"celsius\"] > 90 (PLACE) had held (e.data['celsius'] was 71.5)"],
    ),
    "a function that raises": (
        a.where(lambda e: e.data["celsius"] > 90),
        values({}),
        "lambda e: e.data[\"celsius\"] > 90 (PLACE): raised KeyError: 'celsius'",
        [],
    ),
    "several conditions": (
        a.where(field("x") > 1).where(field("y") > 1),
        values({"x": 0, "y": 0}),
        "turned down by x = 0 > 1: no",
        ["field('x') > 1 had held (x was 0) and field('y') > 1 had held (y was 0)"],
    ),
    "a condition, and more behind it": (
        a.where(field() > 90).count(3, within=60),
        values(95, 88),
        "turned down by data = 88 > 90: no",
        ["field() > 90 had held (data was 88), and 1 more had come within 60 s"],
    ),
    "no key": (
        a.key(lambda e: e.data.get("k")).count(2, within=5),
        values({}),
        'turned down by lambda e: e.data.get("k") (PLACE): gives no key',
        ['lambda e: e.data.get("k") (PLACE) had given a key'],
    ),
    "another type": (
        on("a", int),
        values("text"),
        "its data is not of the rule's type: ValidationError: Expected `int`, got `str`",
        [],
    ),
    "any_of": (
        any_of(a.where(field() > 5), a.where(field() < 1)),
        values(3),
        "turned down by data = 3 > 5: no; and by data = 3 < 1: no",
        ["field() > 5 had held (data was 3)", "field() < 1 had held (data was 3)"],
    ),
    "count": (
        a.count(3, within=60),
        at(0, 50, 70),
        "count(3, within=60): 2 of 3 within 60 s (1 had run out of the window): 1 more to come",
        ["1 more had come within 60 s"],
    ),
    "count, edge": (
        a.count(2, within=60, mode="edge"),
        at(0, 10, 20),
        (
            "count(2, within=60, mode='edge'): 3 of 2 within 60 s, and it has fired already: it "
            "re-arms when there are fewer (mode='edge')"
        ),
        ["there had been fewer than 2 within 60 s since the last firing"],
    ),
    "crosses": (
        a.crosses(field(), above=30, hysteresis=2),
        values(29),
        "crosses(field(), above=30, hysteresis=2): field() = 29 is not above 30",
        ["field() had been above 30 (field() = 29)"],
    ),
    "crosses, first": (
        a.crosses(field(), above=30),
        values(31),
        (
            "crosses(field(), above=30): field() = 31 is above 30, but the first of all is no "
            "transition"
        ),
        ["there had been a value before that was not above 30"],
    ),
    "crosses, fired": (
        a.crosses(field(), above=30, hysteresis=2),
        values(29, 31, 33),
        (
            "crosses(field(), above=30, hysteresis=2): field() = 33: it has fired, and re-arms "
            "strictly below 28"
        ),
        ["a value below 28 had come before"],
    ),
    "crosses, no number": (
        a.crosses(field(), below=3),
        values("x"),
        "crosses(field(), below=3): field() = 'x' is no number: no observation",
        ["it had been a number below 3"],
    ),
    "sequence, begun": (
        sequence(a, b, within=10),
        at(0),
        (
            "sequence(…, …, within=10): meets on('a'): begins a partial match; 1 open, waits for "
            "step 's2': on('b')"
        ),
        ["step 's2': on('b') had come too within 10 s"],
    ),
    "sequence, nothing open": (
        sequence(a, b, within=10),
        at(0, subject="b"),
        "sequence(…, …, within=10): meets on('b'): no partial match takes it",
        ["step 's1' (on('a')) had come before within 10 s"],
    ),
    "sequence, too late": (
        sequence(a, b, within=10),
        [*at(0), *at(12, subject="b")],
        "sequence(…, …, within=10): meets on('b'): no partial match takes it",
        [
            "it had come more than 2 s earlier, while #2 waited for it",
            "step 's1' (on('a')) had come before within 10 s",
        ],
    ),
    "sequence, killed": (
        sequence(a, not_(x), b, within=10),
        [*at(0), *at(1, subject="x"), *at(2, subject="b")],
        "sequence(…, not_(…), …, within=10): meets on('b'): no partial match takes it",
        [
            "#3 had not ended #2, which waited for it (negation)",
            "step 's1' (on('a')) had come before within 10 s",
        ],
    ),
    "sequence, a kill": (
        sequence(a, not_(x), b, within=10),
        [*at(0), *at(1, subject="x")],
        "sequence(…, not_(…), …, within=10): meets not_(on('x')): 1 partial match of 1 ended by it",
        [],
    ),
    "sequence, a loop goes on": (
        sequence(a, step("l", b).times(2), c, within=10),
        [*at(0), *at(1, subject="b")],
        (
            "sequence(…, step('l', …).times(2), …, within=10): meets step('l', on('b')).times(2): "
            "takes a partial match on; 1 open, waits for step 'l': on('b')"
        ),
        ["step 'l': on('b') and then step 's3' (on('c')) had come too within 10 s"],
    ),
    "sequence, several steps are left": (
        sequence(a, b, c, within=10),
        at(0),
        (
            "sequence(…, …, …, within=10): meets on('a'): begins a partial match; 1 open, waits "
            "for step 's2': on('b')"
        ),
        ["step 's2': on('b') and then step 's3' (on('c')) had come too within 10 s"],
    ),
    "sequence, several steps before": (
        sequence(a, b, c, within=10),
        at(0, subject="c"),
        "sequence(…, …, …, within=10): meets on('c'): no partial match takes it",
        ["step 's1' (on('a')) and then step 's2' (on('b')) had come before within 10 s"],
    ),
    "sequence, a step between": (
        sequence(a, b, c, within=10),
        [*at(0), *at(1, subject="c")],
        "sequence(…, …, …, within=10): meets on('c'): no partial match takes it",
        ["step 's2' (on('b')), which the match of #2 waits for, had come before within 10 s"],
    ),
    "sequence, a step that is taken already": (
        sequence(a, b, c, within=10),
        [*at(0), *at(1, 2, subject="b")],
        "sequence(…, …, …, within=10): meets on('b'): no partial match takes it",
        ["step 's3' (on('c')), which the match of #2, #3 waits for, had come within 10 s"],
    ),
    "sequence, in its middle": (
        sequence(a, b, c, within=10),
        at(1, subject="b"),
        "sequence(…, …, …, within=10): meets on('b'): no partial match takes it",
        [
            (
                "step 's1' (on('a')) had come before within 10 s, and then step 's3' (on('c')) "
                "after it"
            )
        ],
    ),
    "sequence, what may be left out": (
        sequence(a, step("m", b).optional(), step("l", b).times(1, 2), c, within=10),
        at(1, subject="c"),
        (
            "sequence(…, step('m', …).optional(), step('l', …).times(1, 2), …, within=10): "
            "meets on('c'): no partial match takes it"
        ),
        ["step 's1' (on('a')) and then step 'l' (on('b')) had come before within 10 s"],
    ),
    "sequence, till its end": (
        sequence(a, b, not_(x), within=10),
        [*at(0), *at(1, subject="b")],
        (
            "sequence(…, …, not_(…), within=10): meets on('b'): takes a partial match on; 1 open, "
            "waits for the end of its time; not_(on('x')) kills it"
        ),
        [f"nothing had ended it before {T0}10Z"],
    ),
    "sequence, the very next": (
        sequence(a, b.where(field() > 1), within=10, contiguity="strict"),
        [(0, "a", 9), (1, "b", 0)],
        (
            "turned down by data = 0 > 1: no; sequence(…, …, within=10, contiguity='strict'): "
            "meets no step: 1 partial match of 1 ended by it"
        ),
        ["field() > 1 had held (data was 0)"],
    ),
    "sequence, nothing to kill": (
        sequence(a, not_(x), b, within=10),
        at(1, subject="x"),
        "sequence(…, not_(…), …, within=10): meets not_(on('x')): no partial match takes it",
        [],
    ),
    "sequence, the events so far": (
        sequence(a, step("l", b.where(lambda e, m: e.data > m["s1"][0].data)), within=10),
        [(0, "a", 5), (1, "b", 4)],
        "step 'l': lambda e, m: e.data > m[\"s1\"][0].data: no, with #2 taken so far",
        [
            (
                'lambda e, m: e.data > m["s1"][0].data (PLACE) had held '
                "(e.data was 4, m['s1'][0].data was 5)"
            )
        ],
    ),
    "all_of": (
        all_of(a, b, within=10),
        at(0),
        "all_of(…, …, within=10): s1 came: 1 of 2, waits for s2 (on('b'))",
        ["s2 (on('b')) had come too within 10 s"],
    ),
    "absent, armed": (
        absent(b, after=a, within=10),
        at(0),
        f"absent(…, after=…, within=10): armed: it fires at {T0}10Z if no on('b') comes before",
        [f"no on('b') had come before {T0}10Z"],
    ),
    "absent, disarmed": (
        absent(b, after=a, within=10),
        [*at(0), *at(1, subject="b")],
        "absent(…, after=…, within=10): disarmed: what #2 had armed",
        [f"#3 had not come before {T0}10Z"],
    ),
    "absent, ignored": (
        absent(b, after=a, within=10),
        at(0, 1),
        f"absent(…, after=…, within=10): armed already, until {T0}10Z: a further start is ignored",
        [],
    ),
    "silent": (
        silent(a, for_=6),
        at(0),
        f"silent(…, for_=6): winds the watch up: it fires at {T0}06Z if none comes before",
        [f"none had come before {T0}06Z"],
    ),
    "hold": (
        a.where(field() > 30).hold(for_=30),
        values(31, 32),
        f"hold(for_=30): true since {T0}00Z: it fires at {T0}30Z if it still is",
        [f"the condition had still been true at {T0}30Z"],
    ),
    "hold, ended": (
        a.where(field() > 30).hold(for_=30),
        values(31, 20),
        f"hold(for_=30): the condition is false: it had been true since {T0}00Z only",
        [f"the condition had stayed true for 30 s from {T0}00Z on"],
    ),
    "hold, not begun": (
        a.where(field() > 30).hold(for_=30),
        values(20, 21),
        "hold(for_=30): the condition is false, and was",
        ["the condition had been true for 30 s"],
    ),
    "hold, fired": (
        a.where(field() > 30).hold(for_=1),
        [(0, "a", 31), (5, "a", 32)],
        "hold(for_=1): true, and has fired: it re-arms when the condition is false",
        ["the condition had been false, and then true for 1 s"],
    ),
    "debounce": (
        a.debounce(quiet=10),
        at(0, 1),
        f"debounce(quiet=10): 2 in the burst: it fires at {T0}11Z if nothing comes before",
        ["nothing else had come for 10 s"],
    ),
    "throttle, trailing": (
        a.throttle(period=20, edge="trailing"),
        at(0, 5),
        (
            "throttle(period=20, edge='trailing'): the last so far of a period of 20 s: it fires "
            f"at {T0}20Z"
        ),
        [],
    ),
    "rate_limit": (
        a.rate_limit(1, per=10),
        at(0, 3),
        f"rate_limit(1, per=10): over the rate of 1 in 10 s: 1 wait, the first until {T0}10Z",
        ["fewer had come before it"],
    ),
    "batch": (
        a.batch(3, within=10),
        at(0, 4),
        "batch(3, within=10): 2 in the parcel of 3, sent at the latest 10 s after its first",
        ["1 more had come or its time had been over"],
    ),
    "tumbling": (
        a.tumbling(10),
        at(12),
        "tumbling(10): 1 in windows that have not ended: they fire at their ends",
        [],
    ),
    "hopping, between windows": (
        a.hopping(5, every=10),
        at(7),
        "hopping(5, every=10): between two windows: it is in none",
        ["it had come within a window"],
    ),
    "session": (
        a.session(10),
        at(0),
        f"session(10): 1 in the burst: it fires at {T0}10Z if nothing comes before",
        ["nothing else had come for 10 s"],
    ),
    "aggregate": (
        a.count(1, within=10).aggregate(lambda events: events[1]),
        at(1),
        "aggregate raised IndexError: list index out of range",
        [],
    ),
    "a condition behind": (
        a.count(2, within=10).where(lambda e: e.data > 5),
        at(1, 2),
        "where(…): lambda e: e.data > 5 (PLACE): no (e.data = 2)",
        ["lambda e: e.data > 5 (PLACE) had held (e.data was 2)"],
    ),
    "a key behind": (
        a.count(2, within=10).key(lambda _: None),
        at(1, 2),
        "key(…): lambda _: None (PLACE): gives no key",
        ["lambda _: None (PLACE) had given a key"],
    ),
    "event_time, ahead": (
        a.event_time(lambda e: e.data, lateness=5).count(1, within=60),
        values(10),
        f"the event waits for the watermark, which is at {T0}05Z",
        ["the watermark had passed its time"],
    ),
    "event_time, late": (
        a.event_time(lambda e: e.data, lateness=5).count(1, within=60),
        values(10, 20, 14),
        f"it came too late: its time {T0}14Z is not after the watermark {T0}15Z",
        ["lateness= had been more than 6 s"],
    ),
    "event_time, ahead of what it lets go of": (
        a.event_time(lambda e: e.data, lateness=5).count(2, within=60),
        values(10, 20),
        (
            f"the event waits for the watermark, which is at {T0}15Z; by its time it let go of "
            "#2: 1 of 2 within 60 s: 1 more to come"
        ),
        ["the watermark had passed its time"],
    ),
    "a throttle behind": (
        a.count(2, within=60).throttle(period=30),
        at(0, 1, 2),
        "count(2, within=60): 1 of 2 within 60 s: 1 more to come",
        [
            (
                "1 more had come within 60 s, and throttle(period=30) had not been in a period, "
                f"which ends at {T0}31Z"
            )
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_why_not(name: str) -> None:
    """What stopped the event, with the values that were seen, and the nearest miss."""
    pattern, timeline, because, wishes = CASES[name]
    found = why(pattern, timeline)

    assert found.verdict == "did not fire"
    assert placeless(found.because) == because
    assert [placeless(wish) for wish in found.wishes] == wishes


SUPPRESSED: dict[str, Case] = {
    "dedupe": (
        a.dedupe(lambda e: e.data, ttl=5),
        [(15, "a", "m"), (18, "a", "m")],
        (
            "dedupe(…, ttl=5): suppressed: lambda e: e.data = 'm' was accepted less than 5 s "
            f"before; equal ones pass again from {T0}20Z"
        ),
        [f"it had come at {T0}20Z or later"],
    ),
    "throttle": (
        a.throttle(period=20),
        at(0, 5),
        f"throttle(period=20): suppressed: in a period of 20 s that has fired, and ends at {T0}20Z",
        [f"it had come at {T0}20Z or later"],
    ),
    "debounce, leading": (
        a.debounce(quiet=10, edge="leading"),
        at(0, 1),
        (
            "debounce(quiet=10, edge='leading'): suppressed: in a burst that has fired, and ends "
            f"at {T0}11Z if it is quiet"
        ),
        ["it had been quiet for 10 s before"],
    ),
    "rate_limit, drop": (
        a.rate_limit(1, per=10, overflow="drop"),
        at(0, 3),
        (
            "rate_limit(1, per=10, overflow='drop'): suppressed: over the rate of 1 in 10 s "
            f"(overflow='drop'); the next may pass at {T0}10Z"
        ),
        [f"it had come at {T0}10Z or later"],
    ),
}


@pytest.mark.parametrize("name", SUPPRESSED)
def test_what_suppressed_a_firing(name: str) -> None:
    """The pattern's own limits are named, with the time from which on they let one pass."""
    pattern, timeline, because, wishes = SUPPRESSED[name]
    found = why(pattern, timeline)

    assert found.verdict == "suppressed"
    assert found.because == because
    assert found.wishes == wishes


DEATHS: dict[str, tuple[Pattern[Any], Timeline, tuple[list[int], str, str]]] = {
    "count, expired": (
        a.count(3, within=60),
        at(0, 50, 70),
        ([2], "expired", "expired: out of the window of 60 s when #4 came"),
    ),
    "count, evicted": (
        a.count(3, within=60, partials_max=3, mode="edge"),
        at(0, 1, 2, 3),
        ([], "evicted", "evicted: the window holds at most partials_max=3"),
    ),
    "sequence, expired": (
        sequence(a, b, within=10),
        [*at(0), *at(12, subject="b")],
        ([2], "expired", "expired: within=10 s were over"),
    ),
    "sequence, expired by a gap": (
        sequence(a, step("l", b).optional(), c, within_gap=4),
        [*at(0), *at(1, subject="b"), *at(9)],
        ([2, 3], "expired", "expired: within_gap=4 s were over"),
    ),
    "sequence, negation": (
        sequence(a, not_(x), b, within=10),
        [*at(0), *at(1, subject="x")],
        ([2], "negation", "killed by #3: not_(on('x'))"),
    ),
    "sequence, strict": (
        sequence(a, b, contiguity="strict"),
        at(0, 1),
        ([2], "strict", "ended by #3: the very next event had to fit"),
    ),
    "sequence, replaced": (
        sequence(a, b, within=10, anchor="last"),
        at(0, 1),
        ([2], "replaced", "replaced: #3 begins anew (anchor='last')"),
    ),
    "sequence, evicted": (
        sequence(a, b, within=10, partials_max=1),
        at(0, 1),
        ([2], "evicted", "evicted: a key has at most partials_max=1"),
    ),
    "sequence, any, evicted": (
        sequence(a, step("m", b).optional(), c, within=10, partials_max=1),
        at(0, 1),
        ([2], "evicted", "evicted: a key has at most partials_max=1"),
    ),
    "sequence, dropped": (
        sequence(a, b, within=10),
        [*at(0, 1), *at(2, subject="b")],
        ([3], "dropped", "dropped: the match that #4 completed goes past it"),
    ),
    "all_of, expired": (
        all_of(a, b, within=10),
        [*at(0), *at(12, subject="b")],
        ([2], "expired", "expired: more than 10 s before #3"),
    ),
    "absent": (
        absent(b, after=a, within=10),
        [*at(0), *at(1, subject="b")],
        ([2], "negation", "killed by #3, which must not come"),
    ),
    "hold": (
        a.where(field() > 30).hold(for_=30),
        values(31, 20),
        ([2], "false", "ended by #3, for which the condition is false"),
    ),
    "throttle, trailing": (
        a.throttle(period=20, edge="trailing"),
        at(0, 5),
        ([2], "suppressed", "suppressed: #3 took its place as the last of the period"),
    ),
    "rate_limit, latest": (
        a.rate_limit(1, per=10, overflow="latest"),
        at(0, 3, 4),
        ([4], "suppressed", "suppressed: #5 took its place (overflow='latest')"),
    ),
}


@pytest.mark.parametrize("name", DEATHS)
def test_of_what_a_partial_match_died(name: str) -> None:
    """What it had taken, and what ended it."""
    pattern, timeline, expected = DEATHS[name]
    (death, *_) = why(pattern, timeline).died

    assert (death.events, death.of, death.text) == expected


def test_a_key_that_had_to_make_room_says_so() -> None:
    """Its state was there and is gone: without that an open count is a riddle."""
    keyed = a.key(lambda e: e.data, keys_max=2).count(2, within=60)
    found = why(keyed, values("k1", "k2", "k3", "k1"))

    assert found.key == "k1"
    assert "count(2, within=60): 1 of 2 within 60 s" in found.because
    assert [(death.of, death.by) for death in found.died] == [("evicted", 4)]


def test_what_would_have_made_it_fire_was_tried_out() -> None:
    """The wish is no guess: with that value, and nothing else changed, the rule does fire."""
    pattern = a.where(field() > 90).key(lambda _: "k").count(2, within=60)
    missed = why(pattern, values(95, 88))
    assert missed.wishes == ["field() > 90 had held (data was 88)"]

    assert why(pattern, values(95, 91)).verdict == "fired"


ABC = sequence(a, b, c, within=10)

PUT_RIGHT: dict[str, tuple[Pattern[Any], Timeline, Timeline]] = {
    "the steps before": (ABC, at(5, subject="c"), [*at(1), *at(2, subject="b")]),
    "the step between": (ABC, [*at(0), *at(5, subject="c")], at(1, subject="b")),
    "the steps after": (ABC, at(0), [*at(1, subject="b"), *at(2, subject="c")]),
    "in the middle": (ABC, at(1, subject="b"), [*at(0), *at(2, subject="c")]),
    "what waits": (ABC, [*at(0), *at(1, 2, subject="b")], at(3, subject="c")),
    "the watermark": (
        a.event_time(lambda e: e.data, lateness=7).count(3, within=60),
        values(10, 20, 14),
        [(9, "a", 40)],
    ),
}


@pytest.mark.parametrize("name", PUT_RIGHT)
def test_it_fires_once_the_nearest_miss_is_put_right(name: str) -> None:
    """What `CASES` say would have made it fire does so, and nothing less."""
    pattern, timeline, more = PUT_RIGHT[name]
    for cut in range(len(more)):
        less = sorted([*timeline, *more[:cut], *more[cut + 1 :]], key=lambda one: one[0])
        assert not has_fired(pattern, less), cut

    assert has_fired(pattern, sorted([*timeline, *more], key=lambda one: one[0]))


def has_fired(pattern: Pattern[Any], timeline: Timeline) -> bool:
    return any(isinstance(one, RuleFired) for one in played(pattern, timeline).records)


def test_what_was_before_says_which_came_too_late() -> None:
    """An event that was dropped is not among those that wait."""
    pattern = a.event_time(lambda e: e.data, lateness=5).count(9, within=60)
    found = why(pattern, values(10, 20, 14, 19))

    assert [line.text for line in found.history][-1] == (
        f"event on a: it came too late: its time {T0}14Z is not after the watermark {T0}15Z"
    )


def test_a_key_behind_event_time_is_not_known_before() -> None:
    """It is not said that an event is of another key, when nobody has asked it yet."""
    pattern = a.event_time(lambda e: e.data, lateness=5).key(lambda _: "k").count(2, within=60)
    found = why(pattern, values(10), "k")

    assert found.because.startswith("an event is given its key when the watermark passes its time")


def test_the_place_of_a_function_is_named() -> None:
    """File and line, so that it is found at once."""
    code = (lambda e: e.data > 90).__code__
    pattern = a.where(lambda e: e.data > 90)
    found = why(pattern, values(88))

    place = f"tests/triggers/test_explain_why.py:{code.co_firstlineno + 1}"
    ((clause,),) = [entry.clauses for entry in found.entries]
    assert clause.place is not None
    assert clause.place.endswith(place)
    assert clause.values == {"e.data": 88}


def test_one_key_is_asked_about_at_a_record_of_another() -> None:
    """At the time of an incident anything may be the last record."""
    keyed = a.key(lambda e: e.data[0]).count(3, within=60)
    found = why(keyed, values(["t1", 1], ["t1", 2], ["t2", 3]), "t1")

    assert found.verdict == "did not fire"
    assert found.because == (
        "the event is not of key 't1'; the last of key 't1' is #3: event on a: "
        "count(3, within=60): 2 of 3 within 60 s: 1 more to come"
    )
    assert found.wishes == [
        f"count(3, within=60) had got what it waits for: 1 more, until {T0[:-3]}01:00Z"
    ]
    assert [line.sequence for line in found.history] == [2, 3]


def test_a_record_that_does_not_concern_the_rule() -> None:
    """The subjects of the rule are named, and the last record that did concern it."""
    found = why(a.count(2, within=5), [*at(0), *at(1, subject="z")])

    assert found.verdict == "not concerned"
    assert found.because == "the subject z is none of the rule's: a"
    assert found.last == 2


def test_nothing_is_noted_where_nobody_asks() -> None:
    """Rules of an engine are not the traced ones: no method of theirs is wrapped."""
    made = played(a.count(2, within=5), at(0))
    (stage,) = made.rules._automata["rule"].stages
    why(a.count(2, within=5), at(0))

    assert "push" not in vars(stage)
    assert type(made.rules._automata["rule"].entries[0]).__name__ == "Entry"
