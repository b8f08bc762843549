"""`Feeder`: a source at work beside an engine."""

from __future__ import annotations

import asyncio

import anyio

from headrace.connectors.intake import Intake, Receiving, SourceStatus
from headrace.connectors.protocol import ConnectorError, Source
from headrace.engine.backend import is_cancelled_here
from headrace.engine.engine import Engine


class Feeder:
    """A `Companion` of the engine: it keeps the status of its source."""

    def __init__(self, source: Source, telemetry: Receiving | None = None) -> None:
        """Take the source, and what makes spans; nothing is connected yet."""
        self.source = source
        self._telemetry = telemetry
        self.status = status_of(source)
        """How the source does, since the engine was opened."""
        self.ended = anyio.Event()
        """Set once the source has said by itself that there is no more."""

    @property
    def name(self) -> str:
        """What diagnostics call it."""
        return f"source {self.source.name}"

    async def run(self, engine: Engine) -> None:
        """Let the source bring events in until it has no more, or until cancelled."""
        status = self.status
        intake = Intake(engine, status, self._telemetry, self.source)
        try:
            await self._run(intake)
        except ConnectorError as error:
            status.state, status.error = "failed", str(error)
            raise
        status.state = "ended"
        self.ended.set()
        intake.logger.info("source_ended", stored=status.stored)

    async def _run(self, intake: Intake) -> None:
        try:
            await self.source.run(intake)
        except asyncio.CancelledError as error:
            if is_cancelled_here():
                raise
            # It would end the sources beside it as well, and nobody would hear of it.
            raise ConnectorError(
                f"{self.name}: expected to go on until it is cancelled, found that it awaited "
                f"what somebody else had cancelled; mend {type(self.source).__name__}"
            ) from error


def status_of(source: Source) -> SourceStatus:
    """Return the status of a source that has not begun."""
    return SourceStatus(source.name, type(source).__name__, source.promise)
