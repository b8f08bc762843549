"""Snapshots from the command line, and the commands on a log whose beginning is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.cli.command import Call

from headrace import App, Engine, FileLog, on
from headrace.engine.log import LogReader

APP = """
from headrace import App, on

app = App("counts")

@app.rule(on("n", int).key(lambda e: e.data % 5).count(4, within=1e6))
async def four() -> None: ...
"""
CHANGED = APP.replace("count(4", "count(3")


@pytest.fixture
def old(headrace: Call, tmp_path: Path) -> Path:
    """The log of an engine that has worked for long: its first segments are gone."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "changed.py").write_text(CHANGED)
    namespace: dict[str, App] = {}
    exec(compile(APP, str(tmp_path / "app.py"), "exec"), namespace)
    app = namespace["app"]

    async def work() -> None:
        log = FileLog(tmp_path / "old", segment_bytes_max=2000, keep_bytes=0)
        async with app.open(log, snapshot_every=0) as engine:
            for _ in range(4):
                await engine.emit_many([("n", number) for number in range(200)])
                await engine.drain()
                await engine.snapshot()
            await engine.emit_many([("n", number) for number in range(6)])

    anyio.run(work)
    with LogReader(tmp_path / "old") as reader:
        assert reader.first_sequence > 500
        assert reader.manifest.segments[0].base == reader.first_sequence
    return tmp_path / "old"


def test_log_without_its_beginning_is_as_good_as_a_whole_one(headrace: Call, old: Path) -> None:
    """State, runs and replay begin at a snapshot; the engine goes on; nothing differs."""
    state = headrace("state", "app.py", old, "-o", "json")
    assert state.code == 0, state.err
    assert state.json["events"] == 806
    (rule,) = state.json["rules"]
    assert (rule["fired"], rule["keys"]) == (200, 5)

    replayed = headrace("replay", "app.py", old, "-o", "json")
    assert replayed.code == 0, replayed.err
    assert replayed.json["from_snapshot"] > 500
    assert replayed.json["changed"] == []
    assert "begins at the snapshot at" in headrace("replay", "app.py", old).out

    changed = headrace("replay", "changed.py", old, "--strict", "-o", "json")
    assert changed.code == 3
    assert [row["rule"] for row in changed.json["changed"]] == ["four"]

    runs = headrace("runs", "list", old, "-o", "jsonl")
    assert runs.code == 0, runs.err
    assert len(runs.jsonl) > 0
    assert headrace("log", "verify", old).code == 0

    Path("more.jsonl").write_text("")
    again = headrace("run", "app.py", "--log", old, "--from", "more.jsonl")
    assert again.code == 0, again.err


def test_log_whose_snapshots_are_damaged_says_so(headrace: Call, old: Path) -> None:
    """The records that its state follows from are gone, and the message says all of that."""
    for path in old.glob("snap-*.hrs"):
        path.write_bytes(path.read_bytes()[:-1])
    for command in (["state", "app.py", old], ["replay", "app.py", old], ["runs", "list", old]):
        done = headrace(*command)
        assert done.code == 6
        assert "missing" in done.last_error
        assert ".hrs" in done.last_error
    done = headrace("run", "app.py", "--log", old)
    assert done.code == 1
    assert "a snapshot of what is gone" in done.last_error
    assert headrace("log", "cat", old).code == 0


def test_snapshot_of_a_log_that_nobody_runs_takes_the_app(headrace: Call, old: Path) -> None:
    """Without it there would be no rules' state in it."""
    refused = headrace("log", "snapshot", old)
    assert refused.code == 2
    assert "--app" in refused.last_error

    made = headrace("log", "snapshot", old, "--app", "app.py", "-o", "json")
    assert made.code == 0, made.err
    with LogReader(old) as reader:
        assert made.json == {"log": str(old), "sequence": reader.refresh(), "online": False}
        assert reader.snapshots.sequences()[0] == made.json["sequence"]
    state = headrace("state", "app.py", old, "-o", "json").json
    assert (state["events"], state["rules"][0]["keys"]) == (806, 5)


def test_snapshot_with_other_rules_is_refused(headrace: Call, old: Path) -> None:
    """It would lack their state, and two of them would leave the log without a beginning."""
    before = sorted(path.name for path in old.glob("snap-*.hrs"))
    for _ in range(2):
        done = headrace("log", "snapshot", old, "--app", "changed.py")
        assert done.code == 1
        assert "'four' changed" in done.last_error
        assert headrace("emit", old, "n", "1").code == 0
    assert sorted(path.name for path in old.glob("snap-*.hrs")) == before
    assert headrace("state", "app.py", old).code == 0


def test_snapshot_of_a_running_engine(headrace: Call, tmp_path: Path) -> None:
    """The engine writes it, beside its work."""
    app = App("x")
    app.rule(on("n"), name="each")(lambda: None)

    async def work() -> None:
        async with app.open(tmp_path / "live") as engine:
            await engine.emit("n", 1)
            await engine.drain()
            made = await anyio.to_thread.run_sync(
                lambda: headrace("log", "snapshot", tmp_path / "live", "-o", "json")
            )
            assert made.code == 0, made.err
            assert made.json["online"] is True
            assert engine.log.snapshots.sequences() == [made.json["sequence"]]

    anyio.run(work)


def test_snapshot_of_nothing_is_refused(headrace: Call, tmp_path: Path) -> None:
    """Neither a path without a log nor an empty log has a state."""
    assert headrace("log", "snapshot", tmp_path / "nowhere").code == 4
    (tmp_path / "app.py").write_text(APP)
    log = FileLog(tmp_path / "empty")
    log.open(lambda: None)
    log.close()
    done = headrace("log", "snapshot", tmp_path / "empty", "--app", "app.py")
    assert done.code == 2
    assert "found none" in done.last_error


def test_run_keeps_as_much_as_it_is_told(
    headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options reach the log, whose MANIFEST says how it was opened, and the engine."""
    seen: list[int] = []
    app_open = App.open

    def watched(self: App, *arguments: Any, **options: Any) -> Engine:
        seen.append(options["snapshot_every"])
        return app_open(self, *arguments, **options)

    monkeypatch.setattr(App, "open", watched)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "n.jsonl").write_text('{"subject": "n", "data": 1}\n' * 300)
    options = ["--keep-bytes", 5_000_000, "--keep-s", 60, "--compress", "--snapshot-every", 100]
    done = headrace("run", "app.py", "--log", "kept", "--from", "n.jsonl", *options)
    assert done.code == 0, done.err
    with LogReader(tmp_path / "kept") as reader:
        assert reader.manifest.config["keep_bytes"] == 5_000_000
        assert reader.manifest.config["keep_s"] == 60
    assert seen == [100]
    refused = headrace("run", "app.py", "--log", "kept", "--keep-bytes", -1)
    assert refused.code == 2
