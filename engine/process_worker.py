"""A worker process: ``python -m headrace.engine.process_worker FD``.

It calls functions one after the other, as they are asked for over a socket, and ends with
whoever asks.  It imports the module of a task, and so the app is declared here too; it is
not opened.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from functools import reduce
from types import ModuleType
from typing import Any, Final

import msgspec

from headrace.engine.process_wire import (
    LENGTH_BYTES,
    Call,
    FunctionPath,
    Hello,
    Raised,
    Returned,
    decode_request,
    framed,
)
from headrace.engine.run import Run
from headrace.engine.task import TaskSpec

PR_SET_PDEATHSIG: Final = 1
SCRIPT: Final = "headrace_script"
"""What ``__main__`` of the engine's process is called here."""
TEXT_CHARS_MAX: Final = 1000
TRACEBACK_CHARS_MAX: Final = 8000


def end_with(parent: int) -> None:
    """Let the kernel kill this process when *parent* ends, whatever it is doing then.

    On other systems than Linux it ends when it is idle next.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            os._exit(1)


class Functions:
    """The functions that were asked for so far."""

    def __init__(self) -> None:
        """None yet."""
        self._specs: dict[tuple[str, FunctionPath], TaskSpec] = {}
        self._modules: dict[str, ModuleType] = {}

    def find(self, task: str, path: FunctionPath) -> TaskSpec:
        """Return the function at *path*, as the task that it is declared as."""
        spec = self._specs.get((task, path))
        if spec is None:
            module = self._modules.get(path.module) or self._import(path)
            self._modules[path.module] = module
            function: Any = reduce(getattr, path.qualname.split("."), module)
            spec = TaskSpec(task, function, run_type=Run)
            self._specs[task, path] = spec
        return spec

    def _import(self, path: FunctionPath) -> ModuleType:
        if path.module != "__main__":
            with suppress(ModuleNotFoundError):
                if importlib.util.find_spec(path.module) is not None:
                    return importlib.import_module(path.module)
        if path.file is None:
            raise ModuleNotFoundError(f"no module {path.module!r}, and no file to load it from")
        # Under another name than __main__, so that what a script does when it is run is not
        # done here.
        name = SCRIPT if path.module == "__main__" else path.module
        spec = importlib.util.spec_from_file_location(name, path.file)
        if spec is None or spec.loader is None:
            raise ModuleNotFoundError(f"{path.file} is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module


def answer_to(functions: Functions, call: Call) -> Returned | Raised:
    """Call what is asked for; return what came of it."""
    try:
        spec = functions.find(call.task, call.function)
        args, kwargs = spec.decode_args(call.args) if call.args else ([], {})
        return Returned(bytes(spec.encode_result(spec.bind(args, kwargs)())))
    except BaseException as error:  # noqa: BLE001 (the run boundary: it is raised in the engine)
        return raised(error)


def raised(error: BaseException) -> Raised:
    """Return *error* as data."""
    kind = type(error)
    try:
        args: bytes | None = msgspec.msgpack.encode(error.args)
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        args = None
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (user code: its __str__)
        text = "(its text cannot be had)"
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    lines = "".join(traceback.format_exception(kind, error, trace or error.__traceback__))
    return Raised(
        "__main__" if kind.__module__ == SCRIPT else kind.__module__,
        kind.__qualname__,
        args,
        text[:TEXT_CHARS_MAX].encode(errors="replace").decode(),
        lines[-TRACEBACK_CHARS_MAX:].encode(errors="replace").decode(),
    )


def received(stream: socket.socket, count: int) -> bytes:
    """Return *count* bytes, or none at the end of the stream."""
    parts: list[bytes] = []
    while count:
        part = stream.recv(count)
        if not part:
            return b""
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def main(fd: int, parent: int) -> None:
    """Answer calls over the socket *fd* until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine to act on
    end_with(parent)
    functions = Functions()
    with socket.socket(fileno=fd) as stream:
        while length := received(stream, LENGTH_BYTES):
            request = decode_request(received(stream, int.from_bytes(length, "big")))
            if isinstance(request, Hello):
                sys.path[:] = request.path
            else:
                stream.sendall(framed(answer_to(functions, request)))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
