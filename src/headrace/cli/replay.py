"""``headrace replay``: derive every decision again and compare it with the recorded one."""

from __future__ import annotations

from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import DIFFERENCE, OK, RecordUnreadable
from headrace.cli.logs import decoded, opened
from headrace.cli.output import Output, counts, some_of, table, write_document
from headrace.cli.paced import Paced
from headrace.cli.places import sequence_of
from headrace.cli.progress import shown
from headrace.cli.text import safe
from headrace.engine.errors import LogMismatch, RuleNotFound

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.log import LogReader
    from headrace.engine.replay.replay import Replayed
    from headrace.engine.replay.stretch import Stretch


def replay(
    app: App,
    log: Path,
    output: Output,
    *,
    strict: bool,
    from_: str | None = None,
    until: str | None = None,
    speed: float | None = None,
    runs: bool = False,
) -> int:
    """Compare the decisions of the log with those of today's rules.

    Raises:
        RecordNotFound: there is no such place in the log.
        LogCorrupt: it is damaged; what came before was compared, and printed.
        RuleNotFound: it has none of the app's rules, so that nothing could be compared.
    """
    from headrace.engine.replay.doubts import count_all
    from headrace.engine.replay.replay import replay as replayed

    with opened(log) as reader, gaps_are_damage(reader):
        stretch = stretch_of(reader, from_=from_, until=until)
        with shown("replaying", stretch.until or reader.last_sequence) as advance:
            stretch = with_progress(stretch, advance)
            if speed is not None:
                paced = Paced(reader, speed, show=output == "table")
                found = replayed(with_log(stretch, paced), app.decider())
            else:
                found = replayed(stretch, app.decider())
        rules = {divergence.rule for divergence in found.divergences}
        code = _code_of(app, stretch) if runs else None
        doubts = count_all(stretch, app.decider, rules) if rules else None
    document = _document(log, found, until=stretch.until)
    document["differences"] = {} if doubts is None else doubts.by_rule
    document["non_deterministic"] = [] if doubts is None else doubts.unsteady
    document["reads_outside"] = _read_outside(app, rules)
    differs = bool(found.diverged) or (strict and bool(found.changed))
    if code is not None:
        document["runs"] = code
        differs = differs or bool(code["differ"])
    document["same"] = not differs
    write_document(document, output, lambda: _text(document, strict=strict))
    if found.damage is not None:
        raise found.damage
    if found.foreign:
        raise RuleNotFound(_foreign(app, log, found.foreign))
    return DIFFERENCE if differs else OK


def _read_outside(app: App, rules: Collection[str]) -> dict[str, list[str]]:
    """Return which of *rules*, which differ, read a clock or chance, and what they read."""
    from headrace.triggers.outside import outside_read

    declared = {name: rule for name, rule in app.rules.items() if name in rules}
    found = {name: outside_read(rule.pattern.node.parts()) for name, rule in declared.items()}
    return {name: names for name, names in sorted(found.items()) if names}


def _foreign(app: App, log: Path, rules: list[str]) -> str:
    """Return what to say of a log that has none of the app's rules."""
    declared = some_of([safe(rule) for rule in app.rules], len(app.rules)) or "none"
    theirs = some_of([safe(rule) for rule in rules], len(rules))
    return (
        f"{safe(str(log))}: expected a log with rules of the app {safe(app.name)} ({declared}), "
        f"found {theirs}: nothing was compared; "
        f"name the app that wrote it, or ask `headrace whatif`"
    )


def _code_of(app: App, stretch: Stretch) -> dict[str, Any]:
    from headrace.replaying import code_of

    found = code_of(app, with_progress(stretch, lambda _: None))
    rows = [
        {"run": one.run, "task": one.task, "sequence": one.sequence, "what": one.what}
        for one in found.strayed
    ]
    counts_ = {"same": found.same, "differ": found.differ, "skipped": found.skipped}
    return {**counts_, "strayed": rows}


@contextmanager
def gaps_are_damage(reader: LogReader) -> Generator[None]:
    """Say of records that are missing where they are; a log that lost some is damaged."""
    try:
        yield
    except LogMismatch as error:
        raise RecordUnreadable(f"{safe(str(reader.path))}: {error}") from error


def stretch_of(reader: LogReader, *, from_: str | None, until: str | None) -> Stretch:
    """Return what a command is to go through.

    Raises:
        RecordNotFound: there is no such place in the log.
    """
    from headrace.engine.replay.stretch import Stretch

    return Stretch(
        log=reader,
        begin_at=None if from_ is None else sequence_of(reader, from_, "--from"),
        until=None if until is None else sequence_of(reader, until, "--until"),
        decode=lambda sequence, raw: decoded(reader, sequence, raw),
    )


def with_progress(stretch: Stretch, advance: Any) -> Stretch:
    """Return *stretch* that tells *advance* how far it has come."""
    from msgspec.structs import replace

    return replace(stretch, progress=advance)


def with_log(stretch: Stretch, log: Any) -> Stretch:
    """Return *stretch* of the same log, read in another way."""
    from msgspec.structs import replace

    return replace(stretch, log=log)


def _document(log: Path, found: Replayed, *, until: int | None) -> dict[str, Any]:
    from headrace.engine.replay.replay import fields_of

    return {
        "log": str(log),
        "records": found.last - found.begun_after,
        "from_snapshot": found.begun_after or None,
        "until": until,
        "events": found.events,
        "firings": found.firings,
        "timers": found.timers,
        "same": True,
        "divergences": [
            {
                "sequence": d.sequence,
                "rule": d.rule,
                "recorded": d.recorded,
                "derived": d.derived,
                "fields": [
                    {
                        "field": field.name,
                        "recorded": field.recorded,
                        "derived": field.derived,
                        "same": not field.differs,
                    }
                    for field in fields_of(d)
                ],
            }
            for d in found.divergences
        ],
        "diverged": found.diverged,
        "compared": not found.foreign,
        "changed": [
            {"sequence": c.sequence, "rule": c.rule, "declared": c.is_declared}
            for c in found.changed
        ],
        "new_rules": found.unrecorded,
        "unknown_records": found.unknown,
        "damage": None if found.damage is None else str(found.damage),
        "digest": found.digest,
    }


def _text(document: dict[str, Any], *, strict: bool) -> str:
    lines: list[str] = []
    for number, found in enumerate(document["divergences"]):
        place = f"sequence {found['sequence']}: rule {safe(found['rule'])} differs"
        if number:
            lines.append(f"{place} for the first time")
            continue
        lines += [
            place,
            f"  recorded  {safe(found['recorded'])}",
            f"  derived   {safe(found['derived'])}",
            fields_text(found["fields"]),
        ]
    if document["differences"]:
        lines.append(f"firings that differ in all: {counts(document['differences'])}")
    lines += [
        (
            f"rule {safe(rule)} is not deterministic: two replays of the same log made other "
            f"firings; does a condition read a clock, chance or a global?"
        )
        for rule in document["non_deterministic"]
    ]
    lines += [
        (
            f"rule {safe(rule)} reads {safe(', '.join(names))}, which no log has, and is not "
            f"deterministic; let it go by the time of the event, or by what is in it"
        )
        for rule, names in document["reads_outside"].items()
    ]
    lines += [
        f"rule changed at {found['sequence']}: {safe(found['rule'])} is "
        + ("not what it was then" if found["declared"] else "not declared any more")
        + ("" if strict else "; its decisions there were not compared")
        for found in document["changed"]
    ]
    lines += _runs_text(document)
    lines += _notes(document)
    events, firings = document["events"], document["firings"]
    count = f"{events} events, {document['records']} records, {firings} firings"
    return "\n".join([*lines, f"{count}: {_verdict(document)}"])


def _verdict(document: dict[str, Any]) -> str:
    if not document["compared"]:
        return "nothing was compared"
    if not document["same"]:
        return "a difference was found"
    of = " of the rules that are as they were" if document["changed"] else ""
    return f"every decision{of} is derived again"


def _runs_text(document: dict[str, Any]) -> list[str]:
    if "runs" not in document:
        return []
    runs = document["runs"]
    lines = [
        f"run {row['run']} of {safe(row['task'])}: {safe(row['what'])}" for row in runs["strayed"]
    ]
    lines.append(
        f"attempts: {runs['same']} made the same calls again, {runs['differ']} did not, "
        f"{runs['skipped']} were not executed"
    )
    return lines


def _notes(document: dict[str, Any]) -> list[str]:
    lines = []
    if document["from_snapshot"]:
        lines.append(f"begins at the snapshot at {document['from_snapshot']}")
    if document["new_rules"]:
        names = [safe(name) for name in document["new_rules"]]
        lines.append(f"not in the log yet: {some_of(names, len(names))}")
    if document["unknown_records"]:
        lines.append(f"{document['unknown_records']} records of unknown kinds were passed over")
    if document["damage"]:
        lines.append("the log is damaged: only what is before that was compared")
    return lines


def fields_text(fields: list[dict[str, Any]]) -> str:
    """Return both sides of a decision as a table; what differs has a star."""
    rows = [{**field, "": "" if field["same"] else "*"} for field in fields]
    return table(rows, ["", "field", "recorded", "derived"])
