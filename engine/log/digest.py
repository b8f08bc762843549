"""The digest of a segment, computed beside its writing."""

from __future__ import annotations

import threading
from queue import Queue
from typing import TYPE_CHECKING, Final

from headrace.engine.log.files import Data

if TYPE_CHECKING:
    from hashlib import blake2b

DIGEST_BYTES: Final = 16

PIECE_BYTES: Final = 1024 * 1024
"""How much is handed over at once: seldom, since each time wakes a thread."""

PIECES_AHEAD_MAX: Final = 4
"""How many pieces may wait; the writer waits if it is faster than that."""


def new_digest() -> blake2b:
    """Return the digest of nothing, to be fed the bytes of a segment."""
    from hashlib import blake2b  # half of this package's import time

    return blake2b(digest_size=DIGEST_BYTES)


class RunningDigest:
    """The digest of all that it was fed, in order.  Used by one thread at a time.

    Nobody who waits for a record has to wait for it: full pieces are left to a thread, which
    there is from the first of them to the next `value` or `close`.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._digest = new_digest()
        self._parts: list[Data] = []
        self._parts_bytes = 0
        self._pieces: Queue[list[Data] | None] = Queue(PIECES_AHEAD_MAX)
        self._thread: threading.Thread | None = None

    def feed(self, data: Data) -> None:
        """Take in *data*, which must not change any more."""
        self._parts.append(data)
        self._parts_bytes += len(data)
        if self._parts_bytes >= PIECE_BYTES:
            if self._thread is None:
                # A daemon, since it only computes: a program that ends without closing the
                # log does not have to wait for it.
                self._thread = threading.Thread(
                    target=self._compute, name="headrace-digest", daemon=True
                )
                self._thread.start()
            self._pieces.put(self._parts)
            self._parts, self._parts_bytes = [], 0

    def _compute(self) -> None:
        while (parts := self._pieces.get()) is not None:
            for part in parts:
                self._digest.update(part)

    def value(self) -> bytes:
        """Return the digest of everything so far."""
        self.close()
        for part in self._parts:
            self._digest.update(part)
        self._parts, self._parts_bytes = [], 0
        return self._digest.digest()

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._thread is not None:
            self._pieces.put(None)
            self._thread.join()
            self._thread = None
