"""Our events as CloudEvents 1.0 JSON; the way back is in `headrace.connectors.cloudevents`."""

from __future__ import annotations

import re
from base64 import b64encode
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from headrace.cli.text import rfc3339, rfc3339_exact
from headrace.connectors.cloudevents import (
    LOG_URN,
    MSGPACK,
    attributes_of,
    joined_subject,
    source_in,
    split_subject,
)

_URI: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")


class Exported(Struct):
    """One of our events with names instead of numbers."""

    sequence: int
    recorded_at_ns: int | None
    subject: str
    data: Raw
    source: str = ""
    id: str = ""
    """Never empty: one that has none of its own is named by its log and its sequence."""
    time_ns: int | None = None
    key: str | None = None
    run: int = 0
    headers: dict[str, str] | None = None


def to_cloudevent(event: Exported, log_id: str) -> dict[str, Any]:
    """Return *event* as the JSON format of CloudEvents has it."""
    kind, subject = split_subject(event.subject)
    source = _source_of(event.source, log_id)
    made: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "source": source,
        "type": kind,
        "subject": subject,
        "time": rfc3339_exact(event.time_ns),
        "sequence": f"{event.sequence:020d}",
        "recordedtime": rfc3339(event.recorded_at_ns),
        "partitionkey": event.key,
        "headracesubject": None
        if joined_subject(kind, subject) == event.subject
        else event.subject,
        "headracesource": None if source_in(source) == event.source else event.source,
        "headracerun": str(event.run) if event.run else None,
        **attributes_of(event.headers),
    }
    made = {name: value for name, value in made.items() if value is not None}
    value, is_exact = plain_data(event.data)
    if not is_exact:
        made["datacontenttype"] = MSGPACK
        made["data_base64"] = b64encode(event.data).decode()
    elif value is not None:
        made["datacontenttype"] = "application/json"
        made["data"] = value
    return made


def plain_data(raw: Raw | bytes) -> tuple[Any, bool]:
    """Return what *raw* holds, and whether JSON can say it so that the same bytes come back."""
    value = msgspec.msgpack.decode(raw)
    try:
        again = msgspec.msgpack.encode(msgspec.json.decode(msgspec.json.encode(value)))
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError):
        return value, False
    return value, again == bytes(raw)


def _source_of(name: str, log_id: str) -> str:
    if not name:
        return LOG_URN + log_id
    return name if _URI.fullmatch(name) else quote(name, safe="")
