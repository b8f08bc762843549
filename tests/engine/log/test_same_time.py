"""Times that repeat within a frame are left out of it, and every record comes back as it was."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.engine.log import frame
from headrace.engine.log.same_time import shorten, whole

pack = msgspec.msgpack.encode
AT_NS = 1_700_000_000_000_000_000

NUMBERS = st.sampled_from([None, 0, 5, 2**31, AT_NS, AT_NS + 1, 2**64 - 1, -(2**40)])
VALUES = st.one_of(NUMBERS, st.text(max_size=3), st.binary(max_size=3), st.lists(NUMBERS))
ANY = st.one_of(
    st.lists(VALUES, max_size=18),
    # As the engine writes them: a tag, mostly a time, and more.
    st.builds(
        lambda tag, at_ns, rest: [tag, at_ns, *rest],
        st.sampled_from([1, 3, 3, 63, 64, 127, 200]),
        NUMBERS,
        st.lists(VALUES, max_size=15),
    ),
    VALUES,
).map(pack)


def framed(records: list[bytes]) -> frame.Frame:
    body, codec = frame.shortest_body(records)
    data, _ = frame.encode_frame(
        body, kind=frame.DATA, count=len(records), base=1, durable=1, chain=0, codec=codec
    )
    return frame.decode_frame(memoryview(data), 0)


@pytest.mark.slow
@given(st.lists(ANY, min_size=1, max_size=12))
def test_every_record_comes_back(records: list[bytes]) -> None:
    """Whatever the records are, and whatever stands where a time would be."""
    assert frame.records_of(framed(records)) == records


@pytest.mark.slow
@given(st.lists(ANY, min_size=1, max_size=12))
def test_nothing_becomes_longer(records: list[bytes]) -> None:
    """A frame is never larger for it."""
    assert len(framed(records).body) <= len(frame.encode_records(records))


def test_one_time_is_written_once() -> None:
    """Eight bytes less for each record after the first of its time, of whatever kind."""
    records = [pack([tag, AT_NS, "a"]) for tag in (1, 1, 3, 1, 3, 3)]
    later = [pack([tag, AT_NS + 1, "a"]) for tag in (3, 1)]
    made = framed(records + later)
    assert made.codec == frame.SAME_TIME
    whole_bytes = len(frame.encode_records(records + later))
    assert len(made.body) == whole_bytes - 8 * (len(records) - 1 + len(later) - 1)
    assert frame.records_of(made) == records + later


def test_a_decision_keeps_its_fields() -> None:
    """What stands where an input has its time is left alone in all other records."""
    decision = pack([64, AT_NS, "a"])
    assert shorten([pack([1, AT_NS]), decision, decision]) is None


def test_a_nil_of_a_record_is_not_taken_for_a_time() -> None:
    """A group with a record that has nil in that place is written as it is."""
    records = [pack([1, AT_NS, "a"]), pack([1, AT_NS, "a"]), pack([70, None])]
    assert framed(records).codec == frame.PLAIN
    assert shorten(records) is None


def test_nil_before_any_time_is_damage() -> None:
    """A body with right checksums that leaves out a time it has not said is `Damage`."""
    records = [pack([64, 1]), pack([1, None, "a"])]
    with pytest.raises(ValueError, match="xc0"):
        whole(records)
    data, _ = frame.encode_frame(
        frame.encode_records(records),
        kind=frame.DATA,
        count=2,
        base=1,
        durable=1,
        chain=0,
        codec=frame.SAME_TIME,
    )
    with pytest.raises(frame.Damage, match="a record with a time"):
        frame.records_of(frame.decode_frame(memoryview(data), 0))
