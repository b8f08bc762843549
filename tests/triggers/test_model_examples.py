"""The reference model against every worked example of the semantics: who checks the checker."""

from __future__ import annotations

from typing import Any

import pytest
from tests.reference.happened import Given, Happened
from tests.reference.model import Model
from tests.reference.spec import (
    Absent,
    Aggregate,
    AllOf,
    Anchor,
    AnyOf,
    Batch,
    Contiguity,
    Count,
    CountMode,
    Crosses,
    Debounce,
    Dedupe,
    Edge,
    EventTime,
    Hold,
    Key,
    On,
    Part,
    RateLimit,
    Repeat,
    Sequence,
    Session,
    Silent,
    Spec,
    Throttle,
    Where,
    Windows,
)

from headrace.engine.clock import NS

X = On("x")


def at(*times: float, subject: str = "x") -> list[Given]:
    """Events on one subject; the data is the time."""
    return [Given(time, subject, time) for time in times]


def values(text: str) -> list[Given]:
    """``0:20 5:31``: time and value."""
    pairs = [pair.split(":") for pair in text.split()]
    return [Given(float(time), "x", float(value)) for time, value in pairs]


def named(text: str) -> list[Given]:
    """``A0 B15``: an event named ``A0`` on ``a`` at 0; the data is the name."""
    return [Given(float(name[1:]), name[0].lower(), name) for name in text.split()]


def fired(spec: Spec, timeline: list[Given], until: float = 1000) -> list[Happened]:
    return Model(timeline, start=0, until=until).firings(spec)


def times(spec: Spec, timeline: list[Given], until: float = 1000) -> list[float]:
    return [hit.at / NS for hit in fired(spec, timeline, until)]


def contents(
    spec: Spec, timeline: list[Given], until: float = 1000
) -> list[tuple[float, list[Any]]]:
    """When, and the data of the events."""
    return [
        (hit.at / NS, [timeline[event].data for event in hit.events])
        for hit in fired(spec, timeline, until)
    ]


# ---------------------------------------------------------------- filter, any_of, key


def test_a_filter() -> None:
    """Fires once per matching event; a condition that raises does not match."""
    large = Where(X, lambda e: e.data > 3)
    raises = Where(X, lambda e: 6 / e.data > 1)

    assert times(large, values("1:5 2:3 3:4")) == [1, 3]
    assert times(raises, values("1:0 2:3")) == [2]


def test_any_of() -> None:
    """Fires once for one event even when several branches match, and names the branches."""
    either = AnyOf((On("a"), On("*"), On("b")))
    made = fired(either, named("A1 B2"))

    assert [(hit.at / NS, hit.branches) for hit in made] == [(1, (0, 1)), (2, (1, 2))]
    assert contents(Count(either, 2, 10, "reset"), named("A1 B2")) == [(2, ["A1", "B2"])]


def test_key() -> None:
    """Independent automata and timers per key; None is not matched."""
    keyed = Key(X, lambda e: {1: "odd", 2: "even"}.get(e.data))
    timeline = values("0:1 1:2 2:2 3:3 4:1")

    made = fired(Count(keyed, 2, 10, "reset"), timeline)
    assert [(hit.at / NS, hit.key, hit.events) for hit in made] == [
        (2, "even", (1, 2)),
        (4, "odd", (0, 4)),
    ]
    made = fired(Silent(keyed, 6, "once"), timeline)
    assert [(hit.at / NS, hit.key) for hit in made] == [(8, "even"), (10, "odd")]


# ---------------------------------------------------------------- thresholds


def test_crosses() -> None:
    """Above 30, h=2: `29 31 33 29 31 27 31` fires at the 2nd and the last."""
    timeline = [Given(n, "x", data) for n, data in enumerate([29, 31, 33, 29, 31, 27, 31], 1)]
    rising = Crosses(X, lambda e: e.data, above=30, hysteresis=2)
    falling = Crosses(X, lambda e: -e.data, above=None, below=-30, hysteresis=2)

    assert times(rising, timeline) == [2, 7]
    assert times(falling, timeline) == [2, 7]
    assert times(rising, timeline[1:]) == [7]
    assert times(rising._replace(initial=True), timeline[1:]) == [2, 7]


def test_hold() -> None:
    """>30 for 30: `0:20 5:31 10:33 34:29 40:31 60:32 70:35` → 70 only, by timer."""
    hot = Hold(Where(X, lambda e: e.data > 30), 30)

    timeline = values("0:20 5:31 10:33 34:29 40:31 60:32 70:35")
    assert contents(hot, timeline) == [(70, [31, 32])]
    assert times(hot, values("5:31")) == [35]


# ---------------------------------------------------------------- count, silent

COUNTS: list[tuple[tuple[float, ...], CountMode, list[float]]] = [
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


@pytest.mark.parametrize(("events", "mode", "expected"), COUNTS)
def test_count(events: tuple[float, ...], mode: CountMode, expected: list[float]) -> None:
    """n=3, W=60, as the table has it."""
    assert times(Count(X, 3, 60, mode), at(*events)) == expected


@pytest.mark.parametrize(("repeat", "expected"), [("once", [8, 19]), ("every", [8, 19, 25, 31])])
def test_silent(repeat: Repeat, expected: list[float]) -> None:
    """W=6, start 0, x at 2 12 13: once → 8 19; every → 8 19 25 31; x at 0 alone → 6 only."""
    assert times(Silent(X, 6, repeat), at(2, 12, 13), until=31) == expected
    assert times(Silent(X, 6, "once"), at(0)) == [6]


# ---------------------------------------------------------------- sequence

INPUT = "A1 B1 C1 B2 A2 D1 E1 F1 D2 B3 G1 D3"
LETTERS = [Given(t, name[0].lower(), name) for t, name in enumerate(INPUT.split(), 1)]


@pytest.mark.parametrize(
    ("anchor", "within", "expected"),
    [
        ("first", None, [(6, ["B1", "D1"]), (12, ["B3", "D3"])]),
        ("last", None, [(6, ["B2", "D1"]), (12, ["B3", "D3"])]),
        ("every", None, [(6, ["B1", "D1"]), (6, ["B2", "D1"]), (12, ["B3", "D3"])]),
        ("every", 4, [(6, ["B2", "D1"]), (12, ["B3", "D3"])]),
        ("first", 4, [(6, ["B2", "D1"]), (12, ["B3", "D3"])]),
    ],
)
def test_sequence(
    anchor: Anchor, within: float | None, expected: list[tuple[float, list[str]]]
) -> None:
    """B→D in `A1 B1 C1 B2 A2 D1 E1 F1 D2 B3 G1 D3`, as the table has it."""
    pattern = Sequence((Part(On("b")), Part(On("d"))), within, anchor=anchor)

    assert contents(pattern, LETTERS) == expected


@pytest.mark.parametrize(("contiguity", "expected"), [("strict", []), ("relaxed", [["A", "B1"]])])
def test_contiguity(contiguity: Contiguity, expected: list[list[str]]) -> None:
    """`a c b1 b2`, a→b, all on subjects of the steps: strict none; relaxed {a b1}."""
    timeline = [Given(n, "x", name) for n, name in enumerate(["A", "C", "B1", "B2"])]
    first = Part(Where(X, lambda e: e.data[0] == "A"))
    then = Part(Where(X, lambda e: e.data[0] == "B"))
    pattern = Sequence((first, then), None, contiguity)

    assert [data for _, data in contents(pattern, timeline)] == expected


def test_what_is_on_no_step_s_subject_is_no_neighbour() -> None:
    """Strict asks about the input stream, which is what the steps listen to."""
    pattern = Sequence((Part(On("a")), Part(On("b"))), None, "strict")

    assert times(pattern, named("A0 C1 B2 B3")) == [2]
    assert times(pattern, named("A0 A1 B2")) == [2]


def test_a_start_that_runs_out_of_time_takes_no_other_with_it() -> None:
    """Every `a` starts a partial, and expiry is a timer of its own."""
    pattern = Sequence((Part(On("a")), Part(On("b"))), 10, on_timeout=True)
    made = fired(pattern, named("A0 A5 B12 A20 B30"))

    assert [(hit.at / NS, hit.reason) for hit in made] == [
        (10, "timeout"),
        (12, None),
        (30, "timeout"),
    ]


def test_negations() -> None:
    """In between it kills the partial; at the end it fires when the time is over."""
    between = Sequence((Part(On("a")), Part(On("c"), is_not=True), Part(On("b"))))
    at_the_end = Sequence((Part(On("a")), Part(On("b")), Part(On("c"), is_not=True)), 10)

    assert times(between, named("A0 B1 A2 C3 B4")) == [1]
    assert times(between, named("A0 C1 A2 B3")) == [3]
    assert contents(at_the_end, named("A0 B1")) == [(10, ["A0", "B1"])]
    assert times(at_the_end, named("A0 B1 C9")) == []
    assert times(at_the_end, named("A0 B1 C10")) == [10]
    assert times(at_the_end, named("A0")) == []


def test_a_negation_may_be_about_the_very_next_only() -> None:
    """contiguity="strict": not as the very next."""
    not_next = Part(On("c"), is_not=True, contiguity="strict")
    pattern = Sequence((Part(On("a")), not_next, Part(On("b"))))

    assert times(pattern, named("A0 C1 B2")) == []
    assert times(pattern, named("A0 A1 C2 B3")) == [3]


def test_a_condition_sees_what_was_taken() -> None:
    """`.where(lambda e, m: …)`."""
    rises = Part(X, condition=lambda e, m: e.data > m["s1"][0].data)

    assert contents(Sequence((Part(X), rises)), values("0:5 1:3 2:4 3:1")) == [(2, [3, 4])]


# ---------------------------------------------------------------- all_of, absent


def test_all_of() -> None:
    """W=100, `A0 A10 B15 B20 A25`: latest → {A10,B15}@15 {A25,B20}@25; first → {A0,B15}@15 …"""
    both = AllOf((On("a"), On("b")), 100)
    timeline = named("A0 A10 B15 B20 A25")

    assert contents(both, timeline) == [(15, ["A10", "B15"]), (25, ["B20", "A25"])]
    assert contents(both._replace(keep="first"), timeline) == [
        (15, ["A0", "B15"]),
        (25, ["B20", "A25"]),
    ]
    assert contents(both._replace(keep="all"), timeline) == [
        (15, ["A0", "A10", "B15"]),
        (25, ["B20", "A25"]),
    ]
    assert times(both._replace(within=10), named("A0 B10 A19")) == [19]
    assert contents(both._replace(within=10, keep="first"), named("A0 A5 B10")) == [
        (10, ["A5", "B10"])
    ]


def test_absent() -> None:
    """W=10, A@0: B@9 → none; B@10 → fires @10; a further `a` counts only with restart."""
    pattern = Absent(On("b"), On("a"), 10)

    assert times(pattern, named("A0 B9")) == []
    assert contents(pattern, named("A0 B10")) == [(10, ["A0"])]
    assert contents(pattern, named("A0 A5")) == [(10, ["A0"])]
    assert contents(pattern._replace(rearm="restart"), named("A0 A5")) == [(15, ["A5"])]
    assert times(Absent(On("a"), On("*"), 10), named("A0")) == [10]


# ---------------------------------------------------------------- how often


def test_debounce() -> None:
    """d=50 ms: `250 350 370 421 480 490 500` → 300 420 471 550; d=10, m=25: 25 and 42."""
    timeline = at(0.25, 0.35, 0.37, 0.421, 0.48, 0.49, 0.5)

    assert times(Debounce(X, 0.05), timeline) == [0.3, 0.42, 0.471, 0.55]
    assert contents(Debounce(X, 10, 25), at(0, 8, 16, 24, 32)) == [
        (25, [0, 8, 16, 24]),
        (42, [32]),
    ]
    assert contents(Session(X, 10, 25), at(0, 8, 16, 24, 32)) == [
        (25, [0, 8, 16, 24]),
        (42, [32]),
    ]


def test_debounce_edges() -> None:
    """Leading: at once, then quiet; both: at the end too, with what came after the first."""
    timeline = at(0, 5, 30)

    assert contents(Debounce(X, 10, edge="leading"), timeline) == [(0, [0]), (30, [30])]
    made = fired(Debounce(X, 10, edge="both"), timeline)
    assert [(hit.at / NS, hit.events, hit.reason) for hit in made] == [
        (0, (0,), "leading"),
        (15, (1,), "trailing"),
        (30, (2,), "leading"),
    ]


@pytest.mark.parametrize(
    ("edge", "expected"),
    [
        ("leading", [(210, [210]), (410, [410])]),
        ("trailing", [(410, [350]), (610, [450])]),
        ("both", [(210, [210]), (410, [350]), (610, [450])]),
    ],
)
def test_throttle(edge: Edge, expected: list[tuple[float, list[float]]]) -> None:
    """p=200: `210 250 310 350 410 450`, by edge."""
    assert contents(Throttle(X, 200, edge), at(210, 250, 310, 350, 410, 450)) == expected


def test_rate_limit() -> None:
    """Lossless by default, with an explicit burst; exact in rationals."""
    timeline = at(0, 0, 0, 0, 10)

    assert times(RateLimit(X, 1, 3), timeline) == [0, 3, 6, 9, 12]
    assert times(RateLimit(X, 1, 3, 2), timeline) == [0, 0, 3, 6, 10]
    assert times(RateLimit(X, 2, 3), timeline) == [0, 0, 1.5, 3, 10]
    assert times(RateLimit(X, 1, 3, overflow="drop"), timeline) == [0, 10]
    assert contents(RateLimit(X, 1, 3, overflow="latest"), at(0, 1, 2, 5)) == [
        (0, [0]),
        (3, [2]),
        (6, [5]),
    ]
    thirds = [hit.at for hit in fired(RateLimit(X, 3, 1, 1), at(0, 0, 0, 0))]
    assert thirds == [0, 333_333_334, 666_666_667, 1_000_000_000]
    thirds = [hit.at for hit in fired(RateLimit(X, 3, 1), at(*[0] * 6))]
    assert thirds == [0, 0, 0, 333_333_334, 666_666_667, 1_000_000_000]


def test_dedupe() -> None:
    """ttl=5: 15 pass, 18 drop, 19.999 drop, 20 pass; refresh extends."""
    timeline = at(15, 18, 19.999, 20)

    assert times(Dedupe(X, lambda e: "k", 5), timeline) == [15, 20]
    assert times(Dedupe(X, lambda e: "k", 5, refresh=True), timeline) == [15]
    assert times(Dedupe(X, lambda e: e.data, 5), timeline) == [15, 18, 19.999, 20]


# ---------------------------------------------------------------- windows


def test_batch() -> None:
    """n=3, within=10: `0 4 9 20 31` → 9{0,4,9} 30{20} 41{31}."""
    made = fired(Batch(X, 3, 10), timeline := at(0, 4, 9, 20, 31))

    assert [(hit.at / NS, [timeline[e].at for e in hit.events], hit.reason) for hit in made] == [
        (9, [0, 4, 9], "n"),
        (30, [20], "time"),
        (41, [31], "time"),
    ]
    small = [Given(n, "x", 1) for n in range(5)]
    assert times(Batch(X, bytes_max=2), small) == [1, 3]


def test_tumbling_and_hopping() -> None:
    """[k·size, (k+1)·size), aligned to the epoch; empty windows only when asked for."""
    assert contents(Windows(X, 10, 10), at(3, 9, 10, 35)) == [
        (10, [3, 9]),
        (20, [10]),
        (40, [35]),
    ]
    empty = Windows(X, 10, 10, emit_empty=True)
    assert contents(empty, at(3, 35), until=50) == [
        (10, [3]),
        (20, []),
        (30, []),
        (40, [35]),
        (50, []),
    ]
    assert contents(Windows(X, 10, 5), at(3, 7)) == [(5, [3]), (10, [3, 7]), (15, [7])]
    assert contents(Windows(X, 2, 5), at(1, 3, 6)) == [(2, [1]), (7, [6])]


def test_days_are_local() -> None:
    """Days and longer go from midnight to midnight of a time zone, however long the day."""
    hour = 3600
    day = Windows(X, 24 * hour, 24 * hour, tz="Europe/Berlin")
    # 2024-03-31, a day of 23 hours, begins at 2024-03-30T23:00Z.
    begins = 1_711_839_600
    until = begins + 50 * hour
    timeline = at(begins - 1, begins, begins + 23 * hour - 1, begins + 23 * hour)

    assert contents(day, timeline, until) == [
        (begins, [begins - 1]),
        (begins + 23 * hour, [begins, begins + 23 * hour - 1]),
        (begins + 47 * hour, [begins + 23 * hour]),
    ]


def test_aggregate() -> None:
    """Folds the events of a window, and a condition behind it sees what that is."""
    total = Aggregate(Windows(X, 10, 10), lambda events: sum(e.data for e in events))
    timeline = at(3, 4, 15)

    assert [hit.value for hit in fired(total, timeline)] == [7, 15]
    assert times(Where(total, lambda e: e.value > 10), timeline) == [20]


# ---------------------------------------------------------------- event time


def stamped(*times: float) -> list[Given]:
    """Events that arrive a second apart, with event times."""
    return [Given(n, "x", time) for n, time in enumerate(times)]


def test_event_time() -> None:
    """L=5, `10 12 20 14 16`: 10 and 12 released when the watermark is 15; 14 is late; 16 waits."""
    by_time = EventTime(X, lambda e: float(e.data), 5)

    assert contents(by_time, stamped(10, 12, 20, 14, 16)) == [(10, [10]), (12, [12])]
    assert contents(by_time, stamped(10, 12, 20, 14, 16, 30)) == [
        (10, [10]),
        (12, [12]),
        (16, [16]),
        (20, [20]),
    ]
    assert contents(by_time._replace(late="as_now"), stamped(10, 12, 20, 14)) == [
        (10, [10]),
        (12, [12]),
        (15, [14]),
    ]


def test_timers_go_by_the_watermark() -> None:
    """Due ≤ t before each release, then those due ≤ the watermark."""
    by_time = EventTime(X, lambda e: float(e.data), 0)

    assert contents(Silent(by_time, 5, "once"), stamped(10, 16, 17, 30)) == [
        (15, [10]),
        (22, [17]),
    ]
    assert contents(Count(by_time, 2, 5, "every"), stamped(10, 15, 19)) == [(19, [15, 19])]
