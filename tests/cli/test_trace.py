"""``headrace trace``: up to the event from outside, and down to every effect."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw, msgpack
from tests.cli.command import PLANT, Call, MadeOnce, lines_of, records

from headrace.engine.log import FileLog
from headrace.engine.record import (
    EngineStarted,
    EventStored,
    Record,
    RuleFired,
    RunCompleted,
    RunFailed,
    StepRequested,
    encode,
)

CHAIN = (
    PLANT
    + """

@app.task
async def spin(fan: str) -> str:
    return fan


@app.rule(on("fans.*.start"))
async def start_fan(run: Run, firing: Firing) -> None:
    await run.map(spin, [f"{firing.events[0].tokens[1]}-{n}" for n in range(20)])
"""
)


@pytest.fixture
def chain(headrace: Call, tmp_path: Path, readings: Path, made_once: MadeOnce) -> Path:
    """The log of an app whose second rule reacts to what the first one's run emits."""
    (tmp_path / "chain.py").write_text(CHAIN)

    def run(path: Path) -> None:
        done = headrace("run", "chain.py", "--log", path, "--from", readings, "--clock", "input")
        assert done.code == 0, done.err

    return made_once(tmp_path / "chain.log", run)


def traced(headrace: Call, log: Path, *arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = headrace("trace", log, *arguments, "-o", "json").json
    return found


def only(log: Path, kind: type[Any], place: int = 0) -> int:
    return [s for s, record in enumerate(records(log), 1) if type(record) is kind][place]


def test_a_trace_goes_up_to_the_event_and_down_to_every_effect(headrace: Call, chain: Path) -> None:
    """Whatever record of a story one begins with, the whole of it is shown."""
    fired = only(chain, RuleFired)
    found = traced(headrace, chain, fired)
    stored = records(chain)
    root = stored[found["root"] - 1]
    assert isinstance(root, EventStored)
    assert root.subject == "plant.t1.temperature"
    rows = {row["sequence"]: row for row in found["records"]}
    kinds = [(row["kind"], row["name"]) for row in rows.values()]

    assert kinds[:4] == [
        ("event", "plant.t1.temperature"), ("run", "cool"), ("run", "check"), ("run", "check"),
    ]  # fmt: skip
    assert kinds.count(("run", "spin")) == 20
    assert ("run", "page") in kinds
    assert found["complete"] is True
    assert rows[fired]["also"] == [found["root"] - 2, found["root"] - 1]
    # Each but the root is an effect of another one, and comes after it.
    assert [row["cause"] for row in rows.values()].count(None) == 1
    assert all(row["cause"] in rows for row in list(rows.values())[1:])
    assert all((row["cause"] or 0) < sequence for sequence, row in rows.items())
    emitted = next(row for row in rows.values() if row["name"] == "fans.t1.start")
    second = next(row for row in rows.values() if row["name"] == "start_fan")
    assert (emitted["cause"], second["cause"]) == (fired, emitted["sequence"])
    assert second["offset_s"] == 6, "a retry after 1 s and a sleep of 5 s were in between"


@pytest.mark.parametrize("kind", [RuleFired, RunCompleted, EventStored])
def test_any_record_of_a_story_leads_to_the_same_tree(
    headrace: Call, chain: Path, kind: type[Any]
) -> None:
    """At night one begins with whatever the alarm named: here, the last record of each kind."""
    whole = traced(headrace, chain, only(chain, RuleFired))
    found = traced(headrace, chain, only(chain, kind, -1))

    assert found["root"] == whole["root"]
    assert found["records"] == whole["records"]
    assert found["asked"] in {row["sequence"] for row in whole["records"]}


def test_an_earlier_event_of_a_firing_led_to_it_too(headrace: Call, chain: Path) -> None:
    """A rule that counts to three fires because of three events, not only of the last."""
    fired = only(chain, RuleFired)
    record = records(chain)[fired - 1]
    assert isinstance(record, RuleFired)
    found = traced(headrace, chain, record.events[0])

    assert found["root"] == record.events[0]
    assert [row["sequence"] for row in found["records"]][:2] == [record.events[0], fired]
    assert found["records"][1]["also"] == record.events[1:]


def test_times_attempts_and_waits_of_a_run_are_told(headrace: Call, chain: Path) -> None:
    """Where the time went is what one wants to know of a slow reaction."""
    rows = traced(headrace, chain, "--run", only(chain, RuleFired))["records"]
    cool, fan = rows[0], next(row for row in rows if row.get("data") == {"part": "fan"})

    assert (cool["status"], cool["took_s"]) == ("completed", 6)
    assert [(wait["kind"], wait["ended_by"]) for wait in cool["waits"]] == [("sleep", "time")]
    assert (fan["status"], fan["attempt"], fan["took_s"]) == ("completed", 2, 1)
    assert [failure["error"] for failure in fan["failures"]] == ["OSError: the fan does not answer"]
    assert [wait["kind"] for wait in fan["waits"]] == ["retry"]
    page = next(row for row in rows if row["name"] == "page")
    assert (page["status"], page["step"]) == ("dead", "launch")


def test_a_large_tree_is_folded_but_not_what_failed(headrace: Call, chain: Path) -> None:
    """Of twenty runs alike three say enough; `--all` shows every one."""
    fired = only(chain, RuleFired)
    folded = headrace("trace", chain, fired).out
    whole = headrace("trace", chain, fired, "--all").out

    assert folded.count("spin  run") == 3
    assert re.search(r"… 17 more runs of spin, \d+ to \d+; 17 completed; took 0s to 0s", folded)
    assert whole.count("spin  run") == 20
    assert "attempt 1 failed +0s, given up: LookupError: nobody is on call for t1" in folded
    assert f"rule cool  run {fired} [t1]  completed, took 6s" in folded
    assert "sleep  5s  +1s" in folded
    # The record that was asked for is shown, wherever it is.
    last = [row["sequence"] for row in traced(headrace, chain, fired)["records"]][-1]
    (marked,) = [line for line in headrace("trace", chain, last).out.splitlines() if "◀" in line]
    assert f"run {last} " in marked


def test_a_run_comes_with_its_causes_above(headrace: Call, chain: Path) -> None:
    """`--run` is about one run: what led to it is said in a line each."""
    page = next(
        row for row in traced(headrace, chain, only(chain, RuleFired))["records"]
        if row["name"] == "page"
    )["sequence"]  # fmt: skip
    found = traced(headrace, chain, "--run", page)

    assert [row["sequence"] for row in found["records"]] == [page]
    assert [cause["name"] for cause in found["causes"]] == ["cool", "plant.t1.temperature"]
    first, second, *_ = headrace("trace", chain, "--run", page).out.splitlines()
    assert first.startswith("because of run ")
    assert second.startswith("because of event ")


def test_a_search_can_be_bounded(headrace: Call, chain: Path) -> None:
    """Of a long log one may not want to read the rest, and of a huge tree not every record."""
    fired = only(chain, RuleFired)
    cut = traced(headrace, chain, fired, "--limit", 3)
    early = traced(headrace, chain, fired, "--until", fired + 1)

    assert (len(cut["records"]), cut["complete"]) == (3, False)
    assert "--limit allows more" in headrace("trace", chain, fired, "--limit", 3).out
    assert early["searched_to"] == fired + 1
    assert len(early["records"]) < 5


def test_chrome_traces_have_slices_that_nest_and_arrows_in_pairs(
    headrace: Call, chain: Path
) -> None:
    """Perfetto refuses neither: slices of a track lie within or beside each other."""
    document = headrace("trace", chain, only(chain, RuleFired), "-o", "chrome").json
    events = document["traceEvents"]
    slices = [event for event in events if event["ph"] == "X"]
    by_track: dict[int, list[tuple[float, float]]] = {}
    for event in slices:
        end = event["ts"] + event["dur"]
        by_track.setdefault(event["tid"], []).append((event["ts"], end))
    for spans in by_track.values():
        for begin, end in spans:
            assert all(b >= end or e <= begin or (b <= begin and end <= e)
                       or (begin <= b and e <= end) for b, e in spans)  # fmt: skip

    assert {event["name"] for event in slices} >= {"cool", "check", "attempt 1 failed", "sleep"}
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert all(starts[one]["ts"] <= ends[one]["ts"] for one in starts)
    assert max(event["ts"] + event["dur"] for event in slices) == 6_000_000


def test_mermaid_escapes_what_an_event_says(headrace: Call, tmp_path: Path) -> None:
    """A subject may hold quotes and brackets; the flowchart stays one."""
    app = (
        "from headrace import App, Firing, on\napp = App('a')\n"
        "@app.rule(on('>'))\nasync def react(firing: Firing) -> None: ...\n"
    )
    (tmp_path / "a.py").write_text(app)
    (tmp_path / "in.jsonl").write_text(json.dumps({"subject": 'x.b"];&#', "data": 1}) + "\n")
    assert headrace("run", "a.py", "--log", "a.log", "--from", "in.jsonl").code == 0
    event = only(tmp_path / "a.log", EventStored)
    out = headrace("trace", "a.log", event, "-o", "mermaid").out

    assert out.startswith("flowchart LR\n")
    assert f"n{event} --> n{event + 1}" in out
    labels = re.findall(r'n\d+[(\[]+"(.*)"[)\]]+', out)
    assert len(labels) == 2
    assert all(not set(label) & set('<>"[]') for label in labels)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["9999"], 4, "expected a record from 1 to"),
        (["0"], 4, "expected a record from 1 to"),
        (["--run", "3"], 4, "expected run 3, found 'event' at that sequence"),
        (["--run", "9999"], 4, "expected run 9999, found records 1 to"),
        ([], 2, "expected a sequence or --run, found neither"),
        (["3", "--run", "8"], 2, "expected a sequence or --run, found both"),
        (["3", "--until", "soon"], 2, "--until 'soon': expected a sequence, a time"),
        (["3", "--limit", "0"], 2, "--limit"),
        (["three"], 2, "three"),
    ],
)
def test_a_record_that_is_not_there_is_one_line(
    headrace: Call, log: Path, arguments: list[str], code: int, said: str
) -> None:
    """Where, what was expected, what was found."""
    done = headrace("trace", log, *arguments)

    assert done.code == code
    assert said in done.last_error
    assert done.out == ""


def test_a_log_that_is_no_log_is_one_line(headrace: Call, tmp_path: Path) -> None:
    """A wrong path is the usual mistake."""
    done = headrace("trace", tmp_path / "nowhere", 3)

    assert done.code == 4
    assert "expected an event log, found nothing there" in done.last_error


def test_the_tree_stays_the_same_when_more_is_written(
    headrace: Call, log: Path, tmp_path: Path
) -> None:
    """What comes later and has another cause changes nothing."""
    before = traced(headrace, log, only(log, RuleFired))
    (tmp_path / "more.jsonl").write_text(lines_of([20.0, 21.0], sensor="t2"))
    more = headrace("run", "plant.py", "--log", log, "--from", "more.jsonl", "--clock", "input")
    assert more.code == 0, more.err
    after = traced(headrace, log, only(log, RuleFired))

    assert after["records"] == before["records"]
    assert after["searched_to"] > before["searched_to"]


def test_what_is_folded_is_counted_and_failures_are_not_folded(
    headrace: Call, tmp_path: Path
) -> None:
    """Of thirty steps alike the one that failed is shown, wherever it was among them."""
    none = Raw(msgpack.encode({}))
    made: list[Record] = [EngineStarted(NS, "0.1", "system", {})]
    made.append(StepRequested(NS, 0, 0, "launch", "parent", none))
    steps = range(3, 33)
    made += [StepRequested(NS, 2, n, "call", "step", none) for n in range(1, 31)]
    inner = len(made) + 1
    made.append(StepRequested(NS, steps[9], 1, "call", "inner", none))
    made += [RunFailed(NS, steps[20], 1, "OSError: the twenty-first", "", None)]
    made += [RunCompleted(NS, run, none) for run in (inner, *steps) if run != steps[20]]
    log = FileLog(tmp_path / "many.log", durability="flushed")
    log.open(lambda: None)
    for record in made:
        log.append([encode(record)])
    log.commit()
    log.close()
    told = headrace("trace", "many.log", 2).out

    assert "OSError: the twenty-first" in told
    assert re.search(r"… 26 more runs of step, .* 26 completed; took 0s to 0s; 1 record", told)


NS = 1_700_000_000_000_000_000
