"""`keep_up`: one session with a server after the other, for as long as a source is at work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio

from headrace.connectors.addresses import masked
from headrace.connectors.backoff import Backoff
from headrace.connectors.checks import kind_and_line
from headrace.connectors.intake import Intake
from headrace.connectors.protocol import ConnectorError
from headrace.engine.backend import is_cancelled_here


async def keep_up(
    intake: Intake, session: Callable[[], Awaitable[None]], gone: tuple[type[Exception], ...]
) -> None:
    """Call *session* until it returns; if it ends with one of *gone*, wait and call it again.

    A `ConnectorError` ends it as long as there was no connection.  Later it is one more way in
    which a server is gone: one that is being restarted may say strange things.
    """
    backoff, status = Backoff(), intake.status
    while True:
        began_s, connections = anyio.current_time(), status.connections
        try:
            return await session()
        except ConnectorError as error:
            if not status.connections:
                raise
            intake.lost(str(error))
        except asyncio.CancelledError as error:
            if is_cancelled_here():
                raise
            # A library awaited what it had cancelled itself.
            intake.lost(masked(kind_and_line(error)))
        except gone as error:
            intake.lost(masked(kind_and_line(error)))
        held = status.connections > connections
        backoff.reset(held_s=anyio.current_time() - began_s if held else 0)
        await backoff.wait()
