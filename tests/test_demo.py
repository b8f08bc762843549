"""The demo: real readings through the example plant, undisturbed, killed and reported."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import msgspec
import pytest

from headrace.demo import crash, demo, plant, report
from headrace.demo.feed import SOURCE, Sample, samples, windows
from headrace.demo.outcome import Outcome, first_difference, read_outcome
from headrace.demo.run import run_demo

FEED = samples()
SHORT = FEED[:6600]
"""Until the machine has stopped for the first time: 3 gaps, 22 weeks, one alarm."""


def run_into(log: Path, feed: list[Sample], *, stop_after: int | None = None) -> Outcome:
    anyio.run(lambda: run_demo(log, feed=feed, stop_after=stop_after))
    outcome = read_outcome(log, source=SOURCE)
    assert outcome is not None
    return outcome


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the whole feed comes to."""
    return run_into(tmp_path_factory.mktemp("demo") / "whole", FEED)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """What the first 6 600 readings come to."""
    return run_into(tmp_path_factory.mktemp("demo") / "short", SHORT)


# The feed.


def test_the_feed_is_every_reading_in_log_order() -> None:
    """Positions are gapless, so a cursor finds its place; no reading is lost or invented."""
    assert [sample.position for sample in FEED] == list(range(1, 22_695 + 7_267 + 1))
    assert sum(sample.sensor == "machine" for sample in FEED) == 22_695
    assert FEED[0] == Sample(1, "ambient", 1_372_896_000.0, 69.88083514)


def test_only_the_machines_repeated_hour_goes_back_in_time() -> None:
    """A clock that was set back once is the data's, not an error of the merge."""
    latest, back = 0.0, list[float]()
    for sample in FEED:
        if sample.time < latest:
            back.append(latest - sample.time)
        latest = max(latest, sample.time)

    assert back[0] == 55 * 60
    assert len(back) == 11


def test_labelled_windows_are_those_of_the_benchmark() -> None:
    """The report is held against NAB's labels, the middle reading of each window."""
    assert [(w.sensor, report._minute(w.middle)) for w in windows()] == [
        ("machine", "2013-12-11 06:00"),
        ("ambient", "2013-12-22 20:00"),
        ("machine", "2013-12-16 17:25"),
        ("machine", "2014-01-28 13:55"),
        ("machine", "2014-02-08 14:30"),
        ("ambient", "2014-04-13 09:00"),
    ]


# What the engine makes of it, against the same rules written down plainly.


def edge_count(
    feed: list[Sample], sensor: str, odd: Callable[[float], bool]
) -> Iterator[list[int]]:
    """Three odd readings within a day, once until a day brings fewer."""
    window, armed, now = deque[tuple[float, int]](), True, 0.0
    for sample in feed:
        now = max(now, sample.time)
        if sample.sensor != sensor or not odd(sample.degrees):
            continue
        while window and window[0][0] <= now - plant.DAY:
            window.popleft()
        armed = armed or len(window) < 3
        window.append((now, sample.position))
        if armed and len(window) >= 3:
            armed = False
            yield [position for _, position in window]


def silences(feed: list[Sample], sensor: str) -> Iterator[int]:
    """The last reading before each three hours without any."""
    last: Sample | None = None
    for sample in feed:
        if last is not None and sample.time - last.time >= 3 * plant.HOUR:
            yield last.position
            last = None
        if sample.sensor == sensor:
            last = sample


def positions(outcome: Outcome, rule: str, sensor: str) -> list[list[int]]:
    return [
        [int(name.removeprefix(f"{SOURCE}:")) for name in firing.events]
        for firing in outcome.firings
        if (firing.rule, firing.key) == (rule, sensor)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sensor", ["machine", "ambient"])
def test_rules_fire_where_a_plain_reading_of_the_data_says(
    undisturbed: Outcome, sensor: str
) -> None:
    """The engine finds just what twenty lines of Python find in the files."""
    hot, cold = plant.HOT_ABOVE[sensor], plant.COLD_BELOW[sensor]

    assert positions(undisturbed, "hot", sensor) == list(
        edge_count(FEED, sensor, lambda degrees: degrees > hot)
    )
    assert positions(undisturbed, "cold", sensor) == list(
        edge_count(FEED, sensor, lambda degrees: degrees < cold)
    )
    assert positions(undisturbed, "quiet", sensor) == [[p] for p in silences(FEED, sensor)]


@pytest.mark.slow
def test_every_run_ends_as_the_example_says(undisturbed: Outcome) -> None:
    """One page is refused for good; a flaky check is retried; all else succeeds."""
    runs = undisturbed.runs
    dead = [(run.task, run.key) for run in runs.values() if run.status == "dead"]
    flaky = [run for run in runs.values() if run.task == "check" and run.retries]

    assert undisturbed.events == len(FEED)
    assert undisturbed.open_runs == 0
    assert {run.status for run in runs.values()} == {"completed", "dead"}
    assert dead == [("page", "machine")]
    assert {run.result for run in flaky} == {"coolant in order"}
    assert {run.retries for run in flaky} == {1}


@pytest.mark.slow
def test_an_alarm_is_a_chain_of_tasks(undisturbed: Outcome) -> None:
    """Diagnosis decides what is checked, and what was found goes out as an event."""
    name = "cold[machine]@2014-02-07T20:50:00Z"
    chain = {n.removeprefix(name): run for n, run in undisturbed.runs.items() if n.startswith(name)}

    assert {n: run.task for n, run in chain.items()} == {
        "": "cold",
        "/1:diagnose": "diagnose",
        "/2:check": "check",
        "/3:check": "check",
        "/4:notify": "notify",
    }
    assert undisturbed.emitted[f"{name}/4:notify/1:emit"] == (
        "notices.machine",
        {"message": chain[""].result},
    )
    assert chain[""].result.endswith("; power in order, coolant in order")


@pytest.mark.slow
def test_the_report_says_which_failures_were_caught_and_how_early(undisturbed: Outcome) -> None:
    """Round limits catch five of six; the one that NAB calls hard to see is missed, and said so."""
    seen = report.report_of(undisturbed, windows(), log="x", log_bytes=0, speed=None)

    assert [(c.rule, c.fired, c.before_label_hours) for c in seen.windows] == [
        ("cold", "2013-12-10 09:35", 20.4),
        ("hot", "2013-12-21 21:00", 23.0),
        ("cold", "2013-12-16 08:20", 9.1),
        (None, None, None),
        ("cold", "2014-02-07 20:50", 17.7),
        ("cold", "2014-04-13 02:00", 7.0),
    ]
    assert seen.alarms_outside == 7
    text = report.text_of(seen)
    assert "5 of 6 caught" in text
    assert "missed" in text


# Interruptions.


@pytest.mark.slow
def test_stopping_at_any_critical_moment_changes_nothing(short: Outcome, tmp_path: Path) -> None:
    """Wherever the engine is stopped around an alarm, the next start comes to the same result."""
    alarm = positions(short, "cold", "machine")[0]
    stops = [alarm[0] - 1, alarm[0], alarm[1], alarm[2], alarm[2] + 1, alarm[2] + 2]
    log = tmp_path / "log"
    for stop in stops:
        run_into(log, SHORT, stop_after=stop)
    resumed = run_into(log, SHORT)

    assert resumed.starts == len(stops) + 1
    assert first_difference(short, resumed) is None


@pytest.mark.slow
def test_a_child_that_ends_by_itself_was_not_killed(tmp_path: Path) -> None:
    """The crash is never claimed without one: a child that cannot start is an error."""
    (tmp_path / "file").write_text("not a log")

    with pytest.raises(crash.ChildFailed, match="expected it to end well, found exit code 1"):
        crash.run_child(tmp_path / "file")


@pytest.mark.slow
def test_a_result_that_differs_is_seen(short: Outcome) -> None:
    """The comparison would notice a lost firing, a changed result and a repeated retry."""
    lost = msgspec.structs.replace(short, firings=short.firings[1:])
    runs = dict(short.runs)
    name = next(name for name, run in runs.items() if run.task == "notify")
    runs[name] = msgspec.structs.replace(runs[name], result="something else")
    changed = msgspec.structs.replace(short, runs=runs)
    retried = dict(short.runs)
    retried[name] = msgspec.structs.replace(retried[name], retries=1)
    again = msgspec.structs.replace(short, runs=retried)

    for other in (lost, changed, again):
        assert first_difference(short, other) is not None
        assert short.digest() != other.digest()
    judged = crash.judge(short, short, changed)
    assert not judged.same
    assert "something else" in crash.text_of(judged)


# The command.


@pytest.mark.slow
def test_the_command_reports_kills_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``headrace demo`` shows all of it in one go; a second time it only reports."""
    log = tmp_path / "log"

    assert demo(log, crash=False, output="table") == 0
    shown = capsys.readouterr()
    assert "29 962" in shown.out
    assert f"headrace log info {log}" in shown.out
    assert "The result is the same" in shown.out
    assert "readings: 29962 of 29962" in shown.err

    assert demo(log, crash=False, output="json") == 0
    again = capsys.readouterr()
    seen = json.loads(again.out)["report"]
    assert seen["events"] == len(FEED)
    assert 50 < seen["bytes_per_event"] < 100
    assert "holds a finished demo" in again.err

    assert demo(log, crash=True, output="table") == 2
    assert "name another --log" in capsys.readouterr().err


@pytest.mark.slow
def test_the_killed_log_is_the_one_that_is_left(
    undisturbed: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL in the middle of ``demo --crash`` loses nothing, and its log can be looked up."""
    log = tmp_path / "log"

    assert demo(log, crash=True, output="jsonl") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    seen = json.loads(lines[0])["crash"]
    assert seen["same"] is True
    assert len(FEED) // 2 <= seen["killed_at"] < len(FEED)
    resumed = read_outcome(log, source=SOURCE)
    assert resumed is not None
    assert resumed.starts == 2
    assert crash.judge(undisturbed, resumed, resumed).same


async def _write_something_else(log: Path) -> None:
    async with plant.app.open(log) as engine:
        await engine.emit("other.thing", 1)


@pytest.mark.slow
def test_the_log_of_something_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped --log costs nothing."""
    log = tmp_path / "log"
    anyio.run(_write_something_else, log)
    before = {path: path.read_bytes() for path in log.iterdir()}

    assert demo(log, crash=False, output="table") == 2
    assert "expected a log of the demo" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in log.iterdir()} == before
