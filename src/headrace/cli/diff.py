"""``headrace diff``: what changed in the engine's state between two places of a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import CORRUPT, DIFFERENCE, OK
from headrace.cli.logs import opened
from headrace.cli.output import Output, write_document
from headrace.cli.places import damage_note, keys_named, sequence_of, walk_to
from headrace.cli.state_parts import Wanted, check_rule
from headrace.cli.state_things import ended_as, things_of
from headrace.cli.text import rfc3339, safe, to_json

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.inspect.differ import Change

JSON = dict[str, Any]


def diff(
    app: App,
    log: Path,
    a: str,
    b: str,
    output: Output,
    *,
    rule: str | None,
    key: str | None,
    run: int | None,
    limit: int,
) -> int:
    """Print what differs in the state after record *b* from that after record *a*.

    Raises:
        RecordNotFound, RuleNotFound: there is none; says what there is.
    """
    from headrace.engine.inspect.differ import changes

    rules = app.decider()
    check_rule(rule, rules)
    wanted = Wanted(rule, keys_named(key), run)
    with opened(log) as reader:
        places = sequence_of(reader, a, "A"), sequence_of(reader, b, "B")
        walk = walk_to(reader, rules, min(places))
        first_things = things_of(walk.to(min(places)), rules, wanted)
        first_ns = walk.kernel.state.at_ns
        things = things_of(walk.to(max(places)), rules, wanted)
    times = first_ns, walk.kernel.state.at_ns
    if places[0] > places[1]:
        first_things, things, times = things, first_things, times[::-1]
    found = list(changes(first_things, things))
    for place, change in enumerate(found):
        found[place] = _with_ending(change, walk.kernel)
    document: JSON = {
        "a": {"sequence": places[0], "at": rfc3339(times[0])},
        "b": {"sequence": places[1], "at": rfc3339(times[1])},
        "changed": len(found),
        "changes": [_row(change) for change in found[:limit]],
    }
    write_document(document, output, lambda: "\n".join(_text(document)))
    note = damage_note(walk)
    if note is not None:
        sys.stderr.write(f"headrace: {safe(note)}\n")
        return CORRUPT
    return DIFFERENCE if found else OK


def _with_ending(change: Change, kernel: Any) -> Change:
    """Say of a run that is not open any more how it has ended."""
    from headrace.engine.inspect.differ import Change as Made

    words = change.what.split(" ", 2)
    if change.change != "vanished" or words[0] != "run":
        return change
    ended = ended_as(kernel, int(words[1]))
    if ended is None:
        return change
    before, _ = change.fields.get("status", (None, None))
    return Made(change.what, "vanished", {**change.fields, "status": (before, ended)})


def _row(change: Change) -> JSON:
    fields = {name: {"a": a, "b": b} for name, (a, b) in change.fields.items()}
    return {"what": change.what, "change": change.change, "fields": fields}


def _text(document: JSON) -> Iterator[str]:
    a, b = document["a"], document["b"]
    yield f"from record {a['sequence']} ({a['at']}) to record {b['sequence']} ({b['at']})"
    if not document["changed"]:
        yield "nothing has changed"
    for row in document["changes"]:
        yield from change_lines(row)
    more = document["changed"] - len(document["changes"])
    if more:
        yield f"and {more} more; --limit shows them"


def change_lines(row: JSON) -> Iterator[str]:
    """Yield the lines of one thing that has changed."""
    sign = {"appeared": "+", "vanished": "-", "changed": "~"}[row["change"]]
    yield f"{sign} {safe(row['what'])}"
    for name, sides in row["fields"].items():
        a, b = sides["a"], sides["b"]
        if row["change"] == "changed" or (a is not None and b is not None):
            yield f"    {safe(name)}: {_value(a)} -> {_value(b)}"
        else:
            yield f"    {safe(name)}: {_value(b if a is None else a)}"


def _value(value: Any) -> str:
    if value is None:
        return "nothing"
    return safe(value) if isinstance(value, str) else to_json(value)
