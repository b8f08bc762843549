"""Dead letters: what is kept of them, and how they go on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import anyio
import msgspec
import pytest
from msgspec import Raw, msgpack
from tests.engine.stand import (
    HANG_S,
    Gate,
    StepClock,
    borders,
    check_live,
    of_kind,
    opened,
    quiet,
    refolded,
    until,
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
from headrace.engine.dead import DEAD_BYTES_MAX, DeadLetters
from headrace.engine.record import RunFailed, RunRedriven
from headrace.engine.run_state import RunState, Step
from headrace.engine.snapshot import Snapshot, load


class Shop:
    """An app whose runs fail for as long as it is broken."""

    def __init__(self) -> None:
        """Begin broken."""
        self.app = App("shop")
        self.broken = True
        self.gate: Gate | None = None
        """Where a purchase stops, if there is one."""
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
            if self.gate is not None:
                await self.gate.wait()
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


class SlowLog(MemoryLog):
    """A log that takes its time when somebody reads it to its end."""

    held: threading.Event | None = None
    """What the next reader waits for."""
    is_read = False

    def read(self, *, after: int = 0) -> Iterator[tuple[int, list[bytes]]]:
        """See `MemoryLog`."""
        yield from super().read(after=after)
        held, self.held = self.held, None
        if held is not None:
            self.is_read = True
            assert held.wait(HANG_S)


def readers() -> int:
    """Return how many threads of engines are at work."""
    return sum(thread.name.startswith("headrace-opener") for thread in threading.enumerate())


async def test_two_who_redrive_one_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on once, though both are to look for it in the log, which takes long."""
    monkeypatch.setattr(dead_module, "DEAD_MAX", 1)
    shop, log, done = Shop(), SlowLog(), list[str]()

    async with opened(shop.app, log) as engine:
        old, _ = await shop.fail(engine), await shop.fail(engine)
        shop.broken = False
        shop.did.clear()

        async def redrive() -> None:
            try:
                await engine.redrive(old, from_start=True)
                done.append("redriven")
            except (RedriveRefused, RunNotFound):
                done.append("refused")

        log.held = go = threading.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(redrive)
            await until(lambda: log.is_read)
            group.start_soon(redrive)
            await quiet(engine)
            await until(lambda: done or readers() == 1)
            await engine.drain()
            go.set()
        assert await engine.result(old) == ["reserved 17", "paid 17"]
        await engine.drain()
        await check_live(engine)
    assert shop.did.count("pay") == 1
    assert sorted(done) == ["redriven", "refused"]
    assert len(of_kind(log, RunRedriven)) == 1


async def test_one_whose_key_is_taken_while_it_is_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is refused as one whose key was taken before."""
    monkeypatch.setattr(dead_module, "DEAD_MAX", 1)
    shop, log, said = Shop(), SlowLog(), list[str]()

    async with opened(shop.app, log) as engine:
        first = await engine.keyed("k").launch(shop.buy, 17)
        await engine.drain()
        await shop.fail(engine)
        log.held = go = threading.Event()

        async def redrive() -> None:
            with pytest.raises(RedriveRefused) as caught:
                await engine.redrive(first, from_start=True)
            said.append(str(caught.value))

        async with anyio.create_task_group() as group:
            group.start_soon(redrive)
            await until(lambda: log.is_read)
            shop.gate = gate = Gate()
            second = await engine.keyed("k").launch(shop.buy, 18)
            await quiet(engine)
            go.set()
            await until(lambda: said)
            assert f"run {first}: expected that nobody has its key" in said[0]
            assert f"found run {second}" in said[0]
            gate.open()
    assert of_kind(log, RunRedriven) == []


async def test_one_that_is_not_kept_is_executed_by_the_code_in_force(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It begins anew, so the version of its task is the one that runs begin with now."""
    monkeypatch.setattr(dead_module, "DEAD_MAX", 1)
    did, log = list[str](), MemoryLog()

    def made(version: str) -> App:
        app = App("t")

        @app.task(version=version)
        async def work() -> str:
            did.append(version)
            if version == "1":
                raise OSError
            return version

        return app

    before, after = made("1"), made("2")
    async with opened(before, log) as engine:
        old, _ = [await engine.launch(before.tasks["work"].function) for _ in range(2)]
        await engine.drain()
    async with opened(after, log) as engine:
        await engine.redrive(old, from_start=True)
        await engine.drain()
        assert [view.version for view in engine.runs("completed")] == ["2"]
        await check_live(engine)
    assert did == ["1", "1", "2"]


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


def letters_of(count: int, run: RunState) -> DeadLetters:
    """Return that many dead letters like *run*."""
    letters = DeadLetters()
    for number in range(1, count + 1):
        letters.keep(msgspec.structs.replace(run, id=number), None, at_ns=number)
    return letters


LARGE = bytes(1024 * 1024)


@pytest.mark.parametrize(
    "parts",
    [
        {"args": Raw(msgpack.encode(LARGE))},
        {"signals": {"s": [(5, LARGE)]}},
        {"steps": {1: Step("receive", "s", b"", 5, "done", 0, result=Raw(msgpack.encode(LARGE)))}},
    ],
    ids=lambda parts: next(iter(parts)),
)
def test_dead_letters_are_bounded_in_bytes(parts: dict[str, Any]) -> None:
    """By all that they were given, received and did; a snapshot keeps the same ones."""
    letters = letters_of(100, RunState(0, "t", "active", 0, 0, **parts))
    kept = [run.id for run in letters.runs()]
    assert len(kept) == DEAD_BYTES_MAX // len(LARGE) - 1
    assert kept[-1] == 100

    loaded, writing = DeadLetters(), letters.write_out()
    while entries := writing.step(64):
        loaded.load(entries)
    for same in (letters, loaded):
        assert same.take(kept[5]) is not None
        for number in (101, 102):
            same.keep(RunState(number, "t", "active", 0, 0, **parts), None, at_ns=number)
        assert [run.id for run in same.runs()] == [*kept[1:5], *kept[6:], 101, 102]


@pytest.mark.slow
def test_the_last_dead_letter_is_kept_however_large_it_is() -> None:
    """Or nobody would see it."""
    large = Raw(msgpack.encode(bytes(DEAD_BYTES_MAX)))
    run = RunState(0, "t", "active", 0, 0, args=large)
    assert [kept.id for kept in letters_of(2, run).runs()] == [2]


def test_a_letter_that_goes_on_does_not_change_a_snapshot_that_was_begun() -> None:
    """It has the state of before, though it is written only now."""
    letters, again = DeadLetters(), DeadLetters()
    step = Step("sleep", "", b"", 2, "done", 0)
    run = RunState(1, "t", "active", 0, 0, steps={1: step}, signals={"a": [(3, b"\x01")]})
    run.patches["one"] = True
    letters.keep(run, [], at_ns=5)
    writing = letters.write_out()
    taken = letters.take(1)
    assert taken is not None
    assert taken.signals is not None
    taken.patches["two"] = True
    taken.signals["a"].clear()
    taken.steps[1].status = "failed"
    again.load(writing.step(10))

    written = again.find(1)
    assert written is not None
    assert (written.patches, written.signals) == ({"one": True}, {"a": [(3, b"\x01")]})
    assert written.steps[1].status == "done"
