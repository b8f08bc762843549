"""How an exception crosses from a worker process to the engine: by its name and plain data."""

from __future__ import annotations

import sys
import traceback
from functools import reduce
from typing import Any, Final

import msgspec

from headrace.engine.errors import RemoteError
from headrace.engine.payload import ENCODE_ERRORS
from headrace.engine.process_wire import SCRIPT, Raised

TEXT_CHARS_MAX: Final = 1000
TRACEBACK_CHARS_MAX: Final = 8000


def raised(error: BaseException, *, own_files: tuple[str, ...] = ()) -> Raised:
    """Return *error* as data.  Lines of *own_files* at its beginning say nothing about it."""
    kind = type(error)
    args = state = None
    try:
        # As pickle does it, since `error.args` lacks what some keep elsewhere (OSError: the file).
        reduced: Any = error.__reduce__()
        if reduced[0] is kind:
            args = msgspec.msgpack.encode(reduced[1])
            state = msgspec.msgpack.encode(reduced[2]) if len(reduced) > 2 else None
    except ENCODE_ERRORS:
        pass
    except Exception:  # noqa: BLE001 (user code: its __reduce__)
        args = None
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in own_files:
        trace = trace.tb_next
    lines = "".join(traceback.format_exception(kind, error, trace or error.__traceback__))
    return Raised(
        kind.__module__,
        kind.__qualname__,
        args,
        _text(error),
        _sendable(lines[-TRACEBACK_CHARS_MAX:]),
        state,
    )


def made_again(task: str, raised: Raised) -> BaseException:
    """Return the exception that *raised* stands for, or a `RemoteError` that names it."""
    error = _rebuilt(raised) or RemoteError(
        task, f"{raised.qualname}: {raised.text}", kind=f"{raised.module}.{raised.qualname}"
    )
    error.add_note(f"in a worker process:\n{raised.traceback}")
    return error


def _rebuilt(raised: Raised) -> BaseException | None:
    """Make the exception from its data, if it then says the same as the one that was raised.

    Only of modules that are loaded: no policy can name another, and to import one takes time.
    """
    main = sys.modules["__main__"]
    names = (SCRIPT, getattr(getattr(main, "__spec__", None), "name", SCRIPT))
    module = main if raised.module in names else sys.modules.get(raised.module)
    if module is None or raised.args is None:
        return None
    try:
        kind: Any = reduce(getattr, raised.qualname.split("."), module)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            return None
        error = kind(*msgspec.msgpack.decode(raised.args))
        if raised.state is not None:
            error.__dict__.update(msgspec.msgpack.decode(raised.state))
    except Exception:  # noqa: BLE001 (user code: the exception's __init__)
        return None
    return error if _text(error) == raised.text else None


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 (user code: its __str__)
        text = "(its text cannot be had)"
    return _sendable(text[:TEXT_CHARS_MAX])


def _sendable(text: str) -> str:
    """Return *text* without halves of characters, as a file name that is no UTF-8 has."""
    return text.encode(errors="replace").decode()
