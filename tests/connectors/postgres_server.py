"""A real PostgreSQL: a cluster of its own on a loopback port, killed and started again."""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import asyncpg
from tests.connectors.redis_server import free_port
from tests.needs import missing, program

START_S: Final = 30.0
USERS: Final = ("postgres", "nobody")
"""The server refuses to work as root."""

STOP_S: Final = 10.0


class PostgresServer:
    """A cluster in a folder of its own; the user is ``plant``, the database as well."""

    password = "sesame"

    def __init__(self) -> None:
        self._program = program("initdb", package="postgresql", need="postgres").parent
        self._user = _user()
        # Not one of pytest's, which are for their owner alone: it may be another user's server.
        self._folder = Path(mkdtemp(prefix="headrace-postgres-"))
        self._said = self._folder / "stderr.txt"
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://plant:{self.password}@127.0.0.1:{self.port}/plant"

    def make(self) -> None:
        """Make the cluster and start it."""
        data, secret = self._folder / "data", self._folder / "password"
        secret.write_text(self.password)
        if self._user is not None:
            for path in (self._folder, secret):
                shutil.chown(path, self._user)
        made = subprocess.run(
            [
                self._program / "initdb", "-D", data, "-U", "plant", "--pwfile", secret,
                "--auth", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C",
            ],
            user=self._user, check=False, capture_output=True, cwd="/",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr.decode()
        self.start()
        self.sql("CREATE DATABASE plant", database="postgres")

    def start(self) -> None:
        """Start it; after a kill that goes once the last process of before is gone."""
        self._launch()
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.sql("SELECT 1", database="postgres")
            except (OSError, asyncpg.PostgresError):
                assert time.monotonic() < deadline, self._said.read_text()
                time.sleep(0.02)
                if self.process is None or self.process.poll() is not None:
                    if "is another postmaster" in self._said.read_text():
                        # No: another program has got the process id of the one that was killed.
                        (self._folder / "data" / "postmaster.pid").unlink(missing_ok=True)
                    self._launch()
            else:
                return

    def _launch(self) -> None:
        with self._said.open("ab") as said:
            self.process = subprocess.Popen(
                [
                    self._program / "postgres", "-D", self._folder / "data", "-p", str(self.port),
                    "-h", "127.0.0.1", "-k", "", "-c", "shared_buffers=16MB",
                ],
                user=self._user, cwd="/", stdout=subprocess.DEVNULL, stderr=said,
            )  # fmt: skip

    def kill(self) -> None:
        """End it at once, with no time to write anything."""
        if self.process is not None:
            # What it started notices that it is gone, and ends.
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()  # what a shell has started in the background does not hear SIGQUIT
            self.process = None

    def remove(self) -> None:
        """Stop it and remove all that it has."""
        self.stop()
        shutil.rmtree(self._folder)

    def sql(self, text: str, *arguments: Any, database: str = "plant") -> list[Any]:
        """Execute a statement; return its rows."""

        async def execute() -> list[Any]:
            connection = await asyncpg.connect(self.url.rsplit("/", 1)[0] + "/" + database)
            try:
                if arguments:
                    return list(await connection.fetch(text, *arguments))
                if text.lstrip().upper().startswith("SELECT"):
                    return list(await connection.fetch(text))
                await connection.execute(text)
                return []
            finally:
                await connection.close()

        return asyncio.run(execute())


def _user() -> str | None:
    """Return who is to run the server; ``None``: we may ourselves."""
    if os.getuid() != 0:
        return None
    there = {entry.pw_name for entry in pwd.getpwall()}
    for name in USERS:
        if name in there:
            return name
    return missing("postgres", f"looked for a user {' or '.join(USERS)} to run it", "postgresql")
