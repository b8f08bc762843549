"""`Timeline`: events with their times, written in a test or taken from a log."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from headrace.engine.clock import NS
from headrace.engine.emission import Emission
from headrace.engine.log import LogReader
from headrace.engine.record import EventStored, decode
from headrace.engine.subject import check_pattern, check_subject, is_reserved, matches

if TYPE_CHECKING:
    from headrace.engine.engine import Engine

__all__ = ["Moment", "Timeline"]


class Moment(NamedTuple):
    """An event that happens at a time."""

    t: float
    """Seconds since the timeline began."""
    subject: str
    data: Any = None
    key: str | None = None
    time: float | None = None
    """The event's own time, in seconds since the timeline began, if it has one."""
    headers: dict[str, str] | None = None


class AdvancingClock(Protocol):
    """A `VirtualClock` or a `VirtualTime`."""

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch."""
        ...


class Timeline:
    """Events in the order of their times, however they were added.

    ``Timeline().at(0, "doors.1", "open").every(60, "doors.1.ping", [None] * 5, start=10)``
    """

    def __init__(self, moments: Iterable[tuple[float, str, Any]] = ()) -> None:
        """Begin with ``(seconds, subject, data)``, if any."""
        self._moments: list[Moment] = []
        self._is_ordered = True
        self.begins_at = 0.0
        """When it began, in seconds since the epoch; 0: it is of no real time."""
        for t, subject, data in moments:
            self.at(t, subject, data)

    def at(
        self,
        t: float,
        subject: str,
        data: Any = None,
        *,
        key: str | None = None,
        time: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> Timeline:
        """Add an event at *t* seconds; return the timeline.

        Raises:
            ValueError: *t* is before 0, or *subject* is none.
        """
        if not t >= 0:
            raise ValueError(f"timeline: expected seconds from 0, found {t!r}")
        check_subject(subject)
        if self._moments and t < self._moments[-1].t:
            self._is_ordered = False
        self._moments.append(Moment(t, subject, data, key, time, headers))
        return self

    def every(
        self, period: float, subject: str, values: Iterable[Any], *, start: float = 0.0
    ) -> Timeline:
        """Add an event for each of *values*, *period* seconds apart; return the timeline.

        Raises:
            ValueError: as `at`, or *period* is not above 0.
        """
        if not period > 0:
            raise ValueError(f"timeline: expected a period above 0, found {period!r}")
        for number, value in enumerate(values):
            self.at(start + number * period, subject, value)
        return self

    @classmethod
    def from_log(
        cls,
        log: str | os.PathLike[str],
        subjects: str = ">",
        *,
        after: int = 0,
        until: int | None = None,
        emitted: bool = False,
    ) -> Timeline:
        """Return the events of a log that came from outside, from its first one on.

        Of those that match *subjects*, which may have wildcards, and whose sequences are
        after *after* and not after *until*; with *emitted* also those that runs have emitted.
        Data is as it is stored, whatever type it was of.  The log may be in use.

        Raises:
            LogUnusable, LogVersion, LogCorrupt: it cannot be read.
            ValueError: *subjects* is no pattern, or no event matches it.
        """
        check_pattern(subjects)
        made, begins_ns = cls(), 0
        for event in _events_of(log, after, until):
            if (event.run and not emitted) or not matches(subjects, event.subject):
                continue
            begins_ns = begins_ns or event.at_ns
            made._moments.append(
                Moment(
                    (event.at_ns - begins_ns) / NS,
                    event.subject,
                    msgspec.msgpack.decode(event.data),
                    event.key,
                    None if event.time_ns is None else (event.time_ns - begins_ns) / NS,
                    event.headers,
                )
            )
        if not made._moments:
            raise ValueError(
                f"{os.fspath(log)}: expected events on {subjects!r}, found none; "
                "`headrace log cat` shows what there is"
            )
        made.begins_at = begins_ns / NS
        return made

    def __iter__(self) -> Iterator[Moment]:
        if not self._is_ordered:
            self._moments.sort(key=lambda moment: moment.t)
            self._is_ordered = True
        return iter(self._moments)

    def __len__(self) -> int:
        return len(self._moments)

    def __repr__(self) -> str:
        return f"<Timeline of {len(self)} events>"

    async def play(self, engine: Engine, clock: AdvancingClock) -> None:
        """Emit the events into *engine*, each at its time; *clock* is the engine's.

        Time that has to pass before an event passes, with all that is due in it.  Events that
        have a time of their own get it relative to now.  Returns when the last one is stored,
        before time goes on.

        Raises:
            As `Engine.emit`.
        """
        passed, begun_s = 0.0, clock.wall_ns() / NS
        for moment in self:
            if moment.t > passed:
                await clock.advance(moment.t - passed)
                passed = moment.t
            time = None if moment.time is None else begun_s + moment.time
            event = Emission(
                moment.subject, moment.data, time=time, key=moment.key, headers=moment.headers
            )
            await engine.emit_many([event])


def _events_of(log: str | os.PathLike[str], after: int, until: int | None) -> Iterator[EventStored]:
    with LogReader(log) as reader:
        for first, batch in reader.read(after=after):
            for sequence, raw in enumerate(batch, first):
                if until is not None and sequence > until:
                    return
                record = decode(raw)
                if isinstance(record, EventStored) and not is_reserved(record.subject):
                    yield record
