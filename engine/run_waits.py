# ruff: noqa: ASYNC109
# A timeout is in log time and durable: no scope of asyncio could keep it.
"""What a run's code waits for: signals, and patterns over events."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final, TypeVar, overload

import msgspec
from anyio import get_cancelled_exc_class
from msgspec import Struct

from headrace.engine.clock import seconds_to_ns
from headrace.engine.decider import Watched
from headrace.engine.errors import Diverged, EventRefused, SignalMismatch
from headrace.engine.event import Awaited, Firing
from headrace.engine.firings import FiringLoader
from headrace.engine.record import Details, Met, WaitKind, WaitRequested, text_for_record, thaw
from headrace.engine.restore import first_sequence
from headrace.engine.retry import seconds_of
from headrace.engine.run_state import Step, met_of
from headrace.engine.steps import Steps
from headrace.engine.subject import is_reserved
from headrace.engine.timers import Timers
from headrace.engine.waiting import check_name
from headrace.engine.waits import Waits

T = TypeVar("T")

TEXT_CHARS_MAX: Final = 500


class _Ended(Struct, frozen=True):
    """A wait that is over, as `FiringLoader` takes it."""

    id: int
    rule: str
    key: Any
    events: list[int]
    created_at_ns: int
    due_ns: int | None
    branches: list[int] | None
    details: Details | None
    missed: int = 0


class RunWaits(Steps):
    """A run's calls that wait for what comes from outside."""

    _met: dict[bytes, tuple[int, int]] | None = None
    """By pattern: the last event that a wait for it has returned, and the last time of a timer."""

    @overload
    async def receive(self, name: str, /, *, timeout: float | timedelta | None = None) -> Any: ...
    @overload
    async def receive(self, name: str, type: type[T], /, *, timeout: None = None) -> T: ...
    @overload
    async def receive(
        self, name: str, type: type[T], /, *, timeout: float | timedelta
    ) -> T | None: ...
    async def receive(
        self, name: str, type: Any = Any, /, *, timeout: float | timedelta | None = None
    ) -> Any:
        """Wait for the signal *name* to this run; return its data, as *type*.

        Signals of one name are received in the order in which they were sent, each once;
        one that was sent before this was called is received at once.  Without a signal
        within *timeout* seconds of log time it returns ``None``.  A crash neither loses the
        signal nor begins the time again.

        Raises:
            SignalMismatch: the data is of another type.  The signal is received all the same,
                and the next attempt gets the same error; catch it to wait for another.
            TypeError, ValueError: the call cannot work; nothing was recorded.
            Diverged: the log holds another call at this place.
        """
        check_name("receive", name)
        try:
            decode = msgspec.msgpack.Decoder(type).decode
        except TypeError as error:
            raise TypeError(
                f"receive({name!r}, {type!r}): msgspec cannot decode it: {error}"
            ) from error
        timeout_ns = _timeout_ns("receive", timeout)
        ordinal = self._next_ordinal()
        step = self._recorded(ordinal, "receive", name, None)
        if step is None:
            step = self._wait_requested(ordinal, "receive", name, timeout_ns=timeout_ns)
        if step.status == "pending":
            await self._woken(step, ordinal)
        await self._committed(step.sequence)
        self._now_ns = max(self._now_ns, step.at_ns)
        if step.result is None:
            return None
        try:
            return decode(step.result)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            found = text_for_record(repr(msgspec.msgpack.decode(step.result)), 100)
            raise SignalMismatch(
                f"run {self.id}, call {ordinal}: signal {name!r} (record {step.ended}): expected "
                f"{_name_of(type)}, found {found}: {error}; catch this to wait for another signal"
            ) from error

    @overload
    async def wait(
        self,
        pattern: Awaited[T],
        /,
        *,
        timeout: None = None,
        since: int | None = None,
        lookback: bool = True,
    ) -> Firing[T]: ...
    @overload
    async def wait(
        self,
        pattern: Awaited[T],
        /,
        *,
        timeout: float | timedelta,
        since: int | None = None,
        lookback: bool = True,
    ) -> Firing[T] | None: ...
    async def wait(
        self,
        pattern: Awaited[Any],
        /,
        *,
        timeout: float | timedelta | None = None,
        since: int | None = None,
        lookback: bool = True,
    ) -> Firing[Any] | None:
        """Wait until *pattern* is met; return how it was, or ``None`` after *timeout* seconds.

        It sees the events since the run began (not those that began it), or those after the
        event that the run's previous wait for the same pattern returned: so an answer that
        came before the wait is not missed.  With *since* it sees all after that sequence,
        with ``lookback=False`` only what comes from now on.  It begins empty, and is over
        with its first firing.  Operators with times go by log time, and a crash changes
        nothing.

        Raises:
            TypeError, ValueError: the call cannot work; nothing was recorded.
            Diverged: the log holds another call, or another pattern, at this place.
            SegmentGone: retention has removed what came after *since*.
            EventRefused: what it came to is too large for a record.
            DurabilityLost: the log cannot be read any more.
        """
        self._check_host()
        watched = self._pipeline.kernel.state.decider.watched(pattern)
        try:
            return await self._wait_for(
                watched, _timeout_ns("wait", timeout), since, lookback=lookback
            )
        finally:
            watched.decider.let_go()

    async def _wait_for(
        self, watched: Watched, timeout_ns: int | None, since: int | None, *, lookback: bool
    ) -> Firing[Any] | None:
        begins_ns = 0
        if since is not None:
            self._check_since(since, lookback=lookback)
        elif lookback:
            _, begins_ns = self._returned(watched)
        ordinal = self._next_ordinal()
        step = self._recorded_wait(ordinal, watched)
        if step is None:
            if since is None and lookback:
                since = max(self._start(), self._returned(watched)[0])
            step = self._wait_requested(
                ordinal,
                "wait",
                _text_of(watched),
                timeout_ns=timeout_ns,
                since=since,
                digest=watched.digest,
                subjects=watched.subjects,
            )
        if is_new := step.status == "pending":
            await self._watch(step, ordinal, watched, begins_ns=begins_ns)
        await self._committed(max(step.sequence, step.ended))
        self._now_ns = max(self._now_ns, step.at_ns)
        if step.error is not None:
            raise EventRefused(step.error)
        met = met_of(step)
        if met is None:
            return None
        self._note_met(watched, met, is_new=is_new)
        decider, pipeline = watched.decider, self._pipeline
        decider.attach(Timers(), pipeline.kernel.state.sources)
        return FiringLoader(decider, pipeline.log)(_ended(step, met, watched.rule))

    def _recorded_wait(self, ordinal: int, watched: Watched) -> Step | None:
        """Return what the log holds at *ordinal*, if that is a wait for this pattern."""
        name = _text_of(watched)
        step = self._recorded(ordinal, "wait", name, None)
        if step is not None and step.digest != watched.digest:
            raise Diverged(
                self.id,
                ordinal,
                recorded=f"wait {name} of fingerprint {step.digest.hex()}",
                asked=f"the same of fingerprint {watched.digest.hex()}: its functions, or what "
                "they close over, are others",
            )
        return step

    def _returned(self, watched: Watched) -> tuple[int, int]:
        """Return the last event that a wait for this pattern has returned, and its last time."""
        return (0, 0) if self._met is None else self._met.get(watched.digest, (0, 0))

    def _note_met(self, watched: Watched, met: Met, *, is_new: bool) -> None:
        """Let the next wait for the same pattern look back to just after *met*.

        To its last event.  A timer that met it has no place among the events: what the pattern
        does by itself when it begins, such as to expect something, it does from that time on.
        """
        returned, begins_ns = self._returned(watched)
        returned, begins_ns = max(met.events, default=returned), max(begins_ns, met.due_ns or 0)
        if self._met is None:
            self._met = {}
        self._met[watched.digest] = returned, begins_ns
        if is_new and self._executor.observer is not None:
            self._executor.observer.met(self.id, met.events, self._pipeline)

    def _start(self) -> int:
        """Return the record to which a wait looks back at most.

        That of a run which was a dead letter may be gone.  Then it is the oldest that is kept.
        """
        state, log = self._state, self._pipeline.log
        start = state.began or state.id
        if state.redriven_attempt:
            try:
                if not log.fetch([start]):
                    return first_sequence(log)
            except OSError as error:
                raise self._pipeline.unreadable(f"where {self!r} began", error) from error
        return start

    def _check_since(self, since: object, *, lookback: bool) -> None:
        if not lookback:
            raise ValueError(f"wait(since={since!r}, lookback=False): expected one of them")
        if type(since) is not int:
            raise TypeError(f"wait(since={since!r}): expected a sequence, as `run.emit` returns it")
        last = self._pipeline.kernel.sequence
        if not 0 <= since <= last:
            raise ValueError(
                f"wait(since={since}): expected a sequence of the log, from 0 to {last}"
            )

    def _wait_requested(
        self,
        ordinal: int,
        kind: WaitKind,
        name: str,
        *,
        timeout_ns: int | None,
        since: int | None = None,
        digest: bytes = b"",
        subjects: Iterable[str] = (),
    ) -> Step:
        at_ns = self._pipeline.tick()
        due_ns = None if timeout_ns is None else at_ns + timeout_ns
        own = [subject for subject in subjects if is_reserved(subject)]
        record = WaitRequested(at_ns, self.id, ordinal, kind, name, due_ns, since, digest, own)
        self._pipeline.put(record)
        return self._state.steps[ordinal]

    async def _woken(self, step: Step, ordinal: int) -> None:
        """Return when the call at *ordinal* has ended, or its time has run out."""
        observer = self._executor.observer
        while step.status == "pending" and not (step.wait is not None and step.wait.until):
            parking = self._parking()
            self._sleeping = (ordinal, parking.wake)
            if observer is not None:
                observer.wait(self.id)
            await parking.wait()
            if observer is not None:
                observer.go_on(self.id)

    async def _watch(self, step: Step, ordinal: int, watched: Watched, *, begins_ns: int) -> None:
        pipeline = self._pipeline
        if pipeline.waits is None:
            pipeline.waits = Waits(pipeline)
        waits = pipeline.waits
        watch = waits.open(self.id, ordinal, step, watched, begins_ns=begins_ns)
        try:
            await waits.catch_up(watch)
            await self._woken(step, ordinal)
            if step.status == "pending":
                waits.expire(watch)
        except get_cancelled_exc_class():
            self._leave()
            raise
        finally:
            waits.close(watch)


def _text_of(watched: Watched) -> str:
    return text_for_record(watched.text, TEXT_CHARS_MAX)


def _ended(step: Step, met: Met, rule: str) -> _Ended:
    return _Ended(
        step.ended,
        rule,
        thaw(met.key),
        met.events,
        step.at_ns,
        met.due_ns,
        met.branches,
        met.details,
    )


def _timeout_ns(place: str, timeout: float | timedelta | None) -> int | None:
    if timeout is None:
        return None
    seconds = seconds_of(timeout)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{place}(timeout={timeout!r}): expected seconds or a timedelta")
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{place}(timeout={timeout!r}): expected 0 to 1e9 seconds")
    return seconds_to_ns(seconds)


def _name_of(type: Any) -> str:
    return type.__name__ if hasattr(type, "__name__") else repr(type)
