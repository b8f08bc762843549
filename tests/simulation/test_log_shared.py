"""One writer, a second one that wants to be it, and readers, each in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from random import Random
from typing import IO

import pytest
from tests.simulation import shared

from headrace.engine.errors import LogLocked
from headrace.engine.log import Durability, FileLog, segment
from headrace.engine.log.lease import is_lease
from headrace.engine.log.verify import verify

ROOT = Path(__file__).parents[2]
READERS = 4
READERS_MAX = 8
REFUSED_WITHIN_S = 0.1
PATIENCE_S = 60.0
"""How long a process may take for an answer, on a machine that does other things, too."""


class Child:
    """A process that is told lines and says lines."""

    pid: int

    def __init__(self, stdin: IO[str] | None, stdout: IO[str] | None) -> None:
        assert stdin is not None
        assert stdout is not None
        self._stdin, self._stdout = stdin, stdout

    def tell(self, line: object) -> None:
        self._stdin.write(f"{line}\n")
        self._stdin.flush()

    def hear(self) -> list[int]:
        """Return the numbers of the next line; its end without one is a failure."""
        return list(map(int, self.hear_line().split()))

    def hear_line(self) -> str:
        watchdog = threading.Timer(PATIENCE_S, os.kill, [self.pid, signal.SIGKILL])
        watchdog.start()
        line = self._stdout.readline()
        watchdog.cancel()
        assert line, f"process {self.pid} ended with {self.end()}"
        return line

    @abstractmethod
    def kill(self) -> None:
        """End it at once, if it has not ended."""

    @abstractmethod
    def end(self) -> int:
        """Wait for its end; return its exit code."""

    def close(self) -> None:
        self.kill()
        for stream in (self._stdin, self._stdout):
            with suppress(BrokenPipeError):  # it was told something after its end
                stream.close()


class Process(Child):
    """A child with a Python of its own."""

    def __init__(self, *arguments: object, pass_fds: tuple[int, ...] = ()) -> None:
        self._child = subprocess.Popen(
            [sys.executable, shared.__file__, *map(str, arguments)],
            stdin=subprocess.PIPE,  # its end is the child's end
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
            pass_fds=pass_fds,
            text=True,
        )
        self.pid = self._child.pid
        super().__init__(self._child.stdin, self._child.stdout)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def end(self) -> int:
        return self._child.wait(PATIENCE_S)


class Reader(Child):
    """A child that was forked from one that had imported all."""

    def __init__(self, asked: socket.socket) -> None:
        self._asked = asked
        self._code: int | None = None
        stdin, to_it = os.pipe()
        from_it, stdout = os.pipe()
        socket.send_fds(asked, [b"fork"], [stdin, stdout])
        os.close(stdin)
        os.close(stdout)
        super().__init__(os.fdopen(to_it, "w"), os.fdopen(from_it))
        self.pid = int(asked.recv(16))

    def kill(self) -> None:
        if self._code is None:  # else its pid may be another's
            os.kill(self.pid, signal.SIGKILL)
            self.end()

    def end(self) -> int:
        if self._code is None:
            self._asked.send(b"%d" % self.pid)
            self._code = int(self._asked.recv(16))
        return self._code


@contextmanager
def readers_of(path: Path) -> Generator[Callable[[], Reader]]:
    """Give what starts a reader; all end with the block."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    with ours, theirs, ExitStack() as stack:
        stack.callback(Process("read", path, theirs.fileno(), pass_fds=(theirs.fileno(),)).close)

        def start() -> Reader:
            reader = Reader(ours)
            stack.callback(reader.close)
            return reader

        yield start


@contextmanager
def started(*arguments: object) -> Generator[Process]:
    """Give a process that ends with the block."""
    process = Process(*arguments)
    try:
        yield process
    finally:
        process.close()


def refused_after_s(path: Path) -> float:
    """Try to be a second writer, and return how long it took to be refused."""
    begun = time.perf_counter()
    with pytest.raises(LogLocked, match="found the log held by pid"):
        FileLog(path).open(lambda: None)
    return time.perf_counter() - begun


def bases(path: Path) -> list[int]:
    return sorted(filter(None, map(segment.base_of, os.listdir(path))))  # noqa: PTH208


def share(path: Path, durability: Durability, *, segments: int, rng: Random) -> str:
    """Let all work on one log until the writer has begun so many segments; say what came of it."""
    refused_s: list[float] = []
    with ExitStack() as stack:
        writer = stack.enter_context(started("write", path, durability))
        assert writer.hear_line() == "ready\n"
        start = stack.enter_context(readers_of(path))
        readers = [start() for _ in range(READERS)]
        assert [reader.hear() for reader in readers] == [[1]] * READERS
        writer.tell("go")
        begun = killed = 0
        newest = 1
        while begun < segments:
            # Readers that come when much is gone, and some that are gone in a moment.
            late = start()
            late.hear()
            refused_s.append(refused_after_s(path))
            if rng.random() < 0.7 or len(readers) == READERS_MAX:
                late.kill()
                killed += 1
            else:
                readers.append(late)
            now = bases(path)
            begun += sum(base > newest for base in now)
            newest = now[-1]
        writer.tell("stop")
        last, removed = writer.hear()
        for number, reader in enumerate(readers):
            reader.tell(last)
            seen, count = reader.hear()
            assert seen == last
            assert count == last if number < READERS else count <= last
            assert reader.end() == 0
        assert writer.end() == 0
    assert removed > 0, "nothing was removed while it was read"
    # Who was killed keeps nothing.
    log = FileLog(path, keep_bytes=0)
    assert log.retain(last + 1).kept_by == ()
    assert len(bases(path)) == 1
    assert not any(map(is_lease, os.listdir(path)))  # noqa: PTH208
    assert verify(path).ok
    assert sorted(refused_s)[len(refused_s) // 2] < REFUSED_WITHIN_S
    return (
        f"{last} records, {removed} segments removed meanwhile, {len(readers)} readers saw each "
        f"record once, {killed} were killed; a second writer was refused {len(refused_s)} times, "
        f"within {max(refused_s) * 1000:.1f} ms"
    )


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["fsynced", "flushed"])
def test_readers_see_every_record_once(tmp_path: Path, durability: Durability) -> None:
    """While a log is written, rotated and shortened, no reader misses or repeats a record.

    None sees a part of one, readers that are killed keep nothing, and nobody else can write.
    """
    print(share(tmp_path / "log", durability, segments=85, rng=Random(1)))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_readers_see_every_record_once_for_long(tmp_path: Path, seed: int) -> None:
    """As above, for minutes."""
    rng = Random(seed)
    durability: Durability = rng.choice(("fsynced", "flushed"))
    print(share(tmp_path / "log", durability, segments=300, rng=rng))
