"""`SourceContract`: what each source keeps, as tests that a connector of your own passes too.

Derive a class ``Test…`` from it, with a fixture ``harness`` that returns a `SourceHarness`: the
server that the source takes from, and what publishes to it.  See docs/connectors/write-your-own.md.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from headrace.connectors.protocol import ConnectorError, Source
from headrace.engine.log import MemoryLog
from headrace.testing.lives import Kept, Life, Lives, skip, until

SETTLED_S: Final = 20.0
"""Seconds within which what was published is in the log."""
BACK_S: Final = 5.0
"""Seconds within which a server that is back is found again."""
END_S: Final = 5.0
"""Seconds within which a source that is cancelled has let go."""
SLOW_S: Final = 0.3
"""Seconds for which an engine takes nothing."""
CANCELLATIONS: Final = 12


class SourceHarness(ABC):
    """A server that a source takes from.

    It is started already when a test gets it, and whoever made it stops it.
    """

    in_flight_max: int = 1000
    """How many messages the source takes at most before it hears that they are stored."""
    ordered: bool = True
    """Whether it hands on messages in the order of publishing."""
    can_be_gone: bool = True
    """Whether `kill` and `start` work."""
    gone_s: float = 0.0
    """Seconds for which a server that is gone stays away."""
    keeps: bool = True
    """Whether what is published while no source is there is kept for it."""

    @abstractmethod
    def source(self) -> Source:
        """Return the source, anew: what it knows of earlier lives is in the log."""

    @abstractmethod
    async def publish(self, numbers: Sequence[int]) -> None:
        """Publish a message for each number, as JSON ``{"number": 1}``, in this order.

        Returns once the server has acknowledged all of them.
        """

    async def republish(self, number: int) -> bool:
        """Publish a message again under its identity; ``False``: the protocol knows none."""
        return False

    async def disorder(self, numbers: Sequence[int]) -> bool:
        """Publish messages that come in another order than that of their ids or places.

        ``False``: the protocol keeps the order.
        """
        return False

    async def poison(self) -> bool:
        """Publish a message that is no event, such as half of a JSON text; ``False``: none is."""
        return False

    async def kill(self) -> None:
        """End the server as ``kill -9`` does; what it has acknowledged it keeps."""
        raise NotImplementedError

    async def start(self) -> None:
        """Start it again, at the same address."""
        raise NotImplementedError

    def unusable(self) -> list[Source]:
        """Return sources that cannot work as they are set up: wrong credentials, no such topic."""
        return []

    def number(self, event: Kept) -> int:
        """Return the number of the message that became *event*."""
        found = event.data["number"]
        assert isinstance(found, int)
        return found


class SourceContract:
    """What each source keeps; each test says it in a sentence."""

    def __init_subclass__(cls) -> None:
        """Let anyio's plugin run the tests, also where it is told to run marked ones only."""
        import pytest

        own = cls.__dict__.get("pytestmark", [])
        marks = own if isinstance(own, list) else [own]
        cls.pytestmark = [pytest.mark.anyio, *marks]  # type: ignore[attr-defined]

    async def test_what_the_server_has_acknowledged_comes_in(self, harness: SourceHarness) -> None:
        """Also what was published while nobody was there, if the source does not promise less."""
        lives = Lives(harness.source, MemoryLog())
        before = await self._before(harness, lives, range(20))
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish(range(20, 40))
            await self._all(harness, lives, [*before, *range(20, 40)])
            assert life.intake.status.state == "connected"
        self._keeps(harness, lives, [*before, *range(20, 40)], crashes=0)
        if harness.ordered:
            numbers = [harness.number(event) for event in lives.kept() if not event.is_refusal]
            assert numbers == sorted(numbers), "not in the order of publishing"

    async def test_crash_before_the_engine_has_stored(self, harness: SourceHarness) -> None:
        """Nothing was acknowledged: it comes again, all of it, in the next life."""
        self._keeps_at_the_server(harness)
        lives = Lives(harness.source, MemoryLog())
        await self._before(harness, lives, range(30))
        async with lives.life("before it stores") as life:
            with anyio.fail_after(SETTLED_S):
                await life.intake.stopped.wait()
        async with lives.life():
            await self._all(harness, lives, range(30))
        self._keeps(harness, lives, range(30), crashes=1)

    async def test_crash_between_the_store_and_the_acknowledgement(
        self, harness: SourceHarness
    ) -> None:
        """What comes again is not stored again, where there is an identity."""
        self._keeps_at_the_server(harness)
        lives = Lives(harness.source, MemoryLog())
        await self._before(harness, lives, range(30))
        for number in (30, 31, 32):
            async with lives.life("behind it") as life:
                with anyio.fail_after(SETTLED_S):
                    await life.intake.stopped.wait()
            await harness.publish([number])
        async with lives.life():
            await self._all(harness, lives, range(33))
        self._keeps(harness, lives, range(33), crashes=3)

    async def test_crash_behind_the_acknowledgement(self, harness: SourceHarness) -> None:
        """What was acknowledged does not come again, and what comes later is not skipped."""
        lives = Lives(harness.source, MemoryLog())
        for first in (0, 10):
            async with lives.life() as life:
                await self._connected(life)
                await harness.publish(range(first, first + 10))
                await self._all(harness, lives, range(first + 10))
        self._keeps(harness, lives, range(20), crashes=1)

    async def test_message_that_is_published_again(self, harness: SourceHarness) -> None:
        """Under the same identity it is in the log once."""
        lives = Lives(harness.source, MemoryLog())
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish(range(3))
            await self._all(harness, lives, range(3))
            if not await harness.republish(1):
                skip("the protocol gives messages no identity")
            await harness.publish([3])
            await self._all(harness, lives, range(4))
        assert lives.counted(harness.number)[1] == 1

    async def test_messages_out_of_their_order(self, harness: SourceHarness) -> None:
        """One that comes behind a later one is not taken for one that is stored."""
        lives = Lives(harness.source, MemoryLog())
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish([0])
            await self._all(harness, lives, [0])
            if not await harness.disorder([1, 2, 3]):
                skip("the protocol keeps the order")
            await self._all(harness, lives, range(4))
            await harness.publish([4])
            await self._all(harness, lives, range(5))
        self._keeps(harness, lives, range(5), crashes=0)

    async def test_poison_message(self, harness: SourceHarness) -> None:
        """It is kept as it came, does not stop the source, and does not come again."""
        lives = Lives(harness.source, MemoryLog())
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish([0])
            if not await harness.poison():
                skip("every message is an event")
            await harness.publish([1])
            await self._all(harness, lives, range(2))
            await until(lambda: life.status.refused == 1, "a refusal", within_s=SETTLED_S)
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish([2])
            await self._all(harness, lives, range(3))
        refusals = [event for event in lives.kept() if event.is_refusal]
        assert len(refusals) == 1, refusals
        data = refusals[0].data
        assert data["reason"]
        assert data["place"], "a refusal says where the message came from"
        assert len(data["raw"]) == data["size"] > 0

    async def test_slow_engine(self, harness: SourceHarness) -> None:
        """A source takes no more than its bound, however much there is, and then goes on."""
        lives = Lives(harness.source, MemoryLog())
        count = 3 * harness.in_flight_max + 10
        async with lives.life() as life:
            await self._connected(life)
            life.intake.shut()
            async with anyio.create_task_group() as group:
                # Beside: a server that has no room for more may make its publishers wait.
                group.start_soon(harness.publish, range(count))
                await until(lambda: life.intake.held > 0, "a message", within_s=SETTLED_S)
                with anyio.move_on_after(SLOW_S):
                    await anyio.sleep_forever()
                assert life.intake.held <= harness.in_flight_max
                life.intake.open()
            if lives.promise == "at most once":
                # A server that keeps nothing may have dropped some, but not for ever.
                await harness.publish([count])
                await self._all(harness, lives, [count])
            else:
                await self._all(harness, lives, range(count))
                self._keeps(harness, lives, range(count), crashes=0)
            assert life.intake.held_most <= harness.in_flight_max

    async def test_server_that_is_gone_and_comes_back(self, harness: SourceHarness) -> None:
        """The source says so once, waits, and is there within five seconds."""
        if not harness.can_be_gone:
            skip("there is no server")
        lives = Lives(harness.source, MemoryLog())
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish(range(10))
            await self._all(harness, lives, range(10))
            await harness.kill()
            await until(
                lambda: life.status.state == "lost", "a source that says so", within_s=SETTLED_S
            )
            assert life.status.error
            await anyio.sleep(harness.gone_s)
            await harness.start()
            await until(
                lambda: life.status.state == "connected", "a new connection", within_s=BACK_S
            )
            await harness.publish(range(10, 20))
            await self._all(harness, lives, range(20))
        self._keeps(harness, lives, range(20), crashes=1)

    async def test_server_that_is_not_there_yet(self, harness: SourceHarness) -> None:
        """It is waited for, also at the first time."""
        if not harness.can_be_gone:
            skip("there is no server")
        lives = Lives(harness.source, MemoryLog())
        await harness.kill()
        async with lives.life() as life:
            await until(
                lambda: life.status.state == "lost", "a source that says so", within_s=SETTLED_S
            )
            await harness.start()
            await until(lambda: life.status.state == "connected", "a connection", within_s=BACK_S)
            await harness.publish([0])
            await self._all(harness, lives, [0])

    async def test_cancellation(self, harness: SourceHarness) -> None:
        """At any moment it lets go at once, leaves nothing behind, and loses nothing."""
        lives = Lives(harness.source, MemoryLog())
        numbers = [*range(CANCELLATIONS), CANCELLATIONS] if harness.keeps else [CANCELLATIONS]
        async with lives.life() as life:
            await self._connected(life)
        tasks, threads = _tasks(), len(_threads())
        for turn in range(CANCELLATIONS):
            async with lives.life() as life:
                if turn in numbers:
                    await harness.publish([turn])
                await _turns(turn)
                life.end()
                cancelled_at = anyio.current_time()
            assert anyio.current_time() - cancelled_at < END_S
        await until(
            # The server may have other threads by now, but not more.
            lambda: _tasks() <= tasks and len(_threads()) <= threads,
            "no task and no thread that is left behind",
            within_s=END_S,
        )
        async with lives.life() as life:
            await self._connected(life)
            await harness.publish([CANCELLATIONS])
            await self._all(harness, lives, numbers)
        self._keeps(harness, lives, numbers, crashes=CANCELLATIONS)

    async def test_source_that_cannot_work(self, harness: SourceHarness) -> None:
        """What trying again cannot mend ends it, with one line that says what to do."""
        sources = harness.unusable()
        if not sources:
            skip("there is nothing to set up wrongly")
        for source in sources:
            with anyio.fail_after(SETTLED_S):
                error = await _failure(source)
            assert "\n" not in str(error)

    # ------------------------------------------------------------ what they are made of

    async def _before(
        self, harness: SourceHarness, lives: Lives, numbers: Sequence[int]
    ) -> Sequence[int]:
        """Publish while nobody is there, if that is kept; a first life says that it is wanted."""
        if not harness.keeps:
            return []
        async with lives.life() as life:
            await self._connected(life)
        await harness.publish(numbers)
        return numbers

    def _keeps_at_the_server(self, harness: SourceHarness) -> None:
        if not harness.keeps:
            skip("what is published while no source is there goes nowhere")

    async def _connected(self, life: Life) -> None:
        await until(
            lambda: life.status.state == "connected" or life.ended.is_set(),
            "a connection",
            within_s=SETTLED_S,
        )

    async def _all(self, harness: SourceHarness, lives: Lives, numbers: Sequence[int]) -> None:
        def missing() -> list[int]:
            return sorted(set(numbers) - lives.counted(harness.number).keys())

        try:
            await until(lambda: not missing(), "all in the log", within_s=SETTLED_S)
        except AssertionError as error:
            error.add_note(f"missing: {missing()}")
            raise

    def _keeps(
        self, harness: SourceHarness, lives: Lives, numbers: Sequence[int], *, crashes: int
    ) -> None:
        """Assert that the log has what the promise says."""
        counted = lives.counted(harness.number)
        assert set(counted) == set(numbers)
        twice = sum(counted.values()) - len(counted)
        if lives.promise == "at least once":
            assert twice <= crashes * harness.in_flight_max, counted
        else:
            assert twice == 0, counted


def _tasks() -> set[int]:
    return {task.id for task in anyio.get_running_tasks()}


def _threads() -> set[threading.Thread]:
    """Return the threads but those that anyio and trio keep for later."""
    kept = ("AnyIO", "Trio thread")
    return {
        thread for thread in threading.enumerate() if not any(name in thread.name for name in kept)
    }


async def _turns(count: int) -> None:
    """Let others work: some turns of the loop, and some milliseconds for what they wait for."""
    for _ in range(count):
        await checkpoint()
    await anyio.sleep(count * 0.003)


async def _failure(source: Source) -> ConnectorError:
    try:
        async with Lives(lambda: source, MemoryLog()).life():
            await anyio.sleep_forever()
    except BaseExceptionGroup as several:
        matched, others = several.split(ConnectorError)
        assert others is None, others
        assert matched is not None
        found: BaseException = matched
        while isinstance(found, BaseExceptionGroup):
            found = found.exceptions[0]
        assert isinstance(found, ConnectorError)
        return found
    raise AssertionError("expected a ConnectorError, found a source that goes on")
