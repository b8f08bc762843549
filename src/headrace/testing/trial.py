"""`firings`: what a pattern makes of a timeline.

It says in one line when a pattern fires on a timeline, with no engine, no log and
no event loop, by the very code that runs live:

    def test_three_hot_readings_within_a_minute_fire() -> None:
        hot = on("sensors.*", Reading).where(lambda e: e.data.celsius > 90).count(3, within=60)
        timeline = [(t, "sensors.t1", Reading(95.0)) for t in (0, 50, 59)]

        assert [fired.at for fired in firings(hot, timeline)] == [59]

An app as a whole is tested in virtual time: see `headrace.testing.virtual`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from headrace.engine.clock import seconds_to_ns
from headrace.engine.event import Event, Firing
from headrace.engine.firings import firing_of
from headrace.engine.kernel import Kernel
from headrace.engine.payload import encode_event
from headrace.engine.record import (
    EngineStarted,
    EventStored,
    Record,
    RuleError,
    RuleFired,
    RuleMismatch,
    TimerFired,
)
from headrace.testing.timeline import Moment
from headrace.triggers.pattern import Pattern
from headrace.triggers.reach import check_whole_pattern
from headrace.triggers.ruleset import Rule, RuleSet

__all__ = ["RuleWarning", "firings"]

T = TypeVar("T")


class RuleWarning(UserWarning):
    """A condition or key function raised, or an event was not of the pattern's type.

    In an engine that is a record and no firing; a test should hear of it.
    """


def firings(
    pattern: Pattern[T],
    timeline: Iterable[tuple[float, str, Any] | Moment],
    *,
    until: float | None = None,
) -> list[Firing[T]]:
    """Return what *pattern* makes of *timeline*: of ``(seconds, subject, data)``, or a `Timeline`.

    They are the firings that a rule's action gets: ``.at`` in seconds, ``.key``, ``.events``
    (each with ``.t``, ``.subject``, ``.data``), ``.steps``, ``.reason``, ``.value``.

    The rule is activated at second 0.  After the last event time moves on to *until*, so
    that timers which are due by then fire; without it time ends with the last event.  Where
    the pattern fails on an event, there is a `RuleWarning`.

    Raises:
        ValueError: time goes back, or begins before 0.
        EventRefused: data cannot be stored.
    """
    trial: _Trial[T] = _Trial(pattern)
    for happens in timeline:
        moment = happens if isinstance(happens, Moment) else Moment(*happens)
        trial.advance(moment.t)
        trial.take(moment)
    if until is not None:
        trial.advance(until)
    return trial.fired


class _Trial(Generic[T]):
    """One pattern at work, in time that is handed in."""

    def __init__(self, pattern: Pattern[T]) -> None:
        # With a version its functions need no digest, so they may come from anywhere.
        check_whole_pattern(pattern.node)
        self._rules = RuleSet([Rule("rule", pattern, "parallel", version="trial")])
        self._kernel = Kernel(self._rules)
        self._events: dict[int, tuple[float, EventStored]] = {}
        self._now_s = 0.0
        self.fired: list[Firing[T]] = []
        self._submit(EngineStarted(0, "", "input", self._rules.fingerprints()))

    def advance(self, t: float) -> None:
        """Let time come to *t*; fire the timers that are due by then, each at its own time."""
        if not t >= self._now_s:
            raise ValueError(f"timeline: {t!r} comes after {self._now_s!r}; time never goes back")
        self._now_s = t
        now_ns = seconds_to_ns(t)
        timers = self._kernel.state.timers
        while (first := timers.first()) is not None and first[0] <= now_ns:
            due = self._kernel.due_timer(first[0])
            assert due is not None, first
            self._submit(due)

    def take(self, moment: Moment) -> None:
        """Let an event happen."""
        event = EventStored(
            seconds_to_ns(moment.t),
            moment.subject,
            encode_event(moment.data, moment.subject),
            key=moment.key,
            time_ns=None if moment.time is None else seconds_to_ns(moment.time),
            headers=moment.headers,
        )
        self._events[self._kernel.sequence + 1] = moment.t, event
        self._submit(event)

    def _submit(self, record: EngineStarted | EventStored | TimerFired) -> None:
        first = self._kernel.sequence + 1
        for sequence, made in enumerate(self._kernel.submit(record), first):
            self._note(sequence, made)

    def _note(self, sequence: int, made: Record) -> None:
        if isinstance(made, RuleFired):
            events = {number: self._view(number) for number in made.events}
            at_ns = self._kernel.state.at_ns
            self.fired.append(firing_of(sequence, "rule", made, events, recorded_at_ns=at_ns))
        elif isinstance(made, (RuleError, RuleMismatch)):
            place = made.place if isinstance(made, RuleError) else "type"
            t, event = self._events[made.event]
            warnings.warn(
                f"t={t:g} {event.subject}: {place}: {made.error}", RuleWarning, stacklevel=5
            )

    def _view(self, sequence: int) -> Event[T]:
        _, record = self._events[sequence]
        event = self._rules.view("rule", sequence, record)
        assert event is not None, "it matched"
        return event
