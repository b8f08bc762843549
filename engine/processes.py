"""`Processes`: worker processes for tasks that need a processor for long.

Spawned, never forked: a forked child would keep the log's lock.  Each is asked over a socket
of its own, so its output goes where the engine's goes.  One that is cancelled or times out
is killed, and another takes its place when it is needed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio
from msgspec import Raw

from headrace.engine.backend import Backend, in_own_thread
from headrace.engine.errors import WorkerDied, WorkerNotStarted
from headrace.engine.process_errors import made_again
from headrace.engine.process_wire import (
    LENGTH_BYTES,
    Begun,
    Call,
    Hello,
    Raised,
    Returned,
    Taken,
    decode_answer,
    framed,
)
from headrace.engine.task import TaskSpec

RECEIVE_BYTES: Final = 65536
END_S: Final = 5.0
"""How long an idle worker may take to end, with what its modules have to do then."""
PROGRAM: Final = (
    "import sys; sys.path[:] = sys.argv[3:]; "
    "from headrace.engine.process_worker import main; main()"
)
"""What a worker runs.  It imports from where the engine does, and not from where it is started."""


class Processes:
    """A bounded pool, empty at first.  All methods belong to the event loop's thread."""

    def __init__(self, backend: Backend, processes_max: int | None = None) -> None:
        """Have *processes_max* at once, or as many as there are processors."""
        self._backend = backend
        self._processes_max = processes_max or os.cpu_count() or 1
        self._limiter: anyio.CapacityLimiter | None = None
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()

    async def call(self, spec: TaskSpec, args: Raw | None, begin: Callable[[], None]) -> Raw:
        """Call the function of *spec* in a worker; return its result as it is stored.

        *begin* is called when the function is: not while it waits for a worker, nor while that
        starts and imports the function's module, which may take longer than the function.

        Raises:
            WorkerNotStarted: there is no worker for it.
            WorkerDied: the process ended in the middle of it.
            RemoteError: it raised what cannot be made again here.
            Exception: what it raised, made again, with its traceback as a note.
        """
        assert spec.process_path is not None
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._processes_max)
        async with self._limiter:
            call = Call(spec.name, spec.process_path, b"" if args is None else bytes(args))
            answer = await self._answer(spec.name, framed(call), begin)
        if isinstance(answer, Raised):
            raise made_again(spec.name, answer)
        return Raw(answer.result)

    async def _answer(
        self, task: str, request: bytes, begin: Callable[[], None]
    ) -> Returned | Raised:
        while True:
            worker = self._idle.pop() if self._idle else _started(task)
            self._all.add(worker)
            try:
                answer = await worker.ask(request, begin)
            except (EOFError, OSError):
                code = await self._kill(worker)
                if not worker.died_idle:  # else somebody killed it before it was asked
                    raise WorkerDied(task, code) from None
            except BaseException:  # cancelled: nothing else would stop it
                await self._kill(worker)
                raise
            else:
                self._idle.append(worker)
                return answer

    async def _kill(self, worker: Worker) -> int:
        self._all.discard(worker)
        worker.kill()
        return await in_own_thread(self._backend, worker.ended)

    async def close(self) -> None:
        """End all workers; return when they have ended.  After all calls."""
        left = list(self._all)
        self._idle.clear()
        self._all.clear()
        for worker in left:
            worker.let_go()
        if left:
            await in_own_thread(self._backend, lambda: [worker.ended(END_S) for worker in left])


class Worker:
    """One process, and the socket to it."""

    def __init__(self) -> None:
        """Start it; what it does first is done while it is asked.

        By the thread of the loop, since Linux ends it with the thread that started it.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self._stream = ours
        fd = theirs.fileno()
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [
                    *(sys.executable, *_flags(), "-c", PROGRAM, str(fd), str(os.getpid())),
                    *map(str, sys.path),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[fd],
                process_group=0,  # with what tasks start there, so that all of it can be killed
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self._hello = framed(Hello(sys.argv))
        self.died_idle = False
        """Whether it ended before it took the last call, though it had answered others."""

    async def ask(self, request: bytes, begin: Callable[[], None]) -> Returned | Raised:
        """Send *request* and return the answer; call *begin* when what is asked for begins.

        Raises:
            EOFError, OSError: the process has ended.
            msgspec.MsgspecError: that is no answer.
        """
        self.died_idle = not self._hello
        await self._send(self._hello + request)
        self._hello = b""
        while isinstance(answer := await self._received(), Taken | Begun):
            self.died_idle = False
            if isinstance(answer, Begun):
                begin()
        return answer

    async def _received(self) -> Taken | Begun | Returned | Raised:
        length = int.from_bytes(await self._receive(LENGTH_BYTES), "big")
        answer: Taken | Begun | Returned | Raised = decode_answer(await self._receive(length))
        return answer

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

    def kill(self) -> None:
        """Kill it, and what it has started."""
        self._stream.close()
        if self._process.returncode is None:  # else its number may be another's by now
            with suppress(ProcessLookupError, PermissionError):  # it is about to end
                os.killpg(self._process.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Let it end, which has nothing to do."""
        self._stream.close()

    def ended(self, within_s: float | None = None) -> int:
        """Wait for its end; return its exit code, or less the signal's number.

        One that has not ended *within_s* seconds is killed.
        """
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()


def _started(task: str) -> Worker:
    """Return a new worker for a call of *task*."""
    try:
        return Worker()
    except OSError as error:
        raise WorkerNotStarted(task, "process", error) from error


def _flags() -> list[str]:
    """Return what the interpreter was started with that the worker must have too."""
    return subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined,no-any-return]
