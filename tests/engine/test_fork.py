"""An engine on a fork goes on from there, and the origin's engine does not notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine.stand import Gate

from headrace import App, FileLog, Firing, Run, on
from headrace.engine import record as r
from headrace.engine.log import LogReader
from headrace.engine.log.compare import compare
from headrace.engine.log.copying import copy
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.fork import fork
from headrace.engine.log.verify import verify


class Level(msgspec.Struct):
    metres: float


def counting_app(seen: list[Any], gate: Gate | None = None) -> App:
    """Return an app whose rule fires at every second level, with a step that takes its time."""
    app = App("mill")

    @app.task
    async def close_gate(run: Run, metres: float) -> float:
        if gate is not None:
            await gate.wait()
        seen.append((run.idempotency_key, metres))
        return metres

    @app.rule(on("water.*.level", Level).key(lambda e: e.tokens[1]).count(2, within=3600))
    async def flood(run: Run, firing: Firing[Level]) -> float:
        return await run.call(close_gate, firing.events[-1].data.metres)

    return app


def log_at(path: Path) -> FileLog:
    return FileLog(path, segment_bytes_max=2000, reserve_bytes=0)


def records_of(path: Path) -> list[r.Record]:
    with LogReader(path) as reader:
        return [r.decode(raw) for _, batch in reader.read() for raw in batch]


async def test_engines_on_a_log_and_its_fork_go_apart(tmp_path: Path) -> None:
    """Both go on from the same state, at the same time, and neither sees the other's events."""
    mine, theirs = list[Any](), list[Any]()
    async with counting_app(mine).open(log_at(tmp_path / "log")) as engine:
        for number in range(21):
            await engine.emit("water.race.level", Level(number))
        await engine.drain()
        assert len(mine) == 10
        made = fork(tmp_path / "log", None, tmp_path / "fork")
        async with counting_app(theirs).open(log_at(tmp_path / "fork")) as other:
            assert other.log.log_id == made.log_id != engine.log.log_id
            # The 21st level is half of a firing in both.
            await other.emit("water.race.level", Level(100.0))
            await engine.emit("water.race.level", Level(200.0))
            await other.emit("water.race.level", Level(101.0))
            await other.drain()
            await engine.drain()
    assert [metres for _, metres in mine[10:]] == [200.0]
    assert [metres for _, metres in theirs] == [100.0]
    assert mine[10][0] != theirs[0][0], "what they do to the world can be told apart"
    assert verify(tmp_path / "log").ok
    assert verify(tmp_path / "fork").ok
    with LogReader(tmp_path / "log") as one, LogReader(tmp_path / "fork") as another:
        found = compare(one, another)
    assert found.at == made.sequence + 1
    assert found.shared > 0


@pytest.mark.slow
async def test_fork_at_every_unit_can_be_gone_on_with(tmp_path: Path) -> None:
    """From whichever record a fork begins, its engine starts, resumes what was open, and ends."""
    async with counting_app([]).open(log_at(tmp_path / "log")) as engine:
        for number in range(8):
            await engine.emit("water.race.level", Level(number))
        await engine.drain()
    whole = records_of(tmp_path / "log")
    for sequence in range(1, len(whole) + 1):
        path = tmp_path / f"fork{sequence}"
        made = fork(tmp_path / "log", sequence, path)
        kept = whole[: made.sequence]
        levels = sum(isinstance(record, r.EventStored) for record in kept)
        async with counting_app([]).open(log_at(path)) as engine:
            assert engine.state().events == levels
            for number in range(levels, 8):
                await engine.emit("water.race.level", Level(number))
            await engine.drain()
            ended = [(run.task, run.status) for run in engine.runs()]
        assert sorted(ended) == [("close_gate", "completed")] * 4 + [("flood", "completed")] * 4
        assert records_of(path)[: made.sequence] == kept
        assert verify(path).ok


async def test_run_that_is_open_at_the_fork_ends_in_both(tmp_path: Path) -> None:
    """A fork in the middle of a run has that run too, under a key of its own."""
    gate, mine, theirs = Gate(), list[Any](), list[Any]()
    async with counting_app(mine, gate).open(log_at(tmp_path / "log")) as engine:
        await engine.emit("water.race.level", Level(1.0))
        await engine.emit("water.race.level", Level(2.0))
        while gate.arrived == 0:
            await anyio.sleep(0.001)
        fork(tmp_path / "log", None, tmp_path / "fork")
        async with counting_app(theirs).open(log_at(tmp_path / "fork")) as other:
            await other.drain()
        assert [metres for _, metres in theirs] == [2.0]
        assert mine == []
        gate.open()
        await engine.drain()
    assert [metres for _, metres in mine] == [2.0]
    assert mine[0][0].partition("/")[2] == theirs[0][0].partition("/")[2]
    assert mine[0][0] != theirs[0][0]


async def test_engine_goes_on_with_a_copy(tmp_path: Path) -> None:
    """A backup that was made of a running engine is what a restart would have found."""
    async with counting_app([]).open(log_at(tmp_path / "log")) as engine:
        for number in range(5):
            await engine.emit("water.race.level", Level(number))
        await engine.drain()
        copy(tmp_path / "log", tmp_path / "backup")
        at_copy = engine.state().events
        await engine.emit("water.race.level", Level(5.0))
        await engine.drain()
    seen = list[Any]()
    async with counting_app(seen).open(log_at(tmp_path / "backup")) as restored:
        assert restored.state().events == at_copy
        await restored.emit("water.race.level", Level(6.0))
        await restored.drain()
    assert [metres for _, metres in seen] == [6.0]


async def test_fork_starts_from_the_snapshots_that_it_shares(tmp_path: Path) -> None:
    """A log that has lost its beginning is forked and run on, from a snapshot at or before it."""
    snapshots = list[int]()
    log = FileLog(tmp_path / "log", segment_bytes_max=2000, reserve_bytes=0, keep_bytes=0)
    async with counting_app([]).open(log) as engine:
        for number in range(40):
            await engine.emit("water.race.level", Level(number))
            if number in (19, 29):
                await engine.drain()
                snapshots.append(await engine.snapshot())
        await engine.drain()
        last = log.committed_sequence
        first = log.retain(snapshots[0]).first_sequence
    assert 1 < first <= snapshots[0] + 1
    for sequence, shared in ((snapshots[0] + 1, 1), (snapshots[1] + 1, 2), (last, 2)):
        path = tmp_path / f"fork{sequence}"
        made = fork(tmp_path / "log", sequence, path)
        assert made.first_sequence == first
        seen = list[Any]()
        other = log_at(path)
        async with counting_app(seen).open(other) as engine:
            assert set(other.snapshots.sequences()) >= set(snapshots[:shared])
            assert engine.state().events >= 20
            await engine.emit("water.race.level", Level(300.0))
            await engine.emit("water.race.level", Level(301.0))
            await engine.drain()
        assert seen
        assert verify(path).ok


@pytest.mark.parametrize("call", ["listdir", "open"])
@pytest.mark.parametrize("make", [copy, lambda old, new, files: fork(old, None, new, files=files)])
async def test_log_that_goes_on_is_copied_with_a_snapshot(
    tmp_path: Path, call: str, make: Callable[..., object]
) -> None:
    """Without its beginning it could not be run; those that there were may go meanwhile."""
    log = FileLog(tmp_path / "log", segment_bytes_max=2000, reserve_bytes=0, keep_bytes=0)
    async with counting_app([]).open(log, snapshot_every=0) as engine:

        async def go_on() -> None:
            for _ in range(2):
                await engine.emit_many([("water.race.level", Level(n)) for n in range(20)])
                await engine.drain()
                await engine.snapshot()

        await go_on()
        await go_on()
        log.hold("the test", log.retain(0).first_sequence)  # only the snapshots go

        class Files(SystemFiles):
            """A disk on which the engine goes on before one call."""

            has_gone_on = False

            def meet(self, name: str) -> None:
                if name == call and not self.has_gone_on:
                    self.has_gone_on = True
                    anyio.from_thread.run(go_on)

            def listdir(self, path: str) -> list[str]:
                if path.endswith("/log"):
                    self.meet("listdir")
                return super().listdir(path)

            def open(self, path: str, flags: int) -> int:
                if "/new/" in path and path.endswith(".hrl"):
                    self.meet("open")
                return super().open(path, flags)

        files = Files()
        await anyio.to_thread.run_sync(
            lambda: make(tmp_path / "log", tmp_path / "new", files=files)
        )
        assert files.has_gone_on
    other = log_at(tmp_path / "new")
    async with counting_app([]).open(other) as again:
        assert next(other.read())[0] > 1
        assert again.state().events in (80, 120)
