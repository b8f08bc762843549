"""What goes wrong with worker processes: scripts without a guard, signals, what is left behind."""

from __future__ import annotations

import importlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from tests.engine import process_fault_tasks as faults
from tests.engine import process_tasks as tasks
from tests.engine.stand import of_kind, opened
from tests.engine.test_processes import (
    PATIENCE_S,
    app_with,
    called,
    gone,
    number_in,
    pid_in,
    wait_for,
)

from headrace import App, MemoryLog, Retry, Run, on
from headrace.engine.process_errors import made_again, raised
from headrace.engine.process_wire import Begun, Call, Hello, Returned, Taken, framed, path_of
from headrace.engine.processes import PROGRAM
from headrace.engine.record import AttemptFailed, RunFailed

pytestmark = pytest.mark.slow

SCRIPT_S_MAX = 60

UNGUARDED = """
import os, sys
import anyio
from headrace import App, MemoryLog, Run, on

with open("imported", "a") as file:
    file.write("x")

app = App("t")

@app.task(process=True)
def work(number: int) -> int:
    return number

@app.rule(on("a"))
async def act(run: Run) -> None:
    await run.call(work, 1)

async def main() -> None:
    async with app.open(MemoryLog()) as engine:
        await engine.emit("a")
        await engine.drain()
        for one in engine.runs("failed"):
            print(one.error)

anyio.run(main)
"""


def run_script(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program in *folder*, which is not what it can import from."""
    script = folder / "script.py"
    script.write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, *options, script],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SCRIPT_S_MAX,
        check=False,
    )


def descriptors() -> int:
    """Return how many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_script_without_a_guard_is_one_clear_error(tmp_path: Path) -> None:
    """Its worker imports it, and must not open an engine with workers that import it."""
    done = run_script(tmp_path, UNGUARDED)

    assert done.returncode == 0, done.stderr
    assert 'if __name__ == "__main__":' in done.stdout
    assert "script.py" in done.stdout
    assert (tmp_path / "imported").read_text() == "xx"


SHADOWED = """
import anyio, sys
sys.path[:] = [part for part in sys.path if part]
from headrace import App, MemoryLog, Run, on

app = App("t")

@app.task(process=True)
def work() -> list[str]:
    return sys.argv

@app.rule(on("a"))
async def act(run: Run) -> None:
    print(await run.call(work) == sys.argv)

async def main() -> None:
    async with app.open(MemoryLog()) as engine:
        await engine.emit("a")
        await engine.drain()
        print([one.error for one in engine.runs("failed")])

if __name__ == "__main__":
    anyio.run(main)
"""


def test_a_worker_imports_from_where_the_engine_does(tmp_path: Path) -> None:
    """Not from the working directory, where anything may lie about; and sees its arguments."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "msgspec.py").write_text("raise SystemExit('not this one')")
    script = tmp_path / "script.py"
    script.write_text(SHADOWED)
    done = subprocess.run(
        [sys.executable, script, "--an-option"],
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=SCRIPT_S_MAX,
        check=False,
    )

    assert done.stdout == "True\n[]\n", done.stderr


def test_python_dash_m_can_have_them(tmp_path: Path) -> None:
    """A package that is run has its functions in `package.__main__`."""
    package = tmp_path / "plant"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SHADOWED.replace("if part", ""))
    done = subprocess.run(
        [sys.executable, "-m", "plant"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=SCRIPT_S_MAX,
        check=False,
    )

    assert done.stdout == "True\n[]\n", done.stderr


def named() -> str:
    """Return what the module of this test is called in a worker."""
    return __name__


async def test_a_task_can_be_in_a_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose module has a name that leads nowhere from `sys.path`, as pytest imports it."""
    root = str(Path(__file__).parents[2])
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", root)])
    name, _ = await called(app_with(named), named)

    assert name == __name__


async def test_a_module_of_the_same_name_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file counts from which the engine has loaded the function."""
    one, other = tmp_path / "one" / "twins.py", tmp_path / "other" / "twins.py"
    for number, file in enumerate((one, other), 1):
        file.parent.mkdir()
        file.write_text(f"def which() -> int:\n    return {number}\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(one.parent)
        which = importlib.import_module("twins").which
    monkeypatch.syspath_prepend(other.parent)
    number, _ = await called(app_with(which), which)

    del sys.modules["twins"]
    assert number == 1


def test_a_session_has_nothing_to_import(tmp_path: Path) -> None:
    """It is refused when it is declared: no file has the function."""
    program = """
from headrace import App
@App("t").task(process=True)
def work() -> None: ...
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert "found 'work' of a session or of `python -c`, which are no file" in done.stderr


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_worker_sees_that_nobody_asks_any_more(is_busy: bool, tmp_path: Path) -> None:
    """By the end of its stream, too: not every system kills it with its parent."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            worker = subprocess.Popen(
                [
                    *(sys.executable, "-c", PROGRAM, str(theirs.fileno()), str(os.getpid())),
                    *sys.path,
                ],
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        mark = str(tmp_path / "mark")
        function = tasks.hangs if is_busy else tasks.prints
        ours.sendall(framed(Hello([])))
        path = path_of("t", function)
        ours.sendall(framed(Call("t", path, msgspec.msgpack.encode({argument_of(function): mark}))))
        if is_busy:
            wait_for(Path(mark))
        else:
            answers = framed(Taken()) + framed(Begun()) + framed(Returned(b"\xc0"))
            assert ours.recv(len(answers), socket.MSG_WAITALL) == answers
    assert worker.wait(PATIENCE_S) == (-signal.SIGKILL if is_busy else 0)


def argument_of(function: Callable[..., Any]) -> str:
    """Return the name of its argument."""
    (name,) = inspect.signature(function).parameters
    return name


async def test_nothing_of_them_is_left(tmp_path: Path) -> None:
    """No thread, no descriptor and no process, also of one that was busy and one that died."""
    app, mark = app_with(tasks.where, tasks.hangs, tasks.dies), tmp_path / "mark"
    await anyio.sleep(0.001)  # trio waits in a thread, the way that these tests run it
    threads, files = set(threading.enumerate()), descriptors()
    pids = list[int]()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        pids.append(await run.call(tasks.where))

    @app.rule(on("b"))
    async def hang(run: Run) -> None:
        await run.call(tasks.hangs, str(mark))

    @app.rule(on("c"))
    async def die(run: Run) -> None:
        await run.call(tasks.dies, "kill", str(tmp_path / "died"))

    async with opened(app, processes_max=2) as engine:
        await engine.emit("a")
        await engine.emit("c")
        await engine.drain()
        await engine.emit("b")
        pids.append(await pid_in(mark))

    assert set(threading.enumerate()) <= threads  # of a test before this one may end meanwhile
    assert descriptors() == files
    for pid in pids:
        gone(pid)


async def test_an_error_of_the_system_keeps_what_it_is_about() -> None:
    """Its file, and the subclass that a retry policy asks for."""
    app = app_with(faults.opens, retry=Retry(attempts=2, wait_first=0, on=FileNotFoundError))
    error, log = await called(app, faults.opens, "/nowhere/at/all")

    said = "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/at/all'"
    assert error.error == said
    assert len(of_kind(log, AttemptFailed)) == 1


def test_an_exception_keeps_its_attributes() -> None:
    """A policy may look at them."""
    error = faults.Coded("late")
    error.code = 503
    again = made_again("t", raised(error))

    assert type(again) is faults.Coded
    assert (str(again), again.code) == ("late", 503)


def test_an_exception_that_says_something_else_is_notmade_again() -> None:
    """Its text is what a person reads."""
    again = made_again("t", raised(faults.Counting()))

    assert type(again).__name__ == "RemoteError"
    assert str(again).endswith("made 1")


async def test_signals_that_are_for_the_engine_do_not_end_its_workers() -> None:
    """Ctrl-C and a service's stop reach the whole group; the engine lets runs finish."""
    app, pids, log = app_with(faults.signalled), list[int](), MemoryLog()

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            pids.append(await run.call(faults.signalled, int(number)))

    async with opened(app, log, processes_max=1) as engine:
        await engine.emit("a")
        await engine.drain()

    assert len(set(pids)) == 1
    assert of_kind(log, RunFailed) == []


@pytest.mark.parametrize("how", ["cancel", "die"])
async def test_what_a_task_has_started_ends_with_it(how: str, tmp_path: Path) -> None:
    """A killed worker cannot tidy up behind itself."""
    mark = tmp_path / "mark"
    app = app_with(faults.has_child)

    @app.rule(on("a"))
    async def act(run: Run) -> None:
        await run.call(faults.has_child, str(mark))

    async with opened(app, processes_max=1) as engine:
        await engine.emit("a")
        child = await pid_in(mark)
        if how == "cancel":
            await engine.cancel(engine.runs("active")[-1].id)
        else:
            os.kill(number_in(tmp_path / "mark.parent"), signal.SIGKILL)
        await engine.drain()
        gone(child)


async def test_a_module_that_cannot_be_imported_is_the_failure(tmp_path: Path) -> None:
    """With its own error; the worker goes on, and so it may be there the next time."""
    module = tmp_path / "half_a_module.py"
    module.write_text("def work() -> int:\n    return 7\n")
    sys.path.append(str(tmp_path))
    try:
        from half_a_module import work  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(tmp_path))
    module.write_text("raise ValueError('not today')\n")
    app = App("t")
    app.task(process=True)(work)
    error, _ = await called(app, work)
    module.write_text("import no_such_module\n")
    missing, _ = await called(app_again(work), work)
    module.write_text("other = 1\n")
    nameless, _ = await called(app_again(work), work)

    del sys.modules["half_a_module"]
    assert error.error == "ValueError: not today"
    assert missing.error == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "half_a_module" in nameless.error
    assert "'work'" in nameless.error


def app_again(work: Callable[..., Any]) -> App:
    """Return another app with the same task."""
    app = App("t")
    app.task(process=True)(work)
    return app
