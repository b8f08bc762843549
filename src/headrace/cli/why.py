"""``headrace why``: why a rule fired on a record, or did not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from headrace.cli.errors import CORRUPT, OK, RecordNotFound
from headrace.cli.logs import decoded, opened
from headrace.cli.output import Output, write_document
from headrace.cli.places import damage_note, keys_named, sequence_of, walk_to
from headrace.cli.state_parts import check_rule, holding_of
from headrace.cli.state_text import events_text, holding_lines
from headrace.cli.text import rfc3339, rfc3339_exact, safe, to_json

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.log import LogReader
    from headrace.triggers.explain.clauses import ClauseSeen
    from headrace.triggers.explain.said import Said
    from headrace.triggers.explain.why import Why

JSON = dict[str, Any]
BEFORE_RECORDS: Final = 10_000
"""How far back it looks at least for what was open and what has died."""
HISTORY_SHOWN_MAX: Final = 10


def why(app: App, log: Path, rule: str, output: Output, *, at: str | None, key: str | None) -> int:
    """Say why *rule* fired on a record of the log, or did not.

    Raises:
        RecordNotFound, RuleNotFound: there is none; says what there is.
    """
    from headrace.engine.tracing.links import input_before

    check_rule(rule, app.decider())
    with opened(log) as reader:
        place = sequence_of(reader, at)
        if not place:
            raise RecordNotFound(
                f"{safe(str(log))}: expected a log that has records, found none in it yet"
            )
        sequence = input_before(reader, place, partial(decoded, reader))
        document, note = explanation(app, reader, rule, sequence, key)
    write_document(document, output, lambda: "\n".join(why_text(document)))
    if note is None:
        return OK
    sys.stderr.write(f"headrace: {safe(note)}\n")
    return CORRUPT


def explanation(
    app: App, reader: LogReader, rule: str, sequence: int, key: str | None
) -> tuple[JSON, str | None]:
    """Return why *rule* fired on the input at *sequence* or did not, and what damage was met."""
    from headrace.triggers.explain.asking import ask
    from headrace.triggers.explain.tracing import traced

    rules = traced(app.decider(), rule)
    before = max(reader.first_sequence, sequence - BEFORE_RECORDS)
    walk = walk_to(reader, rules, sequence, begin_before=before)
    found = ask(walk, rules, rule, sequence, keys_named(key))
    return document_of(found), damage_note(walk)


def document_of(found: Why) -> JSON:
    """Return what was found as it is printed."""
    return {
        "rule": found.rule,
        "pattern": found.pattern,
        "verdict": found.verdict,
        "because": found.because,
        "sequence": found.sequence,
        "at": rfc3339(found.at_ns),
        "key": found.key,
        "what": found.what,
        "data": found.data,
        "firings": found.firings,
        "entries": [
            {
                "on": entry.on,
                "passes": entry.passes,
                "clauses": [_clause(clause) for clause in entry.clauses],
            }
            for entry in found.entries
        ],
        "operators": [_operator(said) for said in found.operators],
        "would_have_fired_if": found.wishes,
        "open": [holding_of(holding) for holding in found.open],
        "died": [
            {
                "operator": death.operator,
                "events": death.events,
                "of": death.of,
                "text": death.text,
                "at": rfc3339_exact(death.at_ns),
                "by": death.by,
                "waited_for": death.waited_for or None,
            }
            for death in found.died
        ],
        "before": [
            {"sequence": line.sequence, "at": rfc3339_exact(line.at_ns), "text": line.text}
            for line in found.history
        ],
        "last_concerned": found.last or None,
        "looked_back_to": found.looked_back_to,
    }


def _clause(clause: ClauseSeen) -> JSON:
    from headrace.triggers.explain.clauses import shown

    return {
        "kind": clause.kind,
        "text": clause.text,
        "place": clause.place,
        "verdict": clause.verdict,
        "values": {name: shown(value) for name, value in clause.values.items()},
        "line": clause.line,
    }


def _operator(said: Said) -> JSON:
    return {"operator": said.operator, "verdict": said.verdict, "text": said.text}


_MARKS: Final = {"passes": "yes", "stops": "no", "holds": "held", "suppresses": "no"}


def why_text(document: JSON) -> Iterator[str]:
    """Yield the lines of what `explanation` found."""
    verb = {
        "fired": "fired on",
        "did not fire": "did not fire on",
        "suppressed": "did not come through on",
        "not concerned": "was not concerned by",
        "not in force": "was not in force at",
    }[document["verdict"]]
    yield f"{safe(document['rule'])} {verb} record {document['sequence']}:"
    yield f"  {safe(document['because'])}"
    key = "" if document["key"] is None else f", key {to_json(document['key'])}"
    data = "" if document["data"] is None else f": {safe(document['data'])}"
    yield f"{safe(document['what'])} at {document['at']}{key}{data}"
    for entry in document["entries"]:
        yield f"  {safe(entry['on'])}"
        for clause in entry["clauses"]:
            mark = "yes" if clause["verdict"] == "yes" else "no"
            yield f"    {mark:4} {safe(clause['line'])}"
    for said in document["operators"]:
        yield f"  {_MARKS[said['verdict']]:4} {safe(said['operator'])}: {safe(said['text'])}"
    yield from _list("it would have fired if", map(safe, document["would_have_fired_if"]), " or")
    rows = [line for row in document["open"] for line in holding_lines(row)]
    if rows:
        yield "open"
        yield from rows
    yield from _list("ended without a firing", map(_death, document["died"]))
    lines = [
        f"#{line['sequence']} {line['at']} {safe(line['text'])}" for line in document["before"]
    ]
    yield from _list("before it", lines[-HISTORY_SHOWN_MAX:])
    if document["last_concerned"]:
        yield f"the last event that concerned it was #{document['last_concerned']}"


def _list(title: str, lines: Any, between: str = "") -> Iterator[str]:
    listed = list(lines)
    if listed:
        yield title
        for number, line in enumerate(listed, 1):
            yield f"  {line}{between if number < len(listed) else ''}"


def _death(death: JSON) -> str:
    what = events_text(death["events"]) or f"the state of {safe(death['operator'])}"
    waited = f"; it waited for {safe(death['waited_for'])}" if death["waited_for"] else ""
    return f"{death['at']} {what} {safe(death['text'])}{waited}"
