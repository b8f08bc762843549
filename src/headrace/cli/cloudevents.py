"""Our events as CloudEvents 1.0 JSON, and any CloudEvent as one of ours.

``type`` and ``subject`` of a CloudEvent together are our subject: ``com.example.opened`` about
``door/7`` is ``com.example.opened.~door/7``.  What cannot stand in a subject is percent-encoded, so
both ways are exact; where they would not be, an extension attribute has the original.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from typing import Any, Final
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from headrace.cli.text import rfc3339, rfc3339_exact
from headrace.engine.subject import is_reserved

LOG_URN: Final = "urn:headrace:log:"
"""The source of events that were emitted in the process: the log itself."""
MSGPACK: Final = "application/msgpack"

_TO_ESCAPE: Final = re.compile(r"[ \t\n\f\r%]")
_WILDCARD: Final = re.compile(r"(?<![^.])[*>](?![^.])")
_EMPTY: Final = re.compile(r"^\.|\.$|(?<=\.)\.")
"""Dots that would leave a token empty."""
_TILDE: Final = re.compile(r"(^|\.)~(?=[^.]*$)")
"""What would begin a last token that is the event's own subject."""
_URI: Final = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_ESCAPED: Final = re.compile(r"(?:%[0-9A-F]{2})+")
_JSON: Final = re.compile(r"application/json|.*\+json", re.IGNORECASE)
_MSGPACKS: Final = frozenset((MSGPACK, "application/x-msgpack", "application/vnd.msgpack"))


class CloudEvent(Struct):
    """The attributes that mean something here.  Others are left out."""

    specversion: str
    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    data: object = None
    data_base64: str | None = None
    partitionkey: str | None = None
    sequence: object = None
    recordedtime: str | None = None
    headracesubject: str | None = None
    headracesource: str | None = None
    headracerun: str | None = None


KNOWN: Final = frozenset(CloudEvent.__struct_fields__)


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
        "headracesubject": None if _joined(kind, subject) == event.subject else event.subject,
        "headracesource": None if _own_source(source) == event.source else event.source,
        "headracerun": str(event.run) if event.run else None,
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


def data_of(event: CloudEvent) -> Any:
    """Return the data of a CloudEvent, ready to be emitted.

    Raises:
        ValueError: ``data_base64`` does not hold what ``datacontenttype`` says.
    """
    if event.data_base64 is None:
        return event.data
    if event.data is not None:
        raise ValueError("both data and data_base64")
    data = b64decode(event.data_base64, validate=True)
    kind = (event.datacontenttype or "").partition(";")[0].strip().lower()
    if kind in _MSGPACKS:
        return checked_msgpack(data)
    if not _JSON.fullmatch(kind):
        return data
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"data_base64 that is no JSON: {error}") from error


def checked_msgpack(data: bytes) -> Raw:
    """Return *data* as it can be emitted.

    Raises:
        ValueError: it is no msgpack that can be decoded.
    """
    try:
        msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"msgpack that cannot be decoded: {error}") from error
    return Raw(data)


# ---------------------------------------------------------------- source


def own_source(event: CloudEvent) -> str:
    """Return our name of the event's source."""
    return _own_source(event.source) if event.headracesource is None else event.headracesource


def _own_source(source: str) -> str:
    return "" if source.startswith(LOG_URN) else source


def _source_of(name: str, log_id: str) -> str:
    if not name:
        return LOG_URN + log_id
    return name if _URI.fullmatch(name) else quote(name, safe="")


# ---------------------------------------------------------------- subject


def own_subject(event: CloudEvent) -> str:
    """Return our subject of a CloudEvent; whether it can be stored is for `emit` to say."""
    if event.headracesubject is not None:
        return event.headracesubject
    return _joined(event.type, event.subject)


def split_subject(subject: str) -> tuple[str, str | None]:
    """Return type and subject of a CloudEvent such that they give *subject* again, if any do."""
    head, _, last = subject.rpartition(".")
    if head and last.startswith("~") and len(last) > 1:
        kind, about = _unescaped(head), _unescaped(last[1:])
        if _joined(kind, about) == subject:
            return kind, about
    kind = _unescaped(subject)
    return (kind, None) if _joined(kind, None) == subject else (subject, None)


def _joined(kind: str, about: str | None) -> str:
    text = _WILDCARD.sub(lambda found: f"%{ord(found[0]):02X}", _escaped(kind))
    text = _EMPTY.sub("%2E", text)
    text = f"{text}.~{_escaped_dots(about)}" if about else _TILDE.sub(r"\1%7E", text)
    return f"%{ord(text[0]):02X}{text[1:]}" if is_reserved(text) else text


def _escaped_dots(text: str) -> str:
    return _escaped(text).replace(".", "%2E")


def _escaped(text: str) -> str:
    return _TO_ESCAPE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(
        lambda found: bytes.fromhex(found[0].replace("%", "")).decode(errors="replace"), text
    )
