"""What is recorded at a start: the rules that are in force from then on."""

from __future__ import annotations

from typing import Final, Literal

from headrace.engine.crashes import suspects
from headrace.engine.errors import LogMismatch
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.projected import is_projection
from headrace.engine.record import EngineStarted, RulesListed, RunFailed, TasksListed
from headrace.engine.restore import first_sequence, read_back
from headrace.engine.warm import WarmUp

RULES_AT_ONCE: Final = 5000
"""Rules that one record names: with their fingerprints they are well below 1 MiB."""


def check_history(kernel: Kernel) -> None:
    """Refuse to go live in the middle of a backfill.

    Raises:
        LogMismatch: one is unfinished.
    """
    if kernel.state.history:
        raise LogMismatch(
            f"expected a log that can go live, found that the backfill of "
            f"{kernel.state.history!r} is unfinished; call it again with the same events: it goes "
            f"on where it was"
        )


def prepare_rules(kernel: Kernel, log: EventLog) -> None:
    """Bring the rules that are not to begin empty to where they begin, with this start.

    Blocks for as long as reading the log takes: for a worker thread.
    """
    state = kernel.state
    rules = [
        rule
        for rule in state.decider.warm()
        if state.rules.get(rule) != state.declared[rule]
        # A rule begins anew after a divergence; a projection is what the log makes it.
        or (rule in kernel.diverged and is_projection(rule))
    ]
    first = first_sequence(log) if rules else 1
    for rule in sorted(rules):
        if first <= kernel.sequence:
            warm_up = WarmUp(state.decider.alone(rule), rule, state.sources)
            warm_up.feed(read_back(log, first, kernel.sequence))
            state.prepared[rule] = warm_up


def start_records(
    kernel: Kernel,
    log: EventLog,
    *,
    at_ns: int,
    version: str,
    clock: Literal["system", "input"],
    dedupe_window_ns: int,
    versions: dict[str, str] | None = None,
) -> list[RulesListed | EngineStarted | TasksListed]:
    """Return the records of a start at *at_ns*, each a unit of its own."""
    state = kernel.state
    warm = dict.fromkeys(state.prepared, first_sequence(log)) if state.prepared else {}
    rules = list(state.declared.items())
    records: list[RulesListed | EngineStarted | TasksListed] = []
    is_stale = bool(state.listed.rules)
    while len(rules) > RULES_AT_ONCE or is_stale:
        part, rules = dict(rules[:RULES_AT_ONCE]), rules[RULES_AT_ONCE:]
        records.append(RulesListed(at_ns, part, _those_of(warm, part), is_first=not records))
        is_stale = False
    last = dict(rules)
    started = EngineStarted(at_ns, version, clock, last, dedupe_window_ns, _those_of(warm, last))
    if versions is not None and versions != state.runs.versions:
        records.append(TasksListed(at_ns, versions))
    return [*records, started]


def has_killed(kernel: Kernel) -> bool:
    """Say whether the process died in an earlier life of the log, perhaps of a run's code."""
    state = kernel.state
    return state.crashes.is_running and bool(state.runs.fresh or suspects(state.runs))


def failure_of_killer(
    kernel: Kernel, on_trial: int, attempts_max: int, at_ns: int
) -> RunFailed | None:
    """Return what to record of the run that was on trial when the process died, if one was."""
    run = kernel.state.runs.active.get(on_trial)
    if run is None or run.crashes < attempts_max:
        return None
    error = (
        f"ProcessDied: the process died {run.crashes} times while this run executed, the last "
        f"time while it was watched; mend its code, then redrive it"
    )
    forget = [ordinal for ordinal, step in run.steps.items() if step.status != "done"]
    return RunFailed(at_ns, run.id, run.attempt, error, "", None if run.parent else forget)


def _those_of(warm: dict[str, int], rules: dict[str, str]) -> dict[str, int]:
    return {rule: first for rule, first in warm.items() if rule in rules}
