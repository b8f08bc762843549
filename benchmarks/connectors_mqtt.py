"""What the MQTT source takes: QoS 1 into a fsynced log, beside paho's client on its own.

A mosquitto holds the messages for a session; how long it takes until the last one is
acknowledged is what counts.  The bare client acknowledges each as it comes and stores nothing.

    python benchmarks/connectors_mqtt.py [--repeat 3] [--quick] [--json PATH]
"""

from __future__ import annotations

import argparse
import os
import pwd
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
from common import on_asyncio, scratch, unused
from figures import Figure, Row, at_least, measured, script

from headrace import App
from headrace.connectors.feeder import Feeder
from headrace.connectors.mqtt import Mqtt

EVENTS: Final = 20_000
QUICK: Final = 500
WAIT_S: Final = 120.0
PAYLOAD: Final = b'{"device":"d17","celsius":61.5}'
TOPIC: Final = "plant/t1"
BARE: Final = "bare paho client, QoS 1"
INTO_LOG: Final = "MQTT source, QoS 1 into a fsynced log"
DEFAULT: Final = "MQTT source, 20 in flight (mosquitto's default)"


@contextmanager
def server(folder: Path, in_flight_max: int) -> Generator[int]:
    """Run a mosquitto that lets so many messages be in flight; give its port."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    program = shutil.which("mosquitto", path=places)
    assert program is not None, "no mosquitto found; on Debian: apt install mosquitto"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    settings = folder / f"mosquitto-{port}.conf"
    settings.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {pwd.getpwuid(os.getuid()).pw_name}"
        f"\nmax_queued_messages 0\nmax_inflight_messages {in_flight_max}\n"
    )
    process = subprocess.Popen(
        [program, "-c", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "mosquitto does not start"
                time.sleep(0.01)
        yield port
    finally:
        process.terminate()
        process.wait()


def client(client_id: str = "", **options: Any) -> Any:
    """Return a client of MQTT 5."""
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

    version = MQTTProtocolVersion.MQTTv5
    return Client(CallbackAPIVersion.VERSION2, client_id, protocol=version, **options)


def session(port: int, on_message: Callable[..., None] | None = None) -> Any:
    """Return a client that has subscribed, in a session that stays."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    properties.ReceiveMaximum = 1000
    made, subscribed = client("bench"), threading.Event()
    made.on_connect = lambda *_: made.subscribe(TOPIC, 1)
    made.on_subscribe = lambda *_: subscribed.set()
    made.on_message = on_message
    made.connect("127.0.0.1", port, clean_start=False, properties=properties)
    made.loop_start()
    assert subscribed.wait(WAIT_S)
    return made


def leave(made: Any) -> None:
    """Let a client go; its session stays."""
    made.disconnect()
    made.loop_stop()


def fill(port: int, count: int) -> None:
    """Publish *count* messages for a session that is away."""
    leave(session(port))
    publisher, left = client(), threading.Semaphore(0)
    publisher.max_inflight_messages_set(500)
    publisher.on_publish = lambda *_: left.release()
    publisher.connect("127.0.0.1", port)
    publisher.loop_start()
    for _ in range(count):
        publisher.publish(TOPIC, PAYLOAD, 1)
    for _ in range(count):
        assert left.acquire(timeout=WAIT_S)
    leave(publisher)


def bare(folder: Path, count: int) -> float:
    """Return the messages per second that the client takes and acknowledges."""
    with server(folder, 1000) as port:
        fill(port, count)
        done, seen = threading.Event(), 0

        def take(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                done.set()

        start = time.perf_counter()
        made = session(port, take)
        assert done.wait(WAIT_S)
        took_s = time.perf_counter() - start
        leave(made)
    return count / took_s


def through(folder: Path, count: int, in_flight_max: int = 1000) -> float:
    """Return the messages per second that come into a log, each durable and then acknowledged."""
    with server(folder, in_flight_max) as port:
        fill(port, count)
        return on_asyncio(_through(port, unused(folder, "log"), count))


async def _through(port: int, log: Path, count: int) -> float:
    app = App("bench")
    app.source(Mqtt(f"mqtt://127.0.0.1:{port}", topics=[TOPIC], client_id="bench"))
    start = time.perf_counter()
    async with app.open(str(log)) as engine:
        (feeder,) = engine.companions
        assert isinstance(feeder, Feeder)
        with anyio.fail_after(WAIT_S):
            while feeder.status.stored < count:  # noqa: ASYNC110 (nothing says so otherwise)
                await anyio.sleep(0.002)
        return count / (time.perf_counter() - start)


ROWS: Final = [
    Row(BARE, "messages/s"),
    Row(INTO_LOG, "events/s", BARE, at_least(5000)),
    Row(DEFAULT, "events/s", BARE),
]


def take(options: argparse.Namespace) -> list[Figure]:
    """Measure; return the lines of the table."""
    count = QUICK if options.quick else EVENTS
    with scratch() as folder:
        ways = {
            BARE: partial(bare, folder, count),
            INTO_LOG: partial(through, folder, count),
            DEFAULT: partial(through, folder, count, 20),
        }
        return measured(ways, ROWS, options)


if __name__ == "__main__":
    script(__doc__, "MQTT", take)
