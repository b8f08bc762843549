"""Tasks in worker processes: spawned, reused, killed, replaced, and never left behind."""

from __future__ import annotations

import errno
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.engine import process_tasks as tasks
from tests.engine.process_tasks import Point
from tests.engine.stand import StepClock, of_kind, opened, until

from headrace import (
    App,
    MemoryLog,
    Retry,
    Run,
    StepFailed,
    TaskFailed,
    WorkerNotStarted,
    on,
)
from headrace.engine.process_errors import made_again, raised
from headrace.engine.record import AttemptFailed, RunCompleted, RunFailed

PATIENCE_S = 20.0


def is_alive(pid: int) -> bool:
    """Say whether a process is there that has not ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def gone(pid: int) -> None:
    """Return once the process *pid* has ended."""
    end = time.monotonic() + PATIENCE_S
    while is_alive(pid):
        assert time.monotonic() < end, f"process {pid} goes on"
        time.sleep(0.01)


def wait_for(mark: Path) -> None:
    """Return once another process has written there."""
    end = time.monotonic() + PATIENCE_S
    while not mark.exists():
        assert time.monotonic() < end, f"nothing in {mark}"
        time.sleep(0.01)


def app_with(*functions: Callable[..., Any], **options: Any) -> App:
    """Return an app that has these as tasks in processes."""
    app = App("t")
    for function in functions:
        app.task(process=True, **options)(function)
    return app


async def called(
    app: App, function: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, MemoryLog]:
    """Return what a step comes to, or the error that it fails with; and the log."""
    log, came = MemoryLog(), list[Any]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        try:
            came.append(await run.call(function, *args, **kwargs))
        except StepFailed as error:
            came.append(error)

    async with opened(app, log, clock=StepClock(), processes_max=2) as engine:
        await engine.emit("a")
        await engine.drain()
    return came[0], log


@pytest.mark.slow
async def test_data_goes_there_and_back_with_its_type() -> None:
    """As it does for any other task; by bytes, not by pickle."""
    result, log = await called(app_with(tasks.swapped), tasks.swapped, Point(1, 2), by=10)

    assert result == Point(12, 1)
    assert len(of_kind(log, RunCompleted)) == 2


@pytest.mark.slow
async def test_much_data_goes_through() -> None:
    """More than a socket takes at once."""
    result, _ = await called(app_with(tasks.large), tasks.large, 700_000)

    assert len(result) == 700_000


@pytest.mark.slow
async def test_output_goes_where_the_engine_writes(capfd: pytest.CaptureFixture[str]) -> None:
    """It is not the protocol."""
    await called(app_with(tasks.prints), tasks.prints, "hello from afar")

    assert capfd.readouterr().out == "hello from afar\n"


@pytest.mark.slow
async def test_few_processes_do_many_calls() -> None:
    """They are started when they are needed, used again, and end with the engine."""
    app, pids = app_with(tasks.where), list[int]()

    @app.task
    async def ask(run: Run, _number: int) -> int:
        return await run.call(tasks.where)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        pids.extend(await run.map(ask, range(100)))

    async with opened(app, processes_max=2) as engine:
        await engine.emit("a")
        await engine.drain()
        assert len(pids) == 100
        assert len(set(pids)) == 2
        assert os.getpid() not in pids
        assert all(map(is_alive, set(pids)))

    assert not any(map(is_alive, set(pids)))


async def test_what_a_task_raises_is_raised_again() -> None:
    """By its type, so that retry policies find it; the traceback tells of the other process."""
    app = app_with(tasks.fails, retry=Retry(attempts=2, wait_first=0, jitter=0, on=KeyError))
    error, log = await called(app, tasks.fails, "plain")

    assert "KeyError: ('plain', 7)" in error.error
    (first,) = of_kind(log, AttemptFailed)
    (last,) = (one for one in of_kind(log, RunFailed) if "in a worker process" in one.traceback)
    assert "KeyError" in first.error
    assert 'raise KeyError("plain", 7)' in last.traceback


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "said"), [("ours", "Odd: 1 and 2"), ("exit", "SystemExit: 3")])
async def test_what_cannot_be_made_again_is_named(kind: str, said: str) -> None:
    """An exception with an `__init__` of its own, or one that is none of a task's business."""
    error, _ = await called(app_with(tasks.fails), tasks.fails, kind)

    assert error.error == f"RemoteError: {said}"


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("exit", "exit code 5"), ("kill", "signal SIGKILL")])
async def test_a_worker_that_dies_is_a_failed_attempt(how: str, said: str, tmp_path: Path) -> None:
    """The next attempt has another process."""
    mark = str(tmp_path / "mark")
    app = app_with(tasks.dies, retry=Retry(attempts=2, wait_first=0, jitter=0))
    result, log = await called(app, tasks.dies, how, mark)

    assert result == "alive"
    (failed,) = of_kind(log, AttemptFailed)
    assert failed.error.startswith("WorkerDied: task 'dies': expected an answer")
    assert said in failed.error


@pytest.mark.slow
async def test_a_worker_that_was_killed_while_idle_costs_no_attempt() -> None:
    """It had nothing to do with what comes next."""
    app, pids, log = app_with(tasks.where), list[int](), MemoryLog()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        pids.append(await run.call(tasks.where))

    async with opened(app, log, processes_max=1) as engine:
        await engine.emit("a")
        await engine.drain()
        os.kill(pids[0], 9)
        gone(pids[0])
        await engine.emit("a")
        await engine.drain()

    assert len(set(pids)) == 2
    assert of_kind(log, AttemptFailed) == []
    assert of_kind(log, RunFailed) == []


@pytest.mark.slow
async def test_a_result_that_cannot_be_stored_is_one_clear_error() -> None:
    """As it would be for a task of another kind."""
    error, _ = await called(app_with(tasks.unspeakable), tasks.unspeakable)

    assert "task 'unspeakable', result" in error.error


async def pid_in(mark: Path) -> int:
    """Return which process has begun to hang."""
    await until(mark.exists)
    return number_in(mark)


def number_in(path: Path) -> int:
    """Return what is written there."""
    return int(path.read_text(encoding="ascii"))


@pytest.mark.slow
@pytest.mark.parametrize("why", ["timeout", "cancel", "close"])
async def test_a_process_is_killed_when_its_run_is(why: str, tmp_path: Path) -> None:
    """Unlike a thread, it can be."""
    app, clock, mark = App("t"), StepClock(), tmp_path / "mark"
    app.task(process=True, timeout=5 if why == "timeout" else None)(tasks.hangs)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(tasks.hangs, str(mark))

    async with opened(app, clock=clock, processes_max=1) as engine:
        await engine.emit("a")
        pid = await pid_in(mark)
        if why == "timeout":
            await clock.step(engine, 5)
            await engine.drain()
            assert "took over 5 s" in str(engine.runs("failed")[0].error)
        elif why == "cancel":
            await engine.cancel(engine.runs("active")[-1].id)
            await engine.drain()
        if why != "close":
            gone(pid)
    assert not is_alive(pid)


@pytest.mark.slow
async def test_a_process_that_cannot_be_started_is_an_error_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A policy for what the task itself raises is not for this."""
    start, refusals = subprocess.Popen, [1, 2]

    def start_late(*args: Any, **options: Any) -> Any:
        if refusals:
            refusals.pop()
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return start(*args, **options)

    monkeypatch.setattr(subprocess, "Popen", start_late)
    app = app_with(tasks.where, retry=Retry(attempts=3, wait_first=0, on=WorkerNotStarted))
    result, log = await called(app, tasks.where)

    assert type(result) is int
    error = (
        "WorkerNotStarted: task 'where': expected a process to execute it in, found that none can "
        f"be started (BlockingIOError: [Errno {errno.EAGAIN}] Resource temporarily unavailable); "
        "see the system's limits of processes, threads, files and memory"
    )
    assert [failed.error for failed in of_kind(log, AttemptFailed)] == [error] * 2


def function_of(folder: Path, text: str) -> Callable[..., Any]:
    """Return ``work`` of a module with this text, which does nothing special in this process."""
    (folder / "module_of_the_test.py").write_text(text, encoding="ascii")
    sys.path.append(str(folder))
    try:
        sys.modules.pop("module_of_the_test", None)
        importlib.invalidate_caches()
        function: Callable[..., Any] = importlib.import_module("module_of_the_test").work
    finally:
        sys.path.remove(str(folder))
    return function


WAITS_FOR_TEST = """
import os

if "GATE_OF_THE_TEST" in os.environ:
    with open(os.environ["GATE_OF_THE_TEST"]) as gate:
        gate.read()

def work():
    return "done"
"""


@pytest.mark.slow
async def test_starting_python_and_importing_takes_no_time_of_an_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a short time-out would be over before the code begins, in each attempt anew."""
    work, gate = function_of(tmp_path, WAITS_FOR_TEST), tmp_path / "gate"
    os.mkfifo(gate)
    monkeypatch.setenv("GATE_OF_THE_TEST", str(gate))
    app, clock = app_with(work, timeout=5), StepClock()
    writers = list[int]()

    def is_importing() -> bool:
        with suppress(OSError):  # nobody reads there yet
            writers.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    async with opened(app, clock=clock, processes_max=1) as engine:
        run_id = await engine.launch(work)
        await until(is_importing)
        await clock.step(engine, 500)
        os.close(writers[0])
        assert await engine.result(run_id) == "done"


KILLS_ITS_WORKER = """
import os

if "MARK_OF_THE_TEST" in os.environ:
    with open(os.environ["MARK_OF_THE_TEST"], "a") as mark:
        mark.write("x")
    os._exit(6)

def work():
    pass
"""


@pytest.mark.slow
async def test_a_worker_that_dies_of_an_import_is_a_failed_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that had answered another call before: it was not idle any more."""
    work, mark = function_of(tmp_path, KILLS_ITS_WORKER), tmp_path / "mark"
    monkeypatch.setenv("MARK_OF_THE_TEST", str(mark))
    app = app_with(tasks.where, work)

    async with opened(app, processes_max=1) as engine:
        await engine.result(await engine.launch(tasks.where))
        with pytest.raises(TaskFailed, match=r"WorkerDied: .* exit code 6"):
            await engine.result(await engine.launch(work))

    assert mark.read_text(encoding="ascii") == "x"


PROGRAM = """
import sys
import anyio
from headrace import App, MemoryLog, Run, on
from tests.engine.process_tasks import hangs

app = App("t")
app.task(process=True)(hangs)

@app.rule(on("a"))
async def act(run: Run) -> None:
    await run.call(hangs, sys.argv[1])

async def main() -> None:
    async with app.open(MemoryLog()) as engine:
        await engine.emit("a")
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.slow
def test_workers_end_with_an_engine_that_is_killed(tmp_path: Path) -> None:
    """Also with `kill -9`, in the middle of their work."""
    mark = tmp_path / "mark"
    engine = subprocess.Popen([sys.executable, "-c", PROGRAM, mark], cwd=Path.cwd())
    try:
        wait_for(mark)
        pid = number_in(mark)
        assert is_alive(pid)
    finally:
        engine.kill()
        engine.wait()
    gone(pid)


SCRIPT = """
import anyio
from headrace import App, MemoryLog, Run, on

app = App("t")

class Mine(Exception):
    pass

@app.task(process=True)
def work(number: int) -> int:
    if number < 0:
        raise Mine(number)
    return number * 2

@app.rule(on("a"))
async def act(run: Run) -> None:
    print(await run.call(work, 21))
    await run.call(work, -1)

async def main() -> None:
    async with app.open(MemoryLog()) as engine:
        await engine.emit("a")
        await engine.drain()
        print(engine.runs("failed")[0].error)

if __name__ == "__main__":
    anyio.run(main)
"""


@pytest.mark.slow
def test_a_script_can_have_them(tmp_path: Path) -> None:
    """Its functions are in no module that could be imported by name."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stdout == "42\nMine: -1\n", done.stderr


def at_the_top() -> None:
    """Be a function that can be imported."""


def with_run(run: Run) -> None:
    """Ask for what is in the engine's process only."""


async def asynchronous() -> None:
    """Need no process."""


def inside() -> Callable[..., Any]:
    """Return a function that nobody else can find."""

    def within() -> None:
        """Do nothing."""

    return within


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (inside(), "which is inside another function"),
        (partial(at_the_top), "found functools.partial"),
        (with_run, "found a Run"),
        (asynchronous, "found an async function"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_declared(function: Any, said: str) -> None:
    """With the reason."""
    with pytest.raises(TypeError, match=r"process=True: expected .*" + said):
        App("t").task(process=True, name="bad")(function)


def test_a_heartbeat_is_refused() -> None:
    """Nothing there could give it, so each attempt would fail."""
    with pytest.raises(TypeError, match=r"process=True: expected .* found a heartbeat"):
        App("t").task(process=True, heartbeat=5)(at_the_top)


def test_a_lambda_is_refused() -> None:
    """It has a name that leads nowhere."""
    with pytest.raises(TypeError, match="found a lambda"):
        App("t").task(process=True, name="bad")(eval("lambda: 1"))


def test_no_processes_at_all_is_refused() -> None:
    """Nothing could ever be done."""
    with pytest.raises(ValueError, match="processes_max=0: expected at least 1"):
        App("t").open(MemoryLog(), processes_max=0)


def test_text_that_cannot_be_encoded_still_crosses() -> None:
    """An exception about half a character must not be the end of its worker."""
    error = made_again("t", raised(ValueError("half \ud800")))

    assert type(error).__name__ == "RemoteError"
    assert "half ?" in str(error)
