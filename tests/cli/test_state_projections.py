"""Projections in ``headrace state`` and ``headrace diff``: live state, at any place of a log."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import PLANT, Call, MadeOnce

from headrace.engine.log.segment import name_of

Row = dict[str, Any]

PEAKS = """

class Peak(msgspec.Struct):
    degrees: float
    count: int = 0


@app.projection(
    on("plant.*.temperature", Reading), key=lambda e: e.tokens[1], initial=Peak(-273.0)
)
def peak(state: Peak, event) -> Peak:
    return Peak(max(state.degrees, event.data.degrees), state.count + {step})
"""


@pytest.fixture
def app(plant: Path, readings: Path) -> Path:
    """The app of all tests with a projection."""
    plant.write_text(PLANT + PEAKS.format(step=1))
    return plant


@pytest.fixture
def folded(headrace: Call, app: Path, tmp_path: Path, made_once: MadeOnce) -> Path:
    """The log that it leaves after five readings."""
    return made_once(tmp_path / "folded.log", partial(_run, headrace))


def _run(headrace: Call, log: Path) -> None:
    arguments = ("--log", log, "--from", "readings.jsonl", "--clock", "input")
    assert headrace("run", "plant.py", *arguments).code == 0


def peaks(headrace: Call, log: Path, *options: object) -> Row:
    (found,) = headrace("state", "plant.py", log, *options, "-o", "json").json["projections"]
    row: Row = found
    return row


def events(headrace: Call, log: Path) -> list[int]:
    rows = headrace("log", "cat", log, "-o", "jsonl").jsonl
    return [row["sequence"] for row in rows if row.get("subject", "").startswith("plant")]


def test_the_state_after_each_record_is_what_it_was_then(headrace: Call, folded: Path) -> None:
    """By key, with what there is to know of it."""
    at = events(headrace, folded)
    assert peaks(headrace, folded, "--at", at[2]) == {
        "projection": "peak",
        "pattern": "on('plant.*.temperature', Reading).key(…)",
        "in_force": True,
        "why_not": None,
        "keys": 1,
        "since": 1,
        "states": [{"key": "t1", "state": {"degrees": 95.0, "count": 3}}],
        "more": 0,
    }
    assert peaks(headrace, folded)["states"][0]["state"] == {"degrees": 97.0, "count": 5}


def test_text_names_each_key(headrace: Call, folded: Path) -> None:
    """With its state on one line; a filter of a rule or a run leaves projections out."""
    text = headrace("state", "plant.py", folded).out
    assert "projection peak: on('plant.*.temperature', Reading).key(…), 1 key\n" in text
    assert '  key "t1": {"degrees":97.0,"count":5}\n' in text
    assert "projection" not in headrace("state", "plant.py", folded, "--rule", "cool").out


def test_a_key_picks_its_state(headrace: Call, folded: Path) -> None:
    """Another one has none."""
    assert len(peaks(headrace, folded, "--key", "t1")["states"]) == 1
    assert peaks(headrace, folded, "--key", "t2")["states"] == []


def test_it_is_no_rule_to_ask_about(headrace: Call, folded: Path) -> None:
    """Who takes it for one is told which command shows it."""
    for command in (["state", "plant.py", folded, "--rule"], ["why", "plant.py", folded]):
        done = headrace(*command, "peak")
        assert done.code == 4
        assert done.last_error.endswith(
            "rule 'peak': expected one of the app's rules, found a projection, which `headrace "
            "state` shows; rules are cool"
        )
    broken = headrace("debug", "plant.py", folded, "--break", "rule=peak")
    assert broken.code == 4
    assert broken.last_error.endswith("expected one of the app's rules, found cool")


def test_one_that_was_written_today_is_folded_from_the_log(
    headrace: Call, app: Path, tmp_path: Path
) -> None:
    """Whatever the log was run with; it says so."""
    log = tmp_path / "before.log"
    app.write_text(PLANT)
    _run(headrace, log)
    app.write_text(PLANT + PEAKS.format(step=1))
    found = peaks(headrace, log, "--at", events(headrace, log)[2])
    assert (found["in_force"], found["states"][0]["state"]["count"]) == (False, 3)
    text = headrace("state", "plant.py", log).out
    assert "  folded for this from the log: it was not in force there\n" in text
    assert '"count":5' in text


def test_a_changed_one_is_folded_as_it_is_today(headrace: Call, app: Path, folded: Path) -> None:
    """What it was then is gone with its code."""
    app.write_text(PLANT + PEAKS.format(step=10))
    found = peaks(headrace, folded)
    assert found["states"][0]["state"]["count"] == 50
    assert found["why_not"] == "it was another one there: it has changed since"


def test_in_a_damaged_log_it_is_what_is_intact(headrace: Call, app: Path, tmp_path: Path) -> None:
    """Also for one that has to be folded for it."""
    log = tmp_path / "damaged.log"
    _run(headrace, log)
    path = log / name_of(1)
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 0xFF
    path.write_bytes(data)
    counts = []
    for step in (1, 10):
        app.write_text(PLANT + PEAKS.format(step=step))
        done = headrace("state", "plant.py", log, "-o", "json")
        assert done.code == 6
        assert "what is said is about its state after" in done.err
        (row,) = done.json["projections"]
        counts.append(row["states"][0]["state"]["count"] if row["states"] else 0)
    assert counts[1] == 10 * counts[0] > 0


def test_a_limit_shows_those_that_changed_last(headrace: Call, app: Path, tmp_path: Path) -> None:
    """And says how many there are."""
    lines = [
        f'{{"time": {1000 + n}, "subject": "plant.t{n}.temperature", "data": {{"degrees": {n}.0}}}}'
        for n in range(5)
    ]
    (tmp_path / "readings.jsonl").write_text("\n".join(lines) + "\n")
    log = tmp_path / "several.log"
    _run(headrace, log)
    found = peaks(headrace, log, "--limit", 2)
    assert [row["key"] for row in found["states"]] == ["t4", "t3"]
    assert (found["keys"], found["more"]) == (5, 3)
    assert (
        "  and 3 more; --limit shows them" in headrace("state", "plant.py", log, "--limit", 2).out
    )


def test_diff_says_which_states_have_changed(headrace: Call, folded: Path) -> None:
    """Field by field."""
    first, *_, last = events(headrace, folded)
    found = headrace("diff", "plant.py", folded, first, last, "-o", "json")
    assert found.code == 3
    (change,) = [row for row in found.json["changes"] if row["what"].startswith("projection")]
    assert change["what"] == 'projection peak key "t1"'
    assert change["change"] == "changed"
    assert set(change["fields"]) == {"degrees", "count"}


def test_rules_do_not_list_it(headrace: Call, folded: Path) -> None:
    """It is none, and cannot be paused."""
    rows = headrace("rules", "list", folded, "-o", "json").json
    assert all("peak" not in row["rule"] for row in rows)
    done = headrace("rules", "pause", folded, "projection.peak")
    assert done.code == 4
    assert "expected a rule that is in force, found 'projection.peak'" in done.err


def test_check_names_it_and_warns_of_globals(headrace: Call, app: Path) -> None:
    """The type of its state is none of these: it counts in the fingerprint."""
    done = headrace("check", "plant.py", "-o", "json")
    (row,) = done.json["projections"]
    assert (row["projection"], row["subjects"]) == ("peak", ["plant.*.temperature"])
    assert "plant.*.temperature" in done.json["subjects"]
    assert done.err == ""

    app.write_text(PLANT + "STEP = 2\n" + PEAKS.format(step="STEP"))
    said = "projection 'peak' reads STEP from its module, and a changed value would not make it"
    assert said in headrace("check", "plant.py").err
