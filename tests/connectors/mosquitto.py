"""A mosquitto of one's own on a free loopback port, and a client that says what it acknowledged."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.needs import program

WAIT_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Mosquitto:
    """A server whose state is in *folder*.  Use it with ``with``; `kill` and `start` at will.

    It saves its state when it is told to (`save`), and about a second after changes: what it
    has not saved is lost when it is killed, whatever it has acknowledged.
    """

    def __init__(self, folder: Path, *, settings: Iterable[str] = (), tls: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.settings = list(settings)
        self._tls = tls
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{'mqtts' if self._tls else 'mqtt'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, and wait until it can be connected to."""
        mosquitto = program("mosquitto", package="mosquitto")
        text = "\n".join(self.settings)
        settings = self.folder / "mosquitto.conf"
        lines = [
            f"listener {self.port} 127.0.0.1",
            self._tls,
            "" if "allow_anonymous" in text else "allow_anonymous true",
            f"user {pwd.getpwuid(os.getuid()).pw_name}",
            "persistence true",
            f"persistence_location {self.folder}/",
            *([] if "autosave" in text else ["autosave_on_changes true", "autosave_interval 1"]),
            "" if "max_queued_messages" in text else "max_queued_messages 0",
            *self.settings,
        ]
        settings.write_text("\n".join(lines) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [mosquitto, "-c", settings], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self._process.poll() is None, self.said()
                assert time.monotonic() < deadline, self.said()
                time.sleep(0.01)
            else:
                return

    def said(self) -> str:
        """What it has logged."""
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        self.send(signal.SIGKILL)

    def stop(self) -> None:
        """End it as its owner would: it saves its state."""
        self.send(signal.SIGTERM)

    def send(self, signal_: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal_)
            process.wait(WAIT_S)

    def save(self) -> None:
        """Let it save all that it has acknowledged until now, and wait until it has."""
        assert self._process is not None
        state = self.folder / "mosquitto.db"

        def written() -> int:
            return state.stat().st_mtime_ns if state.exists() else 0

        before, deadline = written(), time.monotonic() + WAIT_S
        self._process.send_signal(signal.SIGUSR1)
        while written() == before:
            assert time.monotonic() < deadline, "it does not save"
            time.sleep(0.005)


class Publisher:
    """A client with a thread of its own.  What the server has acknowledged is in `acknowledged`."""

    def __init__(self, server: Mosquitto, *, version: int = 5, client_id: str = "") -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self._server = server
        self._answers: list[tuple[int, bool]] = []
        self._sent: dict[int, Any] = {}
        self._answered = threading.Event()
        self._client: Any = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion(version)
        )
        self._client.on_publish = self._on_publish
        self._client.reconnect_delay_set(1, 1)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._server.port)
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        _leave(self._client)

    def _on_publish(self, _: Any, __: Any, mid: int, reason: Any, ___: Any) -> None:
        self._answers.append((mid, reason.is_failure))
        self._answered.set()

    @property
    def acknowledged(self) -> list[Any]:
        """What was given to `publish`, in the order of the acknowledgements."""
        return [self._sent[mid] for mid, is_failure in self._answers if not is_failure]

    @property
    def refused(self) -> list[Any]:
        """What the server has not taken."""
        return [self._sent[mid] for mid, is_failure in self._answers if is_failure]

    def publish(self, topic: str, payload: Any, what: Any = None, **options: Any) -> None:
        """Publish a message, of QoS 1 unless told otherwise; *what* is what it is known by."""
        info = self._client.publish(topic, payload, **{"qos": 1} | options)
        self._sent[info.mid] = payload if what is None else what

    def settle(self) -> None:
        """Wait until the server has answered all."""
        deadline = time.monotonic() + WAIT_S
        while len(self._answers) < len(self._sent):
            assert time.monotonic() < deadline, "it does not answer"
            self._answered.wait(0.1)
            self._answered.clear()


class Listener:
    """A subscriber with a session: it hears all that is published, also while it is gone."""

    def __init__(self, server: Mosquitto, topic: str, **auth: str) -> None:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.heard: list[tuple[str, bytes, str]] = []
        """Topic, payload and idempotency key."""
        self._client: Any = Client(
            CallbackAPIVersion.VERSION2, "listener", protocol=MQTTProtocolVersion.MQTTv5
        )
        if auth:
            self._client.username_pw_set(**auth)
        self._ready = threading.Event()
        self._last = ""
        self._client.on_message = self._on_message
        self._topics = [(topic, 2), ("last/#", 2)]
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", server.port, clean_start=False, properties=_for_an_hour())
        self._client.loop_start()
        assert self._ready.wait(WAIT_S)

    def _on_connect(self, *_: Any) -> None:
        self._client.subscribe(self._topics)

    def _on_message(self, _: Any, __: Any, message: Any) -> None:
        if message.topic.startswith("last/"):
            self._last = message.topic
            self._ready.set()
            return
        properties = dict(getattr(message.properties, "UserProperty", ()))
        key = properties.get("idempotency-key", "")
        self.heard.append((message.topic, bytes(message.payload), key))

    def all(self) -> list[tuple[str, bytes, str]]:
        """What was published until now: a message of its own comes behind it."""
        deadline, wanted = time.monotonic() + WAIT_S, f"last/{time.monotonic_ns()}"
        while not self._client.is_connected():
            assert time.monotonic() < deadline, "it does not connect"
            time.sleep(0.01)
        self._client.publish(wanted, qos=2)
        while self._last != wanted:
            assert time.monotonic() < deadline, "it does not hear itself"
            self._ready.wait(0.05)
            self._ready.clear()
        return list(self.heard)

    def close(self) -> None:
        _leave(self._client)


def _leave(client: Any) -> None:
    client.disconnect()
    client.loop_stop()
    client._sock_close()  # its thread may have ended before it has


def _for_an_hour() -> Any:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    properties: Any = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 3600
    return properties
