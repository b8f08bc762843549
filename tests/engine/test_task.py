"""How a user's function becomes a task: what it may take and give."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, Literal

import msgspec
import pytest
from tests.engine.stand import opened

from headrace import App, EventRefused, Firing, Run, on
from headrace.engine.task import TaskSpec


class Colour(enum.Enum):
    RED = "red"


class Point(msgspec.Struct):
    x: int
    y: float = 0.5


@dataclass
class Box:
    point: Point
    names: frozenset[str]


VALUES: list[tuple[Any, Any]] = [
    (int, 2**63),
    (float, 0.1),
    (str, "ä€😀"),
    (bytes, b"\x00\xff"),
    (bool, True),
    (None, None),
    (int | None, None),
    (Point, Point(1)),
    (Point | None, Point(2, 3)),
    (Box, Box(Point(1), frozenset("ab"))),
    (list[Point], [Point(1), Point(2)]),
    (dict[str, Point], {"b": Point(1), "a": Point(2)}),
    (dict[int, list[str]], {3: ["x"], 1: []}),
    (dict[int, set[str]], {3: {"x", "y", "z"}, 1: set()}),
    (set[int], {3, 1, 2}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2, 3)),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)),
    (timedelta, timedelta(days=1, microseconds=5)),
    (Decimal, Decimal("1.10")),
    (uuid.UUID, uuid.UUID(int=5)),
    (Colour, Colour.RED),
    (Literal["a", "b"], "b"),
    (Any, {"any": [1, None, "x"]}),
]


def spec_of(function: Any, **options: Any) -> TaskSpec:
    return TaskSpec("act", function, run_type=Run, **options)


@pytest.mark.parametrize(("kind", "value"), VALUES, ids=[str(kind) for kind, _ in VALUES])
def test_arguments_and_results_come_back_as_they_were(kind: Any, value: Any) -> None:
    """What a crash makes necessary, reading them back, gives the same value and type."""

    async def act(x: Any) -> Any: ...

    act.__annotations__ = {"x": kind, "return": kind}
    spec = spec_of(act)
    args, kwargs = spec.decode_args(spec.encode_args((value,), {}))

    assert [*args, *kwargs.values()] == [value]
    assert spec.decode_result(spec.encode_result(value)) == value


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b=2, *, c=3: (a, b, c),
        lambda a, /, b, *rest, c, **more: (a, b, rest, c, more),
        lambda *rest: rest,
        lambda **more: more,
        lambda: (),
    ],
    ids=["plain", "all kinds", "rest", "more", "none"],
)
@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((1,), {}),
        ((1, 2), {"c": 5}),
        ((1, 2, 3, 4), {"c": 5, "d": 6}),
        ((), {"a": 1, "b": 2}),
        ((), {}),
        ((), {"c": 1}),
    ],
)
def test_call_from_storage_is_the_call_that_was_made(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """For each signature; what does not fit is a TypeError at the call."""
    spec = spec_of(function)
    try:
        expected = function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError, match="task 'act'"):
            spec.encode_args(args, kwargs)
    else:
        found = spec.bind(*spec.decode_args(spec.encode_args(args, kwargs)))()
        assert found == expected


def test_equal_calls_have_equal_bytes() -> None:
    """By position or by name, with or without defaults, in any order: one call, one digest."""
    spec = spec_of(lambda a, b=2, c=3: None)
    one = bytes(spec.encode_args((1,), {}))

    assert bytes(spec.encode_args((1, 2, 3), {})) == one
    assert bytes(spec.encode_args((), {"c": 3, "a": 1})) == one
    assert bytes(spec.encode_args((1,), {"c": 4})) != one
    mapping = spec_of(lambda a: None)
    assert bytes(mapping.encode_args(({"x": 1, "y": {2, 3}},), {})) == bytes(
        mapping.encode_args(({"y": {3, 2}, "x": 1},), {})
    )


@pytest.mark.parametrize("value", [object(), lambda: None, 2**70, "\udcff", {1: object()}, 1j])
def test_what_cannot_be_stored_is_refused_at_the_call(value: Any) -> None:
    """With the name of the task, before anything is recorded."""
    spec = spec_of(lambda a: None)
    with pytest.raises(EventRefused, match="task 'act', arguments"):
        spec.encode_args((value,), {})
    with pytest.raises(EventRefused, match="task 'act', result"):
        spec.encode_result(value)


def test_too_large_arguments_are_refused() -> None:
    """A record has a bound; the message says what to do."""
    with pytest.raises(EventRefused, match="store large data elsewhere"):
        spec_of(lambda a: None).encode_args((b"x" * 2**20,), {})


def test_types_that_cannot_be_stored_are_refused_when_declared() -> None:
    """Not when a crash has made them needed."""
    app = App("t")
    with pytest.raises(TypeError, match="task 'takes': its arguments"):

        @app.task
        async def takes(x: list[Point] | list[int]) -> None: ...

    with pytest.raises(TypeError, match="task 'gives': its result"):

        @app.task
        async def gives() -> dict[str, Point] | dict[str, int]:
            raise NotImplementedError


@pytest.mark.parametrize("where", ["first", "last", "keyword"])
async def test_run_is_recognised_by_its_annotation(where: str) -> None:
    """Wherever it stands, and it is no argument of the call."""
    app, got = App("t"), list[Any]()

    async def first(r: Run, x: int) -> int:
        return x + r.attempt

    async def last(x: int, r: Run) -> int:
        return x + r.attempt

    async def keyword(x: int, *, r: Run) -> int:
        return x + r.attempt

    functions: dict[str, Any] = {"first": first, "last": last, "keyword": keyword}
    child = app.task(functions[where])

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.append(await run.call(child, 5))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()

    assert got == [6]


@pytest.mark.parametrize("takes", ["both", "turned", "run", "firing", "none"])
async def test_action_takes_run_and_firing_by_annotation(takes: str) -> None:
    """Both, in any order, one or neither."""
    app, got = App("t"), list[Any]()

    async def both(run: Run, firing: Firing[int]) -> None:
        got.append((run.task, firing.events[0].data))

    async def turned(firing: Firing[int], run: Run) -> None:
        got.append((run.task, firing.events[0].data))

    async def run(me: Run) -> None:
        got.append(me.task)

    async def firing(it: Firing[int]) -> None:
        got.append(it.rule)

    async def none() -> None:
        got.append("none")

    function: Any = {f.__name__: f for f in (both, turned, run, firing, none)}[takes]
    app.rule(on("a", int))(function)
    async with opened(app) as engine:
        await engine.emit("a", 7)
        await engine.drain()

    assert got == [(takes, 7)] if takes in ("both", "turned") else [takes]


def test_action_that_takes_something_else_is_refused() -> None:
    """There is nobody to give it."""
    app = App("t")
    with pytest.raises(TypeError, match=r"takes 'x'.*expected"):

        @app.rule(on("a"))
        async def act(x: int) -> None: ...

    with pytest.raises(TypeError, match="Firing; only a rule"):

        @app.task
        async def task(firing: Firing[Any]) -> None: ...


def test_name_is_given_once() -> None:
    """A run names its code by it, so there must be one answer."""
    app = App("t")

    @app.task(name="x")
    async def first() -> None: ...

    with pytest.raises(ValueError, match="'x' is declared twice"):

        @app.rule(on("a"), name="x")
        async def second() -> None: ...

    with pytest.raises(ValueError, match="task name"):

        @app.task(name="not a name")
        async def third() -> None: ...


def test_task_stays_an_ordinary_function() -> None:
    """A unit test calls it."""
    app = App("t")

    @app.task
    def double(x: int) -> int:
        return 2 * x

    assert double(4) == 8


async def test_tasks_may_be_objects_and_partials() -> None:
    """What can be called can be a task, if it is given a name."""
    app, got = App("t"), list[Any]()

    class Adder:
        async def __call__(self, x: int) -> int:
            return x + 1

    adder = app.task(name="adder")(Adder())
    partly = app.task(name="partly")(partial(pow, 2))

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        got.append(await run.call(adder, 5))
        got.append(await run.call(partly, 10))

    async with opened(app) as engine:
        await engine.emit("a")
        await engine.drain()
        assert engine.runs("dead") == []

    assert got == [6, 1024]
