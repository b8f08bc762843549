"""What every sink keeps: each one that is shipped runs each of these tests."""

from __future__ import annotations

import pytest

from headrace.connectors.memory import MemorySink, Message, Topic
from headrace.testing.sink_contract import SinkContract, SinkHarness


class MemoryHarness(SinkHarness):
    """A topic."""

    can_be_gone = False

    def __init__(self) -> None:
        self.topic = Topic()

    def sink(self) -> MemorySink:
        return MemorySink(self.topic)

    def message(self, number: int) -> Message:
        return Message("a.b", number)

    async def taken(self) -> list[int]:
        return [message.data for message in self.topic._waiting]

    async def keys(self) -> list[str]:
        return [message.id or "" for message in self.topic._waiting]


class TestMemorySink(SinkContract):
    @pytest.fixture
    def harness(self) -> SinkHarness:
        return MemoryHarness()
