"""``headrace log diff``: where two logs part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import DIFFERENCE, OK
from headrace.cli.logs import opened
from headrace.cli.output import Output, facts, table, write_document
from headrace.cli.progress import shown
from headrace.cli.records import View

if TYPE_CHECKING:
    from headrace.engine.log import LogReader


def diff(a: Path, b: Path, output: Output) -> int:
    """Print the first record at which two logs part, field by field, and count the rest."""
    from headrace.engine.log.compare import compare

    with opened(a) as one, opened(b) as other:
        with shown("comparing", min(one.refresh(), other.refresh())) as advance:
            found = compare(one, other, progress=advance)
        rows = [None, None] if found.at is None else [_row(log, found.at) for log in (one, other)]
    document: dict[str, Any] = {
        "a": str(a),
        "b": str(b),
        "same": found.same,
        "first_sequence": found.first,
        "parted_at": found.at,
        "common": found.common,
        "common_unread": found.shared,
        "only_a": found.only_a,
        "only_b": found.only_b,
        "fields": _fields(*rows),
    }
    write_document(document, output, lambda: _text(document))
    return OK if found.same else DIFFERENCE


def _row(reader: LogReader, sequence: int) -> dict[str, Any] | None:
    """Return what a log has at *sequence*; ``None``: nothing."""
    view = View(reader)
    for first, batch in reader.read(after=sequence - 1, upto=sequence):
        for place, record, at_ns in view.rows([(first, batch)]):
            # The bytes are what is compared: a kind that is not known has nothing else to show.
            return {**view.row_of(place, record, at_ns), "bytes": batch[0].hex()}
    return None


def _fields(a: dict[str, Any] | None, b: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Return the fields of both sides, in order; the bytes only where nothing else differs."""
    one, other = a or {}, b or {}
    rows: list[dict[str, Any]] = [
        {"field": name, "a": one.get(name), "b": other.get(name)}
        for name in dict.fromkeys((*one, *other))
        if name != "bytes"
    ]
    for row in rows:
        row["same"] = row["a"] == row["b"]
    if a is not None and b is not None and all(row["same"] for row in rows):
        rows.append({"field": "bytes", "a": a["bytes"], "b": b["bytes"], "same": False})
    return rows


def _text(document: dict[str, Any]) -> str:
    counts = facts(
        [
            ("a", document["a"]),
            ("b", document["b"]),
            ("the same", f"{document['common']} records from {document['first_sequence']} on"),
            ("only in a", document["only_a"]),
            ("only in b", document["only_b"]),
        ]
    )
    if document["same"]:
        return f"{counts}\nBoth hold the same records."
    rows = [{**row, "": "" if row["same"] else "*"} for row in document["fields"]]
    shown_rows = table(rows, ["", "field", "a", "b"])
    return f"{counts}\nThey part at record {document['parted_at']}:\n{shown_rows}"
