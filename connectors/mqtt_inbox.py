"""`Inbox`: the messages that a source has and has not acknowledged; stores them batch by batch.

While a batch is being stored the next one comes, up to a bound: so one fsync is for many.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from typing import Any, Final, Literal

import anyio
from msgspec import Struct

from headrace.connectors.intake import Intake
from headrace.connectors.mqtt_events import Translator
from headrace.connectors.mqtt_link import FAILURE, Link
from headrace.connectors.mqtt_server import LinkLost, LinkRefused

HELD_BYTES_MAX: Final = 16 * 1024 * 1024
"""How many bytes wait to be stored before no more is read."""
BATCHES: Final = 4
"""Into how many batches what may be in flight is divided, at least."""

Retained = Literal["take", "skip"]


class Wanted(Struct, frozen=True):
    """What a source asks the server for, and what it does with it."""

    topics: list[str]
    qos: int
    retained: Retained
    client_id: str
    session_expiry_s: int
    in_flight_max: int
    translator: Translator


class Inbox:
    """The `Owner` of the connections of a source, one after the other."""

    def __init__(self, wanted: Wanted, intake: Intake) -> None:
        """Nothing has come yet."""
        self.intake = intake
        self.is_stopping = False
        """Set when what is being stored is the last."""
        self.storing = 0
        """How many messages are being stored."""
        self._wanted = wanted
        self._messages: deque[Any] = deque()
        self._held_bytes = 0
        self._more = anyio.Event()
        self._link: Link | None = None
        self._unreleased: dict[int, bytes] = {}
        """Messages of QoS 2 that are stored and that the server may send again, by number."""

    def begin(self, link: Link) -> None:
        """Begin with a new connection; what came over the last one is stored."""
        self._link = link
        if not link.session_present:
            if self.intake.status.connections and self._wanted.session_expiry_s:
                self.intake.logger.warning(
                    "session_lost", hint="the server has forgotten what it had kept for this source"
                )
            self._unreleased.clear()

    def stop(self) -> bool:
        """Store no more; say whether there is a server to tell of what is stored."""
        self.is_stopping = True
        self._more.set()
        return self._link is not None and self._link.error is None

    async def work(self, link: Link) -> None:
        """Store what comes, and acknowledge it then.

        Raises:
            LinkLost: the connection is; what had come over it is stored.
        """
        while not self.is_stopping:
            if not self._messages:
                if link.error is not None:
                    raise link.error
                self._more = anyio.Event()
                await self._more.wait()
                continue
            # A part of what may be in flight: the server sends more while this is being stored.
            most = min(len(self._messages), max(1, self._wanted.in_flight_max // BATCHES))
            batch = [self._messages.popleft() for _ in range(most)]
            await self._store(batch, link)

    async def _store(self, batch: list[Any], link: Link) -> None:
        translate, intake = self._wanted.translator.event_of, self.intake
        events = [translate(m, intake) for m in batch if not self._is_left_out(m, link)]
        self.storing = len(batch)
        try:
            if events:
                await intake.put(events)
        finally:
            self.storing = 0
            self._held_bytes -= sum(len(message.payload) for message in batch)
        for message in batch:
            if message.qos == 2:
                self._unreleased[message.mid] = _digest(message)
            link.acknowledge(message.mid, message.qos)
        link.go_on()

    def _is_left_out(self, message: Any, link: Link) -> bool:
        """Say whether *message* is not to be stored: it is already, or is not wanted."""
        if message.retain and self._wanted.retained == "skip":
            return True
        # The same number, and the server says that it has sent it before: so it has.  That what
        # it says is the same as well is for servers that crash and forget what they have sent.
        return bool(
            message.qos == 2
            and message.dup
            and link.session_present
            and self._unreleased.get(message.mid) == _digest(message)
        )

    # ------------------------------------------------------------ see `Owner`

    def is_full(self) -> bool:
        """See `Owner`."""
        return (
            len(self._messages) + self.storing >= self._wanted.in_flight_max
            or self._held_bytes >= HELD_BYTES_MAX
        )

    def received(self, message: Any) -> None:
        """See `Owner`."""
        self._messages.append(message)
        self._held_bytes += len(message.payload)
        self._more.set()

    def released(self, mid: int) -> None:
        """See `Owner`."""
        self._unreleased.pop(mid, None)

    def subscribed(self, codes: list[int]) -> None:
        """See `Owner`."""
        link, wanted = self._link, self._wanted.qos
        assert link is not None, "it has subscribed"
        for topic, code in zip(self._wanted.topics, codes, strict=False):
            if code >= FAILURE:
                link.fail(
                    LinkRefused(
                        f"{link.server.at()}: the server refuses the subscription to {topic!r} "
                        f"(code {code:#x}); may this user read that topic?"
                    )
                )
                return
            if wanted and not code:
                link.fail(
                    LinkRefused(
                        f"{link.server.at()}: expected QoS {wanted} for {topic!r}, found that the "
                        f"server gives QoS 0; with qos=0 that is what is promised, too"
                    )
                )
                return
        self.intake.connected(
            server=link.server.shown,
            session="continued" if link.session_present else "new",
            client_id=self._wanted.client_id,
        )

    def published(self, mid: int, code: int, reason: str) -> None:
        """A source publishes nothing."""

    def ended(self, error: LinkLost) -> None:
        """See `Owner`."""
        self._more.set()


def _digest(message: Any) -> bytes:
    topic = message._topic  # the bytes: those of a topic that is no UTF-8 as well
    return blake2b(b"%d:%b%b" % (len(topic), topic, message.payload), digest_size=16).digest()
