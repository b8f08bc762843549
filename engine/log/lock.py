"""LOCK: one writer at a time, by flock, which the kernel frees when a process ends."""

from __future__ import annotations

import contextlib
import os
from typing import Final

from headrace.engine.errors import LogLocked
from headrace.engine.log.files import Files, read_all, write_all

NAME: Final = "LOCK"
_TEXT_BYTES_MAX: Final = 512


class Lock:
    """The held lock of a log's directory."""

    def __init__(self, files: Files, folder: str) -> None:
        """Take the lock.

        Raises:
            LogLocked: somebody has it; the message says who.
        """
        self._files = files
        self._fd = files.open(f"{folder}/{NAME}", os.O_RDWR | os.O_CREAT)
        if not files.lock(self._fd):
            text = files.pread(self._fd, _TEXT_BYTES_MAX, 0)
            files.close(self._fd)
            holder = text.decode("utf-8", "replace").strip() or "a process that is just starting"
            raise LogLocked(
                f"{folder}: expected to be the only writer, found the log held by {holder}; "
                "stop that process, or read the log with `headrace log` and `events tail`"
            )
        with contextlib.ExitStack() as undo:
            undo.callback(self.release)
            # For people only: the lock is the flock, so a text that a crash left is no harm.
            files.truncate(self._fd, 0)
            write_all(files, self._fd, _text(files).encode(), 0)
            undo.pop_all()

    def release(self) -> None:
        """Give the lock back."""
        # Unlocked and not only closed: a forked child may still have the descriptor.
        self._files.unlock(self._fd)
        self._files.close(self._fd)


def _text(files: Files) -> str:
    return f"pid {os.getpid()} on host {os.uname().nodename} (boot {_boot_id(files)})\n"


def _boot_id(files: Files) -> str:
    try:
        return read_all(files, "/proc/sys/kernel/random/boot_id").decode("ascii").strip()
    except OSError:
        return "unknown"
