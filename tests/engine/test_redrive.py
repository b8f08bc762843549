"""Dead letters: what is kept of them, and how they go on."""

from __future__ import annotations

from typing import Any

import pytest
from tests.engine.stand import (
    Gate,
    StepClock,
    borders,
    check_live,
    of_kind,
    opened,
    quiet,
    refolded,
)

from headrace import (
    App,
    Firing,
    MemoryLog,
    RedriveRefused,
    Retry,
    Run,
    RunNotFound,
    StepFailed,
    TaskFailed,
    on,
)
from headrace.engine import dead as dead_module
from headrace.engine.record import RunFailed, RunRedriven
from headrace.engine.snapshot import Snapshot, load


class Shop:
    """An app whose runs fail for as long as it is broken."""

    def __init__(self) -> None:
        """Begin broken."""
        self.app = App("shop")
        self.broken = True
        self.did: list[str] = []
        self.keys: list[str] = []
        self._declare()

    def _declare(self) -> None:
        @self.app.task
        async def reserve(order: int) -> str:
            self.did.append("reserve")
            return f"reserved {order}"

        @self.app.task
        async def ask() -> None:
            self.did.append("ask")
            raise LookupError("nobody there")

        @self.app.task
        async def pay(run: Run, order: int) -> str:
            self.did.append("pay")
            self.keys.append(run.idempotency_key)
            if self.broken:
                raise OSError("the bank is closed")
            return f"paid {order}"

        @self.app.task
        async def buy(run: Run, order: int) -> list[str]:
            self.did.append(f"attempt {run.attempt}")
            reserved = await run.call(reserve, order)
            try:
                await run.call(ask)
            except StepFailed:
                self.did.append("went past")
            return [reserved, await run.call(pay, order)]

        self.buy = buy

    async def fail(self, engine: Any) -> int:
        """Have one run given up; return its id."""
        run_id: int = await engine.launch(self.buy, 17)
        with pytest.raises(TaskFailed, match="the bank is closed"):
            await engine.result(run_id)
        return run_id


async def test_a_redrive_acts_as_a_retry() -> None:
    """What succeeded is not done again, nor what failed and was gone past; what ended it is."""
    shop, log = Shop(), MemoryLog()

    async with opened(shop.app, log) as engine:
        run_id = await shop.fail(engine)
        shop.broken = False
        shop.did.clear()
        await engine.redrive(run_id)

        assert await engine.result(run_id) == ["reserved 17", "paid 17"]
        assert shop.did == ["attempt 2", "went past", "pay"]
        assert engine.runs("dead") == []
        await check_live(engine)
    assert [ended.forget for ended in of_kind(log, RunFailed)][-1] == [3]


async def test_from_the_start_everything_is_done_again() -> None:
    """For when what succeeded was wrong."""
    shop = Shop()

    async with opened(shop.app) as engine:
        run_id = await shop.fail(engine)
        shop.broken = False
        shop.did.clear()
        await engine.redrive(run_id, from_start=True)
        await engine.result(run_id)

        assert shop.did == ["attempt 2", "reserve", "ask", "went past", "pay"]
        await check_live(engine)


async def test_a_redrive_that_fails_is_a_dead_letter_again() -> None:
    """It can be redriven as often as it takes, also after a restart."""
    shop, log = Shop(), MemoryLog()

    async with opened(shop.app, log) as engine:
        run_id = await shop.fail(engine)
        await engine.redrive(run_id)
        with pytest.raises(TaskFailed):
            await engine.result(run_id)
    async with opened(shop.app, log) as engine:
        (letter,) = engine.runs("dead")
        assert (letter.id, letter.attempt, letter.task) == (run_id, 2, "buy")
        shop.broken = False
        await engine.redrive(run_id)
        assert await engine.result(run_id) == ["reserved 17", "paid 17"]
        await check_live(engine)


async def test_a_redriven_run_has_all_its_retries() -> None:
    """They are counted from there, and so is the time that a policy gives them."""
    app, clock, tried = App("t"), StepClock(), list[int]()

    @app.task(retry=Retry(attempts=2, wait_first=1, jitter=0))
    async def flaky(run: Run) -> int:
        tried.append(run.attempt)
        if run.attempt < 4:
            raise OSError
        return run.attempt

    async with opened(app, clock=clock) as engine:
        run_id = await engine.launch(flaky)
        await clock.step(engine, 10)
        assert tried == [1, 2]
        await engine.redrive(run_id)
        await clock.step(engine, 10)
        assert await engine.result(run_id) == 4
        assert tried == [1, 2, 3, 4]


async def test_a_rules_run_is_redriven_with_its_events() -> None:
    """The firing is what it was."""
    app, broken, seen, log = App("t"), [True], list[Any](), MemoryLog()

    @app.rule(on("a", int).key(lambda _: "k"), mode="queue")
    async def act(run: Run, firing: Firing[int]) -> None:
        if broken:
            raise OSError
        seen.append((run.key, [event.data for event in firing.events]))

    async with opened(app, log) as engine:
        await engine.emit("a", 5)
        await engine.drain()
        broken.clear()
        (letter,) = engine.runs("dead")
        await engine.redrive(letter.id)
        await engine.drain()
        await engine.emit("a", 6)  # and the queue goes on
        await engine.drain()
        assert seen == [("k", [5]), ("k", [6])]
        await check_live(engine)


async def test_what_is_no_dead_letter_is_refused() -> None:
    """With the reason, and nothing is stored."""
    shop, gate, log = Shop(), Gate(), MemoryLog()

    @shop.app.task
    async def wait() -> None:
        await gate.wait()

    async with opened(shop.app, log) as engine:
        run_id = await engine.launch(wait)
        await quiet(engine)
        with pytest.raises(RedriveRefused, match="is open"):
            await engine.redrive(run_id)
        gate.open()
        await engine.result(run_id)
        with pytest.raises(RunNotFound, match=r"run\.completed"):
            await engine.redrive(run_id)
        with pytest.raises(RunNotFound, match="no such run"):
            await engine.redrive(10**6)
        with pytest.raises(RunNotFound, match=r"engine\.started"):
            await engine.redrive(1)
    assert of_kind(log, RunRedriven) == []


async def test_one_that_is_not_kept_goes_on_from_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has it still: what made it, and that it was given up."""
    monkeypatch.setattr(dead_module, "DEAD_MAX", 1)
    shop, log = Shop(), MemoryLog()

    async with opened(shop.app, log) as engine:
        old, _ = await shop.fail(engine), await shop.fail(engine)
        shop.broken = False
        with pytest.raises(RedriveRefused, match="--from-start"):
            await engine.redrive(old)
        await engine.redrive(old, from_start=True)
        assert await engine.result(old) == ["reserved 17", "paid 17"]
        (view,) = [view for view in engine.runs("completed") if view.id == old]
        assert view.attempt == 2
        await check_live(engine)


async def test_one_whose_key_another_has_is_refused() -> None:
    """Never two runs of one key."""
    shop, gates = Shop(), [Gate(), Gate(), Gate()]
    first_gate, second_gate, third_gate = gates

    @shop.app.task
    async def once(run: Run) -> None:
        await gates.pop(0).wait()
        if shop.broken:
            raise OSError

    async with opened(shop.app) as engine:
        first = await engine.keyed("k").launch(once)
        await quiet(engine)
        first_gate.open()
        with pytest.raises(TaskFailed):
            await engine.result(first)
        shop.broken = False
        second = await engine.keyed("k").launch(once)
        with pytest.raises(RedriveRefused, match=f"found run {second}"):
            await engine.redrive(first)
        second_gate.open()
        await engine.result(second)
        await engine.redrive(first)
        assert await engine.keyed("k").launch(once) == first
        third_gate.open()
        await engine.result(first)
        await check_live(engine)


async def test_a_crash_in_a_redrive_neither_loses_nor_repeats_it() -> None:
    """Wherever it comes, the run ends once, and no step is done again."""
    shop, log = Shop(), MemoryLog()
    async with opened(shop.app, log) as engine:
        run_id = await shop.fail(engine)
        dead_at = engine.kernel.sequence
        shop.broken = False
        await engine.redrive(run_id)
        await engine.result(run_id)

    for upto in [border for border in borders(log) if border >= dead_at]:
        shop = Shop()
        shop.broken = False
        left = log.copy(upto)
        async with opened(shop.app, left) as engine:
            if engine.kernel.state.dead.find(run_id):
                await engine.redrive(run_id)
            await engine.drain()
            (view,) = [view for view in engine.runs() if view.id == run_id]
            assert (view.status, view.attempt) == ("completed", 2), upto
            assert "reserve" not in shop.did, upto
            assert "ask" not in shop.did, upto
            await check_live(engine)


async def test_idempotency_keys_of_a_redrive() -> None:
    """The run's own stays; that of a step that is done anew names the new attempt."""
    shop = Shop()
    async with opened(shop.app) as engine:
        run_id = await shop.fail(engine)
        shop.broken = False
        await engine.redrive(run_id)
        await engine.result(run_id)
        log_id = engine.log.log_id.hex()
    assert shop.keys == [f"{log_id}/{run_id}/1.3", f"{log_id}/{run_id}/2.3"]


async def test_a_snapshot_has_the_dead_letters() -> None:
    """With all that a redrive needs, though they change while it is written."""
    shop = Shop()
    async with opened(shop.app) as engine:
        run_id, _ = await shop.fail(engine), await shop.fail(engine)
        snapshot, before = Snapshot(engine.kernel), engine.kernel.dump()
        parts = [snapshot.step(1)]
        shop.broken = False
        await engine.redrive(run_id)
        await engine.result(run_id)
        while (part := snapshot.step(1)) is not None:
            parts.append(part)
        loaded = refolded(MemoryLog(), shop.app.decider())
        load(loaded, [part for part in parts if part is not None])
        assert loaded.dump() == before
