"""A host may cancel whatever it awaits, at any turn of the loop: nothing is lost, doubled, left.

Each coroutine that an engine offers is cancelled after 0, 1, 2 … turns, until it comes to its
end before that.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from tests.engine.stand import check_live, records_of

from headrace import App, Emission, Engine, MemoryLog, RedriveRefused, Run, RunNotFound, on
from headrace.engine import dead as dead_module
from headrace.engine.record import (
    AlarmAcknowledged,
    CancelRequested,
    EventStored,
    Record,
    RunLaunched,
    RunRedriven,
    SignalSent,
)

TURNS_MAX = 400


async def nothing() -> None:
    """Do nothing."""


class Plant:
    """An app with a rule, a step, an alarm, a task that fails once, and a run that sleeps."""

    def __init__(self) -> None:
        """Begin with an empty log."""
        self.app, self.log = App("plant"), MemoryLog()
        self.engine: Engine
        self.run_id = 0
        """Of what was launched in the beginning, if anything was."""
        self._declare()

    def _declare(self) -> None:
        app = self.app

        @app.task
        async def step(number: int) -> int:
            await checkpoint()
            return number + 1

        @app.rule(on("work", int).key(lambda e: e.data % 2))
        async def work(run: Run) -> int:
            return await run.call(step, await run.call(step, 1))

        @app.rule(on("nap"))
        async def nap(run: Run) -> None:
            await run.sleep(10_000)

        @app.task
        async def stumble(run: Run, number: int) -> int:
            if run.attempt == 1:
                raise OSError
            return await run.call(step, number)

        app.rule(on("heat", int).crosses(lambda e: e.data, above=90), name="hot", on_clear=nothing)(
            nothing
        )
        self.step, self.stumble = step, stumble

    def asleep(self) -> int:
        """Return the run that sleeps."""
        (run,) = (run for run in self.engine.runs("active") if run.task == "nap")
        return run.id

    def stored(self, kind: type[Record]) -> int:
        """Return how many records of a kind are stored."""
        return sum(isinstance(record, kind) for _, record in records_of(self.log))


Call = Callable[[Plant], Awaitable[object]]


async def fall_asleep(plant: Plant) -> None:
    """Let there be a run that sleeps."""
    await plant.engine.emit("nap")


async def begin_a_run(plant: Plant) -> None:
    """Let there be a run whose result can be asked for."""
    plant.run_id = await plant.engine.launch(plant.step, 1)


async def have_a_dead_letter(plant: Plant) -> None:
    """Let there be a run that was given up."""
    plant.run_id = await plant.engine.launch(plant.stumble, 1)
    await plant.engine.drain()


async def have_an_old_dead_letter(plant: Plant) -> None:
    """Let there be one that only the log knows any more."""
    await have_a_dead_letter(plant)
    await plant.engine.launch(plant.stumble, 2)
    await plant.engine.drain()


PREPARE: dict[str, Call] = {
    "result": begin_a_run,
    "redrive": have_a_dead_letter,
    "redrive old": have_an_old_dead_letter,
    "acknowledge": lambda plant: plant.engine.emit_many([("heat", 1), ("heat", 99)]),
    "drain": lambda plant: plant.engine.emit_many([("work", 3), ("work", 4)]),
}
"""What comes before a call.  Before all others a run begins to sleep."""


def event(number: int) -> Emission:
    """Return an event that is stored once however often it comes."""
    return Emission("work", number, id="xy"[number - 1], source="s")


def exchange(plant: Plant) -> Awaitable[list[int]]:
    """Put another rule in the place of one."""
    return plant.engine.change_rules(
        [plant.app._declared(on("added"), nothing, name="added", version="1")], ["work"]
    )


CALLS: dict[str, Call] = {
    "emit": lambda plant: plant.engine.emit("work", 1, id="x", source="s"),
    "emit_many": lambda plant: plant.engine.emit_many([event(1), event(2)]),
    "launch": lambda plant: plant.engine.launch(plant.step, 1),
    "keyed": lambda plant: plant.engine.keyed("k", window=100).launch(plant.step, 1),
    "result": lambda plant: plant.engine.result(plant.run_id),
    "redrive": lambda plant: plant.engine.redrive(plant.run_id),
    "redrive old": lambda plant: plant.engine.redrive(plant.run_id, from_start=True),
    "cancel": lambda plant: plant.engine.cancel(plant.asleep()),
    "signal": lambda plant: plant.engine.signal(plant.asleep(), "wake", "up"),
    "snapshot": lambda plant: plant.engine.snapshot(),
    "pause": lambda plant: plant.engine.pause("work"),
    "resume": lambda plant: plant.engine.resume("work"),
    "remove_rule": lambda plant: plant.engine.remove_rule("work"),
    "add_rule": lambda plant: plant.engine.add_rule(on("added"), nothing, name="added"),
    "change_rules": exchange,
    "acknowledge": lambda plant: plant.engine.acknowledge("hot", by="me"),
    "ready": lambda plant: plant.engine.ready(),
    "drain": lambda plant: plant.engine.drain(),
}
ASKS: dict[str, type[Record]] = {
    "launch": RunLaunched,
    "keyed": RunLaunched,
    "redrive": RunRedriven,
    "redrive old": RunRedriven,
    "cancel": CancelRequested,
    "signal": SignalSent,
    "acknowledge": AlarmAcknowledged,
}
"""The records of calls that store one."""


async def launch_once_more(plant: Plant) -> None:
    """One run has the key, whoever launched it."""
    run_id = await plant.engine.keyed("k", window=100).launch(plant.step, 1)
    assert await plant.engine.result(run_id) == 2
    assert plant.stored(RunLaunched) == 1


async def redrive_unless_that_is_done(plant: Plant) -> None:
    """It goes on once."""
    with suppress(RedriveRefused, RunNotFound):
        await plant.engine.redrive(plant.run_id, from_start=True)
    assert await plant.engine.result(plant.run_id) == 2
    assert plant.stored(RunRedriven) == 1


async def has_a_result(plant: Plant) -> None:
    """Who asks later is told."""
    assert await plant.engine.result(plant.run_id) == 2


async def changed_all_or_nothing(plant: Plant) -> None:
    """Both rules, or none."""
    rules = {rule.name for rule in plant.engine.state().rules if rule.active}
    assert rules in ({"hot", "nap", "work"}, {"hot", "nap", "added"})


async def is_done(plant: Plant) -> None:
    """What runs comes to its end."""
    await plant.engine.drain()
    assert plant.engine.state().runs_active == 0


CHECKS: dict[str, Callable[[Plant], Awaitable[None]]] = {
    "keyed": launch_once_more,
    "redrive": redrive_unless_that_is_done,
    "redrive old": redrive_unless_that_is_done,
    "result": has_a_result,
    "change_rules": changed_all_or_nothing,
    "drain": is_done,
}
"""What holds afterwards, besides what holds after all calls."""


async def interrupt(call: Callable[[], Awaitable[object]], turns: int) -> bool:
    """Await *call* for so many turns of the loop; say whether it came to its end."""
    ended = False

    async def victim() -> None:
        nonlocal ended
        await call()
        ended = True

    async with anyio.create_task_group() as group:
        group.start_soon(victim)
        for _ in range(turns):
            await checkpoint()
        group.cancel_scope.cancel()
    return ended


def task_ids() -> set[int]:
    """Return what stands for each task that runs."""
    return {task.id for task in anyio.get_running_tasks()}


def stored_ids(log: MemoryLog) -> list[str]:
    """Return the ids of all events, in the order of the log."""
    return [
        record.id
        for _, record in records_of(log)
        if isinstance(record, EventStored) and record.id is not None
    ]


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_that_is_cancelled_at_any_turn(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine works as before; what was asked for has happened once, or not at all."""
    monkeypatch.setattr(dead_module, "DEAD_MAX", 1)
    before = task_ids()
    for turns in range(TURNS_MAX):
        plant = Plant()
        async with plant.app.open(plant.log, grace_s=0) as engine:
            plant.engine = engine
            await PREPARE.get(name, fall_asleep)(plant)
            asked = plant.stored(ASKS[name]) if name in ASKS else 0
            ended = await interrupt(partial(CALLS[name], plant), turns)
            await engine.emit_many([event(1)])
            if name in ASKS:
                assert plant.stored(ASKS[name]) - asked in ((1,) if ended else (0, 1))
            if name in CHECKS:
                await CHECKS[name](plant)
            assert stored_ids(plant.log).count("x") == 1
            await check_live(engine)
        assert task_ids() == before
        if ended:
            return
    raise AssertionError(f"{name} did not end within {TURNS_MAX} turns")


async def test_a_host_that_is_cancelled_at_any_turn() -> None:
    """Opening, living and closing: the log can be opened again at once, and nothing runs on."""
    before, threads = task_ids(), set(threading.enumerate())
    for turns in range(TURNS_MAX):
        log = MemoryLog()

        async def host(log: MemoryLog = log) -> None:
            async with Plant().app.open(log, grace_s=0) as engine:
                for number in range(3):
                    await engine.emit("work", number, id=f"e{number}", source="s")

        ended = await interrupt(host, turns)
        assert task_ids() == before
        done = len(stored_ids(log))
        async with Plant().app.open(log, grace_s=0) as engine:
            for number in range(3):
                await engine.emit("work", number, id=f"e{number}", source="s")
            await engine.drain()
            assert engine.state().runs_ended == {"completed": 9}
        assert stored_ids(log) == ["e0", "e1", "e2"]
        assert done <= 3
        if ended:
            break
    assert set(threading.enumerate()) - threads <= worker_threads()


def worker_threads() -> set[Any]:
    """Return the threads that the event loop's library keeps for later."""
    return {t for t in threading.enumerate() if "AnyIO" in t.name or "Trio" in t.name}


def workshop() -> App:
    """Return an app whose one run does all that a run can."""
    app = App("workshop")

    @app.task
    async def leaf(number: int) -> int:
        await checkpoint()
        return number

    @app.task
    async def branch(run: Run, number: int) -> int:
        return sum(await run.map(leaf, range(number), max_concurrency=2))

    @app.rule(on("go"))
    async def tree(run: Run) -> int:
        beside = run.spawn(branch, 3)
        first = await run.call(branch, 2)
        await run.emit("said", first)
        await run.sleep(0)
        await run.launch(leaf, 7)
        return first + await beside

    return app


async def test_a_run_that_is_cancelled_at_any_turn() -> None:
    """It ends as cancelled, with all its children, unless it had ended; the rest goes on."""
    statuses: list[str] = []
    for turns in range(TURNS_MAX):
        async with workshop().open(MemoryLog(), grace_s=0) as engine:
            await engine.emit("go")
            (tree,) = (run.id for run in engine.runs() if run.task == "tree")
            for _ in range(turns):
                await checkpoint()
            try:
                await engine.cancel(tree)
            except RunNotFound:
                break
            await engine.drain()
            (ended,) = (run for run in engine.runs() if run.id == tree)
            statuses.append(ended.status)
            assert engine.state().runs_active == 0
            assert engine.state().timers == 0
            await engine.emit("go")
            await engine.drain()
            assert sum(run.status == "completed" for run in engine.runs() if run.task == "tree")
            await check_live(engine)

    assert set(statuses) <= {"cancelled", "completed"}
    assert statuses.count("cancelled") > 10
