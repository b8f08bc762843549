"""``headrace diff``: what happened between two places, as the state shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Call

Row = dict[str, Any]


def kinds(headrace: Call, log: Path) -> list[str]:
    """The kinds of the records, the first at index 1."""
    return ["", *(row["kind"] for row in headrace("log", "cat", log, "-o", "jsonl").jsonl)]


def changes(headrace: Call, log: Path, *arguments: object) -> dict[str, Row]:
    """What differs, by what it is; it is an error to find nothing."""
    done = headrace("diff", "plant.py", log, *arguments, "-o", "json")
    assert done.code == 3, done.err
    return {row["what"]: row for row in done.json["changes"]}


def test_a_firing_takes_the_window_and_makes_a_run(headrace: Call, log: Path) -> None:
    """What was there is gone, what was not is there, and counters have both values."""
    fired = kinds(headrace, log).index("rule.fired")
    found = changes(headrace, log, fired - 2, fired)

    window = found['cool key "t1": count(3, within=60)']
    assert window["change"] == "vanished"
    assert window["fields"]["has"] == {"a": "2 of 3", "b": None}
    run = found[f"run {fired} of cool"]
    assert run["change"] == "appeared"
    assert run["fields"]["status"] == {"a": None, "b": "active"}
    assert found["rule cool"]["fields"]["fired"] == {"a": 0, "b": 1}
    assert found["log"]["fields"]["events"] == {"a": 4, "b": 5}


def test_backwards_is_the_mirror_image(headrace: Call, log: Path) -> None:
    """A and B may be given in either order."""
    fired = kinds(headrace, log).index("rule.fired")
    there = changes(headrace, log, fired - 2, fired + 4)
    back = changes(headrace, log, fired + 4, fired - 2)

    mirrored = {"appeared": "vanished", "vanished": "appeared", "changed": "changed"}
    assert {what: mirrored[row["change"]] for what, row in there.items()} == {
        what: row["change"] for what, row in back.items()
    }
    assert back["rule cool"]["fields"]["fired"] == {"a": 1, "b": 0}


def test_calls_and_ends_of_runs_are_fields(headrace: Call, log: Path) -> None:
    """A run that ended says how; a call that was made is there."""
    names = kinds(headrace, log)
    fired, last = names.index("rule.fired"), len(names) - 1
    asleep = names.index("sleep.requested")
    during = changes(headrace, log, fired, asleep, "--run", fired)
    assert during[f"run {fired} of cool"]["fields"]["call 3"] == {
        "a": None,
        "b": "sleep: pending",
    }
    ended = changes(headrace, log, asleep, last)
    assert ended[f"run {fired} of cool"]["fields"]["status"] == {"a": "active", "b": "completed"}
    text = headrace("diff", "plant.py", log, asleep, last).out
    assert f"- run {fired} of cool\n    status: active -> completed" in text


def test_nothing_has_changed(headrace: Call, log: Path) -> None:
    """Between a place and itself; the exit code says so, too."""
    done = headrace("diff", "plant.py", log, 3, 3)

    assert done.code == 0
    assert done.out.splitlines()[-1] == "nothing has changed"


def test_filters_and_limit(headrace: Call, log: Path) -> None:
    """One key, and no more than a screen of it."""
    fired = kinds(headrace, log).index("rule.fired")
    of_key = changes(headrace, log, fired - 2, fired, "--key", "t1")
    done = headrace("diff", "plant.py", log, fired - 2, fired, "--limit", 1)

    assert of_key.keys() == {'cool key "t1": count(3, within=60)', f"run {fired} of cool"}
    assert headrace("diff", "plant.py", log, fired - 2, fired, "--key", "t2").code == 0
    assert "more; --limit shows them" in done.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("places", "code", "error"),
    [
        (["0", "3"], 4, "A 0: expected a sequence from 1 to "),
        (["3", "99999"], 4, "B 99999: expected a sequence from 1 to "),
        (["3", "noon"], 2, "B 'noon': expected a sequence, a time such as"),
    ],
)
def test_what_is_not_there_is_said(
    headrace: Call, log: Path, places: list[str], code: int, error: str
) -> None:
    """Which of the two places it is."""
    done = headrace("diff", "plant.py", log, *places)

    assert done.code == code
    assert error in done.last_error
