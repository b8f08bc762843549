"""`kill -9`, of the server and of ourselves, under load: what was acknowledged is in the log."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.connectors.mosquitto import Mosquitto, Publisher

from headrace import FileLog
from headrace.connectors.mqtt import Mqtt
from headrace.testing.lives import Kept, Lives, until

pytestmark = pytest.mark.slow

IN_FLIGHT_MAX = 50
PER_CYCLE = 200
CYCLES = [1, pytest.param(10, marks=pytest.mark.soak)]

PROGRAM = """
import sys, anyio
from headrace import App
from headrace.connectors.mqtt import Mqtt

app = App("plant")
url, log, qos = sys.argv[1:]
app.source(Mqtt(url, topics=["plant/#"], qos=int(qos), client_id="crashes", in_flight_max=50))

async def main():
    async with app.open(log) as engine:
        while engine.companions[0].status.state != "connected":
            await anyio.sleep(0.01)
        print("connected", flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """What ends is not the loop, but the server or the process."""
    return "asyncio"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path, settings=["max_inflight_messages 1000"]) as server:
        yield server


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Mosquitto]:
    """A server that does not save after each change: it reads acknowledgements when they come."""
    with Mosquitto(tmp_path, settings=["autosave_interval 1800"]) as server:
        yield server


def source(server: Mosquitto, qos: int) -> Mqtt:
    return Mqtt(
        server.url,
        topics=["plant/#"],
        qos=qos,
        client_id="crashes",
        in_flight_max=IN_FLIGHT_MAX,
    )


def number(event: Kept) -> Any:
    return event.data


def publish(publisher: Publisher, numbers: range, qos: int, pause_s: float = 0.0) -> None:
    for number in numbers:
        publisher.publish("plant/t", json.dumps(number), number, qos=qos)
        if pause_s:
            time.sleep(pause_s)


def check(counted: Counter[int], acknowledged: list[int], *, twice_max: int | None = None) -> None:
    assert not set(acknowledged) - set(counted), "acknowledged, and not in the log"
    if twice_max is not None:
        assert sum(counted.values()) - len(counted) <= twice_max


@pytest.mark.parametrize("cycles", CYCLES)
@pytest.mark.parametrize("qos", [1, 2])
async def test_server_that_is_killed_under_load(
    server: Mosquitto, tmp_path: Path, cycles: int, qos: int
) -> None:
    """Found again within five seconds; nothing that it has acknowledged, and saved, is lost."""
    lives = Lives(lambda: source(server, qos), FileLog(tmp_path / "log"))
    acknowledged: list[int] = []
    async with lives.life() as life:
        for cycle in range(cycles):
            await until(lambda: life.status.state == "connected", "a connection", within_s=5)
            life.intake.shut()  # so much of it is on its way when the server is killed

            def load(numbers: range) -> None:
                with Publisher(server) as publisher:
                    publish(publisher, numbers, qos)
                    publisher.settle()
                    acknowledged.extend(publisher.acknowledged)

            first = cycle * PER_CYCLE
            await anyio.to_thread.run_sync(load, range(first, first + PER_CYCLE))
            await anyio.to_thread.run_sync(server.save)
            life.intake.open()
            await anyio.sleep(random.uniform(0, 0.05))
            server.kill()
            await until(lambda: life.status.state == "lost", "a source that says so", within_s=5)
            await anyio.to_thread.run_sync(server.start)
        await until(lambda: life.status.state == "connected", "a connection", within_s=5)
        await until(
            lambda: not set(acknowledged) - set(lives.counted(number)),
            "all in the log",
            within_s=20,
        )
        # How much comes twice is up to it: all acknowledgements of ours that it has not read, or
        # has not saved, when it is killed.
        check(lives.counted(number), acknowledged)


@pytest.mark.parametrize("cycles", CYCLES)
@pytest.mark.parametrize("qos", [1, 2])
async def test_own_process_that_is_killed_under_load(
    busy: Mosquitto, tmp_path: Path, cycles: int, qos: int
) -> None:
    """At any moment: nothing is lost, and no more is there twice than was in flight."""
    server = busy
    log = tmp_path / "log"
    acknowledged: list[int] = []
    for cycle in range(cycles):
        arguments = [sys.executable, "-c", PROGRAM, server.url, str(log), str(qos)]
        process = await anyio.to_thread.run_sync(_started, arguments)
        first = cycle * PER_CYCLE
        with Publisher(server) as publisher:
            load = threading.Thread(
                target=publish, args=(publisher, range(first, first + PER_CYCLE), qos, 0.002)
            )
            load.start()
            await anyio.sleep(random.uniform(0.05, 0.35))
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
            await anyio.to_thread.run_sync(load.join)
            await anyio.to_thread.run_sync(publisher.settle)
            acknowledged += publisher.acknowledged
    assert len(acknowledged) == cycles * PER_CYCLE
    lives = Lives(lambda: source(server, qos), FileLog(log))
    async with lives.life():
        await until(
            lambda: not set(acknowledged) - set(lives.counted(number)),
            "all in the log",
            within_s=20,
        )
        check(lives.counted(number), acknowledged, twice_max=cycles * IN_FLIGHT_MAX)


def _started(arguments: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout is not None
    assert process.stdout.readline() == b"connected\n"
    return process
