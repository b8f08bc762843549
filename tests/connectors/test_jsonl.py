"""JSON lines: every byte of a file is accounted for, however it is read, cut or continued."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.stand import FullLog

from headrace import App, Emission, MemoryLog
from headrace.connectors import jsonl
from headrace.connectors.jsonl import BadLine, JsonLines, SourceMissing, SourceUnusable, feed
from headrace.engine.record import EventStored, decode

FIRST_S = 1_700_000_000


def event(number: int, **more: Any) -> str:
    return json.dumps({"subject": "a.b", "data": number, **more})


def emptied(source: JsonLines) -> list[Emission]:
    """Read *source* to its end."""
    events: list[Emission] = []
    while batch := source.read():
        events += batch
    return events


def read(path: Path, *, cursor: int | None = None, **options: Any) -> list[Emission]:
    source = JsonLines(path, **options)
    source.open()
    try:
        source.resume(cursor)
        return emptied(source)
    finally:
        source.close()


def numbers(events: list[Emission]) -> list[Any]:
    return [msgspec.msgpack.decode(event.data) for event in events]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


# What a line may hold.


def test_all_fields_reach_the_event(path: Path) -> None:
    """What a user writes into a line is what is stored, to the nanosecond."""
    path.write_text(event(7, id="i", key="k", time="2026-03-01T08:00:00.123456789Z") + "\n")
    (found,) = read(path)

    assert found.subject == "a.b"
    assert msgspec.msgpack.decode(found.data) == 7
    assert (found.id, found.key) == ("i", "k")
    assert found.time_ns == 1_772_352_000_123_456_789
    assert found.position == path.stat().st_size
    assert found.source.startswith("file:events.jsonl:")


@pytest.mark.parametrize(
    ("time", "expected_ns"),
    [
        ('"1970-01-01T00:00:00Z"', 0),
        ('"1970-01-01t00:00:01z"', 1_000_000_000),
        ('"1970-01-01 00:00:01Z"', 1_000_000_000),
        ('"1970-01-01T01:00:00+01:00"', 0),
        ('"1969-12-31T23:30:00-00:30"', 0),
        ('"1970-01-01T00:00:00.5Z"', 500_000_000),
        ('"1970-01-01T00:00:00.0000000019Z"', 1),
        ('"2016-12-31T23:59:60Z"', 1_483_228_800_000_000_000),
        ("0", 0),
        ("1.5", 1_500_000_000),
        ("1700000000.25", 1_700_000_000_250_000_000),
        ("null", None),
    ],
)
def test_times_are_understood(path: Path, time: str, expected_ns: int | None) -> None:
    """RFC 3339 with any offset, and seconds since the epoch, name the same instants."""
    path.write_text(f'{{"subject": "a", "time": {time}}}')

    assert [found.time_ns for found in read(path)] == [expected_ns]


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moment=st.datetimes(datetime(1971, 1, 1), datetime(2261, 1, 1)),  # noqa: DTZ001
    offset_minutes=st.integers(-23 * 60 - 59, 23 * 60 + 59),
)
def test_any_time_is_the_one_that_datetime_knows(
    path: Path, moment: datetime, offset_minutes: int
) -> None:
    """The parser of our own, which is exact to the nanosecond, agrees with the library's."""
    zoned = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    path.write_text(event(0, time=zoned.isoformat()))
    since = zoned - datetime(1970, 1, 1, tzinfo=UTC)

    assert read(path)[0].time_ns == (since // timedelta(microseconds=1)) * 1000


def test_blank_lines_carriage_returns_and_a_byte_order_mark_are_no_events(path: Path) -> None:
    """Files from other systems work as they are."""
    path.write_bytes(
        b'\xef\xbb\xbf{"subject":"a","data":1}\r\n\r\n  \n{"subject":"a","data":2}\r\n'
    )

    assert numbers(read(path)) == [1, 2]


# Lines that are no events.

BAD = [
    (b"nope", "expected JSON, found nope"),
    (b'{"subject": "a"', "expected JSON"),
    (b'{"subject": "a"} x', "expected JSON"),
    (b'{"subject": "a\xff"}', "expected JSON"),
    (b"[1]", 'expected an object with "subject"'),
    (b'{"data": 1}', "missing required field `subject`"),
    (b'{"subject": "a", "dta": 1}', "unknown field `dta`"),
    (b'{"subject": 1}', "Expected `str`, got `int`"),
    (b'{"subject": "a", "id": 5}', "got `int` - at `$.id`"),
    (b'{"subject": "a..b"}', "'a..b', character 3"),
    (b'{"subject": "a.*"}', "wildcard"),
    (b'{"subject": "run.x"}', "reserved"),
    (b'{"subject": "a", "time": "yesterday"}', "expected a time such as 2026-03-01T08:00:00Z"),
    (b'{"subject": "a", "time": "2026-03-01T08:00:00"}', "expected a time such as"),
    (b'{"subject": "a", "time": "2026-02-30T08:00:00Z"}', "expected a time that exists"),
    (b'{"subject": "a", "time": "2026-03-01T08:00:00+25:00"}', "expected a time that exists"),
    (b'{"subject": "a", "time": 1700000000000}', "found 1700000000000 (milliseconds?)"),
    (b'{"subject": "a", "time": -1}', "expected a time from 1970 to 2262"),
    (b'{"subject": "a", "time": true}', "got `bool`"),
    (b'{"subject": "a", "data": ' + b"[" * 5000 + b"]" * 5000 + b"}", "expected JSON"),
    (b'{"subject": "a", "data": 123456789012345678901234567890}', "cannot be stored"),
    (b'{"subject": "' + b"a" * 4000 + b'"}', "expected at most"),
    (b'{"subject": "a", "data": "' + b"a" * 1_100_000 + b'"}', "expected at most"),
    (b'{"subject": "a", "data": "' + b"a" * 4_200_000 + b'"}', "expected at most 4194304 bytes"),
]


@pytest.mark.parametrize(("line", "message"), BAD, ids=[b[:60].decode("latin-1") for b, _ in BAD])
def test_a_bad_line_is_named_with_what_was_expected_and_found(
    path: Path, line: bytes, message: str
) -> None:
    """Whoever has to correct a file of a million lines is told where and what, on one line."""
    path.write_bytes(b'{"subject":"a","data":1}\n\n' + line + b'\n{"subject":"a","data":2}\n')
    source = JsonLines(path)
    source.open()
    found = source.read()
    with pytest.raises(BadLine) as raised:
        source.read()
    with pytest.raises(BadLine):
        source.read()
    source.close()
    text = str(raised.value)

    assert numbers(found) == [1], "what comes before it is handed out"
    assert text.startswith(f"{path}:3: expected ")
    assert message in text
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize(("line", "message"), BAD, ids=[b[:60].decode("latin-1") for b, _ in BAD])
def test_bad_lines_are_skipped_on_request(path: Path, line: bytes, message: str) -> None:
    """Nothing but the bad line is left out, and somebody is told of it."""
    path.write_bytes(b'{"subject":"a","data":1}\n' + line + b'\n{"subject":"a","data":2}\n' + line)
    bad: list[BadLine] = []

    assert numbers(read(path, on_bad=bad.append)) == [1, 2]
    assert [(found.path, found.line) for found in bad] == [(str(path), 2), (str(path), 4)]
    assert message in str(bad[0])


def test_an_endless_line_takes_no_endless_memory(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of another kind, without any newline, is refused and not loaded."""
    monkeypatch.setattr(jsonl, "LINE_BYTES_MAX", 1000)
    monkeypatch.setattr(jsonl, "READ_BYTES", 300)
    path.write_bytes(b"x" * 10_000 + b"\n" + event(1).encode() + b"\n" + b"y" * 2001)
    bad: list[BadLine] = []
    source = JsonLines(path, on_bad=bad.append)
    source.open()
    held: list[int] = []
    found: list[Emission] = []
    while batch := source.read():
        found += batch
        held.append(len(source._rest))
    source.close()

    assert numbers(found) == [1]
    assert found[0].position == 10_001 + len(event(1)) + 1
    assert [line.line for line in bad] == [1, 3]
    assert max(held) <= 1300


def test_a_log_by_input_cannot_begin_without_a_time(path: Path) -> None:
    """Without this check log time would begin in 1970 and then jump."""
    path.write_text(f"{event(1)}\n{event(2, time=FIRST_S)}\n{event(3)}\n")
    bad: list[BadLine] = []
    source = JsonLines(path, on_bad=bad.append)
    source.open()
    source.resume(None, wants_time=True)

    assert numbers(emptied(source)) == [2, 3]
    assert [line.line for line in bad] == [1]
    source.close()


# Where a file is gone on with.

LINES = st.lists(
    st.one_of(
        st.integers(0, 99).map(event),
        st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=8).map(event),  # type: ignore[arg-type]
        st.sampled_from(["", "  ", "\r"]),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines=LINES, is_ended=st.booleans(), read_bytes=st.integers(1, 60))
def test_however_it_is_read_and_resumed_every_line_counts_once(
    path: Path, lines: list[str], *, is_ended: bool, read_bytes: int
) -> None:
    """A run that is killed behind any event goes on with exactly the next one."""
    path.write_text("\n".join(lines) + ("\n" if is_ended else ""), newline="")
    expected = [json.loads(line)["data"] for line in lines if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "READ_BYTES", read_bytes)
        whole = read(path)

        assert numbers(whole) == expected
        for count, found in enumerate(whole, 1):
            assert numbers(read(path, cursor=found.position)) == expected[count:]


def test_line_numbers_count_from_the_beginning_of_the_file(path: Path) -> None:
    """After a resume an editor still finds the line by the number in the message."""
    path.write_text(f"{event(1)}\n\n{event(2)}\nnope\n")
    cursor = read_until_bad(path)
    with pytest.raises(BadLine, match=rf"{path.name}:4: "):
        read(path, cursor=cursor)


def read_until_bad(path: Path) -> int:
    source = JsonLines(path)
    source.open()
    cursor = source.read()[-1].position
    source.close()
    assert cursor is not None
    return cursor


def test_a_half_written_last_line_is_read_once_it_is_whole(path: Path) -> None:
    """A file that is still being written can be run again and again."""
    whole = f"{event(1)}\n{event(2)}"
    path.write_text(whole[:-3])
    with pytest.raises(BadLine, match=":2: "):
        read(path)
    cursor = read_until_bad(path)
    path.write_text(whole + "\n")

    assert numbers(read(path, cursor=cursor)) == [2]


def test_a_last_line_without_a_newline_counts_and_may_be_continued(path: Path) -> None:
    """Many programs do not end the last line; appending to it later loses and repeats nothing."""
    path.write_text(f"{event(1)}\n{event(2)}")
    found = read(path)
    with path.open("a") as file:
        file.write(f"\n{event(3)}\n")

    assert numbers(found) == [1, 2]
    assert numbers(read(path, cursor=found[-1].position)) == [3]


def test_a_file_that_was_cut_is_an_error(path: Path) -> None:
    """Going on at a place that does not exist would silently skip what is written there."""
    path.write_text(f"{event(1)}\n{event(2)}\n")
    cursor = path.stat().st_size
    path.write_text(f"{event(1)}\n")
    with pytest.raises(SourceUnusable, match=f"at least the {cursor} bytes"):
        read(path, cursor=cursor)


def test_a_file_that_was_rewritten_is_an_error(path: Path) -> None:
    """A cursor in the middle of a line says that these are not the lines that were read."""
    path.write_text(f"{event(1)}\n{event(2)}\n")
    cursor = read(path)[0].position
    path.write_text(f"{event(100000)}\n{event(2)}\n")
    with pytest.raises(SourceUnusable, match="rewritten"):
        read(path, cursor=cursor)


def name_of(path: Path) -> str:
    source = JsonLines(path)
    source.open()
    source.close()
    return source.name


def test_a_source_is_where_the_file_is_and_how_it_begins(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that grows stays the same source; one that was replaced is another."""
    path.write_text(event(1))
    name = name_of(path)
    path.write_text(f"{event(1)}\n{event(2)}\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.jsonl").symlink_to(path)

    assert name_of(path) == name
    assert name_of(Path("events.jsonl")) == name
    assert name_of(Path("link.jsonl")) == name
    path.write_text(f"{event(2)}\n")
    assert name_of(path) != name


def test_what_cannot_be_read_is_said(path: Path, tmp_path: Path) -> None:
    """A wrong path is noticed before a log is made for it."""
    with pytest.raises(SourceMissing, match="found nothing there"):
        read(path)
    with pytest.raises(SourceUnusable, match="found a folder"):
        read(tmp_path)
    path.write_text("")
    with pytest.raises(SourceUnusable, match="Not a directory"):
        read(path / "x")


def test_a_pipe_has_no_cursor(tmp_path: Path) -> None:
    """What comes from a pipe cannot be read again, so no place in it is recorded."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(f"{event(1)}\n{event(2)}",))
    writer.start()
    found = read(pipe)
    writer.join()

    assert numbers(found) == [1, 2]
    assert [found.position for found in found] == [None, None]
    assert found[0].source == "pipe:pipe"


# Into an engine.


def write(path: Path, text: str, *, mode: str = "w") -> None:
    with path.open(mode) as file:
        file.write(text)


def stored(log: MemoryLog) -> list[tuple[str, Any]]:
    return [
        (record.subject, msgspec.msgpack.decode(record.data))
        for _, batch in log.read()
        for record in map(decode, batch)
        if isinstance(record, EventStored)
    ]


async def feed_into(
    log: MemoryLog, *paths: Path, count: Callable[[int], None] | None = None
) -> None:
    sources = [JsonLines(path) for path in paths]
    for source in sources:
        source.open()
    try:
        async with App("a").open(log, clock="input", grace_s=0) as engine:
            for source in sources:
                source.resume(engine.cursor(source.name))
            await feed(
                engine,
                sources,
                on_stored=lambda sequences, _: count(len(sequences)) if count else None,
            )
    finally:
        for source in sources:
            source.close()


async def test_the_cursor_commits_with_the_events(path: Path) -> None:
    """Started again on a file that has grown, the log holds each line once."""
    log = MemoryLog()
    write(path, "".join(f"{event(n, time=FIRST_S + n)}\n" for n in range(3)))
    await feed_into(log, path)
    write(path, f"{event(3)}\n", mode="a")
    await feed_into(log, path)
    await feed_into(log, path)

    assert stored(log) == [("a.b", number) for number in range(4)]


async def test_files_are_merged_by_time_and_again_so_after_a_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sensors in two files play as they happened, whenever the run was interrupted."""
    monkeypatch.setattr(jsonl, "READ_BYTES", 100)
    even, odd = tmp_path / "even.jsonl", tmp_path / "odd.jsonl"
    even.write_text("".join(f"{event(n, time=FIRST_S + n)}\n" for n in range(0, 40, 2)))
    odd.write_text(
        # Every third line has no time and therefore goes with the one before it.
        "".join(
            f"{event(n) if n % 6 == 5 else event(n, time=FIRST_S + n)}\n" for n in range(1, 40, 2)
        )
    )
    undisturbed = MemoryLog()
    await feed_into(undisturbed, even, odd)
    for stop_after in range(1, 12, 3):
        log, left = MemoryLog(), stop_after

        def stop(_: int) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            await feed_into(log, even, odd, count=stop)
        await feed_into(log, even, odd)

        assert stored(log) == stored(undisturbed)
    assert [number for _, number in stored(undisturbed)][:8] == [0, 1, 2, 3, 5, 4, 6, 7]
    assert sorted(number for _, number in stored(undisturbed)) == list(range(40))


async def test_a_full_disk_makes_a_file_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever group finds no room, each line is stored once, in its order, and counted once."""
    monkeypatch.setattr(jsonl, "READ_BYTES", 150)
    paths = [tmp_path / "even.jsonl", tmp_path / "odd.jsonl"]
    for first, path in enumerate(paths):
        write(path, "".join(f"{event(n, time=FIRST_S + n)}\n" for n in range(first, 20, 2)))
    full_at, was_full = 0, True
    while was_full:
        full_at += 1
        log, told = FullLog(full_at), list[int]()
        log.room = True
        sources = [JsonLines(path) for path in paths]
        async with App("t").open(log, clock="input", probe_s=0.001) as engine:
            for source in sources:
                source.open()
            await feed(engine, sources, on_stored=lambda s, _: told.extend(s))  # noqa: B023
            cursors = [engine.cursor(source.name) for source in sources]
        for source in sources:
            source.close()
        was_full = log.probes > 0

        assert [number for _, number in stored(log)] == list(range(20))
        assert len(set(told)) == len(told) == 20
        assert cursors == [path.stat().st_size for path in paths]
    assert full_at > 8


async def test_a_bad_line_leaves_what_is_before_it_stored(path: Path) -> None:
    """Correct the line, start again: nothing is lost and nothing is there twice."""
    log = MemoryLog()
    write(path, f"{event(1, time=FIRST_S)}\nnope\n{event(3)}\n")
    with pytest.raises(BadLine):
        await feed_into(log, path)
    assert stored(log) == [("a.b", 1)]
    write(path, f"{event(1, time=FIRST_S)}\n{event(2)}\n{event(3)}\n")
    await feed_into(log, path)

    assert [number for _, number in stored(log)] == [1, 2, 3]


async def test_a_repeated_id_of_a_source_is_stored_once(path: Path) -> None:
    """Who is told of the sequences can tell a duplicate from an event."""
    write(path, "".join(f"{event(n, time=FIRST_S, id=i)}\n" for n, i in enumerate("abcab")))
    source = JsonLines(path)
    source.open()
    told: list[tuple[list[int], int]] = []
    async with App("a").open(MemoryLog(), clock="input") as engine:
        await feed(engine, [source], on_stored=lambda s, before: told.append((list(s), before)))
        events = engine.state().events
    source.close()
    ((sequences, before),) = told

    assert events == 3
    assert sequences[:2] == sequences[3:]
    assert min(sequences) > before


async def test_a_file_that_ends_in_repetitions_is_not_read_again(path: Path) -> None:
    """The cursor is behind the last line, whether that was stored or known already."""
    log = MemoryLog()
    lines = [event(n, time=FIRST_S, id=i) for n, i in enumerate("abcab")]
    text = "".join(f"{line}\n" for line in lines)
    write(path, text)
    await feed_into(log, path)
    async with App("a").open(log, clock="input") as engine:
        assert list(engine.state().sources.values()) == [len(text)]
    counted: list[int] = []
    await feed_into(log, path, count=counted.append)

    assert counted == []
    assert len(stored(log)) == 3


async def test_waiting_for_a_pipe_can_be_cancelled(tmp_path: Path) -> None:
    """A pipe that says nothing does not keep a program from stopping."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    keeper = os.open(pipe, os.O_RDWR)
    source = JsonLines(pipe)
    source.open()
    async with App("a").open(MemoryLog()) as engine:
        with anyio.move_on_after(0.05) as scope:
            await feed(engine, [source])
    os.close(keeper)  # the thread that was left behind reads the end now

    assert scope.cancelled_caught
