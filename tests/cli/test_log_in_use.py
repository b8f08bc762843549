"""A log that a running engine holds: each command that looks back reads it and disturbs nothing."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest
from tests.cli.command import WAIT_S, Call, records

from headrace.engine.log import FileLog
from headrace.engine.payload import encode_event
from headrace.engine.record import EventStored, encode

HOT_NS = 1_700_001_000_000_000_000

COMMANDS: list[list[str]] = [
    ["replay", "plant.py", "plant.log"],
    ["whatif", "plant.py", "plant.log"],
    ["bisect", "plant.py", "plant.py", "plant.log"],
    ["bisect", "plant.log", "plant.log"],
    ["state", "plant.py", "plant.log"],
    ["diff", "plant.py", "plant.log", "3", "3"],
    ["why", "plant.py", "plant.log", "cool"],
    ["trace", "plant.log", "3"],
    ["timeline", "plant.log", "--out", "plant.html"],
    ["log", "fork", "plant.log", "fork.log"],
    ["debug", "plant.py", "plant.log"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_log_in_use_can_be_asked(
    headrace: Call, log: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is committed is seen, no file is changed, and the writer goes on."""
    before = len(records(log))
    event = EventStored(HOT_NS, "plant.t1.temperature", encode_event({"degrees": 99.0}, "x"))
    held, moved = FileLog(log), threading.Event()
    held.open(moved.set)
    try:
        held.append([encode(event)])
        held.commit()
        while held.durable_sequence <= before:
            assert moved.wait(WAIT_S)
            moved.clear()
        files = files_of(log)
        monkeypatch.setattr("sys.stdin", io.StringIO("goto 3\n"))
        done = headrace(*command)

        assert done.code == 0, done.err
        assert files_of(log) == files
        held.append([encode(event)])
        held.commit()
    finally:
        held.close()

    assert len(records(log)) == before + 2


def files_of(log: Path) -> dict[str, bytes]:
    """All that a log has, but for where its writer says how much of it is on the disk."""
    found = {path.name: path for path in log.iterdir() if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "HEAD"}
