"""Whole engines with random lives: what they knew at the end is what their logs say."""

from __future__ import annotations

from random import Random
from typing import Any, Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.reference.shell import fold

from headrace import App, Engine, Firing, MemoryLog, Retry, Run, any_of, on, silent
from headrace.engine import record as r
from headrace.testing import VirtualClock

HANG_S = 60.0

ClockKind = Literal["system", "input"]


def plant(seed: int) -> App:
    """An app of which every run does the same again, whatever it was interrupted by."""
    app = App("plant")

    def chance(*parts: object) -> float:
        return Random(repr((seed, *parts))).random()

    @app.task(retry=Retry(attempts=3, wait_first=2, jitter=0))
    async def flaky(run: Run, number: int) -> int:
        if chance("flaky", run.id, run.attempt) < 0.4:
            raise OSError("no route to host")
        return number

    @app.task
    async def chain(run: Run, depth: int) -> int:
        await run.sleep(3 * chance("sleep", run.id))
        return await (run.call(chain, depth - 1) if depth else run.call(flaky, 1))

    @app.rule(on("a.*").key(lambda e: e.tokens[1]).count(2, within=5), mode="single")
    async def one(run: Run, firing: Firing[Any]) -> None:
        await run.map(flaky, firing.sequences, max_concurrency=1)

    @app.rule(on("b"), mode="restart", retry=Retry(attempts=2, wait_first=1))
    async def again(run: Run) -> None:
        await run.emit("a.z", run.id)
        await run.call(chain, 2)

    @app.rule(silent(on("a.*").key(lambda e: e.tokens[1]), for_=4, repeat="every"), mode="single")
    async def quiet(run: Run) -> None:
        await run.sleep(2)

    @app.every(7)
    async def beat(run: Run) -> None:
        if chance("beat", run.id) < 0.3:
            raise ValueError("a bad beat")

    @app.rule(on("run.failed.>"))
    async def dead() -> None: ...

    @app.rule(any_of(on("rule.fired.one"), on("rule.error.*"), on("run.cancelled.again")))
    async def told(run: Run) -> None:
        await run.sleep(1)

    @app.rule(on("c").where(lambda e: e.data["x"] > 1))
    async def picky() -> None: ...

    return app


class Life:
    """Random events, cancellations, times, downtimes and crashes."""

    def __init__(self, seed: int, kind: ClockKind) -> None:
        self.seed = seed
        self.kind = kind
        self.chance = Random(seed)
        self.log = MemoryLog()
        self.clock = VirtualClock()
        self.time_s = 1000.0

    async def live(self) -> None:
        for _ in range(self.chance.randint(1, 4)):
            app = plant(self.seed)
            clock: Any = "input" if self.kind == "input" else self.clock
            async with app.open(self.log, clock=clock, grace_s=0) as engine:
                for _ in range(self.chance.randint(0, 15)):
                    await self.act(engine)
                for _ in range(self.chance.randint(0, 30)):
                    await checkpoint()
                live = engine.kernel
            records = [stored for _, batch in self.log.read() for stored in batch]
            folded = fold(app.decider, records)
            assert folded.divergences == []
            assert folded.dump() == live.dump()
            await self.clock.advance(self.chance.choice([0, 3, 30]))
            if self.chance.random() < 0.4:
                self.crash(records)

    def crash(self, records: list[bytes]) -> None:
        """Lose some of the last units."""
        begun = [n for n, stored in enumerate(records) if not r.is_decision(r.decode(stored))]
        self.log = self.log.copy(self.chance.choice([0, *begun][-8:]))

    async def act(self, engine: Engine) -> None:
        chance = self.chance
        what = chance.random()
        if what < 0.6:
            self.time_s += chance.choice([0, 0, 0.5, 1, 3, 9])
            await engine.emit(
                chance.choice(["a.x", "a.y", "b", "c"]),
                {"x": chance.randint(0, 3)} if chance.random() < 0.8 else 3,
                time=self.time_s,
                id=chance.choice([None, None, "e1", "e2"]),
                source=chance.choice(["", "press"]),
                position=chance.choice([None, 7]),
            )
        elif what < 0.7:
            open_runs = [run.id for run in engine.runs() if run.ended_at_ns is None]
            if open_runs:
                await engine.cancel(chance.choice(open_runs))
        elif self.kind == "system":
            if what < 0.75:
                self.clock.step_wall(chance.choice([-3600, 3600, -5, 5]))
            else:
                await self.clock.advance(chance.choice([0.1, 1, 4, 20]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["system", "input"])
@pytest.mark.parametrize("first_seed", range(0, 40, 10))
async def test_the_state_is_the_fold_of_the_log(first_seed: int, kind: ClockKind) -> None:
    """Byte for byte, after any life: a replay shows what was, and a restart goes on from it."""
    for seed in range(first_seed, first_seed + 10):
        with anyio.fail_after(HANG_S):
            await Life(seed, kind).live()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["system", "input"])
@pytest.mark.parametrize("first_seed", range(1000, 3000, 200))
async def test_the_state_is_the_fold_of_the_log_at_length(first_seed: int, kind: ClockKind) -> None:
    """The same for many more lives."""
    for seed in range(first_seed, first_seed + 200):
        with anyio.fail_after(HANG_S):
            await Life(seed, kind).live()
