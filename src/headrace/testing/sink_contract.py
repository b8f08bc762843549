"""`SinkContract`: what each sink keeps, as tests that a connector of your own passes too.

Derive a class ``Test…`` from it, with a fixture ``harness`` that returns a `SinkHarness`: the
server that the sink sends to, and what it has taken.  See docs/connectors/write-your-own.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Final

import anyio
import msgspec

from headrace.app import App
from headrace.connecting import sink_retry
from headrace.connectors.protocol import Sink, SinkRefused, SinkUnavailable
from headrace.engine.errors import HeadraceError
from headrace.engine.event import Firing
from headrace.engine.log import MemoryLog
from headrace.engine.run import Run
from headrace.testing.lives import skip, until
from headrace.triggers.pattern import on

SENT_S: Final = 20.0
"""Seconds within which a message is sent, or it is said that it is not."""
BACK_S: Final = 5.0
"""Seconds within which a server that is back takes messages again."""
END_S: Final = 5.0
"""Seconds within which a sink that is cancelled or closed has let go."""


class SinkHarness(ABC):
    """A server that a sink sends to.

    It is started already when a test gets it, and whoever made it stops it.
    """

    dedupes: bool = False
    """Whether a message that comes again under its key is taken once."""
    can_be_gone: bool = True
    """Whether `kill` and `start` work."""
    gone_s: float = 0.0
    """Seconds for which a server that is gone stays away."""

    @abstractmethod
    def sink(self) -> Sink[Any, Any]:
        """Return the sink, anew."""

    @abstractmethod
    def message(self, number: int) -> Any:
        """Return a message with that number in it."""

    @abstractmethod
    async def taken(self) -> list[int]:
        """Return the numbers of the messages that the server has taken, in their order."""

    async def keys(self) -> list[str] | None:
        """Return the idempotency keys of what came, tries included; ``None``: none is sent."""
        return None

    def refused(self) -> Any:
        """Return a message that the server does not take; ``None``: it takes all."""
        return None

    async def kill(self) -> None:
        """End the server as ``kill -9`` does."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it again, at the same address."""
        raise NotImplementedError


class SinkContract:
    """What each sink keeps; each test says it in a sentence."""

    def __init_subclass__(cls) -> None:
        """Let anyio's plugin run the tests, also where it is told to run marked ones only."""
        import pytest

        own = cls.__dict__.get("pytestmark", [])
        marks = own if isinstance(own, list) else [own]
        cls.pytestmark = [pytest.mark.anyio, *marks]  # type: ignore[attr-defined]

    async def test_sends_what_it_is_given(self, harness: SinkHarness) -> None:
        """When `send` returns, the server has taken the message."""
        async with harness.sink() as sink:
            for number in range(5):
                with anyio.fail_after(SENT_S):
                    await sink.send(harness.message(number), key=f"k{number}")
            assert await harness.taken() == list(range(5))

    async def test_same_message_under_the_same_key(self, harness: SinkHarness) -> None:
        """A server that knows keys takes it once; another can tell that it is the same."""
        async with harness.sink() as sink:
            for _ in range(2):
                await sink.send(harness.message(1), key="one")
            await sink.send(harness.message(2), key="two")
        assert await harness.taken() == ([1, 2] if harness.dedupes else [1, 1, 2])

    async def test_each_attempt_has_the_key_of_the_run(self, harness: SinkHarness) -> None:
        """While the server is gone a run tries again; afterwards the message is there."""
        app = App("contract")
        sent = app.sink(
            harness.sink(), retry=sink_retry(wait_first=0.05, wait_max=0.2, attempts=999)
        )
        message_type = sent.sink.message_type

        @app.rule(on("go", message_type))
        async def go(run: Run, firing: Firing[Any]) -> None:
            await run.call(sent.send, firing.events[-1].data)

        async with app.open(MemoryLog()) as engine:
            if harness.can_be_gone:
                await harness.kill()
            await engine.emit("go", harness.message(7))
            if harness.can_be_gone:
                await until(lambda: engine.state().retries > 0, "another try", within_s=SENT_S)
                await anyio.sleep(harness.gone_s)
                await harness.start()
            with anyio.fail_after(SENT_S):
                await engine.drain()
            assert engine.runs("dead") == []
        assert set(await harness.taken()) == {7}
        keys = await harness.keys()
        assert keys is None or len(set(keys)) == 1, keys

    async def test_server_that_is_gone(self, harness: SinkHarness) -> None:
        """It is said as what it is: something to try again, and then it works."""
        if not harness.can_be_gone:
            skip("there is no server")
        async with harness.sink() as sink:
            await sink.send(harness.message(0), key="k0")
            await harness.kill()
            await self._fails(sink, harness.message(1), "k1", SinkUnavailable)
            await harness.start()
            with anyio.fail_after(BACK_S):
                await self._until_sent(sink, harness.message(1), "k1")
        assert 1 in await harness.taken()

    async def test_message_that_is_refused(self, harness: SinkHarness) -> None:
        """It is said at once that it will not be taken, and the next one is."""
        message = harness.refused()
        if message is None:
            skip("the server takes all messages")
        async with harness.sink() as sink:
            await self._fails(sink, message, "bad", SinkRefused)
            await sink.send(harness.message(1), key="k1")
        assert await harness.taken() == [1]

    async def test_cancellation(self, harness: SinkHarness) -> None:
        """At any moment it lets go at once, and goes on with the next message."""
        async with harness.sink() as sink:
            for turn in range(6):
                with anyio.fail_after(END_S), anyio.move_on_after(turn * 0.002):
                    await sink.send(harness.message(turn), key=f"k{turn}")
            with anyio.fail_after(SENT_S):
                await self._until_sent(sink, harness.message(99), "k99")
        assert (await harness.taken())[-1] == 99

    async def test_close(self, harness: SinkHarness) -> None:
        """It closes at once, also if it has sent nothing, or if its server is gone."""
        with anyio.fail_after(END_S):
            async with harness.sink():
                pass
        if not harness.can_be_gone:
            return
        sink = harness.sink()
        async with sink:
            await sink.send(harness.message(0), key="k0")
            await harness.kill()
            closed_at = anyio.current_time()
        assert anyio.current_time() - closed_at < END_S
        await harness.start()

    async def test_messages_can_be_stored(self, harness: SinkHarness) -> None:
        """A message is an argument of a step: it goes into the log and comes out again."""
        sink, message = harness.sink(), harness.message(1)
        stored = msgspec.msgpack.encode(message)
        assert msgspec.msgpack.decode(stored, type=sink.message_type) == message

    async def test_an_event_is_forwarded(self, harness: SinkHarness) -> None:
        """Or it is said with ``ValueError`` that there is no message of it."""
        sink = harness.sink()
        with suppress(ValueError):
            made = sink.message_of("alert.t1", {"number": 1})
            stored = msgspec.msgpack.encode(made)
            assert msgspec.msgpack.decode(stored, type=sink.message_type) == made

    async def _fails(
        self, sink: Sink[Any, Any], message: Any, key: str, how: type[HeadraceError]
    ) -> None:
        said = ""
        try:
            with anyio.fail_after(SENT_S):
                await sink.send(message, key=key)
        except how as error:
            said = str(error)
        assert said, f"expected {how.__name__}, found a message that was sent"
        assert "\n" not in said

    async def _until_sent(self, sink: Sink[Any, Any], message: Any, key: str) -> None:
        while True:
            try:
                await sink.send(message, key=key)
            except SinkUnavailable:
                await anyio.sleep(0.1)
            else:
                return
