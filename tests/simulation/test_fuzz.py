"""Bytes from anywhere, also with right checksums: every parser gives a value or a typed error.

Each parser is fed what it accepts, changed at random.  Behind a checksum the change is made
first and the checksum after it: that is what a bug of another program would look like.
"""

from __future__ import annotations

import resource
import sys
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.reference.shell import Shell, ns, rules
from tests.simulation.disk import SimulatedDisk
from tests.simulation.session import Session, records

from headrace import on
from headrace.connectors.jsonl import rfc3339_ns
from headrace.engine import record as r
from headrace.engine.errors import (
    LogCorrupt,
    LogUnusable,
    LogVersion,
    SnapshotUnusable,
)
from headrace.engine.kernel import Kernel
from headrace.engine.log import FileLog, LogReader, frame, head, index_file, manifest
from headrace.engine.log.snapshots import FileSnapshots, name_of
from headrace.engine.record import decode, encode
from headrace.engine.snapshot import Snapshot, load
from headrace.engine.subject import check_emit, check_pattern, check_subject
from headrace.triggers.ruleset import Rule

INPUTS = 4000
"""For each parser; with `-m soak` three hundred times as many."""
RESIDENT_MB_MAX = 60

RECORDS: list[r.Record] = [
    r.EventStored(
        1_700_000_000_000_000_000, "plant.t1.temperature", Raw(b"\x81\xa1c\xcb" + b"@" * 8)
    ),
    r.EventStored(5, "a", Raw(b"\xc0"), 1, 77, "id", 4, "key", 9, 2, 3, 1),
    r.TimerFired(5, 4, "rule", 0, ("k", 1), 2),
    r.EngineStarted(5, "0.1.0", "system", {"rule": "f" * 16}, 600 * 10**9),
    r.RuleFired("rule", "key", [1, 2, 3], "run", None, [0], 1, 1),
    r.RunFailed(5, 3, 1, "OSError: no", "Traceback"),
    r.StepRequested(5, 3, 1, "call", "task", Raw(b"\x92\x01\x02")),
    r.RunLaunched(5, "task", Raw(b"\x81\xa1x\x01"), "key", 60 * 10**9, 3, 1),
    r.RunRedriven(5, 3, True, b"\x90"),
    r.RunCompleted(5, 3, Raw(b"\xc0"), b"d" * 32),
]
ENCODED = [encode(record) for record in RECORDS]


def changed(rng: Random, data: bytes, others: list[bytes]) -> bytes:
    """Return *data* with some bits, bytes or stretches changed."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        place = rng.randint(0, len(out))
        kind = rng.randrange(7)
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[place % len(out)] = rng.choice(b"\x00\x01\x7f\x80\x90\xc0\xc1\xc6\xdc\xdd\xde\xff")
        elif kind == 2:
            del out[place:]
        elif kind == 3:
            del out[place : place + rng.randint(1, 9)]
        elif kind == 4:
            out[place:place] = rng.randbytes(rng.randint(1, 9))
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randint(0, len(other))
            out[place : place + rng.randint(0, 30)] = other[start : start + rng.randint(0, 60)]
        else:  # lengths that nothing has, and nests that have no end
            out[place:place] = rng.choice(
                (
                    b"\xdd\xff\xff\xff\xff",
                    b"\xc6\xff\xff\xff\xfe",
                    b"\x91" * 3000,
                    b"\x81\xa0" * 1500,
                )
            )
    return bytes(out)


def feed(
    parse: Callable[[bytes], object],
    valid: list[bytes],
    allowed: tuple[type[BaseException], ...],
    *,
    times: int = 1,
) -> None:
    """Feed *parse*; what it does not accept it refuses by one of *allowed*, within its means."""
    rng = Random(1)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for data in valid:
        parse(data)  # it does accept what is right
    for number in range(INPUTS * times):
        data = rng.randbytes(rng.randint(0, 90)) if number % 10 == 0 else rng.choice(valid)
        if number % 10:
            data = changed(rng, data, valid)
        try:
            parse(data)
        except allowed:
            refused += 1
    assert refused > INPUTS // 50, "hardly anything was refused: is it looked at?"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown / (1024 if sys.platform != "darwin" else 1024**2) < RESIDENT_MB_MAX


def frames() -> list[bytes]:
    """Return frames of one, of several and of many records, and compressed ones."""
    made, codecs = [], set[int]()
    for part in (ENCODED[:1], ENCODED, ENCODED * 40):
        body, codec = frame.shortest_body(part)
        packed = frame.compressed_body(body, 1)
        for data, kind in ((body, codec), (packed, codec | frame.ZLIB)):
            encoded, _ = frame.encode_frame(
                data,
                kind=frame.DATA,
                count=len(part),
                base=7,
                durable=3,
                chain=11,
                codec=kind,
            )
            made.append(encoded)
            codecs.add(kind)
    assert codecs == {0, 1, 2, 3}
    return made


def parse_frame(data: bytes) -> None:
    for record in frame.records_of(frame.decode_frame(memoryview(data), 0)):
        assert isinstance(record, bytes)


def parse_body(data: bytes) -> None:
    """A frame whose checksums are right, whatever is in it."""
    codec = {b"z": frame.ZLIB, b"t": frame.SAME_TIME}.get(data[:1], frame.PLAIN)
    data = data[1:] if codec == frame.SAME_TIME else data
    made, _ = frame.encode_frame(
        data, kind=frame.DATA, count=len(ENCODED), base=7, durable=7, chain=1, codec=codec
    )
    parse_frame(made)


def parse_manifest(body: bytes) -> None:
    """A MANIFEST whose checksum is right."""
    prefix = b"\x92\xce" + zlib.crc32(body).to_bytes(4, "big")
    manifest.decode("/log/MANIFEST", prefix + msgspec.msgpack.encode(body))


def parse_record(data: bytes) -> None:
    found = decode(data)
    again = decode(encode(found))
    assert encode(again) == encode(found), "what was read is not what is written"


MANIFEST = manifest.Manifest(
    1, b"i" * 16, 5, 1, [manifest.Segment(1, b"i" * 16)], manifest.Parent(b"j" * 16, 3, 4)
)
SLOT = head.encode_slot(
    head.Head(log_id=b"i" * 16, generation=3, next_sequence=9, base=1, offset=64, chain=7)
)
TEXTS = [
    "a.b.c",
    "sensors.*.temperature",
    "a.>",
    "run.failed.x",
    "ä.ö",
    "*",
    "2026-03-01T08:00:00Z",
]


def as_text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    """Feed *parse* text, as a user's program may have got it from anywhere."""
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


DECODE_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
PARSERS: dict[
    str, tuple[Callable[[bytes], object], list[bytes], tuple[type[BaseException], ...]]
] = {
    "frame": (parse_frame, frames(), (frame.Damage, frame.Newer)),
    "body": (
        parse_body,
        [frame.encode_records(ENCODED), b"t" + frame.shortest_body(ENCODED)[0]],
        (frame.Damage,),
    ),
    "manifest": (
        lambda data: manifest.decode("/log/MANIFEST", data),
        [manifest.encode(MANIFEST)],
        (LogCorrupt, LogVersion),
    ),
    "manifest behind its checksum": (
        parse_manifest,
        [msgspec.msgpack.encode(MANIFEST)],
        (LogCorrupt, LogVersion),
    ),
    "record": (parse_record, ENCODED, DECODE_ERRORS),
    "subject": (as_text(check_subject), [b"a.b.c"], (ValueError,)),
    "emitted subject": (as_text(check_emit), [b"a.b.c"], (ValueError,)),
    "pattern": (as_text(check_pattern), [t.encode() for t in TEXTS[:3]], (ValueError,)),
    "time": (as_text(rfc3339_ns), [TEXTS[-1].encode()], (ValueError,)),
}


@pytest.mark.parametrize("name", PARSERS)
def test_parsers_refuse_by_typed_errors(name: str) -> None:
    """Nothing else is raised, nothing hangs, and no length is believed before it is checked."""
    feed(*PARSERS[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", PARSERS)
def test_parsers_at_length(name: str) -> None:
    """The same, three hundred times as long."""
    feed(*PARSERS[name], times=300)


def test_head_is_read_or_not_there() -> None:
    """HEAD is only ever a hint: bytes that are none are as good as no file."""
    rng = Random(2)
    found = 0
    for _ in range(INPUTS):
        found += head.decode(changed(rng, SLOT * 2, [SLOT])) is not None
    assert 0 < found < INPUTS


def test_fine_index_is_read_or_not_there() -> None:
    """So is the index file: it is a cache."""
    rng = Random(3)
    entries = [(1 + 10 * n, 64 + 4096 * n, 1000 + n) for n in range(20)]
    whole = index_file.encode(1, b"d" * 16, entries)
    assert index_file.decode(whole, 1, b"d" * 16) is not None
    for _ in range(INPUTS):
        data = changed(rng, whole, [whole])
        assert data == whole or index_file.decode(data, 1, b"d" * 16) is None


COUNTED = Rule("three", on("a").key(lambda e: e.data).count(3, within=60), "parallel", "1")


def snapshot_parts() -> list[bytes]:
    """Return the parts of a snapshot with a bit of everything."""
    shell = Shell(rules(COUNTED)).start(ns(1))
    for number in range(8):
        shell.emit(ns(2), "a", number % 3, id=f"e{number}")
    for run in list(shell.kernel.state.runs.active):
        at_ns = shell.at_ns
        shell.put(r.StepRequested(at_ns, run, 1, "call", "work", Raw(b"\x90")))
        shell.put(r.SleepRequested(at_ns, run, 2, at_ns + ns(5)))
    return list(Snapshot(shell.kernel).parts())


def test_parts_of_a_snapshot_are_refused() -> None:
    """Behind its digest, too: a snapshot of some other program is of no use, and no harm."""
    rng = Random(4)
    parts = snapshot_parts()
    refused = 0
    for _ in range(INPUTS):
        left = list(parts)
        place = rng.randrange(len(left))
        left[place] = changed(rng, left[place], parts)
        try:
            load(Kernel(rules(COUNTED)()), left)
        except SnapshotUnusable:
            refused += 1
    assert refused > INPUTS // 2


def test_snapshot_files_are_refused() -> None:
    """None is taken for the one that it was."""
    rng = Random(5)
    disk = SimulatedDisk()
    disk.folders.add("/log")
    snapshots = FileSnapshots(disk, "/log")
    file = snapshots.begin(7)
    file.write([b"one", b"two" * 50])
    file.finish(oldest_sequence=3, record=b"r")
    inode = disk.names[f"/log/{name_of(7)}"]
    whole = bytes(inode.data)
    for _ in range(INPUTS):
        inode.data[:] = changed(rng, whole, [whole])
        if bytes(inode.data) != whole:
            with pytest.raises(SnapshotUnusable):
                list(snapshots.read(7, b"r"))


def test_logs_give_a_prefix_or_a_typed_error() -> None:
    """Whole logs with any of their files changed: opened, or refused; read, or refused."""
    rng = Random(6)
    disk = SimulatedDisk()
    session = Session(FileLog("/log", files=disk, reserve_bytes=0, segment_bytes_max=350))
    for first in range(1, 24, 4):
        session.put(records(first, first + 1), records(first + 2, first + 3))
    session.log.close()
    expected = records(1, 24)
    whole = {path: bytes(inode.data) for path, inode in disk.names.items()}
    paths = sorted(path for path in whole if not path.endswith(("LOCK", "RESERVE")))
    outcomes: set[str] = set()
    for _ in range(INPUTS // 4):
        path = rng.choice(paths)
        for name, data in whole.items():
            disk.names[name].data[:] = data
        disk.names[path].data[:] = changed(rng, whole[path], [whole[path]])
        outcomes.add(outcome_of_reading(disk, expected))
    assert {"read", "LogCorrupt"} <= outcomes <= {"read", "LogCorrupt", "LogVersion", "LogUnusable"}


def outcome_of_reading(disk: SimulatedDisk, expected: list[bytes]) -> str:
    """Read the log; what comes before an error is a prefix, and without one it is all."""
    found: list[Any] = []
    try:
        with LogReader("/log", files=disk) as reader:
            for _, batch in reader.read():
                found += batch
    except (LogCorrupt, LogVersion, LogUnusable) as error:
        refusal = error
    else:
        assert found == expected
        return "read"
    assert found == expected[: len(found)]
    assert str(refusal).startswith("/log")
    return type(refusal).__name__
