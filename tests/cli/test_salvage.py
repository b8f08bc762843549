"""Salvage of a log that an engine worked with for long: it can be started again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import anyio
import pytest
from tests.cli.command import Call

from headrace import App, FileLog
from headrace.cli import log_export
from headrace.engine.log import LogReader

APP = """
from headrace import App, on

app = App("counts")

@app.rule(on("n", int).key(lambda e: e.data % 5).count(4, within=None))
async def four() -> None: ...
"""


def written(path: Path, *, keep_bytes: int | None) -> Path:
    """A log of several segments with two snapshots, and a few events after them."""
    (path.parent / "app.py").write_text(APP)
    Path("none.jsonl").write_text("")
    namespace: dict[str, App] = {}
    exec(compile(APP, str(path.parent / "app.py"), "exec"), namespace)
    app = namespace["app"]

    async def work() -> None:
        log = FileLog(path, segment_bytes_max=2000, keep_bytes=keep_bytes)
        async with app.open(log, snapshot_every=0) as engine:
            for _ in range(4):
                await engine.emit_many([("n", number) for number in range(200)])
                await engine.drain()
                await engine.snapshot()
            await engine.emit_many([("n", number) for number in range(6)])

    anyio.run(work)
    return path


@pytest.fixture
def old(headrace: Call, tmp_path: Path) -> Path:
    """A log whose first segments were removed by retention."""
    return written(tmp_path / "old", keep_bytes=0)


def flip(path: Path, *, at: int) -> None:
    """Damage one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def segment_of(log: Path, sequence: int) -> Path:
    """The segment that holds the record *sequence*."""
    return max(path for path in log.glob("*.hrl") if int(path.stem) <= sequence)


def snapshots_of(log: Path) -> list[int]:
    """The sequences of the snapshots, oldest first."""
    return sorted(int(path.stem.removeprefix("snap-")) for path in log.glob("snap-*.hrs"))


@pytest.mark.slow
def test_salvaged_log_without_its_beginning_can_be_started(headrace: Call, old: Path) -> None:
    """It begins where the other one did, has its snapshots and holds, and leads to its state."""
    assert headrace("log", "hold", old, "audit", "--at", snapshots_of(old)[0]).code == 0
    before = headrace("state", "app.py", old, "-o", "json").json
    done = headrace("log", "salvage", old, "new", "-o", "json")

    assert done.code == 0, done.err
    assert done.json["snapshots"] == snapshots_of(old) == snapshots_of(Path("new"))
    assert (done.json["startable"], done.json["left_out"]) == (True, [])
    with LogReader(old) as theirs, LogReader("new") as ours:
        assert theirs.first_sequence == ours.first_sequence == done.json["first_sequence"] > 500
        assert ours.manifest.holds == theirs.manifest.holds != {}
        assert next(iter(ours.read()))[0] == ours.first_sequence
    assert headrace("state", "app.py", "new", "-o", "json").json == before
    assert headrace("log", "verify", "new").code == 0
    for command in (["replay", "app.py", "new"], ["runs", "list", "new"]):
        assert headrace(*command).code == 0
    again = headrace("run", "app.py", "--log", "new", "--from", "none.jsonl")
    assert again.code == 0, again.err


def test_salvage_leaves_out_a_snapshot_that_is_damaged(headrace: Call, old: Path) -> None:
    """It says which and why; the other one is enough to start."""
    first, last = snapshots_of(old)
    flip(old / f"snap-{last:020}.hrs", at=40)
    done = headrace("log", "salvage", old, "new")

    assert done.code == 0, done.err
    assert f"snapshots copied: at {first}\n" in done.out
    assert f"snapshot left out: {old}/snap-{last:020}.hrs: expected digest" in done.out
    assert headrace("state", "app.py", "new", "-o", "json").json["events"] == 806


def test_salvaged_log_with_a_loss_before_its_snapshot_can_be_started(
    headrace: Call, tmp_path: Path
) -> None:
    """What a snapshot has folded already is lost to readers, and not to the state."""
    log = written(tmp_path / "whole", keep_bytes=None)
    before = headrace("state", "app.py", log, "-o", "json").json
    flip(segment_of(log, 50), at=200)
    done = headrace("log", "salvage", log, "new", "-o", "json")

    assert done.code == 6
    assert len(done.json["gaps"]) == 1
    assert done.json["startable"] is True
    assert headrace("state", "app.py", "new", "-o", "json").json == before
    again = headrace("run", "app.py", "--log", "new", "--from", "none.jsonl")
    assert again.code == 0, again.err


@pytest.mark.slow
@pytest.mark.parametrize("where", ["middle", "end"])
def test_salvage_says_that_no_engine_can_start(headrace: Call, tmp_path: Path, where: str) -> None:
    """A loss behind the last snapshot is not passed over; a fork from before it is a way out."""
    log = written(tmp_path / "whole", keep_bytes=None)
    with LogReader(log) as reader:
        last = reader.refresh()
    if where == "middle":
        flip(segment_of(log, last - 3), at=100)
        for path in log.glob("snap-*.hrs"):
            path.unlink()
    else:
        flip(segment_of(log, last), at=-60)
    done = headrace("log", "salvage", log, "new", "-o", "json")

    assert done.code == 6
    assert done.json["startable"] is False
    lost = done.json["gaps"][-1]["first"]
    assert lost > 800
    for command in (
        ["run", "app.py", "--log", "new", "--from", "none.jsonl"],
        ["log", "snapshot", "new", "--app", "app.py"],
    ):
        refused = headrace(*command)
        assert refused.code == 1
        assert "the state needs all of them" in refused.last_error
        assert f"log fork --at {lost - 1}" in refused.last_error
    out = headrace("log", "salvage", log, "again").out
    assert f"`headrace log fork again OTHER --at {lost - 1}`" in out
    assert headrace("log", "fork", "new", "other", "--at", lost - 1).code == 0
    started = headrace("run", "app.py", "--log", "other", "--from", "none.jsonl")
    assert started.code == 0, started.err


def test_salvage_finds_the_beginning_without_the_list_of_segments(
    headrace: Call, old: Path
) -> None:
    """Nobody knows then that the first records were removed on purpose; the state is there."""
    before = headrace("state", "app.py", old, "-o", "json").json
    (old / "MANIFEST").unlink()
    done = headrace("log", "salvage", old, "new", "-o", "json")

    assert done.code == 6
    assert [gap["first"] for gap in done.json["gaps"]] == [1]
    assert (done.json["startable"], len(done.json["snapshots"])) == (True, 2)
    assert headrace("state", "app.py", "new", "-o", "json").json == before
    for command in (["replay", "app.py", "new"], ["runs", "list", "new"]):
        assert headrace(*command).code == 0


def test_log_info_shows_snapshots(headrace: Call, old: Path) -> None:
    """Sequence, time, size and age of each, newest first; one that is damaged is named so."""
    first, last = snapshots_of(old)
    rows = headrace("log", "info", old, "-o", "json").json["snapshots"]

    assert [row["sequence"] for row in rows] == [last, first]
    assert all(row["problem"] is None and row["recorded_at"] for row in rows)
    with LogReader(old) as reader:
        assert rows[0]["records_since"] == reader.refresh() - last
    path = old / f"snap-{last:020}.hrs"
    assert rows[0]["size_bytes"] == path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    text = headrace("log", "info", old).out
    assert f"snapshots          at {last} (cannot be used: {path}" in text
    assert f", at {first} (" in text


def test_verify_names_a_snapshot_that_cannot_be_used(headrace: Call, old: Path) -> None:
    """It is no damage to records, and still what the next start would stumble over."""
    assert headrace("log", "verify", old, "-o", "json").json["snapshot_problems"] == []
    path = old / f"snap-{snapshots_of(old)[-1]:020}.hrs"
    flip(path, at=40)
    done = headrace("log", "verify", old)

    assert done.code == 0
    assert "verdict        intact" in done.out
    assert f"A snapshot cannot be used: {path}: expected digest" in done.out


def test_export_passes_over_nothing_that_was_removed(headrace: Call, old: Path) -> None:
    """As every reader: who asks for what is gone is told where the log begins now."""
    done = headrace("log", "export", old, "--after", 1)

    assert done.code == 4
    assert "retention has removed everything before" in done.last_error
    assert headrace("log", "export", old).code == 0


def test_export_that_finds_no_room_names_the_file(
    headrace: Call, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no part of it."""

    def full(_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log_export, "to_json", full)
    done = headrace("log", "export", old, "events.jsonl")

    assert (done.code, done.last_error) == (1, "events.jsonl: No space left on device")
    assert not list(Path().glob("events.jsonl*"))
