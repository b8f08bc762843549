"""Logs as text and back: nothing is lost on the way, and nothing bad gets in."""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Raw
from tests.cli.command import Call

from headrace import Emission
from headrace.cli.log_import import LINE_BYTES_MAX
from headrace.connectors import cloudevents as ce
from headrace.engine.log import FileLog, LogReader
from headrace.engine.offline import OfflineLog
from headrace.engine.record import EventOffered, EventStored, decode, encode
from headrace.engine.subject import check_subject

FORMATS = ("jsonl", "cloudevents")

TOKENS = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"], blacklist_characters=". "),
    min_size=1,
    max_size=9,
).filter(lambda token: token not in ("*", ">"))
SUBJECTS = st.lists(
    TOKENS | st.sampled_from(["~a", "%41", "a%2Eb", "~", "%"]), min_size=1, max_size=4
)
DATA = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
    | st.datetimes(),
    lambda data: (
        st.lists(data, max_size=3)
        | st.dictionaries(st.text(max_size=5), data, max_size=3)
        | st.dictionaries(st.integers(-9, 9), data, max_size=3)
    ),
    max_leaves=6,
)
TRACE_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TEXT = st.text(st.characters(blacklist_categories=["Cs"]), max_size=20)
EVENTS = st.builds(
    Emission,
    SUBJECTS.map(".".join).filter(
        lambda s: not s.startswith(("run.", "rule.", "engine.", "clock."))
    ),
    DATA.map(lambda data: Raw(msgspec.msgpack.encode(data))),
    id=st.none() | TEXT.filter(bool),
    source=TEXT,
    time_ns=st.none() | st.integers(-(2**63) + 10**18, 2**63 - 1),
    key=st.none() | TEXT.filter(bool),
    headers=st.none()
    | st.dictionaries(
        st.sampled_from(["traceparent", "tracestate", "tenant", "x y"]),
        st.just(TRACE_PARENT)
        | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9),
    ),
)


def offered(log: Path) -> list[tuple[Any, ...]]:
    """All of each offer that is the event's own."""
    with LogReader(log) as reader:
        found = [decode(raw) for _, batch in reader.read() for raw in batch]
    return [
        (e.subject, bytes(e.data), e.source, e.id, e.time_ns, e.key, e.headers)
        for e in found
        if isinstance(e, EventOffered)
    ]


def raws(log: Path) -> list[bytes]:
    with LogReader(log) as reader:
        return [raw for _, batch in reader.read() for raw in batch]


@pytest.fixture
def folders(tmp_path: Path) -> Iterator[Path]:
    """Give a new folder each time."""

    def make() -> Iterator[Path]:
        number = 0
        while True:
            folder = tmp_path / str(number)
            folder.mkdir()
            yield folder
            number += 1

    return make()


# ---------------------------------------------------------------- there and back


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=st.lists(EVENTS, min_size=1, max_size=6, unique_by=lambda e: (e.source, e.id)))
def test_events_come_back_as_they_were(
    headrace: Call, folders: Iterator[Path], form: str, events: list[Emission]
) -> None:
    """Subject, data to the byte, source, id, time and key survive both formats."""
    folder = next(folders)
    with OfflineLog(FileLog(folder / "a")) as log:
        log.offer(events)
        log_id = log.log.log_id.hex()
    exported = headrace("log", "export", folder / "a", folder / "file", "-o", form)
    assert exported.code == 0, exported.err
    done = headrace("log", "import", folder / "file", folder / "b", "-o", "json")
    assert done.code == 0, done.err

    expected = [
        (*event[:3], event[3] or f"{log_id}/{number}", *event[4:])
        for number, event in enumerate(offered(folder / "a"), 1)
    ]
    assert offered(folder / "b") == expected
    again = headrace("log", "import", folder / "file", folder / "b", "-o", "json").json
    assert (again["imported"], again["known"]) == (0, len(events))


@pytest.mark.slow
def test_a_whole_log_comes_back_byte_for_byte(headrace: Call, log: Path) -> None:
    """Decisions, failures, retries: the same records under the same sequences, and the same id."""
    done = headrace("log", "export", log, "all.jsonl", "--kinds", "all")
    assert (done.code, done.out) == (0, "")
    restored = headrace("log", "import", "all.jsonl", "new.log", "--recorded")
    assert restored.code == 0, restored.err

    new = Path("new.log")
    assert raws(new) == raws(log)
    with LogReader(log) as old, LogReader(new) as reader:
        assert reader.log_id == old.log_id
    assert headrace("log", "verify", new).code == 0
    assert headrace("replay", "plant.py", new).code == 0
    second = headrace("log", "export", new, "--kinds", "all")
    assert second.out == Path("all.jsonl").read_text()


def test_an_unknown_record_comes_back_too(headrace: Call, tmp_path: Path) -> None:
    """What a newer headrace wrote is passed on, though nobody here can read it."""
    strange = msgspec.msgpack.encode([40, 5, {"any": "thing"}])
    longer = msgspec.msgpack.encode([2, 5, 5, "rule", 0, None, 0, "what the future has to say"])
    with OfflineLog(FileLog(tmp_path / "a")) as log:
        log.append([strange])
        log.append([longer])
    assert headrace("log", "export", "a", "all.jsonl", "--kinds", "all").code == 0
    assert headrace("log", "import", "all.jsonl", "b", "--recorded").code == 0

    assert raws(tmp_path / "b") == [strange, longer]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_what_is_imported_happens_again(headrace: Call, log: Path, form: str) -> None:
    """The events of a plant, played into another log: the rules come to the same."""
    exported = headrace("log", "export", log, "events", "-o", form)
    assert exported.code == 0
    done = headrace("log", "import", "events", "new.log", "-o", "json")
    assert (done.json["imported"], done.json["emitted"]) == (5, 1)
    (log.parent / "empty.jsonl").write_text("")
    run = ("run", "plant.py", "--log", "new.log", "--from", "empty.jsonl", "--clock", "input")
    assert headrace(*run).code == 0

    def story(folder: object) -> list[Any]:
        rows = headrace("log", "cat", folder, "-o", "jsonl").jsonl
        return [
            (row["kind"], row["recorded_at"], row.get("subject"), row.get("data"), row.get("error"))
            for row in rows
            if row["kind"] in ("event", "rule.fired", "run.failed", "attempt.failed", "timer.fired")
        ]

    assert story("new.log") == story(log)


def test_events_can_be_chosen(headrace: Call, log: Path) -> None:
    """By subject and by place: what is asked for, in its order."""

    def subjects(*options: object) -> list[str]:
        rows = headrace("log", "export", log, *options).jsonl
        return [row["subject"] for row in rows]

    everything = subjects()
    assert len(everything) == 6
    assert subjects("--subject", "fans.>") == ["fans.t1.start"]
    sequences = [row["sequence"] for row in headrace("log", "export", log).jsonl]
    assert len(subjects("--after", sequences[1])) == 4
    assert len(subjects("--until", sequences[1])) == 2
    assert len(subjects("--until", "2023-11-14T22:13:45Z")) == 3


# ---------------------------------------------------------------- CloudEvents


@pytest.mark.slow
@given(kind=st.text(min_size=1, max_size=20), about=st.none() | st.text(min_size=1, max_size=20))
def test_every_type_and_subject_has_a_subject_of_ours(kind: str, about: str | None) -> None:
    """Any CloudEvent can be stored, and is exported as it was."""
    event = ce.CloudEvent("1.0", "1", "s", kind, about)
    subject = ce.own_subject(event)

    check_subject(subject)
    assert not subject.startswith(("run.", "rule.", "engine.", "clock."))
    assert ce.split_subject(subject) == (kind, about)


@pytest.mark.parametrize(
    ("kind", "about", "subject"),
    [
        ("com.example.opened", None, "com.example.opened"),
        ("com.example.opened", "door/7", "com.example.opened.~door/7"),
        ("com.example.opened", "door.7 b", "com.example.opened.~door%2E7%20b"),
        ("run.started", None, "%72un.started"),
        ("a..b.", None, "a.%2Eb%2E"),
        ("a.*.>", None, "a.%2A.%3E"),
        ("a.~b", None, "a.%7Eb"),
        ("100%", None, "100%25"),
    ],
)
def test_type_and_subject_become_one(kind: str, about: str | None, subject: str) -> None:
    """Wildcards work on what comes from elsewhere, and nothing of it is made up."""
    assert ce.own_subject(ce.CloudEvent("1.0", "1", "s", kind, about)) == subject
    assert ce.split_subject(subject) == (kind, about)


def test_offers_are_read_many_at_once(
    headrace: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There are as many as an import brought; each alone would be looked for anew."""
    with OfflineLog(FileLog(tmp_path / "a")) as log:
        log.offer([Emission("a", number) for number in range(1500)])
    calls: list[int] = []
    fetch = LogReader.fetch

    def counting(self: LogReader, sequences: Iterable[int]) -> dict[int, bytes]:
        calls.append(1)
        return fetch(self, sequences)

    monkeypatch.setattr(LogReader, "fetch", counting)
    assert [row["data"] for row in headrace("log", "export", "a").jsonl] == list(range(1500))
    assert len(calls) <= 3


def test_an_exported_event_is_a_cloudevent(headrace: Call, tmp_path: Path) -> None:
    """The attributes are those of the specification and its registered extensions."""
    with OfflineLog(FileLog(tmp_path / "a")) as log:
        log.offer(
            [
                Emission("a.b", {"x": 1}, "i", "/s 1", time=5.5, key="k"),
                Emission("a.b", b"\x00\x01"),
            ]
        )
        log_id = log.log.log_id.hex()
    first, second = headrace("log", "export", "a", "-o", "cloudevents").jsonl
    assert first == {
        "specversion": "1.0",
        "id": "i",
        "source": "%2Fs%201",
        "type": "a.b",
        "time": "1970-01-01T00:00:05.5Z",
        "datacontenttype": "application/json",
        "data": {"x": 1},
        "sequence": "00000000000000000001",
        "partitionkey": "k",
        "headracesource": "/s 1",
    }
    assert second == {
        "specversion": "1.0",
        "id": f"{log_id}/2",
        "source": f"urn:headrace:log:{log_id}",
        "type": "a.b",
        "datacontenttype": "application/msgpack",
        "data_base64": b64encode(b"\xc4\x02\x00\x01").decode(),
        "sequence": "00000000000000000002",
    }
    assert all(name.isalnum() and name.islower() for name in first.keys() | {"x"})


def foreign(id: str, **attributes: Any) -> dict[str, Any]:
    return {"specversion": "1.0", "id": id, "source": "/mill", "type": "t", **attributes}


FOREIGN = [
    foreign("1", data={"a": [1, None]}),
    foreign("2", subject="gate 3"),
    foreign("3", time="2026-03-01T08:00:00.25+01:00", traceparent=TRACE_PARENT, dataschema="x"),
    foreign("4", data_base64="AAE=", datacontenttype="image/png"),
    foreign("5", data_base64="WzFd", datacontenttype="application/json; charset=utf-8"),
]


@pytest.mark.parametrize("batch", [False, True])
def test_cloudevents_from_elsewhere(headrace: Call, batch: bool) -> None:
    """One a line or one array, with what the format allows; what has no place is said."""
    lines = "\n".join(map(json.dumps, FOREIGN))
    Path("file").write_text(json.dumps(FOREIGN, indent=2) if batch else lines)
    done = headrace("log", "import", "file", "a", "--format", "cloudevents", "-o", "json")
    assert done.code == 0, done.err
    assert done.json["imported"] == 5
    assert "left out: dataschema (1)\n" in done.err
    time_ns = 1_772_348_400_250_000_000
    found = [(e[0], msgspec.msgpack.decode(e[1]), e[4]) for e in offered(Path("a"))]
    assert found == [
        ("t", {"a": [1, None]}, None),
        ("t.~gate%203", None, None),
        ("t", None, time_ns),
        ("t", b"\x00\x01", None),
        ("t", [1], None),
    ]
    headers = [e[6] for e in offered(Path("a"))]
    assert headers == [None, None, {"traceparent": TRACE_PARENT}, None, None]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "2:2: expected JSON"),
        ('{"subject": }', "2:13: expected JSON"),
        ("[1]", "2:1: expected an object"),
        ("7", "expected an object"),
        ('"text"', "expected an object"),
        ('{"subject": 5}', 'expected an object with "subject"'),
        ('{"data": 5}', "missing required field `subject`"),
        ('{"subject": "a", "color": 1}', "unknown field `color`"),
        ('{"subject": "a..b"}', "leave no token empty"),
        ('{"subject": "a", "time": "soon"}', "expected a time such as"),
        ('{"subject": "a", "time": 1e300}', "64 bits"),
        ('{"subject": "a", "data_msgpack": "AAA"}', "an event that can be stored"),
        ('{"subject": "a", "data_msgpack": "wQ=="}', "msgpack that cannot be decoded"),
        ('{"subject": "a", "id": "' + "x" * 700 + '"}', "at most 600 characters"),
        ('{"specversion": "1.0"}', "expected a CloudEvent"),
        (json.dumps({**foreign("1"), "specversion": "0.3"}), "instead of '1.0'"),
        (json.dumps(foreign("")), "an empty id"),
        (json.dumps(foreign("1", data_base64="?")), "an event that can be stored"),
        (json.dumps(foreign("1", data=1, data_base64="AA==")), "both data and data_base64"),
        (
            json.dumps(foreign("1", data_base64="AA==", datacontenttype="application/json")),
            "no JSON",
        ),
        ('{"kind": "log", "export": 1}', "--recorded"),
        ('{"subject": "a", "data": "' + "x" * 1_100_000 + '"}', "bytes"),
        ("[" * 5000, "expected an object"),
        ('{"subject": "a", "data": ' + "[" * 5000 + "]" * 5000 + "}", "nested too deeply"),
        (" " * (LINE_BYTES_MAX + 2) + "{}", "a line of at most"),
    ],
    ids=lambda value: value[:60],
)
def test_a_bad_line_stops_with_its_place(headrace: Call, line: str, said: str) -> None:
    """Line, column, what was expected; what was before it is imported, and it says so."""
    Path("file").write_text(
        f'{{"subject": "a", "id": "1"}}\n{line}\n{{"subject": "b", "id": "2"}}\n'
    )
    done = headrace("log", "import", "file", "a")
    assert done.code == 1
    assert done.last_error.startswith("file:2:")
    assert said in done.last_error
    assert "1 events before it are imported" in done.last_error
    assert len(done.last_error) < 1000
    assert len(offered(Path("a"))) == 1

    Path("file").write_text('{"subject": "a", "id": "1"}\n{"subject": "b", "id": "2"}\n')
    assert headrace("log", "import", "file", "a", "-o", "json").json["imported"] == 1
    assert [event[0] for event in offered(Path("a"))] == ["a", "b"]


def test_bad_lines_can_be_passed_over(headrace: Call) -> None:
    """One broken line does not hold up a million good ones."""
    Path("file").write_bytes(b'\xef\xbb\xbf{"subject": "a"}\n\n\xff\xfe\n{"subject": "b"}')
    done = headrace("log", "import", "file", "a", "--skip-bad-lines", "-o", "json")
    assert (done.code, done.json["imported"], done.json["bad_lines"]) == (0, 2, 1)
    assert "file:3:" in done.err
    assert [event[0] for event in offered(Path("a"))] == ["a", "b"]


def test_a_batch_that_is_broken_imports_nothing(headrace: Call) -> None:
    """An array is read whole before the first of it is taken."""
    Path("file").write_text('[{"specversion": "1.0", "id": "1", "source": "s", "type": "t"}, {]')
    done = headrace("log", "import", "file", "a")
    assert (done.code, "nothing was imported" in done.last_error) == (1, True)
    assert offered(Path("a")) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_damaged_exports_end_in_one_line(headrace: Call, log: Path, seed: int) -> None:
    """Whatever happened to the file: typed errors, and never a log that is not intact."""
    rng = Random(seed)
    for kinds in (("--kinds", "all"), ("-o", "jsonl"), ("-o", "cloudevents")):
        whole = headrace("log", "export", log, *kinds).out.encode()
        for number in range(12):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 4)):
                place = rng.randrange(len(data))
                match rng.randrange(4):
                    case 0:
                        data[place] = rng.randrange(256)
                    case 1:
                        del data[place : place + rng.randrange(1, 200)]
                    case 2:
                        data[place:place] = rng.randbytes(3)
                    case _:
                        del data[place:]
                if not data:
                    break
            Path("file").write_bytes(data)
            new = f"{kinds[1]}-{seed}-{number}"
            recorded = ("--recorded",) if kinds[1] == "all" else ()
            done = headrace("log", "import", "file", new, *recorded)
            assert done.code in (0, 1), done.err
            assert "internal error" not in done.err
            if Path(new).exists():
                assert headrace("log", "verify", new).code == 0
            if done.code == 0 and recorded:
                assert raws(Path(new)) == raws(log)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda lines: lines[1:], "expected the first line of an export"),
        (lambda lines: [], "expected the first line of an export"),
        (lambda lines: lines[:-1], "expected a line of the kind 'end', found the end of the file"),
        (lambda lines: [*lines[:5], *lines[6:]], "expected record 5, found record 6"),
        (lambda lines: [*lines[:5], lines[4], *lines[5:]], "expected record 5, found record 4"),
        (lambda lines: [*lines[:5], lines[-1]], "records, found 4: some are missing"),
        (lambda lines: [*lines[:5], "{}"], "missing required field `kind`"),
    ],
)
def test_a_restoration_is_whole_or_says_that_it_is_not(
    headrace: Call, log: Path, edit: Any, said: str
) -> None:
    """A file that was cut, or lost a line, never passes for the log."""
    lines = headrace("log", "export", log, "--kinds", "all").out.splitlines()
    Path("file").write_text("\n".join(edit(lines)))
    done = headrace("log", "import", "file", "new.log", "--recorded")

    assert done.code == 1
    assert said in done.last_error


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["export", "plant.log", "plant.py"], 2, "expected a new file"),
        (["export", "plant.log", "--kinds", "all", "-o", "cloudevents"], 2, "all records as jsonl"),
        (["export", "plant.log", "--kinds", "all", "--subject", "a"], 2, "without --subject"),
        (["export", "plant.log", "--until", "soon"], 2, "--until 'soon'"),
        (["export", "plant.log", "--subject", "a..b"], 2, "--subject"),
        (["export", "nothing.log"], 4, "found nothing there"),
        (["export", "plant.log", "x", "--copy", "y"], 2, "--copy NEW alone"),
        (["import", "nothing", "a"], 4, "found nothing there"),
        (["import", "plant.py", "plant.py"], 4, "expected an event log, found a file"),
        (["import", "plant.py", "plant.log", "--recorded"], 2, "expected a new path"),
        (["import", "plant.py", "a", "--recorded", "--emitted"], 2, "--recorded alone"),
    ],
    ids=repr,
)
def test_wrong_arguments_change_nothing(
    headrace: Call, log: Path, arguments: list[str], code: int, said: str
) -> None:
    """One line says what is wrong with them; no file is left half-made."""
    before = sorted(path.name for path in log.parent.iterdir())
    done = headrace("log", *arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.last_error
    assert sorted(path.name for path in log.parent.iterdir()) == before


def test_a_copy_is_a_log(headrace: Call, log: Path) -> None:
    """An online backup, without text in between."""
    assert headrace("log", "export", log, "--copy", "copy.log").code == 0
    assert raws(Path("copy.log")) == raws(log)


def test_what_was_paid_is_exported_once(headrace: Call, log: Path) -> None:
    """An event that was offered has one name, before it was stored and after."""
    assert headrace("emit", log, "b", "1").code == 0
    before = headrace("log", "export", log, "--subject", "b").jsonl
    Path("empty.jsonl").write_text("")
    assert (
        headrace(
            *("run", "plant.py", "--log", log, "--from", "empty.jsonl", "--clock", "input")
        ).code
        == 0
    )
    after = headrace("log", "export", log, "--subject", "b").jsonl

    assert [row["id"] for row in before] == [row["id"] for row in after]
    stored = [decode(raw) for raw in raws(log)]
    assert sum(isinstance(x, EventStored) and x.offer > 0 for x in stored) == 1
    assert encode(stored[0]) == raws(log)[0]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_thousands_of_damaged_lines_cost_no_more_than_others(headrace: Call, form: str) -> None:
    """Each is an event or is reported with its line; none stops the rest or takes long."""
    rng = Random(form)
    events = [foreign("1", data=[1, {"a": "b"}], time="2026-03-01T08:00:00Z", subject="x")]
    if form == "jsonl":
        events = [{"subject": "a.b", "data": [1, {"a": "b"}], "time": 1.5, "key": "k", "id": "i"}]
    whole = json.dumps(events[0]).encode()
    lines = []
    for _ in range(25_000):
        line = bytearray(whole)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(line))
            line[place : place + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        lines.append(bytes(line).replace(b"\n", b" "))
    Path("file").write_bytes(b"\n".join(lines))
    began = time.monotonic()
    done = headrace(*("log", "import", "file", "a", "--skip-bad-lines", "-o", "json"))

    assert done.code == 0, done.err
    assert time.monotonic() - began < 30
    counts = done.json
    assert counts["bad_lines"] > 100
    taken = sum(counts[name] for name in ("imported", "known", "emitted", "engines_own"))
    blank = sum(not line.strip() for line in lines)
    assert taken + counts["bad_lines"] + blank == len(lines)
    assert len(offered(Path("a"))) == counts["imported"]
    assert taken > 100
