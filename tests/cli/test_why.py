"""``headrace why``: the answer of the library, for people and for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Call, lines_of

from headrace.engine.log.segment import name_of

Row = dict[str, Any]


def events(headrace: Call, log: Path) -> list[int]:
    rows = headrace("log", "cat", log, "--kind", "event", "-o", "jsonl").jsonl
    return [row["sequence"] for row in rows]


def test_why_not_names_the_function_its_place_and_what_it_read(headrace: Call, log: Path) -> None:
    """Enough to see at night that the reading was five degrees too low."""
    second = events(headrace, log)[1]
    done = headrace("why", "plant.py", log, "cool", "--at", second)

    assert done.code == 0, done.err
    first, because, event, entry, clause, *_ = done.out.splitlines()
    assert first == f"cool did not fire on record {second}:"
    where = "lambda e: e.data.degrees > 90 (plant.py:28): no (e.data.degrees = 21.0)"
    assert because == f"  turned down by {where}"
    assert event == (
        "event on plant.t1.temperature at 2023-11-14T22:13:30Z, key \"t1\": {'degrees': 21.0}"
    )
    assert entry == "  on('plant.*.temperature', Reading)"
    assert clause == f"    no   {where}"
    assert "it would have fired if" in done.out
    assert "  lambda e: e.data.degrees > 90 (plant.py:28) had held" in done.out


def test_why_as_data(headrace: Call, log: Path) -> None:
    """Programs get each part by its name."""
    fourth = events(headrace, log)[3]
    found = headrace("why", "plant.py", log, "cool", "--at", fourth, "-o", "json").json

    assert found["verdict"] == "did not fire"
    assert found["key"] == "t1"
    assert found["would_have_fired_if"] == ["1 more had come within 60 s"]
    assert [row["has"] for row in found["open"]] == ["2 of 3"]
    ((first, second),) = [entry["clauses"] for entry in found["entries"]]
    assert (first["verdict"], first["values"]) == ("yes", {"e.data.degrees": "96.0"})
    assert (second["kind"], second["values"]) == ("key", {"key": "'t1'"})
    assert [line["text"].split(":")[0] for line in found["before"]] == [
        "event on plant.t1.temperature"
    ] * 3


def test_the_firing_itself_and_its_event_have_one_answer(headrace: Call, log: Path) -> None:
    """Whichever of the two one finds in the log first."""
    fifth = events(headrace, log)[4]
    by_event = headrace("why", "plant.py", log, "cool", "--at", fifth, "-o", "json").json
    by_firing = headrace("why", "plant.py", log, "cool", "--at", fifth + 1, "-o", "json").json

    assert by_event == by_firing
    assert by_event["verdict"] == "fired"
    assert by_event["firings"] == [
        {
            "sequence": fifth + 1,
            "key": "t1",
            "events": [fifth - 2, fifth - 1, fifth],
            "outcome": "run",
            "reason": None,
        }
    ]


def test_a_key_is_asked_about_at_any_time(headrace: Call, log: Path) -> None:
    """The time of an alarm and the name of a sensor are all that one has at first."""
    at = "2023-11-14T22:13:55Z"
    done = headrace("why", "plant.py", log, "cool", "--at", at, "--key", "t1", "-o", "json")
    other = headrace("why", "plant.py", log, "cool", "--at", at, "--key", "t9", "-o", "json")

    assert done.json["operators"][0]["text"] == "2 of 3 within 60 s: 1 more to come"
    assert "nothing of key 't9' came before" in other.json["because"]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["warm"], 4, "rule 'warm': expected one of the app's rules, found cool"),
        (["cool", "--at", "99999"], 4, "--at 99999: expected a sequence from 1 to "),
        (["cool", "--at", "noon"], 2, "--at 'noon': expected a sequence, a time such as"),
    ],
)
def test_what_is_not_there_is_said(
    headrace: Call, log: Path, arguments: list[str], code: int, error: str
) -> None:
    """One line that says what there is."""
    done = headrace("why", "plant.py", log, *arguments)

    assert done.code == code
    assert error in done.last_error


def test_a_damaged_log_answers_for_what_is_before_the_damage(headrace: Call, log: Path) -> None:
    """Behind it nothing can be said, and that is the answer."""
    second, last = events(headrace, log)[1], len(headrace("log", "cat", log, "-o", "json").json)
    path = log / name_of(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    assert headrace("why", "plant.py", log, "cool", "--at", second).code == 0
    done = headrace("why", "plant.py", log, "cool", "--at", last)
    assert done.code == 6
    assert "byte" in done.last_error


def test_data_cannot_act_on_the_terminal(headrace: Call, plant: Path, tmp_path: Path) -> None:
    """A sensor whose name clears the screen is shown, and clears nothing."""
    (tmp_path / "evil.jsonl").write_text(lines_of([95.0], sensor="\\u001b[2J"))
    headrace("run", "plant.py", "--log", "x.log", "--from", "evil.jsonl", "--clock", "input")
    done = headrace("why", "plant.py", "x.log", "cool", "--at", events(headrace, Path("x.log"))[0])

    assert done.code == 0, done.err
    assert done.out.replace("\n", "").isprintable()


def test_what_came_before_a_snapshot_is_told_too(headrace: Call, log: Path) -> None:
    """A snapshot has states and no stories: it is begun far enough before what is asked about."""
    assert headrace("log", "snapshot", log, "--app", "plant.py").code == 0
    readings = log.parent / "later.jsonl"
    readings.write_text(lines_of([95.0]).replace("17000000", "17000990"))
    assert (
        headrace("run", "plant.py", "--log", log, "--from", readings, "--clock", "input").code == 0
    )
    asked = events(headrace, log)[-1]
    found = headrace(
        "why", "plant.py", log, "cool", "--at", asked, "--key", "t1", "-o", "json"
    ).json

    assert found["looked_back_to"] == 0
    assert next(line["sequence"] for line in found["before"]) == events(headrace, log)[0]
