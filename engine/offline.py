"""`OfflineLog`: writes into a log that no engine has open.  For the command line.

Nothing is decided here: what is offered is stored by the next engine, and what is asked for
is done by it.  Log time stands still until then, so all that is written here has the time
of the last record before it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

from headrace.engine.clock import Clock, SystemClock
from headrace.engine.decider import NoRules
from headrace.engine.emission import Emission, checked, time_ns_of
from headrace.engine.errors import LogUnusable, RunNotFound, SegmentGone
from headrace.engine.kernel import Kernel
from headrace.engine.log.index import log_time_ns
from headrace.engine.log.protocol import EventLog
from headrace.engine.payload import check_record, check_text
from headrace.engine.record import CancelRequested, EventOffered, Input, encode
from headrace.engine.redriving import redrive_of
from headrace.engine.restore import restore
from headrace.engine.rule_requests import acknowledgement_of, pause_of, storable
from headrace.engine.state import EngineState
from headrace.engine.waiting import encoded_signal, signal_of

PENDING_BYTES_MAX: Final = 16 * 1024 * 1024
LOOK_BACK: Final = 64
"""How many records to look back at first, for the time of the last one."""


@contextmanager
def _readable() -> Generator[None]:
    """Say it as an error of the log if it cannot be read."""
    try:
        yield
    except OSError as error:
        raise LogUnusable(
            f"{error.filename or 'the log'}: expected a file that can be read, found: {error}; "
            f"check the disk"
        ) from error


class OfflineLog:
    """A log that is written for a moment, with ``with``.  Blocks; for one thread."""

    def __init__(self, log: EventLog, *, clock: Clock | None = None) -> None:
        """Name the log; `open` opens it, or ``with`` if nobody has."""
        self.log = log
        self._clock = clock or SystemClock()
        self._changed = threading.Event()
        self._at_ns = 0
        self._kernel: Kernel | None = None  # as of the last that was asked
        self._is_open = False

    def open(self) -> None:
        """Take the log as its only writer.

        Raises:
            As `EventLog.open`.  Nothing was changed.
        """
        self.log.open(self._changed.set)
        try:
            with _readable():
                self._at_ns = self._last_log_time_ns()
            self._is_open = True
        finally:
            if not self._is_open:
                self.log.close()

    def __enter__(self) -> Self:
        """Take the log, if it is not taken yet."""
        if not self._is_open:
            self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write what was appended and give the log back."""
        self._is_open = False
        self.log.close()

    def _last_log_time_ns(self) -> int:
        span, last = LOOK_BACK, self.log.committed_sequence
        after = last
        while after > 0:
            after = max(0, last - span)
            try:
                found = self._newest_time_ns(after)
            except SegmentGone:
                found = self._newest_time_ns(0)
                # What is kept may be no input, or nothing; a snapshot has the time then.
                return found or restore(self.log, NoRules(), clock=None).state.at_ns
            if found:
                return found
            span *= 8
        return 0

    def _newest_time_ns(self, after: int) -> int:
        """Return the latest log time of the records after *after*, 0 if none has any."""
        batches = self.log.read(after=after)
        return max((log_time_ns(record) for _, batch in batches for record in batch), default=0)

    def offer(self, events: Iterable[Emission]) -> list[int]:
        """Put *events* into the log for the next engine; return the offers' sequences.

        They are durable when it returns, at the log's level.

        Raises:
            ValueError, TypeError, EventRefused: as `Engine.emit`; no event was offered.
            DurabilityLost, LogFull: they may or may not be stored.
        """
        offered_at_ns = self._clock.wall_ns()
        encoded = [check_record(encode(self._offered(event, offered_at_ns))) for event in events]
        first = self.log.next_sequence
        for record in encoded:
            self.append([record])
        self.flush()
        return list(range(first, first + len(encoded)))

    def _offered(self, event: Emission, offered_at_ns: int) -> EventOffered:
        subject, payload, full = checked(event)
        headers: Any = None if full is None else full.headers
        return EventOffered(
            self._at_ns,
            offered_at_ns,
            subject,
            payload,
            event.source,
            event.id,
            time_ns_of(event),
            event.key,
            headers,
        )

    def cancel(self, run_id: int, reason: str) -> int:
        """Ask for a run to be cancelled; return the request's sequence once it is durable.

        Takes as long as the log is: it is folded to see what that leads to.

        Raises:
            RunNotFound: no run with this id is open; nothing was written.
            EventRefused: *reason* is no text that can be stored; nothing was written.
            LogUnusable, LogCorrupt: the log cannot be read; nothing was written.
        """
        check_text(reason, "the reason of a cancellation")

        def asked(state: EngineState) -> CancelRequested:
            if run_id not in state.runs.active:
                raise RunNotFound(f"run {run_id} is not open: it has ended, or never was")
            return CancelRequested(state.at_ns, run_id, reason)

        return self._ask(asked)

    def redrive(self, run_id: int, *, from_start: bool) -> int:
        """Let a dead letter go on at the next start; return the record's sequence.

        Takes as long as the log is, as `cancel`.

        Raises:
            RunNotFound, RedriveRefused: as `Engine.redrive`; nothing was written.
            LogUnusable, LogCorrupt: as `cancel`.
        """
        return self._ask(
            lambda state: redrive_of(
                state, self.log, run_id, from_start=from_start, at_ns=state.at_ns
            )
        )

    def signal(self, run_id: int, name: str, data: Any) -> int:
        """Send a signal to an open run, which gets it at the next start; return its sequence.

        Takes as long as the log is, as `cancel`.

        Raises:
            RunNotFound, SignalRefused, EventRefused, ValueError: as `Engine.signal`; nothing
                was written.
            LogUnusable, LogCorrupt: as `cancel`.
        """
        raw = encoded_signal(name, data)
        return self._ask(lambda state: signal_of(state, run_id, name, raw, at_ns=state.at_ns))

    def pause(self, rule: str, reason: str, *, paused: bool) -> int:
        """Pause a rule, or resume it; return the record's sequence, 0 if it is so already.

        Takes as long as the log is, as `cancel`.

        Raises:
            RuleNotFound: it is not in force; nothing was written.
            EventRefused, LogUnusable, LogCorrupt: as `cancel`.
        """
        reason = storable(reason, "the reason of a pause")
        return self._ask(
            lambda state: pause_of(state, rule, reason, paused=paused, tick=lambda: state.at_ns)
        )

    def acknowledge(self, rule: str, key: Any, *, by: str, note: str) -> int:
        """Say that *by* knows of an alarm that stands; return the record's sequence.

        Takes as long as the log is, as `cancel`.

        Raises:
            RuleNotFound: no alarm of *rule* stands for *key*; nothing was written.
            EventRefused, LogUnusable, LogCorrupt: as `cancel`.
        """
        by, note = (storable(text, "an acknowledgement") for text in (by, note))
        return self._ask(
            lambda state: acknowledgement_of(
                state, rule, key, by=by, note=note, tick=lambda: state.at_ns
            )
        )

    def _ask(self, asked: Callable[[EngineState], Input | None]) -> int:
        """Store what *asked* makes of the log's state; return its sequence, 0 for nothing.

        It is durable when it returns, at the log's level.
        """
        kernel = self._kernel
        if kernel is None or kernel.sequence != self.log.next_sequence - 1:
            with _readable():
                kernel = self._kernel = restore(self.log, NoRules(), clock=None)
        record = asked(kernel.state)
        if record is None:
            return 0
        unit = kernel.submit(record)
        sequence = self.log.next_sequence
        self.append([encode(part) for part in unit])
        self.flush()
        return sequence

    def append(self, unit: Sequence[bytes]) -> None:
        """Append the encoded records of one unit, once there is room in the log's queue.

        Raises:
            EventRefused: a record is too large; nothing was appended.
            DurabilityLost, LogFull: the log has failed.
        """
        if self.log.pending_bytes > PENDING_BYTES_MAX:
            self.flush()
        self.log.append(unit)

    def flush(self) -> None:
        """Return once everything that was appended has reached the log's level.

        Raises:
            DurabilityLost, LogFull: that cannot be; the log has failed.
        """
        log = self.log
        log.commit()
        while log.committed_sequence < log.next_sequence - 1:
            if log.failure is not None:
                raise log.failure
            self._changed.wait()
            self._changed.clear()
