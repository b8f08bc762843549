"""Mistakes that type checkers find: each line that they do not complain of fails the test."""

from __future__ import annotations

from msgspec import Struct

from headrace import (
    App,
    Engine,
    Event,
    Firing,
    Run,
    absent,
    all_of,
    any_of,
    field,
    group,
    not_,
    on,
    sequence,
    silent,
    step,
)

app = App("plant")


class Reading(Struct):
    celsius: float


readings = on("sensors.*.temperature", Reading)

readings.where(lambda e: e.data.fahrenheit > 90)  # type: ignore[attr-defined]
readings.key(lambda e: e.tokens[1].celsius)  # type: ignore[attr-defined]
readings.key(lambda e: [e.subject])  # type: ignore[arg-type, return-value]
readings.where("celsius > 90")  # type: ignore[call-overload]
readings.count("3", within=60)  # type: ignore[arg-type]
readings.count(3)  # type: ignore[call-arg]
readings.count(3, within="60")  # type: ignore[arg-type]
readings.count(3, within=60, mode="first")  # type: ignore[arg-type]
silent(readings)  # type: ignore[call-arg]
silent(readings, for_=60, repeat="twice")  # type: ignore[arg-type]
any_of("sensors")  # type: ignore[call-overload]
on(5)  # type: ignore[call-overload]


def is_open(event: str) -> bool:
    return bool(event)


readings.where(is_open)  # type: ignore[arg-type]

high = field("celsius") > 90
readings.where(field("celsius"))  # type: ignore[call-overload]
readings.where(field("celsius") > field("limit"))  # type: ignore[operator]
readings.where(field("celsius") > None)  # type: ignore[operator]
field("celsius") & high  # type: ignore[operator]
high & (lambda e: True)  # type: ignore[operator]
~field("celsius")  # type: ignore[operator]
field("celsius").between(1)  # type: ignore[call-arg]
field("celsius").matches(5)  # type: ignore[arg-type]
field("celsius").is_in(5)  # type: ignore[arg-type]
field(5)  # type: ignore[arg-type]


@app.task
async def page(sensor: str, peak: float) -> str:
    return f"{sensor} {peak}"


app.task(timeout="soon")  # type: ignore[call-overload]
app.task(page, retry=3)  # type: ignore[call-overload]


@app.rule("sensors.*")  # type: ignore[arg-type]
async def cool(run: Run, firing: Firing[Reading]) -> None:
    await run.call(page, 5, 2.5)  # type: ignore[call-overload]
    await run.call(page)  # type: ignore[call-overload]
    await run.call(page, "t1", 2.5, 3)  # type: ignore[call-overload]
    run.spawn(page, sensor="t1", peek=2.5)  # type: ignore[call-overload]
    await run.launch(page, 5, 2.5)  # type: ignore[call-overload]
    await run.keyed("t1").launch(page)  # type: ignore[call-overload]
    run.keyed(17)  # type: ignore[arg-type]
    await run.map(page, ["t1"])  # type: ignore[arg-type]
    run.map_as_completed(page, ["t1"])  # type: ignore[arg-type]
    await run.race(page)  # type: ignore[call-overload]
    await run.compensate(page, 5, 2.5)  # type: ignore[call-overload]
    await run.wait("sensors.*")  # type: ignore[call-overload]
    _ = (await run.wait(readings)).events[0].data.fahrenheit  # type: ignore[attr-defined]
    _ = (await run.wait(readings, timeout=5)).events  # type: ignore[union-attr]
    await run.receive(17)  # type: ignore[call-overload]
    answer = await run.call(page, "t1", 2.5)
    answer += 1  # type: ignore[operator]
    answer = firing.events[0].data.fahrenheit  # type: ignore[attr-defined]


@app.rule(readings, mode="twice")  # type: ignore[arg-type]
async def warm() -> None: ...


async def unit_test() -> None:
    await page("t1")  # type: ignore[call-arg]
    await page(peak="high", sensor="t1")  # type: ignore[arg-type]


readings.debounce(quiet=1, edge="middle")  # type: ignore[arg-type]
readings.crosses("celsius", above=30)  # type: ignore[arg-type]
readings.rate_limit(1, 10, overflow="wait")  # type: ignore[arg-type]
readings.where(lambda e, m: e.data.fahrenheit > 90)  # type: ignore[misc, arg-type]
all_of(readings, readings)  # type: ignore[call-overload]
absent(readings, within=5)  # type: ignore[call-arg]
step("hot", "sensors")  # type: ignore[arg-type]
not_(readings).times(3)  # type: ignore[attr-defined]
group("g", readings).until(lambda e: True)  # type: ignore[attr-defined]
sequence(readings, "sensors", within=5)  # type: ignore[call-overload]


@app.projection(readings, initial="none")  # type: ignore[arg-type]
def peak(state: float, event: Event[Reading]) -> float:
    return state


def look_at(engine: Engine) -> None:
    engine.view(warm)  # type: ignore[arg-type]
