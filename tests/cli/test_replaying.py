"""`replay` and `whatif` as commands: what they print, their exit codes, and bad input."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
from tests.cli.command import Call, lines_of

pytestmark = pytest.mark.slow

LIMIT = 'app = App("plant")\nLIMIT = 90'


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.fixture
def drifting(headrace: Call, plant: Path, tmp_path: Path) -> Path:
    """A log of a rule that depends on a global, which has changed since."""
    change(plant, "> 90", "> LIMIT")
    change(plant, 'app = App("plant")', LIMIT)
    (tmp_path / "more.jsonl").write_text(lines_of([95.0] * 9))
    run = ("run", "plant.py", "--log", "drift.log", "--from", "more.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    change(plant, "LIMIT = 90", "LIMIT = 99")
    return tmp_path / "drift.log"


def test_replay_shows_the_first_divergence_field_by_field(headrace: Call, drifting: Path) -> None:
    """And how many there are in all, though a rule that diverged takes no further part."""
    done = headrace("replay", "plant.py", drifting, "-o", "json")

    assert done.code == 3
    assert done.json["same"] is False
    assert done.json["diverged"] == 1
    assert done.json["differences"] == {"cool": 3}
    assert done.json["non_deterministic"] == []
    (first,) = done.json["divergences"]
    fields = {field["field"]: field for field in first["fields"]}
    assert fields["kind"] == {
        "field": "kind",
        "recorded": "rule.fired",
        "derived": None,
        "same": False,
    }
    assert fields["key"]["recorded"] == "t1"
    assert len(fields["events"]["recorded"]) == 3
    text = headrace("replay", "plant.py", drifting).out
    assert "firings that differ in all: 3 cool" in text
    assert "outcome" in text


def test_a_log_of_another_app_is_no_log_to_compare(headrace: Call, log: Path, plant: Path) -> None:
    """CI over a wrong log would be green for ever: it is said that nothing was compared."""
    Path("other.py").write_text(
        "from headrace import App, on\n\napp = App('other')\n\n\n"
        "@app.rule(on('x'))\ndef far() -> None: ...\n"
    )
    done = headrace("replay", "other.py", log)

    assert done.code == 4
    assert done.out.splitlines()[-1].endswith("firings: nothing was compared")
    assert "expected a log with rules of the app other (far), found cool: " in done.last_error
    assert "name the app that wrote it" in done.last_error
    data = headrace("replay", "other.py", log, "-o", "json")
    assert (data.code, data.json["compared"]) == (4, False)
    assert headrace("whatif", "other.py", log).code == 3


def test_the_verdict_says_what_was_compared(headrace: Call, log: Path, plant: Path) -> None:
    """Of a changed rule nothing is derived, so that is not claimed."""
    whole = headrace("replay", "plant.py", log).out
    change(plant, "> 90", "> 80")
    part = headrace("replay", "plant.py", log).out

    assert whole.endswith(": every decision is derived again\n")
    assert part.endswith(": every decision of the rules that are as they were is derived again\n")


def test_all_rules_that_differ_are_counted_and_no_others(
    headrace: Call, plant: Path, tmp_path: Path
) -> None:
    """What a changed rule would make of the log is a matter of what-if."""
    Path("drifts.py").write_text(DRIFTS)
    (tmp_path / "more.jsonl").write_text(lines_of([95.0] * 9))
    run = ("run", "drifts.py", "--log", "drifts.log", "--from", "more.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    change(Path("drifts.py"), "LIMIT = 90", "LIMIT = 99")
    change(Path("drifts.py"), "> 80", "> 99")
    done = headrace("replay", "drifts.py", "drifts.log", "-o", "json").json

    assert done["diverged"] == 2
    assert done["differences"] == {"one": 9, "other": 9}
    assert [found["rule"] for found in done["changed"]] == ["third"]


DRIFTS = """\
from headrace import App, on

app = App("drifts")
LIMIT = 90


@app.rule(on("plant.>").where(lambda e: e.data["degrees"] > LIMIT))
def one() -> None: ...


@app.rule(on("plant.>").where(lambda e: e.data["degrees"] > LIMIT))
def other() -> None: ...


@app.rule(on("plant.>").where(lambda e: e.data["degrees"] > 80))
def third() -> None: ...
"""


def test_replay_of_a_part(headrace: Call, drifting: Path) -> None:
    """What came before the first difference is the same; a place is a sequence or a time."""
    first = headrace("replay", "plant.py", drifting, "-o", "json").json["divergences"][0]
    before = headrace(
        "replay", "plant.py", drifting, "--until", first["sequence"] - 2, "-o", "json"
    )
    with_it = headrace("replay", "plant.py", drifting, "--until", first["sequence"] - 1)
    early = headrace(
        "replay", "plant.py", drifting, "--until", "2023-11-14T22:13:30Z", "-o", "json"
    )

    assert before.code == 0
    assert before.json["until"] == before.json["records"] == first["sequence"] - 2
    assert with_it.code == 3  # of a unit all is compared: the event and what it led to
    assert early.code == 0
    assert early.json["events"] == 2


def test_replay_begins_at_a_snapshot(headrace: Call, log: Path) -> None:
    """As near as there is one; what came before it was compared before."""
    last = headrace("log", "snapshot", log, "--app", "plant.py", "-o", "json").json["sequence"]
    readings = log.parent / "later.jsonl"
    readings.write_text(lines_of([95.0] * 3).replace("17000000", "17000990"))
    again = ("run", "plant.py", "--log", log, "--from", readings, "--clock", "input")
    assert headrace(*again).code == 0
    done = headrace("replay", "plant.py", log, "--from", last + 3, "-o", "json")
    whole = headrace("replay", "plant.py", log, "-o", "json").json

    assert done.code == 0
    assert done.json["from_snapshot"] == last
    assert done.json["events"] == 4  # three readings, and what a run emitted
    assert done.json["firings"] == 1
    assert done.json["records"] == whole["records"] - last
    assert done.json["digest"] == whole["digest"]
    assert headrace("replay", "plant.py", log, "--from", 1, "-o", "json").json == whole


def test_a_rule_that_throws_dice_is_named(headrace: Call, plant: Path, tmp_path: Path) -> None:
    """Two replays of the same log make other firings of it: no log can be asked about it."""
    change(plant, "e.data.degrees > 90", "random.random() < 0.5")
    change(plant, "import msgspec", "import random\nimport msgspec")
    (tmp_path / "many.jsonl").write_text(lines_of([95.0] * 80, every_s=1))
    run = ("run", "plant.py", "--log", "dice.log", "--from", "many.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    done = headrace("replay", "plant.py", "dice.log", "-o", "json")

    assert done.code == 3
    assert done.json["non_deterministic"] == ["cool"]
    assert done.json["reads_outside"] == {"cool": ["random.random"]}
    assert "rule cool is not deterministic" in headrace("replay", "plant.py", "dice.log").out


def test_a_rule_that_reads_a_clock_is_named(headrace: Call, plant: Path, tmp_path: Path) -> None:
    """Two replays in a row agree that it is too late by now; that says nothing."""
    change(plant, "import msgspec", "import time\nimport msgspec\nLIMIT = 9e9")
    change(plant, "e.data.degrees > 90", "time.time() < LIMIT")
    (tmp_path / "many.jsonl").write_text(lines_of([95.0] * 8, every_s=1))
    run = ("run", "plant.py", "--log", "late.log", "--from", "many.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    change(plant, "LIMIT = 9e9", "LIMIT = 1.0")  # as if that had passed
    done = headrace("replay", "plant.py", "late.log", "-o", "json")

    assert done.code == 3
    assert done.json["non_deterministic"] == []
    assert done.json["reads_outside"] == {"cool": ["time.time"]}
    assert "rule cool reads time.time" in headrace("replay", "plant.py", "late.log").out


def test_a_rule_whose_values_are_chance_is_named(headrace: Call, tmp_path: Path) -> None:
    """It fires on the same events each time, and yet no log can be asked about it."""
    Path("chance.py").write_text(CHANCE)
    (tmp_path / "many.jsonl").write_text(lines_of([95.0] * 6, every_s=1))
    run = ("run", "chance.py", "--log", "chance.log", "--from", "many.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    done = headrace("replay", "chance.py", "chance.log", "-o", "json")

    assert done.code == 3
    assert done.json["differences"] == {"three": 2}
    assert done.json["non_deterministic"] == ["three"]


CHANCE = """\
import uuid

from headrace import App, on

app = App("chance")


@app.rule(on("plant.>").count(3, within=60).aggregate(lambda _: str(uuid.uuid4())))
def three() -> None: ...
"""


def test_replay_at_the_speed_of_a_demonstration(headrace: Call, log: Path) -> None:
    """Each record is printed when its time has come; so fast, that is at once."""
    done = headrace("replay", "plant.py", log, "--speed", 1e6)

    assert done.code == 0
    lines = done.out.splitlines()
    kinds = [line.split()[2] for line in lines[:-1]]
    assert kinds.count("rule.fired") == 1
    assert kinds.count("event") == 6
    assert lines[-1].endswith("every decision is derived again")
    asked = headrace("replay", "plant.py", log, "--speed", 1e6, "-o", "json")
    assert asked.json["same"] is True


@pytest.mark.parametrize("command", ["replay", "whatif"])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--until", "99999"], 4, "expected a sequence from 1 to"),
        (["--from", "0"], 4, "expected a sequence from 1 to"),
        (["--until", "noon"], 2, "expected a sequence, a time"),
        (["--until", "2001-01-01T00:00:00Z"], 4, "expected a time within the log"),
    ],
)
def test_a_place_that_is_not_there(
    headrace: Call, log: Path, command: str, arguments: list[str], code: int, said: str
) -> None:
    """One line says what was given, and what there is."""
    done = headrace(command, "plant.py", log, *arguments)

    assert done.code == code
    assert said in done.last_error


@pytest.mark.parametrize("command", ["replay", "whatif"])
def test_a_damaged_log_is_answered_for_what_is_intact(
    headrace: Call, log: Path, command: str
) -> None:
    """The answer for the intact part comes first, then what is wrong: exit code 6."""
    whole = headrace(command, "plant.py", log, "-o", "json").json
    (segment,) = log.glob("*.hrl")
    data = bytearray(segment.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    segment.write_bytes(data)
    done = headrace(command, "plant.py", log, "-o", "json")

    assert done.code == 6
    assert 0 < done.json["records"] < whole["records"]
    assert done.json["damage"] in done.last_error
    assert done.json["same"] is True
    assert "only what is before that was" in headrace(command, "plant.py", log).out


def test_whatif_of_the_same_rules(headrace: Call, log: Path) -> None:
    """Nothing would be another, and that is exit code 0."""
    done = headrace("whatif", "plant.py", log, "-o", "json")

    assert done.code == 0
    assert done.json["same"] is True
    assert done.json["same_firings"] == 1
    assert done.json["differences"] == []
    assert "nothing would be another" in headrace("whatif", "plant.py", log).out


def test_whatif_of_another_limit(headrace: Call, log: Path, plant: Path) -> None:
    """What appears and what vanishes: counted, also by rule and key, and listed."""
    change(plant, "> 90", "> 99")
    gone = headrace("whatif", "plant.py", log, "-o", "json")

    assert gone.code == 3
    counts = {"appeared": 0, "vanished": 1, "moved": 0, "changed": 0}
    assert {name: gone.json[name] for name in counts} == counts
    assert gone.json["rules"] == {"cool": {"same": 0, **counts}}
    assert gone.json["keys"] == [{"rule": "cool", "key": "t1", **counts}]
    (row,) = gone.json["differences"]
    assert (row["what"], row["rule"], row["key"]) == ("vanished", "cool", "t1")
    assert row["run"] == "gone"
    assert row["run_id"] == row["sequence"]
    assert row["recorded"]["outcome"] == "run"
    assert row["derived"] is None
    assert gone.json["runs"] == {"unknown": 0, "gone": 2}  # the page that it launched goes too
    assert gone.json["events_gone"] == 1
    assert "vanished" in headrace("whatif", "plant.py", log).out
    short = headrace("whatif", "plant.py", log, "--limit", 0, "-o", "json").json
    assert (short["differences"], short["left_out"]) == ([], 1)
    lines = headrace("whatif", "plant.py", log, "-o", "jsonl")
    assert len(lines.jsonl) == 1


FILE = """
[rules.freezing]
subject = "plant.*.temperature"
where = "degrees < 50"
key = "subject.1"
task = "note"
"""


def test_whatif_of_a_rules_file(headrace: Call, log: Path, plant: Path, tmp_path: Path) -> None:
    """A rule that is not written yet can be tried on the log of last month."""
    plant.write_text(
        plant.read_text() + "\n\n@app.action\nasync def note(run: Run) -> None:\n    ...\n"
    )
    (tmp_path / "new.toml").write_text(FILE)
    done = headrace("whatif", "plant.py", log, "--rules", "new.toml", "-o", "json")

    assert done.code == 3, done.err
    assert done.json["rules"]["freezing"]["appeared"] == done.json["appeared"] > 0
    assert {row["run"] for row in done.json["differences"]} == {"unknown"}
    assert done.json["same_firings"] == 1


def test_neither_writes_into_the_log(headrace: Call, log: Path, plant: Path) -> None:
    """They may be asked of a running engine's log."""
    before = {path.name: path.read_bytes() for path in log.iterdir() if path.is_file()}
    change(plant, "> 90", "> 99")
    assert headrace("whatif", "plant.py", log).code == 3
    assert headrace("replay", "plant.py", log).code == 0

    assert {path.name: path.read_bytes() for path in log.iterdir() if path.is_file()} == before


def test_bisect_of_two_versions(headrace: Call, log: Path, plant: Path, tmp_path: Path) -> None:
    """Two folders with the same names in them: each app gets the modules beside it."""
    text = (
        plant.read_text()
        .replace("> 90", "> limits.HOT")
        .replace("import msgspec", "import limits\nimport msgspec")
    )
    for name, limit in (("old", 90), ("new", 96)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plant.py").write_text(text)
        (tmp_path / name / "limits.py").write_text(f"HOT = {limit}\n")
    done = headrace("bisect", "old/plant.py", "new/plant.py", log, "-o", "json")
    first = next(
        row
        for row in headrace("log", "cat", log, "-o", "jsonl").jsonl
        if row["kind"] == "event" and row["data"] == {"degrees": 95.0}
    )

    assert done.code == 3, done.err
    assert done.json["parted_at"] == first["sequence"]
    assert done.json["record"]["data"] == {"degrees": 95.0}
    assert done.json["rules"] == ["cool"]
    assert done.json["fired_a"] == done.json["fired_b"] == []
    text_of = headrace("bisect", "old/plant.py", "new/plant.py", log).out
    assert "what they remember is not the same" in text_of
    same = headrace("bisect", "old/plant.py", "old/plant.py", log)
    assert (same.code, "both make the same" in same.out) == (0, True)


def test_bisect_of_two_logs(headrace: Call, log: Path, plant: Path, tmp_path: Path) -> None:
    """The first record at which they part, as `log diff` says."""
    (tmp_path / "other.jsonl").write_text(lines_of([20.0, 21.5, 95.0]))
    run = ("run", "plant.py", "--log", "other.log", "--from", "other.jsonl", "--clock", "input")
    assert headrace(*run).code == 0
    done = headrace("bisect", log, "other.log", "-o", "json")

    assert done.code == 3
    assert (
        done.json["parted_at"]
        == headrace("log", "diff", log, "other.log", "-o", "json").json["parted_at"]
    )
    assert headrace("bisect", log, log).code == 0
    wrong = headrace("bisect", log, "other.log", "--until", "3")
    assert wrong.code == 2
    assert "found two logs" in wrong.last_error
    missing = headrace("bisect", log, "nowhere.log")
    assert missing.code == 4


def test_replay_of_the_code_of_runs(headrace: Call, plant: Path, readings: Path) -> None:
    """Only of what is declared for it, and only if it is asked for."""
    change(plant, "@app.rule(hot)", "@app.rule(hot, replayable=True)")
    run = ("run", "plant.py", "--log", "code.log", "--from", readings, "--clock", "input")
    assert headrace(*run).code == 0
    same = headrace("replay", "plant.py", "code.log", "--runs", "-o", "json")
    assert (same.code, same.json["runs"]["same"]) == (0, 1), same.err
    change(plant, "await run.sleep(5)", 'await run.call(page, "t9")')
    other = headrace("replay", "plant.py", "code.log", "--runs", "-o", "json")

    assert other.code == 3
    assert other.json["divergences"] == []
    (strayed,) = other.json["runs"]["strayed"]
    assert strayed["task"] == "cool"
    assert "sleep" in strayed["what"]
    assert "run" in headrace("replay", "plant.py", "code.log", "--runs").out
    assert headrace("replay", "plant.py", "code.log").code == 0


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds


def test_the_speed_is_that_of_recorded_time(
    headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixty times as fast: a minute in the log takes a second."""
    from headrace.cli import paced

    clock = Clock()
    monkeypatch.setattr(paced, "time", clock)
    rows = [row["recorded_at"] for row in headrace("log", "cat", log, "-o", "jsonl").jsonl]
    first, last = (datetime.fromisoformat(row) for row in (rows[0], rows[-1]))
    assert headrace("replay", "plant.py", log, "--speed", 60).code == 0

    assert last > first
    assert clock.now_s - 100.0 == pytest.approx((last - first).total_seconds() / 60)
