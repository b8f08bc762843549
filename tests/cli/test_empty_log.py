"""A log that nothing was put into yet, and each command that looks back."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.command import Call

from headrace.engine.log import FileLog

Answers = dict[str, tuple[list[str], int, str]]
"""Arguments, the exit code, and what the answer or the error has in it."""

ANSWERS: Answers = {
    "replay": (["replay", "plant.py", "LOG"], 0, "0 events, 0 records, 0 firings: every decision"),
    "whatif": (["whatif", "plant.py", "LOG"], 0, "nothing would be another"),
    "bisect": (["bisect", "plant.py", "plant.py", "LOG"], 0, "both make the same of them"),
    "bisect of logs": (["bisect", "LOG", "LOG"], 0, "Both hold the same records."),
    "log diff": (["log", "diff", "LOG", "LOG"], 0, "Both hold the same records."),
    "state": (["state", "plant.py", "LOG"], 0, "sequence      0"),
    "state at": (["state", "plant.py", "LOG", "--at", "1"], 4, "expected a log that has records"),
    "diff": (["diff", "plant.py", "LOG", "1", "2"], 4, "A 1: expected a log that has records"),
    "why": (["why", "plant.py", "LOG", "cool"], 4, "expected a log that has records, found none"),
    "trace": (["trace", "LOG", "1"], 4, "expected a log with records, found none in it yet"),
    "timeline": (["timeline", "LOG"], 4, "expected a log with records, found none in it yet"),
    "fork": (["log", "fork", "LOG", "NEW", "--at", "1"], 4, "expected a log that has records"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_log_without_records(headrace: Call, plant: Path, tmp_path: Path, name: str) -> None:
    """It is a log all the same: what asks for a place in it is told that there is none."""
    arguments, code, said = ANSWERS[name]
    log = FileLog(tmp_path / "none.log", durability="flushed")
    log.open(lambda: None)
    log.close()
    paths = {"LOG": "none.log", "NEW": "new.log"}
    done = headrace(*(paths.get(argument, argument) for argument in arguments))

    assert done.code == code, done.err
    assert said in (done.out if code == 0 else done.last_error)
    assert not (tmp_path / "new.log").exists()
