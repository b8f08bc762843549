"""The Kafka cluster that librdkafka mocks, in a process of its own: it speaks the real protocol.

It keeps everything in memory and cannot be given a port, so it cannot be killed and started again
with what it had.  It is stopped instead (SIGSTOP): the connections stay and nobody answers.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Final

PROGRAM: Final = """
import sys
from confluent_kafka import Producer
cluster = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "none", "log_level": 0})
broker = next(iter(cluster.list_topics(timeout=10).brokers.values()))
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


class KafkaMock:
    """A cluster of one broker."""

    def __init__(self) -> None:
        self.servers = ""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.servers = self._process.stdout.readline().strip()
        assert self.servers, "the mock of a cluster did not start"

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # Until all of its threads stand still, it may still answer.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
