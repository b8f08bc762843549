"""Each command over a log of which a snapshot has hundreds of runs that have not begun."""

from __future__ import annotations

import io
import re
import shutil
from itertools import count
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from tests.cli.command import Call, Done

from headrace import App, FileLog, LogCorrupt
from headrace.engine.log import LogReader
from headrace.engine.restore import restore
from headrace.engine.run_writing import FRESH_MIN

pytestmark = pytest.mark.slow

APP: Final = """
import anyio
from headrace import App, Firing, Run, on

app = App("left")
HELD = False
LISTENS = 17


@app.task
async def half(number: int) -> int:
    return number // 2


part = on("part.*", int).key(lambda e: e.tokens[1])


@app.rule(part, name="work")
async def work(run: Run, firing: Firing[int]) -> int:
    if HELD:
        await anyio.sleep_forever()
    number = firing.events[0].data
    if number == LISTENS:
        return len(await run.receive("go", str))
    return await run.call(half, number)


@app.rule(part.count(2, within=None), name="pair")
async def pair(firing: Firing[int]) -> list[int]:
    return [event.data for event in firing.events]
"""
LISTENS: Final = 17
BEFORE, ALL, KEYS = 300, 303, 4
"""Events before the snapshot, and all; how many keys they have in turn."""

# Where each record is: the start is the first, and each event has its firings behind it.
EVENT: Final[dict[int, int]] = {}
WORK: Final[dict[int, int]] = {}
PAIR: Final[dict[int, int]] = {}
"""By the number of the event that made it: every second one of a key makes a pair."""
_next = count(2)
for _number in range(ALL):
    EVENT[_number], WORK[_number] = next(_next), next(_next)
    if _number // KEYS % 2:
        PAIR[_number] = next(_next)
LAST: Final = next(_next) - 1
SNAPSHOT: Final = EVENT[BEFORE] - 1
RUNS: Final = sorted([*WORK.values(), *PAIR.values()])


def app_in(folder: Path, *, held: bool = False) -> App:
    """The app, in a file of *folder*; with *held* its first run never ends."""
    path = folder / "app.py"
    path.write_text(APP)
    namespace: dict[str, Any] = {}
    exec(compile(APP, path, "exec"), namespace)
    namespace["HELD"] = held
    app: App = namespace["app"]
    return app


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of an engine that died before any run had done anything."""
    folder = tmp_path_factory.mktemp("left")
    app = app_in(folder, held=True)

    async def work() -> None:
        log = FileLog(folder / "live.log", segment_bytes_max=4000)
        async with app.open(log, concurrency=1, snapshot_every=0, grace_s=0) as engine:
            numbers = [(f"part.{number % KEYS}", number) for number in range(ALL)]
            for first in range(0, BEFORE, 20):
                await engine.emit_many(numbers[first : first + 20])
            await engine.snapshot()
            await engine.emit_many(numbers[BEFORE:])
            assert engine.kernel.sequence == LAST
            # Nothing is written any more, so this is what a crash leaves.
            ignored = shutil.ignore_patterns("LOCK", "control.sock", "*.tmp")
            shutil.copytree(log.path, folder / "left.log", ignore=ignored)

    anyio.run(work)
    return folder / "left.log"


@pytest.fixture
def log(left: Path, tmp_path: Path) -> Path:
    """A copy of it, beside its app."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "none.jsonl").write_text("")
    shutil.copytree(left, tmp_path / "left.log")
    return Path("left.log")


def fresh_in(log: Path) -> set[int]:
    """The runs of which its snapshot has no more than which they are."""
    rules = app_in(log.parent).decider()
    with LogReader(log) as reader:
        return set(restore(reader, rules, clock=None).state.runs.fresh)


def test_the_log_is_what_these_tests_are_about(left: Path) -> None:
    """The snapshot has as fresh what is many of one key, and the others one by one."""
    assert fresh_in(left) == {run for run in WORK.values() if run <= SNAPSHOT}
    assert len(PAIR) // KEYS < FRESH_MIN < BEFORE // KEYS


def test_runs_list(headrace: Call, log: Path) -> None:
    """All of them, and those of a task; each with its events and its key."""
    rows = headrace("runs", "list", log, "--limit", 1000, "-o", "json").json

    assert [row["run"] for row in rows] == RUNS[::-1]
    assert {row["status"] for row in rows} == {"active"}
    by_run = {row["run"]: row for row in rows}
    for number, run in WORK.items():
        row = by_run[run]
        assert (row["key"], row["events"]) == (str(number % KEYS), [EVENT[number]])
    for number, run in PAIR.items():
        assert by_run[run]["events"] == [EVENT[number - KEYS], EVENT[number]]
    pairs = headrace("runs", "list", log, "--task", "pair", "--limit", 1000, "-o", "json").json
    assert [row["run"] for row in pairs] == sorted(PAIR.values(), reverse=True)
    assert headrace("runs", "list", log, "--failed").out == "no dead runs\n"


def test_runs_show(headrace: Call, log: Path) -> None:
    """Its input, and that nothing has been done of it."""
    story = headrace("runs", "show", log, PAIR[150], "-o", "json").json

    assert [event["data"] for event in story["input"]] == [146, 150]
    assert (story["status"], story["attempt"], story["key"]) == ("active", 1, "2")
    assert (story["steps"], story["failures"]) == ([], [])


def test_runs_list_of_a_log_whose_beginning_is_gone(headrace: Call, tmp_path: Path) -> None:
    """Then it begins with a snapshot, and all of them are told nevertheless."""
    app, path = app_in(tmp_path, held=True), tmp_path / "late.log"

    async def work() -> None:
        log = FileLog(path, segment_bytes_max=2000, keep_bytes=0)
        async with app.open(log, concurrency=1, snapshot_every=0, grace_s=0) as engine:
            await engine.emit_many([("noise", number) for number in range(400)])
            await engine.emit_many([(f"part.{n % KEYS}", n) for n in range(BEFORE)])
            for _ in range(3):
                await engine.emit("noise", 0)
                await engine.snapshot()

    anyio.run(work)
    with LogReader(path) as reader:
        first = reader.first_sequence
    assert 1 < first <= 400 + 2, "of what came before them"
    done = headrace("runs", "list", path, "--limit", 1000, "-o", "json")
    assert done.code == 0, done.err
    made = [row for row in done.json if row["task"] == "work"]
    assert {row["key"] for row in made} == set(map(str, range(KEYS)))
    assert [row["run"] - row["events"][0] for row in made] == [1] * BEFORE


def state(headrace: Call, log: Path, *arguments: object) -> dict[str, Any]:
    """The state as JSON."""
    done = headrace("state", "app.py", log, *arguments, "-o", "json")
    assert done.code == 0, done.err
    found: dict[str, Any] = done.json
    return found


@pytest.mark.parametrize("number", [0, 149, BEFORE, ALL - 2])
def test_state_at(headrace: Call, log: Path, number: int) -> None:
    """As many runs as the events up to there have made, before the snapshot and behind it."""
    there = state(headrace, log, "--at", EVENT[number + 1] - 1, "--limit", 1000)

    made = [run for run in RUNS if run < EVENT[number + 1]]
    assert there["events"] == number + 1
    assert there["runs"] == {"active": len(made), "waiting": 0}
    assert [run["run"] for run in there["open_runs"]] == made
    fired = {rule["rule"]: rule["fired"] for rule in there["rules"]}
    pairs = sum(made_by <= number for made_by in PAIR)
    assert fired == {"work": number + 1, "pair": pairs}


def test_state_of_a_run_and_of_a_key(headrace: Call, log: Path) -> None:
    """One of before the snapshot, at the end; and those of one key."""
    there = state(headrace, log, "--run", WORK[150])

    (run,) = there["open_runs"]
    assert (run["run"], run["key"], run["status"]) == (WORK[150], "2", "active")
    there = state(headrace, log, "--key", "3", "--limit", 1000)
    of_key = sorted(run for n, run in [*WORK.items(), *PAIR.items()] if n % KEYS == 3)
    assert [run["run"] for run in there["open_runs"]] == of_key


def test_diff(headrace: Call, log: Path) -> None:
    """From one side of the snapshot to the other: the runs that were made in between."""
    done = headrace("diff", "app.py", log, SNAPSHOT, LAST, "-o", "json")

    assert done.code == 3
    appeared = {row["what"] for row in done.json["changes"] if row["change"] == "appeared"}
    of = {run: "pair" if run in PAIR.values() else "work" for run in RUNS}
    expected = {f"run {run} of {task}" for run, task in of.items() if run > SNAPSHOT}
    assert {what for what in appeared if what.startswith("run ")} == expected
    assert headrace("diff", "app.py", log, LAST, LAST, "-o", "json").code == 0


def test_why(headrace: Call, log: Path) -> None:
    """Of an event behind the snapshot whose partner is before it, and of one that is alone."""
    number = next(n for n in range(BEFORE, ALL) if n in PAIR)
    done = headrace("why", "app.py", log, "pair", "--at", EVENT[number], "-o", "json")

    assert done.code == 0, done.err
    assert done.json["verdict"] == "fired"
    assert done.json["firings"][0]["events"] == [EVENT[number - KEYS], EVENT[number]]
    alone = headrace("why", "app.py", log, "pair", "--at", EVENT[8], "-o", "json")
    assert alone.json["firings"] == []


def test_replay_and_whatif_of_the_same_rules(headrace: Call, log: Path) -> None:
    """From the beginning and from the snapshot: the same state."""
    whole = headrace("replay", "app.py", log, "-o", "json").json
    tail = headrace("replay", "app.py", log, "--from", SNAPSHOT, "-o", "json").json

    assert (whole["records"], whole["firings"]) == (LAST, len(RUNS))
    assert (tail["from_snapshot"], tail["records"]) == (SNAPSHOT, LAST - SNAPSHOT)
    assert tail["firings"] == sum(run > SNAPSHOT for run in RUNS)
    assert tail["digest"] == whole["digest"]
    assert (tail["same"], whole["same"]) == (True, True)
    same = headrace("whatif", "app.py", log, "--from", SNAPSHOT, "-o", "json")
    assert (same.code, same.json["same_firings"]) == (0, tail["firings"])


def test_whatif_and_bisect_of_other_rules(headrace: Call, log: Path) -> None:
    """What vanishes is what is no more wanted, and the first of it is where the two part."""
    first = 200
    other = APP.replace(".key(", f".where(lambda e: e.data < {first}).key(")
    Path("other.py").write_text(other)
    found = headrace("whatif", "other.py", log, "-o", "json")

    vanished = [run for run in RUNS if run > EVENT[first]]
    assert (found.code, found.json["vanished"]) == (3, len(vanished))
    assert found.json["same_firings"] == len(RUNS) - len(vanished)
    parted = headrace("bisect", "app.py", "other.py", log, "-o", "json")
    assert (parted.code, parted.json["parted_at"]) == (3, EVENT[first])
    tail = headrace("bisect", "app.py", "app.py", log, "--from", SNAPSHOT, "-o", "json")
    assert (tail.code, tail.json["same"]) == (0, True)


def test_timeline_and_trace(headrace: Call, log: Path) -> None:
    """All runs, none of which has ended; and one event with what it led to."""
    line = headrace("timeline", log, "-o", "json").json

    assert (line["events"], line["firings"], line["runs_total"]) == (ALL, len(RUNS), len(RUNS))
    assert line["failures"] == 0
    tree = headrace("trace", log, EVENT[150], "-o", "json").json
    rows = [(row["sequence"], row["kind"], row["cause"]) for row in tree["records"]]
    event = EVENT[150]
    assert rows == [(event, "event", None), (WORK[150], "run", event), (PAIR[150], "run", event)]
    assert {row["status"] for row in tree["records"][1:]} == {"active"}


def test_debug(headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the snapshot and back: each record makes what it made."""
    number = next(n for n in range(BEFORE, ALL) if n in PAIR)
    script = f"goto {EVENT[number] - 1}\nn 3\ngoto {EVENT[150] - 1}\nn 3\nback 2\np\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(script))
    done = headrace("debug", "app.py", log)

    assert done.code == 0, done.err
    made = re.findall(r"^    \+ run (\d+) of (\w+)$", done.out, re.MULTILINE)
    steps = [(number, WORK), (number, PAIR), (150, WORK), (150, PAIR)]
    assert {(str(of[n]), "pair" if of is PAIR else "work") for n, of in steps} <= set(made)


@pytest.mark.parametrize("at", [EVENT[150] - 1, SNAPSHOT, LAST])
def test_fork(headrace: Call, log: Path, at: int) -> None:
    """It has the runs that were made up to there, and executes those."""
    done = headrace("log", "fork", log, "forked", "--at", at)

    assert done.code == 0, done.err
    made = [run for run in RUNS if run <= at]
    there = state(headrace, Path("forked"), "--limit", 1000)
    assert [run["run"] for run in there["open_runs"]] == made
    if WORK[LISTENS] in made:
        assert headrace("runs", "signal", "forked", WORK[LISTENS], "go", '"on"').code == 0
    assert headrace("run", "app.py", "--log", "forked", "--from", "none.jsonl").code == 0
    rows = headrace("runs", "list", "forked", "--limit", 1000, "-o", "json").json
    ended = {row["run"]: row["status"] for row in rows if row["task"] != "half"}
    assert ended == dict.fromkeys(made, "completed")


def test_copy_and_snapshot(headrace: Call, log: Path) -> None:
    """Both have as fresh what the log has, the new snapshot also what came behind the old one."""
    before = state(headrace, log)
    assert headrace("log", "copy", log, "copied").code == 0
    assert fresh_in(Path("copied")) == fresh_in(log)
    done = headrace("log", "snapshot", "copied", "--app", "app.py", "-o", "json")
    assert done.code == 0, done.err
    assert fresh_in(Path("copied")) == set(WORK.values())
    assert state(headrace, Path("copied")) == before
    assert headrace("log", "verify", "copied").code == 0


def test_cancelled_signalled_and_run_to_the_end(headrace: Call, log: Path) -> None:
    """Each ends as it should, and whoever folds the log comes to the same state."""
    for run in (WORK[150], PAIR[151]):
        done = headrace("runs", "cancel", log, run, "--reason", "not needed")
        assert done.code == 0, done.err
    assert headrace("runs", "signal", log, WORK[LISTENS], "go", '"seven"').code == 0
    done = headrace("run", "app.py", "--log", log, "--from", "none.jsonl")

    assert done.code == 0, done.err
    rows = headrace("runs", "list", log, "--limit", 2000, "-o", "json").json
    of = {row["run"]: row for row in rows if row["task"] != "half"}
    cancelled = {run for run, row in of.items() if row["status"] == "cancelled"}
    assert cancelled == {WORK[150], PAIR[151]}
    assert {row["error"] for run, row in of.items() if run in cancelled} == {"not needed"}
    assert {of[run]["status"] for run in RUNS if run not in cancelled} == {"completed"}
    steps = [row for row in rows if row["task"] == "half"]
    assert {row["status"] for row in steps} == {"completed"}
    assert len(steps) == ALL - 2, "neither that which was cancelled nor that which listened"

    def result(run: int) -> Any:
        return headrace("runs", "show", log, run, "-o", "json").json["result"]

    assert result(WORK[149]) == 149 // 2
    assert result(WORK[LISTENS]) == len("seven")
    assert result(PAIR[150]) == [146, 150]
    replays = [[], ["--from", SNAPSHOT]]
    digests = {
        headrace("replay", "app.py", log, *begin, "-o", "json").json["digest"] for begin in replays
    }
    assert len(digests) == 1


# ---------------------------------------------------------------- damage


@pytest.fixture
def lost(log: Path) -> set[int]:
    """Damage a frame in the middle of a finished segment; return the records that are lost."""
    segment = sorted(log.glob("*.hrl"))[1]
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    with LogReader(log) as reader:
        found = {sequence for sequence in range(1, LAST + 1) if not is_there(reader, sequence)}
    assert min(found) < SNAPSHOT
    return found


def is_there(reader: LogReader, sequence: int) -> bool:
    """Whether a record can be read."""
    try:
        return bool(reader.fetch([sequence]))
    except LogCorrupt:
        return False


def one_line(done: Done, code: int) -> str:
    """The error, which is all that there is beside what was printed."""
    assert (done.code, "Traceback" in done.err) == (code, False)
    assert done.err.count("headrace: ") == 1
    return done.last_error


def test_whoever_looks_at_a_damaged_log_is_told_where(
    headrace: Call, log: Path, lost: set[int]
) -> None:
    """What can be told is told, and the damage is one line with its place and what to do."""
    first = min(lost)
    open_runs = headrace("runs", "list", log, "--limit", 1000, "-o", "json")
    assert f"(records {first} to the end)" in one_line(open_runs, 6)
    assert [row["run"] for row in open_runs.json] == RUNS[::-1]
    unread = {run for run in WORK.values() if run in lost}
    assert {row["run"] for row in open_runs.json if row["attempt"] == 0} == unread

    (run, *_) = sorted(unread)
    there = state(headrace, log, "--run", run)["open_runs"]
    assert f"run {run}: expected at {run} in the log the firing" in there[0]["error"]
    text = headrace("state", "app.py", log, "--run", run).out
    assert "it ends with the next start" in text
    for command in (
        ["runs", "show", log, run],
        ["why", "app.py", log, "work", "--at", run],
        ["replay", "app.py", log],
        ["whatif", "app.py", log],
        ["timeline", log],
        ["trace", log, run],
        ["log", "copy", log, "copied"],
    ):
        assert "headrace log salvage" in one_line(headrace(*command), 6), command
    tail = headrace("replay", "app.py", log, "--from", SNAPSHOT, "-o", "json")
    assert (tail.code, tail.json["same"]) == (0, True)


def test_a_damaged_log_is_run_to_its_end(headrace: Call, log: Path, lost: set[int]) -> None:
    """What needs a record that is lost is a dead letter, until that is mended."""
    needed = {run: {run, EVENT[n]} for n, run in WORK.items()}
    needed |= {run: {EVENT[n], EVENT[n - KEYS]} for n, run in PAIR.items()}
    dead = {run for run, records in needed.items() if records & lost}
    assert 0 < len(dead) < len(RUNS) // 2
    listening = WORK[LISTENS]
    assert headrace("runs", "signal", log, listening, "go", '"on"').code == 0
    done = headrace("run", "app.py", "--log", log, "--from", "none.jsonl")

    assert done.code == 0, done.err
    failed = headrace("runs", "list", log, "--failed", "--limit", 1000, "-o", "json")
    assert "headrace log salvage" in one_line(failed, 6)
    assert {row["run"] for row in failed.json} == dead
    run = min(run for run in WORK.values() if run in lost)
    assert "headrace log salvage" in one_line(headrace("runs", "redrive", log, run), 6)
    again = headrace("run", "app.py", "--log", log, "--from", "none.jsonl")
    assert again.code == 0, again.err


def test_a_dead_letter_goes_on_in_a_mended_log(
    headrace: Call, log: Path, left: Path, lost: set[int]
) -> None:
    """With the segment of a copy in place of the damaged one, nothing is lost after all."""
    assert headrace("runs", "signal", log, WORK[LISTENS], "go", '"on"').code == 0
    assert headrace("run", "app.py", "--log", log, "--from", "none.jsonl").code == 0
    segment = sorted(left.glob("*.hrl"))[1]
    shutil.copy(segment, log / segment.name)
    dead = headrace("runs", "list", log, "--failed", "--limit", 1000, "-o", "json")
    assert dead.code == 0, dead.err
    assert lost & {row["run"] for row in dead.json}
    for task in ("work", "pair"):
        assert headrace("runs", "redrive", log, "--task", task).code == 0
    assert headrace("run", "app.py", "--log", log, "--from", "none.jsonl").code == 0
    rows = headrace("runs", "list", log, "--limit", 2000, "-o", "json").json
    ended = {row["run"]: row["status"] for row in rows if row["task"] != "half"}
    assert ended == dict.fromkeys(RUNS, "completed")
    replayed = headrace("replay", "app.py", log, "-o", "json")
    assert (replayed.code, replayed.json["same"]) == (0, True)
    tail = headrace("replay", "app.py", log, "--from", SNAPSHOT, "-o", "json").json
    assert tail["digest"] == replayed.json["digest"]
