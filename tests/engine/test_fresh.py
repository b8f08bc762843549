"""Runs that are as their firing made them: a line in a snapshot, and read when asked for."""

from __future__ import annotations

import errno
from itertools import chain
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import settings
from tests.engine.stand import Gate, StepClock, check_live, opened, quiet
from tests.engine.test_snapshot import SnapshotLife, fired_at, without_counts
from tests.reference.shell import Shell, ns, rules

from headrace import App, DurabilityLost, Firing, MemoryLog, Retry, Run, on
from headrace.engine import record as r
from headrace.engine import run_writing
from headrace.engine.errors import LogUnusable
from headrace.engine.fresh import OpenRuns
from headrace.engine.kernel import Kernel
from headrace.engine.restore import restore
from headrace.engine.snapshot import Snapshot, load
from headrace.triggers.ruleset import Rule

PLAIN = rules(Rule("plain", on("a"), "parallel"))


class FreshLife(SnapshotLife):
    """As any life, but that fresh runs are together, however few they are."""

    def __init__(self) -> None:
        super().__init__()
        self.few = patch.object(run_writing, "FRESH_MIN", 1)
        self.few.start()

    def teardown(self) -> None:
        self.few.stop()
        super().teardown()

    def resume(self) -> None:
        """Also what was only looked at by a snapshot is as it was."""
        super().resume()
        if not self.changed:
            kernel = self.loaded()
            state = without_counts(kernel)
            self.taken = list(Snapshot(kernel).parts(3))
            assert without_counts(self.loaded()) == state


FreshLife.TestCase.settings = settings(max_examples=30, stateful_step_count=40)
TestFreshSnapshotAndTailAreTheFold = pytest.mark.slow(FreshLife.TestCase)


def shell_with(count: int) -> Shell:
    """Return a shell with *count* runs, made at three times."""
    shell = Shell(PLAIN)
    shell.start(ns(0))
    for number in range(count):
        shell.emit(ns(1 + number * 3 // count), "a", {"n": number})
    return shell


def loaded(shell: Shell, parts: list[bytes]) -> Kernel:
    """Return a kernel that *parts* were loaded into, beside the log of *shell*."""
    kernel, records = Kernel(PLAIN()), shell.records
    kernel.state.runs.read = lambda ids: [fired_at(records, run_id) for run_id in ids]
    load(kernel, parts)
    return kernel


def test_many_are_a_few_numbers_each() -> None:
    """A snapshot has less than 12 bytes of one, and says what they need of the log."""
    shell = shell_with(2000)
    snapshot = Snapshot(shell.kernel)
    parts = list(snapshot.parts(64))
    assert sum(map(len, parts)) < 2000 * 12
    assert snapshot.oldest_sequence == min(shell.kernel.state.runs.active) - 1
    kernel = loaded(shell, parts)
    assert len(kernel.state.runs.fresh) == 2000
    assert kernel.dump() == shell.kernel.dump()
    assert len(kernel.state.runs.fresh) == 2000, "a look at the state keeps none of them"


def test_few_are_written_one_by_one() -> None:
    """So they can be loaded without a log, as from older snapshots."""
    shell = shell_with(run_writing.FRESH_MIN - 1)
    kernel = Kernel(PLAIN())
    load(kernel, list(Snapshot(shell.kernel).parts()))
    assert kernel.dump() == shell.kernel.dump()
    assert type(kernel.state.runs.active) is dict


def test_what_is_asked_for_is_read_once_and_kept() -> None:
    """By each way to ask for one; all others stay as they are."""
    shell = shell_with(100)
    kernel = loaded(shell, list(Snapshot(shell.kernel).parts()))
    runs = kernel.state.runs.active
    assert isinstance(runs, OpenRuns)
    ids = list(shell.kernel.state.runs.active)
    assert list(runs) == list(runs.keys()) == ids
    assert [run.id for run in runs.values()] == [run_id for run_id, _ in runs.items()] == ids
    assert len(runs) == kernel.state.runs.pending == 100
    first, second, third, *rest = ids
    asked = [runs[first], runs.get(second), kernel.state.runs.touch(third)]
    assert asked == [shell.kernel.state.runs.active[run_id] for run_id in (first, second, third)]
    assert runs[first] is asked[0]
    assert runs.get(second) is asked[1]
    assert list(kernel.state.runs.fresh) == rest
    assert list(kernel.state.runs.known) == asked
    assert first in runs
    assert rest[0] in runs
    assert 1 not in runs
    assert runs.get(1) is None
    with pytest.raises(KeyError):
        runs[1]
    del runs[first]
    assert list(runs) == ids[1:]


def test_a_death_counts_against_all_of_them() -> None:
    """Also while a snapshot is written, which has them as they were before."""
    shell = shell_with(100)
    shell.put(r.CrashesCounted(shell.at_ns))
    kernel = loaded(shell, list(Snapshot(shell.kernel).parts()))
    assert {run.crashes for run in kernel.state.runs.active.values()} == {1}
    before, snapshot = kernel.dump(), Snapshot(kernel)
    shell.put(r.CrashesCounted(shell.at_ns))
    kernel.fold(len(shell.records), r.decode(shell.records[-1]))
    assert kernel.dump() == shell.kernel.dump()
    assert {run.crashes for run in kernel.state.runs.active.values()} == {2}
    assert loaded(shell, list(snapshot.parts())).dump() == before


def test_a_snapshot_whose_times_are_too_few_is_refused() -> None:
    """It says what is wrong, and is no ground for a start."""
    batches = run_writing.Stretch("t", "r", None, 0, 1, [2, 4, 6], [(5, 2)]).batches()
    with pytest.raises(ValueError, match="a time for each of 3 runs, found 2"):
        list(batches)


# ---------------------------------------------------------------- engines


class Plant:
    """An app with a rule whose runs wait at a gate, and a log that has many of them pending."""

    def __init__(self, **options: Any) -> None:
        self.app = App("t")
        self.gate = Gate()
        self.seen: list[int] = []

        @self.app.rule(on("a"), name="work", **options)
        async def work(run: Run, firing: Firing[Any]) -> None:
            await self.gate.wait()
            assert run.id == firing.sequence
            self.seen.append(firing.events[0].data)

    async def left_by_a_crash(self, count: int = 200, **options: Any) -> MemoryLog:
        """Return the log of an engine that died with *count* runs, and a snapshot of them."""
        log = MemoryLog()
        async with opened(self.app, log, StepClock(), concurrency=1, **options) as engine:
            await engine.emit_many([("a", number) for number in range(count)])
            await engine.snapshot()
            await quiet(engine)
            left = log.copy(engine.kernel.sequence)
        self.gate, self.seen = Gate(), []
        return left


def fresh_of(plant: Plant, log: MemoryLog) -> int:
    """Return of how many runs a start would know no more than a line."""
    kernel = restore(log, plant.app.decider(), clock=None)
    return len(kernel.state.runs.fresh)


async def test_all_are_executed_in_their_order() -> None:
    """Each once, with what made it; none of them is read before it is its turn."""
    plant = Plant()
    log = await plant.left_by_a_crash()
    assert fresh_of(plant, log) == 200
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await quiet(engine)
        assert len(engine.kernel.state.runs.fresh) == 199
        assert engine.state().runs_active == 200
        assert len(engine.runs("active")) == 200
        assert len(engine.kernel.state.runs.fresh) == 199
        plant.gate.open()
        await engine.drain()
        assert plant.seen == list(range(200))
        assert engine.state().runs_active == 0
        await check_live(engine)


async def test_what_is_new_comes_behind_them() -> None:
    """Within one key, as it does without a crash."""
    plant = Plant()
    log = await plant.left_by_a_crash()
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await engine.emit_many([("a", number) for number in range(200, 210)])
        plant.gate.open()
        await engine.drain()
        assert plant.seen == list(range(210))


async def test_one_can_be_cancelled() -> None:
    """It is executed by nobody, and all others are."""
    plant = Plant()
    log = await plant.left_by_a_crash()
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await quiet(engine)
        run_id = sorted(engine.kernel.state.runs.fresh)[100]
        await engine.cancel(run_id, "not needed")
        await quiet(engine)
        plant.gate.open()
        await engine.drain()
        assert plant.seen == [number for number in range(200) if number != 101]
        assert engine.state().runs_ended == {"completed": 199, "cancelled": 1}


@pytest.mark.parametrize("limits", [{"concurrency": 2}, {"priority": 3}, {"deadline": 3600.0}])
async def test_others_may_have_limits(limits: dict[str, Any]) -> None:
    """Where each has to be looked at before it may begin, each is."""
    plant = Plant(timeout=3600.0)

    @plant.app.task(**limits)  # type: ignore[untyped-decorator]
    async def other() -> str:
        return "done"

    log = await plant.left_by_a_crash()
    async with opened(plant.app, log, StepClock()) as engine:
        await quiet(engine)
        assert plant.gate.arrived == 200
        run_id = await engine.launch(other)
        plant.gate.open()
        await engine.drain()
        assert sorted(plant.seen) == list(range(200))
        assert await engine.result(run_id) == "done"


async def test_those_that_killed_the_process_are_on_trial() -> None:
    """After the second death each is a suspect, and they are executed one after the other."""
    plant = Plant()
    log = await plant.left_by_a_crash()
    async with opened(plant.app, log, StepClock(), snapshot_every=0) as engine:
        await quiet(engine)
        assert plant.gate.arrived == 200
        left = log.copy(engine.kernel.sequence)
    plant.gate = Gate()
    async with opened(plant.app, left, StepClock(), snapshot_every=0) as engine:
        await quiet(engine)
        assert plant.gate.arrived == 1
        plant.gate.open()
        await engine.drain()
        assert len(plant.seen) == 200


async def test_without_its_code_they_stay() -> None:
    """A start that does not declare the rule leaves them for one that does."""
    plant = Plant()
    log = await plant.left_by_a_crash()
    async with opened(App("t"), log, StepClock()) as engine:
        await engine.drain()
        assert engine.state().runs_active == 200
    plant.gate.open()
    async with opened(plant.app, log, StepClock()) as engine:
        await engine.drain()
        assert sorted(plant.seen) == list(range(200))


async def test_a_failure_is_tried_again() -> None:
    """What began as a line has attempts like any other."""
    app, tries = App("t"), dict.fromkeys(range(100), 0)
    gate = Gate()

    @app.rule(on("a"), retry=Retry(attempts=2, wait_first=0.001))
    async def work(firing: Firing[Any]) -> None:
        await gate.wait()
        number = firing.events[0].data
        tries[number] += 1
        if tries[number] == 1:
            raise ValueError(number)

    log = MemoryLog()
    async with opened(app, log, StepClock(), concurrency=1) as engine:
        await engine.emit_many([("a", number) for number in range(100)])
        await engine.snapshot()
        left = log.copy(engine.kernel.sequence)
    gate = Gate()
    gate.open()
    clock = StepClock()
    async with opened(app, left, clock) as engine:
        await clock.step(engine, 1.0)
        await engine.drain()
        assert set(tries.values()) == {2}
        await check_live(engine)


class Deaf(MemoryLog):
    """A log of which one record cannot be read for now, such as for want of a descriptor."""

    lost = 0

    def fetch(self, sequences: Any) -> dict[int, bytes]:
        """Return none if that is among them."""
        wanted = list(sequences)
        if self.lost in wanted:
            cause = OSError(errno.EMFILE, "Too many open files")
            raise LogUnusable(f"expected to read record {self.lost}, found {cause}") from cause
        return super().fetch(wanted)


async def test_what_says_nothing_of_a_record_stops_the_engine() -> None:
    """The next start may read it: the line says which one, and nothing that is stored is lost."""
    plant = Plant()
    log = Deaf()
    log.__dict__.update((await plant.left_by_a_crash()).__dict__)
    log.lost = sorted(restore(log, plant.app.decider(), clock=None).state.runs.fresh)[5]
    plant.gate.open()
    with pytest.raises(DurabilityLost, match=f"expected to read what made run {log.lost}"):
        async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
            await engine.drain()
    log.lost = 0
    async with opened(plant.app, log, StepClock(), concurrency=1) as engine:
        await engine.drain()
        assert engine.state().runs_ended == {"completed": 200}


def test_keys_are_read_as_they_were() -> None:
    """Keys that are equal and of other types are of one queue, and each is its own."""
    make = rules(Rule("keyed", on("a").key(lambda event: event.data), "parallel"))
    shell = Shell(make)
    shell.start(ns(0))
    for key in chain.from_iterable([1, 1.0, True] for _ in range(40)):
        shell.emit(ns(1), "a", key)
    kernel, records = Kernel(make()), shell.records
    kernel.state.runs.read = lambda ids: [fired_at(records, run_id) for run_id in ids]
    load(kernel, list(Snapshot(shell.kernel).parts()))
    assert kernel.state.runs.fresh
    assert kernel.dump() == shell.kernel.dump()
