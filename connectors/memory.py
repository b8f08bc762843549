"""Messages in memory: a server without a network, for tests and for parts of one program.

A `Topic` keeps what is published until it is acknowledged, as a broker does; `Memory` is the
source that takes from it, and `MemorySink` publishes to one.
"""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Final, Self

import anyio
from msgspec import Struct

from headrace.connectors.intake import Intake
from headrace.connectors.promises import Promise
from headrace.engine.emission import Emission

BATCH_MAX: Final = 1000


class Message(Struct, frozen=True):
    """What is published: an event to be."""

    subject: str
    data: Any = None
    id: str | None = None
    """By which it is known if it is published or delivered again."""


class Topic:
    """Messages in the order of publishing, each kept until it is acknowledged."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._in_flight: list[Message] = []
        self._more = anyio.Event()

    def __len__(self) -> int:
        """Return how many messages are not acknowledged."""
        return len(self._waiting) + len(self._in_flight)

    def publish(self, message: Message) -> None:
        """Add a message."""
        self._waiting.append(message)
        self._more.set()

    async def take(self, most: int) -> list[Message]:
        """Return the next messages, at least one: they are in flight then."""
        while not self._waiting:
            self._more = anyio.Event()
            await self._more.wait()
        taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
        self._in_flight += taken
        return taken

    def acknowledge(self, messages: list[Message]) -> None:
        """Forget messages that are in flight."""
        done = {id(message) for message in messages}
        self._in_flight = [message for message in self._in_flight if id(message) not in done]

    def redeliver(self) -> None:
        """Let what is in flight wait again, before all others: its taker is gone."""
        self._waiting.extendleft(reversed(self._in_flight))
        self._in_flight.clear()


class Memory:
    """The source that takes the messages of a `Topic`.

    With an id, each message is in the log once; without one at least once.
    """

    promise: Promise = "at least once"

    def __init__(self, topic: Topic, *, name: str = "memory") -> None:
        """Take from *topic*; *name* is what the log knows the source by."""
        self.topic = topic
        self.name = name

    async def run(self, intake: Intake) -> None:
        """Hand on what is published, until cancelled."""
        intake.connected()
        try:
            while True:
                taken = await self.topic.take(BATCH_MAX)
                await intake.put([Emission(m.subject, m.data, m.id) for m in taken])
                self.topic.acknowledge(taken)
        finally:
            self.topic.redeliver()


class MemorySink:
    """The sink that publishes to a `Topic`, each message under its idempotency key."""

    message_type: Any = Message
    result_type: Any = None

    def __init__(self, topic: Topic, *, name: str = "memory") -> None:
        """Publish to *topic*; *name* is that of the task that sends."""
        self.topic = topic
        self.name = name

    async def __aenter__(self) -> Self:
        """Do nothing: there is no connection."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Do nothing."""

    def message_of(self, subject: str, data: Any) -> Message:
        """Return the message that forwards an event."""
        return Message(subject, data)

    async def send(self, message: Message, *, key: str) -> None:
        """Publish *message*."""
        self.topic.publish(Message(message.subject, message.data, message.id or key))
