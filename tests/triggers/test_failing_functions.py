"""Law L4: what users' conditions, keys and types may do without hurting anybody else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.reference.shell import Shell, fold, ns, rules

from headrace import App, MemoryLog, any_of, on, silent
from headrace.engine import record as r
from headrace.testing import RuleWarning, VirtualClock, firings
from headrace.triggers.keys import plain_key
from headrace.triggers.pattern import Pattern
from headrace.triggers.ruleset import Rule

HALF = "\udcff"
"""Half a character: what os.fsdecode makes of a file name that is no UTF-8."""


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Unreprable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __bool__(self) -> bool:
        raise RuntimeError("neither yes nor no")


class Picky(msgspec.Struct):
    value: int

    def __post_init__(self) -> None:
        if self.value == 1:
            raise ValueError(f"one is not allowed {HALF}")
        if self.value == 2:
            raise ZeroDivisionError("nor is two")


def raising(error: BaseException) -> Callable[[Any], Any]:
    def condition(event: Any) -> Any:
        raise error

    return condition


def endless(event: Any) -> bool:
    return endless(event)


def nested(depth: int) -> tuple[Any, ...]:
    made: tuple[Any, ...] = ()
    for _ in range(depth):
        made = (made,)
    return made


CONDITIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "raises": (raising(ValueError("low")), "ValueError: low"),
    "no message": (raising(KeyError()), "KeyError: "),
    "unprintable": (raising(Unprintable()), "Unprintable: (its text cannot be had)"),
    "half a character": (raising(OSError(HALF)), r"OSError: \udcff"),
    "long": (raising(ValueError("x" * 10_000)), "ValueError: " + "x" * 488),
    "many lines": (raising(ValueError("a\nb")), "ValueError: a\nb"),
    "exits": (lambda e: sys.exit(3), "SystemExit: 3"),
    "endless": (endless, "RecursionError: maximum recursion depth exceeded"),
    "assert": (raising(AssertionError("no")), "AssertionError: no"),
    "no attribute": (
        lambda e: e.data.celsius,
        "AttributeError: 'int' object has no attribute 'celsius'",
    ),
    "neither yes nor no": (lambda e: Unreprable(), "RuntimeError: neither yes nor no"),
    "stops": (raising(StopIteration()), "StopIteration: "),
}


def three(pattern: Pattern[Any]) -> Shell:
    """A shell with *pattern* between two rules that are in order."""
    first, last = Rule("first", on("a"), "parallel"), Rule("last", on("a"), "parallel")
    return Shell(rules(first, Rule("bad", pattern, "parallel", "1"), last)).start(ns(1))


@pytest.mark.parametrize("name", CONDITIONS)
@pytest.mark.parametrize("behind", [False, True], ids=["at once", "behind a count"])
def test_a_condition_that_fails_is_a_record_and_no_match(name: str, behind: bool) -> None:
    """L4: never a lost event, never another rule stopped, and the last line says why."""
    condition, error = CONDITIONS[name]
    pattern = on("a").count(1, within=1) if behind else on("a")
    shell = three(pattern.where(condition))
    event = shell.emit(ns(2), "a", 1)

    assert [rule for rule, _, _ in shell.fired()] == ["first", "last"]
    (recorded,) = shell.of_kind(r.RuleError)
    assert (recorded.rule, recorded.event, recorded.place) == ("bad", event, "where")
    assert recorded.error.startswith(error)
    assert shell.stats("bad")["errors"] == 1
    assert shell.refold().dump() == shell.kernel.dump()
    assert shell.refold().divergences == []


KEYS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "raises": (lambda e: e.data["x"], "TypeError: 'int' object is not subscriptable"),
    "exits": (lambda e: sys.exit(3), "SystemExit: 3"),
    "list": (lambda e: ["k"], "TypeError: the key is of type list"),
    "dict": (lambda e: {}, "TypeError: the key is of type dict"),
    "set": (lambda e: {1}, "TypeError: the key is of type set"),
    "object": (lambda e: Unreprable(), "TypeError: the key is of type Unreprable"),
    "nan": (lambda e: float("nan"), "TypeError: the key is of type float"),
    "nan in a tuple": (lambda e: ("a", float("nan")), "TypeError: the key is of type tuple"),
    "list in a tuple": (lambda e: ("a", []), "TypeError: the key is of type tuple"),
    "None in a tuple": (lambda e: ("a", None), "TypeError: the key is of type tuple"),
    "half a character": (lambda e: HALF, "TypeError: the key is of type str"),
    "half in a tuple": (lambda e: (HALF,), "TypeError: the key is of type tuple"),
    "huge text": (lambda e: "x" * 2_000_000, "TypeError: the key is of type str"),
    "huge bytes": (lambda e: b"x" * 2_000_000, "TypeError: the key is of type bytes"),
    "huge tuple": (lambda e: ("x" * 400,) * 10_000, "TypeError: the key is of type tuple"),
    "huge number": (lambda e: 2**64, "TypeError: the key is of type int"),
    "very negative": (lambda e: -(2**63) - 1, "TypeError: the key is of type int"),
    "deep": (lambda e: nested(100_000), "TypeError: the key is of type tuple"),
    "coroutine": (lambda e: int, "TypeError: the key is of type type"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("behind", [False, True], ids=["at once", "behind a count"])
def test_a_key_that_cannot_be_stored_is_a_record_and_no_match(name: str, behind: bool) -> None:
    """A key must be the same after a restart; one that cannot be is refused, event by event."""
    key, error = KEYS[name]
    pattern = on("a").count(1, within=1) if behind else on("a")
    shell = three(pattern.key(key))
    event = shell.emit(ns(2), "a", 1)

    assert [rule for rule, _, _ in shell.fired()] == ["first", "last"]
    (recorded,) = shell.of_kind(r.RuleError)
    assert (recorded.rule, recorded.event, recorded.place) == ("bad", event, "key")
    assert recorded.error.startswith(error)
    assert shell.refold().dump() == shell.kernel.dump()
    assert shell.refold().divergences == []


GOOD_KEYS = [
    "",
    "é𝄞",
    "x" * 500,
    b"\xff\x00",
    0,
    -(2**63),
    2**64 - 1,
    True,
    False,
    0.5,
    -0.0,
    float("inf"),
    1e308,
    5e-324,
    (),
    ("a",),
    ("a", 1, 2.5, b"x", True),
]


@pytest.mark.parametrize("key", GOOD_KEYS, ids=repr)
def test_a_key_comes_back_from_the_log_as_it_was(key: Any) -> None:
    """Automata, timers and runs of a key go on after a restart: it is equal, in its one form."""
    made = Rule("r", silent(on("a").key(lambda e: key), for_=5, repeat="every"), "single", "1")
    shell = Shell(rules(made)).start(ns(1))
    shell.emit(ns(2), "a")
    shell.tick(ns(8))

    again = shell.crashed()
    assert again.kernel.dump() == shell.kernel.dump()
    (run,) = again.kernel.state.runs.active.values()
    assert (run.key, repr(run.key)) == (key, repr(plain_key(key)))
    again.start(ns(9)).tick(ns(12))
    assert [(rule, k) for rule, k, _ in again.fired()] == [("r", key)]
    assert again.stats("r")["dropped"] == 1, "the run of the same key is still active"
    assert again.refold().divergences == []


def test_none_as_a_key_means_not_matched() -> None:
    """Semantics: an event without a key takes no part and is counted as unkeyed."""
    shell = Shell(rules(on("a").key(lambda e: e.data).count(2, within=10))).start(ns(1))
    for data in (None, "k", None, "k", None):
        shell.emit(ns(2), "a", data)

    assert [key for _, key, _ in shell.fired()] == ["k"]
    assert shell.kernel.state.decider.counters()["r1"]["unkeyed"] == 3
    assert shell.refold().dump() == shell.kernel.dump()


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("value", "error"),
    [
        ("text", "ValidationError: Expected `object`, got `str`"),
        ({"value": 1}, r"ValidationError: one is not allowed \udcff"),
        ({"value": 2}, "ZeroDivisionError: nor is two"),
        ({}, "ValidationError: Object missing required field `value`"),
    ],
    ids=repr,
)
def test_an_event_that_does_not_fit_a_type_is_kept(value: Any, error: str) -> None:
    """It becomes a record, the event stays, and rules that can read it fire."""
    shell = three(on("a", Picky))
    event = shell.emit(ns(2), "a", value)

    assert [rule for rule, _, _ in shell.fired()] == ["first", "last"]
    (recorded,) = shell.of_kind(r.RuleMismatch)
    assert (recorded.rule, recorded.event) == ("bad", event)
    assert recorded.error.startswith(error)
    assert msgspec.msgpack.decode(shell.of_kind(r.EventStored)[0].data) == value
    assert shell.stats("bad")["mismatched"] == 1
    assert shell.refold().dump() == shell.kernel.dump()


def test_rules_of_one_type_each_say_that_an_event_does_not_fit() -> None:
    """Decoding is shared between rules of one type, and so must be its failure."""
    shell = Shell(rules(on("a", int), on("*", int), on("a", str), on("a", int))).start(ns(1))
    shell.emit(ns(2), "a", "text")
    shell.emit(ns(3), "a", 7)

    assert [m.rule for m in shell.of_kind(r.RuleMismatch)] == ["r1", "r2", "r4", "r3"]
    assert [rule for rule, _, _ in shell.fired()] == ["r3", "r1", "r2", "r4"]


def test_a_branch_that_cannot_read_an_event_does_not_spoil_the_other() -> None:
    """`any_of` over several types fires by those that fit."""
    shell = Shell(rules(any_of(on("a", int), on("a", str)))).start(ns(1))
    shell.emit(ns(2), "a", "text")

    assert [f.branches for f in shell.of_kind(r.RuleFired)] == [[1]]


# ---------------------------------------------------------------- the engine as a whole


@pytest.mark.parametrize(
    "pattern",
    [
        on("a").where(lambda e: sys.exit(3)),
        on("a").key(lambda e: HALF),
        on("a").key(lambda e: Unreprable()),
        on("a", Picky),
    ],
    ids=["exits", "half a character", "unreprable", "picky"],
)
async def test_the_engine_goes_on_after_a_failing_rule(pattern: Pattern[Any]) -> None:
    """The event is acknowledged, the next one too, and the log can be read again."""
    app, log = App("plant"), MemoryLog()

    @app.rule(pattern, version="1")
    async def bad() -> None: ...

    @app.rule(on("*"))
    async def good() -> None: ...

    async with app.open(log, clock=VirtualClock()) as engine:
        await engine.emit("a", {"value": 2})
        await engine.emit("b")
        await engine.drain()
        fired = {rule.name: rule.fired for rule in engine.state().rules}
        assert engine.kernel.sequence == log.committed_sequence

    assert fired == {"bad": 0, "good": 2}
    kernel = fold(app.decider, [stored for _, batch in log.read() for stored in batch])
    assert kernel.divergences == []


async def test_a_run_may_fail_with_any_text() -> None:
    """An exception about a file name that is no UTF-8 is a dead letter, not a broken engine."""
    app, log = App("plant"), MemoryLog()

    @app.rule(on("a"))
    async def bad() -> None:
        raise FileNotFoundError(2, "no such file", f"/data/{HALF}.csv")

    async with app.open(log, clock=VirtualClock()) as engine:
        await engine.emit("a")
        await engine.drain()
        (run,) = engine.runs("dead")

    assert run.error == r"FileNotFoundError: [Errno 2] no such file: '/data/\udcff.csv'"


# ---------------------------------------------------------------- in a user's test


def test_firings_warns_of_what_an_engine_would_record() -> None:
    """A typing error in a condition does not look like a rule that rightly stays quiet."""
    with pytest.warns(RuleWarning, match=r"t=3 a: where: KeyError: 'celsius'"):
        assert firings(on("a").where(lambda e: e.data["celsius"] > 3), [(3, "a", {})]) == []
    with pytest.warns(RuleWarning, match="t=3 a: type: ValidationError"):
        assert firings(on("a", int), [(3, "a", "text")]) == []
    with pytest.warns(RuleWarning, match="t=3 a: key: TypeError"):
        assert firings(on("a").key(lambda e: e.data), [(3, "a", [])]) == []
