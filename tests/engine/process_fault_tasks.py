"""Functions for worker processes that do what a worker should outlive, or clean up after."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path


class Coded(Exception):
    """An exception with an attribute that it is not made from."""

    code = 0


class Counting(Exception):
    """An exception that never says the same twice."""

    made = 0

    def __init__(self) -> None:
        """Count."""
        super().__init__()
        Counting.made += 1
        self.number = Counting.made

    def __str__(self) -> str:
        """Say how many there were before."""
        return f"made {self.number}"

    def __reduce__(self) -> tuple[type[Counting], tuple[()]]:
        """Say how it is made again, which is not enough."""
        return type(self), ()


def opens(path: str) -> None:
    """Open a file."""
    Path(path).read_bytes()


def signalled(number: int) -> int:
    """Get a signal that is for the engine, and go on."""
    os.kill(os.getpid(), number)
    return os.getpid()


def has_child(mark: str) -> None:
    """Start a process of its own, say which both are, and wait for it."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    write(f"{mark}.parent", os.getpid())
    write(mark, child.pid)
    child.wait()


def has_usual_signals() -> bool:
    """Say whether a process that is started from here can be ended as any other."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    child.terminate()
    return child.wait() == -signal.SIGTERM


def write(mark: str, pid: int) -> None:
    """Write a number that is there as a whole, or not."""
    partial = Path(f"{mark}.part")
    partial.write_text(str(pid), encoding="ascii")
    partial.rename(mark)
