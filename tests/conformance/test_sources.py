"""What every source keeps: each one that is shipped runs each of these tests."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from headrace.connectors.memory import Memory, Message, Topic
from headrace.testing.source_contract import SourceContract, SourceHarness

pytestmark = pytest.mark.slow


class MemoryHarness(SourceHarness):
    """A topic, whose messages have ids."""

    can_be_gone = False

    def __init__(self) -> None:
        self.topic = Topic()

    def source(self) -> Memory:
        return Memory(self.topic)

    async def publish(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.topic.publish(Message("a.b", {"number": number}, id=str(number)))

    async def republish(self, number: int) -> bool:
        await self.publish([number])
        return True

    async def disorder(self, numbers: Sequence[int]) -> bool:
        await self.publish(numbers[::-1])
        return True

    async def poison(self) -> bool:
        self.topic.publish(Message("a.*", b"\xff", id="poison"))
        return True


class TestMemory(SourceContract):
    @pytest.fixture
    def harness(self) -> SourceHarness:
        return MemoryHarness()
