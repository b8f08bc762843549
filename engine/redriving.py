"""Dead letters that are to go on: what is asked for as the record that says it, or a refusal.

The same for an engine at work and for a log that no engine has open.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import msgspec

from headrace.engine import record as r
from headrace.engine.errors import RedriveRefused, RunNotFound
from headrace.engine.fresh import MEND
from headrace.engine.restore import ReadableLog
from headrace.engine.run_state import RunState, events_of
from headrace.engine.run_writing import packed_run
from headrace.engine.state import EngineState

ENDS: Final = (r.RunFailed, r.RunCompleted, r.RunCancelled, r.RunReplaced, r.RunRedriven)


def redrive_of(
    state: EngineState,
    log: ReadableLog,
    run_id: int,
    *,
    from_start: bool,
    at_ns: int,
    found: RunState | None = None,
) -> r.RunRedriven:
    """Return the record that lets a dead letter go on.

    One that the state has not is *found* in the log already, or looked for there now.

    Raises:
        RunNotFound: no such run was given up.
        RedriveRefused: it cannot go on; says why.
    """
    run, made = state.dead.to_redrive(run_id), None
    if run is None:
        if run_id in state.runs.active:
            raise RedriveRefused(
                f"run {run_id}: expected one that was given up, found that it is open"
            )
        run = found or run_from_log(log, run_id, state.runs.versions)
        if not from_start and run.attempt:
            raise RedriveRefused(
                f"run {run_id}: expected its steps, found that they are only in the log by now; "
                f"redrive it from the start (--from-start), which executes all of them again"
            )
        run.attempt = run.attempt or 1  # it was unread, and is not any more
        made = bytes(packed_run(run))
    _check_events(log, run, run.events if from_start else events_of(run))
    holder = state.holder_of(run, at_ns)
    if holder is not None:
        raise RedriveRefused(
            f"run {run_id}: expected that nobody has its key {run.launch_key!r}, found run "
            f"{holder}; redrive it when that has ended, and its window is over"
        )
    return r.RunRedriven(at_ns, run_id, from_start, made)


def is_at_hand(state: EngineState, run_id: int) -> bool:
    """Say whether the state knows of a run that is open or was given up."""
    return run_id in state.runs.active or state.dead.to_redrive(run_id) is not None


def _check_events(log: ReadableLog, run: RunState, events: Collection[int]) -> None:
    """Check that the *events* are there that its code would be given again."""
    lost = set(events) - log.fetch(events).keys() if events else set()
    if lost.intersection(run.events):
        raise RedriveRefused(
            f"run {run.id}: expected the events of its firing, found that retention has removed "
            f"record {min(lost)}; it cannot be done again"
        )
    if lost:
        raise RedriveRefused(
            f"run {run.id}: expected the events that its waits have returned, found that retention "
            f"has removed record {min(lost)}; redrive it from the start (--from-start), which "
            f"executes all of its steps again"
        )


def run_from_log(log: ReadableLog, run_id: int, versions: dict[str, str]) -> RunState:
    """Return a dead letter as its making record says it, of the version in force now.

    Takes as long as the log is from there.  What only a parent knew of it, such as its key, is
    not known any more.

    Raises:
        RunNotFound: there is none of this id.
        RedriveRefused: what made it is damaged.
    """
    raw = log.fetch([run_id]).get(run_id)
    if raw is None:
        last = log.committed_sequence
        raise RunNotFound(
            f"run {run_id}: expected a record that is kept, of up to {last}; there is no such run"
        )
    try:
        record = r.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RedriveRefused(
            f"run {run_id}: expected at {run_id} in the log what made it, found what is no "
            f"record: {error}; {MEND}"
        ) from None
    run = _made(run_id, record)
    if run is None:
        kind = r.KIND_BY_TYPE[type(record)]
        raise RunNotFound(
            f"run {run_id}: expected what makes a run of its own, found {kind!r} there; "
            f"`headrace runs list --failed` has the dead letters"
        )
    ended: r.Record | None = None
    # To its end: a reading that is left in the middle holds the records until it is collected.
    for _, records in log.read(after=run_id):
        for record in map(r.decode, records):
            if isinstance(record, ENDS) and record.run == run_id:
                ended = record
    if not isinstance(ended, r.RunFailed):
        what = "nothing" if ended is None else repr(r.KIND_BY_TYPE[type(ended)])
        raise RunNotFound(f"run {run_id}: expected that it was given up, found {what} last")
    run.attempt, run.error = ended.attempt, ended.error
    run.version = "" if run.rule else versions.get(run.task, "")
    run.created_at_ns = run.attempt_at_ns = ended.at_ns
    return run


def _made(run_id: int, record: r.Record) -> RunState | None:
    """Return the run that *record* makes, if it is one of its own."""
    if isinstance(record, r.RuleFired) and record.outcome in ("run", "waiting"):
        return RunState(
            run_id,
            record.task or record.rule,
            "dead",
            0,
            0,
            record.rule,
            r.thaw(record.key),
            record.events,
            record.due_ns,
            record.branches,
            trace=record.trace,
            hops=record.hops,
            details=record.details,
        )
    if isinstance(record, r.StepRequested) and record.kind == "launch":
        return RunState(
            run_id, record.task, "dead", 0, 0, args=record.args.copy(), ordinal=record.ordinal,
            kind="launch", hops=1,
        )  # fmt: skip
    if isinstance(record, r.RunLaunched):
        return RunState(
            run_id, record.task, "dead", 0, 0, args=record.args.copy(), ordinal=record.ordinal,
            kind="launch", hops=1 if record.run else 0, launch_key=record.key,
            window_ns=record.window_ns,
        )  # fmt: skip
    return None
