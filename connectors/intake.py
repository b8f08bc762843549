"""`Intake`: what a source hands its events to, and what is known of how it does.

`put` returns when the events are durable; only then may a source acknowledge them.  While it
waits the source takes nothing more, so an engine that is slow slows its sources.

A message that is no event does not stop a source: it is stored as an event of the subject
``source.refused.<name>``, with the raw bytes up to a bound, under the same identity, so that it is
acknowledged and not delivered for ever.  A rule can react to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import anyio
from msgspec import Struct
from msgspec.structs import replace

from headrace.connectors.promises import WORDS, Promise
from headrace.connectors.trace_context import trace_headers
from headrace.engine.diagnostics import logger
from headrace.engine.emission import Emission, checked
from headrace.engine.errors import EngineClosed, EventRefused, LogFull

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

RAW_BYTES_MAX: Final = 64 * 1024
"""How much is kept of a message that is no event."""
REASON_CHARS_MAX: Final = 500
REFUSED: Final = "source.refused"

State = Literal["starting", "connected", "lost", "ended", "failed"]


class Refusal(Struct):
    """The data of an event ``source.refused.<name>``: a message that is no event."""

    source: str
    reason: str
    """What was expected and what was found."""
    place: str
    """Where it came from: a topic, a file and a line, a path."""
    raw: bytes
    """Its first bytes, up to 64 KiB."""
    size: int
    """How many bytes it had."""


class SourceStatus(Struct):
    """How a source does, since its engine was opened."""

    name: str
    kind: str
    promise: Promise
    state: State = "starting"
    error: str = ""
    """Of the last connection that was lost, or of what ended it."""
    connections: int = 0
    stored: int = 0
    """Events, those that were refused included."""
    duplicates: int = 0
    """Events that were delivered again and not stored again."""
    refused: int = 0
    dropped: int = 0
    """Messages that came faster than they could be stored, where the server keeps none."""
    in_flight: int = 0
    """Events that are handed in and not durable yet."""
    lag: int | None = None
    """Messages that wait at the server, where it says so."""
    last_at_ns: int | None = None
    """Log time of the last event that was durable."""
    commits: int = 0
    """How often events were handed in and became durable."""
    commit_ns: int = 0
    """How long that took in all: how long its messages waited for the log."""


class Receiving(Protocol):
    """Who makes spans: implemented by `headrace.connectors.telemetry.Telemetry`."""

    def receiving(
        self, name: str, source: Any, events: Sequence[Emission]
    ) -> AbstractContextManager[object]:
        """Return what is to be the context while *events* of *source* are stored."""
        ...

    def current_headers(self) -> dict[str, str] | None:
        """Return headers that say which span is the current one; ``None``: none is."""
        ...


class Intake:
    """What one source has of one engine."""

    def __init__(
        self,
        engine: Engine,
        status: SourceStatus,
        telemetry: Receiving | None = None,
        source: object = None,
    ) -> None:
        """Made by `Feeder`, or by a test; *status* names the source and is kept up to date.

        *telemetry* makes spans of what *source* hands in.
        """
        self.engine = engine
        self.status = status
        self._telemetry = telemetry
        self._source = source
        self.logger = logger().bind(source=status.name)

    @property
    def name(self) -> str:
        """The name of the source: that of its events, unless they have one of their own."""
        return self.status.name

    # ------------------------------------------------------------ events

    def trace_of(self, get: Callable[[str], str | bytes | None]) -> dict[str, str] | None:
        """Return the headers of the event of a message: the context of the trace that it carries.

        *get* returns a header of the message by its name in small letters.  Nothing else is taken
        of its headers, for that may be a secret, and nothing at all unless the app makes traces.
        """
        return None if self._telemetry is None else trace_headers(get)

    def trace_here(self) -> dict[str, str] | None:
        """Return such headers of the current span, for a source that a program of others calls."""
        return None if self._telemetry is None else self._telemetry.current_headers()

    def cursor(self, source: str | None = None) -> int | None:
        """Return the position after the last event stored; ``None``: none.

        *source* is for one that has several cursors, each under a name, such as partitions.
        """
        return self.engine.cursor(self.name if source is None else source)

    async def put(self, events: Sequence[Emission]) -> list[int]:
        """Store *events* in their order; return their sequences once they are durable.

        One without a source gets the name of this one.  One that cannot be stored is refused,
        as by `refusal`.  While the disk is full, or too many runs are pending, it waits; when
        the engine stops it does not return, and its caller is cancelled.
        """
        todo = [self._named(event) for event in events]
        if self._telemetry is None or not todo:
            return await self._put(todo)
        with self._telemetry.receiving(self.name, self._source, todo):
            return await self._put(todo)

    async def _put(self, todo: list[Emission]) -> list[int]:
        status = self.status
        status.in_flight += len(todo)
        sequences: list[int] = []
        pipeline = self.engine.opened().pipeline
        begun_ns = pipeline.monotonic_ns()
        try:
            while len(sequences) < len(todo):
                before = self.engine.kernel.sequence
                stored = await self._stored(todo, len(sequences))
                sequences += stored
                self._count(stored, before)
        finally:
            status.in_flight -= len(todo)
        status.commits += 1
        status.commit_ns += pipeline.monotonic_ns() - begun_ns
        return sequences

    async def _stored(self, todo: list[Emission], start: int) -> list[int]:
        """Store what is left of *todo*; return the sequences of the first that are stored."""
        try:
            return await store(self.engine, todo[start:])
        except EngineClosed:
            # It stops, and whoever feeds it is told by cancellation.
            await anyio.sleep_forever()
            raise
        except (EventRefused, TypeError, ValueError):
            # All are looked at before the first is stored: nothing was.
            todo[start:] = [self._storable(event) for event in todo[start:]]
            return []

    def _named(self, event: Emission) -> Emission:
        return event if event.source else replace(event, source=self.name)

    def _storable(self, event: Emission) -> Emission:
        reason = _fault(event)
        if reason is None:
            return event
        raw = event.data if isinstance(event.data, bytes) else repr(event.data).encode()
        plain = self.refusal(raw, reason, place=event.subject[:200])
        # Known by all that it would have been known by, as far as that can be stored.
        placed = replace(plain, source=event.source, position=event.position)
        known = (replace(placed, id=event.id), placed)
        return next((refused for refused in known if _fault(refused) is None), plain)

    def refusal(
        self,
        raw: bytes,
        reason: str,
        *,
        place: str = "",
        id: str | None = None,
        position: int | None = None,
        source: str = "",
    ) -> Emission:
        """Return the event that keeps a message which is none; *reason* says why it is not.

        Put it in the place of the event that it would have been, with the *id* and the
        *position* of that.
        """
        self.status.refused += 1
        reason, place = _text(reason[:REASON_CHARS_MAX]), _text(place)
        # Not a line for each of a thousand: a feed that has gone wrong would fill the disk.
        if self.status.refused.bit_count() == 1:
            self.logger.warning(
                "message_refused", place=place, reason=reason, so_far=self.status.refused
            )
        data = Refusal(self.name, reason, place, raw[:RAW_BYTES_MAX], len(raw))
        return Emission(
            f"{REFUSED}.{self.name}", data, id=id, source=source or self.name, position=position
        )

    def _count(self, sequences: list[int], before: int) -> None:
        status, new = self.status, count_new(sequences, before)
        status.stored += new
        status.duplicates += len(sequences) - new
        if sequences:
            status.last_at_ns = self.engine.opened().pipeline.now_ns()

    # ------------------------------------------------------------ its connection

    def connected(self, **facts: Any) -> None:
        """Say that messages can come; *facts* are for the diagnostics."""
        status = self.status
        status.state, status.connections = "connected", status.connections + 1
        self.logger.info(
            "source_connected",
            promise=status.promise,
            meaning=WORDS[status.promise],
            **facts,
        )

    def lost(self, error: BaseException | str) -> None:
        """Say that the server is gone and is tried again."""
        status = self.status
        was, status.state = status.state, "lost"
        status.error = error if isinstance(error, str) else f"{type(error).__name__}: {error}"
        if was != "lost":  # once, not at each try
            self.logger.warning("source_lost", error=status.error)


async def store(engine: Engine, events: Sequence[Emission]) -> list[int]:
    """Store *events* in their order; return the sequences of the first of them, once durable.

    Those are all, unless the disk is full: then it returns when there is room again.

    Raises:
        Whatever `Engine.emit_many` raises, but `LogFull` only once the engine closes.
    """
    try:
        return await engine.emit_many(events)
    except LogFull as full:
        await engine.ready()
        return full.stored


def count_new(sequences: Sequence[int], before: int) -> int:
    """Return how many of *sequences* are of events that were not there before.

    One that is delivered again gets the sequence of the first: it is not above *before*, that of
    the last record by then, nor above all that come before it.
    """
    new, highest = 0, before
    for sequence in sequences:
        if sequence > highest:
            new, highest = new + 1, sequence
    return new


def _fault(event: Emission) -> str | None:
    """Say why *event* cannot be stored; ``None``: it can."""
    try:
        checked(event)
    except (EventRefused, TypeError, ValueError) as error:
        return str(error)
    return None


def _text(text: str) -> str:
    """Return *text* so that it can be stored: half characters as they are written in sources."""
    return text.encode("utf-8", "backslashreplace").decode()
