"""Large results, in files of their own, and the commands that work on a whole log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.cli.command import Call, MadeOnce

from headrace import App, FileLog, Firing, Retry, Run, on
from headrace.engine.log.blobs import digest_of
from headrace.engine.log.files import SystemFiles
from headrace.engine.log.lock import Lock

SIZE = 100_000


def making() -> App:
    """Return an app with a task that makes a lot, one that fails after it, and one that fills."""
    app = App("t")

    @app.task
    async def make(letter: str) -> str:
        return letter * SIZE

    @app.task(retry=Retry(attempts=1))
    async def fail_after(run: Run, letter: str) -> None:
        await run.call(make, letter)
        raise LookupError("nobody wants it")

    @app.rule(on("fill"))
    async def fill(firing: Firing[Any]) -> None: ...

    return app


def filled(folder: Path, *, fill: int = 0, **options: Any) -> list[int]:
    """Make a log: runs with the results a, b (under a key) and c (before it dies); return them."""

    async def main() -> list[int]:
        app = making()
        make, fail_after = (app.tasks[name].function for name in ("make", "fail_after"))
        async with app.open(FileLog(folder, **options), snapshot_every=0) as engine:
            plain = await engine.launch(make, "a")
            keyed = await engine.keyed("k", window=1e6).launch(make, "b")
            dead = await engine.launch(fail_after, "c")
            await engine.drain()
            for _ in range(fill):
                await engine.emit_many([("fill", "x" * 500) for _ in range(100)])
                await engine.drain()
                await engine.snapshot()
            return [plain, keyed, dead]

    return anyio.run(main)


def file_of(folder: Path, letter: str) -> Path:
    """Return the file of the result of this letter."""
    digest = digest_of(msgspec.msgpack.encode(letter * SIZE)).hex()
    return folder / "blobs" / digest[:2] / digest


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"!")


def result_in(folder: Path, run: int) -> object:
    """Return what an engine says that a run came to."""

    async def main() -> object:
        async with making().open(FileLog(folder)) as engine:
            return await engine.result(run)

    return anyio.run(main)


@pytest.fixture
def log(headrace: Call, tmp_path: Path, made_once: MadeOnce) -> Path:
    """A log with three large results."""
    return made_once(tmp_path / "log", filled)


@pytest.fixture
def old(headrace: Call, tmp_path: Path) -> Path:
    """The same after retention has removed the records that name them: the state needs two."""
    filled(tmp_path / "old", fill=3, segment_bytes_max=20_000, keep_bytes=1)
    assert not file_of(tmp_path / "old", "a").exists()
    return tmp_path / "old"


# verify


def test_verify_counts_large_results(headrace: Call, log: Path) -> None:
    """They are a part of what is intact."""
    done = headrace("log", "verify", log, "-o", "json")
    assert (done.code, done.json["results"], done.json["unnamed_results"]) == (0, 3, 0)
    assert f"large results  3 in {3 * (SIZE + 5)} bytes\n" in headrace("log", "verify", log).out


def test_verify_names_what_is_missing_or_damaged(headrace: Call, log: Path) -> None:
    """File, record and run of each; the exit code is that of damage."""
    file_of(log, "a").unlink()
    damage(file_of(log, "c"))
    done, text = headrace("log", "verify", log, "-o", "json"), headrace("log", "verify", log)

    assert (done.code, text.code, done.json["ok"]) == (6, 6, False)
    ends = headrace("log", "cat", log, "--kind", "run.completed", "-o", "jsonl").jsonl
    named = {row["run"]: row["sequence"] for row in ends if row.get("blob")}
    errors = done.json["errors"]
    assert {error["run"]: error["sequence"] for error in errors}.items() <= named.items()
    assert [error["file"] for error in errors] == [str(file_of(log, letter)) for letter in "ac"]
    assert "verdict        damaged in 2 places" in text.out
    name = file_of(log, "a").relative_to(log)
    first = errors[0]
    assert (
        f"{name} byte 0, from record {first['sequence']}: expected the result of run "
        f"{first['run']}, found nothing there\n"
    ) in text.out
    assert f"{SIZE + 5} bytes with another digest" in text.out


def test_verify_of_a_log_whose_results_were_left_behind(
    headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not print a million lines, and says how many it did not."""
    from headrace.engine.log import verify

    monkeypatch.setattr(verify, "LISTED_MAX", 1)
    for letter in "abc":
        file_of(log, letter).unlink()
    text = headrace("log", "verify", log)
    assert (text.code, text.out.count("nothing there")) == (6, 1)
    assert "damaged in 3 places" in text.out
    assert "and 2 more records whose large results are lost" in text.out


def test_verify_notes_what_nobody_names(headrace: Call, log: Path) -> None:
    """What a crash left is no damage."""
    stray = log / "blobs" / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    done = headrace("log", "verify", log)
    assert (done.code, "verdict        intact" in done.out) == (0, True)
    assert "Large results that no record names: 1. That is no damage" in done.out


def test_verify_looks_for_what_only_the_state_needs(headrace: Call, old: Path) -> None:
    """The records that named them are gone; a key and a dead letter still want them."""
    done = headrace("log", "verify", old, "-o", "json")
    assert (done.code, done.json["results"], done.json["unnamed_results"]) == (0, 2, 0)
    file_of(old, "c").unlink()
    text = headrace("log", "verify", old)
    assert text.code == 6
    name = file_of(old, "c").relative_to(old)
    assert f"{name} byte 0: expected a result that the state refers to, found nothing" in text.out


# salvage


def test_salvage_carries_large_results(headrace: Call, tmp_path: Path) -> None:
    """The new log is whole: who asks for a result gets it."""
    run = filled(tmp_path / "other")[1]
    done = headrace("log", "salvage", "other", "new", "-o", "json")
    assert (done.code, done.json["large_results"], done.json["lost_results"]) == (0, 3, [])
    assert headrace("log", "verify", "new").code == 0
    assert "large results copied: 3\n" in headrace("log", "salvage", "other", "another").out
    assert result_in(tmp_path / "new", run) == "b" * SIZE


def test_salvage_names_large_results_that_are_lost(headrace: Call, log: Path) -> None:
    """By run and record, and then it is not complete."""
    file_of(log, "a").unlink()
    damage(file_of(log, "b"))
    done = headrace("log", "salvage", log, "new", "-o", "json")
    text = headrace("log", "salvage", log, "again")

    assert (done.code, text.code, done.json["complete"]) == (6, 6, False)
    assert (done.json["gaps"], done.json["startable"]) == ([], True)
    assert done.json["large_results"] == 1
    reasons = [lost["reason"] for lost in done.json["lost_results"]]
    assert [reason.partition(":")[0] for reason in reasons] == [
        str(file_of(log, letter)) for letter in "ab"
    ]
    first = done.json["lost_results"][0]
    whose = f"run {first['run']} (record {first['sequence']})"
    assert f"missing: the result of {whose}: {reasons[0]}\n" in text.out
    assert not file_of(Path("new"), "b").exists()
    assert headrace("log", "verify", "new").code == 6


@pytest.mark.slow
def test_salvage_carries_what_only_the_state_needs(headrace: Call, old: Path) -> None:
    """Nobody names it in the records, and it is wanted."""
    assert headrace("log", "salvage", old, "new").code == 0
    assert headrace("log", "verify", "new", "-o", "json").json["results"] == 2
    damage(file_of(old, "b"))
    done = headrace("log", "salvage", old, "less")
    assert done.code == 6
    assert f"missing: the result of an unknown run: {file_of(old, 'b')}: expected" in done.out


# copy, fork, info, cat


def test_copies_and_forks_count_them(headrace: Call, log: Path) -> None:
    """A copy that lacks them would be none."""
    for command in ("copy", "fork"):
        done = headrace("log", command, log, command, "-o", "json")
        assert (done.code, done.json["large_results"]) == (0, 3)
        assert headrace("log", "verify", command).code == 0
        text = headrace("log", command, log, f"{command}2").out
        assert [line.split() for line in text.splitlines() if "large" in line] == [
            ["large", "results", "3"]
        ]


def test_copy_of_a_damaged_result_is_refused(headrace: Call, log: Path) -> None:
    """As one of a damaged segment is; salvage is the way out."""
    damage(file_of(log, "b"))
    done = headrace("log", "copy", log, "new")
    assert done.code == 6
    assert f"{file_of(log, 'b')}: expected a result" in done.last_error
    assert f"`headrace log salvage {log} NEW`" in done.last_error
    assert not Path("new").exists()


def test_info_counts_them(headrace: Call, log: Path) -> None:
    """They take room that the log's own files do not show."""
    found = headrace("log", "info", log, "-o", "json").json
    assert found["large_results"] == {"count": 3, "size_bytes": 3 * (SIZE + 5)}
    assert found["size_bytes"] < SIZE
    assert f"large results      3 in {3 * (SIZE + 5)} bytes\n" in headrace("log", "info", log).out


def test_cat_names_their_files(headrace: Call, log: Path) -> None:
    """As they are called on the disk."""
    rows = headrace("log", "cat", log, "--kind", "run.completed", "-o", "jsonl").jsonl
    named = [row["blob"] for row in rows if "blob" in row]
    assert named == [file_of(log, letter).name for letter in "abc"]


# export and import


def test_an_export_without_a_result_says_so(headrace: Call, log: Path) -> None:
    """Everything else is worth keeping; nobody takes it, or what is made of it, for whole."""
    file_of(log, "b").unlink()
    done = headrace("log", "export", log, "all.jsonl", "--kinds", "all")
    assert (done.code, file_of(log, "b").name in done.err) == (6, True)
    assert headrace("log", "export", log, "events.jsonl").code == 0
    made = headrace("log", "import", "all.jsonl", "new", "--recorded", "-o", "json")
    assert (made.code, made.json["results_missing"]) == (6, 1)
    assert "without its result: the export has none" in made.err
    assert headrace("log", "diff", log, "new").code == 0
    errors = headrace("log", "verify", "new", "-o", "json").json["errors"]
    assert [Path(error["file"]).name for error in errors] == [file_of(log, "b").name]


def test_an_import_that_finds_no_room_says_so(
    headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the file that did not fit."""
    headrace("log", "export", log, "all.jsonl", "--kinds", "all")
    pwrite = SystemFiles.pwrite

    def full(files: SystemFiles, fd: int, data: Any, offset_bytes: int) -> int:
        if len(data) > SIZE:
            raise OSError(28, "No space left on device")
        return pwrite(files, fd, data, offset_bytes)

    monkeypatch.setattr(SystemFiles, "pwrite", full)
    done = headrace("log", "import", "all.jsonl", "new", "--recorded")
    assert done.code == 1
    assert f"{file_of(Path.cwd() / 'new', 'a')}: expected room" in done.last_error


# compact


def compactable(folder: Path) -> None:
    """Make a log of many segments and two snapshots that nobody has shortened."""
    filled(folder, fill=3, segment_bytes_max=20_000)


def test_compact_removes_large_results_with_their_records(headrace: Call, tmp_path: Path) -> None:
    """But for what a key or a dead letter still needs."""
    compactable(tmp_path / "log")
    leftover = file_of(tmp_path / "log", "a").with_suffix(".tmp")
    leftover.write_bytes(b"half")
    assert headrace("log", "compact", "log", "--dry-run").code == 0
    assert file_of(tmp_path / "log", "a").exists()
    done = headrace("log", "compact", "log")
    assert done.code == 0, done.err
    assert "1 large results removed, which nothing needs any more\n" in done.out
    assert [file_of(tmp_path / "log", letter).exists() for letter in "abc"] == [False, True, True]
    assert not leftover.exists()
    assert headrace("log", "verify", "log", "-o", "json").json["results"] == 2


def test_compact_leaves_results_of_which_it_knows_nothing(
    headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that came in between may be about to name them."""
    from headrace.cli import log_results

    compactable(tmp_path / "log")
    remove = log_results.remove_unneeded

    def locked(log: Path) -> int | None:
        lock = Lock(SystemFiles(), str(log))
        try:
            return remove(log)
        finally:
            lock.release()

    monkeypatch.setattr(log_results, "remove_unneeded", locked)
    done = headrace("log", "compact", tmp_path / "log", "-o", "json")
    assert (done.code, done.json["large_results"]) == (0, None)
    assert done.json["segments"] > 0
    assert "the large results of what was removed are still there: " in done.err
    assert file_of(tmp_path / "log", "a").exists()
