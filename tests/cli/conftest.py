"""Two ways to call the command: in this process, which is fast, and as its users do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import structlog
from tests.cli.command import HEADRACE, PLANT, WAIT_S, Call, Done, MadeOnce, Start, lines_of

from headrace.cli import main
from headrace.engine.stopwatch import Stopwatch


@pytest.fixture
def headrace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """Call the command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    # A machine that pauses has other tests than what these print.
    never = {**(Stopwatch.__init__.__kwdefaults__ or {}), "limit_ns": sys.maxsize}
    monkeypatch.setattr(Stopwatch.__init__, "__kwdefaults__", never)

    def call(*arguments: object, stdin: str | None = None) -> Done:
        assert stdin is None, "that takes a process of its own"
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        # The next call is to import its app anew.
        for name, module in list(sys.modules.items()):
            if (getattr(module, "__file__", None) or "").startswith(str(tmp_path)):
                del sys.modules[name]
        return Done(code, captured.out, captured.err)

    yield call
    structlog.reset_defaults()


@pytest.fixture
def shell(tmp_path: Path) -> Call:
    """Call the installed command in a process of its own and wait for its end."""

    def call(*arguments: object, stdin: str | None = None) -> Done:
        done = subprocess.run(
            [HEADRACE, *map(str, arguments)],
            check=False,
            cwd=tmp_path,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the installed command in a process of its own, which ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def call(*arguments: object, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [HEADRACE, *map(str, arguments)],
            cwd=tmp_path,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    def kill() -> None:
        for process in started:
            process.kill()

    # Whoever waits for a word that is never said gets the end of the stream instead.
    watchdog = threading.Timer(WAIT_S, kill)
    watchdog.start()
    yield call
    watchdog.cancel()
    kill()
    for process in started:
        process.communicate(timeout=WAIT_S)


@pytest.fixture
def plant(tmp_path: Path) -> Path:
    """An app in a file."""
    path = tmp_path / "plant.py"
    path.write_text(PLANT)
    return path


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    """Five readings, of which the last three are too hot."""
    path = tmp_path / "readings.jsonl"
    path.write_text(lines_of([20.0, 21.0, 95.0, 96.0, 97.0]))
    return path


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for logs that many tests begin with."""
    return tmp_path_factory.mktemp("logs")


@pytest.fixture
def made_once(request: pytest.FixtureRequest, logs: Path) -> MadeOnce:
    """Have a log at a path: made for the first test of a file that wants it, else copied.

    A source in it, if it is a file, is that of the first test.
    """

    def have(path: Path, make: Callable[[Path], object]) -> Path:
        kept = logs / request.node.path.stem / path.name
        if kept.exists():
            shutil.copytree(kept, path)
        else:
            make(path)
            shutil.copytree(path, kept)
        return path

    return have


@pytest.fixture
def own_log(headrace: Call, plant: Path, readings: Path, tmp_path: Path) -> Path:
    """The log that the app leaves after these readings."""
    return _run(headrace, tmp_path / "plant.log")


@pytest.fixture
def log(headrace: Call, plant: Path, readings: Path, tmp_path: Path, made_once: MadeOnce) -> Path:
    """The same, for who does not read on: its source may be the readings of another test."""
    return made_once(tmp_path / "plant.log", partial(_run, headrace))


def _run(headrace: Call, log: Path) -> Path:
    arguments = ("--log", log, "--from", "readings.jsonl", "--clock", "input")
    done = headrace("run", "plant.py", *arguments)
    assert done.code == 0, done.err
    return log
