"""Large results when old records go: what somebody may still ask for stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.stand import opened
from tests.simulation.session import Session

from headrace import App, FileLog, Firing, RunNotFound, on
from headrace.engine.errors import BlobUnusable
from headrace.engine.large_results import named_blobs
from headrace.engine.log.blobs import FileBlobs, digest_of
from headrace.engine.log.named import Named, named_result
from headrace.engine.record import EventStored, RunCompleted, decode

SIZE = 100_000


def making() -> App:
    """Return an app with a task that makes a lot, and a rule that fills the log."""
    app = App("t")

    @app.task
    async def make(letter: str) -> str:
        return letter * SIZE

    @app.rule(on("fill"))
    async def fill(firing: Firing[Any]) -> None: ...

    return app


def log_at(folder: Path) -> FileLog:
    return FileLog(folder, segment_bytes_max=20_000, keep_bytes=1)


async def let_go(engine: Any) -> None:
    """Fill the log until retention has removed what was there before."""
    before = engine.log._store.manifest.first_sequence
    last = engine.kernel.sequence
    while engine.log._store.manifest.first_sequence <= last:
        await engine.emit_many([("fill", "x" * 500) for _ in range(100)])
        await engine.drain()
        await engine.snapshot()
    assert engine.log._store.manifest.first_sequence > before


def stored(folder: Path, letter: str) -> bool:
    """Say whether the result of this letter is still there."""
    digest = digest_of(msgspec.msgpack.encode(letter * SIZE)).hex()
    return (folder / "blobs" / digest[:2] / digest).exists()


async def test_a_result_that_went_with_its_record_is_forgotten(tmp_path: Path) -> None:
    """Who asks is told the same as of any run that is not kept, and not that a file is lost."""
    app, folder = making(), tmp_path / "log"
    make: Any = app.tasks["make"].function
    async with opened(app, log_at(folder), snapshot_every=0) as engine:
        large, small = await engine.launch(make, "r"), await engine.launch(make, "")
        assert await engine.result(large) == "r" * SIZE
        await let_go(engine)
        assert not stored(folder, "r")
        for _ in range(2):
            with pytest.raises(RunNotFound, match=f"run {large} is not open, and its result is"):
                await engine.result(large)
        assert await engine.result(small) == ""


async def test_a_result_that_is_lost_is_not_forgotten(tmp_path: Path) -> None:
    """While its record is there, or its key holds it, that is damage and is said."""
    app, folder = making(), tmp_path / "log"
    make: Any = app.tasks["make"].function
    async with opened(app, log_at(folder), snapshot_every=0) as engine:
        keyed = await engine.keyed("k", window=1e6).launch(make, "k")
        await engine.result(keyed)
        await let_go(engine)
        plain = await engine.launch(make, "p")
        await engine.result(plain)
        for path in folder.glob("blobs/*/*"):
            path.unlink()
        blobs = engine.log.blobs
        assert isinstance(blobs, FileBlobs)
        blobs._kept.clear()
        for run_id in (keyed, plain):
            with pytest.raises(BlobUnusable, match="nothing there"):
                await engine.result(run_id)


async def test_a_result_stays_with_the_event_that_tells_of_it(tmp_path: Path) -> None:
    """A chain reads it for the event, which may be kept for longer than the end of the run."""
    app, folder = making(), tmp_path / "log"

    @app.rule(on("run.completed.make"))
    async def follow(firing: Firing[Any]) -> None: ...

    make: Any = app.tasks["make"].function
    log = FileLog(folder)
    async with opened(app, log) as engine:
        run_id = await engine.launch(make, "c")
        await engine.drain()
        naming = [raw for _, batch in log.read() for raw in batch if named_result(raw)]
    digest = digest_of(msgspec.msgpack.encode("c" * SIZE))
    assert [type(decode(raw)) for raw in naming] == [RunCompleted, EventStored]
    assert [named_result(raw) for raw in naming] == [Named(run_id, digest)] * 2

    session = Session(FileLog(tmp_path / "later"))
    session.log.blobs.settle(session.log.blobs.put(msgspec.msgpack.encode("c" * SIZE)))
    session.put([naming[1]])
    assert session.log.blobs.sweep(lambda: named_blobs(session.log)) == 0
    session.log.close()
    assert stored(tmp_path / "later", "c")
