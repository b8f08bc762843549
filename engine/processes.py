"""`Processes`: worker processes for tasks that need a processor for long.

Spawned, never forked: a forked child would keep the log's lock.  Each is asked over a socket
of its own, so its output goes where the engine's goes.  One that is cancelled or times out
is killed, and another takes its place when it is needed.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from functools import reduce
from typing import Any, Final

import anyio
import msgspec
from anyio import CancelScope, to_thread
from msgspec import Raw

from headrace.engine.errors import RemoteError, WorkerDied
from headrace.engine.process_wire import (
    LENGTH_BYTES,
    Call,
    Hello,
    Raised,
    decode_answer,
    framed,
)
from headrace.engine.task import TaskSpec

RECEIVE_BYTES: Final = 65536


class Processes:
    """A bounded pool, empty at first.  All methods belong to the event loop's thread."""

    def __init__(self, processes_max: int | None = None) -> None:
        """Have *processes_max* at once, or as many as there are processors."""
        self._processes_max = processes_max or os.cpu_count() or 1
        self._limiter: anyio.CapacityLimiter | None = None
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    async def call(self, spec: TaskSpec, args: Raw | None) -> Raw:
        """Call the function of *spec* in a worker; return its result as it is stored.

        Raises:
            WorkerDied: the process ended in the middle of it.
            RemoteError: it raised what cannot be made again here.
            Exception: what it raised, made again, with its traceback as a note.
        """
        assert spec.process_path is not None
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._processes_max)
        async with self._limiter:
            worker = await self._free_worker()
            call = Call(spec.name, spec.process_path, b"" if args is None else bytes(args))
            try:
                answer = decode_answer(await worker.ask(framed(call)))
            except (EOFError, OSError):
                raise WorkerDied(spec.name, await self._let_go(worker)) from None
            except BaseException:  # cancelled: nothing else would stop it
                with CancelScope(shield=True):
                    await self._let_go(worker)
                raise
            self._idle.append(worker)
        if isinstance(answer, Raised):
            raise _made_again(spec.name, answer)
        return Raw(answer.result)

    async def _free_worker(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive:
                return worker
            await self._let_go(worker)  # somebody killed it while it had nothing to do
        worker = Worker()
        self._all.add(worker)
        return worker

    async def _let_go(self, worker: Worker) -> int:
        self._all.discard(worker)
        return await worker.end()

    async def close(self) -> None:
        """Kill all workers; return when they have ended."""
        self._idle.clear()
        for worker in list(self._all):
            await self._let_go(worker)


class Worker:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        """Start it; what it does first is done while it is asked."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [
                    *(sys.executable, *_flags(), "-m", "headrace.engine.process_worker"),
                    *(str(theirs.fileno()), str(os.getpid())),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        ours.settimeout(0)
        self._stream = ours
        self._hello = framed(Hello(sys.path))

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    async def ask(self, request: bytes) -> bytes:
        """Send *request* and return the answer.

        Raises:
            EOFError, OSError: the process has ended.
        """
        await self._send(self._hello + request)
        self._hello = b""
        length = int.from_bytes(await self._receive(LENGTH_BYTES), "big")
        return await self._receive(length)

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self._stream.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._stream)

    async def _receive(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._stream.recv(min(RECEIVE_BYTES, count - len(parts)))
            except BlockingIOError:
                await anyio.wait_readable(self._stream)
                continue
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    async def end(self) -> int:
        """Kill it, if it has not ended; return its exit code, or less the signal's number."""
        self._stream.close()
        code = self._process.poll()
        if code is None:
            self._process.kill()
            code = await to_thread.run_sync(self._process.wait)
        return code


def _flags() -> list[str]:
    """Return what the interpreter was started with that the worker must have too."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]


def _made_again(task: str, raised: Raised) -> BaseException:
    """Return the exception that *raised* stands for; another if it cannot be made again."""
    try:
        kind: Any = reduce(
            getattr, raised.qualname.split("."), importlib.import_module(raised.module)
        )
        if raised.args is not None and isinstance(kind, type) and issubclass(kind, Exception):
            error: BaseException = kind(*msgspec.msgpack.decode(raised.args))
        else:
            error = RemoteError(task, f"{raised.qualname}: {raised.text}")
    except Exception:  # noqa: BLE001 (user code: the exception's module and its __init__)
        error = RemoteError(task, f"{raised.qualname}: {raised.text}")
    error.add_note(f"in a worker process:\n{raised.traceback}")
    return error
