"""``headrace log fork``, ``log copy`` and ``log diff``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.cli.command import Call, lines_of
from tests.simulation.session import Session, record

from headrace.engine.log import FileLog


def files_of(folder: Path) -> dict[str, bytes]:
    """What is in a directory, by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def last_of(headrace: Call, log: Path | str) -> int:
    return int(headrace("log", "info", log, "-o", "json").json["last_sequence"])


@pytest.mark.slow
def test_fork_goes_on_where_it_left(headrace: Call, own_log: Path, readings: Path) -> None:
    """The app runs on over the fork, from the place in its input that the fork knows."""
    log = own_log
    before = files_of(log)
    made = headrace("log", "fork", log, "other.log", "--at", 5, "-o", "json").json

    assert (made["sequence"], made["asked"], made["left_out"]) == (5, 5, None)
    assert files_of(log) == before
    arguments = ("--log", "other.log", "--from", readings, "--clock", "input")
    ran = headrace("run", "plant.py", *arguments, "-o", "json").json
    assert ran["this_time"]["lines"] == 2, "three of the five were there"
    assert ran["firings"] == {"cool": 1}
    assert files_of(log) == before
    assert headrace("log", "verify", "other.log").code == 0
    assert headrace("replay", "plant.py", "other.log").code == 0
    info = headrace("log", "info", "other.log", "-o", "json").json
    origin = headrace("log", "info", log, "-o", "json").json
    assert (info["parent_log_id"], info["forked_after"]) == (origin["log_id"], 5)
    assert info["log_id"] != origin["log_id"]
    assert origin["parent_log_id"] is None


def test_fork_ends_before_a_unit_and_says_so(headrace: Call, log: Path) -> None:
    """An event and its firing are never parted; the user learns where the fork really ends."""
    (fired,) = headrace("log", "cat", log, "--kind", "rule.fired", "-o", "jsonl").jsonl
    at = fired["sequence"] - 1
    made = headrace("log", "fork", log, "other.log", "--at", at, "-o", "json").json
    text = headrace("log", "fork", log, "another.log", "--at", at).out

    assert made["sequence"] == at - 1
    assert made["left_out"]["first"] == at
    assert f"the fork ends before them and not at {at}." in text.splitlines()[-1]


@pytest.mark.parametrize(
    ("at", "events"),
    [
        ("2023-11-14T22:13:20Z", 1),
        ("2023-11-14T22:13:39.999999999Z", 2),
        ("2023-11-14T22:13:40Z", 3),
        ("2023-11-14T23:13:40+01:00", 3),
        ("-1d", 6),
    ],
)
def test_fork_at_a_time(headrace: Call, log: Path, at: str, events: int) -> None:
    """People remember when it was, not which sequence it had."""
    done = headrace("log", "fork", log, "other.log", "--at", at)

    assert done.code == 0, done.err
    found = headrace("log", "cat", "other.log", "--kind", "event", "-o", "jsonl").jsonl
    assert len(found) == events


@pytest.mark.parametrize(
    ("at", "code", "error"),
    [
        ("0", 4, "--at 0: expected a sequence from 1 to"),
        ("99999", 4, "--at 99999: expected a sequence from 1 to"),
        ("tuesday", 2, "expected a sequence, a time such as 2026-03-01T08:00:00Z, or so long ago"),
        ("2023-13-14T22:13:20Z", 2, "found none of these"),
        ("-15", 2, "found none of these"),
        ("2001-01-01T00:00:00Z", 4, "its first record is later than 2001-01-01T00:00:00Z"),
    ],
)
def test_places_that_are_not_there(
    headrace: Call, log: Path, at: str, code: int, error: str
) -> None:
    """A wrong place is explained, and nothing is made."""
    done = headrace("log", "fork", log, "other.log", "--at", at)

    assert done.code == code
    assert error in done.last_error
    assert not Path("other.log").exists()


@pytest.mark.slow
def test_copy_is_a_backup(headrace: Call, log: Path) -> None:
    """It holds the same records under the same id, and outlives the original."""
    before = files_of(log)
    made = headrace("log", "copy", log, "backup.log", "-o", "json").json

    assert files_of(log) == before
    assert made["last_sequence"] == last_of(headrace, log)
    assert headrace("log", "diff", log, "backup.log").code == 0
    rows = headrace("log", "cat", log, "-o", "jsonl").out
    shutil.rmtree(log)
    assert headrace("log", "cat", "backup.log", "-o", "jsonl").out == rows
    assert headrace("log", "verify", "backup.log").code == 0
    assert headrace("replay", "plant.py", "backup.log").code == 0


@pytest.mark.parametrize("command", ["fork", "copy"])
def test_paths_that_are_taken_or_empty(headrace: Call, log: Path, command: str) -> None:
    """Nothing is written over, and a path without a log is named."""
    before = files_of(log)
    taken = headrace("log", command, log, log)
    Path("file").write_text("mine")
    file = headrace("log", command, log, "file")
    missing = headrace("log", command, "nowhere", "new.log")

    assert (taken.code, file.code, missing.code) == (1, 1, 4)
    assert "choose another" in taken.last_error
    assert "found something there" in file.last_error
    assert "nowhere: expected an event log" in missing.last_error
    assert files_of(log) == before
    assert Path("file").read_text() == "mine"
    assert not Path("new.log").exists()


def test_damaged_log_makes_neither(headrace: Call, log: Path) -> None:
    """A backup of a damaged log would hide the damage until it is needed."""
    segment = log / "00000000000000000001.hrl"
    data = bytearray(segment.read_bytes())
    data[300] ^= 1
    segment.write_bytes(data)
    for command in ("fork", "copy"):
        done = headrace("log", command, log, "new.log")
        assert done.code == 6
        assert f"{segment} byte" in done.last_error
        assert not Path("new.log").exists()


def test_half_a_copy_says_what_it_is(headrace: Call, log: Path) -> None:
    """Whoever finds it learns what to do, and doing so works."""
    headrace("log", "copy", log, "new.log")
    Path("new.log/MANIFEST").unlink()
    Path("new.log/UNFINISHED.tmp").touch()
    for command in (["log", "info"], ["log", "verify"], ["run", "plant.py", "--log"]):
        done = headrace(*command, "new.log")
        assert done.code == 1
        assert "a fork or a copy that was cut short; make it again" in done.last_error
    assert headrace("log", "copy", log, "new.log").code == 0
    assert headrace("log", "diff", log, "new.log").code == 0


def test_fork_that_cannot_be_run_is_announced(headrace: Call, plant: Path, tmp_path: Path) -> None:
    """Where the beginning is gone and no snapshot stands for it, the user is told at once."""
    session = Session(FileLog(tmp_path / "long.log", segment_bytes_max=500, keep_bytes=0))
    for number in range(1, 60):
        session.put([record(number)])
    first = session.log.retain(40).first_sequence if isinstance(session.log, FileLog) else 0
    session.log.close()
    done = headrace("log", "fork", "long.log", "other.log", "--at", 50)

    assert (done.code, first > 1) == (0, True)
    assert done.out.splitlines()[-1].endswith("it can be read, and not be run.")
    ran = headrace("run", "plant.py", "--log", "other.log", "--from", plant, "--clock", "input")
    assert ran.code != 0
    assert "can be read with" in ran.last_error


def test_diff_shows_both_sides(headrace: Call, log: Path, tmp_path: Path) -> None:
    """Field by field, what the first record says that is not the same; and how many follow."""
    headrace("log", "fork", log, "other.log", "--at", 5)
    more = tmp_path / "more.jsonl"
    more.write_text(lines_of([42.0], every_s=0))
    headrace("run", "plant.py", "--log", "other.log", "--from", more, "--clock", "input")
    last, other = last_of(headrace, log), last_of(headrace, "other.log")
    whole = headrace("log", "diff", log, "other.log", "-o", "json")
    text = headrace("log", "diff", log, "other.log")

    assert whole.code == text.code == 3
    found = whole.json
    assert (found["parted_at"], found["common"], found["same"]) == (6, 5, False)
    assert (found["only_a"], found["only_b"]) == (last - 5, other - 5)
    fields = {row["field"]: row for row in found["fields"]}
    assert fields["sequence"] == {"field": "sequence", "a": 6, "b": 6, "same": True}
    assert (fields["kind"]["a"], fields["kind"]["b"]) == ("event", "engine.started")
    assert (fields["data"]["a"], fields["data"]["b"]) == ({"degrees": 96.0}, None)
    assert "They part at record 6:" in text.out
    assert [line.split() for line in text.out.splitlines() if "kind" in line] == [
        ["*", "kind", "event", "engine.started"]
    ]


def test_diff_of_a_log_and_its_beginning(headrace: Call, log: Path) -> None:
    """Where one log ends, the other side is empty."""
    headrace("log", "fork", log, "other.log", "--at", 5)
    found = headrace("log", "diff", "other.log", log, "-o", "json").json

    assert (found["only_a"], found["only_b"]) == (0, last_of(headrace, log) - 5)
    assert {row["a"] for row in found["fields"]} == {None}
    assert headrace("log", "diff", log, "nowhere").code == 4
