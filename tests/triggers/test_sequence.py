"""`sequence`: the worked examples of the semantics, and its language piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Struct

from headrace import Firing, group, not_, on, sequence, silent, step
from headrace.testing import RuleWarning, firings
from headrace.triggers.nodes_joined import Contiguity, Skip
from headrace.triggers.pattern import Match, Pattern


def kind(letters: str) -> Pattern[str]:
    """Events on the one subject whose name begins with one of *letters*."""
    return on("ev", str).where(lambda e: e.data[0] in letters)


a, b, c, d, x = (kind(letter) for letter in "abcdx")


def timeline(names: str) -> list[tuple[float, str, str]]:
    """One event a second, from 1 on; ``-`` is a second without, ``=`` joins two of one time."""
    events: list[tuple[float, str, str]] = []
    for second, together in enumerate(names.split(), 1):
        events += [(second, "ev", name) for name in together.split("=") if name != "-"]
    return events


def shown(fired: list[Firing[Any]]) -> str:
    """Firings as ``a1 b1@2``, those of a timeout with a ``!``."""
    return ", ".join(
        " ".join(event.data for event in firing.events)
        + ("!" if firing.reason == "timeout" else "")
        + f"@{firing.at:g}"
        for firing in fired
    )


def fires(pattern: Pattern[Any], names: str, until: float | None = None) -> str:
    return shown(firings(pattern, timeline(names), until=until))


# ---------------------------------------------------------------- the worked examples


BD = "a1 b1 c1 b2 a2 d1 e1 f1 d2 b3 g1 d3"
TABLE: dict[str, tuple[dict[str, Any], str]] = {
    "first": ({}, "b1 d1@6, b3 d3@12"),
    "last": ({"anchor": "last"}, "b2 d1@6, b3 d3@12"),
    "every": ({"anchor": "every"}, "b1 d1@6, b2 d1@6, b3 d3@12"),
    "every, within 4": ({"anchor": "every", "within": 4}, "b2 d1@6, b3 d3@12"),
    "first, within 4": ({"within": 4}, "b2 d1@6, b3 d3@12"),
}


@pytest.mark.parametrize(("options", "expected"), TABLE.values(), ids=TABLE)
def test_the_table_of_anchors(options: dict[str, Any], expected: str) -> None:
    """Which start of several a firing belongs to is the first thing that users ask."""
    assert fires(sequence(b, d, **options), BD) == expected


@pytest.mark.parametrize(
    ("contiguity", "expected"), [("strict", ""), ("relaxed", "a b1@3"), ("any", "a b1@3, a b2@4")]
)
def test_what_may_lie_between_two_steps(contiguity: Contiguity, expected: str) -> None:
    """`a c b1 b2`, a→b: strict none; relaxed {a b1}; and any also {a b2}."""
    pattern = sequence(a, b, contiguity=contiguity, anchor="every")

    assert fires(pattern, "a c b1 b2") == expected


class Quote(Struct):
    price: float
    name: str = ""


def full_language(*, stop: Callable[[Any, Match], bool]) -> Pattern[Quote]:
    """The example of the semantics, as it stands there."""
    return sequence(
        step("start", on("ev.a", Quote)),
        step("mid", on("ev.b", Quote), contiguity="any")
        .times(2, None, inner="relaxed", greedy=False)
        .until(stop)
        .optional(),
        not_(on("ev.x", Quote)),
        group("pair", step("c", on("ev.c", Quote)), step("d", on("ev.d", Quote))).times(1, 3),
        step("end", on("ev.e", Quote).where(lambda e, m: e.data.price > m["start"][0].data.price)),
        within=10,
        within_gap=None,
        skip="past_last",
    )


def quotes(text: str) -> list[tuple[float, str, Quote]]:
    """One quote a second: its subject's letter and its price."""
    return [
        (second, f"ev.{word[0]}", Quote(float(word[1:] or 0), word))
        for second, word in enumerate(text.split(), 1)
    ]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("a5 b1 b2 c d e6", {"start": ["a5"], "mid": ["b1", "b2"], "c": ["c"], "d": ["d"]}),
        ("a5 c d c d e6", {"start": ["a5"], "c": ["c", "c"], "d": ["d", "d"]}),
        ("a5 b1 c d e6", {"start": ["a5"], "c": ["c"], "d": ["d"]}),
        ("a5 b1 b9 b2 c d e6", {"start": ["a5"], "mid": ["b1", "b9"], "c": ["c"], "d": ["d"]}),
    ],
)
def test_the_full_language(text: str, steps: dict[str, list[str]]) -> None:
    """All of it in one pattern: a loop that ends and may be left out, a group, a condition."""
    pattern = full_language(stop=lambda e, m: bool(m["mid"]) and m["mid"][-1].data.price == 9)
    (fired,) = firings(pattern, quotes(text))

    taken = {name: [e.data.name for e in events] for name, events in fired.steps.items()}
    assert taken == {**steps, "end": ["e6"]}
    assert fired.at == len(text.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "a5 b1 b2 x c d e6",  # what must not come
        "a5 x c d e6",
        "a5 c d e5",  # no better than the start
        "a5 c e6",  # half a pair
        "a5 f f f f f c d f f e6",  # ten seconds later
    ],
)
def test_the_full_language_is_not_met(text: str) -> None:
    """Each of its parts can fail it."""
    assert firings(full_language(stop=lambda e, m: False), quotes(text)) == []


# ---------------------------------------------------------------- loops, optional, groups


LANGUAGE: dict[str, tuple[Pattern[Any], str, str]] = {
    "a loop is one match when the next step comes": (
        sequence(a, step("l", b).times(1, None), c),
        "a b1 b2 b3 c",
        "a b1 b2 b3 c@5",
    ),
    "with greedy=False each prefix goes on": (
        sequence(a, step("l", b).times(1, None, greedy=False), c, skip="none"),
        "a b1 b2 c",
        "a b1 b2 c@4, a b1 c@4",
    ),
    "greedy takes what the next step could have": (
        sequence(a, step("l", kind("bc")).times(1, None), kind("cd")),
        "a b c1 c2 d",
        "a b c1 c2 d@5",
    ),
    "exactly two": (sequence(a, step("l", b).times(2), c), "a b1 c b2 b3 c2", "a b1 b2 c2@6"),
    "at most two, and a greedy loop is not passed over": (
        sequence(a, step("l", b).times(1, 2), c),
        "a1 b1 b2 b3 c1 a2 b4 b5 c2",
        "a2 b4 b5 c2@9",
    ),
    "at most two, and more are passed over": (
        sequence(a, step("l", b).times(1, 2, greedy=False), c, anchor="every"),
        "a1 b1 b2 b3 c1",
        "a1 b1 b2 c1@5, a1 b1 c1@5",
    ),
    "a strict loop is broken by another event": (
        sequence(a, step("l", b).times(2, inner="strict"), c),
        "a b1 x b2 c a b1 b2 c2",
        "a b1 b2 c2@9",
    ),
    "any takes every combination": (
        sequence(step("l", b).times(2, inner="any"), c, skip="none"),
        "b1 b2 b3 c",
        "b1 b2 c@4, b1 b3 c@4, b2 b3 c@4",
    ),
    "a loop at the end is met with its m-th event": (
        sequence(a, step("l", b).times(2, None)),
        "a b1 b2 b3 a b4 b5",
        "a b1 b2@3, a b4 b5@7",
    ),
    "and with anchor every again with each further one": (
        sequence(a, step("l", b).times(2, None), anchor="every"),
        "a b1 b2 b3",
        "a b1 b2@3, a b1 b2 b3@4",
    ),
    "an optional step is taken": (sequence(a, step("o", b).optional(), c), "a b c", "a b c@3"),
    "or left out": (sequence(a, step("o", b).optional(), c), "a x c", "a c@3"),
    "an optional step at the end": (sequence(a, step("o", b).optional()), "a b", "a@1"),
    "all steps optional": (
        sequence(step("o", a).optional(), step("p", b).optional(), skip="to_next"),
        "b a",
        "b@1, a@2",
    ),
    "until ends a loop with an event of no step": (
        sequence(a, step("l", b).times(1, None).until(lambda e: e.data == "x"), c),
        "a b1 x b2 c1",
        "a b1 c1@5",
    ),
    "until lets what was taken go on": (
        sequence(
            a, step("l", b).times(1, None, greedy=False).until(lambda e: e.data == "b9"), kind("bc")
        ),
        "a b1 b2 b9",
        "a b1 b2@3",
    ),
    "a group is repeated as a whole": (
        sequence(a, group("g", b, c).times(2), d),
        "a b1 c1 b2 d c2 d2",
        "a b1 c1 b2 c2 d2@7",
    ),
    "a group is left out as a whole": (
        sequence(a, group("g", b, c).optional(), d),
        "a b1 d",
        "a d@3",
    ),
    "a group without bound": (
        sequence(a, group("g", b, c).times(1, None), d),
        "a b c b c b c d",
        "a b c b c b c d@8",
    ),
    "a loop in a group": (
        sequence(group("g", a, step("l", b).times(2)).times(2), d),
        "a1 b1 b2 a2 b3 x b4 d",
        "a1 b1 b2 a2 b3 b4 d@8",
    ),
    "a single repeated step": (
        sequence(step("l", a).times(3)),
        "a1 a2 x a3 a4 a5 a6",
        "a1 a2 a3@4, a4 a5 a6@7",
    ),
    "a step for any of two patterns": (sequence(a, kind("bc"), d), "a c b d", "a c d@4"),
}


@pytest.mark.parametrize(("pattern", "names", "expected"), LANGUAGE.values(), ids=LANGUAGE)
def test_the_language(pattern: Pattern[Any], names: str, expected: str) -> None:
    """Each word of it does what it says."""
    assert fires(pattern, names) == expected


def test_inside_a_group_a_loop_keeps_its_own_inner() -> None:
    """What is written at the loop holds there, also for the first step of a group."""
    strict = sequence(a, group("g", step("l", b).times(2, inner="strict"), c), d)

    assert fires(strict, "a b1 x b2 c d") == ""
    assert fires(strict, "a x b1 b2 c d") == "a b1 b2 c d@6"


def test_a_group_in_a_group_is_as_far_from_the_step_before() -> None:
    """Relaxed stays relaxed, however deep the first step is."""
    assert fires(sequence(a, group("g", group("h", b, c), d)), "a x b c d") == "a b c d@5"


# ---------------------------------------------------------------- negations


NOTS: dict[str, tuple[Pattern[Any], str, str]] = {
    "none in between": (sequence(a, not_(x), b), "a b a c x b", "a b@2"),
    "what comes before or behind is no matter": (sequence(a, not_(x), b), "x a c b x", "a b@4"),
    "it kills only what waits": (sequence(a, not_(x), b), "a1 x a2 b", "a2 b@4"),
    "not as the very next": (
        sequence(a, not_(x, contiguity="strict"), b),
        "a1 x b a2 c x b",
        "a2 b@7",
    ),
    "two of them": (sequence(a, not_(x), not_(d), b), "a1 d b a2 x b a3 c b", "a3 b@9"),
    "a relaxed one before a strict one": (
        sequence(a, not_(x), not_(d, contiguity="strict"), b),
        "a1 d b a2 c x b a3 c d b",
        "a3 b@11",
    ),
    "behind a loop": (
        sequence(a, step("l", b).times(1, None), not_(x), c),
        "a b1 b2 x c a2 b3 c2",
        "a2 b3 c2@8",
    ),
    "behind an optional step that is left out": (
        sequence(a, step("o", b).optional(), not_(x), c),
        "a1 x c a2 c2",
        "a2 c2@5",
    ),
    "behind an optional step that comes afterwards": (
        sequence(a, step("o", b).optional(), not_(x), c),
        "a x b c",
        "a b c@4",
    ),
    "before an optional step": (
        sequence(a, not_(x), step("o", b).optional(), c),
        "a1 x c a2 b x c2",
        "a2 b c2@7",
    ),
    "an event that is both kills": (sequence(a, not_(kind("bx")), b, c), "a b c", ""),
}


@pytest.mark.parametrize(("pattern", "names", "expected"), NOTS.values(), ids=NOTS)
def test_negations(pattern: Pattern[Any], names: str, expected: str) -> None:
    """What must not come ends exactly the matches that it concerns."""
    assert fires(pattern, names) == expected


TRAILING: dict[str, tuple[Pattern[Any], str, str]] = {
    "it fires when within is over": (sequence(a, not_(x), within=3), "a c", "a@4"),
    "not if it came": (sequence(a, not_(x), within=3), "a c x", ""),
    "at the very end it is too late": (sequence(a, not_(x), within=3), "a c c x", "a@4"),
    "any of several": (sequence(a, not_(x), not_(d), within=3), "a1 d - - a2 x - - a3", "a3@12"),
    "a strict one looks at the very next": (
        sequence(a, not_(x, contiguity="strict"), within=3),
        "a1 x - - a2 c x",
        "a2@8",
    ),
    "and fires if nothing comes": (sequence(a, not_(x, contiguity="strict"), within=3), "a", "a@4"),
    "behind two steps": (sequence(a, b, not_(x), within=4), "a - b", "a b@5"),
    "each start has its own": (
        sequence(a, not_(x), within=3, anchor="every"),
        "a1 a2 - x a3",
        "a1@4, a3@8",
    ),
    "behind a loop": (
        sequence(a, step("l", b).times(1, None), not_(x), within=5),
        "a b1 b2",
        "a b1 b2@6",
    ),
    "behind an optional step": (
        sequence(a, step("o", b).optional(), not_(x), within=3),
        "a1 - - - a2 b",
        "a1@4, a2 b@8",
    ),
    "within_gap ends it too": (sequence(a, b, not_(x), within_gap=3), "a - b", "a b@6"),
}


@pytest.mark.parametrize(("pattern", "names", "expected"), TRAILING.values(), ids=TRAILING)
def test_a_negation_at_the_end(pattern: Pattern[Any], names: str, expected: str) -> None:
    """What did not come is known once there is no time left for it."""
    assert fires(pattern, names, until=30) == expected


def test_a_firing_by_time_is_by_its_due_time() -> None:
    """Its time is when it was due, and says so."""
    (fired,) = firings(sequence(a, not_(x), within=3), timeline("a"), until=99)

    assert (fired.at, fired.scheduled_at, fired.lateness) == (4, 4, 0)


# ---------------------------------------------------------------- skip


SKIPS: dict[Skip, tuple[str, str]] = {
    "none": ("a1 b1 b2@4, a2 b1 b2@4", "a1 a2@2, a2 a3@3, a3 a4@4"),
    "to_next": ("a1 b1 b2@4, a2 b1 b2@4", "a1 a2@2, a2 a3@3, a3 a4@4"),
    "past_last": ("a1 b1 b2@4", "a1 a2@2, a3 a4@4"),
    ("to_first", "two"): ("a1 b1 b2@4", "a1 a2@2, a2 a3@3, a3 a4@4"),
    ("to_last", "one"): ("a1 b1 b2@4, a2 b1 b2@4", "a1 a2@2, a2 a3@3, a3 a4@4"),
}


@pytest.mark.parametrize(("skip", "expected"), SKIPS.items(), ids=map(str, SKIPS))
def test_what_a_match_drops(skip: Skip, expected: tuple[str, str]) -> None:
    """Of matches that overlap, those are fired that the strategy says."""
    apart = sequence(step("one", a), step("two", b), b, skip=skip)
    chained = sequence(step("one", a), step("two", a), skip=skip)

    assert (fires(apart, "a1 a2 b1 b2"), fires(chained, "a1 a2 a3 a4")) == expected


def test_only_skip_lets_a_match_wait_for_an_older_one() -> None:
    """Said in Flink's words it is as in Flink; an anchor never holds back what has been met."""

    def pattern(**options: Any) -> Pattern[str]:
        bigger = b.where(lambda e, m: e.data[1] > m["s1"][0].data[1])
        return sequence(a, bigger, within=5, **options)

    assert fires(pattern(), "a5 a1 b3 - - - -", 20) == "a1 b3@3"
    assert fires(pattern(skip="past_last"), "a5 a1 b3 - - - -", 20) == "a1 b3@6"
    assert fires(pattern(skip="past_last"), "a5 a1 b3 b6", 20) == "a5 b6@4"


def test_an_anchor_that_is_last_replaces_only_a_bare_start() -> None:
    """A partial that has got further is not thrown away for a new start."""
    last = sequence(a, b, c, anchor="last")

    assert fires(last, "a1 a2 b a3 c") == "a2 b c@5"
    assert fires(sequence(a, a, anchor="last"), "a1 a2 a3 a4") == "a1 a2@2, a3 a4@4"


# ---------------------------------------------------------------- time


def test_within_is_half_open() -> None:
    """An event exactly at start + within is outside (law L2), also of several at one time."""
    pattern = sequence(a, b, within=2)

    assert fires(pattern, "a - b") == ""
    assert fires(pattern, "a b") == "a b@2"
    assert fires(pattern, "a=b") == "a b@1"
    assert fires(sequence(a, b, c, within=2), "a1 b a2=c b2=c2") == "a2 b2 c2@4"


def test_within_gap_bounds_neighbours() -> None:
    """Each event comes soon after the one before, also in a loop, however long it takes in all."""
    pattern = sequence(a, step("l", b).times(1, None), c, within_gap=2)

    assert fires(pattern, "a b1 b2 b3 b4 c") == "a b1 b2 b3 b4 c@6"
    assert fires(pattern, "a b1 - b2 c a - b3 c") == ""
    both = sequence(a, b, c, within=4, within_gap=3)
    assert fires(both, "a - b c - a2 - b2 - c2") == "a b c@4"


def test_a_timeout_is_a_firing_with_a_reason() -> None:
    """What was begun and never finished can be acted upon."""
    pattern = sequence(a, step("o", b), c, within=4, on_timeout=True, anchor="every")
    fired = firings(pattern, timeline("a1 b1 a2 - - - - a3 b3 c3"), until=40)

    assert shown(fired) == "a1 b1!@5, a2!@7, a3 b3 c3@10"
    assert [firing.reason for firing in fired] == ["timeout", "timeout", None]
    assert [list(firing.steps) for firing in fired] == [["s1", "o"], ["s1"], ["s1", "o", "s3"]]


def test_a_gap_times_out_too() -> None:
    """The time of the timeout is when the next event would have been too late."""
    pattern = sequence(a, b, c, within_gap=2, on_timeout=True)

    assert fires(pattern, "a b", until=20) == "a b!@4"


# ---------------------------------------------------------------- conditions and errors


def test_a_condition_sees_what_was_taken() -> None:
    """Steps by name, oldest first; a step that has taken nothing has an empty list."""
    seen: list[dict[str, list[str]]] = []

    def look(event: Any, match: Match) -> bool:
        seen.append({name: [e.data for e in events] for name, events in match.items()})
        return True

    pattern = sequence(
        step("one", a), step("many", b).times(2), step("opt", x).optional(), c.where(look)
    )
    assert fires(pattern, "a b1 b2 c") == "a b1 b2 c@4"
    assert seen == [{"one": ["a"], "many": ["b1", "b2"], "opt": [], "s4": []}]


def test_a_condition_cannot_change_what_was_taken() -> None:
    """The match is read-only, so one rule's condition cannot confuse the next."""

    def meddle(event: Any, match: Any) -> bool:
        match["s1"] = []
        return True

    with pytest.warns(RuleWarning, match="TypeError"):
        assert fires(sequence(a, b.where(meddle)), "a b") == ""


def test_a_condition_that_raises_means_no_match() -> None:
    """It is recorded once for an event, not once for each partial; the others go on (law L4)."""
    pattern = sequence(step("one", a), b.where(lambda e, m: m["won"][0].data == "a"))
    with pytest.warns(RuleWarning) as warned:
        assert fires(pattern, "a1 a2 b1") == ""
    assert [str(warning.message) for warning in warned] == ["t=3 ev: where: KeyError: 'won'"]

    ending = step("l", b).times(1, None).until(lambda e: bool(1 / 0))
    with pytest.warns(RuleWarning, match="until: ZeroDivisionError"):
        assert fires(sequence(a, ending, c), "a b c") == "a b c@3"


def test_a_negation_may_see_what_was_taken() -> None:
    """Such as: no cheaper one in between."""
    cheaper = kind("ab").where(lambda e, m: e.data[1] < m["s1"][0].data[1])
    pattern = sequence(a, not_(cheaper), c)

    assert fires(pattern, "a5 b4 c a5 b6 c") == "a5 c@6"


def test_each_key_has_partials_of_its_own() -> None:
    """What one machine begins, another does not finish."""
    start = on("door.open", dict).key(lambda e: e.data["key"])
    end = on("door.shut", dict).key(lambda e: e.data["key"])
    events = [(1, "door.open", {"key": 1}), (2, "door.shut", {"key": 2})]
    later = [(3, "door.open", {"key": 2}), (4, "door.shut", {"key": 1})]
    fired = firings(sequence(start, end), [*events, *later])

    assert [(firing.at, firing.key) for firing in fired] == [(4, 1)]


def test_an_event_that_fits_two_steps_with_two_keys_concerns_both() -> None:
    """Its stream is that of either key."""
    source = on("move", dict).key(lambda e: e.data["from"])
    target = on("move", dict).key(lambda e: e.data["to"])
    strict = sequence(target, source, contiguity="strict")
    moves = [("a", "b"), ("c", "b"), ("b", "d"), ("d", "e")]
    timed = [(t, "move", {"from": f, "to": to}) for t, (f, to) in enumerate(moves)]

    assert [(f.at, f.key) for f in firings(strict, timed)] == [(2, "b"), (3, "d")]


# ---------------------------------------------------------------- composition


def test_steps_may_be_patterns_of_any_kind() -> None:
    """Three in a minute, and then silence."""
    burst = kind("a").count(3, within=60)
    pattern = sequence(step("burst", burst), step("quiet", silent(kind("a"), for_=10)))
    fired = firings(pattern, timeline("a1 a2 a3"), until=60)

    assert [(f.at, [e.data for e in f.events]) for f in fired] == [(13, ["a1", "a2", "a3"])]
    assert {name: [e.data for e in events] for name, events in fired[0].steps.items()} == {
        "burst": ["a1", "a2", "a3"],
        "quiet": ["a3"],
    }


def test_events_that_two_steps_share_count_once() -> None:
    """Two counts over the same events: the match has each event, and folds it, once."""
    pattern = sequence(kind("a").count(2, within=60), kind("a").count(3, within=60))
    (fired,) = firings(pattern.aggregate(len), timeline("a1 a2 a3"))

    assert ([e.data for e in fired.events], fired.value) == (["a1", "a2", "a3"], 3)


def test_operators_behind_see_the_last_event() -> None:
    """`.where` behind a sequence looks at the event that completed it."""
    pattern = sequence(a, b)

    assert fires(pattern.where(lambda e: e.data == "b2"), "a b1 a b2") == "a b2@4"
    summed = pattern.count(2, within=60).aggregate(lambda events: [e.data for e in events])
    (fired,) = firings(summed, timeline("a1 b1 a2 b2"))
    assert fired.value == ["a1", "b1", "a2", "b2"]


def test_a_sequence_of_sequences() -> None:
    """What is met by one event moves the outer one on once."""
    outer = sequence(step("first", sequence(a, b)), step("second", sequence(c, d)))
    (fired,) = firings(outer, timeline("a c b d c2 d2"))

    assert fired.at == 4
    assert {name: [e.data for e in events] for name, events in fired.steps.items()} == {
        "first": ["a", "b"],
        "second": ["c", "d"],
    }


# ---------------------------------------------------------------- event time


def stamped(letters: str) -> Pattern[Any]:
    """Events with a time of their own."""
    timed = on("ev", str).event_time(lambda e: float(e.data[1:]), lateness=5)
    return timed.where(lambda e: e.data[0] in letters)


@pytest.mark.parametrize(
    ("pattern", "names", "expected"),
    [
        (sequence(stamped("a"), stamped("b")), "b12 a10 z20", "b12 a10@12"),
        (sequence(stamped("a"), stamped("b"), within=2), "b12 a10 z20", ""),
        (sequence(stamped("a"), stamped("b"), contiguity="strict"), "b12 a10 c11 z20", ""),
        (sequence(stamped("a"), not_(stamped("x")), within=4), "a10 x12 a20 z30", "a20@24"),
    ],
)
def test_steps_go_by_event_time(pattern: Pattern[Any], names: str, expected: str) -> None:
    """What was late to come is put where it belongs; time runs out by the events' own time."""
    assert fires(pattern, names) == expected
