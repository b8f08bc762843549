"""Functions that worker processes import, for the tests of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from msgspec import Struct


class Point(Struct):
    """Data with a type."""

    x: int
    y: int


class Odd(Exception):
    """An exception that cannot be made from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        """Keep something else than is passed on."""
        super().__init__(f"{first} and {second}")


def where() -> int:
    """Return the process."""
    return os.getpid()


def swapped(point: Point, *, by: int = 0) -> Point:
    """Take and return typed data."""
    assert type(point) is Point
    return Point(point.y + by, point.x)


def large(size: int) -> str:
    """Return much."""
    return "x" * size


def prints(text: str) -> None:
    """Write to stdout, which is nobody's protocol."""
    print(text)
    sys.stdout.flush()


def fails(kind: str) -> None:
    """Raise what was asked for."""
    if kind == "ours":
        raise Odd(1, 2)
    if kind == "exit":
        sys.exit(3)
    raise KeyError("plain", 7)


def dies(how: str, mark: str) -> str:
    """End the process, the first time."""
    if Path(mark).exists():
        return "alive"
    Path(mark).write_text(str(os.getpid()), encoding="ascii")
    if how == "exit":
        os._exit(5)
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


def hangs(mark: str) -> None:
    """Say which process this is, and never end."""
    partial = Path(f"{mark}.part")
    partial.write_text(str(os.getpid()), encoding="ascii")
    partial.rename(mark)
    while True:
        time.sleep(60)


def unspeakable() -> Any:
    """Return what cannot be stored."""
    return object()
