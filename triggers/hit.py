"""`Hit`: what passes from one operator of a pattern to the next.

Operators hold hits, so a hit can be written out with their state and made again of that.
It has the sequences of all its events; the events themselves only as far as an operator
behind reads them (`Need`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine.event import Event
from headrace.engine.record import EventStored, encode, text_for_record

EVENTS_MAX: Final = 10_000
"""Sequences that a hit names; of more the first and the latest."""
ERROR_CHARS_MAX: Final = 500
CLEAR: Final = "clear"
"""The reason of a firing that says that what an earlier one told of has ended."""


class Need(IntEnum):
    """How much of a hit's events operators behind read."""

    NONE = 0
    LAST = 1
    ALL = 2


class Seen(Struct, frozen=True, gc=False):
    """An event as the entry saw it by which it came in."""

    event: Event[Any]
    record: EventStored
    entry: int
    """Number of that entry: it knows the type."""


Recall = Callable[[int, int, bytes], Seen]
"""Makes a `Seen` again of the entry's number, the sequence and the encoded record."""


class Hit(Struct, frozen=True, gc=False):
    """A pattern, or a part of one, that was met."""

    key: Any
    at_ns: int
    """Of the event that met it, or the due time of the timer that did."""
    events: tuple[int, ...]
    """Sequences of its events, oldest first; at most `EVENTS_MAX`."""
    seen: tuple[Seen, ...]
    """Those of its events that operators behind may read, the newest last."""
    trace: int
    hops: int
    due_ns: int | None = None
    branches: tuple[int, ...] | None = None
    reason: str | None = None
    steps: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    value: Any = None
    """What an aggregate made of the events."""
    more: int = 0
    """How many events there are besides those that are named."""

    @property
    def event(self) -> Event[Any]:
        """The event that conditions behind look at."""
        return self.seen[-1].event

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.events) + self.more


def slim(hit: Hit, need: Need) -> Hit:
    """Return *hit* as it is kept for operators behind that have *need*."""
    seen = hit.seen
    if need is Need.ALL or not seen or (need is Need.LAST and len(seen) == 1):
        return hit
    kept = seen[-1:] if need is Need.LAST else ()
    return msgspec.structs.replace(hit, seen=kept)


def joined(
    hits: Iterable[Hit],
    *,
    last: Hit,
    at_ns: int,
    due_ns: int | None = None,
    reason: str | None = None,
    branches: tuple[int, ...] | None = None,
    steps: tuple[tuple[str, tuple[int, ...]], ...] | None = None,
    in_order: bool = False,
) -> Hit:
    """Return one hit that has the events of *hits*, oldest first, and the causes of *last*.

    *in_order*: sort the sequences and name each once.
    """
    listed = list(hits)
    events = [sequence for hit in listed for sequence in hit.events]
    seen = tuple([seen for hit in listed for seen in hit.seen])
    if in_order:
        events = sorted(set(events))
        # The last of those that are of one event stays, so that the newest is the last.
        by_sequence = {one.event.sequence: one for one in seen}
        seen = tuple([one for one in seen if by_sequence[one.event.sequence] is one])
    more = sum(hit.more for hit in listed)
    if len(events) > EVENTS_MAX:
        more += len(events) - EVENTS_MAX
        events = [events[0], *events[1 - EVENTS_MAX :]]
    return Hit(
        last.key,
        at_ns,
        tuple(events),
        seen,
        last.trace,
        last.hops,
        due_ns,
        branches,
        reason,
        steps,
        last.value,
        more,
    )


def retimed(hit: Hit, due_ns: int) -> Hit:
    """Return *hit* as it is handed on later, by a timer."""
    return msgspec.structs.replace(hit, at_ns=due_ns, due_ns=due_ns)


def since(hit: Hit, due_ns: int) -> Hit:
    """Return what a timer makes of nothing having come since *hit*: another one, of its events."""
    return msgspec.structs.replace(
        hit, at_ns=due_ns, due_ns=due_ns, branches=None, reason=None, steps=None
    )


def last_line(error: BaseException) -> str:
    """Return the last line of *error*'s traceback, at most 500 characters."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (user code: its __str__)
        text = "(its text cannot be had)"
    return text_for_record(f"{type(error).__name__}: {text}", ERROR_CHARS_MAX)


# ---------------------------------------------------------------- written out and back


def packed(hit: Hit) -> list[Any]:
    """Return *hit*, without its key, as plain data; what says nothing is left out at the end."""
    fields: list[Any] = [
        hit.at_ns,
        hit.events,
        hit.trace,
        hit.hops,
        [packed_seen(seen) for seen in hit.seen],
        hit.due_ns,
        hit.branches,
        hit.reason,
        hit.steps,
        hit.value,
        hit.more,
    ]
    while len(fields) > 2:
        nothing = _NOTHING[len(fields) - 3]
        if type(fields[-1]) is not type(nothing) or fields[-1] != nothing:
            break
        fields.pop()
    return fields


def unpacked(fields: list[Any], key: Any, recall: Recall) -> Hit:
    """Return the hit that `packed` made *fields* of."""
    at_ns, events, *rest = fields
    trace, hops, seen, due_ns, branches, reason, steps, value, more = [
        *rest,
        *_NOTHING[len(rest) :],
    ]
    made = tuple([recalled(one, recall) for one in seen])
    return Hit(
        key,
        at_ns,
        tuple(events),
        made,
        trace,
        hops,
        due_ns,
        None if branches is None else tuple(branches),
        reason,
        None if steps is None else tuple([(name, tuple(numbers)) for name, numbers in steps]),
        value,
        more,
    )


_NOTHING: Final[list[Any]] = [0, 0, [], None, None, None, None, None, 0]


def packed_seen(seen: Seen) -> list[Any]:
    """Return *seen* as plain data."""
    fields = [seen.entry, seen.event.sequence, encode(seen.record)]
    return fields if seen.event.value is None else [*fields, seen.event.value]


def recalled(fields: list[Any], recall: Recall) -> Seen:
    """Return what `packed_seen` made *fields* of."""
    entry, sequence, record, *value = fields
    seen = recall(entry, sequence, record)
    return with_value(seen, value[0]) if value else seen


def with_value(seen: Seen, value: Any) -> Seen:
    """Return *seen* with the value that an aggregate made of it and those before it."""
    event = msgspec.structs.replace(seen.event, value=value)
    return Seen(event, seen.record, seen.entry)


def oldest_of(hits: Iterable[Hit]) -> int | None:
    """Return the oldest sequence that *hits* name, if they name any."""
    return min((min(hit.events) for hit in hits if hit.events), default=None)
