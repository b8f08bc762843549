"""``headrace rules`` and ``headrace alarms``: what is in force in a log, and what is said of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.door import door
from headrace.cli.emit import parsed, say_if_offline, state_for
from headrace.cli.errors import OK, Usage
from headrace.cli.logs import folded, opened
from headrace.cli.output import Output, write_document, write_rows
from headrace.cli.text import rfc3339, safe, to_json

if TYPE_CHECKING:
    from headrace.engine.alarms import Alarm
    from headrace.engine.record import Record, RuleChanged
    from headrace.engine.rule_state import RuleStats

RULE_COLUMNS: Final = (
    "rule",
    "state",
    "fired",
    "dropped",
    "paused",
    "missed",
    "late",
    "errors",
    "mismatched",
    "evicted",
    "last_fired_at",
)
ALARM_COLUMNS: Final = (
    "rule",
    "key",
    "raised_at",
    "count",
    "acknowledged_at",
    "by",
    "note",
)


def list_rules(log: Path, output: Output) -> int:
    """Print the rules that are in force at the end of the log, and what became of each."""
    from headrace.engine.projected import is_projection
    from headrace.engine.record import EngineStarted, RuleChanged
    from headrace.engine.rule_state import RuleStats

    changes: dict[str, tuple[int, RuleChanged]] = {}

    def watch(sequence: int, record: Record) -> None:
        if isinstance(record, RuleChanged):
            changes[record.rule] = sequence, record
        elif isinstance(record, EngineStarted):
            changes.clear()  # from here on those of the app are in force

    with opened(log) as reader:
        state = folded(reader, watch=watch).state
    rows = [
        _rule(
            rule,
            state.stats.get(rule) or RuleStats(),
            is_paused=rule in state.paused,
            change=changes.get(rule),
        )
        for rule in sorted(state.rules)
        if not is_projection(rule)
    ]
    write_rows(rows, output, RULE_COLUMNS, empty="no rules")
    return OK


def _rule(
    rule: str, stats: RuleStats, *, is_paused: bool, change: tuple[int, RuleChanged] | None
) -> dict[str, Any]:
    sequence, changed = change or (None, None)
    return {
        "rule": rule,
        "state": "paused" if is_paused else "active" if changed is None else "changed",
        "fired": stats.fired,
        "dropped": stats.dropped,
        "paused": stats.paused,
        "missed": stats.missed,
        "late": stats.late,
        "errors": stats.errors,
        "mismatched": stats.mismatched,
        "evicted": stats.evicted,
        "last_fired_at": rfc3339(stats.last_fired_at_ns),
        "changed_at": sequence,
        "cause": (changed.cause or None) if changed is not None else None,
    }


def pause(log: Path, rule: str, output: Output, *, reason: str, paused: bool) -> int:
    """Pause a rule, or resume it, and print the record's sequence."""
    with door(log) as way:
        sequence = way.pause(rule, reason, paused=paused)
        if sequence:
            say_if_offline(log, way)
        document = {
            "log": str(log),
            "rule": rule,
            "paused": paused,
            "sequence": sequence or None,
            "state": state_for(way) if sequence else "unchanged",
        }
    already = f"rule {safe(rule)} {'was' if paused else 'was not'} paused"
    write_document(document, output, lambda: str(sequence) if sequence else already)
    return OK


def list_alarms(log: Path, output: Output) -> int:
    """Print the alarms that stand at the end of the log, in the order of raising."""
    with opened(log) as reader:
        alarms = folded(reader).state.alarms.all()
    rows = list(map(_alarm, alarms))
    if output == "table":
        for row in rows:  # as `ack` takes it
            row["key"] = None if row["key"] is None else to_json(row["key"])
    write_rows(rows, output, ALARM_COLUMNS, empty="no alarms")
    return OK


def _alarm(alarm: Alarm) -> dict[str, Any]:
    return {
        "rule": alarm.rule,
        "key": alarm.key,
        "firing": alarm.firing,
        "raised_at": rfc3339(alarm.raised_at_ns),
        "count": alarm.count,
        "acknowledged_at": rfc3339(alarm.acknowledged_at_ns),
        "by": alarm.by or None,
        "note": alarm.note or None,
    }


def acknowledge(
    log: Path, rule: str, output: Output, *, key: str | None, by: str | None, note: str
) -> int:
    """Say that somebody knows of an alarm, and print the record's sequence.

    Raises:
        Usage: *key* is no JSON, or none that could be a key.
    """
    of = parsed(key, "--key")
    if isinstance(of, dict):
        raise Usage(f"--key {safe(str(key)[:60])!r}: expected a text, a number or a list of these")
    by = by or _login()
    with door(log) as way:
        sequence = way.acknowledge(rule, of, by=by, note=note)
        say_if_offline(log, way)
        document = {
            "log": str(log),
            "rule": rule,
            "key": of,
            "by": by,
            "sequence": sequence,
            "state": state_for(way),
        }
    write_document(document, output, lambda: str(sequence))
    return OK


def _login() -> str:
    import getpass
    import os

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"user {os.getuid()}"  # nobody that this machine knows
