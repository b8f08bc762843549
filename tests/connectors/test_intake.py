"""Sources and sinks of an app, with messages in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from headrace import App, Emission, Engine, Firing, MemoryLog, Run, on
from headrace.connecting import sink_retry
from headrace.connectors.feeder import Feeder, status_of
from headrace.connectors.intake import Intake
from headrace.connectors.memory import Memory, MemorySink, Message, Topic
from headrace.connectors.protocol import ConnectorError, SinkRefused, SinkUnavailable
from headrace.connectors.sessions import keep_up


def an_app(topic: Topic) -> App:
    app = App("plant")
    app.source(Memory(topic, name="line"))
    return app


async def until(engine: Engine, sequence: int) -> None:
    with anyio.fail_after(10):
        while engine.kernel.sequence < sequence:
            await anyio.sleep(0.001)


def feeder(engine: Engine) -> Feeder:
    (companion,) = engine.companions
    assert isinstance(companion, Feeder)
    return companion


async def settled(topic: Topic) -> None:
    with anyio.fail_after(10):
        while len(topic):
            await anyio.sleep(0.001)


async def test_source_feeds_rules_while_the_engine_is_open() -> None:
    """What is published starts runs, and is acknowledged; afterwards nothing is taken."""
    topic, seen = Topic(), []
    app = an_app(topic)

    @app.rule(on("a.*"))
    async def look(firing: Firing[Any]) -> None:
        seen.append(firing.events[-1].data)

    for number in range(3):
        topic.publish(Message("a.b", number, id=str(number)))
    async with app.open(MemoryLog()) as engine:
        await settled(topic)
        status = feeder(engine).status
        assert (status.stored, status.duplicates, status.state) == (3, 0, "connected")
        assert status.in_flight == 0
    topic.publish(Message("a.b", 9))
    assert (seen, len(topic)) == ([0, 1, 2], 1)


async def test_what_is_delivered_again_is_stored_once() -> None:
    """The id that the protocol gives is that of the event."""
    topic = Topic()
    app = an_app(topic)
    async with app.open(MemoryLog()) as engine:
        for _ in range(2):
            topic.publish(Message("a.b", 1, id="x"))
            await settled(topic)
        status = feeder(engine).status
        assert (status.stored, status.duplicates) == (1, 1)


async def test_message_that_is_no_event_is_kept_and_the_next_goes_on() -> None:
    """Refused with its bytes; a rule can react to it."""
    topic, refusals = Topic(), []
    app = an_app(topic)

    @app.rule(on("source.refused.line"))
    async def alarm(firing: Firing[Any]) -> None:
        refusals.append(firing.events[-1].data)

    topic.publish(Message("a.*", b"\xff"))
    topic.publish(Message("a.b", 2))
    async with app.open(MemoryLog()) as engine:
        await settled(topic)
        status = feeder(engine).status
        assert (status.stored, status.refused) == (2, 1)
    (refusal,) = refusals
    assert (refusal["raw"], refusal["place"], refusal["size"]) == (b"\xff", "a.*", 1)
    assert "wildcard" in refusal["reason"]


async def test_message_whose_identity_cannot_be_stored_is_refused() -> None:
    """Without it: asked again and again, the refusal would not be stored either."""
    topic = Topic()
    async with an_app(topic).open(MemoryLog(), sources=False) as engine:
        intake = Intake(engine, status_of(Memory(topic, name="line")))
        with anyio.fail_after(10):
            await intake.put([Emission("a.b", 1, id="x" * 700)])
        assert intake.status.refused == 1


async def test_nothing_is_acknowledged_before_it_is_stored() -> None:
    """An engine that stops leaves in flight what it has not stored, for the next one."""
    topic = Topic()
    app = an_app(topic)
    async with app.open(MemoryLog()) as engine:
        await until(engine, 1)
        engine.stop()
        topic.publish(Message("a.b", 1, id="x"))
        await anyio.wait_all_tasks_blocked()
        assert len(topic) == 1
    assert len(topic) == 1
    async with app.open(MemoryLog()) as engine:
        await settled(topic)
        assert feeder(engine).status.stored == 1


class Broken:
    name = "broken"
    promise = "at most once"

    async def run(self, intake: Intake) -> None:
        intake.connected()
        raise ConnectorError("broken: expected a stream, found none; make one")


async def test_source_that_cannot_work_ends_the_engine() -> None:
    """What trying again cannot mend comes out of `async with` as it is."""
    app = App("plant")
    app.source(Broken())  # type: ignore[arg-type]
    with pytest.raises(ConnectorError, match="make one"):
        async with app.open(MemoryLog()):
            await anyio.sleep_forever()


async def test_app_can_be_opened_without_its_sources() -> None:
    """As a test wants it."""
    topic = Topic()
    topic.publish(Message("a.b"))
    async with an_app(topic).open(MemoryLog(), sources=False) as engine:
        assert engine.companions == ()
    assert len(topic) == 1


async def test_intake_waits_for_one_event_after_the_other() -> None:
    """A source of its own name for each cursor: the positions are kept apart."""
    topic = Topic()
    async with an_app(topic).open(MemoryLog(), sources=False) as engine:
        intake = Intake(engine, status_of(Memory(topic, name="line")))
        await intake.put([Emission("a", position=7), Emission("a", source="p1", position=3)])
        assert (intake.cursor(), intake.cursor("p1"), intake.cursor("p2")) == (7, 3, None)


def test_names_of_sources_are_checked() -> None:
    """Each is a name, and there once."""
    app = an_app(Topic())
    with pytest.raises(ValueError, match="declared twice"):
        app.source(Memory(Topic(), name="line"))
    with pytest.raises(ValueError, match="letters, digits"):
        app.source(Memory(Topic(), name="a b"))


@asynccontextmanager
async def forwarding(sink: MemorySink, **options: Any) -> AsyncGenerator[Engine, None]:
    app = App("plant")
    sent = app.sink(sink, **options)
    app.rule(on("alert.>"))(sent.forward)

    @app.rule(on("go"))
    async def go(run: Run) -> None:
        await run.call(sent.send, Message("hand.made", 1))

    async with app.open(MemoryLog()) as engine:
        yield engine


async def test_sink_forwards_events_and_sends_messages_under_keys() -> None:
    """Both ways are steps of durable runs: each message has a key of its own."""
    topic = Topic()
    async with forwarding(MemorySink(topic)) as engine:
        await engine.emit("alert.t1", {"c": 93})
        await engine.emit("go")
        await engine.drain()
    one, two = await topic.take(9)
    assert (one.subject, one.data, two.subject) == ("alert.t1", {"c": 93}, "hand.made")
    assert one.id
    assert two.id
    assert one.id != two.id


class Flaky(MemorySink):
    """Fails in the way that it is told, before it works."""

    def __init__(self, topic: Topic, errors: list[Exception]) -> None:
        super().__init__(topic, name="flaky")
        self.errors = errors
        self.keys: list[str] = []

    async def send(self, message: Message, *, key: str) -> None:
        self.keys.append(key)
        if self.errors:
            raise self.errors.pop(0)
        await super().send(message, key=key)


async def test_sink_is_tried_again_under_the_same_key() -> None:
    """Until the server takes the message."""
    topic = Topic()
    sink = Flaky(topic, [SinkUnavailable("gone", retry_after_s=0.01), OSError("reset")])
    async with forwarding(sink, retry=sink_retry(wait_first=0.001)) as engine:
        await engine.emit("alert.t1")
        await engine.drain()
    assert len(topic) == 1
    assert len(sink.keys) == 3
    assert len(set(sink.keys)) == 1


async def test_what_a_sink_refuses_is_a_dead_letter_at_once() -> None:
    """It would not be taken the next time either."""
    sink = Flaky(Topic(), [SinkRefused("no such topic")])
    async with forwarding(sink) as engine:
        await engine.emit("alert.t1")
        await engine.drain()
        (dead,) = engine.runs("dead")
    assert len(sink.keys) == 1
    assert "no such topic" in str(dead)


@pytest.mark.parametrize(
    "event",
    [
        Emission("a.b", 1, source="s" * 700, position=3),
        Emission("a.b", 1, position=2**63),
        Emission("a.b", 1, id="\ud800"),
        Emission("a.\ud800", 1),
        Emission("a b", "\ud800"),
    ],
    ids=["source", "position", "id", "subject", "data"],
)
async def test_event_whose_labels_cannot_be_stored_is_kept(event: Emission) -> None:
    """Whatever it is that cannot be stored: what is kept of it can, and the source goes on."""
    async with an_app(Topic()).open(MemoryLog(), sources=False) as engine:
        intake = Intake(engine, status_of(Memory(Topic(), name="line")))
        with anyio.fail_after(5):
            sequences = await intake.put([event, Emission("a.c", 2)])
        assert len(sequences) == 2
        assert (intake.status.stored, intake.status.refused) == (2, 1)


class Stray:
    """Awaits what a library has cancelled, as some do when they close a connection."""

    name = "stray"
    promise = "at most once"

    async def run(self, intake: Intake) -> None:
        intake.connected()
        left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left.cancel()
        await left


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_source_that_is_cancelled_by_nobody_does_not_end_in_silence() -> None:
    """It would take its neighbours with it, and the engine would go on without any."""
    app = an_app(Topic())
    app.source(Stray())  # type: ignore[arg-type]
    with pytest.raises(ConnectorError, match="stray: expected to go on until it is cancelled"):
        async with app.open(MemoryLog()):
            await anyio.sleep(5)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_session_that_is_cancelled_by_nobody_is_followed_by_another() -> None:
    """It was a way to lose the connection."""
    sessions = 0
    async with an_app(Topic()).open(MemoryLog(), sources=False) as engine:
        intake = Intake(engine, status_of(Memory(Topic(), name="line")))

        async def session() -> None:
            nonlocal sessions
            sessions += 1
            if sessions == 1:
                await Stray().run(intake)

        with anyio.fail_after(5):
            await keep_up(intake, session, (OSError,))
    assert sessions == 2
    assert "CancelledError" in intake.status.error
