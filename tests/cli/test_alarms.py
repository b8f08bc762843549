"""Alarms from the command line: which stand, and who knows of them."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import WAIT_S, Call, MadeOnce, Start, await_engine, records

from headrace.engine.record import AlarmAcknowledged

APP = """
from headrace import App, field, on

app = App("plant")

async def over() -> None: ...

@app.rule(
    on("plant.*.temperature").key(lambda e: e.tokens[1]).crosses(field(), above=90, initial=True),
    on_clear=over,
)
async def hot() -> None: ...

@app.rule(on("pair").key(lambda e: tuple(e.data)).count(1, within=1e6, mode="edge"), on_clear=over)
async def pair() -> None: ...

@app.rule(on("door").crosses(field(), above=0, initial=True), on_clear=over)
async def door() -> None: ...

@app.rule(on("rule.acknowledged.*"))
async def told() -> None: ...
"""

EVENTS = [
    ("plant.t1.temperature", 95),
    ("plant.t2.temperature", 96),
    ("plant.t3.temperature", 20),
    ("pair", ["a", 7]),
    ("door", 1),
]


@pytest.fixture
def plant(headrace: Call, tmp_path: Path, made_once: MadeOnce) -> Path:
    """A log in which four alarms stand."""
    (tmp_path / "app.py").write_text(APP)

    def make(_path: Path) -> None:
        run(headrace, EVENTS)

    return made_once(tmp_path / "plant.log", make)


def run(headrace: Call, events: list[tuple[str, Any]], name: str = "lines.jsonl") -> None:
    """Let an engine take *events* until nothing is left to do."""
    lines = [json.dumps({"subject": subject, "data": data}) for subject, data in events]
    Path(name).write_text("".join(line + "\n" for line in lines))
    done = headrace("run", "app.py", "--log", "plant.log", "--from", name)
    assert done.code == 0, done.err


def alarms(headrace: Call, log: Path) -> list[dict[str, Any]]:
    done = headrace("alarms", "list", log, "-o", "json")
    assert done.code == 0, done.err
    rows: list[dict[str, Any]] = done.json
    return rows


def standing(headrace: Call, log: Path) -> list[tuple[str, Any]]:
    return [(row["rule"], row["key"]) for row in alarms(headrace, log)]


# ---------------------------------------------------------------- without an engine


def test_the_list_has_what_stands_and_nothing_else(headrace: Call, plant: Path) -> None:
    """What has to be looked at now, in the order in which it began; no app is needed for it."""
    assert standing(headrace, plant) == [
        ("hot", "t1"),
        ("hot", "t2"),
        ("pair", ["a", 7]),
        ("door", None),
    ]
    first = alarms(headrace, plant)[0]
    assert (first["count"], first["acknowledged_at"], first["by"]) == (1, None, None)
    assert first["raised_at"].endswith("Z")
    (fired,) = headrace("runs", "list", plant, "--limit", 1, "-o", "json").json
    assert alarms(headrace, plant)[3]["firing"] == fired["run"]
    assert headrace("state", "app.py", plant, "-o", "json").json["alarms"] == 4
    shown = headrace("alarms", "list", plant).out.splitlines()
    assert shown[0].split()[:2] == ["rule", "key"]
    assert shown[2].split()[:2] == ["hot", '"t1"']  # as `ack` takes it

    run(headrace, [("plant.t1.temperature", 20), ("door", -1)], "cool.jsonl")
    assert standing(headrace, plant) == [("hot", "t2"), ("pair", ["a", 7])]


@pytest.mark.slow
def test_an_alarm_is_acknowledged_while_nothing_runs(headrace: Call, plant: Path) -> None:
    """Who is on call says so at any time; the next start knows it, and a rule can tell others."""
    done = headrace(
        "alarms", "ack", plant, "hot", "--key", '"t1"', "--by", "ada", "--note", "on my way"
    )
    assert (done.code, "no engine runs" in done.err) == (0, True)
    known = records(plant)[int(done.out) - 1]
    assert isinstance(known, AlarmAcknowledged)
    assert (known.rule, known.key, known.by, known.note) == ("hot", "t1", "ada", "on my way")

    run(headrace, [("plant.t1.temperature", 99)], "more.jsonl")
    first, second, *_ = alarms(headrace, plant)
    assert (first["by"], first["note"]) == ("ada", "on my way")
    assert first["acknowledged_at"].endswith("Z")
    assert second["acknowledged_at"] is None
    fired = headrace("log", "cat", plant, "--kind", "rule.fired", "-o", "jsonl").jsonl
    assert [row["outcome"] for row in fired if row["rule"] == "told"] == ["run"]
    assert headrace("replay", "app.py", plant, "--strict").code == 0
    run(headrace, [("plant.t1.temperature", 20), ("plant.t1.temperature", 99)], "again.jsonl")
    again = alarms(headrace, plant)[-1]
    assert (again["key"], again["by"]) == ("t1", None)  # it is another one


@pytest.mark.parametrize(
    ("rule", "key"),
    [("pair", '["a", 7]'), ("door", None), ("door", "null")],
)
def test_every_key_can_be_named(headrace: Call, plant: Path, rule: str, key: str | None) -> None:
    """Also that of a rule without keys, and one of several parts."""
    more = [] if key is None else ["--key", key]
    done = headrace("alarms", "ack", plant, rule, *more, "-o", "json")
    assert done.code == 0, done.err
    assert done.json["state"] == "offered"
    (known,) = [row for row in alarms(headrace, plant) if row["acknowledged_at"]]
    assert known["rule"] == rule


def test_who_it_was_is_the_user_unless_said(
    headrace: Call, plant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An acknowledgement always has a name, also where the machine knows none."""
    monkeypatch.setattr(getpass, "getuser", lambda: "grace")
    assert headrace("alarms", "ack", plant, "door", "-o", "json").json["by"] == "grace"

    def unknown() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr(getpass, "getuser", unknown)
    assert headrace("alarms", "ack", plant, "door", "-o", "json").json["by"].startswith("user ")
    assert alarms(headrace, plant)[-1]["by"].startswith("user ")


@pytest.mark.slow
def test_it_is_found_behind_a_snapshot_too(headrace: Call, plant: Path) -> None:
    """The state of a large log comes from a snapshot: alarms stand in that as well."""
    assert headrace("log", "snapshot", plant, "--app", "app.py").code == 0
    assert headrace("rules", "pause", plant, "hot").code == 0
    done = headrace("alarms", "ack", plant, "hot", "--key", '"t2"', "--by", "ada")
    assert done.code == 0, done.err
    run(headrace, [("plant.t1.temperature", 20)], "cool.jsonl")
    assert [(row["key"], row["by"]) for row in alarms(headrace, plant)][:1] == [("t2", "ada")]
    assert headrace("replay", "app.py", plant, "--strict").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ack", "plant.log", "nix"], 4, "found 'nix'; there are door, hot, pair, told"),
        (["ack", "plant.log", "told"], 4, "found none of rule 'told' for key None"),
        (["ack", "plant.log", "hot"], 4, "for key None; of this rule there are 't1', 't2'"),
        (["ack", "plant.log", "hot", "--key", '"t3"'], 4, "for key 't3'"),
        (["ack", "plant.log", "hot", "--key", "-5"], 4, "for key -5"),
        (["ack", "plant.log", "pair", "--key", '["a", {}]'], 4, "expected an alarm that stands"),
        (["ack", "plant.log", "hot", "--key", "t1"], 2, "--key 't1': expected JSON, found none"),
        (["ack", "plant.log", "hot", "--key", "{}"], 2, "--key '{}': expected a text, a number"),
        (["ack", "plant.log", "hot", "--key", '"t1"', "--note", "\udcff"], 1, "cannot be stored"),
        (["ack", "plant.log", "hot", "--key", '"t1"', "--by", "\udcff"], 1, "cannot be stored"),
        (["ack", "plant.log"], 2, "headrace alarms ack --help"),
        (["ack", "nothing.log", "hot"], 4, "expected an event log, found nothing there"),
        (["list", "nothing.log"], 4, "expected an event log, found nothing there"),
        (["list", "app.py"], 4, "expected an event log, found a file"),
        (["nix"], 2, "headrace alarms --help"),
    ],
    ids=repr,
)
def test_what_cannot_be_done_is_one_line(
    headrace: Call, plant: Path, arguments: list[str], code: int, said: str
) -> None:
    """What was expected, what was found; the log is as it was."""
    before = len(records(plant))
    done = headrace("alarms", *arguments)

    assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
    assert said in done.last_error
    assert len(records(plant)) == before


# ---------------------------------------------------------------- beside an engine


@pytest.mark.slow
def test_beside_a_running_engine(headrace: Call, start: Start, plant: Path) -> None:
    """From another terminal: see it come, say who goes, see it end."""
    process = start("run", "app.py", "--log", "plant.log", "--grace", "0")
    await_engine(plant)
    assert headrace("emit", plant, "plant.t3.temperature", "99").code == 0
    assert ("hot", "t3") in standing(headrace, plant)
    done = headrace("alarms", "ack", plant, "hot", "--key", '"t3"', "--by", "ada", "-o", "json")
    assert (done.code, done.json["state"], done.err) == (0, "stored", "")
    assert isinstance(records(plant)[done.json["sequence"] - 1], AlarmAcknowledged)
    assert alarms(headrace, plant)[-1]["by"] == "ada"
    done = headrace("alarms", "ack", plant, "pair", "--key", '["a", 7]')
    assert done.code == 0, done.err
    for arguments, code in (
        (["hot", "--key", '"nix"'], 4),
        (["nix"], 4),
        (["pair", "--key", '["a", {}]'], 4),
        (["hot", "--key", '"t3"', "--note", "\udcff"], 1),
    ):
        done = headrace("alarms", "ack", plant, *arguments)
        assert (done.code, len(done.err.splitlines())) == (code, 1), done.err
    assert headrace("emit", plant, "plant.t3.temperature", "20").code == 0
    assert ("hot", "t3") not in standing(headrace, plant)
    process.terminate()
    process.communicate(timeout=WAIT_S)
    assert headrace("replay", "app.py", plant, "--strict").code == 0
