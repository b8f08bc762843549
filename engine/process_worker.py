"""What a worker process does: it calls functions, one after the other, until nobody asks.

It is asked over a socket.  It imports the module of a task, and so the app is declared here
too; it is not opened.  It ends with whoever asks, whatever it is doing then.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from types import FrameType
from typing import Final

from headrace.engine import process_import
from headrace.engine.process_errors import raised
from headrace.engine.process_import import Functions
from headrace.engine.process_wire import (
    LENGTH_BYTES,
    Begun,
    Call,
    Hello,
    Raised,
    Returned,
    Taken,
    decode_request,
    framed,
)

PR_SET_PDEATHSIG: Final = 1
OWN_FILES: Final = (__file__, process_import.__file__)


def end_with(parent: int) -> None:
    """Let the kernel kill this process when *parent* ends, also while C code keeps the interpreter.

    On other systems than Linux the thread of `Requests` does what it can.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


class Requests:
    """What is asked, read by a thread of its own, so that the end of the engine is noticed."""

    def __init__(self, stream: socket.socket) -> None:
        """Read from *stream*."""
        self._stream = stream
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._asked = 0  # written by the thread only
        self._answered = 0  # written by the main thread only
        threading.Thread(target=self._read, name="headrace requests", daemon=True).start()

    def _read(self) -> None:
        with suppress(ConnectionError):
            while length := self._received(LENGTH_BYTES):
                request = decode_request(self._received(int.from_bytes(length, "big")))
                if isinstance(request, Hello):
                    sys.argv[:] = request.argv
                else:
                    self._asked += 1
                    self._queue.put(request)
        if self._asked != self._answered:
            os.killpg(0, signal.SIGKILL)  # nobody wants the answer
        self._queue.put(None)

    def _received(self, count: int) -> bytes:
        """Return *count* bytes, or none at the end of the stream."""
        parts = bytearray()
        while len(parts) < count:
            part = self._stream.recv(count - len(parts))
            if not part:
                return b""
            parts += part
        return bytes(parts)

    def next(self) -> Call | None:
        """Return what is asked next, and say that it is taken; ``None``: nothing will be."""
        call = self._queue.get()
        if call is not None:
            self._stream.sendall(framed(Taken()))
        return call

    def begin(self) -> None:
        """Say that the function is called next which was asked for last."""
        self._stream.sendall(framed(Begun()))

    def answer(self, answer: Returned | Raised) -> None:
        """Answer what was asked last."""
        self._answered += 1
        self._stream.sendall(framed(answer))


def answer_to(functions: Functions, call: Call, begin: Callable[[], None]) -> Returned | Raised:
    """Call what is asked for, and *begin* just before; return what came of it."""
    try:
        spec = functions.find(call.task, call.function)
        args, kwargs = spec.decode_args(call.args) if call.args else ([], {})
        function = spec.bind(args, kwargs)
        begin()
        return Returned(bytes(spec.encode_result(function())))
    except BaseException as error:  # noqa: BLE001 (the run boundary: it is raised in the engine)
        return raised(error, own_files=OWN_FILES)
    finally:
        for stream in (sys.stdout, sys.stderr):  # it may be killed next
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()


def leave_to_engine(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: whoever stops a service tells all its processes, and the engine acts on it.

    A function, since a signal that is ignored would be ignored by what tasks start, too.
    """


def main() -> None:
    """Answer calls over a socket until nobody is there to ask; see `processes.PROGRAM`."""
    signal.signal(signal.SIGINT, leave_to_engine)
    signal.signal(signal.SIGTERM, leave_to_engine)
    fd, parent = int(sys.argv[1]), int(sys.argv[2])
    end_with(parent)
    os.set_inheritable(fd, False)  # noqa: FBT003 (the standard library's)
    functions = Functions()
    with socket.socket(fileno=fd) as stream:
        requests = Requests(stream)
        with suppress(ConnectionError):
            while (call := requests.next()) is not None:
                requests.answer(answer_to(functions, call, requests.begin))
