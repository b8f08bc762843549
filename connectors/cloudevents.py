"""Any CloudEvent 1.0 as one of our events, and our subjects as those of CloudEvents.

``type`` and ``subject`` of a CloudEvent together are our subject: ``com.example.opened`` about
``door/7`` is ``com.example.opened.~door/7``.  What cannot stand in a subject is percent-encoded, so
both ways are exact; where they would not be, an extension attribute has the original.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.connectors.jsonl import rfc3339_ns
from headrace.connectors.trace_context import trace_headers
from headrace.engine.emission import Emission
from headrace.engine.subject import is_reserved

SPECVERSION: Final = "1.0"

LOG_URN: Final = "urn:headrace:log:"
"""The source of events that were emitted in the process: the log itself."""
MSGPACK: Final = "application/msgpack"

_TO_ESCAPE: Final = re.compile(r"[ \t\n\f\r%]")
_WILDCARD: Final = re.compile(r"(?<![^.])[*>](?![^.])")
_EMPTY: Final = re.compile(r"^\.|\.$|(?<=\.)\.")
"""Dots that would leave a token empty."""
_TILDE: Final = re.compile(r"(^|\.)~(?=[^.]*$)")
"""What would begin a last token that is the event's own subject."""
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
    traceparent: str | None = None
    tracestate: str | None = None
    headraceheaders: str | None = None
    """Those of our headers that have no attribute of their own, as JSON."""


KNOWN: Final = frozenset(CloudEvent.__struct_fields__)


def emission_of(event: CloudEvent) -> Emission:
    """Return the event to emit; whether it can be stored is for `checked` to say.

    Raises:
        ValueError: it is of another version, lacks what each must have, or has data that is not
            what it says of it.
    """
    if event.specversion != SPECVERSION:
        raise ValueError(f"specversion {event.specversion!r} instead of {SPECVERSION!r}")
    for name in ("id", "source", "type"):
        if not getattr(event, name):
            raise ValueError(f"an empty {name}")
    return Emission(
        own_subject(event),
        data_of(event),
        event.id,
        own_source(event),
        key=event.partitionkey,
        time_ns=None if event.time is None else rfc3339_ns(event.time),
        headers=own_headers(event),
    )


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
    return content_of(data, event.datacontenttype or "", "data_base64")


def content_of(data: bytes, content_type: str, where: str) -> Any:
    """Return what *data* says, ready to be emitted, if it is JSON or msgpack; else itself.

    Raises:
        ValueError: it is not what *content_type* says; *where* says what it is.
    """
    if _kind(content_type) in _MSGPACKS:
        return checked_msgpack(data)
    if not is_json(content_type):
        return data
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{where} that is no JSON: {error}") from error


def is_json(content_type: str) -> bool:
    """Say whether data of *content_type* is JSON."""
    return _JSON.fullmatch(_kind(content_type)) is not None


def _kind(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


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


# ---------------------------------------------------------------- headers


def own_headers(event: CloudEvent) -> dict[str, str] | None:
    """Return our headers of a CloudEvent; whether they can be stored is for `checked` to say.

    Raises:
        ValueError: ``headraceheaders`` is not what we write there.
    """
    found: dict[str, str] = {}
    if event.headraceheaders is not None:
        try:
            found = msgspec.json.decode(event.headraceheaders, type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"headraceheaders that are no JSON object of text: {error}") from error
    return found | (trace_headers(lambda name: getattr(event, name)) or {}) or None


def attributes_of(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return the attributes that say what our *headers* do; the context of a trace has its own."""
    if headers is None:
        return {}
    made = trace_headers(headers.get) or {}
    rest = {name: value for name, value in headers.items() if name not in made}
    if rest:
        made["headraceheaders"] = msgspec.json.encode(rest).decode()
    return made


# ---------------------------------------------------------------- source


def own_source(event: CloudEvent) -> str:
    """Return our name of the event's source."""
    return source_in(event.source) if event.headracesource is None else event.headracesource


def source_in(source: str) -> str:
    """Return what we call a source that says *source* of itself: the log's own have no name."""
    return "" if source.startswith(LOG_URN) else source


# ---------------------------------------------------------------- subject


def own_subject(event: CloudEvent) -> str:
    """Return our subject of a CloudEvent; whether it can be stored is for `emit` to say."""
    if event.headracesubject is not None:
        return event.headracesubject
    return joined_subject(event.type, event.subject)


def split_subject(subject: str) -> tuple[str, str | None]:
    """Return type and subject of a CloudEvent such that they give *subject* again, if any do."""
    head, _, last = subject.rpartition(".")
    if head and last.startswith("~") and len(last) > 1:
        kind, about = _unescaped(head), _unescaped(last[1:])
        if joined_subject(kind, about) == subject:
            return kind, about
    kind = _unescaped(subject)
    return (kind, None) if joined_subject(kind, None) == subject else (subject, None)


def joined_subject(kind: str, about: str | None) -> str:
    """Return our subject of a type and, perhaps, a subject of CloudEvents."""
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
