"""``headrace run``: from a file or a pipe into the log, to the end or to a signal."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest
from tests.cli.command import PLANT, WAIT_S, Call, Start, lines_of

from headrace.demo.outcome import first_difference, read_outcome

SLOW = """
from __future__ import annotations

import sys
import time

import anyio

from headrace import App, Firing, Run, on

app = App("slow")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@app.rule(on("work.sleep"))
async def sleeps(run: Run, firing: Firing) -> str:
    say("sleeping")
    await run.sleep(firing.events[0].data)
    return "slept"


@app.rule(on("work.work"))
async def works(firing: Firing) -> None:
    say("working")
    await anyio.sleep(firing.events[0].data)


@app.rule(on("work.block"))
def blocks(firing: Firing) -> None:
    say("blocking")
    time.sleep(firing.events[0].data)


@app.rule(on("work.quick"))
async def quick() -> None: ...
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """An app whose runs take as long as the event says."""
    path = tmp_path / "slow.py"
    path.write_text(SLOW)
    return path


def work(kind: str, data: object = None, **more: object) -> str:
    return json.dumps({"subject": f"work.{kind}", "data": data, **more}) + "\n"


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Return once the process has said *text* on stderr."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended with {process.wait()} before it said {text!r}")


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=WAIT_S)
    return process.returncode, out, err


# To the end of the input.


def test_the_summary_says_what_it_came_to(headrace: Call, plant: Path, readings: Path) -> None:
    """Events, firings by rule, runs by state, dead letters, what was skipped; in numbers."""
    run = ("run", plant, "--log", "plant.log", "--from", readings, "--clock", "input")
    found = headrace(*run, "-o", "json").json

    assert found["events"] == 6
    assert found["firings"] == {"cool": 1}
    assert found["runs"] == {"completed": 3, "dead": 1}
    assert (found["retries"], found["dead_letters"]) == (1, 1)
    assert (found["duplicates"], found["bad_lines"]) == (0, 0)
    assert found["mismatches"] == found["rule_errors"] == {}
    now = found["this_time"]
    assert (now["lines"], now["events"], now["firings"]) == (5, 6, {"cool": 1})
    assert now["events"] == found["events"], "in a new log all of them are of this time"
    assert now["runs_ended"] == {"completed": 3, "dead": 1}
    text = headrace(*run).out
    assert "events        6; 0 of them this time" in text
    assert "dead letters  1 (headrace runs list plant.log --status dead)" in text


@pytest.mark.slow
def test_a_second_start_goes_on_where_the_first_was(
    headrace: Call, plant: Path, tmp_path: Path
) -> None:
    """Append to the file and start again, as often as you like: each line is stored once."""
    path = tmp_path / "growing.jsonl"
    lines = lines_of([95.0] * 9).splitlines(keepends=True)
    run = ("run", plant, "--log", "l", "--from", path, "--clock", "input", "-o", "json")
    read: list[int] = []
    for count in (2, 2, 5, 9):
        path.write_text("".join(lines[:count]))
        done = headrace(*run)
        assert done.code == 0, done.err
        read.append(done.json["this_time"]["lines"])
    assert read == [2, 0, 3, 4]
    rows = headrace("log", "cat", "l", "--subject", "plant.>", "-o", "jsonl").jsonl

    assert len(rows) == 9
    assert headrace(*run).json["firings"] == {"cool": 3}


def test_payloads_of_the_wrong_type_and_conditions_that_raise_are_counted(
    headrace: Call, plant: Path, tmp_path: Path
) -> None:
    """Nothing is lost because of them, and one sees that there were some."""
    plant.write_text(PLANT.replace("e.data.degrees > 90", "1 / e.data.degrees > 90"))
    path = tmp_path / "odd.jsonl"
    path.write_text(
        '{"subject": "plant.t1.temperature", "data": {"degrees": "warm"}}\n'
        '{"subject": "plant.t1.temperature", "data": {"degrees": 0}}\n'
        '{"subject": "plant.t1.temperature"}\n'
    )
    done = headrace("run", plant, "--log", "l", "--from", path, "-o", "json")

    assert done.code == 0
    assert done.json["events"] == 3
    assert done.json["mismatches"] == {"cool": 2}
    assert done.json["rule_errors"] == {"cool": 1}
    assert "mismatches    2 cool" in headrace("run", plant, "--log", "l", "--from", path).out


def test_repeated_ids_are_skipped_and_counted(headrace: Call, slow: Path, tmp_path: Path) -> None:
    """A producer that repeats itself after a timeout does no harm."""
    path = tmp_path / "twice.jsonl"
    path.write_text("".join(work("quick", n, id=i) for n, i in enumerate("abcab")))
    done = headrace("run", slow, "--log", "l", "--from", path, "-o", "json")

    assert done.json["duplicates"] == 2
    assert done.json["events"] == 3
    assert done.json["this_time"] | {"seconds": 0} == {
        "lines": 5,
        "events": 3,
        "firings": {"quick": 3},
        "runs_ended": {"completed": 3},
        "dead_letters": 0,
        "seconds": 0,
    }


@pytest.mark.slow
def test_a_bad_line_stops_before_it_and_loses_nothing(
    headrace: Call, slow: Path, tmp_path: Path
) -> None:
    """Correct the line and start again: what comes before it is stored, what comes after waits."""
    path = tmp_path / "bad.jsonl"
    path.write_text(work("quick", 1) + "nope\n" + work("quick", 3))
    done = headrace("run", slow, "--log", "l", "--from", path, "-o", "json")

    assert done.code == 1
    assert done.last_error.startswith(f"{path}:2: expected JSON, found nope")
    assert done.json["events"] == 1
    assert headrace("run", slow, "--log", "l", "--from", path).code == 1
    path.write_text(work("quick", 1) + work("quick", 2) + work("quick", 3))
    assert headrace("run", slow, "--log", "l", "--from", path).code == 0
    rows = headrace("events", "tail", "l", "-o", "jsonl").jsonl
    assert [row["data"] for row in rows] == [1, 2, 3]


def test_bad_lines_are_skipped_on_request(headrace: Call, slow: Path, tmp_path: Path) -> None:
    """Each is reported with its place, and counted."""
    path = tmp_path / "bad.jsonl"
    path.write_text(work("quick", 1) + "nope\n" + work("quick", 3) + '{"subject": "a..b"}\n')
    done = headrace("run", slow, "--log", "l", "--from", path, "--skip-bad-lines", "-o", "json")
    reports = [json.loads(line) for line in done.err.splitlines() if "bad_line" in line]

    assert done.code == 0
    assert (done.json["events"], done.json["bad_lines"]) == (2, 2)
    assert [report["place"] for report in reports] == [f"{path}:2", f"{path}:4"]
    assert reports[0]["expected"] == "JSON"


def test_a_file_that_was_cut_is_not_read_at_a_wrong_place(
    headrace: Call, slow: Path, tmp_path: Path
) -> None:
    """A rotated log file under the same name is another source, a truncated one an error."""
    path = tmp_path / "cut.jsonl"
    path.write_text(work("quick", 1) + work("quick", 2))
    assert headrace("run", slow, "--log", "l", "--from", path).code == 0
    path.write_text(work("quick", 1))
    done = headrace("run", slow, "--log", "l", "--from", path)
    assert done.code == 1
    assert "the file was cut or rewritten" in done.last_error
    path.write_text(work("quick", 7))

    assert headrace("run", slow, "--log", "l", "--from", path, "-o", "json").json["events"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["input", "system"])
def test_several_files_and_a_pipe(shell: Call, slow: Path, tmp_path: Path, clock: str) -> None:
    """By input they are merged by their times; by the clock none waits for another."""
    for name, first in (("odd", 1), ("even", 2)):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(work("quick", n, time=n) for n in range(first, 60, 2)))
    done = shell(
        "run", slow, "--log", "l", "--from", "odd.jsonl", "--from", "even.jsonl", "--from", "-",
        "--clock", clock, "-o", "json", stdin=work("quick", 60, time=60),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["this_time"]["lines"] == 60
    rows = shell("events", "tail", "l", "-n", 99, "-o", "jsonl").jsonl

    assert sorted(row["data"] for row in rows) == list(range(1, 61))
    if clock == "input":
        assert [row["data"] for row in rows] == list(range(1, 61))


@pytest.mark.slow
def test_a_pipe_is_stored_as_it_comes(start: Start, slow: Path, tmp_path: Path) -> None:
    """``tail -f … | headrace run`` reacts to each line, not to each block of 4096 bytes."""
    process = start("run", slow, "--log", "l", "--from", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    for _ in range(3):
        process.stdin.write(work("sleep", 0))
        process.stdin.flush()
        wait_for(process, "sleeping")
    code, out, _ = ended(process)

    assert code == 0
    assert "3 completed" in out


# To a signal.


def stopping(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    wait_for(process, "stopping")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_first_signal_stops_in_good_order(
    start: Start, headrace: Call, slow: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    """Runs that end within the grace do; the log is closed; the summary is printed."""
    (tmp_path / "in.jsonl").write_text(work("work", 0.3))
    process = start("run", slow, "--log", "l", "--from", "in.jsonl", "-o", "json")
    wait_for(process, "working")
    stopping(process, number)
    found, out, _ = ended(process)

    assert found == code
    assert json.loads(out)["runs"] == {"completed": 1}
    assert headrace("log", "info", "l", "-o", "json").json["closed_cleanly"] is True


@pytest.mark.slow
def test_what_has_not_ended_within_the_grace_resumes(
    start: Start, headrace: Call, slow: Path, tmp_path: Path
) -> None:
    """A stop for an update is no reason to lose a run: the next start finishes it."""
    (tmp_path / "in.jsonl").write_text(work("sleep", 1.2))
    run = ("run", slow, "--log", "l", "--from", "in.jsonl", "-o", "json")
    process = start(*run, "--grace", "0")
    wait_for(process, "sleeping")
    stopping(process, signal.SIGTERM)
    code, out, _ = ended(process)
    assert code == 0
    assert json.loads(out)["runs"] == {"active": 1}
    done = headrace(*run)

    assert done.json["runs"] == {"completed": 1}
    assert done.json["this_time"]["events"] == 0


@pytest.mark.slow
def test_without_input_it_runs_until_a_signal(
    start: Start, headrace: Call, slow: Path, tmp_path: Path
) -> None:
    """A service: it waits, and leaves a clean log."""
    process = start("run", slow, "--log", "l", "--log-format", "human")
    wait_for(process, "started")
    stopping(process, signal.SIGTERM)

    assert ended(process)[0] == 0
    assert headrace("log", "info", "l", "-o", "json").json["closed_cleanly"] is True


@pytest.mark.slow
def test_the_second_signal_stops_at_once(
    start: Start, headrace: Call, slow: Path, tmp_path: Path
) -> None:
    """Whoever cannot wait need not, and loses nothing: the run is resumed."""
    (tmp_path / "in.jsonl").write_text(work("work", 60))
    process = start("run", slow, "--log", "l", "--from", "in.jsonl", "--grace", "60")
    wait_for(process, "working")
    stopping(process, signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, _, err = ended(process)

    assert code == 128 + signal.SIGTERM
    assert "headrace: stopped at once; the next start goes on from here" in err
    (run,) = headrace("runs", "list", "l", "-o", "json").json
    assert run["status"] == "active"
    assert headrace("log", "verify", "l").code == 0


@pytest.mark.slow
def test_a_thread_that_does_not_end_does_not_keep_the_process(
    start: Start, headrace: Call, slow: Path, tmp_path: Path
) -> None:
    """Python waits for threads at its end; a command that was told to stop twice does not."""
    (tmp_path / "in.jsonl").write_text(work("block", 60))
    process = start("run", slow, "--log", "l", "--from", "in.jsonl", "--grace", "0")
    wait_for(process, "blocking")
    stopping(process, signal.SIGTERM)
    process.send_signal(signal.SIGTERM)

    assert ended(process)[0] == 128 + signal.SIGTERM


@pytest.mark.slow
def test_a_silent_pipe_does_not_keep_the_process(start: Start, slow: Path, tmp_path: Path) -> None:
    """The signal comes while it waits for a line that never comes."""
    process = start("run", slow, "--log", "l", "--from", "-", stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(work("sleep", 0))
    process.stdin.flush()
    wait_for(process, "sleeping")
    stopping(process, signal.SIGTERM)
    # Standard input stays open until it has ended.
    assert process.wait(WAIT_S) == 0
    assert process.stdout is not None
    assert "1 completed" in process.stdout.read()


# To a kill.

MANY = 20_000
KILLED_AFTER_RUNS = (30, 30)
"""Of 95 runs, one for every 211 events."""

TELLING = PLANT.replace(
    "async def cool(run: Run, firing: Firing[Reading]) -> list[str]:\n",
    'async def cool(run: Run, firing: Firing[Reading]) -> list[str]:\n'
    '    import sys\n'
    '    print("cooling", file=sys.stderr, flush=True)\n',
)  # fmt: skip


def many_lines() -> str:
    """Readings of which some are hot, a second apart, so that runs overlap with events."""
    return lines_of([95.0 if n % 211 < 3 else 20.0 + n % 7 for n in range(MANY)], every_s=1.0)


def count_lines(stream: IO[str], text: str, count: int) -> None:
    """Return once *text* was said *count* times."""
    for line in stream:
        count -= text in line
        if not count:
            return
    raise AssertionError(f"it ended {count} before")


@pytest.mark.slow
def test_killed_and_started_again_nothing_is_lost_and_nothing_is_there_twice(
    start: Start, headrace: Call, tmp_path: Path
) -> None:
    """After kill -9, twice, in the middle of a file: as if nothing had happened."""
    (tmp_path / "plant.py").write_text(TELLING)
    (tmp_path / "many.jsonl").write_text(many_lines())
    run = ("run", "plant.py", "--from", "many.jsonl", "--clock", "input", "-o", "json")
    undisturbed = headrace(*run, "--log", "whole.log")
    assert undisturbed.code == 0, undisturbed.err
    stored: list[int] = []
    for runs in KILLED_AFTER_RUNS:
        process = start(*run, "--log", "killed.log")
        assert process.stderr is not None
        count_lines(process.stderr, "cooling", runs)
        process.kill()
        assert process.wait(WAIT_S) == -signal.SIGKILL
        stored.append(headrace("log", "info", "killed.log", "-o", "json").json["records"])
    done = headrace(*run, "--log", "killed.log")
    assert done.code == 0, done.err

    assert 0 < stored[0] < stored[1], "both kills hit it at work"
    assert 0 < done.json["this_time"]["events"] < MANY
    left, other = (
        headrace("log", "cat", "killed.log", "-o", "jsonl", "--subject", "plant.>"),
        [json.loads(line) for line in (tmp_path / "many.jsonl").read_text().splitlines()],
    )
    assert [row["data"] for row in left.jsonl] == [line["data"] for line in other]
    for key in ("events", "firings", "runs", "retries", "dead_letters"):
        assert done.json[key] == undisturbed.json[key]
    source = left.jsonl[0]["source"]
    one, two = (
        read_outcome(tmp_path / name, source=source) for name in ("whole.log", "killed.log")
    )
    assert one is not None
    assert two is not None
    assert first_difference(one, two) is None
    assert headrace("log", "verify", "killed.log").code == 0
    assert headrace("replay", "plant.py", "killed.log", "--strict").code == 0


@pytest.mark.slow
def test_two_processes_cannot_run_on_one_log(
    start: Start, shell: Call, slow: Path, tmp_path: Path
) -> None:
    """The second is refused; the first does not notice."""
    process = start("run", slow, "--log", "l")
    wait_for(process, "started")
    second = shell("run", slow, "--log", "l")
    assert second.code == 1
    assert f"found the log held by pid {process.pid}" in second.last_error
    assert shell("log", "verify", "l").code == 0, "reading is always allowed"
    stopping(process, signal.SIGTERM)

    assert ended(process)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("output", ["jsonl", "table", "json"])
def test_tail_follows_what_another_process_writes(
    start: Start, slow: Path, tmp_path: Path, output: str
) -> None:
    """Each event is printed while the writer is at work, and the writer does not notice."""
    writer = start("run", slow, "--log", "l", "--from", "-", stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(work("quick", "first"))
    writer.stdin.flush()
    wait_for(writer, "started")
    tail = start("events", "tail", "l", "-f", "-n", 5, "--subject", "work.*", "-o", output)
    assert tail.stdout is not None
    said: list[str] = []
    for word in ("first", "second", "third"):
        if word != "first":
            writer.stdin.write(work("quick", word))
            writer.stdin.flush()
        while not any(word in line for line in said):
            line = tail.stdout.readline()
            assert line, "it ended"
            said.append(line)
    tail.send_signal(signal.SIGINT)
    code, rest, err = ended(tail)

    assert (code, err) == (130, "")
    if output != "table":
        text = "".join(said) + rest
        rows = [json.loads(line) for line in said] if output == "jsonl" else json.loads(text)
        assert [row["data"] for row in rows] == ["first", "second", "third"]


@pytest.mark.slow
def test_tail_ends_when_nobody_reads_it(start: Start, slow: Path, tmp_path: Path) -> None:
    """Also while no event comes: a pager that was closed leaves no process behind."""
    writer = start("run", slow, "--log", "l", "--from", "-", stdin=subprocess.PIPE)
    assert writer.stdin is not None
    writer.stdin.write(work("quick"))
    writer.stdin.flush()
    wait_for(writer, "started")
    tail = start("events", "tail", "l", "-f", "-o", "jsonl")
    assert tail.stdout is not None
    assert "work.quick" in tail.stdout.readline()
    tail.stdout.close()

    assert tail.wait(WAIT_S) in (0, 141)
