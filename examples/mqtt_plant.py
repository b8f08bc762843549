"""A plant on MQTT: thermometers publish, rules decide, commands go back to the fans.

    python examples/mqtt_plant.py                          # with a mosquitto of its own
    python examples/mqtt_plant.py --url mqtt://localhost   # with one that runs

Three machines publish a temperature each, ten times a second.  Two readings in a row above 80 °C
within five seconds start a run that switches the fan of that machine on, by a message which is
sent until the server has acknowledged it.  It ends by itself once all fans that should run do.

Needs the extra: pip install 'headrace[mqtt]'; and mosquitto (Debian: apt install mosquitto).
"""

from __future__ import annotations

import argparse
import math
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import msgspec

from headrace import App, Firing, MemoryLog, Run, on
from headrace.connectors.mqtt import Mqtt, MqttMessage, MqttSink
from headrace.connectors.protocol import ConnectorError

HOT_ABOVE: Final = 80.0
MACHINES: Final = {"press": 95.0, "oven": 120.0, "saw": 60.0}
"""Each with the temperature that it warms up to: the saw never gets hot."""
STEP_S: Final = 0.1
DEADLINE_S: Final = 20.0


class Reading(msgspec.Struct):
    """What a thermometer publishes."""

    celsius: float


class Command(msgspec.Struct):
    """What a fan is told."""

    on: bool


def plant(url: str, fans_on: dict[str, anyio.Event]) -> App:
    """Return the app: temperatures in, commands out; *fans_on* shows what the fans were told."""
    app = App("mqtt-plant")
    topics = ["plant/+/temperature", "plant/+/fan"]
    # No session at the server: an example that ends leaves nothing behind.
    app.source(Mqtt(url, topics=topics, name="plant", session_expiry_s=0))
    commands = app.sink(MqttSink(url, name="commands"))

    readings = on("mqtt.plant.*.temperature", Reading).key(lambda e: e.tokens[2])
    hot = readings.where(lambda e: e.data.celsius > HOT_ABOVE).count(2, within=5, mode="edge")

    @app.rule(hot)
    async def cool(run: Run, firing: Firing[Reading]) -> None:
        celsius = firing.events[-1].data.celsius
        print(f"rule     {firing.key} is hot ({celsius:.0f} °C): fan on")
        await run.call(commands.send, MqttMessage(f"plant/{firing.key}/fan", Command(on=True)))

    @app.rule(on("mqtt.plant.*.fan", Command))
    async def heard(firing: Firing[Command]) -> None:
        machine = firing.events[-1].tokens[2]
        print(f"fan      {machine}: {'on' if firing.events[-1].data.on else 'off'}")
        fans_on[machine].set()

    return app


async def simulate(url: str) -> None:
    """Be the thermometers, until cancelled."""
    async with MqttSink(url, name="thermometers", qos=0) as sensors:
        step = 0
        while True:
            for machine, most in MACHINES.items():
                celsius = 20 + (most - 20) * (1 - math.exp(-step / 6))
                message = MqttMessage(f"plant/{machine}/temperature", {"celsius": celsius})
                await sensors.send(message, key=f"{machine}-{step}")
            step += 1
            await anyio.sleep(STEP_S)


async def main(url: str) -> None:
    """Run the plant until the fans of all machines that get hot are on."""
    fans_on = {machine: anyio.Event() for machine in MACHINES}
    async with plant(url, fans_on).open(MemoryLog()) as engine, anyio.create_task_group() as group:
        group.start_soon(simulate, url)
        with anyio.fail_after(DEADLINE_S):
            for machine, most in MACHINES.items():
                if most > HOT_ABOVE:
                    await fans_on[machine].wait()
        group.cancel_scope.cancel()
        print(f"done     {sum(run.task == 'cool' for run in engine.runs())} fans were switched on")


@asynccontextmanager
async def mosquitto() -> AsyncGenerator[str, None]:
    """Start a server on a free loopback port, and give its address."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    program = shutil.which("mosquitto", path=places)
    if program is None:
        sys.exit("mqtt_plant.py: expected the program mosquitto, found none; install it, or --url")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        settings = Path(folder) / "mosquitto.conf"
        user = pwd.getpwuid(os.getuid()).pw_name
        settings.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nuser {user}\n")
        server = await anyio.open_process(
            [program, "-c", str(settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with server:
            print(f"server   mosquitto on port {port}")
            try:
                yield f"mqtt://127.0.0.1:{port}"
            finally:
                server.terminate()


async def start(url: str | None) -> None:
    """Run the plant with the server at *url*, or with one of its own."""
    if url is not None:
        await main(url)
        return
    async with mosquitto() as own:
        await main(own)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="the address of a server that runs")
    options = parser.parse_args()
    try:
        anyio.run(start, options.url)
    except* (ConnectorError, TimeoutError) as several:
        error: BaseException = several
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        sys.exit(f"mqtt_plant.py: {str(error) or f'expected to be done within {DEADLINE_S:g} s'}")
