"""What goes between the engine and its worker processes: msgspec bytes in frames, no pickle."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec import Struct

SCRIPT: Final = "headrace_script"
"""What ``__main__`` of the engine's process is called in a worker, if it is a script."""
LENGTH_BYTES: Final = 4
"""Each message is preceded by its length, big-endian."""


class FunctionPath(Struct, frozen=True):
    """Where a process that knows nothing finds a function."""

    module: str
    file: str | None
    """For a module that cannot be imported by its name, such as ``__main__``."""
    qualname: str


class Hello(Struct, frozen=True, tag=True):
    """The first message to a worker."""

    argv: list[str]
    """The engine's ``sys.argv``."""


class Call(Struct, frozen=True, tag=True):
    """One call of a function."""

    task: str
    function: FunctionPath
    args: bytes
    """As `TaskSpec.encode_args` made them; empty: none."""


class Taken(Struct, frozen=True, tag=True):
    """The worker has taken the call: if it dies from here on, that may be the function's doing."""


class Begun(Struct, frozen=True, tag=True):
    """The worker has imported the function and calls it: its time counts from here."""


class Returned(Struct, frozen=True, tag=True):
    """The function returned."""

    result: bytes


class Raised(Struct, frozen=True, tag=True):
    """The function raised, or could not be called."""

    module: str
    qualname: str
    """Of the exception's type."""
    args: bytes | None
    """What it is made with, if that is plain data."""
    text: str
    traceback: str
    state: bytes | None = None
    """Its attributes, if it has any that it is not made with."""


decode_request: Final = msgspec.msgpack.Decoder(Hello | Call).decode
decode_answer: Final = msgspec.msgpack.Decoder(Taken | Begun | Returned | Raised).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def framed(message: Struct) -> bytes:
    """Return *message* as it is sent."""
    encoded = _encode(message)
    return len(encoded).to_bytes(LENGTH_BYTES, "big") + encoded


def path_of(name: str, function: Callable[..., Any]) -> FunctionPath:
    """Return where another process finds *function*, the code of task *name*.

    Raises:
        TypeError: it cannot be found by a name.
    """
    qualname = getattr(function, "__qualname__", "")
    module = getattr(function, "__module__", None)
    if isinstance(function, partial) or not inspect.isfunction(function):
        found = f"{function!r}"
    elif "<locals>" in qualname:
        found = f"{qualname!r}, which is inside another function"
    elif "<lambda>" in qualname:
        found = "a lambda"
    elif not module:
        found = "a function of no module"
    elif module == "__main__" and _module_of(module) == ("__main__", None):
        found = f"{qualname!r} of a session or of `python -c`, which are no file"
    else:
        return FunctionPath(*_module_of(module), qualname)
    raise TypeError(
        f"task {name!r}: process=True: expected a function at the top of a module, that another "
        f"process can import, found {found}; move it there"
    )


def _module_of(name: str) -> tuple[str, str | None]:
    module = sys.modules.get(name)
    spec = getattr(module, "__spec__", None)
    file = getattr(module, "__file__", None)
    if name == "__main__" and spec is not None:
        return spec.name, file  # python -m package.module
    return name, file
