"""``headrace bisect``: where two apps part that see the same log, or two logs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import DIFFERENCE, OK
from headrace.cli.logs import opened
from headrace.cli.output import Output, facts, some_of, table, write_document
from headrace.cli.progress import shown
from headrace.cli.records import View
from headrace.cli.replay import gaps_are_damage, stretch_of, with_progress
from headrace.cli.text import safe, to_json
from headrace.cli.whatif import said, side_of

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.log import LogReader
    from headrace.engine.record import RuleFired
    from headrace.engine.replay.bisect import Parted


def load_both(a: str, b: str) -> tuple[App, App]:
    """Import two apps, of which each gets what lies beside its own file.

    Two versions of an app have modules of the same names there.
    """
    from headrace.cli.apps import load
    from headrace.engine.timers import Timers

    modules, path = set(sys.modules), list(sys.path)
    one = load(a)
    one.decider().attach(Timers(), [])  # its types look up their annotations now, not later
    place = a.rpartition(":")[0] or a
    if place.endswith(".py"):
        folder = str(Path(place).resolve().parent) + os.sep
        own = str(Path(place).resolve())
        for name in sys.modules.keys() - modules:
            file = getattr(sys.modules[name], "__file__", None) or ""
            if file.startswith(folder) and file != own:
                del sys.modules[name]
        sys.path[:] = path
    return one, load(b)


def bisect(
    a: App,
    b: App,
    log: Path,
    output: Output,
    *,
    from_: str | None = None,
    until: str | None = None,
) -> int:
    """Print the first record of the log of which two apps make different things.

    Raises:
        RecordNotFound: there is no such place in the log.
        LogCorrupt: it is damaged, and before that they do not part.
    """
    from headrace.engine.replay.bisect import bisect as parted

    with opened(log) as reader, gaps_are_damage(reader):
        stretch = stretch_of(reader, from_=from_, until=until)
        with shown("comparing", stretch.until or reader.last_sequence) as advance:
            found = parted(with_progress(stretch, advance), a.decider, b.decider)
        document = _document(reader, found)
    write_document(document, output, lambda: _text(document))
    if found.damage is not None:
        raise found.damage
    return OK if found.at is None else DIFFERENCE


def _document(reader: LogReader, found: Parted) -> dict[str, Any]:
    row: dict[str, Any] | None = None
    if found.at is not None:
        view = View(reader)
        for place, record, at_ns in view.rows(reader.read(after=found.at - 1, upto=found.at)):
            row = view.row_of(place, record, at_ns)
    fired_a, fired_b = found.fired
    return {
        "log": str(reader.path),
        "same": found.at is None,
        "from_snapshot": found.begun_after or None,
        "records": found.last - found.begun_after,
        "parted_at": found.at,
        "record": row,
        "rules": found.rules,
        "fired_a": [_fired(one) for one in fired_a],
        "fired_b": [_fired(one) for one in fired_b],
        "damage": None if found.damage is None else str(found.damage),
    }


def _fired(fired: RuleFired) -> dict[str, Any]:
    return {"rule": fired.rule, "key": fired.key, **(side_of(fired) or {})}


def _text(document: dict[str, Any]) -> str:
    if document["same"]:
        return f"{document['records']} records: both make the same of them"
    record = document["record"] or {}
    lines = [
        facts(
            [
                ("they part at", document["parted_at"]),
                ("log time", record.get("recorded_at")),
                ("kind", record.get("kind")),
                ("subject", record.get("subject")),
                ("data", to_json(record["data"]) if "data" in record else None),
                ("rules", some_of(list(map(safe, document["rules"])), len(document["rules"]))),
            ]
        )
    ]
    rows = [
        {"app": side, "rule": fired["rule"], "key": fired["key"], "firing": said(fired)}
        for side in ("a", "b")
        for fired in document[f"fired_{side}"]
    ]
    if rows:
        lines.append(table(rows, ["app", "rule", "key", "firing"]))
    else:
        lines.append("neither fires there: what they remember is not the same from then on")
    return "\n\n".join(lines)
