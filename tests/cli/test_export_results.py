"""Large results go into an export of all records, and come back from it."""

from __future__ import annotations

from pathlib import Path

import anyio
from tests.cli.command import Call

from headrace import App, FileLog

SIZE = 3_000_000


async def make(letter: str) -> str:
    """Return more than fits into the log."""
    return letter * SIZE


def app() -> App:
    """Return an app with that task."""
    made = App("t")
    made.task(make)
    return made


def filled(folder: Path) -> int:
    """Make a log with a large result; return its run."""

    async def main() -> int:
        async with app().open(FileLog(folder)) as engine:
            run = await engine.keyed("k", window=1e6).launch(make, "x")
            await engine.result(run)
            return run

    return anyio.run(main)


def result_in(folder: Path, run: int) -> object:
    """Return what a log says that a run came to."""

    async def main() -> object:
        async with app().open(FileLog(folder)) as engine:
            return await engine.result(run)

    return anyio.run(main)


def test_an_export_of_all_has_the_large_results(headrace: Call, tmp_path: Path) -> None:
    """The log that is made of it is the same log once more."""
    run = filled(tmp_path / "a")
    assert headrace("log", "export", "a", "all.jsonl", "--kinds", "all").code == 0
    assert headrace("log", "import", "all.jsonl", "b", "--recorded").code == 0
    assert result_in(tmp_path / "b", run) == "x" * SIZE
    (path,) = (tmp_path / "a").glob("blobs/*/*")
    story = headrace("runs", "show", "a", run)
    assert f"result in blobs/{path.parent.name}/{path.name}" in story.out


def test_a_result_of_another_record_is_refused(headrace: Call, tmp_path: Path) -> None:
    """A line that was changed is found."""
    filled(tmp_path / "a")
    headrace("log", "export", "a", "all.jsonl", "--kinds", "all")
    lines = (tmp_path / "all.jsonl").read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if '"kind":"part"' in line)
    del lines[first]
    (tmp_path / "less.jsonl").write_text("\n".join(lines) + "\n")
    done = headrace("log", "import", "less.jsonl", "b", "--recorded")
    assert (done.code, "another's" in done.last_error) == (1, True)


def test_a_missing_result_does_not_stop_an_export(headrace: Call, tmp_path: Path) -> None:
    """Everything else is worth keeping; it is said which."""
    filled(tmp_path / "a")
    (path,) = (tmp_path / "a").glob("blobs/*/*")
    path.unlink()
    done = headrace("log", "export", "a", "all.jsonl", "--kinds", "all")
    assert (done.code, path.name in done.err) == (6, True)
    assert headrace("log", "import", "all.jsonl", "b", "--recorded").code == 6
    assert headrace("log", "diff", "a", "b").code == 0
