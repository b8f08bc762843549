"""`backfill`: fold events of the past into rules, without effects, before an engine goes live.

The events become ordinary records of the log, at their own times; between `HistoryBegan` and
`HistoryEnded` no firing starts a run.  So the state that the engine goes live with is a fold
of its log as any other, and nothing lies between the last event of the past and the first
live one.  What was begun and not finished is gone on with by the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Final, Literal

from msgspec import Struct

from headrace.engine.clock import NS
from headrace.engine.decider import Decider
from headrace.engine.emission import Emission, checked_past, time_ns_of
from headrace.engine.errors import HistoryUnusable, LogMismatch
from headrace.engine.kernel import Kernel
from headrace.engine.offline import OfflineLog
from headrace.engine.payload import check_record
from headrace.engine.record import (
    CursorMoved,
    EventStored,
    HistoryBegan,
    HistoryEnded,
    Input,
    RuleFired,
    SourceOpened,
    decode,
    encode,
)
from headrace.engine.restore import ReadableLog, restore
from headrace.engine.starting import prepare_rules, start_records
from headrace.engine.subject import is_reserved

COMMIT_EVERY: Final = 1000


class Past(Struct, frozen=True):
    """An event of the past."""

    at_ns: int
    """Log time, in nanoseconds."""
    event: Emission
    place: int = 0
    """Where it was found, rising: what an earlier backfill has got to is known by that."""


class Backfilled(Struct, frozen=True):
    """What a backfill came to."""

    events: int
    """Stored by this call."""
    before: int
    """That an earlier call had stored; they were passed over."""
    known: int
    """Not stored, since the log has an event under their id."""
    firings: int
    """Firings without effect."""
    at_ns: int
    """Log time at the end: from here on events are live."""


class _Backfill:
    """A kernel over a log that no engine has, for the time of one call."""

    def __init__(self, offline: OfflineLog, kernel: Kernel) -> None:
        self._offline = offline
        self._kernel = kernel
        self._sources = {name: n for n, name in enumerate(kernel.state.sources, 1)}
        self._put = 0
        self.firings = 0
        self.started = False

    def start(self, records: Iterable[Input], name: str) -> None:
        """Put the rules into force, and let it be history from here on."""
        self.started = True
        for record in records:
            self.put(record)
        if not self._kernel.state.history:
            self.put(HistoryBegan(self._kernel.state.at_ns, name))

    def put(self, record: Input) -> None:
        """Store *record* with what follows from it, and the lifecycle events that are owed."""
        kernel, lifecycle = self._kernel, self._kernel.state.lifecycle
        self._store(record)
        while (owed := lifecycle.next(kernel.state.at_ns)) is not None:
            fired = kernel.due_timer(kernel.state.at_ns)
            self._store(owed if fired is None else fired)

    def _store(self, record: Input) -> None:
        encoded = check_record(encode(record))
        unit = self._kernel.submit(record)
        self.firings += sum(type(decision) is RuleFired for decision in unit[1:])
        self._offline.append([encoded, *map(encode, unit[1:])])
        self._kernel.state.effects.clear()  # the next start resumes what is open
        self._put += 1
        if self._put % COMMIT_EVERY == 0:
            self._offline.log.commit()

    def let_time_come(self, at_ns: int) -> int:
        """Fire the timers that are due by *at_ns*, each at its own time; return log time then."""
        state = self._kernel.state
        while (first := state.timers.first()) is not None and first[0] <= at_ns:
            fired = self._kernel.due_timer(max(first[0], state.at_ns))
            assert fired is not None, first
            self.put(fired)
        return max(at_ns, state.at_ns)

    def store(self, at_ns: int, event: Emission) -> bool:
        """Store an event of the past; say whether it was not there before."""
        payload, headers = checked_past(event)
        at_ns = self.let_time_come(at_ns)
        source = self._source(at_ns, event.source) if event.source else 0
        state = self._kernel.state
        if event.id is not None and state.dedupe.find(source, event.id, at_ns) is not None:
            return False
        time_ns = time_ns_of(event)
        self.put(
            EventStored(
                at_ns,
                event.subject,
                payload,
                source,
                event.position,
                event.id,
                time_ns,
                event.key,
                headers=None if headers is None else dict(headers),
            )
        )
        return True

    def _source(self, at_ns: int, name: str) -> int:
        number = self._sources.get(name)
        if number is None:
            number = self._sources[name] = len(self._sources) + 1
            self.put(SourceOpened(at_ns, number, name))
        return number

    def move_cursor(self, at_ns: int, name: str, place: int) -> None:
        """Note how far the past called *name* has been read."""
        if place:
            source = self._source(at_ns, name)
            if place > self._kernel.state.cursors.get(source, 0):
                self.put(CursorMoved(at_ns, source, place))


def backfill(
    offline: OfflineLog,
    decider: Decider,
    past: Iterable[Past],
    *,
    name: str,
    version: str,
    clock: Literal["system", "input"],
    dedupe_window_ns: int,
    now_ns: Callable[[], int],
) -> Backfilled:
    """Store *past*, oldest first, in the log that *offline* has open; nothing has effects.

    *name* says where it comes from; going on with what was begun takes the same name and
    the same events.  *now_ns* gives the wall clock's time at the end, up to which timers
    fire; by input, log time ends with the last event.

    Raises:
        HistoryUnusable: time goes back in it, or before log time; what came before is stored.
        LogMismatch: the log goes by another clock, or another backfill of it is unfinished.
        LogFull, DurabilityLost: the log failed; call it again.
    """
    kernel = restore(offline.log, decider, clock=clock)
    state = kernel.state
    if state.history and state.history != name:
        raise LogMismatch(
            f"expected to go on with the backfill of {state.history!r}, which is unfinished, "
            f"found {name!r}; finish that first"
        )
    work = _Backfill(offline, kernel)
    left = _Left(kernel, name)
    stored = known = 0
    for one in past:
        if left.passes_over(one):
            continue
        if not work.started:
            at_ns = max(one.at_ns, state.at_ns)
            prepare_rules(kernel, offline.log)
            work.start(
                start_records(
                    kernel,
                    offline.log,
                    at_ns=at_ns,
                    version=version,
                    clock=clock,
                    dedupe_window_ns=dedupe_window_ns,
                ),
                name,
            )
        if work.store(one.at_ns, one.event):
            stored += 1
        else:
            known += 1
    if state.history:
        end_ns = state.at_ns if clock == "input" else max(now_ns(), state.at_ns)
        end_ns = work.let_time_come(end_ns)
        work.move_cursor(end_ns, name, left.last_place)
        work.put(HistoryEnded(end_ns))
    offline.flush()
    return Backfilled(stored, left.passed, known, work.firings, state.at_ns)


class _Left:
    """Tells what an earlier call has stored, and that time does not go back in the rest."""

    def __init__(self, kernel: Kernel, name: str) -> None:
        state = kernel.state
        self.passed = 0
        self.last_place = 0
        self._name = name
        self._count = state.history_count if state.history else 0
        self._cursor = 0
        if name in state.sources:
            self._cursor = state.cursors.get(state.sources.index(name) + 1, 0)
        self._last_ns = state.at_ns
        self._since = "log time"

    def passes_over(self, past: Past) -> bool:
        """Say whether *past* is stored already."""
        if past.place and past.place <= self._cursor:
            self.passed += 1
            return True
        self.last_place = past.place
        if self._count and past.event.source != self._name:
            # Those of a source of this name have moved its cursor themselves.
            self._count -= 1
            self.passed += 1
            return True
        if past.at_ns < self._last_ns:
            raise HistoryUnusable(
                f"{past.event.subject} at {_said(past.at_ns)}: expected a time from "
                f"{_said(self._last_ns)} on, {self._since}; a log takes only what is newer than "
                f"it, oldest first"
            )
        self._last_ns, self._since = past.at_ns, "that of the event before"
        return False


def _said(at_ns: int) -> str:
    seconds, rest = divmod(at_ns, NS)
    at = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    return f"{at}.{rest:09}Z" if rest else f"{at}Z"


def past_of_log(log: ReadableLog) -> Iterator[Past]:
    """Yield the events of an older log, at their log times, with their sources and ids.

    Those about its rules are left out: ours make their own.
    """
    sources = [""]
    for first, records in log.read():
        for sequence, raw in enumerate(records, first):
            record = decode(raw)
            if isinstance(record, SourceOpened):
                sources.append(record.name)
            elif isinstance(record, EventStored) and not (
                is_reserved(record.subject) and not record.subject.startswith("run.")
            ):
                event = Emission(
                    record.subject,
                    record.data,
                    record.id,
                    sources[record.source],
                    record.position,
                    key=record.key,
                    time_ns=record.time_ns,
                    headers=record.headers,
                )
                yield Past(record.at_ns, event, sequence)
