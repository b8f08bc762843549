"""From a request to events: what a route of `Webhook` says, and what is made of a body by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote

import msgspec
from msgspec import Struct

from headrace.connectors import cloudevents as ce
from headrace.connectors.http_limits import HttpRefused, Limits, decompressed
from headrace.connectors.payloads import BadPayload, read_json, read_text
from headrace.connectors.tokens import token_of
from headrace.connectors.webhook import (
    BadSignature,
    Delivery,
    checked_secrets,
    verify_with,
)
from headrace.engine.emission import Emission, checked
from headrace.engine.errors import EventRefused
from headrace.engine.subject import check_emit

Form = Literal["json", "cloudevents", "text", "bytes"]
KIND: Final = "{event}"
OWN_PATHS: Final = ("/healthz", "/readyz", "/metrics")
BATCH_MAX: Final = 10_000
"""Events of one request: what goes into one group must fit."""

_KIND_HEADER: Final = b"x-github-event"
_CE_JSON: Final = "application/cloudevents+json"
_CE_BATCH: Final = "application/cloudevents-batch+json"
_ID_FIELDS: Final = {"stripe": "id", "slack": "event_id"}
_FORM: Final = "application/x-www-form-urlencoded"
_NONE: Final = Delivery(None, None)


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """What a route may say."""

    subject: str = ""
    scheme: str | None = None
    secrets: Any = None
    """One, or several of them; looked at by `checked_secrets`."""
    format: Form = "json"
    id_header: str = "idempotency-key"


class Route(Struct, frozen=True):
    """A path, and what becomes of the requests to it."""

    path: str
    subject: str
    scheme: str | None
    keys: tuple[bytes, ...]
    format: Form
    id_header: bytes
    source: str
    """Of its events: the ids of one route are no business of another one."""

    def __repr__(self) -> str:
        return f"Route({self.path!r}, {self.subject!r}, scheme={self.scheme!r})"


class Answer(Struct, frozen=True):
    """Events to store, or a text to answer with at once."""

    events: list[Emission]
    text: str | None = None


# ---------------------------------------------------------------- settings


def route_of(name: str, path: str, given: str | Mapping[str, Any]) -> Route:
    """Return the route that is set up for *path*: as a subject, or by its parts.

    Raises:
        ValueError, TypeError: it cannot work; says what to mend.
    """
    place = f"{name}, route {path!r}"
    found: object = path  # what stands in a file or a program may be anything
    if not isinstance(found, str) or not path.startswith("/") or set(path) & set("?# "):
        raise ValueError(f"{name}, routes: expected paths such as '/github', found {path!r:.80}")
    if path in OWN_PATHS:
        raise ValueError(f"{place}: expected another path than {', '.join(OWN_PATHS)}")
    parts: object = {"subject": given} if isinstance(given, str) else given
    if not isinstance(parts, Mapping):
        raise TypeError(
            f"{place}: expected a subject, or a table of {_settings()}; "
            f"found {type(given).__name__}"
        )
    try:
        settings = msgspec.convert(dict(parts), Settings)
    except msgspec.ValidationError as error:
        raise ValueError(f"{place}: expected {_settings()}; found {error}") from None
    return Route(
        path,
        _subject(settings, place),
        settings.scheme,
        _keys(settings, place),
        settings.format,
        settings.id_header.lower().encode(),
        f"{name}:{path}",
    )


def _settings() -> str:
    return ", ".join(Settings.__struct_fields__)


def _keys(settings: Settings, place: str) -> tuple[bytes, ...]:
    if settings.scheme is not None:
        return checked_secrets(
            settings.scheme, [] if settings.secrets is None else settings.secrets, place
        )
    if settings.secrets is not None:
        raise ValueError(
            f"{place}, secrets: expected scheme= beside them, which says how requests are signed"
        )
    return ()


def _subject(settings: Settings, place: str) -> str:
    subject, is_ce = settings.subject, settings.format == "cloudevents"
    if not subject and is_ce:
        return ""
    if not subject:
        raise ValueError(f"{place}, subject: expected one such as 'github.{KIND}', found none")
    if KIND in subject and (is_ce or settings.scheme is None or settings.format != "json"):
        raise ValueError(
            f"{place}, subject: expected {KIND} only where scheme= says what that is, "
            f"found {subject!r}"
        )
    try:
        check_emit(subject.replace(KIND, "event") + (".event" if is_ce else ""))
    except ValueError as error:
        raise ValueError(f"{place}, {error}") from None
    if "{" in subject.replace(KIND, ""):
        raise ValueError(f"{place}, subject: expected no {{…}} but {KIND}, found {subject!r}")
    return subject


# ---------------------------------------------------------------- requests


def events_of(
    route: Route, headers: Mapping[bytes, bytes], body: bytes, now_s: float, limits: Limits
) -> Answer:
    """Return what a request to *route* brings; *headers* have their names in small letters.

    Raises:
        HttpRefused: nothing that can be stored, or not from who knows a secret.
    """
    delivery = _NONE
    if route.scheme is not None:
        try:
            delivery = verify_with(route.scheme, route.keys, headers, body, now_s)
        except BadSignature as error:
            raise HttpRefused(401, str(error)) from None
    encoding = headers.get(b"content-encoding")
    if encoding is not None:
        body = decompressed(body, encoding.decode("latin-1"), limits)
    try:
        if route.format == "cloudevents":
            return Answer(_cloudevents(route, headers, body))
        data, fields = _data(route, headers, body)
        if route.scheme == "slack" and fields.get("type") == "url_verification":
            return Answer([], str(fields.get("challenge", "")))
        event = Emission(
            _subject_of(route, headers, fields),
            data,
            _id_of(route, headers, delivery, fields),
            route.source,
        )
        # Encoded once: what is looked at here is what is stored.
        event = msgspec.structs.replace(event, data=checked(event)[1])
    except BadPayload as error:
        raise HttpRefused(400, f"body: {error}") from None
    except (ValueError, TypeError, OverflowError, EventRefused) as error:
        raise HttpRefused(400, f"expected an event that can be stored, found {error}") from None
    return Answer([event])


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    text = headers.get(b"content-type", b"").decode("latin-1")
    kind, _, parameters = text.partition(";")
    if parameters:
        name, _, charset = parameters.strip().partition("=")
        if name.lower() == "charset" and charset.strip('" ').lower() not in {"utf-8", "us-ascii"}:
            raise HttpRefused(415, f"expected charset utf-8, found {charset!r:.40}")
    return kind.strip().lower()


def _data(
    route: Route, headers: Mapping[bytes, bytes], body: bytes
) -> tuple[Any, Mapping[str, Any]]:
    """Return the data, and what it says of itself if it is signed JSON."""
    if route.format == "bytes":
        return body, {}
    kind = _content_type(headers)
    if route.format == "text":
        return read_text(body), {}
    if kind == _FORM and route.scheme in {"github", "slack"}:
        data = _form(body)
    elif kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json")):
        data = read_json(body)
    else:
        raise HttpRefused(415, f"expected Content-Type application/json, found {kind!r:.80}")
    return data, data if isinstance(data, dict) else {}


def _form(body: bytes) -> Any:
    """Return the fields of a form: GitHub and Slack put JSON into one of them."""
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=1000, errors="strict"
        )
    except ValueError as error:
        raise BadPayload(f"expected a form, found another body ({error})") from None
    fields = dict(pairs)
    return read_json(fields["payload"].encode()) if "payload" in fields else fields


def _id_of(
    route: Route, headers: Mapping[bytes, bytes], delivery: Delivery, fields: Mapping[str, Any]
) -> str | None:
    if route.scheme is None:
        given = headers.get(route.id_header)
        return given.decode("latin-1") or None if given is not None else None
    own = fields.get(_ID_FIELDS.get(route.scheme, ""))
    return own if isinstance(own, str) and own else delivery.id


def _subject_of(route: Route, headers: Mapping[bytes, bytes], fields: Mapping[str, Any]) -> str:
    if KIND not in route.subject:
        return route.subject
    if route.scheme == "github":
        kind: object = headers.get(_KIND_HEADER, b"").decode("latin-1")
        where = "a header x-github-event"
    else:
        inner = fields.get("event")
        kind = (inner if isinstance(inner, dict) and route.scheme == "slack" else fields).get(
            "type"
        )
        where = "a field type"
    if not isinstance(kind, str) or not kind:
        raise HttpRefused(400, f"expected {where}, found none")
    return route.subject.replace(KIND, ".".join(token_of(part) for part in kind.split(".")))


# ---------------------------------------------------------------- CloudEvents


def _cloudevents(route: Route, headers: Mapping[bytes, bytes], body: bytes) -> list[Emission]:
    """Return the events of a request by the HTTP binding of CloudEvents 1.0."""
    kind = _content_type(headers)
    if kind == _CE_JSON:
        found = [_structured(read_json(body))]
    elif kind == _CE_BATCH:
        many = read_json(body)
        if not isinstance(many, list) or len(many) > BATCH_MAX:
            raise BadPayload(f"expected a list of at most {BATCH_MAX} CloudEvents, found another")
        found = [_structured(one) for one in many]
    elif b"ce-specversion" in headers:
        found = [_binary(headers, body)]
    else:
        raise HttpRefused(
            415,
            f"expected a CloudEvent: Content-Type {_CE_JSON} or {_CE_BATCH}, or headers ce-…; "
            f"found {kind!r:.80}",
        )
    made = [ce.emission_of(one) for one in found]
    if route.subject:
        made = [msgspec.structs.replace(e, subject=f"{route.subject}.{e.subject}") for e in made]
    return [msgspec.structs.replace(event, data=checked(event)[1]) for event in made]


def _structured(value: Any) -> ce.CloudEvent:
    try:
        return msgspec.convert(value, ce.CloudEvent)
    except msgspec.ValidationError as error:
        raise BadPayload(f"expected a CloudEvent in JSON, found {error}") from None


def _binary(headers: Mapping[bytes, bytes], body: bytes) -> ce.CloudEvent:
    attributes: dict[str, Any] = {}
    for name, value in headers.items():
        if name.startswith(b"ce-"):
            attribute = name[3:].decode("latin-1")
            if attribute in ce.KNOWN and not attribute.startswith("data"):
                attributes[attribute] = unquote(value.decode("latin-1"), errors="strict")
    if body:
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if ce.is_json(content_type):
            attributes["data"] = read_json(body)
        else:
            attributes["data"] = ce.content_of(body, content_type, "body")
    return _structured(attributes)
