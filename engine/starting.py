"""What is recorded at a start: the rules that are in force from then on."""

from __future__ import annotations

from typing import Final, Literal

from headrace.engine.errors import LogMismatch
from headrace.engine.kernel import Kernel
from headrace.engine.log.protocol import EventLog
from headrace.engine.record import EngineStarted, RulesListed
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
    rules = [rule for rule in state.decider.warm() if state.rules.get(rule) != state.declared[rule]]
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
) -> list[RulesListed | EngineStarted]:
    """Return the records of a start at *at_ns*, each a unit of its own."""
    state = kernel.state
    warm = dict.fromkeys(state.prepared, first_sequence(log)) if state.prepared else {}
    rules = list(state.declared.items())
    records: list[RulesListed | EngineStarted] = []
    is_stale = bool(state.listed.rules)
    while len(rules) > RULES_AT_ONCE or is_stale:
        part, rules = dict(rules[:RULES_AT_ONCE]), rules[RULES_AT_ONCE:]
        records.append(RulesListed(at_ns, part, _those_of(warm, part), is_first=not records))
        is_stale = False
    last = dict(rules)
    started = EngineStarted(at_ns, version, clock, last, dedupe_window_ns, _those_of(warm, last))
    return [*records, started]


def _those_of(warm: dict[str, int], rules: dict[str, str]) -> dict[str, int]:
    return {rule: first for rule, first in warm.items() if rule in rules}
