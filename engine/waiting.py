"""Signals and durable waits, as the kernel sees them: what their records do to the state.

Signals to one run and name are queued in the run's state, in the order of the log; each
`receive` takes one, whether it was there before or comes later.  A wait for a pattern is
different: the pattern is code that only the run has, so the shell finds out whether it is
met and records that; see `headrace.engine.waits`.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from headrace.engine.errors import RunNotFound, SignalRefused
from headrace.engine.payload import check_text, encode_stable
from headrace.engine.record import SignalSent, WaitEnded, WaitRequested
from headrace.engine.run_state import RunState, Step, Waiting
from headrace.engine.runs import RunTable
from headrace.engine.timers import Timers

SIGNALS_MAX: Final = 1000
"""Signals that one run has not received yet, of all names; more are refused."""
SIGNAL_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of their data."""
NAME_CHARS_MAX: Final = 200
TIMED: Final = ("sleep", "receive", "wait")
"""The calls that a timer under their ordinal may end."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Situation(Protocol):
    """What of the kernel's state the records of waits change."""

    runs: RunTable
    timers: Timers

    def asking(self, run_id: int) -> RunState | None:
        """Return the run that asks for something, to be changed: it gets on by that."""
        ...

    def wake(self, run: RunState, ordinal: int) -> None:
        """Let the code of *run* go on from its call at *ordinal*, which has ended."""
        ...


# ------------------------------------------------------------ what is asked for


def check_name(place: str, name: object) -> str:
    """Return *name*, if a signal can have it.

    Raises:
        TypeError, ValueError, EventRefused: it cannot; says where.
    """
    if not isinstance(name, str):
        raise TypeError(f"{place}({name!r}): expected the signal's name as text")
    if not 0 < len(name) <= NAME_CHARS_MAX:
        raise ValueError(f"{place}({name[:40]!r}): expected a name of 1 to {NAME_CHARS_MAX} chars")
    check_text(name, "the name of a signal")
    return name


def signal_of(state: Situation, run_id: int, name: str, data: Raw, *, at_ns: int) -> SignalSent:
    """Return the record of a signal that may be sent now.

    Raises:
        TypeError, ValueError, EventRefused: *name* is none.
        RunNotFound: the run is not open.
        SignalRefused: it has too many that it has not received.
    """
    check_name("signal", name)
    run = state.runs.active.get(run_id)
    if run is None:
        raise RunNotFound(f"run {run_id} is not open: it has ended, or never was")
    queued = [signal for queue in (run.signals or {}).values() for signal in queue]
    size = sum(len(signal) for _, signal in queued)
    if len(queued) >= SIGNALS_MAX or size + len(bytes(data)) > SIGNAL_BYTES_MAX:
        raise SignalRefused(
            f"run {run_id}: expected at most {SIGNALS_MAX} signals of {SIGNAL_BYTES_MAX} bytes in "
            f"all that wait to be received, found {len(queued)} of {size} bytes; send signal "
            f"{name[:40]!r} again once the run has received some"
        )
    return SignalSent(at_ns, run_id, name, data)


def encoded_signal(name: str, data: Any) -> Raw:
    """Return *data* as a record has it.

    Raises:
        EventRefused: msgspec cannot encode it, or it is too large.
    """
    check_name("signal", name)
    return encode_stable(data, f"signal {name!r}")


# ------------------------------------------------------------ what records do


def requested(state: Situation, sequence: int, asked: WaitRequested) -> Sequence[Any]:
    """Open a wait, or end it at once with a signal that was there before."""
    run = state.asking(asked.run)
    if run is None:
        return ()
    since = sequence if asked.since is None else asked.since
    step = run.steps[asked.ordinal] = Step(
        asked.kind,
        asked.name,
        asked.digest,
        sequence,
        "pending",
        asked.at_ns,
        wait=Waiting(asked.due_ns, since, 0, asked.subjects),
    )
    queue = (run.signals or {}).get(asked.name) if asked.kind == "receive" else None
    if queue:
        _receive(step, *queue.pop(0), at_ns=asked.at_ns)
        _drop_if_empty(run, asked.name)
        return ()
    if asked.due_ns is not None:
        state.timers.arm(("", run.id, asked.ordinal), asked.due_ns)
    state.runs.dormant.add(run.id)
    if asked.subjects:
        state.runs.listening.add(run.id)
    if since < run.id:
        state.runs.reaching.add(run.id)
    return ()


def sent(state: Situation, sequence: int, signal: SignalSent) -> Sequence[Any]:
    """Hand a signal to the call that waits for it, or keep it for one that will."""
    run = state.runs.touch(signal.run)
    if run is None:
        return ()
    data = bytes(signal.data)
    for ordinal, step in run.steps.items():
        if step.kind == "receive" and step.status == "pending" and step.name == signal.name:
            state.timers.disarm(("", run.id, ordinal))
            _receive(step, sequence, data, at_ns=signal.at_ns)
            state.wake(run, ordinal)
            return ()
    if run.signals is None:
        run.signals = {}
    run.signals.setdefault(signal.name, []).append((sequence, data))
    return ()


def ended(state: Situation, sequence: int, end: WaitEnded) -> Sequence[Any]:
    """End a wait for a pattern."""
    run = state.runs.touch(end.run)
    step = None if run is None else run.steps.get(end.ordinal)
    if run is None or step is None or step.wait is None:
        return ()
    state.timers.disarm(("", run.id, end.ordinal))
    step.status, step.at_ns, step.ended, step.wait = "done", end.at_ns, sequence, None
    step.result = None if end.met is None else Raw(_encode(end.met))
    step.error = end.error
    state.wake(run, end.ordinal)
    return ()


def timed_out(state: Situation, run: RunState, ordinal: int, *, at_ns: int, timer: int) -> None:
    """End a sleep or a receive whose time has come; *timer* is the sequence of that record.

    A wait for a pattern stays open: what came before may have met it, which nobody has seen
    yet if nothing ran.  Its run finds out and records it.
    """
    step = run.steps[ordinal]
    if step.kind == "wait" and step.wait is not None:
        step.wait = replace(step.wait, until=timer)
    else:
        step.status, step.at_ns, step.wait = "done", at_ns, None
    state.wake(run, ordinal)


def forget(state: Situation, run: RunState, ordinal: int) -> None:
    """Let the call at *ordinal* be executed again by the next attempt."""
    step = run.steps.pop(ordinal, None)
    if step is not None:
        if step.kind in TIMED:
            state.timers.disarm(("", run.id, ordinal))
        give_back(run, (step,))


def give_back(run: RunState, steps: Iterable[Step]) -> None:
    """Put signals that *steps* have received into the queue again, each in its old place."""
    for step in steps:
        if step.kind == "receive" and step.result is not None:
            if run.signals is None:
                run.signals = {}
            queue = run.signals.setdefault(step.name, [])
            bisect.insort(queue, (step.ended, bytes(step.result)))


def _receive(step: Step, sequence: int, data: bytes, *, at_ns: int) -> None:
    step.status, step.at_ns, step.ended, step.wait = "done", at_ns, sequence, None
    step.result = Raw(data)


def _drop_if_empty(run: RunState, name: str) -> None:
    assert run.signals is not None
    if not run.signals[name]:
        del run.signals[name]
        run.signals = run.signals or None
