"""The tests of sources and sinks find faults: each of these connectors has one."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import count
from typing import Any

import anyio
import pytest
from tests.conformance import test_sinks, test_sources

from headrace.connectors.intake import Intake
from headrace.connectors.memory import BATCH_MAX, Memory, MemorySink, Message
from headrace.engine.emission import Emission
from headrace.testing import lives, sink_contract, source_contract
from headrace.testing.sink_contract import SinkContract
from headrace.testing.source_contract import SourceContract

pytestmark = pytest.mark.slow

FOUND = (AssertionError, TimeoutError, ExceptionGroup, pytest.fail.Exception)


def emissions(taken: Sequence[Message]) -> list[Emission]:
    return [Emission(m.subject, m.data, m.id) for m in taken]


class AcknowledgesEarly(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        while True:
            taken = await self.topic.take(BATCH_MAX)
            self.topic.acknowledge(taken)
            await intake.put(emissions(taken))


class AcknowledgesWhenCancelled(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        while True:
            taken = await self.topic.take(BATCH_MAX)
            try:
                await intake.put(emissions(taken))
            finally:
                self.topic.acknowledge(taken)


class ForgetsIdentity(Memory):
    promise = "exactly once"

    async def run(self, intake: Intake) -> None:
        intake.connected()
        try:
            while True:
                taken = await self.topic.take(BATCH_MAX)
                await intake.put([Emission(m.subject, m.data) for m in taken])
                self.topic.acknowledge(taken)
        finally:
            self.topic.redeliver()


class TakesIdsForPlaces(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        highest = -1
        while True:
            taken = await self.topic.take(BATCH_MAX)
            for message in taken:
                if int(message.id or 0) > highest:
                    highest = int(message.id or 0)
                    await intake.put(emissions([message]))
            self.topic.acknowledge(taken)


class DropsWhatIsNoEvent(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        while True:
            taken = await self.topic.take(BATCH_MAX)
            await intake.put([one for one in emissions(taken) if "*" not in one.subject])
            self.topic.acknowledge(taken)


class StopsAtWhatIsNoEvent(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        while True:
            taken = await self.topic.take(BATCH_MAX)
            assert not any("*" in one.subject for one in taken)
            await intake.put(emissions(taken))
            self.topic.acknowledge(taken)


class TakesWithoutEnd(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        async with anyio.create_task_group() as group:
            while True:
                taken = await self.topic.take(BATCH_MAX)
                group.start_soon(intake.put, emissions(taken))


class TurnsThemRound(Memory):
    async def run(self, intake: Intake) -> None:
        intake.connected()
        while True:
            taken = await self.topic.take(BATCH_MAX)
            await intake.put(emissions(taken)[::-1])
            self.topic.acknowledge(taken)


class LeavesThreads(Memory):
    async def run(self, intake: Intake) -> None:
        ended = threading.Event()
        self.topic.__dict__.setdefault("left", []).append(ended)
        threading.Thread(target=ended.wait, daemon=True).start()
        await super().run(intake)


class LetsGoLate(Memory):
    async def run(self, intake: Intake) -> None:
        try:
            await super().run(intake)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(source_contract.END_S + 0.2)


SOURCES = [
    (AcknowledgesEarly, "test_crash_before_the_engine_has_stored"),
    (AcknowledgesWhenCancelled, "test_crash_before_the_engine_has_stored"),
    (ForgetsIdentity, "test_crash_between_the_store_and_the_acknowledgement"),
    (ForgetsIdentity, "test_message_that_is_published_again"),
    (TakesIdsForPlaces, "test_messages_out_of_their_order"),
    (DropsWhatIsNoEvent, "test_poison_message"),
    (StopsAtWhatIsNoEvent, "test_poison_message"),
    (TakesWithoutEnd, "test_slow_engine"),
    (TurnsThemRound, "test_what_the_server_has_acknowledged_comes_in"),
    pytest.param(LeavesThreads, "test_cancellation", marks=pytest.mark.slow),
    pytest.param(LetsGoLate, "test_cancellation", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("faulty", "finder"), SOURCES)
async def test_fault_of_a_source_is_found(
    faulty: type[Memory], finder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A suite that passes everything would say nothing."""
    monkeypatch.setattr(source_contract, "SETTLED_S", 0.3)
    monkeypatch.setattr(source_contract, "END_S", 0.3)

    class Harness(test_sources.MemoryHarness):
        def source(self) -> Memory:
            return faulty(self.topic)

    harness = Harness()
    with pytest.raises(FOUND):
        await getattr(SourceContract(), finder)(harness)
    for ended in getattr(harness.topic, "left", []):
        ended.set()


class NewKeys(MemorySink):
    numbers = count()

    async def send(self, message: Message, *, key: str) -> None:
        await super().send(message, key=f"{key}-{next(self.numbers)}")


class Forgets(MemorySink):
    async def send(self, message: Message, *, key: str) -> None:
        if key != "k3":
            await super().send(message, key=key)


class ClosesLate(MemorySink):
    async def __aexit__(self, *details: Any) -> None:
        await anyio.sleep(sink_contract.END_S + 0.2)


SINKS: list[tuple[type[MemorySink], str]] = [
    (NewKeys, "test_same_message_under_the_same_key"),
    (Forgets, "test_sends_what_it_is_given"),
    (ClosesLate, "test_close"),
]


@pytest.mark.parametrize(("faulty", "finder"), SINKS)
async def test_fault_of_a_sink_is_found(
    faulty: type[MemorySink], finder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a source."""
    monkeypatch.setattr(sink_contract, "SENT_S", 0.3)
    monkeypatch.setattr(sink_contract, "END_S", 0.2)

    class Harness(test_sinks.MemoryHarness):
        dedupes = True

        def sink(self) -> MemorySink:
            return faulty(self.topic)

        async def taken(self) -> list[int]:
            found = {message.id: message.data for message in self.topic._waiting}
            return list(found.values())

    with pytest.raises(FOUND):
        await getattr(SinkContract(), finder)(Harness())


async def test_what_was_waited_for_is_said() -> None:
    """And how long."""
    with pytest.raises(AssertionError, match=r"expected within 0\.01 s: a miracle"):
        await lives.until(lambda: False, "a miracle", within_s=0.01)
