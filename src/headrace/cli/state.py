"""``headrace state``: the engine's state, rebuilt from the log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import OK
from headrace.cli.logs import folded, opened
from headrace.cli.output import Output, counts, facts, table, write_document
from headrace.cli.text import rfc3339

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.views import RuleView, StateView

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


def state(app: App, log: Path, output: Output) -> int:
    """Print the state of *app* at the end of the log."""
    from headrace.engine.views import state_of

    with opened(log) as reader:
        kernel = folded(reader, app.decider(), shortcut=True)
    document = document_of(state_of(kernel))
    write_document(document, output, lambda: _text(document))
    return OK


def document_of(view: StateView) -> dict[str, Any]:
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


def _text(document: dict[str, Any]) -> str:
    parts = [
        facts(
            [
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
        )
    ]
    if document["rules"]:
        parts.append(table(document["rules"], RULE_COLUMNS))
    return "\n\n".join(parts)
