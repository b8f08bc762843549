"""``headrace timeline``: what is in the file, what it refuses, and what it says it left out."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from tests.cli.command import Call, records

from headrace.engine.log import FileLog
from headrace.engine.log.segment import name_of
from headrace.engine.record import (
    EngineStarted,
    EventStored,
    Record,
    RunCompleted,
    RunFailed,
    StepRequested,
    encode,
)

DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)
ROOT = Path(__file__).parents[2]
BEGUN_NS = 1_700_000_000_000_000_000


def data_of(page: str | bytes) -> dict[str, Any]:
    """What a report holds."""
    text = page.decode() if isinstance(page, bytes) else page
    (found,) = DATA.findall(text)
    document: dict[str, Any] = json.loads(found)
    return document


def names_in(data: dict[str, Any]) -> list[str]:
    return [data["strings"][number] for number in data["runs"]["name"]]


def test_the_report_has_every_run_with_its_attempts_and_waits(
    headrace: Call, log: Path, tmp_path: Path
) -> None:
    """What `runs list` says of a log is in its report too."""
    done = headrace("timeline", log, "-o", "json")
    data = data_of((tmp_path / "plant.log.timeline.html").read_bytes())
    runs = {run["run"]: run for run in headrace("runs", "list", log, "-o", "json").json}
    strings = data["strings"]

    assert done.code == 0, done.err
    assert done.json["report"] == "plant.log.timeline.html"
    assert data["runs"]["run"] == sorted(runs)
    assert [strings[number] for number in data["runs"]["status"]] == [
        runs[run]["status"] for run in sorted(runs)
    ]
    assert data["runs"]["attempt"] == [runs[run]["attempt"] for run in sorted(runs)]
    kinds = sorted(strings[number] for number in data["segments"]["kind"])
    assert kinds == ["failed", "failed", "retry", "sleep"]
    sleep = [strings[number] for number in data["segments"]["kind"]].index("sleep")
    assert data["segments"]["end"][sleep] - data["segments"]["begin"][sleep] == 5_000_000
    # The three events that met the rule, and the one that its run emitted.
    subjects = [strings[number] for number in data["events"]["subject"]]
    assert subjects == ["plant.t1.temperature"] * 3 + ["fans.t1.start"]
    assert sum(data["heat"]["events"]) == done.json["events"] == 6
    assert sum(data["heat"]["failures"]) == done.json["failures"] == 2


def test_the_report_needs_nothing_from_elsewhere(headrace: Call, log: Path, tmp_path: Path) -> None:
    """It is opened by mail, offline, years later; the page itself forbids all loading."""
    headrace("timeline", log)
    page = (tmp_path / "plant.log.timeline.html").read_text()

    assert "default-src 'none'" in page
    assert not re.search(r"(?:src|href)\s*=|@import|url\(|https?://|\bfetch\(|XMLHttp", page)


def test_nothing_that_an_event_says_ends_the_script(headrace: Call, tmp_path: Path) -> None:
    """A subject or a payload is text, whatever characters it has."""
    nasty = "</script><script>alert(1)</script><!--\u2028\u2029&"
    app = (
        "from headrace import App, on\napp = App('a')\n"
        "@app.rule(on('x.>'))\nasync def react() -> None: ...\n"
    )
    (tmp_path / "a.py").write_text(app)
    event = {"subject": "x.</script>", "data": {"said": nasty}}
    (tmp_path / "in.jsonl").write_text(json.dumps(event) + "\n")
    done = headrace("run", "a.py", "--log", "a.log", "--from", "in.jsonl")
    if done.code:  # a subject may not hold that; its data may
        (tmp_path / "in.jsonl").write_text(json.dumps({**event, "subject": "x.y"}) + "\n")
        done = headrace("run", "a.py", "--log", "a.log", "--from", "in.jsonl")
    assert done.code == 0, done.err
    assert headrace("timeline", "a.log").code == 0
    page = (tmp_path / "a.log.timeline.html").read_text()

    assert page.count("</script>") == 2
    assert "<!--" not in page.removeprefix("<!doctype html><!--")
    assert not {"\u2028", "\u2029"} & set(page)
    assert any(nasty in json.loads(text)["said"] for text in data_of(page)["strings"]
               if text.startswith("{"))  # fmt: skip


def test_a_stretch_shows_runs_that_began_before_it(headrace: Call, log: Path) -> None:
    """A run that sleeps over the beginning of the stretch is what one looks for there."""
    ends = [s for s, record in enumerate(records(log), 1) if type(record) is RunCompleted]
    done = headrace("timeline", log, "--from", ends[-1], "--out", "part.html", "-o", "json")
    data = data_of(Path("part.html").read_bytes())

    assert (done.json["first"], done.json["events"]) == (ends[-1], 0)
    assert names_in(data) == ["cool", "page"]
    assert data["runs"]["begin"] == [0, 6_000_000]
    assert data["runs"]["end"][0] == 6_000_000


@pytest.mark.parametrize("until", ["2023-11-14T22:13:30Z", "4"], ids=["by time", "by sequence"])
def test_a_stretch_ends_at_a_time_or_a_sequence(headrace: Call, log: Path, until: str) -> None:
    """Both name the same place, as in every other command."""
    done = headrace("timeline", log, "--until", until, "--out", "part.html", "-o", "json")

    assert (done.json["last"], done.json["events"], done.json["runs_total"]) == (4, 2, 0)


@pytest.mark.slow
def test_a_report_can_go_to_stdout(shell: Call, log: Path) -> None:
    """For whoever puts it elsewhere: nothing else is printed then."""
    done = shell("timeline", log, "--out=-")

    assert done.code == 0, done.err
    assert shell("timeline", log, "--out", "-").out == done.out
    assert done.out.startswith("<!doctype html>")
    assert data_of(done.out)["log"] == str(log)


def test_only_an_older_report_is_overwritten(headrace: Call, log: Path, tmp_path: Path) -> None:
    """A slip of the fingers costs no file of another kind."""
    assert headrace("timeline", log, "--out", "a.html").code == 0
    assert headrace("timeline", log, "--out", "a.html").code == 0
    (tmp_path / "mine.html").write_text("<!doctype html>mine")
    refused = headrace("timeline", log, "--out", "mine.html")

    assert refused.code == 2
    assert "mine.html: expected a place for a report, or an older one, found another file" in (
        refused.last_error
    )
    assert (tmp_path / "mine.html").read_text() == "<!doctype html>mine"
    assert sorted(path.name for path in tmp_path.glob(".*")) == []


def test_a_pipe_is_no_place_for_a_report(headrace: Call, log: Path, tmp_path: Path) -> None:
    """It is neither waited for nor replaced."""
    os.mkfifo(tmp_path / "pipe")
    done = headrace("timeline", log, "--out", "pipe")

    assert done.code == 2
    assert "pipe: expected a place for a report, or an older one, found no file" in done.last_error
    assert (tmp_path / "pipe").is_fifo()


def test_a_log_may_have_any_name(headrace: Call, log: Path) -> None:
    """Also one that is no text: names of files are bytes."""
    other = log.rename(log.with_name("a\udcff<b>.log"))
    done = headrace("timeline", other, "--out", "a.html")

    assert done.code == 0, done.err
    assert data_of((log.parent / "a.html").read_bytes())["log"].endswith("a\\udcff<b>.log")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["plant.log", "--out", "no/such/a.html"], 2, "found no such directory"),
        (["plant.log", "--out", "plant.log"], 2, "found a directory"),
        (["nowhere.log"], 4, "expected an event log, found nothing there"),
        (["plant.log", "--from", "9999"], 2, "expected records of the log, found none there"),
        (["plant.log", "--from", "9", "--until", "3"], 2, "found none there: it has 1 to"),
        (["plant.log", "--from", "yesterday"], 2, "--from 'yesterday': expected a sequence"),
        (["plant.log", "--from", "9" * 5000], 2, "found none there: it has 1 to"),
        (["plant.log", "--until", "-999999999d"], 4, "later than 1970-01-01T00:00:00Z"),
        (["plant.log", "--bars", "3"], 2, "--bars"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    headrace: Call, log: Path, arguments: list[str], code: int, said: str
) -> None:
    """Where, what was expected, what was found, and no file that is half a report."""
    done = headrace("timeline", *arguments)

    assert done.code == code
    assert said in done.last_error
    assert list(log.parent.glob("*.html")) == []


def write_log(path: Path, made: list[Record]) -> None:
    log = FileLog(path, durability="flushed")
    log.open(lambda: None)
    for record in made:
        log.append([encode(record)])
        log.commit()
    log.close()


def runs_of(count: int, *, failing: int) -> list[Record]:
    """So many runs that a process launched; every *failing*-th of them is a dead letter."""
    from msgspec import Raw, msgpack

    none = Raw(msgpack.encode({}))
    made: list[Record] = [EngineStarted(BEGUN_NS, "0.1", "system", {})]
    for number in range(count):
        at_ns = BEGUN_NS + number * 1_000_000
        run = len(made) + 1
        made.append(StepRequested(at_ns, 0, 0, "launch", "task", none))
        if number % failing == 0:
            made.append(RunFailed(at_ns + 1000, run, 1, "OSError: no", "", []))
        else:
            made.append(RunCompleted(at_ns + 1000, run, none))
    return made


def test_what_is_too_much_is_thinned_out_and_said(headrace: Call, tmp_path: Path) -> None:
    """Of ten times as many runs as fit, all that failed are shown, and the line says so."""
    write_log(tmp_path / "many.log", runs_of(2000, failing=100))
    done = headrace("timeline", "many.log", "--bars", 200, "-o", "json")
    data = data_of((tmp_path / "many.log.timeline.html").read_bytes())
    statuses = [data["strings"][number] for number in data["runs"]["status"]]
    fewer = int(re.findall(r"1 of (\d+)", done.json["thinned"])[0])

    assert done.json["runs_total"] == 2000
    assert statuses.count("dead") == 20
    assert 2000 / fewer / 2 < statuses.count("completed") < 2 * 2000 / fewer
    assert 100 < len(data["runs"]["run"]) + len(data["segments"]["row"]) <= 200
    assert data["thinned"] == done.json["thinned"]
    assert "of the runs that went well 1 of" in headrace("timeline", "many.log", "--bars", 200).out
    assert headrace("timeline", "many.log", "-o", "json").json["thinned"] is None


def test_what_failed_is_thinned_only_when_nothing_else_is_left(
    headrace: Call, tmp_path: Path
) -> None:
    """However many dead letters there are, the report has its bound."""
    write_log(tmp_path / "bad.log", runs_of(1000, failing=1))
    done = headrace("timeline", "bad.log", "--bars", 100, "-o", "json").json

    assert "of those that failed, or have not ended, 1 of" in done["thinned"]
    assert 0 < done["runs_shown"] <= 50, "a run and its failed attempt are two bars"


def test_a_damaged_log_is_shown_up_to_the_damage(headrace: Call, tmp_path: Path) -> None:
    """The intact part is what one has to go by; the exit code says that it is not all."""
    made = runs_of(3000, failing=50)
    write_log(tmp_path / "a.log", made[:2001])
    (segment,) = tmp_path.glob(f"a.log/{name_of(1)}")
    intact = segment.stat().st_size
    write_log(tmp_path / "a.log", made[2001:])
    data = bytearray(segment.read_bytes())
    data[(intact + len(data)) // 2] ^= 0xFF
    segment.write_bytes(data)
    done = headrace("timeline", "a.log", "-o", "json")
    page = data_of((tmp_path / "a.log.timeline.html").read_bytes())

    assert done.code == 6
    assert "expected" in done.last_error
    assert 2001 <= page["last"] < len(made)
    assert page["damage"] == json.loads(done.out)["damage"] != ""
    traced = headrace("trace", "a.log", 2)
    assert traced.code == 6
    assert "launch task  run 2" in traced.out


@pytest.mark.parametrize("raw", [b"\xc0", b"\x01", b"\xa3abc", b"\x92\x03\xa1x"], ids=repr)
def test_what_is_no_record_is_one_line(headrace: Call, tmp_path: Path, raw: bytes) -> None:
    """Bytes that are whole, and that headrace never wrote, are named by their sequence."""
    log = FileLog(tmp_path / "odd.log", durability="flushed")
    log.open(lambda: None)
    log.append([encode(EngineStarted(BEGUN_NS, "0.1", "system", {}))])
    log.append([raw])
    log.commit()
    log.close()

    for command in (["timeline", "odd.log"], ["trace", "odd.log", 1]):
        done = headrace(*command)
        assert done.code == 6
        assert "record 2: expected a record" in done.last_error


def test_two_reports_of_one_log_are_the_same(headrace: Call, log: Path, tmp_path: Path) -> None:
    """A report can be compared, and kept under version control."""
    pages = []
    for name in ("a.html", "b.html"):
        assert headrace("timeline", log, "--out", name).code == 0
        pages.append((tmp_path / name).read_bytes())

    assert pages[0] == pages[1]


def test_a_log_without_runs_is_an_empty_report(headrace: Call, tmp_path: Path) -> None:
    """A log that was just begun has little to show, and that is no error."""
    from msgspec import Raw, msgpack

    event = EventStored(BEGUN_NS, "x", Raw(msgpack.encode(1)))
    write_log(tmp_path / "new.log", [EngineStarted(BEGUN_NS, "0.1", "system", {}), event])
    done = headrace("timeline", "new.log")

    assert done.code == 0
    assert data_of((tmp_path / "new.log.timeline.html").read_bytes())["runs"]["run"] == []
