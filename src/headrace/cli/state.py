"""``headrace state``: the engine's state at any place of a log, rebuilt from it."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import CORRUPT, OK
from headrace.cli.logs import opened
from headrace.cli.output import Output, counts, facts, table, write_document
from headrace.cli.places import damage_note, keys_named, sequence_of, walk_to
from headrace.cli.state_parts import (
    Wanted,
    automata,
    check_rule,
    check_run,
    limits,
    open_runs,
    timers,
)
from headrace.cli.state_projections import projections
from headrace.cli.state_text import parts_text
from headrace.cli.text import rfc3339, safe

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.kernel import Kernel
    from headrace.engine.log import LogReader
    from headrace.engine.views import RuleView, StateView
    from headrace.triggers.ruleset import RuleSet

RULE_COLUMNS: Final = (
    "rule",
    "active",
    "paused",
    "fired",
    "dropped",
    "missed",
    "late",
    "suppressed",
    "mismatched",
    "errors",
    "keys",
    "last_fired_at",
)


def state(
    app: App,
    log: Path,
    output: Output,
    *,
    at: str | None,
    rule: str | None,
    key: str | None,
    run: int | None,
    limit: int,
) -> int:
    """Print the state of *app* after a record of the log, or at its end.

    Of each part at most *limit* is listed.  In a damaged log it is the state of what is intact.

    Raises:
        RecordNotFound, RuleNotFound, RunNotFound: there is none; says what there is.
    """
    rules = app.decider()
    check_rule(rule, rules)
    wanted = Wanted(rule, keys_named(key), run)
    with opened(log) as reader:
        sequence = sequence_of(reader, at)
        walk = walk_to(reader, rules, sequence)
        kernel = walk.to(sequence)
        check_run(run, kernel)
        document = document_of(kernel, rules, wanted, limit, reader)
    is_whole = wanted == Wanted()
    write_document(document, output, lambda: state_text(document, is_whole=is_whole))
    note = damage_note(walk)
    if note is None:
        return OK
    sys.stderr.write(f"headrace: {safe(note)}\n")
    return CORRUPT


def document_of(
    kernel: Kernel, rules: RuleSet, wanted: Wanted, limit: int, reader: LogReader | None = None
) -> dict[str, Any]:
    """Return the state as it is printed; *reader* is for projections that were not in force."""
    from headrace.engine.views import state_of

    document = numbers_of(state_of(kernel))
    document["rules"] = [row for row in document["rules"] if wanted.rule in (None, row["rule"])]
    document["automata"] = list(automata(kernel, rules, wanted, limit))
    for name, rows in (
        ("open_runs", open_runs(kernel, wanted)),
        ("armed", timers(kernel, rules, wanted)),
    ):
        document[name] = list(islice(rows, limit))
        document[f"more_{name}"] = sum(1 for _ in rows)
    document["limits"] = limits(kernel)
    document["projections"] = list(projections(kernel, rules, wanted, limit, reader))
    return document


def numbers_of(view: StateView) -> dict[str, Any]:
    """Return *view* as it is printed."""
    return {
        "sequence": view.sequence,
        "at": rfc3339(view.at_ns),
        "clock": view.clock or None,
        "events": view.events,
        "rules": [_rule(rule) for rule in view.rules],
        "runs": {
            "active": view.runs_active,
            "waiting": view.runs_waiting,
            **dict(sorted(view.runs_ended.items())),
        },
        "retries": view.retries,
        "dead_letters": view.runs_ended.get("dead", 0),
        "timers": view.timers,
        "alarms": view.alarms,
        "sources": view.sources,
    }


def _rule(rule: RuleView) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "active": rule.active,
        "fired": rule.fired,
        "dropped": rule.dropped,
        "mismatched": rule.mismatched,
        "errors": rule.errors,
        "evicted": rule.evicted,
        "loops": rule.loops,
        "keys": rule.keys,
        "unkeyed": rule.unkeyed,
        "paused": rule.paused,
        "missed": rule.missed,
        "late": rule.late,
        "suppressed": rule.suppressed,
        "last_fired_at": rfc3339(rule.last_fired_at_ns),
    }


def state_text(document: dict[str, Any], *, is_whole: bool) -> str:
    """Return what `document_of` made as text; *is_whole*: without a filter."""
    pairs = [
        ("sequence", document["sequence"]),
        ("log time", document["at"]),
        ("clock", document["clock"]),
        ("events", document["events"]),
        ("runs", counts({k: v for k, v in document["runs"].items() if v})),
        ("retries", document["retries"]),
        ("dead letters", document["dead_letters"]),
        ("timers", document["timers"]),
        ("alarms", document["alarms"]),
        *(
            (f"source {name}", "no cursor" if at is None else f"at {at}")
            for name, at in document["sources"].items()
        ),
    ]
    parts = [facts(pairs if is_whole else pairs[:2])]
    if document["rules"] and is_whole:
        parts.append(table(document["rules"], RULE_COLUMNS))
    return "\n\n".join([*parts, *parts_text(document, is_whole=is_whole)])
