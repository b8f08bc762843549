"""What goes wrong ends in one line: where, what was expected, what was found, what to do."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import anyio
import msgspec
import pytest
from tests.cli.command import HEADRACE, Call, Done

from headrace import App, FileLog
from headrace.cli import entry
from headrace.engine.errors import DurabilityLost
from headrace.engine.log import manifest
from headrace.engine.log.files import SystemFiles


def one_line(done: Done) -> str:
    """Return the error, and see to it that it is all that a person gets."""
    assert "Traceback" not in done.err
    assert done.last_error.isprintable()
    assert done.err.count("headrace: ") == 1
    return done.last_error


# The app.

BROKEN = {
    "raises.py": "limit = 1\nlimit / 0\n",
    "syntax.py": "from headrace import App\n\ndef f(:\n",
    "missing.py": "import a_module_that_nobody_has\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "library.py": "import json\n\njson.loads('{')\n",
    "subject.py": "from headrace import App, on\napp = App('a')\nhot = on('a..b')\n",
    "type.py": "from headrace import App, on\nhot = on('a.b', object())\n",
    "name.py": "from headrace import App\napp = App('a b')\n",
    "argument.py": (
        "from headrace import App, on\napp = App('a')\n\n"
        "@app.rule(on('a.b'))\ndef f(x: int) -> None: ...\n"
    ),
}


@pytest.mark.parametrize(
    ("name", "line", "found", "shown"),
    [
        ("raises.py", 2, "ZeroDivisionError: division by zero", "limit / 0"),
        ("syntax.py", 3, "SyntaxError: invalid syntax", "def f(:"),
        ("missing.py", 1, "No module named 'a_module_that_nobody_has'", "import a_module"),
        ("exits.py", 2, "SystemExit: 3", "sys.exit(3)"),
        ("library.py", 3, "Expecting property name", "json.loads('{')"),
        ("subject.py", 3, "pattern 'a..b', character 3", "on('a..b')"),
        ("type.py", 2, "msgspec cannot decode it", "on('a.b', object())"),
        ("name.py", 2, "App name 'a b': expected", "App('a b')"),
        ("argument.py", 4, "its action takes 'x'", "@app.rule(on('a.b'))"),
    ],
)
@pytest.mark.parametrize("form", ["file", "module"])
def test_an_app_that_cannot_be_imported_shows_its_own_last_line(
    headrace: Call, tmp_path: Path, name: str, line: int, found: str, shown: str, form: str
) -> None:
    """Not our frames and not the library's: the line in the user's file that has to change."""
    (tmp_path / name).write_text(BROKEN[name])
    done = headrace("check", name if form == "file" else name.removesuffix(".py"))
    error = one_line(done)

    assert done.code == 1
    assert error.startswith(f"{name}:{line}: expected ")
    assert found in error
    assert shown in done.err
    assert done.out == ""


def test_debug_shows_the_whole_traceback(headrace: Call, tmp_path: Path) -> None:
    """One line is enough until it is not."""
    (tmp_path / "raises.py").write_text(BROKEN["raises.py"])
    done = headrace("--debug", "check", "raises.py")

    assert done.code == 1
    assert "Traceback (most recent call last)" in done.err
    assert "ZeroDivisionError" in done.err
    assert done.last_error.startswith("raises.py:2: ")


@pytest.mark.parametrize(
    ("name", "code", "found"),
    [
        ("nosuch.py:app", 4, "nosuch.py: expected a Python file, found nothing there"),
        ("folder/:app", 4, "folder/: expected a Python file, found a folder"),
        ("folder/notes.txt", 4, "folder/notes.txt: expected a Python file, found another file"),
        ("nosuch:app", 4, "nosuch: expected a module that can be imported, found no 'nosuch'"),
        ("nosuch.sub:app", 4, "found no 'nosuch'"),
        ("plant.py:nix", 4, "expected an App named 'nix', found none; the apps in it are: app"),
        ("plant:nix", 4, "expected an App named 'nix', found none"),
        ("plant.py:Reading", 4, "expected 'Reading' to be an App, found the class Reading"),
        ("plant.py:hot", 4, "expected 'hot' to be an App, found a Pattern"),
        ("none.py", 4, "expected an App in it, found none"),
        ("two.py", 2, "expected one App, found 2: a, b; say which, as in two.py:a"),
        ("plant.py:", 2, "expected module:attribute or plant.py:app, found ''"),
        ("plant.py:a-b", 2, "found 'a-b' after the colon"),
        (":app", 2, "found no module and no file"),
        ("a b", 2, "found a name that is neither"),
        ("", 2, "found no module and no file"),
        ("nosuch\x1b[2J.py", 4, r"nosuch\x1b[2J.py"),
    ],
)
def test_an_app_that_is_not_there(
    headrace: Call, plant: Path, tmp_path: Path, name: str, code: int, found: str
) -> None:
    """Which of file, module and attribute is wrong, and what there is instead."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("x = 1\n")
    (tmp_path / "none.py").write_text("x = 1\n")
    (tmp_path / "two.py").write_text(
        "from headrace import App\na = App('a')\nb = App('b')\nsame = a\n"
    )
    done = headrace("check", name)

    assert found in one_line(done)
    assert done.code == code


# The log.


@pytest.mark.parametrize(
    "command",
    [
        ["log", "info"],
        ["log", "cat"],
        ["log", "verify"],
        ["log", "salvage"],
        ["events", "tail"],
        ["runs", "list"],
        ["runs", "show"],
        ["rules", "list"],
        ["alarms", "list"],
        ["state", "plant.py"],
        ["replay", "plant.py"],
    ],
    ids=" ".join,
)
def test_reading_what_is_no_log(
    headrace: Call, plant: Path, tmp_path: Path, command: list[str]
) -> None:
    """No command makes a log where there is none, or takes something else for one."""
    (tmp_path / "empty").mkdir()
    more = {"salvage": ["new.log"], "show": ["1"]}.get(command[1], [])
    before = sorted(tmp_path.iterdir())
    for path, found in (
        ("nolog", "found nothing there"),
        ("plant.py", "found a file"),
        (".", "found a folder with 'empty'"),
        ("empty", "found an empty folder"),
        ("plant.py/x", "found nothing there"),
    ):
        done = headrace(*command, path, *more)

        assert one_line(done) == f"{path}: expected an event log, {found}; check the path"
        assert done.code == 4
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "__pycache__"] == before


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("plant.py", "expected a directory, found a file"),
        ("plant.py/x", "Not a directory"),
        ("foreign", "expected an event log or an empty directory, found 'notes.txt'"),
        ("/proc/nolog", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_writing_where_no_log_can_be(
    headrace: Call, plant: Path, readings: Path, tmp_path: Path, path: str, found: str
) -> None:
    """A folder with other things in it is not touched; a place that is not writable is named."""
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    done = headrace("run", plant, "--log", path, "--from", readings)

    assert found in one_line(done)
    assert done.code == 1
    assert done.out == ""
    assert [path.name for path in (tmp_path / "foreign").iterdir()] == ["notes.txt"]


def test_a_log_of_a_newer_headrace_is_left_alone(headrace: Call, log: Path) -> None:
    """Going back to an older version says so, and changes nothing."""
    files = SystemFiles()
    found = manifest.load(files, str(log))
    assert found is not None
    manifest.store(files, str(log), msgspec.structs.replace(found, format=99))
    before = {path.name: path.read_bytes() for path in log.iterdir()}
    for command in (
        ["log", "info", log],
        ["state", "plant.py", log],
        ["run", "plant.py", "--log", log, "--from", "readings.jsonl", "--clock", "input"],
    ):
        done = headrace(*command)

        assert "written by a newer headrace" in one_line(done)
        assert done.code == 1
    after = {path.name: path.read_bytes() for path in log.iterdir()}
    assert {**after, "LOCK": b""} == {**before, "LOCK": b""}


@pytest.mark.slow
def test_a_log_that_is_held_says_by_whom(
    headrace: Call, shell: Call, plant: Path, readings: Path, tmp_path: Path
) -> None:
    """Two writers would destroy a log: the second one is told who the first is."""
    held = FileLog(tmp_path / "plant.log")
    held.open(lambda: None)
    try:
        done = shell("run", "plant.py", "--log", "plant.log", "--from", readings)
    finally:
        held.close()

    assert f"found the log held by pid {os.getpid()}" in done.last_error
    assert done.code == 1


def test_a_log_is_opened_with_the_clock_that_it_has(headrace: Call, log: Path) -> None:
    """Times of the machine and of the events cannot be mixed in one log."""
    done = headrace("run", "plant.py", "--log", "plant.log", "--from", "readings.jsonl")

    assert one_line(done).startswith("plant.log: the log goes by clock='input'")
    assert done.code == 1


@pytest.mark.parametrize(
    "command",
    [
        ["log", "cat", "plant.log"],
        ["events", "tail", "plant.log"],
        ["runs", "list", "plant.log"],
        ["runs", "show", "plant.log", "8"],
        ["rules", "list", "plant.log"],
        ["rules", "pause", "plant.log", "cool"],
        ["alarms", "list", "plant.log"],
        ["alarms", "ack", "plant.log", "cool"],
        ["state", "plant.py", "plant.log"],
        ["replay", "plant.py", "plant.log"],
        ["run", "plant.py", "--log", "plant.log", "--from", "readings.jsonl", "--clock", "input"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
@pytest.mark.parametrize("file", ["*.hrl", "MANIFEST"])
def test_a_damaged_log_is_exit_code_6(
    headrace: Call, log: Path, command: list[str], file: str
) -> None:
    """Nothing goes on with half a truth; the message says which file, byte and way out."""
    path = next(log.glob(file))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = headrace(*command)
    error = one_line(done)

    assert done.code == 6
    assert error.startswith(f"{path} byte ")
    assert "headrace log salvage" in error


@pytest.mark.parametrize("command", [["log", "info"], ["log", "cat"], ["runs", "list"]])
def test_a_log_without_its_list_of_segments_is_damaged(
    headrace: Call, log: Path, command: list[str]
) -> None:
    """Segments without MANIFEST are no wrong path: their records can be salvaged."""
    (log / "MANIFEST").unlink()
    done = headrace(*command, "plant.log")

    assert done.code == 6
    assert one_line(done).startswith(f"{log / 'MANIFEST'} byte 0: expected the list of segments")
    assert "headrace log salvage" in one_line(done)


def test_a_record_that_is_none_is_exit_code_6(headrace: Call, plant: Path, tmp_path: Path) -> None:
    """Intact frames around bytes that headrace never wrote are damage as well."""
    log = FileLog(tmp_path / "odd.log")
    log.open(lambda: None)
    log.append([msgspec.msgpack.encode([1, 5, 7, 8])])
    log.close()
    for command in (["log", "cat"], ["state", "plant.py"], ["runs", "list"]):
        done = headrace(*command, "odd.log")

        assert "odd.log record 1: expected a record, found" in one_line(done)
        assert done.code == 6


def test_lost_durability_is_exit_code_74(
    headrace: Call, plant: Path, readings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that does not keep what it was given ends the command, whatever else happens."""

    def fdatasync(_: object, fd: int) -> None:
        if os.fstat(fd).st_size > 400:  # more than a new segment: there are records in it
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SystemFiles, "fdatasync", fdatasync)
    done = headrace("run", plant, "--log", "plant.log", "--from", readings)

    assert done.code == 74
    assert "Input/output error" in one_line(done)


# Runs, options, input.


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["runs", "show", "plant.log", "999"], 4, "expected run 999, found records 1 to"),
        (["runs", "show", "plant.log", "0"], 4, "expected run 0, found records 1 to"),
        (["runs", "show", "plant.log", "3"], 4, "expected run 3, found 'event' at that sequence"),
        (["runs", "show", "plant.log", "x"], 2, "headrace runs show --help"),
        (["log", "cat", "plant.log", "--kind", "nix"], 2, "the kinds are event, timer.fired"),
        (["log", "cat", "plant.log", "--subject", "a..b"], 2, "pattern 'a..b', character 3"),
        (["log", "cat", "plant.log", "--after", "-1"], 2, "Must be >= 0"),
        (["log", "cat", "plant.log", "-o", "xml"], 2, 'Choose from: "table", "json", "jsonl"'),
        (["events", "tail", "plant.log", "-n", "many"], 2, "unable to convert"),
        (["runs", "list", "plant.log", "--status", "odd"], 2, '"dead"'),
        (["run", "plant.py"], 2, "--log"),
        (["run", "plant.py", "--log", "l", "--grace", "-1"], 2, "Must be >= 0"),
        (["run", "plant.py", "--log", "l", "--durability", "maybe"], 2, '"fsynced"'),
        (["run", "plant.py", "--log", "l", "--from", "-", "--from", "-"], 2, "several times"),
        (["run", "plant.py", "--log", "l", "--from", "no.jsonl"], 4, "no.jsonl: expected a file"),
        (["run", "plant.py", "--log", "l", "--from", "."], 1, ".: expected a file of JSON lines"),
        (["nix"], 2, 'Unknown command "nix"; see `headrace --help`'),
        (["log", "nix"], 2, "headrace log --help"),
        (["check", "plant.py", "--nix"], 2, "Unknown option"),
        (["check"], 2, "headrace check --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments(
    headrace: Call, log: Path, arguments: list[str], code: int, found: str
) -> None:
    """Whatever was mistyped: which argument, what it takes, where to read on."""
    done = headrace(*arguments)

    assert found in one_line(done)
    assert done.code == code
    assert done.out == ""
    assert not (log.parent / "l").exists(), "nothing is made for a command that cannot run"


def test_a_dropped_firing_is_no_run(headrace: Call, tmp_path: Path) -> None:
    """A sequence that a rule's row names may be a firing without a run: then one is told."""
    app = App("a")

    async def fill() -> None:
        async with app.open(tmp_path / "d.log", grace_s=0) as engine:
            await engine.emit_many([("a.b", 1), ("a.b", 2)])

    from headrace import on

    async def wait() -> None:
        await anyio.sleep_forever()

    app.rule(on("a.b"), mode="single")(wait)
    anyio.run(fill)
    rows = headrace("log", "cat", "d.log", "--kind", "rule.fired", "-o", "jsonl").jsonl
    (dropped,) = [row["sequence"] for row in rows if row["outcome"] == "dropped"]
    done = headrace("runs", "show", "d.log", dropped)

    assert "found a firing that was dropped" in one_line(done)
    assert done.code == 4


@pytest.mark.slow
def test_nobody_reads_the_output(log: Path) -> None:
    """``| head`` is no error: silence, and the code that shells expect of it."""
    process = subprocess.Popen(
        [HEADRACE, "log", "cat", log], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, err = process.communicate(timeout=30)

    assert err == b""
    assert process.returncode == 141


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "x: No space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "output: No space left on device"),
        (DurabilityLost("gone"), 74, "gone"),
    ],
)
def test_whatever_a_command_raises_becomes_an_exit_code(
    headrace: Call,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    said: str,
) -> None:
    """Also what no command expects."""

    def dispatch(_: list[str]) -> NoReturn:
        raise error

    monkeypatch.setattr(entry, "_dispatch", dispatch)
    done = headrace("version")

    assert done.code == code
    assert done.err == (f"headrace: {said}\n" if said else "")


def test_a_bug_of_ours_is_one_line_too(
    capsys: pytest.CaptureFixture[str], say: Callable[[BaseException], None]
) -> None:
    """A traceback of our code helps nobody but us: it is shown on request."""
    say(AssertionError("a\nb"))

    assert capsys.readouterr().err == (
        "headrace: internal error: AssertionError: a b; please report it with what --debug shows\n"
    )


@pytest.fixture
def say() -> Callable[[BaseException], None]:
    return lambda error: entry._say_bug(type(error), error, None)
