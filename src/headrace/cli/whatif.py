"""``headrace whatif``: what other rules would have made of the same log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import DIFFERENCE, OK
from headrace.cli.logs import opened
from headrace.cli.output import Output, facts, table, write_document
from headrace.cli.progress import shown
from headrace.cli.replay import gaps_are_damage, stretch_of, with_progress
from headrace.cli.text import rfc3339, safe, to_json

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.record import RuleFired
    from headrace.engine.replay.tally import Counts, Difference, Supposed

KEYS_SHOWN_MAX: Final = 20
FATES: Final = {
    "recorded": "the recorded one",
    "unknown": "unknown",
    "gone": "gone",
    "none": "",
}
_APART: Final = ("rule", "key", "outcome", "events")
OUTCOMES: Final = {"run": "started"}


def whatif(
    app: App,
    log: Path,
    output: Output,
    *,
    from_: str | None = None,
    until: str | None = None,
    limit: int,
) -> int:
    """Print what would be another in the log with the rules of *app*.

    Raises:
        RecordNotFound: there is no such place in the log.
        LogCorrupt: it is damaged; what came before was looked at, and printed.
    """
    from headrace.replaying import supposed

    with opened(log) as reader, gaps_are_damage(reader):
        stretch = stretch_of(reader, from_=from_, until=until)
        with shown("replaying", stretch.until or reader.last_sequence) as advance:
            found = supposed(app, with_progress(stretch, advance), shown_max=limit)
    document = _document(log, found)
    write_document(document, output, lambda: _text(document))
    if found.damage is not None:
        raise found.damage
    return OK if found.same else DIFFERENCE


def _document(log: Path, found: Supposed) -> dict[str, Any]:
    return {
        "log": str(log),
        "records": found.last - found.begun_after,
        "from_snapshot": found.begun_after or None,
        "events": found.events,
        "same": found.same,
        "same_firings": found.total.same,
        **_counts(found.total, without_same=True),
        "rules": {rule: _counts(counts) for rule, counts in sorted(found.rules.items())},
        "keys": [
            {"rule": rule, "key": key, **_counts(counts, without_same=True)}
            for (rule, key), counts in found.keys.items()
        ],
        "other_decisions": [
            {"rule": rule, "kind": kind, "recorded": other.recorded, "derived": other.derived}
            for (rule, kind), other in sorted(found.others.items())
            if other.recorded != other.derived
        ],
        "runs": {"unknown": found.runs_unknown, "gone": found.runs_gone},
        "events_gone": found.events_gone,
        "events_new": found.events_new,
        "kept_rules": found.kept,
        "unknown_records": found.unknown,
        "differences": [_row(one) for one in found.differences],
        "left_out": found.total.differ - len(found.differences),
        "damage": None if found.damage is None else str(found.damage),
        "digest": found.digest,
    }


def _counts(counts: Counts, *, without_same: bool = False) -> dict[str, int]:
    found = {
        "same": counts.same,
        "appeared": counts.appeared,
        "vanished": counts.vanished,
        "moved": counts.moved,
        "changed": counts.changed,
    }
    if without_same:
        del found["same"]
    return found


def _row(one: Difference) -> dict[str, Any]:
    return {
        "what": one.what,
        "sequence": one.sequence,
        "at": rfc3339(one.at_ns),
        "rule": one.rule,
        "key": one.key,
        "recorded": side_of(one.recorded),
        "derived": side_of(one.derived),
        "run": one.run,
        "run_id": one.run_id or None,
        "why": one.why or None,
    }


def side_of(fired: RuleFired | None) -> dict[str, Any] | None:
    """Return a firing as it is printed, but for its rule and key."""
    if fired is None:
        return None
    side: dict[str, Any] = {"outcome": fired.outcome, "events": fired.events}
    if fired.due_ns is not None:
        side["due"] = rfc3339(fired.due_ns)
    if fired.branches is not None:
        side["branches"] = fired.branches
    details = fired.details
    if details is not None:
        side |= {
            name: value
            for name in ("reason", "steps", "value")
            if (value := getattr(details, name)) is not None
        }
    if fired.task:
        side["task"] = fired.task
    return side


def _text(document: dict[str, Any]) -> str:
    if document["same"]:
        lines = [_heading(document), "nothing would be another"]
        return "\n".join([*lines, *_notes(document)])
    parts = [_heading(document)]
    rows = [{"rule": rule, **counts} for rule, counts in document["rules"].items()]
    columns = ["rule", "same", "appeared", "vanished", "moved", "changed"]
    parts.append(table(rows, columns))
    keys = sorted(document["keys"], key=lambda row: -sum(_numbers(row)))
    if any(row["key"] is not None for row in keys):
        parts.append(table(keys[:KEYS_SHOWN_MAX], ["rule", "key", *columns[2:]]))
    if document["differences"]:
        shown_rows = [_line(row) for row in document["differences"]]
        columns = ["", "sequence", "at", "rule", "key", "recorded", "derived", "run", "why"]
        parts.append(table(shown_rows, columns))
    return "\n\n".join([*parts, "\n".join(_notes(document))]).rstrip()


def _numbers(row: dict[str, Any]) -> list[int]:
    return [row[name] for name in ("appeared", "vanished", "moved", "changed")]


def _heading(document: dict[str, Any]) -> str:
    count = f"{document['events']} events, {document['records']} records"
    runs = document["runs"]
    return facts(
        [
            ("seen", count),
            ("firings the same", document["same_firings"]),
            ("runs unknown", runs["unknown"] or None),
            ("runs gone", runs["gone"] or None),
            ("events gone", document["events_gone"] or None),
            ("events new", document["events_new"] or None),
        ]
    )


def _line(row: dict[str, Any]) -> dict[str, Any]:
    sides = {name: said(row[name]) for name in ("recorded", "derived")}
    run = FATES[row["run"]]
    return {**row, **sides, "": row["what"], "run": run, "why": row["why"] or ""}


def said(side: dict[str, Any] | None) -> str:
    """Return what `side_of` gave, for people."""
    if side is None:
        return ""
    outcome = OUTCOMES.get(side["outcome"], side["outcome"])
    more = [
        f"{name} {side[name] if name == 'due' else to_json(side[name])}"
        for name in side
        if name not in _APART
    ]
    events = f"by {', '.join(map(str, side['events'][-3:]))}" if side["events"] else ""
    if len(side["events"]) > 3:
        events = f"by {len(side['events'])} events to {side['events'][-1]}"
    return " ".join(part for part in [outcome, events, *more] if part)


def _notes(document: dict[str, Any]) -> list[str]:
    lines = [
        f"{other['kind']} of {safe(other['rule'])}: {other['recorded']} recorded, "
        f"{other['derived']} derived"
        for other in document["other_decisions"]
    ]
    if document["left_out"]:
        lines.append(f"{document['left_out']} more differences; --limit shows them")
    if document["kept_rules"]:
        names = ", ".join(map(safe, document["kept_rules"]))
        lines.append(f"not declared in the app, added while it ran, and taken as recorded: {names}")
    if document["from_snapshot"]:
        lines.append(f"begins at the snapshot at {document['from_snapshot']}")
    if document["unknown_records"]:
        lines.append(f"{document['unknown_records']} records of unknown kinds were passed over")
    if document["damage"]:
        lines.append("the log is damaged: only what is before that was looked at")
    return lines
