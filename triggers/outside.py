"""What the functions of a rule read that no log has: clocks and chance.

Found in their code, without a call.  So a rule can be named whose firings depend on when it is
asked, also where two replays in a row happen to agree.
"""

from __future__ import annotations

import datetime as dt
import functools
import os
import random
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, Final

_CLOCKS: Final = (
    "time",
    "time_ns",
    "monotonic",
    "monotonic_ns",
    "perf_counter",
    "perf_counter_ns",
)
_NOW: Final = ("now", "utcnow", "today")
_UNIQUE: Final = ("uuid1", "uuid4")
_CHANCE: Final = ("random", "secrets")
"""Modules of which everything is chance."""
_READ_NAME: Final = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLOSURE")
_READ_ATTRIBUTE: Final = ("LOAD_ATTR", "LOAD_METHOD")


def outside_read(parts: list[Any]) -> list[str]:
    """Return what functions among *parts* read of clocks and chance, such as ``time.time``.

    Functions that they call by name count, wherever those are written.
    """
    found: set[str] = set()
    seen: set[int] = set()
    for part in parts:
        if callable(part) and not isinstance(part, type):
            _look_into(part, found, seen)
    return sorted(found)


def _look_into(function: Callable[..., Any], found: set[str], seen: set[int]) -> None:
    if isinstance(function, types.MethodType):
        function = function.__func__
    elif isinstance(function, functools.partial):
        function = function.func
    if not isinstance(function, types.FunctionType) or id(function) in seen:
        return
    seen.add(id(function))
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    names = {**function.__globals__, **{name: _in_cell(cell) for name, cell in cells.items()}}
    for value in _values_read(function.__code__, names):
        said = _said(value)
        if said:
            found.add(said)
        elif isinstance(value, types.FunctionType | types.MethodType | functools.partial):
            _look_into(value, found, seen)


def _in_cell(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return None


def _values_read(code: types.CodeType, names: dict[str, Any]) -> Iterator[object]:
    """Yield what *code* names: values of *names*, and attributes of modules and classes there."""
    import dis

    value: object = None
    for instruction in dis.get_instructions(code):
        if instruction.opname in _READ_NAME:
            yield value
            value = names.get(instruction.argval)
        elif instruction.opname in _READ_ATTRIBUTE and isinstance(value, types.ModuleType | type):
            value = getattr(value, instruction.argval, None)
        else:
            yield value
            value = None
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _values_read(constant, names)


def _said(value: object) -> str:
    """Return what a clock or a source of chance is called; "": *value* is none."""
    name = getattr(value, "__name__", "")
    owner = getattr(value, "__self__", None)
    if owner is time and name in _CLOCKS:
        return f"time.{name}"
    if isinstance(owner, random.Random):
        return f"random.{name}"
    if isinstance(owner, type) and issubclass(owner, dt.date) and name in _NOW:
        return f"{owner.__name__}.{name}"
    module = getattr(value, "__module__", None)
    if module == os.name and name == "urandom":  # as which module it is written in C
        return "os.urandom"
    if module in _CHANCE or (module == "uuid" and name in _UNIQUE):
        return f"{module}.{name}"
    return ""
