"""A real nats-server on the loopback interface, for the peers that need one."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S_MAX = 30.0


@contextmanager
def server(folder: Path, *, jetstream: bool) -> Iterator[str]:
    """Give the address of a server that has begun to listen."""
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "-a", "127.0.0.1", "-p", str(port)]
    if jetstream:
        command += ["-js", "-sd", str(folder / f"jetstream-{port}")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
            else:
                break
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
