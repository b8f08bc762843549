"""What ``headrace run`` says at the end: what the log holds now, and what this time added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from headrace.cli.output import counts, facts

if TYPE_CHECKING:
    from headrace.connectors.intake import SourceStatus
    from headrace.engine.views import ProjectionView, RuleView, StateView


class Counted(Struct, frozen=True):
    """What one run of the command did."""

    log: str
    before: StateView
    after: StateView
    lines: int
    duplicates: int
    """Events whose id was stored before, and which therefore were not stored again."""
    bad_lines: int
    seconds: float
    sources: list[SourceStatus] = []
    """How those of the app did."""


def document_of(counted: Counted) -> dict[str, Any]:
    """Return the totals of the log, and below ``this_time`` what was added."""
    before, after = counted.before, counted.after
    sources = [
        {"source": one.name, "state": one.state, "stored": one.stored, "refused": one.refused}
        | {"duplicates": one.duplicates, "connections": one.connections, "error": one.error}
        for one in counted.sources
    ]
    ended = _added(after.runs_ended, before.runs_ended)
    return {
        "log": counted.log,
        "sequence": after.sequence,
        **_totals(after),
        "duplicates": counted.duplicates,
        "bad_lines": counted.bad_lines,
        **({"sources": sources} if sources else {}),
        "this_time": {
            "lines": counted.lines,
            "events": after.events - before.events,
            "firings": _added(_firings(after), _firings(before)),
            "runs_ended": ended,
            "dead_letters": ended.get("dead", 0),
            "seconds": round(counted.seconds, 3),
        },
    }


def _totals(state: StateView) -> dict[str, Any]:
    runs = {"active": state.runs_active, **dict(sorted(state.runs_ended.items()))}
    reading: list[RuleView | ProjectionView] = [*state.rules, *state.projections]
    return {
        "events": state.events,
        "firings": _firings(state),
        "mismatches": {rule.name: rule.mismatched for rule in reading if rule.mismatched},
        "rule_errors": {rule.name: rule.errors for rule in reading if rule.errors},
        "runs": {status: count for status, count in runs.items() if count},
        "retries": state.retries,
        "dead_letters": state.runs_ended.get("dead", 0),
    }


def _firings(state: StateView) -> dict[str, int]:
    return {rule.name: rule.fired for rule in state.rules}


def _added(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    added = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in sorted(added.items()) if count}


def text_of(document: dict[str, Any]) -> str:
    """Return the summary for people."""
    now = document["this_time"]
    rate = f", {now['events'] / now['seconds']:,.0f} a second" if now["events"] else ""
    dead = document["dead_letters"]
    see = f" (headrace runs list {document['log']} --status dead)" if dead else ""
    return facts(
        [
            ("log", f"{document['log']} at sequence {document['sequence']}"),
            ("events", f"{document['events']}; {now['events']} of them this time{rate}"),
            ("firings", counts(document["firings"])),
            ("mismatches", _if_any(document["mismatches"])),
            ("rule errors", _if_any(document["rule_errors"])),
            ("runs", counts(document["runs"])),
            ("retries", document["retries"]),
            ("dead letters", f"{dead}{see}"),
            *(("source", _source(one)) for one in document.get("sources", ())),
            ("skipped", f"{document['duplicates']} duplicates, {document['bad_lines']} bad lines"),
        ]
    )


def _source(row: Mapping[str, Any]) -> str:
    refused = f", {row['refused']} of them refused" if row["refused"] else ""
    again = f", {row['duplicates']} came again" if row["duplicates"] else ""
    why = f": {row['error']}" if row["state"] in {"lost", "failed"} else ""
    return f"{row['source']}: {row['stored']} stored{refused}{again}; {row['state']}{why}"


def _if_any(by_name: Mapping[str, int]) -> str | None:
    return counts(by_name) if by_name else None
