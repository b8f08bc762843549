"""The snapshots of each schema stay readable for ever: old records may be gone behind them.

To add a schema, never to change one: ``python tests/engine/test_golden_snapshot.py`` writes
the log and the snapshot of the present one.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from headrace import App, FileLog, Firing, Retry, Run, on, silent
from headrace.engine.clock import VirtualClock
from headrace.engine.emission import Emission
from headrace.engine.log import LogReader
from headrace.engine.record import decode
from headrace.engine.restore import from_snapshot, restore
from headrace.engine.snapshot import SCHEMA

GOLDEN = Path(__file__).with_name("golden")


def make_app() -> App:
    """Something of all that a snapshot has: windows, silences, sleeps, retries, steps."""
    app = App("golden")

    @app.rule(on("n", int).key(lambda e: (e.data % 3, "k")).count(3, within=1e6), version="1")
    async def three(run: Run, firing: Firing[int]) -> None:
        await run.call(add, firing.events[0].data, 1)
        await run.sleep(1e6)

    app.rule(silent(on("n", int), for_=1e6, expect=[]), name="still", version="1")(lambda: None)

    @app.task
    async def add(a: int, b: int) -> int:
        return a + b

    @app.rule(
        on("fail"), retry=Retry(attempts=3, wait_first=1e6, wait_max=1e6, on=OSError), version="1"
    )
    async def fail() -> None:
        raise OSError("not now")

    return app


async def write(folder: Path) -> None:
    """Write the golden log: what is open in it stays open."""
    log = FileLog(folder, clock=VirtualClock(), new_id=lambda: bytes(16), reserve_bytes=0)
    clock = VirtualClock()
    async with make_app().open(log, clock=clock, grace_s=0, control=False) as engine:
        await engine.emit_many(
            [Emission("n", number, f"e{number}", "source", number) for number in range(8)]
        )
        await engine.emit("fail")
        while engine.state().runs_active < 3:
            await anyio.lowlevel.checkpoint()
        await engine.snapshot()
        await engine.emit("n", 8)


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir()))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a copy of the log with a snapshot of each schema."""
    return Path(shutil.copytree(GOLDEN / str(request.param), tmp_path / "log"))


def test_golden_snapshot_is_the_fold(golden: Path) -> None:
    """From the snapshot on, each state is that of the whole log, and rules are still at work."""
    with LogReader(golden) as reader:
        quick, problems = from_snapshot(reader, make_app().decider())
        assert problems == []
        assert quick.sequence > 10
        assert quick.state.active == {"three", "still", "fail"}
        assert len(quick.state.runs.active) >= 3
        assert quick.state.decider.counters()["three"]["keys"] == 1
        restored = restore(reader, make_app().decider(), clock=None)
        assert restored.divergences == []
        for path in golden.glob("snap-*.hrs"):
            path.unlink()
        whole = restore(reader, make_app().decider(), clock=None)
        # When attempts failed is not in snapshots from before that was kept.
        whole.state.breakers.load([[], []])
        # Nor is which record ended a step.
        for run in [*restored.state.runs.active.values(), *whole.state.runs.active.values()]:
            for step in run.steps.values():
                step.ended = 0
        assert restored.dump() == whole.dump()
        assert all(decode(raw) for _, batch in reader.read() for raw in batch)


def test_there_is_one_of_the_present_schema() -> None:
    """Whoever changes the schema adds another."""
    assert str(SCHEMA) in {path.name for path in GOLDEN.iterdir()}


if __name__ == "__main__":
    anyio.run(write, GOLDEN / str(SCHEMA))
