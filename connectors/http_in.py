"""`Webhook`: events by HTTP, signed or not, as JSON or as CloudEvents.

It is an ASGI application that a host mounts (`Webhook.asgi`), or is served by uvicorn of its own
(``listen=``).  A request is answered with 202 once its events are durable, and never before; what
is made of a request is in `headrace.connectors.http_routes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, Final

import anyio
import msgspec
from anyio import CancelScope
from msgspec.structs import replace

from headrace.connectors.checks import check_flag
from headrace.connectors.http_limits import Buckets, HttpRefused, Limits, check_limits
from headrace.connectors.http_routes import Route, events_of, route_of
from headrace.connectors.http_server import Serving, serve
from headrace.connectors.intake import Intake
from headrace.connectors.metrics import CONTENT_TYPE, has_prometheus, metrics_of
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError
from headrace.engine.clock import NS, Clock, SystemClock
from headrace.engine.emission import Emission

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

BODY_BYTES_MAX: Final = 1024 * 1024
HEADER_BYTES_MAX: Final = 16 * 1024
HEADERS_MAX: Final = 100
INFLATED_BYTES_MAX: Final = 8 * 1024 * 1024
INFLATED_TIMES_MAX: Final = 10.0
HEADER_DEADLINE_S: Final = 5.0
BODY_DEADLINE_S: Final = 30.0
STORE_DEADLINE_S: Final = 10.0
CONNECTIONS_MAX: Final = 256
RATE: Final = 1000.0
SOURCES_MAX: Final = 10_000
"""How many sources CloudEvents may name: the log keeps each name for ever."""
DRAIN_S: Final = 1.0
"""How long a sender that is refused may go on sending, so that it reads why."""


class _Gone(Exception):
    """Who sent the request has closed the connection."""


class _Door:
    """What is at hand while an engine is open."""

    def __init__(self, intake: Intake, requests_max: int) -> None:
        self.intake = intake
        self.requests_max = requests_max
        self.sources = set(intake.engine.kernel.state.sources)
        self.is_open = True
        self._scopes: set[CancelScope] = set()

    @contextmanager
    def request(self, deadline_s: float) -> Generator[CancelScope]:
        """Count a request, which ends when the door closes."""
        if len(self._scopes) >= self.requests_max:
            raise HttpRefused(503, "expected less to do, found too many requests", retry_after_s=1)
        with anyio.move_on_after(deadline_s) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def close(self) -> None:
        """Let nothing in, and nothing wait."""
        self.is_open = False
        for scope in self._scopes:
            scope.cancel()

    def know(self, events: list[Emission]) -> None:
        """Refuse sources that are one too many."""
        for event in events:
            if event.source and event.source not in self.sources:
                if len(self.sources) >= SOURCES_MAX:
                    raise HttpRefused(
                        400, f"expected a source of the {SOURCES_MAX} that are known, found another"
                    )
                self.sources.add(event.source)


class Webhook:
    """Takes requests for as long as an engine is open; before and afterwards they get 503.

    *routes* says what is taken where: a path, and the subject of its events, or a table with
    ``subject``, ``scheme`` and ``secrets`` (see `headrace.connectors.webhook`), ``format`` and
    ``id_header``.

    At least once: a sender that got no 202 sends again, and its request may have been stored.  If
    it gives an id, and senders of webhooks do, that is the id of the event: then it is stored
    once, for as long as the log knows ids (its dedupe window, a day unless it is told otherwise).
    """

    promise: Promise = "at least once"

    def __init__(
        self,
        routes: Mapping[str, str | Mapping[str, Any]],
        *,
        listen: str | None = None,
        name: str = "webhook",
        body_bytes_max: int = BODY_BYTES_MAX,
        header_bytes_max: int = HEADER_BYTES_MAX,
        headers_max: int = HEADERS_MAX,
        inflated_bytes_max: int = INFLATED_BYTES_MAX,
        inflated_times_max: float = INFLATED_TIMES_MAX,
        header_deadline_s: float = HEADER_DEADLINE_S,
        body_deadline_s: float = BODY_DEADLINE_S,
        store_deadline_s: float = STORE_DEADLINE_S,
        connections_max: int = CONNECTIONS_MAX,
        rate: float | None = RATE,
        metrics: bool | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Check the settings; nothing listens yet.

        *listen*: ``host:port``; without it the host's server does, and keeps the deadline for
        headers and the number of connections.  *rate*: requests a second from one address,
        twice as many at once; ``None``: any.  *metrics*: whether there is ``/metrics``; by
        default if prometheus-client is installed.

        Raises:
            ValueError, TypeError: they cannot work.
        """
        self.name = name
        self._routes = _routes(name, routes)
        self.listen = None if listen is None else listening(name, listen)
        self.limits = Limits(
            body_bytes_max, header_bytes_max, headers_max, inflated_bytes_max, inflated_times_max,
            header_deadline_s, body_deadline_s, store_deadline_s, connections_max, rate,
        )  # fmt: skip
        check_limits(self.limits, name)
        self._clock: Clock = clock or SystemClock()
        self._buckets = None if rate is None else Buckets(rate, 2 * rate, self._clock)
        if metrics is not None:
            check_flag(name, "metrics", metrics)
        if metrics and not has_prometheus():
            metrics_of(name, None)  # says what is missing
        self._has_metrics = has_prometheus() if metrics is None else metrics
        self._door: _Door | None = None

        async def asgi(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        # A function: of a method uvicorn would believe that it is of the second version.
        self.asgi = asgi
        """An ASGI application, to be mounted anywhere."""
        self.address: tuple[str, int] | None = None
        """Where it listens while it does: of port 0 the one that it got."""

    def __repr__(self) -> str:
        return f"Webhook({list(self._routes)}, name={self.name!r})"

    # ------------------------------------------------------------ the source

    async def run(self, intake: Intake) -> None:
        """Take requests until cancelled."""
        if self._door is not None:
            raise ConnectorError(
                f"{self.name}: expected one engine at a time, found another one that is open; "
                "make a Webhook for each"
            )
        self._door = door = _Door(intake, self.limits.connections_max)
        try:
            if self.listen is None:
                intake.connected(routes=list(self._routes))
                await anyio.sleep_forever()
            else:
                serving = Serving(
                    self.name,
                    self.asgi,
                    self.limits.header_bytes_max,
                    self.limits.header_deadline_s,
                    self.limits.connections_max,
                )
                await serve(serving, self.listen, self._connected(intake), door.close)
        finally:
            door.close()
            self._door = self.address = None

    def _connected(self, intake: Intake) -> Callable[[str, int], None]:
        def connected(host: str, port: int) -> None:
            self.address = (host, port)
            intake.connected(routes=list(self._routes), address=f"{host}:{port}")
            if not ip_address(host).is_loopback:
                for route in self._routes.values():
                    if route.scheme is None:
                        intake.logger.warning("route_is_not_signed", path=route.path)

        return connected

    # ------------------------------------------------------------ the application

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        body = _Body(receive, self.limits.body_bytes_max)
        try:
            if (own := self._own(path, scope["method"])) is not None:
                await _respond(send, *own, is_head=scope["method"] == "HEAD")
                return
            text = await self._take(path, scope, body)
        except _Gone:
            return
        except HttpRefused as refused:
            await self._refuse(refused, scope, body, send)
            return
        await _respond(send, *text)

    def _own(self, path: str, method: str) -> tuple[int, bytes, bytes] | None:
        """Return what the paths answer that are there for those who watch."""
        is_metrics = path == "/metrics" and self._has_metrics
        if path not in {"/healthz", "/readyz"} and not is_metrics:
            return None
        if method not in {"GET", "HEAD"}:
            raise HttpRefused(405, f"expected GET, found {method}")
        door = self._door
        if is_metrics:
            engine = None if door is None else door.intake.engine
            return 200, metrics_of(self.name, engine), CONTENT_TYPE.encode()
        is_ready = door is not None and door.intake.engine.opened().pipeline.failure is None
        if path == "/readyz" and not is_ready:
            return 503, b"not ready\n", b"text/plain"
        return 200, b"ok\n", b"text/plain"

    async def _take(self, path: str, scope: Scope, body: _Body) -> tuple[int, bytes, bytes]:
        headers = self._headers(scope)
        body.expects_more = b"expect" not in headers
        route = self._routes.get(path)
        if route is None:
            raise HttpRefused(404, "expected the path of a route, found another one")
        if scope["method"] != "POST":
            raise HttpRefused(405, f"expected POST, found {scope['method']}")
        if self._buckets is not None:
            client = scope.get("client")
            self._buckets.take(client[0] if client else "")
        door = self._door
        if door is None:
            raise HttpRefused(503, "expected an engine that is open, found none", retry_after_s=5)
        with door.request(self.limits.body_deadline_s) as deadline:
            raw = await body.read(headers.get(b"content-length"))
            now_s = self._clock.wall_ns() / NS
            answer = events_of(route, headers, raw, now_s, self.limits)
            if answer.text is not None:
                return 200, answer.text.encode(), b"text/plain"
            door.know(answer.events)
            trace = door.intake.trace_of(lambda name: headers.get(name.encode()))
            if self.listen is None:  # the host's server may have a span for the request
                trace = door.intake.trace_here() or trace
            events = [_traced(event, trace, door.intake) for event in answer.events]
            deadline.deadline = anyio.current_time() + self.limits.store_deadline_s
            sequences = await door.intake.put(events)
            told: object = {"sequence": sequences[0]} if len(sequences) == 1 else {
                "sequences": sequences
            }  # fmt: skip
            return 202, msgspec.json.encode(told), b"application/json"
        if not door.is_open:
            raise HttpRefused(503, "expected an engine that is open, found it end", retry_after_s=5)
        if not body.is_read:
            raise HttpRefused(
                408,
                f"expected the whole body within {self.limits.body_deadline_s:g} s, found it late",
            )
        raise HttpRefused(
            503,
            f"expected room in the log within {self.limits.store_deadline_s:g} s, found none; it "
            "may be stored yet: send it again",
            retry_after_s=5,
        )

    def _headers(self, scope: Scope) -> dict[bytes, bytes]:
        """Return the headers by name; those of one name as the standard joins them."""
        given: list[tuple[bytes, bytes]] = scope["headers"]
        headers: dict[bytes, bytes] = {}
        size_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string") or b"")
        for raw_name, value in given:
            size_bytes += len(raw_name) + len(value) + 4
            name = raw_name.lower()
            headers[name] = headers[name] + b", " + value if name in headers else value
        limits = self.limits
        if len(given) > limits.headers_max or size_bytes > limits.header_bytes_max:
            raise HttpRefused(
                431,
                f"expected at most {limits.headers_max} headers of {limits.header_bytes_max} "
                f"bytes, found {len(given)} of {size_bytes}",
            )
        return headers

    async def _refuse(self, refused: HttpRefused, scope: Scope, body: _Body, send: Send) -> None:
        """Say why; then let go of the connection, if there is more to come on it."""
        door, status = self._door, refused.status
        if door is not None and status in {400, 401, 413, 415}:
            door.intake.status.refused += 1
        headers = [(b"allow", b"POST")] if status == 405 else []
        if refused.retry_after_s is not None:
            headers.append((b"retry-after", str(refused.retry_after_s).encode()))
        text = msgspec.json.encode({"error": str(refused)})
        if body.is_read:
            await _respond(send, status, text, b"application/json", headers=headers)
            return
        headers.append((b"connection", b"close"))
        await _respond(send, status, text, b"application/json", headers=headers, is_last=False)
        await body.drain()
        await send({"type": "http.response.body", "body": b""})


def _traced(event: Emission, trace: dict[str, str] | None, intake: Intake) -> Emission:
    """Return *event* with the context that it has as a CloudEvent, or else with *trace*."""
    if event.headers is None:
        return event if trace is None else replace(event, headers=trace)
    return replace(event, headers=intake.trace_of(event.headers.get) or trace)


class _Body:
    """The body of one request, up to a bound."""

    def __init__(self, receive: Receive, bytes_max: int) -> None:
        self._receive = receive
        self._bytes_max = bytes_max
        self.is_read = False
        self.expects_more = True
        """Whether the sender goes on without being asked to."""

    async def read(self, length: bytes | None) -> bytes:
        """Return it whole; *length* is what its header says."""
        if length is not None and (not length.isdigit() or int(length[:20]) > self._bytes_max):
            raise self._too_large()
        message = await self._next()
        whole: bytes = message.get("body", b"")
        if message.get("more_body", False):
            parts, size = [whole], len(whole)
            while not self.is_read and size <= self._bytes_max:
                message = await self._next()
                parts.append(message.get("body", b""))
                size += len(parts[-1])
            whole = b"".join(parts)
        if len(whole) > self._bytes_max:
            raise self._too_large()
        return whole

    async def _next(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        self.is_read = not message.get("more_body", False)
        return message

    def _too_large(self) -> HttpRefused:
        return HttpRefused(413, f"expected a body of at most {self._bytes_max} bytes, found more")

    async def drain(self) -> None:
        """Take what is under way, and throw it away."""
        left = 2 * self._bytes_max
        with anyio.move_on_after(DRAIN_S):
            try:
                while self.expects_more and not self.is_read and left > 0:
                    left -= len((await self._next()).get("body", b""))
            except _Gone:
                return


async def _respond(
    send: Send,
    status: int,
    body: bytes,
    content_type: bytes,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    is_last: bool = True,
    is_head: bool = False,
) -> None:
    fixed = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    start = {"type": "http.response.start", "status": status, "headers": fixed + (headers or [])}
    await send(start)
    await send(
        {"type": "http.response.body", "body": b"" if is_head else body, "more_body": not is_last}
    )


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _routes(name: str, routes: Mapping[str, Any]) -> dict[str, Route]:
    if not isinstance(routes, Mapping):
        raise TypeError(
            f"{name}, routes: expected a table of paths and subjects such as "
            f"{{'/github': 'github.event'}}, found {type(routes).__name__}"
        )
    return {path: route_of(name, path, given) for path, given in routes.items()}


def listening(name: str, listen: str) -> tuple[str, int]:
    """Return host and port of *listen*.

    Raises:
        ValueError: it has none.
    """
    host, _, port = str(listen).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(
            f"{name}, listen: expected host:port as in '127.0.0.1:8080', found {ascii(listen)[:80]}"
        )
    return host, int(port)
