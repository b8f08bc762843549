"""`Webhook` keeps what every source does; its publishers are those who send requests."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from tests.connectors.asking import ask

from headrace.connectors.http_in import Webhook
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow

ROUTES = {"/": {"subject": "a.b", "id_header": "X-Id"}}


class WebhookHarness(SourceHarness):
    """One who sends a request after the other, and sends again what was not taken."""

    in_flight_max = 1
    can_be_gone = False
    keeps = False

    def __init__(self) -> None:
        self.webhook = Webhook(ROUTES, rate=None)

    def source(self) -> Webhook:
        self.webhook = Webhook(ROUTES, rate=None)
        return self.webhook

    async def publish(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self._send(f"m{number}", b'{"number": %d}' % number)

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def disorder(self, numbers: Sequence[int]) -> bool:
        await self.publish(numbers[::-1])
        return True

    async def poison(self) -> bool:
        # Whoever sends it is told so, and is the one who keeps it.
        answer = await ask(self.webhook, "/", b'{"number": ', {"X-Id": "poison"})
        assert answer.status == 400
        return False

    async def _send(self, id: str, body: bytes) -> None:
        while (await ask(self.webhook, "/", body, {"X-Id": id})).status != 202:
            await anyio.sleep(0.01)


class TestWebhook(SourceContract):
    @pytest.fixture
    def harness(self) -> SourceHarness:
        return WebhookHarness()
