"""`Entry`: where events enter a rule: a subject, a type, and the conditions and key next to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import Raw

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored, RuleError
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, Need, Seen, last_line
from headrace.triggers.stage import LevelStage, Stage, checked_key, holds, key_of
from headrace.triggers.stages import Key, Where

Take = Callable[[Any, Event[Any], EventStored, int, list[Verdict]], None]
"""See `EventStage`."""

FILTER: Final = 0
"""A condition: what it turns down is not there for anything behind."""
KEY: Final = 1
SHORT_CHARS: Final = 64
INT_MAX: Final = 2**63
LEVEL: Final = 2
"""A condition: an operator behind is told of what it turns down."""


class Owner(Protocol):
    """What an entry needs of its rule."""

    name: str
    active: bool

    @property
    def joins(self) -> Sequence[object]:
        """What has to be told where a step ends; empty: nothing."""
        ...

    @property
    def remember(self) -> Callable[[int, EventStored], None]:
        """What keeps an event in memory for the runs that it may lead to."""
        ...

    def note_unkeyed(self) -> None:
        """Count an event that has no key."""
        ...

    def flush(self, out: list[Verdict]) -> None:
        """End the step of one event."""
        ...


class Entry:
    """The beginning of a chain of stages."""

    __slots__ = (
        "decode",
        "filter",
        "head",
        "needs_event",
        "number",
        "owner",
        "subject",
        "take",
        "then",
    )

    def __init__(self, owner: Owner, node: n.FilterNode, then: Stage, *, number: int) -> None:
        self.owner = owner
        self.number = number
        self.subject = node.subject
        self.decode: Callable[[Raw], Any] = decoder_of(node.type)
        # (what, function), in written order.  Kept here so that an event that does not pass
        # costs no more than the calls of these.
        head: list[tuple[int, Callable[[Any], Any]]] = []
        while isinstance(then, (Where, Key)):
            if isinstance(then, Key):
                head.append((KEY, then.key))
            else:
                head.append((LEVEL if then.is_level else FILTER, then.condition))
            then = then.then
        self.head = tuple(head)
        self.filter = head[0][1] if [what for what, _ in head] == [FILTER] else None
        """Its one condition, if there is nothing else: then whoever has the event may ask it."""
        self.then = then
        self.needs_event = then.need is not Need.NONE
        # An event that hands on no hit, as most do behind a count, need not be made one.
        self.take: Take | None = getattr(then, "take", None)

    def push(self, event: Event[Any], record: EventStored, out: list[Verdict]) -> None:
        """Take an event whose subject and type fit."""
        owner = self.owner
        key = None
        for what, function in self.head:
            # `asked` written out: most events end here, and a call is dear.
            try:
                answer = function(event)
                if what != KEY:
                    if answer:
                        continue
                    if what == LEVEL:
                        self._miss(event, record, out)
                    return
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 (user code: law L4)
                place = "key" if what == KEY else "where"
                out.append(self.error_of(event, place, error))
                if what == LEVEL:
                    self._miss(event, record, out)
                if what == KEY:
                    owner.note_unkeyed()
                return
            kind = answer.__class__
            if (kind is str and len(answer) <= SHORT_CHARS and answer.isascii()) or (
                kind is int and 0 <= answer < INT_MAX
            ):
                key = answer
            else:
                key = checked_key(owner.name, answer, event, out)
                if key is None:
                    owner.note_unkeyed()
                    return
        self.hand_on(key, event, record, out)

    def hand_on(self, key: Any, event: Event[Any], record: EventStored, out: list[Verdict]) -> None:
        """Let an event that the conditions let through come to the operators behind."""
        sequence = event.sequence
        self.owner.remember(sequence, record)
        if self.take is not None:
            self.take(key, event, record, self.number, out)
            return
        seen = (Seen(event, record, self.number),) if self.needs_event else ()
        trace = record.trace or sequence
        self.then.push(Hit(key, record.at_ns, (sequence,), seen, trace, record.hops), out)

    def error_of(self, event: Event[Any], place: str, error: BaseException) -> RuleError:
        """Return what is recorded of a function that raised."""
        return RuleError(self.owner.name, event.sequence, place, last_line(error))

    def _miss(self, event: Event[Any], record: EventStored, out: list[Verdict]) -> None:
        """Tell the operator behind of an event that a condition turned down."""
        key = None
        for what, function in self.head:
            if what == KEY:
                # Its errors are not recorded: what the condition keeps away from it may well
                # be what it cannot cope with.
                key = key_of(self.owner.name, function, event, [])
                if key is None:
                    return
        seen = Seen(event, record, self.number)
        trace = record.trace or event.sequence
        hit = Hit(key, record.at_ns, (event.sequence,), (seen,), trace, record.hops)
        cast("LevelStage", self.then).miss(hit, out)

    def accepts(self, event: Event[Any]) -> bool:
        """Say whether *event* passes the conditions and has a key here."""
        name, out = self.owner.name, list[Verdict]()
        return all(
            key_of(name, function, event, out) is not None
            if what == KEY
            else holds(name, function, event, out)
            for what, function in self.head
        )


@lru_cache(maxsize=1024)
def decoder_of(kind: Any) -> Callable[[Raw], Any]:
    """Return one decoder for each type, so that rules of one type share the decoding."""
    return msgspec.msgpack.Decoder(kind).decode
