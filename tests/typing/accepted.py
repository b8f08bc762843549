"""What type checkers infer of what users write.  They read it; nobody runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, assert_type

from msgspec import Struct

from headrace import (
    App,
    Condition,
    Engine,
    Event,
    Firing,
    Handle,
    Match,
    MemoryLog,
    Pattern,
    Resource,
    Retry,
    Run,
    View,
    absent,
    all_of,
    any_of,
    field,
    fire_within,
    group,
    not_,
    on,
    queue,
    sequence,
    silent,
    step,
)
from headrace.testing import firings
from headrace.triggers.steps import Group, Step

app = App("plant")


class Reading(Struct):
    celsius: float


class Door(Struct):
    is_open: bool


# ---------------------------------------------------------------- patterns

high = field("celsius") > 90

readings = on("sensors.*.temperature", Reading)
assert_type(readings, Pattern[Reading])
assert_type(on("sensors.>"), Pattern[Any])
assert_type(readings.where(lambda e: e.data.celsius > 90), Pattern[Reading])
assert_type(readings.key(lambda e: e.tokens[1]), Pattern[Reading])
assert_type(readings.key(lambda e: (e.subject, round(e.data.celsius))), Pattern[Reading])
assert_type(readings.count(3, within=60), Pattern[Reading])
assert_type(readings.count(3, within=timedelta(minutes=1), mode="edge"), Pattern[Reading])
assert_type(silent(readings, for_=60, repeat="every", expect=["t1"]), Pattern[Reading])
assert_type(any_of(readings, on("other", Reading)), Pattern[Reading])

hot = readings.where(lambda e: e.data.celsius > 90).key(lambda e: e.tokens[1]).count(3, within=60)
assert_type(hot, Pattern[Reading])

assert_type(high, Condition)
assert_type(90 < field("celsius"), Condition)  # noqa: SIM300 (it is turned round)
assert_type(field("place") == "hall", Condition)
assert_type(field("place") != None, Condition)  # noqa: E711
assert_type(field("a.0").between(1, 2.5) & field("b").matches("^x") | ~high, Condition)
assert_type(field("c").is_in(["x", 1, None]) | field("d").exists(), Condition)
assert_type(readings.where(high), Pattern[Reading])
assert_type(readings.where(high & (field() < 5)).count(3, within=60), Pattern[Reading])
assert_type(high.explain(Event(1, "a", Reading(1), 0)).verdict, Literal["yes", "no", "unknown"])

doors = on("doors.*", Door)
assert_type(readings.crosses(lambda e: e.data.celsius, above=90, hysteresis=2), Pattern[Reading])
assert_type(readings.crosses(field("celsius"), below=5, initial=True), Pattern[Reading])
assert_type(readings.key(field("place"), keys_max=10), Pattern[Reading])
assert_type(readings.where(high).hold(for_=30), Pattern[Reading])
assert_type(readings.debounce(1, timedelta(minutes=1), "both"), Pattern[Reading])
assert_type(readings.throttle(1).rate_limit(1, per=5, overflow="latest"), Pattern[Reading])
assert_type(readings.dedupe(lambda e: e.id, ttl=5).batch(10, within=1), Pattern[Reading])
assert_type(readings.tumbling(60, tz="UTC").aggregate(len), Pattern[Reading])
assert_type(
    readings.hopping(60, 10).aggregate(lambda es: max(e.data.celsius for e in es)),
    Pattern[Reading],
)
assert_type(readings.session(5, max=60), Pattern[Reading])
assert_type(readings.event_time(lambda e: e.data.celsius, lateness=5), Pattern[Reading])
assert_type(any_of(readings, doors), Pattern[Reading | Door])
assert_type(any_of(readings, doors, on("n", int)), Pattern[Reading | Door | int])
assert_type(all_of(readings, doors, within=5, keep="first"), Pattern[Reading | Door])
assert_type(all_of(step("hot", readings), doors, within=None), Pattern[Reading | Door])
assert_type(absent(doors, after=readings, within=5), Pattern[Reading])
assert_type(sequence(readings, doors, within=5), Pattern[Reading | Door])
assert_type(sequence(readings, not_(doors), on("n", int)), Pattern[Reading | int])
assert_type(step("hot", readings), Step[Reading])
assert_type(step("hot", readings).times(2, None).until(lambda e: True).optional(), Step[Reading])
assert_type(group("pair", readings, readings).times(1, 3), Group[Reading])
assert_type(
    sequence(
        step("first", readings),
        step("more", readings.where(lambda e, m: e.data.celsius > m["first"][0].data.celsius)),
        group("end", doors).optional(),
        within=10,
        skip=("to_last", "first"),
    ),
    Pattern[Reading | Door],
)


def rises(event: Event[Reading], taken: Match) -> bool:
    assert_type(taken["first"], Sequence[Event[Any]])
    return event.data.celsius > 90


assert_type(readings.where(rises), Pattern[Reading])

mixed: Pattern[Reading | Door] = any_of(readings, on("doors.*", Door))
anything: Pattern[object] = readings


def is_hot(event: Event[Reading]) -> bool:
    assert_type(event.data, Reading)
    assert_type(event.time, float)
    return event.data.celsius > 90


assert_type(readings.where(is_hot), Pattern[Reading])


# ---------------------------------------------------------------- tasks keep their type


@app.task
async def page(sensor: str, peak: float = 0.0) -> str:
    return f"{sensor} {peak}"


@app.task(retry=Retry(attempts=5, on=OSError), timeout=20)
async def ask(run: Run, sensor: str) -> list[int]:
    return [run.attempt, len(sensor)]


@app.task(name="summed")
def add_up(values: list[int]) -> int:
    return sum(values)


@app.task
def look(run: Run, depth: int) -> bytes:
    return bytes(depth) * run.attempt


@app.every(60)
async def beat(run: Run) -> None:
    assert_type(run.id, int)


@app.cron("0 6 * * MON", tz="Europe/Berlin", catch_up="all")
async def weekly(run: Run, firing: Firing[None]) -> None:
    assert_type(firing.missed, int)


@app.at("2027-03-01T08:00:00Z", catch_up="none", mode="single")
@app.at(datetime(2027, 3, 1, tzinfo=UTC), name="again")
def once() -> None: ...


async def unit_tests(run: Run) -> None:
    """A task is an ordinary function: it is called, and refuses, as if it had no decorator."""
    started: Coroutine[Any, Any, str] = page(sensor="t1", peak=3)
    assert_type(await started, str)
    assert_type(await page("t1"), str)
    assert_type(add_up([1, 2]), int)
    await beat(run=run)


# ---------------------------------------------------------------- resources


@asynccontextmanager
async def open_db() -> AsyncGenerator[dict[int, str], None]:
    yield {}


@contextmanager
def open_mail() -> Generator[str, None, None]:
    yield "mail"


db = app.resource("db", open_db)
assert_type(db, Resource[dict[int, str]])
assert_type(app.resource("mail", open_mail), Resource[str])


@app.task
async def stored(key: int, rows: Annotated[dict[int, str], db] = db.injected) -> str:
    return rows[key]


# ---------------------------------------------------------------- runs


@app.rule(readings.where(high).hold(for_=5), mode=queue(5), on_clear=once, warm="replay")
@app.rule(hot, mode="latest", on_missed=fire_within(60), name="late")
async def held(firing: Firing[Reading]) -> None:
    assert_type(firing.steps, dict[str, list[Event[Any]]])
    assert_type(firing.reason, str | None)
    assert_type(firing.scheduled_at, float | None)


@app.rule(hot, mode="single")
async def cool_down(run: Run, firing: Firing[Reading]) -> None:
    assert_type(firing.events, list[Event[Reading]])
    assert_type(max(e.data.celsius for e in firing.events), float)

    assert_type(await run.call(page, "t1"), str)
    assert_type(await run.call(page, sensor="t1", peak=2.5), str)
    assert_type(await run.call(ask, "t1"), list[int])
    assert_type(await run.call(add_up, [1]), int)
    assert_type(await run.call(look, 3), bytes)

    handle = assert_type(run.spawn(page, "t1"), Handle[str])
    assert_type(await handle, str)
    assert_type(await run.spawn(look, depth=3), bytes)
    assert_type(await run.spawn(ask, "t1"), list[int])
    assert_type(await run.spawn(add_up, [1]).result(), int)

    assert_type(await run.map(page, ["t1", "t2"]), list[str])
    assert_type(await run.map(ask, ["t1"], max_concurrency=2), list[list[int]])
    assert_type(await run.map(look, range(3)), list[bytes])
    assert_type(await run.map(add_up, [[1], [2]]), list[int])

    assert_type(await run.race(run.spawn(page, "t1")), str)
    assert_type(await run.race(*[run.spawn(page, name) for name in ("t1", "t2")]), str)
    assert_type(await run.race(run.spawn(page, "t1"), run.spawn(ask, "t1")), str | list[int])
    assert_type(
        await run.race(handle, run.spawn(ask, "t1"), run.spawn(look, depth=3)),
        str | list[int] | bytes,
    )
    async for index, found in run.map_as_completed(ask, ["t1"], max_concurrency=2):
        assert_type(index, int)
        assert_type(found, list[int])
    async for _, image in run.map_as_completed(look, range(3)):
        assert_type(image, bytes)
    await run.compensate(page, "t1", peak=2.5)
    await run.compensate(ask, "t1")
    assert_type(run.patched("new-pages"), bool)

    assert_type(await run.launch(page, "t1"), int)
    assert_type(await run.launch(ask, "t1"), int)
    assert_type(await run.keyed("t1", window=60).launch(page, "t1"), int)
    assert_type(await run.call(stored, 3), str)
    assert_type(await run.emit("fans.start", {"speed": 1.0}), int)
    await run.sleep(5)
    assert_type(await run.receive("answer", Reading), Reading)
    assert_type(await run.receive("answer", Reading, timeout=5), Reading | None)
    met = await run.wait(readings.where(high).count(3, within=60), since=run.cause)
    assert_type(met.events[0].data.celsius, float)
    assert_type(await run.wait(hot, timeout=5), Firing[Reading] | None)
    assert_type(await run.wait(hot, lookback=False), Firing[Reading])
    async with run.map_as_completed(page, ["t1", "t2"]) as results:
        async for at, text in results:
            assert_type((at, text), tuple[int, str])


# ---------------------------------------------------------------- projections


@app.projection(readings, key=lambda e: e.data.celsius > 90, initial=Reading(0))
def peak(state: Reading, event: Event[Reading]) -> Reading:
    return max(state, event.data, key=lambda reading: reading.celsius)


@app.projection(any_of(readings, on("doors.*", Door)), keys_max=7, key=field("id"))
def seen(state: int | None, event: Event[Reading | Door]) -> int | None:
    return (state or 0) + 1


assert_type(peak(Reading(1), Event(1, "a", Reading(2), 0)), Reading)


def look_at(engine: Engine) -> None:
    assert_type(engine.view(peak), View[Reading])
    assert_type(engine.view(peak)["t1"].celsius, float)
    assert_type(engine.view(seen).get("t1"), int | None)
    assert_type(list(engine.view(seen).values()), list[int])
    assert_type(engine.view("peak"), View[Any])


# ---------------------------------------------------------------- engine and tests


async def embed() -> None:
    async with app.open(MemoryLog()) as engine:
        assert_type(engine, Engine)
        assert_type(await engine.emit("sensors.t1.temperature", Reading(93.5)), int)
        assert_type(await engine.emit_many([("a", 1), ("b", Reading(1))]), list[int])
        assert_type(engine.cursor("feed"), int | None)
        assert_type(await engine.launch(page, "t1", peak=2.5), int)
        assert_type(await engine.launch(ask, "t1"), int)
        assert_type(await engine.keyed("t1").launch(look, depth=3), int)
        assert_type(await engine.redrive(17, from_start=True), int)
        assert_type(await engine.signal(17, "answer", Reading(20)), int)


fired = firings(hot, [(0, "sensors.t1.temperature", Reading(95))], until=60)
assert_type(fired, list[Firing[Reading]])
assert_type(fired[0].events[0].data.celsius, float)
assert_type(fired[0].at, float)
