"""``headrace replay``: derive every decision again and compare it with the recorded one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import DIFFERENCE, OK
from headrace.cli.logs import folded, opened
from headrace.cli.output import Output, write_document
from headrace.cli.text import safe
from headrace.engine import record as r

if TYPE_CHECKING:
    from headrace.app import App
    from headrace.engine.kernel import Kernel


def replay(app: App, log: Path, output: Output, *, strict: bool) -> int:
    """Compare the decisions of the log with those of today's rules; no task is called."""
    decider = app.decider()
    changes = Changes(decider.fingerprints())
    with opened(log) as reader:
        kernel = folded(reader, decider, begin=changes.begin, watch=changes.watch)
        last = reader.last_sequence
    differs = bool(kernel.divergences) or (strict and bool(changes.found))
    recorded = set(kernel.state.rules)
    document: dict[str, Any] = {
        "log": str(log),
        "records": last - changes.begun_after,
        "from_snapshot": changes.begun_after or None,
        "events": kernel.state.events,
        "same": not differs,
        "divergences": [
            {"sequence": d.sequence, "rule": d.rule, "recorded": d.recorded, "derived": d.derived}
            for d in kernel.divergences
        ],
        "changed": changes.found,
        "new_rules": sorted(set(app.rules) - recorded) if recorded else [],
        "unknown_records": kernel.unknown,
    }
    write_document(document, output, lambda: _text(document, strict=strict))
    return DIFFERENCE if differs else OK


class Changes:
    """Where each stretch begins in which a rule was another one than today."""

    def __init__(self, declared: dict[str, str]) -> None:
        """*declared* are today's fingerprints by rule."""
        self._declared = declared
        self._rules: dict[str, str] = {}
        self.begun_after = 0
        """The sequence of the snapshot that it began at; 0: the log's beginning."""
        self.found: list[dict[str, Any]] = []

    def begin(self, kernel: Kernel) -> None:
        """Look at what is in force where it begins."""
        self.begun_after = kernel.sequence
        self._compare(kernel.sequence, kernel.state.rules)

    def watch(self, sequence: int, record: r.Record) -> None:
        """Look at the next record."""
        if isinstance(record, r.EngineStarted):
            self._compare(sequence, record.rules)

    def _compare(self, sequence: int, rules: dict[str, str]) -> None:
        for rule, fingerprint in rules.items():
            today = self._declared.get(rule)
            if fingerprint != today and fingerprint != self._rules.get(rule):
                row = {"sequence": sequence, "rule": rule, "declared": today is not None}
                self.found.append(row)
        self._rules = dict(rules)


def _text(document: dict[str, Any], *, strict: bool) -> str:
    lines = [
        f"sequence {found['sequence']}: rule {safe(found['rule'])} differs\n"
        f"  recorded  {safe(found['recorded'])}\n"
        f"  derived   {safe(found['derived'])}"
        for found in document["divergences"]
    ]
    lines += [
        f"rule changed at {found['sequence']}: {safe(found['rule'])} is "
        + ("not what it was then" if found["declared"] else "not declared any more")
        + ("" if strict else "; its decisions there were not compared")
        for found in document["changed"]
    ]
    if document["from_snapshot"]:
        lines.append(
            f"begins at the snapshot at {document['from_snapshot']}: older records were removed"
        )
    if document["new_rules"]:
        lines.append(f"not in the log yet: {', '.join(map(safe, document['new_rules']))}")
    if document["unknown_records"]:
        lines.append(f"{document['unknown_records']} records of unknown kinds were passed over")
    count = f"{document['events']} events, {document['records']} records"
    verdict = "every decision is derived again" if document["same"] else "a difference was found"
    return "\n".join([*lines, f"{count}: {verdict}"])
