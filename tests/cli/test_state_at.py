"""``headrace state`` at a place: what was open, armed and held back then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Call

from headrace.engine.log.segment import name_of

Row = dict[str, Any]


def state(headrace: Call, log: Path, *options: object) -> Row:
    found: Row = headrace("state", "plant.py", log, *options, "-o", "json").json
    return found


def kinds(headrace: Call, log: Path) -> list[str]:
    """The kinds of the records, the first at index 1."""
    return ["", *(row["kind"] for row in headrace("log", "cat", log, "-o", "jsonl").jsonl)]


def test_state_after_each_record_is_what_had_happened_by_then(headrace: Call, log: Path) -> None:
    """Before the third hot reading the window has two of three; with it the rule has fired."""
    events = [n for n, kind in enumerate(kinds(headrace, log)) if kind == "event"]
    two = state(headrace, log, "--at", events[3])
    (rule,) = two["automata"]

    assert two["sequence"] == events[3]
    assert two["events"] == 4
    assert rule["open"] == [
        {
            "operator": "count(3, within=60)",
            "key": "t1",
            "has": "2 of 3",
            "waits_for": "1 more",
            "events": events[2:4],
            "steps": None,
            "since": "2023-11-14T22:13:40Z",
            "until": "2023-11-14T22:14:40Z",
        }
    ]
    fired = kinds(headrace, log).index("rule.fired")
    three = state(headrace, log, "--at", fired)
    assert three["automata"][0]["open"] == []
    assert [run["run"] for run in three["open_runs"]] == [fired]
    assert three["rules"][0]["fired"] == 1


def test_a_time_names_the_last_record_up_to_it(headrace: Call, log: Path) -> None:
    """Whoever has the time of an incident need not look up the sequence."""
    found = state(headrace, log, "--at", "2023-11-14T22:13:55Z")

    assert found["at"] == "2023-11-14T22:13:50Z"
    assert found["automata"][0]["open"][0]["has"] == "2 of 3"


def test_open_runs_say_what_they_wait_for(headrace: Call, log: Path) -> None:
    """Calls with their state, retries and sleeps with their end, and the timers of them."""
    names = kinds(headrace, log)
    retrying = state(headrace, log, "--at", names.index("attempt.failed"))
    parent, fan = retrying["open_runs"][:2]

    assert fan["task"] == "check"
    assert fan["status"] == "retrying"
    assert fan["waits_for"] == "its retry"
    assert "OSError" in fan["error"]
    assert fan["parent"] == parent["run"]
    assert [call["kind"] for call in parent["calls"]] == ["spawn", "spawn"]
    assert {"due": fan["retry"], "run": fan["run"], "what": "retry"} in retrying["armed"]

    asleep = state(headrace, log, "--at", names.index("sleep.requested"))
    (run,) = asleep["open_runs"]
    (timer,) = asleep["armed"]
    assert run["waits_for"] == "the end of a sleep"
    assert timer == {"due": "2023-11-14T22:14:06Z", "run": run["run"], "call": 3, "what": "sleep"}
    text = headrace("state", "plant.py", log, "--at", names.index("sleep.requested")).out
    assert f'  run {run["run"]} of cool key "t1": active, since 2023-11-14T22:14:00Z' in text
    assert "    call 3 sleep: pending" in text
    assert f"  2023-11-14T22:14:06Z  run {run['run']} call 3: sleep" in text


def test_filters_leave_the_rest_out(headrace: Call, log: Path) -> None:
    """Of a plant with a hundred rules one looks at one, of a million keys at one."""
    at = kinds(headrace, log).index("rule.fired") - 2
    assert state(headrace, log, "--at", at, "--key", "t1")["automata"][0]["open"] != []
    assert state(headrace, log, "--at", at, "--key", '"t1"')["automata"][0]["open"] != []
    assert state(headrace, log, "--at", at, "--key", "t2")["automata"][0]["open"] == []

    fired = kinds(headrace, log).index("rule.fired")
    one = state(headrace, log, "--at", fired + 3, "--run", fired)
    assert [run["run"] for run in one["open_runs"]] == [fired]
    assert one["automata"] == []
    assert state(headrace, log, "--at", fired + 3, "--key", "t2")["open_runs"] == []
    limited = state(headrace, log, "--at", fired + 3, "--limit", 0)
    assert limited["open_runs"] == []
    assert limited["more_open_runs"] >= 1


@pytest.mark.parametrize(
    ("options", "code", "error"),
    [
        (["--at", "0"], 4, "--at 0: expected a sequence from 1 to "),
        (["--at", "99999"], 4, "--at 99999: expected a sequence from 1 to "),
        (["--at", "noon"], 2, "--at 'noon': expected a sequence, a time such as"),
        (["--at", "1999-01-01T00:00:00Z"], 4, "expected a time within the log"),
        (["--rule", "warm"], 4, "rule 'warm': expected one of the app's rules, found cool"),
        (["--run", "2"], 4, "--run 2: expected a run that is open after record "),
    ],
)
def test_what_is_not_there_is_said(
    headrace: Call, log: Path, options: list[str], code: int, error: str
) -> None:
    """Where, what was expected, what was found, and what to do."""
    done = headrace("state", "plant.py", log, *options)

    assert done.code == code
    assert error in done.last_error
    assert done.out == ""


def test_a_run_that_has_ended_is_named_as_such(headrace: Call, log: Path) -> None:
    """It was looked for at the wrong place, and the error says so."""
    fired = kinds(headrace, log).index("rule.fired")
    done = headrace("state", "plant.py", log, "--run", fired)

    assert done.code == 4
    assert "found that it had ended as completed" in done.last_error


def test_a_damaged_log_has_the_state_of_what_is_intact(headrace: Call, log: Path) -> None:
    """It answers for what is there, says what is not, and the exit code is 6."""
    path = log / name_of(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = headrace("state", "plant.py", log, "-o", "json")

    assert done.code == 6
    assert "what is said is about its state after " in done.last_error
    assert 1 <= done.json["sequence"] < 20
    assert f"state after {done.json['sequence']}" in done.last_error


def test_the_nearest_snapshot_is_begun_at(
    headrace: Call, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """State in the middle of a long log costs the way from there, and is the same state."""
    from headrace.engine.inspect.walk import Walk

    last = len(kinds(headrace, log)) - 1
    whole = state(headrace, log)
    assert headrace("log", "snapshot", log, "--app", "plant.py").code == 0
    begun: list[int] = []
    to = Walk.to

    def noting(walk: Walk, sequence: int) -> Any:
        begun.append(walk.begun_after)
        return to(walk, sequence)

    monkeypatch.setattr(Walk, "to", noting)
    assert state(headrace, log) == whole
    state(headrace, log, "--at", last - 1)
    assert begun == [last, 0]
