"""What the command does when the disk under its log is full, fails or goes away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.command import WAIT_S, Call, Start

from headrace import App
from headrace.engine.log.files import Data, SystemFiles

LINES = 400

COUNTER = """
from __future__ import annotations

from headrace import App, Firing, Run, on

app = App("counter")


@app.task
async def double(number: int) -> int:
    return 2 * number


@app.rule(on("count", int))
async def count(run: Run, firing: Firing[int]) -> int:
    return await run.call(double, firing.events[0].data)
"""


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """An app that does something with each event."""
    path = tmp_path / "counter.py"
    path.write_text(COUNTER)
    return path


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Its input."""
    path = tmp_path / "numbers.jsonl"
    path.write_text(
        "".join(
            json.dumps({"subject": "count", "data": number, "time": 1_700_000_000 + number}) + "\n"
            for number in range(LINES)
        )
    )
    return path


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Return once the process has said *text* on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {text!r}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clock", "nth"),
    [("system", 1), ("system", 2), ("system", 3), *(("input", nth) for nth in (1, 2, 5, 9))],
)
def test_a_full_disk_makes_the_command_wait(
    headrace: Call,
    counter: Path,
    numbers: Path,
    monkeypatch: pytest.MonkeyPatch,
    nth: int,
    clock: str,
) -> None:
    """It says so, and when it goes on; then it has done what it does on a large disk."""
    left = nth
    write = SystemFiles.pwrite

    def pwrite(self: SystemFiles, fd: int, data: Data, offset_bytes: int) -> int:
        nonlocal left
        # More than a new segment's header: there are records in it.
        if offset_bytes >= 64 and Path(f"/proc/self/fd/{fd}").readlink().suffix == ".hrl":
            left -= 1
            if left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, fd, data, offset_bytes)

    monkeypatch.setattr(SystemFiles, "pwrite", pwrite)
    monkeypatch.setattr(
        App.open, "__kwdefaults__", {**(App.open.__kwdefaults__ or {}), "probe_s": 0.01}
    )
    done = headrace(
        *("run", counter, "--log", "log", "--from", numbers, "--clock", clock, "-o", "json")
    )

    said = [json.loads(line)["event"] for line in done.err.splitlines()]
    assert said == ["started", "disk_full", "disk_has_room"]
    assert done.code == 0
    assert done.json["runs"] == {"completed": 2 * LINES}
    assert done.json["this_time"]["events"] == LINES
    assert headrace("log", "verify", "log", "-o", "json").json["ok"] is True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MiB, with room for a little more than what a log keeps aside."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    (disk / "filler").write_bytes(bytes(2 * 1024 * 1024 - 32 * 1024))
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


RUN = ("run", "counter.py", "--log", "disk/log", "--from", "numbers.jsonl", "-o", "json")


@pytest.mark.slow
@pytest.mark.usefixtures("counter", "numbers")
def test_a_full_disk_in_earnest(start: Start, headrace: Call, small_disk: Path) -> None:
    """A file is removed by hand, and nothing else has to be done."""
    process = start(*RUN)
    wait_for(process, "disk_full")
    (small_disk / "filler").unlink()
    wait_for(process, "disk_has_room")
    out, _ = process.communicate(timeout=WAIT_S)

    assert process.returncode == 0
    assert json.loads(out)["runs"] == {"completed": 2 * LINES}
    assert headrace("log", "verify", "disk/log", "-o", "json").json["ok"] is True


@pytest.mark.slow
@pytest.mark.usefixtures("counter", "numbers")
def test_a_signal_while_the_disk_is_full(start: Start, headrace: Call, small_disk: Path) -> None:
    """The command ends at once and says why it is not done; the next start does the rest."""
    process = start(*RUN, "--grace", "1000")
    wait_for(process, "disk_full")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT_S)

    assert process.returncode == 1
    assert "make room on the disk" in err.splitlines()[-1]
    assert headrace("log", "info", "disk/log", "-o", "json").json["closed_cleanly"] is True
    (small_disk / "filler").unlink()
    assert headrace(*RUN).json["runs"] == {"completed": 2 * LINES}


def delete(log: Path) -> None:
    """Remove the log, though the engine may be making its socket in it."""
    while log.exists():
        shutil.rmtree(log, ignore_errors=True)


def move(log: Path) -> None:
    """Move the log away."""
    log.rename(log.with_name("moved"))


@pytest.mark.slow
@pytest.mark.parametrize("remove", [delete, move])
def test_a_log_that_goes_away_ends_the_command(
    start: Start, counter: Path, tmp_path: Path, remove: Callable[[Path], None]
) -> None:
    """With exit code 74 and one line that says which file is missed."""
    process = start("run", counter, "--log", "log", "--from", "-", stdin=subprocess.PIPE)
    wait_for(process, "started")
    remove(tmp_path / "log")
    _, err = process.communicate(json.dumps({"subject": "count", "data": 1}) + "\n", WAIT_S)

    assert process.returncode == 74
    last = err.splitlines()[-1]
    assert last.startswith(f"headrace: {tmp_path}/log/")
    assert "deleted or moved away" in last
    assert "everything up to there is safe" in last
