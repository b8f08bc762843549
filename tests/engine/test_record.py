from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from headrace.engine import record as r

ALL_KINDS: tuple[type[Any], ...] = (*get_args(r.Input), *get_args(r.Decision))

INT64 = st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.integers(0, 2**63 - 1)
TEXT = st.text(max_size=20)
RAWS = st.builds(
    lambda data: Raw(msgspec.msgpack.encode(data)),
    st.none() | st.booleans() | INT64 | TEXT | st.lists(TEXT, max_size=3),
)
KEYS = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False) | TEXT | st.binary(max_size=9),
    lambda keys: st.lists(keys, max_size=3),
    max_leaves=4,
)


DETAILS = st.builds(
    r.Details,
    st.none() | TEXT,
    st.none() | st.dictionaries(TEXT, st.lists(NUMBERS, max_size=3), max_size=3),
    KEYS,
    NUMBERS,
    st.none() | INT64,
)


METS = st.builds(
    r.Met,
    KEYS,
    st.lists(NUMBERS, max_size=5),
    st.none() | INT64,
    st.none() | st.lists(NUMBERS, max_size=5),
    st.none() | DETAILS,
)


def values_of(kind: Any, name: str) -> st.SearchStrategy[Any]:
    """What a field of a record may hold, by its annotation."""
    known: dict[str, st.SearchStrategy[Any]] = {
        "int": INT64,
        "str": TEXT,
        "Raw": RAWS,
        "Any": KEYS,
        "int | None": st.none() | INT64,
        "str | None": st.none() | TEXT,
        "list[int]": st.lists(NUMBERS, max_size=5),
        "list[str]": st.lists(TEXT, max_size=3),
        "list[int] | None": st.none() | st.lists(NUMBERS, max_size=5),
        "dict[str, str]": st.dictionaries(TEXT, TEXT, max_size=4),
        "dict[str, str] | None": st.none() | st.dictionaries(TEXT, TEXT, min_size=1, max_size=4),
        "dict[str, int]": st.dictionaries(TEXT, INT64, max_size=4),
        "bool": st.booleans(),
        "bytes | None": st.none() | st.binary(max_size=40),
        "Details | None": st.none() | DETAILS,
        "Met | None": st.none() | METS,
        "bytes": st.binary(max_size=40),
        "WaitKind": st.sampled_from(get_args(r.WaitKind)),
        "StepKind": st.sampled_from(get_args(r.StepKind)),
        "CircuitMove": st.sampled_from(["open", "closed"]),
        "Outcome": st.sampled_from(get_args(r.Outcome)),
    }
    return known[kind.__annotations__[name]]


def records_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    fields: tuple[str, ...] = kind.__struct_fields__
    made = st.builds(kind, **{name: values_of(kind, name) for name in fields})
    return made.map(meant) if kind is r.EventStored else made


def meant(event: r.EventStored) -> r.EventStored:
    """Return *event* without what means nothing and is not stored."""
    if event.run == event.hops == event.offer == 0 and event.headers is None:
        event = msgspec.structs.replace(event, ordinal=0, trace=0)
        if not event.source and (event.id, event.time_ns, event.key) == (None, None, None):
            event = msgspec.structs.replace(event, position=None)
    return event


RECORDS = st.one_of([records_of(kind) for kind in ALL_KINDS])


def plain(record: Any) -> Any:
    """Return *record* so that it can be compared: Raw compares by identity."""
    values = [getattr(record, name) for name in record.__struct_fields__]
    return type(record), [bytes(v) if isinstance(v, Raw) else v for v in values]


# ---------------------------------------------------------------- round trip


@pytest.mark.slow
@given(RECORDS)
def test_a_record_comes_back_as_it_was(record: Any) -> None:
    """Every kind with every value: what is folded is what was decided."""
    stored = r.encode(record)

    assert plain(r.decode(stored)) == plain(record)
    assert r.encode(r.decode(stored)) == stored


EVENT_FIELDS: dict[str, Any] = {
    "source": 3,
    "position": 70,
    "id": "e1",
    "time_ns": -5,
    "key": "k",
    "run": 8,
    "ordinal": 2,
    "trace": 4,
    "hops": 6,
    "offer": 9,
    "headers": {"a": "b"},
}


@given(names=st.sets(st.sampled_from(sorted(EVENT_FIELDS))))
def test_what_an_event_leaves_out_are_defaults(names: set[str]) -> None:
    """An event is stored short, and no field that says something is lost with what is left out.

    But for two that mean nothing by themselves: a position without a source, and the place
    in a chain of causes without hops.
    """
    fields = {name: EVENT_FIELDS[name] for name in names}
    event = r.EventStored(5, "a.b", Raw(b"\x01"), **fields)

    decoded = r.decode(r.encode(event))
    assert isinstance(decoded, r.EventStored)
    lost = {name for name in fields if getattr(decoded, name) != fields[name]}
    meaningless = set[str]()
    if not names & {"run", "hops", "offer", "headers"}:
        meaningless |= {"ordinal", "trace"}
        if not names & {"source", "id", "time_ns", "key"}:
            meaningless |= {"position"}
    assert lost <= meaningless


def test_the_common_event_is_short() -> None:
    """Eight bytes less for each of many million."""
    event = r.EventStored(1_700_000_000_000_000_000, "sensors.t1.temperature", Raw(b"\x01"))

    assert len(r.encode(event)) == 1 + 1 + 9 + 1 + len("sensors.t1.temperature") + 1


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"source": 3}, 5),
        ({"id": "e"}, 6),
        ({"time_ns": 1}, 7),
        ({"key": "k"}, 8),
        ({"run": 1}, 12),
        ({"offer": 1}, 13),
        ({"headers": {"a": "b"}}, 14),
    ],
)
def test_what_events_may_have_costs_only_those_that_have_it(
    fields: dict[str, Any], length: int
) -> None:
    """A field that was appended is written with the events that use it and no others."""
    stored = r.encode(r.EventStored(5, "a", Raw(b"\x01"), **fields))

    assert len(msgspec.msgpack.decode(stored)) == 1 + length


def test_an_offer_without_headers_is_as_long_as_before_there_were_any() -> None:
    """A log is the same bytes as one of an older headrace, but for what that did not have."""
    plain = r.encode(r.EventOffered(5, 6, "a", Raw(b"\x01"), "s", "i", 7, "k"))
    headed = r.encode(r.EventOffered(5, 6, "a", Raw(b"\x01"), headers={"a": "b"}))

    assert msgspec.msgpack.decode(plain) == [15, 5, 6, "a", 1, "s", "i", 7, "k"]
    assert msgspec.msgpack.decode(headed)[9] == {"a": "b"}
    launched = r.encode(r.RunLaunched(5, "t", Raw(b"\x80"), "k", 6, 7, 8))
    assert msgspec.msgpack.decode(launched) == [28, 5, "t", {}, "k", 6, 7, 8]


def test_bytes_do_not_depend_on_the_order_of_a_dict() -> None:
    """Two engines that say the same write the same."""
    one = r.EngineStarted(1, "0", "system", {"a": "1", "b": "2"})
    other = r.EngineStarted(1, "0", "system", {"b": "2", "a": "1"})

    assert r.encode(one) == r.encode(other)


# ---------------------------------------------------------------- kinds


def test_every_kind_is_registered_once() -> None:
    """Tags and names are the log's vocabulary: none twice, each on its side of the border."""
    tags = {kind: kind.__struct_config__.tag for kind in ALL_KINDS}

    assert len(set(tags.values())) == len(ALL_KINDS)
    assert set(r.KIND_BY_TYPE) == {*ALL_KINDS, r.UnknownRecord}
    assert len(set(r.KIND_BY_TYPE.values())) == len(r.KIND_BY_TYPE)
    assert set(r.DECISION_KINDS) == set(get_args(r.Decision))
    for kind, tag in tags.items():
        assert (tag >= r.DECISION_TAG_MIN) == (kind in r.DECISION_KINDS)
        assert 0 < tag <= r.TAG_MAX


def test_tags_never_change() -> None:
    """An old log stays readable for ever: these numbers are on disks."""
    assert {r.KIND_BY_TYPE[kind]: kind.__struct_config__.tag for kind in ALL_KINDS} == {
        "event": 1,
        "timer.fired": 2,
        "run.completed": 3,
        "run.failed": 4,
        "run.cancelled": 5,
        "attempt.failed": 6,
        "step.requested": 7,
        "sleep.requested": 8,
        "cancel.requested": 9,
        "engine.started": 10,
        "engine.stopped": 11,
        "source.opened": 12,
        "rule.diverged": 13,
        "clock.stepped": 14,
        "event.offered": 15,
        "cursor.moved": 16,
        "rules.listed": 17,
        "rule.changed": 18,
        "rule.paused": 19,
        "alarm.acknowledged": 20,
        "history.began": 21,
        "history.ended": 22,
        "run.launched": 28,
        "run.redriven": 29,
        "breaker.moved": 30,
        "crashes.counted": 31,
        "patch.marked": 26,
        "run.failing": 27,
        "tasks.listed": 32,
        "wait.requested": 23,
        "wait.ended": 24,
        "signal.sent": 25,
        "rule.fired": 64,
        "run.released": 65,
        "run.replaced": 66,
        "run.cancelling": 67,
        "rule.mismatch": 68,
        "rule.error": 69,
        "rule.evicted": 70,
        "rule.loop": 71,
        "rule.late": 72,
    }


def test_the_order_of_fields_never_changes() -> None:
    """A record is an array: a field may be appended, never moved or taken out."""
    assert r.EventStored.__struct_fields__[:12] == (
        *("at_ns", "subject", "data", "source", "position", "id"),
        *("time_ns", "key", "run", "ordinal", "trace", "hops"),
    )
    assert r.EventStored.__struct_fields__[12:13] == ("offer",)
    assert r.EventOffered.__struct_fields__[:8] == (
        *("at_ns", "offered_at_ns", "subject", "data"),
        *("source", "id", "time_ns", "key"),
    )
    assert r.TimerFired.__struct_fields__[:6] == (
        *("at_ns", "due_ns", "owner", "slot", "key", "missed"),
    )
    assert r.RuleFired.__struct_fields__[:8] == (
        *("rule", "key", "events", "outcome", "due_ns", "branches", "trace", "hops"),
    )


@pytest.mark.parametrize("kind", ALL_KINDS, ids=lambda kind: kind.__name__)
def test_a_field_from_the_future_is_passed_over(kind: type[Any]) -> None:
    """An older headrace reads what a newer one has appended to a record."""
    sample: dict[str, Any] = {
        "int": 1,
        "str": "x",
        "Raw": 1,
        "Any": "k",
        "list[int]": [1],
        "dict[str, str]": {},
        "dict[str, int]": {},
        "bool": True,
        "StepKind": "call",
        "CircuitMove": "open",
        "Outcome": "run",
        "WaitKind": "receive",
        "bytes": b"x",
        "list[str]": ["x"],
    }
    values = [sample.get(annotation) for annotation in kind.__annotations__.values()]
    whole = [kind.__struct_config__.tag, *values, "what the future", ["has", 2, "say"]]

    decoded = r.decode(msgspec.msgpack.encode(whole))
    assert type(decoded) is kind


@pytest.mark.parametrize("tag", [40, 62, 63, 100, 126, 127])
def test_a_kind_from_the_future_is_kept_as_it_is(tag: int) -> None:
    """What is not known is passed on byte for byte; its tag says whether it begins a unit."""
    stored = msgspec.msgpack.encode([tag, 5, {"any": ["thing"]}, b"\x00"])
    record = r.decode(stored)

    assert isinstance(record, r.UnknownRecord)
    assert (record.tag, r.encode(record)) == (tag, stored)
    assert r.is_decision(record) == (tag >= r.DECISION_TAG_MIN)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"\xc1",
        b"\x01",
        b"\x90",
        b"\x80",
        msgspec.msgpack.encode("text"),
        msgspec.msgpack.encode([0, 1]),
        msgspec.msgpack.encode([-1, 1]),
        msgspec.msgpack.encode([128, 1]),
        msgspec.msgpack.encode([True, 1]),
        msgspec.msgpack.encode(["1", 1]),
        msgspec.msgpack.encode([1]),
        msgspec.msgpack.encode([1, "time", "a", 1]),
        msgspec.msgpack.encode([1, 5, 7, 1]),
        msgspec.msgpack.encode([64, "rule", "key", "events", "run"]),
        msgspec.msgpack.encode([64, "rule", "key", [1], "ran"]),
        msgspec.msgpack.encode([1, 5, "a", 1])[:-1],
        msgspec.msgpack.encode([1, 5, "a", 1]) + b"\x00",
        b"\x94\x01\x05\xa1\xff\x01",
    ],
    ids=repr,
)
def test_what_is_no_record_is_refused(stored: bytes) -> None:
    """Damage that a checksum let through is an error, never a record of another meaning."""
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        r.decode(stored)


FUTURE = st.sampled_from([b"\x93\x2f\x01\x02", b"\x92\x64\x01"])


@pytest.mark.slow
@given(st.lists(RECORDS.map(r.encode) | FUTURE, max_size=8))
def test_many_are_decoded_as_each(stored: list[bytes]) -> None:
    """Also where one is of a kind that is not known."""
    assert list(map(plain, r.decode_all(stored))) == [plain(r.decode(one)) for one in stored]


@pytest.mark.parametrize("broken", [b"\xc1", b"\x80", b"\x93\x01\x02", b"\x94\x01\x05\xa1\xff\x01"])
def test_one_that_is_no_record_is_found_among_many(broken: bytes) -> None:
    """Nothing is passed over, and no record is taken for another."""
    good = r.encode(r.EventStored(1, "a", msgspec.Raw(b"\x01")))
    with pytest.raises((msgspec.MsgspecError, UnicodeDecodeError)):
        r.decode_all([good, broken, good])


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_an_error(stored: bytes) -> None:
    """Nothing else comes out of decoding, whatever goes in."""
    try:
        record = r.decode(stored)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    assert type(record) in r.KIND_BY_TYPE


@pytest.mark.slow
@given(RECORDS)
def test_a_unit_is_an_input_and_its_decisions(record: Any) -> None:
    """Where one unit ends and the next begins can be read off each record alone."""
    assert r.is_decision(r.decode(r.encode(record))) == isinstance(record, r.DECISION_KINDS)
    assert isinstance(record, r.DECISION_KINDS) != hasattr(record, "at_ns")


# ---------------------------------------------------------------- text in records


@given(st.text(st.characters(codec=None), max_size=50), st.integers(0, 60))
def test_any_text_fits_a_record(text: str, chars_max: int) -> None:
    """The message of an error may hold anything; it is shortened, and always has an encoding."""
    kept = r.text_for_record(text, chars_max)

    assert kept.encode().decode() == kept
    assert len(kept) <= 6 * chars_max
    if text.isascii():
        assert kept == text[:chars_max]
