"""The commands that only look: log, events, runs, state, replay, check, version."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path

import anyio
import pytest
from tests.cli.command import PLANT, Call, lines_of

from headrace import App, __version__

pytestmark = pytest.mark.slow

# log


def test_log_info_says_what_a_log_is_without_reading_it_all(headrace: Call, log: Path) -> None:
    """Whoever finds a log wants to know what it is, how long and whether it ended well."""
    found = headrace("log", "info", log, "-o", "json").json

    assert found["log"] == str(log)
    assert len(found["log_id"]) == 32
    assert found["clock"] == "input"
    assert found["durability"] == "fsynced"
    assert found["created_by"] == __version__
    assert found["first_sequence"] == 1
    assert found["records"] == found["last_sequence"] == found["durable_sequence"]
    assert found["first_recorded_at"] == "2023-11-14T22:13:20Z"
    assert found["last_recorded_at"] == "2023-11-14T22:14:06Z"
    assert found["size_bytes"] < 10_000, "the space that is kept free is not the log's size"
    assert found["closed_cleanly"] is True


def test_size_of_a_log_whose_files_come_and_go(
    headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reader or the engine removes while it is counted is no error."""
    listed = os.scandir

    def late(path: Path) -> list[os.DirEntry[str]]:
        lease = path / "reader-1-1.lease"
        lease.touch()
        entries = list(listed(path))
        lease.unlink()
        return entries

    monkeypatch.setattr("headrace.cli.logs.os.scandir", late)
    assert headrace("log", "verify", log).code == 0
    assert headrace("log", "info", log).code == 0


def test_log_cat_prints_every_record(headrace: Call, log: Path) -> None:
    """Each line stands for itself: sequence, kind, time, and of events subject and data."""
    rows = headrace("log", "cat", log, "-o", "jsonl").jsonl

    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    assert rows[0]["kind"] == "engine.started"
    assert rows[0]["rules"].keys() == {"cool"}
    assert rows[-1]["kind"] == "engine.stopped"
    assert all(row["recorded_at"].startswith("2023-11-14T22:1") for row in rows)
    events = [row for row in rows if row["kind"] == "event"]
    assert events[0]["subject"] == "plant.t1.temperature"
    assert events[0]["data"] == {"degrees": 20.0}
    assert events[0]["time"] == "2023-11-14T22:13:20Z"
    assert events[0]["source"].startswith("file:readings.jsonl:")
    assert events[-1]["subject"] == "fans.t1.start"
    (fired,) = [row for row in rows if row["kind"] == "rule.fired"]
    assert fired["recorded_at"] == "2023-11-14T22:14:00Z", "a decision has the time of its input"
    assert [rows[sequence - 1]["data"]["degrees"] for sequence in fired["events"]] == [95, 96, 97]
    steps = {row["task"]: row["step"] for row in rows if row["kind"] == "step.requested"}
    assert steps == {"check": "spawn", "page": "launch"}


def test_log_cat_can_be_cut_and_filtered(headrace: Call, log: Path) -> None:
    """Of a log with millions of records one looks at a few."""

    def sequences(*options: object) -> list[int]:
        return [
            row["sequence"] for row in headrace("log", "cat", log, *options, "-o", "jsonl").jsonl
        ]

    assert sequences("--after", 5, "--limit", 2) == [6, 7]
    assert sequences("--limit", 0) == []
    assert sequences("--kind", "engine.started", "--kind", "rule.fired") == [1, 8]
    assert sequences("--subject", "plant.*.temperature", "--limit", 2) == [3, 4]
    assert len(sequences("--subject", "fans.>")) == 1
    assert sequences("--after", 10**6) == []
    # From the middle of a unit on, the time of its input and the source's name are known.
    (fired,) = headrace("log", "cat", log, "--after", 7, "--limit", 1, "-o", "jsonl").jsonl
    assert fired["recorded_at"] == "2023-11-14T22:14:00Z"
    (event,) = headrace("log", "cat", log, "--after", 6, "--limit", 1, "-o", "jsonl").jsonl
    assert event["source"].startswith("file:")


@pytest.mark.parametrize(
    "command",
    [
        ["check", "plant.py"],
        ["log", "info", "plant.log"],
        ["log", "cat", "plant.log"],
        ["log", "verify", "plant.log"],
        ["events", "tail", "plant.log"],
        ["runs", "list", "plant.log"],
        ["runs", "show", "plant.log", "8"],
        ["state", "plant.py", "plant.log"],
        ["replay", "plant.py", "plant.log"],
        ["version"],
    ],
    ids=" ".join,
)
def test_every_command_prints_for_people_and_for_programs(
    headrace: Call, log: Path, command: list[str]
) -> None:
    """One value, one on each line, or text; and nothing else is on stdout."""
    table, whole, lines = (headrace(*command, "-o", kind) for kind in ("table", "json", "jsonl"))

    assert [table.code, whole.code, lines.code] == [0, 0, 0], table.err
    assert table.out == headrace(*command).out
    assert not table.out.startswith(("{", "["))
    assert all(line == line.rstrip() for line in table.out.splitlines())
    assert lines.jsonl == (whole.json if isinstance(whole.json, list) else [whole.json])
    assert table.err == whole.err == lines.err == ""


def test_a_file_of_output_is_neither_folded_nor_coloured(
    headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes through a pipe is for grep: whole lines, no escape codes."""
    monkeypatch.setenv("COLUMNS", "20")
    out = headrace("runs", "list", log).out

    assert "\x1b" not in out
    assert "LookupError: nobody is on call for t1" in out


def test_log_verify_tells_intact_from_damaged(headrace: Call, log: Path) -> None:
    """A flipped bit is found, named and not skipped; the exit code says so too."""
    intact = headrace("log", "verify", log, "-o", "json")
    assert intact.json["ok"] is True
    segment = next(log.glob("*.hrl"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    damaged = headrace("log", "verify", log, "-o", "json")

    assert damaged.code == 6
    assert damaged.json["ok"] is False
    assert damaged.json["errors"][0]["file"] == str(segment)
    assert "byte" in headrace("log", "verify", log).out


def test_log_salvage_copies_what_is_intact(headrace: Call, log: Path) -> None:
    """The way out that every report of damage names exists, and says what it could not save."""
    segment = next(log.glob("*.hrl"))
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    done = headrace("log", "salvage", log, "saved.log", "-o", "json")

    assert done.code == 6
    assert done.json["complete"] is False
    assert done.json["records"] == len(headrace("log", "cat", "saved.log", "-o", "json").json)
    assert headrace("log", "verify", "saved.log").code == 0
    assert "missing" in headrace("state", "plant.py", "saved.log").last_error


# events


def test_events_tail_prints_the_last_events(headrace: Call, log: Path) -> None:
    """However far back they are: other records lie in between."""
    rows = headrace("events", "tail", log, "-n", 2, "-o", "jsonl").jsonl

    assert [row["subject"] for row in rows] == ["plant.t1.temperature", "fans.t1.start"]
    assert len(headrace("events", "tail", log, "-o", "jsonl").jsonl) == 6
    assert headrace("events", "tail", log, "-n", 0, "-o", "json").json == []
    hot = headrace("events", "tail", log, "-n", 1, "--subject", "plant.>", "-o", "jsonl").jsonl
    assert [row["data"]["degrees"] for row in hot] == [97.0]


def test_events_tail_looks_back_over_any_number_of_other_records(
    headrace: Call, tmp_path: Path
) -> None:
    """A quiet subject in a busy log is found where it is, at the very beginning."""

    async def fill() -> None:
        async with App("a").open(tmp_path / "busy.log") as engine:
            await engine.emit("quiet.x", 1)
            await engine.emit_many([("busy.x", n) for n in range(5000)])

    anyio.run(fill)
    rows = headrace("events", "tail", "busy.log", "-n", 3, "--subject", "quiet.*", "-o", "jsonl")

    assert [row["data"] for row in rows.jsonl] == [1]


# runs


def test_runs_list_is_newest_first_and_knows_all_states(headrace: Call, log: Path) -> None:
    """The table is a fold of the log without the app: what ended how, and why."""
    rows = headrace("runs", "list", log, "-o", "json").json
    by_task = {row["task"]: row for row in rows}

    assert [row["run"] for row in rows] == sorted((row["run"] for row in rows), reverse=True)
    assert len(rows) == 4
    assert by_task["cool"]["status"] == "completed"
    assert by_task["cool"]["key"] == "t1"
    assert by_task["page"]["status"] == "dead"
    assert by_task["page"]["error"] == "LookupError: nobody is on call for t1"
    assert by_task["check"]["parent"] == by_task["cool"]["run"]
    assert sorted(row["attempt"] for row in rows if row["task"] == "check") == [1, 2]
    dead = headrace("runs", "list", log, "--status", "dead", "-o", "json").json
    assert dead == [by_task["page"]]
    assert headrace("runs", "list", log, "--limit", 1, "-o", "json").json == rows[:1]
    assert headrace("runs", "list", log, "--status", "active").out == "no active runs\n"


@pytest.mark.slow
def test_runs_list_finds_what_the_engine_has_forgotten(headrace: Call, tmp_path: Path) -> None:
    """The engine keeps a thousand ended runs in memory; the log has them all."""
    many = tmp_path / "many.jsonl"
    many.write_text(lines_of([99.0] * 3900, every_s=1.0))
    (tmp_path / "plant.py").write_text(PLANT.replace("run.sleep(5)", "run.sleep(0.1)"))
    done = headrace(
        "run", "plant.py", "--log", "l", "--from", many, "--clock", "input", "-o", "json",
        "--durability", "flushed",
    )  # fmt: skip
    assert done.json["runs"] == {"completed": 3900, "dead": 1300}
    completed = headrace(
        "runs", "list", "l", "--status", "completed", "--limit", 5000, "-o", "json"
    )

    assert len(completed.json) == 3900
    assert len({row["run"] for row in completed.json}) == 3900
    assert headrace("replay", "plant.py", "l").code == 0


def test_runs_show_tells_the_story_of_a_run(headrace: Call, log: Path) -> None:
    """Input, steps, attempts, errors with their tracebacks, results: all in one place."""
    run = headrace("runs", "list", log, "--status", "completed", "-o", "json").json[-1]["run"]
    story = headrace("runs", "show", log, run, "-o", "json").json

    assert [event["data"]["degrees"] for event in story["input"]] == [95, 96, 97]
    assert story["result"] == ["fan in order", "pump in order"]
    assert story["took"] == "6s"
    fan, pump, sleep, emit, page = story["steps"]
    assert (fan["task"], fan["input"], fan["attempt"]) == ("check", {"part": "fan"}, 2)
    assert fan["failures"][0]["error"] == "OSError: the fan does not answer"
    assert 'raise OSError("the fan does not answer")' in fan["failures"][0]["traceback"]
    assert fan["failures"][0]["retry_at"] == "2023-11-14T22:14:01Z"
    assert (pump["status"], pump["attempt"]) == ("completed", 1)
    assert sleep == {
        "ordinal": 3,
        "kind": "sleep",
        "until": "2023-11-14T22:14:06Z",
        "status": "done",
    }
    assert (emit["subject"], emit["data"]) == ("fans.t1.start", {"speed": 1.0})
    assert (page["kind"], page["status"]) == ("launch", "dead")
    text = headrace("runs", "show", log, run).out
    for said in (
        "rule cool [t1]",
        '{"degrees":95.0}',
        "attempt 1 failed at 2023-11-14T22:14:00Z, tried again from 2023-11-14T22:14:01Z",
        "Traceback (most recent call last):",
        "sleep until 2023-11-14T22:14:06Z",
        'emit fans.t1.start {"speed":1.0}',
        "given up: LookupError: nobody is on call for t1",
        'result ["fan in order","pump in order"]',
    ):
        assert said in text
    # A step can be looked at by itself.
    alone = headrace("runs", "show", log, fan["run"], "-o", "json").json
    causes = [(cause["sequence"], cause["kind"]) for cause in alone.pop("causes")]
    assert causes == [(run, "run"), (run - 1, "event")]
    assert {**alone, "ordinal": 1} == fan | {"key": None}


# state and replay


def test_state_is_that_of_the_engine(headrace: Call, own_log: Path, readings: Path) -> None:
    """Rebuilt from the log, the numbers are those that the run had printed."""
    arguments = ("--log", own_log, "--from", readings, "--clock", "input", "-o", "json")
    printed = headrace("run", "plant.py", *arguments).json
    log = own_log
    state = headrace("state", "plant.py", log, "-o", "json").json
    (rule,) = state["rules"]

    assert state["events"] == printed["events"] == 6
    assert rule["fired"] == printed["firings"]["cool"] == 1
    assert state["dead_letters"] == printed["dead_letters"] == 1
    assert state["retries"] == printed["retries"] == 1
    assert list(state["sources"].values()) == [(log.parent / "readings.jsonl").stat().st_size]
    assert rule["last_fired_at"] == "2023-11-14T22:14:00Z"


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_replay_derives_every_decision_and_calls_no_task(
    headrace: Call, log: Path, plant: Path
) -> None:
    """A replay is safe on production logs: the pager does not ring again."""
    change(plant, "async def check(run: Run, part: str) -> str:", DEADLY)
    done = headrace("replay", "plant.py", log, "--strict", "-o", "json")

    assert done.code == 0
    assert done.json["same"] is True
    assert done.json["events"] == 6


DEADLY = """async def check(run: Run, part: str) -> str:
    raise SystemExit("a task was called")
    """


def test_replay_reports_a_changed_rule(headrace: Call, log: Path, plant: Path) -> None:
    """With another limit it is another rule; whether that is a difference is the user's choice."""
    change(plant, "> 90", "> 80")
    done = headrace("replay", "plant.py", log)

    assert done.code == 0
    assert "rule changed at 1: cool is not what it was then" in done.out
    assert headrace("replay", "plant.py", log, "--strict").code == 3
    change(plant, "@app.rule(hot)", "@app.rule(hot, name='warm')")
    gone = headrace("replay", "plant.py", log, "-o", "json").json
    assert gone["changed"] == [{"sequence": 1, "rule": "cool", "declared": False}]
    assert gone["new_rules"] == ["warm"]


def test_replay_reports_one_stretch_once(headrace: Call, log: Path, plant: Path) -> None:
    """A log with a thousand restarts under the old rule does not give a thousand lines."""
    again = ("run", "plant.py", "--log", log, "--from", "readings.jsonl", "--clock", "input")
    assert headrace(*again).code == 0
    change(plant, "> 90", "> 80")
    assert len(headrace("replay", "plant.py", log, "-o", "json").json["changed"]) == 1
    assert headrace(*again).code == 0

    assert len(headrace("replay", "plant.py", log, "-o", "json").json["changed"]) == 1
    change(plant, "> 80", "> 90")
    assert len(headrace("replay", "plant.py", log, "-o", "json").json["changed"]) == 1


def test_replay_shows_both_sides_of_a_difference(headrace: Call, log: Path, plant: Path) -> None:
    """A condition that reads a global can change without a trace: then the decisions differ."""
    change(plant, "> 90", "> LIMIT")
    change(plant, 'app = App("plant")', 'app = App("plant")\nLIMIT = 90')
    (log.parent / "more.jsonl").write_text(lines_of([95.0] * 3))
    run = ("run", "plant.py", "--log", "other.log", "--from", "more.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    change(plant, "LIMIT = 90", "LIMIT = 99")
    done = headrace("replay", "plant.py", "other.log", "-o", "json")

    assert done.code == 3
    (divergence,) = done.json["divergences"]
    assert divergence["rule"] == "cool"
    assert divergence["recorded"].startswith("rule.fired(rule='cool'")
    assert divergence["derived"] == "nothing"
    assert "recorded  rule.fired" in headrace("replay", "plant.py", "other.log").out


# check and version


def test_check_prints_what_the_app_declares(headrace: Call, plant: Path) -> None:
    """One sees what would happen before anything does."""
    found = headrace("check", plant, "-o", "json").json
    (rule,) = found["rules"]

    assert found["app"] == "plant"
    assert found["subjects"] == ["plant.*.temperature"]
    assert rule["pattern"] == (
        "on('plant.*.temperature', Reading).where(…).key(…).count(3, within=60)"
    )
    assert rule["mode"] == "parallel"
    assert [(task["task"], task["runs_in"]) for task in found["tasks"]] == [
        ("check", "event loop"),
        ("page", "thread"),
    ]
    assert found["tasks"][0]["retry"] == "2 attempts on OSError"
    assert found["tasks"][0]["place"].startswith(f"{plant}:")


def test_check_prints_schedules(headrace: Call, plant: Path) -> None:
    """With the next due time, where the app alone can tell it."""
    change(
        plant,
        'app = App("plant")',
        """app = App("plant")
app.every(60, name="beat")(print)
app.cron("0 6 1 JAN *", tz="Asia/Tokyo", catch_up="none", name="yearly")(print)
app.at("2199-03-01T08:00:00+01:00", name="once")(print)
app.at("1999-03-01T08:00:00Z", name="gone")(print)
""",
    )
    found = headrace("check", plant, "-o", "json").json["schedules"]
    table = headrace("check", plant).out

    assert [(row["schedule"], row["catch_up"]) for row in found] == [
        ("beat", "last"),
        ("yearly", "none"),
        ("once", "last"),
        ("gone", "last"),
    ]
    beat, yearly, once, gone = (row["next_due"] for row in found)
    assert (beat, once, gone) == (None, "2199-03-01T07:00:00Z", None)
    assert yearly.endswith("-12-31T21:00:00Z")
    assert f"yearly    {yearly}" in table


def test_check_prints_a_condition_as_it_reads(headrace: Call, plant: Path) -> None:
    """What `field` makes can be read where a lambda is only dots."""
    change(plant, "lambda e: e.data.degrees > 90", "~(field('degrees') <= 90)")
    change(plant, "Retry, Run, on", "Retry, Run, field, on")
    found = headrace("check", "plant.py", "-o", "json").json

    assert ".where(~(field('degrees') <= 90)).key(…)" in found["rules"][0]["pattern"]
    assert found["rules"][0]["globals_read"] == []


def test_check_warns_of_globals(headrace: Call, plant: Path) -> None:
    """A limit that lives in the module is not part of the rule: one is told before it bites."""
    change(plant, "> 90", "> LIMIT")
    change(plant, 'app = App("plant")', 'app = App("plant")\nLIMIT = 90')
    done = headrace("check", "plant.py", "-o", "json")

    assert done.code == 0
    assert done.json["rules"][0]["globals_read"] == ["LIMIT"]
    assert "rule 'cool' reads LIMIT from its module" in done.err


@pytest.mark.parametrize("name", ["plant.py", "plant.py:app", "./plant.py", "plant", "plant:app"])
def test_an_app_can_be_named_in_every_usual_way(headrace: Call, plant: Path, name: str) -> None:
    """By file or by module, with the attribute or without."""
    assert headrace("check", name, "-o", "json").json["app"] == "plant"


def test_what_lies_beside_an_app_can_be_imported(headrace: Call, tmp_path: Path) -> None:
    """An app may be several files, wherever the command is called from."""
    folder = tmp_path / "deep" / "er"
    folder.mkdir(parents=True)
    (folder / "limits.py").write_text("HOT = 90\n")
    (folder / "mill.py").write_text(f"{PLANT}\nfrom limits import HOT\nassert HOT == 90\n")

    assert headrace("check", "deep/er/mill.py", "-o", "json").json["app"] == "plant"


def test_version_names_headrace_and_python(headrace: Call) -> None:
    """The first question of every report of a bug."""
    expected = {"headrace": __version__, "python": platform.python_version()}

    assert headrace("version", "-o", "json").json == expected
    assert headrace("--version").out == f"headrace {__version__}\n"


# What comes from data.

EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\u202eevil\x9b31m"


@pytest.fixture
def evil_log(tmp_path: Path) -> Path:
    """A log with what an attacker would like a terminal to act on, wherever text can be."""
    app = App("evil")

    async def fill() -> None:
        async with app.open(tmp_path / "evil.log") as engine:
            await engine.emit(
                "a.\x1b[2J", {EVIL: EVIL, "n": [EVIL]}, id=EVIL, source=EVIL, key=EVIL
            )

    anyio.run(fill)
    return tmp_path / "evil.log"


@pytest.mark.parametrize("output", ["table", "json", "jsonl"])
@pytest.mark.parametrize(
    "command", [("log", "cat"), ("events", "tail"), ("state", "plant.py"), ("log", "info")]
)
def test_data_cannot_act_on_the_terminal(
    headrace: Call, evil_log: Path, plant: Path, command: tuple[str, str], output: str
) -> None:
    """An event is data: it neither clears the screen nor fakes a line nor turns text around."""
    out = headrace(*command, evil_log, "-o", output).out

    assert out.replace("\n", "").isprintable(), repr(out)
    if output == "jsonl" and command == ("events", "tail"):
        assert json.loads(out)["data"] == {EVIL: EVIL, "n": [EVIL]}, "escaped, not changed"


def test_anything_that_msgpack_holds_can_be_printed(headrace: Call, tmp_path: Path) -> None:
    """Bytes, big numbers, keys that are no text, floats that JSON lacks: none stops a listing."""
    data = {1: b"\x00\xff", "big": 2**63, 2.5: float("inf"), "deep": [[{"x": None}]]}

    async def fill() -> None:
        async with App("a").open(tmp_path / "odd.log") as engine:
            await engine.emit("a.b", data)

    anyio.run(fill)
    (row,) = headrace("events", "tail", "odd.log", "-o", "jsonl").jsonl

    assert row["data"]["1"] is not None
    assert row["data"]["big"] == 2**63
    assert headrace("events", "tail", "odd.log").code == 0


def test_an_app_without_rules_has_a_state(headrace: Call, tmp_path: Path) -> None:
    """Nothing declared, nothing stored: still an answer and no error."""
    (tmp_path / "bare.py").write_text("from headrace import App\napp = App('bare')\n")

    async def fill() -> None:
        async with App("bare").open(tmp_path / "bare.log"):
            pass

    anyio.run(fill)
    for command in (
        ["check", "bare.py"],
        ["state", "bare.py", "bare.log"],
        ["runs", "list", "bare.log"],
    ):
        assert headrace(*command).code == 0
    assert headrace("replay", "bare.py", "bare.log").code == 0
