"""What ``headrace doctor`` looks at of sources and sinks: whether their servers answer.

A connector that has ``async def probe(self) -> str``, or a part of it that has, says itself what
it found.  Of another the addresses are taken that it keeps as ``…://host``, and are connected to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import anyio

from headrace.cli.findings import Finding, fail, ok
from headrace.connectors.addresses import masked
from headrace.connectors.checks import reason
from headrace.connectors.protocol import ConnectorError

if TYPE_CHECKING:
    from headrace.app import App

PROBE_S: Final = 10.0
MEND: Final = "start the server, or correct its address"
MEND_SETTINGS: Final = "correct its settings"
PORTS: Final = {
    "amqp": 5672,
    "http": 80,
    "https": 443,
    "kafka": 9092,
    "mqtt": 1883,
    "mqtts": 8883,
    "nats": 4222,
    "postgres": 5432,
    "postgresql": 5432,
    "redis": 6379,
    "rediss": 6379,
    "tls": 4222,
    "ws": 80,
    "wss": 443,
}
"""Where a scheme is served if an address does not say so."""


def links(app: App) -> Iterator[Finding]:
    """Look at the servers of all sources and sinks, at all of them at once."""
    connectors: dict[str, Any] = {f"source {one.name}": one for one in app.sources.values()}
    connectors |= {f"sink {name}": made.sink for name, made in app.sinks.items()}
    if not connectors:
        return
    found: dict[str, Finding] = {}
    anyio.run(partial(_look_at_all, connectors, found))
    yield from (found[name] for name in connectors)


async def _look_at_all(connectors: dict[str, Any], found: dict[str, Finding]) -> None:
    async with anyio.create_task_group() as group:
        for name, one in connectors.items():
            group.start_soon(_look_at, name, one, found)


async def _look_at(name: str, connector: Any, found: dict[str, Finding]) -> None:
    parts = [connector, *_kept_in(connector)]
    probe = next((one.probe for one in parts if hasattr(one, "probe")), None)
    try:
        with anyio.fail_after(PROBE_S):
            said = await (_reached(connector) if probe is None else probe())
    except TimeoutError:
        text = f"expected an answer within {PROBE_S:g} s, found none"
        found[name] = fail(name, text, MEND, is_connection=True)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what was found)
        text = masked(" ".join(str(error).split("\n"))) or type(error).__name__
        mend = MEND_SETTINGS if isinstance(error, ConnectorError | ValueError) else MEND
        mend = "" if "; " in text else mend
        found[name] = fail(name, text, mend, is_connection=True)
    else:
        found[name] = ok(name, masked(said))


async def _reached(connector: Any) -> str:
    """Connect to each address; return what was found."""
    places = dict.fromkeys(_places(connector))
    if not places:
        return "it keeps no address that could be connected to"
    for host, port in places:
        try:
            stream = await anyio.connect_tcp(host, port)
        except OSError as error:
            raise OSError(f"{host}:{port}: {reason(error)}") from error
        await stream.aclose()
    return f"{', '.join(f'{host}:{port}' for host, port in places)} can be connected to"


def _places(connector: Any) -> Iterator[tuple[str, int]]:
    for text in _texts(connector):
        if "://" not in text:
            continue
        try:
            parts = urlsplit(text)
            port = parts.port or PORTS.get(parts.scheme)
        except ValueError:
            continue
        if parts.hostname and port:
            yield parts.hostname, port


def _texts(connector: Any) -> Iterator[str]:
    """Yield what it keeps as text, also in a part of it that keeps its address."""
    kept = list(_each(_kept_in(connector)))
    for value in kept:
        of_it = () if callable(value) else _kept_in(value)
        yield from (text for text in (value, *_each(of_it)) if isinstance(text, str))


def _each(values: Iterable[Any]) -> Iterator[Any]:
    """Yield *values*, and of lists what is in them."""
    for value in values:
        yield from value if isinstance(value, (list, tuple)) else (value,)


def _kept_in(thing: Any) -> list[Any]:
    """Return what *thing* keeps in its attributes; it may have slots, and no dict."""
    if hasattr(thing, "__dict__"):
        return list(vars(thing).values())
    names: Any = getattr(thing, "__struct_fields__", None) or getattr(thing, "__slots__", ())
    names = (names,) if isinstance(names, str) else names
    return [getattr(thing, name, None) for name in names]
