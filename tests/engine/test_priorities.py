"""Who goes first, and that nobody waits for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.stand import Gate, StepClock, opened, quiet

from headrace import App, Run
from headrace.engine.ready import AGING_NS, AGING_S, Ready


async def order_of(app: App, gate: Gate, launches: list[tuple[Any, float]]) -> None:
    """Launch each task after its seconds, with all places taken; then let them go."""
    clock = StepClock()

    @app.task(name="blocker", priority=999)
    async def blocker() -> None:
        await gate.wait()

    async with opened(app, clock=clock, concurrency=1) as engine:
        await engine.launch(blocker)
        await quiet(engine)
        for task, after_s in launches:
            await clock.step(engine, after_s)
            await engine.launch(task)
        gate.open()
        await engine.drain()


def three_tasks(app: App, order: list[str]) -> tuple[Any, Any, Any]:
    """Declare tasks of priority -1, 0 and 10 that note that they have begun."""

    @app.task(priority=-1)
    async def low() -> None:
        order.append("low")

    @app.task
    async def normal() -> None:
        order.append("normal")

    @app.task(priority=10)
    async def high() -> None:
        order.append("high")

    return low, normal, high


async def test_the_higher_goes_first() -> None:
    """Whatever came before."""
    app, order = App("t"), list[str]()
    low, normal, high = three_tasks(app, order)
    await order_of(app, Gate(), [(low, 0), (normal, 0), (high, 0), (normal, 0), (high, 0)])
    assert order == ["high", "high", "normal", "normal", "low"]


async def test_waiting_counts_as_priority() -> None:
    """What has waited for ten levels goes before what has just come, ten levels above."""
    app, order = App("t"), list[str]()
    low, normal, high = three_tasks(app, order)
    await order_of(app, Gate(), [(normal, 0), (high, 10 * AGING_S + 1), (low, 0)])
    assert order == ["normal", "high", "low"]
    order.clear()
    app = App("t")
    low, normal, high = three_tasks(app, order)
    await order_of(app, Gate(), [(normal, 0), (high, 10 * AGING_S - 1), (low, 0)])
    assert order == ["high", "normal", "low"]


async def test_a_stream_of_the_highest_starves_nobody() -> None:
    """A low run gets its turn while high ones keep coming, each in time."""
    app, clock, order = App("t"), StepClock(), list[str]()

    @app.task(priority=3)
    async def high(run: Run) -> None:
        order.append("high")
        await clock.sleep_until(clock.monotonic_ns() + 10**9)

    @app.task
    async def low() -> None:
        order.append("low")

    async with opened(app, clock=clock, concurrency=1) as engine:
        await engine.launch(high)
        await quiet(engine)
        await engine.launch(low)
        for _ in range(40):
            await engine.launch(high)
            await engine.launch(high)
            await clock.step(engine, 1)
        assert "low" in order
        # Three levels: after 15 s it is as high as what comes just then, and goes first
        # once those that came before that have gone.
        assert order.index("low") <= 2 * (3 * AGING_S + 1) + 1
        await clock.step(engine, 100)
        await engine.drain()


async def test_a_limited_task_with_a_priority_goes_first_too() -> None:
    """Through its gate and then before the others."""
    app, order, gate = App("t"), list[str](), Gate()

    @app.task
    async def normal() -> None:
        order.append("normal")

    @app.task(priority=5, concurrency=1)
    async def high() -> None:
        order.append("high")

    await order_of(app, gate, [(normal, 0), (high, 0), (normal, 0), (high, 0)])
    assert order == ["high", "high", "normal", "normal"]


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(-3, 3), st.sampled_from("abc"), st.integers(0, 10)), max_size=30)
)
def test_all_come_out_once_each_lane_of_a_level_in_order(
    items: list[tuple[int, str, int]],
) -> None:
    """Nothing is lost, and a key's own order holds within a level."""
    ready = Ready()
    for level in range(-3, 4):
        ready.add_level(level)
    now_ns = 0
    for number, (level, lane, wait_s) in enumerate(items, 1):
        now_ns += wait_s * 10**9
        ready.push(lane, number, level, now_ns)
    assert len(ready) == len(items)
    out = [popped for _ in items if (popped := ready.pop()) is not None]
    assert ready.pop() is None
    assert sorted(out) == list(range(1, len(items) + 1))
    assert len(ready) == 0
    for level in range(-3, 4):
        for lane in "abc":
            own = [n for n in out if items[n - 1][:2] == (level, lane)]
            assert own == sorted(own)


def test_an_item_goes_by_what_it_is_by_now() -> None:
    """Level and age are one measure."""
    ready = Ready()
    ready.add_level(2)
    ready.push("a", 1, 0, 0)
    ready.push("a", 2, 2, 2 * AGING_NS + 1)
    assert ready.pop() == 1
    ready.push("a", 3, 0, 0)
    ready.push("b", 4, 2, 2 * AGING_NS)
    assert ready.discard("a", 2)
    assert not ready.discard("a", 2)
    assert ready.pop() == 4  # of equals the higher
    assert ready.pop() == 3
