"""What the source does when a stream, its consumer or its places are not what they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.connectors.nats_server import NatsOnDisk, Wire

from headrace import App, FileLog, MemoryLog
from headrace.connectors.feeder import status_of
from headrace.connectors.jetstream import JetStream
from headrace.connectors.protocol import ConnectorError
from headrace.testing.lives import GatedIntake, Life, Lives, Stop, kept, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """The library is made for asyncio."""
    return "asyncio"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsOnDisk]:
    with NatsOnDisk(tmp_path_factory.mktemp("nats")) as made:
        yield made


@pytest.fixture
def wire(server: NatsOnDisk) -> Iterator[Wire]:
    with Wire(server.port) as made:
        made.stream("JOBS", subjects=["jobs.>"])
        yield made


def publish(wire: Wire, *numbers: int) -> None:
    for number in numbers:
        wire.publish("jobs.a", json.dumps(number).encode())


def source(server: NatsOnDisk, **settings: Any) -> JetStream:
    chosen: dict[str, Any] = {"keepalive_s": 1, "ack_wait_s": 1} | settings
    return JetStream(server.url, "JOBS", **chosen)


async def stored(life: Life, count: int) -> None:
    await until(lambda: life.status.stored == count, f"{count} events", within_s=8)


def data(lives: Lives) -> list[Any]:
    return [event.data for event in lives.kept() if not event.subject.startswith("source.")]


async def test_what_is_delivered_again_after_weeks_is_not_stored_again(
    server: NatsOnDisk, wire: Wire
) -> None:
    """No id is remembered any more: the cursor says it, and what was not stored is."""
    log = MemoryLog()
    publish(wire, 0, 1, 2)
    stops: list[Stop | None] = ["behind it", None]
    for stop in stops:
        made = source(server)
        async with App("plant").open(log, dedupe_window=0) as engine:
            intake = GatedIntake(engine, status_of(made), stop)
            async with anyio.create_task_group() as group:
                group.start_soon(made.run, intake)
                if stop:
                    await until(intake.stopped.is_set, "a message", within_s=5)
                    publish(wire, 3)
                else:
                    await until(lambda: len(kept(log)) == 4, "the one behind them", within_s=5)
                group.cancel_scope.cancel()
    assert [event.data for event in kept(log)] == [0, 1, 2, 3]


async def test_stream_that_is_made_again_is_another(
    server: NatsOnDisk, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """Its places begin anew, so nothing of it may be skipped; that it is another is said."""
    lives = Lives(lambda: source(server), MemoryLog())
    publish(wire, 0, 1, 2)
    async with lives.life() as life:
        await stored(life, 3)
        wire.stream("JOBS", subjects=["jobs.>"])
        publish(wire, 3)
        await stored(life, 4)
    wire.stream("JOBS", subjects=["jobs.>"])
    publish(wire, 4, 5)
    async with lives.life() as life:
        await stored(life, 2)
    assert data(lives) == [0, 1, 2, 3, 4, 5]
    assert caplog.text.count("stream_recreated") == 2


async def test_stream_that_is_set_back(server: NatsOnDisk, wire: Wire, tmp_path: Path) -> None:
    """A server that has lost what it acknowledged gives the same places to others: they are new."""
    folder = tmp_path / "lossy"
    folder.mkdir()
    with NatsOnDisk(folder) as lossy:
        lives = Lives(lambda: source(lossy), MemoryLog())
        with Wire(lossy.port) as other:
            other.stream("JOBS", subjects=["jobs.>"])
            publish(other, 0)
        lossy.kill()
        before = tmp_path / "before"
        _copy(folder, before)
        lossy.start()
        with Wire(lossy.port) as other:
            publish(other, 1, 2)
        async with lives.life() as life:
            await stored(life, 3)
        lossy.kill()
        _copy(before, folder)
        lossy.start()
        for first, count in ((3, 2), (4, 1)):
            async with lives.life() as life:
                await until(lambda: life.status.state == "connected", "it", within_s=5)
                with Wire(lossy.port) as other:
                    publish(other, first)
                await stored(life, count)
        assert data(lives) == [0, 1, 2, 3, 4]
        (said,) = [event for event in lives.kept() if event.subject == "source.setback.jetstream"]
        assert said.data == {"stream": "JOBS", "last": 1, "stored": 3}


def _copy(source: Path, target: Path) -> None:
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


async def test_log_that_is_restored_from_a_backup(
    server: NatsOnDisk, wire: Wire, tmp_path: Path
) -> None:
    """What the server was told since then, and the log does not have, comes again."""
    live, backup = tmp_path / "live", tmp_path / "backup"

    async def life(count: int, *numbers: int) -> list[Any]:
        lives = Lives(lambda: source(server), FileLog(live))
        async with lives.life() as one:
            publish(wire, *numbers)
            await stored(one, count)
            await until(
                lambda: all(
                    not wire.ask(f"$JS.API.CONSUMER.INFO.JOBS.{name}")["num_ack_pending"]
                    for name in wire.ask("$JS.API.CONSUMER.NAMES.JOBS")["consumers"]
                ),
                "acknowledged",
                within_s=5,
            )
            return data(lives)

    await life(1, 0)
    _copy(live, backup)
    await life(2, 1, 2)
    _copy(backup, live)
    assert await life(3, 3) == [0, 1, 2, 3]


@pytest.mark.parametrize("retention", ["limits", "interest", "workqueue"])
async def test_crashes_before_and_behind_the_store(
    server: NatsOnDisk, wire: Wire, retention: str
) -> None:
    """Whatever a stream keeps: each message once, in its order, and at once."""
    wire.stream("JOBS", subjects=["jobs.>"], retention=retention)
    # A short wait of the server would hide that nothing is waited for.
    lives = Lives(lambda: source(server, ack_wait_s=60), MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.state == "connected", "it", within_s=5)
        publish(wire, 0)
        await stored(life, 1)
    number = 1
    stops: list[Stop] = ["before it stores", "behind it", "before it stores"]
    for stop in stops:
        publish(wire, number, number + 1)
        async with lives.life(stop) as life:
            await until(life.intake.stopped.is_set, "a message", within_s=5)
            publish(wire, number + 2)
        number += 3
    async with lives.life():
        await until(lambda: len(data(lives)) == number, "all", within_s=5)

        def left() -> int:
            found = wire.ask("$JS.API.STREAM.INFO.JOBS")["state"]
            count: int = found["messages"]
            return count

        if retention != "limits":
            await until(lambda: left() == 0, "nothing that is kept for nobody", within_s=5)
    assert data(lives) == list(range(number))


async def test_consumer_that_somebody_else_takes_from(server: NatsOnDisk, wire: Wire) -> None:
    """There is a gap: it is noticed, and the missing message is taken again."""
    lives = Lives(lambda: source(server, durable="shared"), MemoryLog())
    async with lives.life() as life:
        await until(lambda: life.status.state == "connected", "it", within_s=5)
        publish(wire, 0)
        await stored(life, 1)
        # The one who asked first gets the next: a thief with many requests gets some.
        for _ in range(5):
            wire.send(b"$JS.API.CONSUMER.MSG.NEXT.JOBS.shared", b'{"batch": 1}')
        with Wire(server.port) as other:
            publish(other, *range(1, 12))
        await stored(life, 12)
        assert life.status.connections > 1
        assert "something else takes from consumer 'shared'" in life.status.error
    assert data(lives) == list(range(12))


async def test_subjects_starts_and_consumers_that_are_there(server: NatsOnDisk, wire: Wire) -> None:
    """Only what is asked for; from where it is asked for; and as somebody has set it up."""
    for subject, value in (("jobs.a", b"0"), ("jobs.b", b"1"), ("jobs.c.d", b"2")):
        wire.publish(subject, value)
    some = Lives(lambda: source(server, subjects=["jobs.a", "jobs.*.d"], prefix="p"), MemoryLog())
    async with some.life() as life:
        await stored(life, 2)
    assert [event.subject for event in some.kept()] == ["p.jobs.a", "p.jobs.c.d"]
    third = Lives(lambda: source(server, start=3), MemoryLog())
    async with third.life() as life:
        await stored(life, 1)
    new = Lives(lambda: source(server, start="new"), MemoryLog())
    config = {"durable_name": "made", "ack_policy": "explicit", "deliver_policy": "last"}
    wire.ask("$JS.API.CONSUMER.DURABLE.CREATE.JOBS.made", {"stream_name": "JOBS", "config": config})
    made = Lives(lambda: source(server, durable="made"), MemoryLog())
    async with new.life() as life, made.life() as other:
        await until(lambda: life.status.state == "connected", "it", within_s=5)
        publish(wire, 3)
        await stored(life, 1)
        await stored(other, 2)
        await until(
            lambda: not wire.ask("$JS.API.CONSUMER.INFO.JOBS.made")["num_ack_pending"],
            "each acknowledged",
            within_s=5,
        )
    assert (data(third), data(new), data(made)) == ([2], [3], [2, 3])


async def test_consumers_that_cannot_be_used(server: NatsOnDisk, wire: Wire) -> None:
    """One line says which, why, and what to do."""
    for name, settings in (
        ("pushed", {"deliver_subject": "x", "ack_policy": "explicit"}),
        ("deaf", {"ack_policy": "none"}),
    ):
        wire.ask(
            f"$JS.API.CONSUMER.DURABLE.CREATE.JOBS.{name}",
            {"stream_name": "JOBS", "config": {"durable_name": name, **settings}},
        )
        with pytest.raises(BaseExceptionGroup) as found:
            async with Lives(lambda: source(server, durable=name), MemoryLog()).life():  # noqa: B023
                await anyio.sleep(5)
        (error,) = found.value.exceptions
        assert isinstance(error, ConnectorError)
        assert f"the consumer {name!r} of stream 'JOBS'" in str(error)
        assert "delete it, or name another" in str(error)


async def test_stream_that_was_trimmed_before_it_was_stored(
    server: NatsOnDisk, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """What is gone is said, and what is there is taken."""
    lives = Lives(lambda: source(server), MemoryLog())
    publish(wire, 0)
    async with lives.life() as life:
        await stored(life, 1)
    publish(wire, 1, 2, 3)
    wire.ask("$JS.API.STREAM.PURGE.JOBS", {"keep": 1})
    async with lives.life() as life:
        await stored(life, 1)
    assert data(lives) == [0, 3]
    assert "stream_trimmed" in caplog.text


async def test_subjects_that_no_event_may_have(server: NatsOnDisk, wire: Wire) -> None:
    """They are kept with their bytes, and what comes behind them is taken."""
    wire.stream("JOBS", subjects=["jobs.>", "run.>"])
    wire.publish("run.x", b"1")
    wire.send(b"jobs.\xff", b"2")
    wire.stored()
    publish(wire, 3)
    lives = Lives(lambda: source(server), MemoryLog())
    async with lives.life() as life:
        await until(lambda: 3 in data(lives), "the last", within_s=5)
        assert life.status.connections == 1
    first, second, third = lives.kept()
    assert "reserved" in first.data["reason"]
    assert "UTF-8" in second.data["reason"]
    assert (second.position, second.data["raw"]) == (2, b"2")
    assert (third.data, third.position) == (3, 3)
