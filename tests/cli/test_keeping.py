"""``log hold``, ``log compact``, and what `events tail` sees of them."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from tests.cli.command import Call, MadeOnce, Start
from tests.cli.test_errors import one_line

from headrace import App, FileLog, Run, on
from headrace.engine.decider import NoRules
from headrace.engine.kernel import Kernel
from headrace.engine.log import LogReader
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.lease import Lease
from headrace.engine.log.snapshots import FileSnapshots
from headrace.engine.log.verify import verify
from headrace.engine.record import decode
from headrace.engine.snapshot import Snapshot

EVENTS = 200


async def _fill(path: Path) -> None:
    async with App("plant").open(FileLog(path, segment_bytes_max=1000)) as engine:
        for number in range(EVENTS):
            await engine.emit("plant.level", {"metres": number})


@pytest.fixture
def long_log(tmp_path: Path, made_once: MadeOnce) -> Path:
    """A closed log of many segments, without a snapshot."""

    def fill(path: Path) -> None:
        anyio.run(_fill, path)

    return made_once(tmp_path / "long.log", fill)


def add_snapshot(path: Path, sequence: int, *, oldest_sequence: int | None = None) -> None:
    kernel = Kernel(NoRules())
    with LogReader(path) as reader:
        record = reader.fetch([sequence])[sequence]
        for first, batch in reader.read():
            for number, raw in enumerate(batch[: max(0, sequence + 1 - first)], first):
                kernel.fold(number, decode(raw))
    file = FileSnapshots(SystemFiles(), str(path)).begin(sequence)
    file.write(list(Snapshot(kernel).parts()))
    file.finish(oldest_sequence=oldest_sequence or sequence + 1, record=record)


def test_nothing_goes_without_a_snapshot(headrace: Call, long_log: Path) -> None:
    """A log that could not be started from any more is not shortened, and it says how to help."""
    done = headrace("log", "compact", long_log)
    assert done.code == 1
    assert one_line(done) == (
        f"{long_log}: expected a snapshot, without which no record can be spared, found none; "
        "`headrace log snapshot` makes one"
    )
    add_snapshot(long_log, 150)
    path = next(long_log.glob("*.hrs"))
    path.write_bytes(path.read_bytes().replace(b"HRS", b"HRX"))
    assert "found" in one_line(headrace("log", "compact", long_log))
    assert verify(long_log).records > EVENTS


def test_compact_says_what_went_and_what_keeps_the_rest(headrace: Call, long_log: Path) -> None:
    """What goes is said before and after, in every form, with the reason why no more does."""
    add_snapshot(long_log, 150, oldest_sequence=120)
    before = verify(long_log)
    dry = headrace("log", "compact", long_log, "--dry-run", "-o", "json").json
    assert verify(long_log).records == before.records
    done = headrace("log", "compact", long_log, "-o", "json").json
    assert done == {**dry, "dry_run": False, "large_results": 0}
    assert 1 < done["first_sequence"] <= 120
    assert done["kept_by"] == [{"sequence": 120, "reason": "snapshot at 150"}]
    after = verify(long_log)
    assert (after.ok, after.first_sequence) == (True, done["first_sequence"])
    assert before.records - after.records == done["records"]
    again = headrace("log", "compact", long_log)
    assert again.out.splitlines() == [
        "0 segments removed, with 0 records in 0 bytes",
        f"first record  {done['first_sequence']}",
        "kept from 120 on by snapshot at 150",
    ]


def test_what_an_open_run_waits_for_stays(headrace: Call, tmp_path: Path) -> None:
    """Also if it looks back to before the newest snapshot, and began to wait after that."""
    app, path = App("t"), tmp_path / "waits.log"

    @app.task
    async def start(run: Run, since: int) -> int:
        return (await run.wait(on("up", int), since=since)).events[0].data

    def log() -> FileLog:
        return FileLog(path, segment_bytes_max=1)

    async def first() -> tuple[int, int]:
        async with app.open(log(), snapshot_every=0, grace_s=0) as engine:
            since = [await engine.emit("n", n) for n in range(10)][4]
            for _ in range(2):
                await engine.emit("n")
                await engine.snapshot()
            run_id = await engine.launch(start, since)
            while not engine.kernel.state.runs.active[run_id].steps:
                await anyio.lowlevel.checkpoint()
        return since, run_id

    async def then(run_id: int) -> int:
        async with app.open(log(), snapshot_every=0, grace_s=0) as engine:
            await engine.emit("up", 42)
            with anyio.fail_after(20):
                found: int = await engine.result(run_id)
        return found

    since, run_id = anyio.run(first)
    dry = headrace("log", "compact", path, "--dry-run", "-o", "json").json
    done = headrace("log", "compact", path, "-o", "json").json
    assert done["first_sequence"] == dry["first_sequence"] == since
    assert {"sequence": since, "reason": "runs that are open"} in done["kept_by"]
    assert anyio.run(then, run_id) == 42


def test_limits_of_compact(headrace: Call, long_log: Path) -> None:
    """Bytes, seconds of log time, a sequence or a time keep more than a snapshot does."""
    add_snapshot(long_log, 190)

    def first(*arguments: object) -> int:
        dry = headrace("log", "compact", long_log, "--dry-run", "-o", "json", *arguments)
        assert dry.code == 0, dry.err
        found: int = dry.json["first_sequence"]
        return found

    most = first()
    assert 1 < first("--before", 60) <= 60 < most
    assert 1 < first("--keep-bytes", 6000) < most
    assert first("--keep-s", 3600) == first("--before=-1h") == 1
    assert first("--before", "2100-01-01T00:00:00Z") == most
    assert first("--keep-s", 0) == most
    usage = headrace("log", "compact", long_log, "--before", "soon")
    assert usage.code == 2
    assert "--before 'soon': expected a sequence, a time such as" in one_line(usage)
    assert headrace("log", "compact", long_log, "--keep-bytes=-1").code == 2
    assert headrace("log", "compact", long_log, "--keep-s=inf").code == 2


def test_holds_and_leases_are_shown(headrace: Call, long_log: Path) -> None:
    """Why a log does not get shorter can be read from `log info` and from `log compact`."""
    add_snapshot(long_log, 190)
    assert headrace("log", "hold", long_log, "audit", "--at", 90).out == (
        "hold 'audit' keeps the records from 90 on\n"
    )
    with Lease(SystemFiles(), str(long_log), 50):
        info = headrace("log", "info", long_log, "-o", "json").json
        done = headrace("log", "compact", long_log, "-o", "json").json
    assert info["holds"] == {"audit": 90}
    (lease,) = info["leases"]
    assert lease["sequence"] == 50
    assert 1 < done["first_sequence"] <= 50
    assert done["kept_by"][0] == {"sequence": 50, "reason": f"lease of pid {lease['pid']}"}
    assert "\nholds " in headrace("log", "info", long_log).out
    second = headrace("log", "compact", long_log, "-o", "json").json
    assert second["kept_by"] == [{"sequence": 90, "reason": "hold 'audit'"}]
    released = headrace("log", "hold", long_log, "audit", "--release")
    assert (released.code, released.out) == (0, "hold 'audit' released\n")
    assert headrace("log", "compact", long_log, "-o", "json").json["segments"] > 0
    info_text = headrace("log", "info", long_log).out
    assert "\nholds " not in info_text
    assert "\nleases " not in info_text


def test_holds_that_cannot_be(headrace: Call, long_log: Path) -> None:
    """What is gone cannot be held, what was never held not be released."""
    add_snapshot(long_log, 190)
    first = headrace("log", "compact", long_log, "-o", "json").json["first_sequence"]
    late = headrace("log", "hold", long_log, "audit", "--at", 2)
    assert late.code == 4
    assert f"has removed everything before record {first}" in one_line(late)
    nothing = headrace("log", "hold", long_log, "audit", "--release")
    assert nothing.code == 4
    assert "expected a hold 'audit', found none" in one_line(nothing)
    for arguments in ([], ["--at", 500, "--release"]):
        both = headrace("log", "hold", long_log, "audit", *arguments)
        assert both.code == 2
        assert "expected either --at SEQUENCE or --release" in one_line(both)
    for beyond in (0, 2**64):
        assert headrace("log", "hold", long_log, "audit", "--at", beyond).code == 2


def test_hold_while_an_engine_runs(headrace: Call, tmp_path: Path) -> None:
    """A legal hold does not have to wait for the engine's end; what is removed is the engine's."""
    path = tmp_path / "log"

    async def live() -> None:
        log = FileLog(path, segment_bytes_max=1000, keep_bytes=0)
        async with App("plant").open(log) as engine:
            for number in range(50):
                await engine.emit("plant.level", {"metres": number})
            held = await anyio.to_thread.run_sync(
                headrace, "log", "hold", path, "audit", "--at", "20"
            )
            assert (held.code, held.err) == (0, "")
            add_snapshot(path, 40)
            assert log.retain(1000).first_sequence <= 20
            late = await anyio.to_thread.run_sync(headrace, "log", "hold", path, "b", "--at", "1")
            assert "has removed everything before record" in one_line(late)
            locked = await anyio.to_thread.run_sync(headrace, "log", "compact", path)
            assert "found the log held by pid" in one_line(locked)
            dry = await anyio.to_thread.run_sync(headrace, "log", "compact", path, "--dry-run")
            assert "would be removed" in dry.out
            released = await anyio.to_thread.run_sync(
                headrace, "log", "hold", path, "audit", "--release"
            )
            assert released.code == 0
            again = await anyio.to_thread.run_sync(
                headrace, "log", "hold", path, "audit", "--release"
            )
            assert again.code == 4
            assert log.retain(1000).first_sequence > 20

    anyio.run(live)


def test_cat_and_tail_of_what_is_gone(headrace: Call, long_log: Path) -> None:
    """Nothing is passed over in silence; what is there is printed as before."""
    add_snapshot(long_log, 190, oldest_sequence=100)
    first = headrace("log", "compact", long_log, "-o", "json").json["first_sequence"]
    for command in (["log", "cat"], ["events", "tail"]):
        gone = headrace(*command, long_log, "--after", 5)
        assert gone.code == 4
        assert "expected record 6, found that retention has removed" in one_line(gone)
        kept = headrace(*command, long_log, "--after", first - 1, "-o", "jsonl").jsonl
        assert kept[0]["sequence"] == first
    assert headrace("log", "cat", long_log, "-o", "jsonl").jsonl[0]["sequence"] == first
    assert len(headrace("events", "tail", long_log, "-n", 1000, "-o", "jsonl").jsonl) > 50
    assert headrace("log", "verify", long_log).code == 0
    assert headrace("log", "info", long_log, "-o", "json").json["first_recorded_at"]


def test_tail_after_a_sequence(headrace: Call, long_log: Path) -> None:
    """All events behind it are printed, not only the last ones."""
    found = headrace("events", "tail", long_log, "--after", 100, "-o", "jsonl").jsonl
    assert [row["sequence"] for row in found] == list(range(101, found[-1]["sequence"] + 1))
    assert found[-1]["data"] == {"metres": EVENTS - 1}


@pytest.mark.slow
def test_tail_follows_over_rotation_and_removal(start: Start, tmp_path: Path) -> None:
    """With a lease, a tail that is slower than the writer loses nothing."""
    path = tmp_path / "log"

    async def live() -> None:
        log = FileLog(path, segment_bytes_max=1000, keep_bytes=0)
        async with App("plant").open(log) as engine:
            await engine.emit("plant.level", {"metres": 0})
            tail = start("events", "tail", path, "--after", 0, "-f", "-o", "jsonl")
            assert tail.stdout is not None
            assert json.loads(tail.stdout.readline())["data"] == {"metres": 0}
            for number in range(1, 100):
                await engine.emit("plant.level", {"metres": number})
                if number % 20 == 0:
                    log.retain(1000)
            rows = [json.loads(tail.stdout.readline()) for _ in range(99)]
            assert [row["data"]["metres"] for row in rows] == list(range(1, 100))
            tail.kill()
            tail.wait()
            await engine.emit("plant.level", {"metres": 100})
            assert log.retain(1000).first_sequence > 1

    anyio.run(live)
