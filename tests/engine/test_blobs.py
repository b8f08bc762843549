"""Large results: in files of their own, there before the record that names them, and checked."""

from __future__ import annotations

import errno
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.engine.stand import (
    FullLog,
    StepClock,
    borders,
    check_live,
    make_room,
    of_kind,
    opened,
    quiet,
    until,
)

from headrace import (
    App,
    DurabilityLost,
    Engine,
    FileLog,
    Firing,
    MemoryLog,
    Retry,
    Run,
    on,
)
from headrace.engine.defaults import PROBE_S
from headrace.engine.errors import BlobUnusable
from headrace.engine.large_results import named_blobs
from headrace.engine.log import LogReader
from headrace.engine.log.blobs import KEPT_BYTES, FileBlobs, digest_of
from headrace.engine.log.copying import copy
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.fork import fork
from headrace.engine.payload import BLOB_BYTES_MIN
from headrace.engine.record import RunCompleted, decode
from headrace.engine.snapshotter import Snapshotter

SIZE = 100_000


def making() -> tuple[App, list[str]]:
    """Return an app whose tasks make a lot, and what they did."""
    app, did = App("t"), list[str]()

    @app.task(retry=Retry(attempts=3, wait_first=1, jitter=0))
    async def make(letter: str) -> str:
        did.append(letter)
        return letter * SIZE

    @app.task
    async def both(run: Run, pause: float = 0.0) -> list[str]:
        made = [await run.call(make, "a"), await run.call(make, "b")]
        if pause:
            await run.sleep(pause)
        return [text[:2] for text in made]

    return app, did


def task(app: App, name: str) -> Any:
    return app.tasks[name].function


async def test_a_large_result_is_not_in_the_log() -> None:
    """The log keeps its digest, and who asks gets all of it."""
    app, _ = making()
    log = MemoryLog()

    async with opened(app, log) as engine:
        run_id = await engine.launch(task(app, "make"), "x")
        assert await engine.result(run_id) == "x" * SIZE
        await check_live(engine)

    (ended,) = of_kind(log, RunCompleted)
    assert bytes(ended.result) == b"\xc0"
    assert log.blobs.stored.keys() == {ended.blob} == named_blobs(log)


async def test_what_fits_stays_in_its_record() -> None:
    """Up to 64 KiB nothing is in another file."""
    app, log = App("t"), MemoryLog()

    @app.task
    async def make(size: int) -> bytes:
        return bytes(size)

    async with opened(app, log) as engine:
        for size in (BLOB_BYTES_MIN - 3, BLOB_BYTES_MIN + 1):
            assert await engine.result(await engine.launch(make, size)) == bytes(size)
    assert [ended.blob is None for ended in of_kind(log, RunCompleted)] == [True, False]


async def test_steps_with_large_results_survive_a_crash() -> None:
    """At each record: they are not executed again, and their results are what they were."""
    app, _ = making()
    log, clock = MemoryLog(), StepClock()
    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(task(app, "both"))
        assert await engine.result(run_id) == ["aa", "bb"]

    for upto in borders(log):
        app, did = making()
        left = log.copy(upto)
        done = sum(ended.blob is not None for ended in of_kind(left, RunCompleted))
        async with opened(app, left, clock) as engine:
            if run_id not in engine.kernel.state.runs.active:
                continue
            await engine.drain()
            assert [view.error for view in engine.runs("dead")] == []
            await check_live(engine)
        assert len(did) == 2 - done, upto


async def test_a_damaged_result_is_a_dead_letter_that_says_so(tmp_path: Path) -> None:
    """It names the file, the run and the call; it is not tried again, and all else goes on."""
    app, did = making()
    clock, folder = StepClock(), tmp_path / "log"
    async with opened(app, FileLog(folder), clock) as engine:
        run_id = await engine.launch(task(app, "both"), 5.0)
        while len(engine.kernel.state.runs.active[run_id].steps) < 3:
            await quiet(engine)
    (path,) = folder.glob(f"blobs/*/{digest_of(_packed('b')).hex()}")
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    async with opened(app, FileLog(folder), clock) as engine:
        await clock.step(engine, 5)
        while not (dead := engine.runs("dead")):
            await quiet(engine)
        assert f"run {run_id}, call 2: {path}: expected" in (dead[0].error or "")
        assert await engine.result(await engine.launch(task(app, "make"), "c")) == "c" * SIZE
    assert did == ["a", "b", "c"]


def _packed(letter: str) -> bytes:
    return msgspec.msgpack.encode(letter * SIZE)


async def test_a_missing_result_is_told_to_who_asks(tmp_path: Path) -> None:
    """Also of a run that was launched under a key."""
    app, _ = making()
    folder = tmp_path / "log"
    async with opened(app, FileLog(folder)) as engine:
        run_id = await engine.keyed("k", window=1e6).launch(task(app, "make"), "x")
        await engine.result(run_id)
    (path,) = folder.glob("blobs/*/*")
    path.unlink()
    async with opened(app, FileLog(folder)) as engine:
        with pytest.raises(BlobUnusable, match="nothing there"):
            await engine.result(run_id)


async def test_copies_and_forks_have_them(tmp_path: Path) -> None:
    """A log can be carried away whole."""
    app, _ = making()
    folder = tmp_path / "log"
    async with opened(app, FileLog(folder)) as engine:
        run_id = await engine.keyed("k", window=1e6).launch(task(app, "make"), "x")
        await engine.result(run_id)
    copy(folder, tmp_path / "copy")
    fork(folder, None, tmp_path / "fork")

    for name in ("copy", "fork"):
        async with opened(app, FileLog(tmp_path / name)) as engine:
            assert await engine.result(run_id) == "x" * SIZE


def test_equal_data_is_stored_once(tmp_path: Path) -> None:
    """And what is stored can be read by another process, and again after it is forgotten."""
    blobs = FileBlobs(SystemFiles(), str(tmp_path))
    first, second = blobs.put(b"x" * 9), blobs.put(b"x" * 9)
    assert first == second
    assert len(list(tmp_path.glob("blobs/*/*"))) == 1
    assert FileBlobs(SystemFiles(), str(tmp_path)).get(first) == b"x" * 9
    large = bytes(KEPT_BYTES + 1)
    assert blobs.get(blobs.put(large)) == large


def test_what_is_kept_in_memory_is_bounded(tmp_path: Path) -> None:
    """What was written last is at hand, and no more than that."""
    blobs = FileBlobs(SystemFiles(), str(tmp_path))
    digests = [blobs.put(bytes([n]) * (KEPT_BYTES // 3)) for n in range(5)]
    for path in tmp_path.glob("blobs/*/*"):
        path.unlink()
    assert [digest in blobs._kept for digest in digests] == [False, False, True, True, True]
    with pytest.raises(BlobUnusable):
        blobs.get(digests[0])


def test_a_sweep_removes_what_nobody_names(tmp_path: Path) -> None:
    """But not what is just being stored: its record comes after it."""
    blobs = FileBlobs(SystemFiles(), str(tmp_path))
    named, unnamed, coming, again = (blobs.put(letter * 9) for letter in (b"n", b"u", b"c", b"a"))
    for digest in (named, unnamed, again):
        blobs.settle(digest)

    def names() -> set[bytes]:
        blobs.put(b"a" * 9)  # while it is looked for
        return {named}

    assert blobs.sweep(names) == 1
    for digest in (named, coming, again):
        assert FileBlobs(SystemFiles(), str(tmp_path)).get(digest)
    with pytest.raises(BlobUnusable, match="nothing there"):
        blobs.get(unnamed)


def test_a_sweep_spares_what_is_stored_and_named_meanwhile(tmp_path: Path) -> None:
    """Its record may come after the others were looked through; the next sweep sees it."""
    blobs = FileBlobs(SystemFiles(), str(tmp_path))
    again = blobs.put(b"a" * 9)
    blobs.settle(again)

    def names() -> set[bytes]:
        assert blobs.put(b"a" * 9) == again
        blobs.settle(again)
        return set()

    assert blobs.sweep(names) == 0
    assert FileBlobs(SystemFiles(), str(tmp_path)).get(again) == b"a" * 9
    assert blobs.sweep(set) == 1


async def test_retention_removes_results_with_their_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps those that a key, a dead letter or a run still needs, also a redriven one."""
    app, did = making()
    folder, broken = tmp_path / "log", [True]

    @app.task
    async def stumble(run: Run, letter: str) -> str:
        made = await run.call(task(app, "make"), letter)
        if broken:
            raise OSError
        await run.receive("go")
        return str(made[:2])

    @app.rule(on("fill"))
    async def fill(firing: Firing[Any]) -> None: ...

    def make_log() -> FileLog:
        return FileLog(folder, segment_bytes_max=20_000, keep_bytes=1)

    async with opened(app, make_log(), snapshot_every=0) as engine:
        kept = await engine.keyed("k", window=1e6).launch(task(app, "make"), "k")
        await engine.launch(task(app, "make"), "g")
        dead, redriven = [await engine.launch(stumble, letter) for letter in "dr"]
        await engine.drain()
        broken.clear()

        async def age() -> None:
            await engine.emit_many([("fill", "x" * 500) for _ in range(100)])
            await engine.drain()
            await engine.snapshot()

        write = Snapshotter._write

        async def write_and_redrive(self: Snapshotter, *parts: Any) -> None:
            await write(self, *parts)
            await engine.redrive(redriven)  # what is removed then is as of the snapshot

        await age()
        await age()
        assert not engine.log.fetch([dead, redriven])
        monkeypatch.setattr(Snapshotter, "_write", write_and_redrive)
        await age()
        monkeypatch.setattr(Snapshotter, "_write", write)
        assert await engine.result(kept) == "k" * SIZE
    names = {path.name for path in folder.glob("blobs/*/*")}
    assert names == {digest_of(_packed(letter)).hex() for letter in "kdr"}

    did.clear()
    async with opened(app, make_log(), snapshot_every=0) as engine:
        await engine.redrive(dead)
        for run_id, result in ((redriven, "rr"), (dead, "dd")):
            await engine.signal(run_id, "go")
            assert await engine.result(run_id) == result
    assert did == []


class _FullDisk(SystemFiles):
    """A disk without room for blobs."""

    def __init__(self, error: int) -> None:
        self.error = error
        self.refused = 0

    def pwrite(self, fd: int, data: Any, offset_bytes: int) -> int:
        """See `SystemFiles`."""
        error = self.error  # the test may mend it meanwhile
        if error and len(data) == len(_packed("x")):
            self.refused += 1
            raise OSError(error, "the disk of the test")
        return super().pwrite(fd, data, offset_bytes)


async def _refused(disk: _FullDisk, clock: StepClock, engine: Engine, times: int) -> None:
    """Return when *disk* has refused *times* blobs."""
    while disk.refused < times:
        await clock.step(engine, PROBE_S)


async def test_a_full_disk_keeps_only_the_result_waiting(tmp_path: Path) -> None:
    """All else goes on, and once there is room the run ends; its code executed once."""
    app, did = making()
    disk, clock = _FullDisk(errno.ENOSPC), StepClock()

    @app.rule(on("also"))
    async def also(firing: Firing[Any]) -> None:
        did.append("also")

    async with opened(app, FileLog(tmp_path / "log", files=disk), clock) as engine:
        run_id = await engine.launch(task(app, "make"), "x")
        await _refused(disk, clock, engine, 3)
        await engine.emit("also")
        while did[-1] != "also":
            await clock.step(engine, PROBE_S)
        assert engine.state().ready
        disk.error = 0
        while run_id in engine.kernel.state.runs.active:  # a try in a thread may yet be refused
            await clock.step(engine, PROBE_S)
        assert await engine.result(run_id) == "x" * SIZE
        await check_live(engine)
    assert did == ["x", "also"]


async def test_an_engine_stops_while_a_result_waits_for_room(tmp_path: Path) -> None:
    """The run stays open, and is executed again by the next one."""
    app, did = making()
    disk, clock = _FullDisk(errno.ENOSPC), StepClock()
    async with opened(app, FileLog(tmp_path / "log", files=disk), clock) as engine:
        run_id = await engine.launch(task(app, "make"), "x")
        await _refused(disk, clock, engine, 2)
    async with opened(app, FileLog(tmp_path / "log"), clock) as engine:
        assert await engine.result(run_id) == "x" * SIZE
    assert did == ["x", "x"]


async def test_a_failing_disk_ends_the_engine(tmp_path: Path) -> None:
    """As it does for records: nothing is acknowledged that is not there."""
    app, _ = making()
    with pytest.raises(DurabilityLost, match="blobs"):
        async with opened(app, FileLog(tmp_path / "log", files=_FullDisk(errno.EIO))) as engine:
            await engine.result(await engine.launch(task(app, "make"), "x"))
    with LogReader(tmp_path / "log") as reader:
        kinds = [type(decode(raw)) for _, batch in reader.read() for raw in batch]
    assert RunCompleted not in kinds


class _SlowBlobs(FileBlobs):
    """Blobs that are stored, but are not there before the test says so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(SystemFiles(), str(folder))
        self.is_storing = False
        self.go_on = threading.Event()

    def put(self, data: bytes) -> bytes:
        """See `Blobs`."""
        self.is_storing = True
        self.go_on.wait()
        return super().put(data)


async def test_a_result_that_no_record_will_name_is_collected(tmp_path: Path) -> None:
    """The disk was full for others while it was stored, and its run is executed again."""
    app, did = making()
    log, clock, blobs = FullLog(), StepClock(), _SlowBlobs(tmp_path)
    log.blobs = blobs  # type: ignore[assignment]
    async with opened(app, log, clock) as engine:
        run_id = await engine.launch(task(app, "make"), "x")
        try:
            await until(lambda: blobs.is_storing)
            before = engine.kernel
            log.fill()
        finally:
            blobs.go_on.set()
        await until(lambda: engine.kernel is not before)
        await make_room(engine, log, clock)
        assert await engine.result(run_id) == "x" * SIZE
        assert did == ["x", "x"]
        (result,) = [done.blob for done in of_kind(log, RunCompleted)]
        assert result is not None
        assert blobs.sweep(lambda: [result]) == 0
        assert blobs.sweep(list) == 1
