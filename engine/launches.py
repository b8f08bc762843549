"""`Launches`: which run holds which key, and what came of those that have ended.

Part of the kernel's state, so it changes by records only.  A key is held by its run while
that is open, and with a window that long after its end; what the run came to is kept as long.
Of those that have ended a bounded number is kept: the oldest go first, and their keys are
free again.
"""

from __future__ import annotations

import heapq
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from headrace.engine.listing import ListWriting
from headrace.engine.table import ENCODE

KEYED_ENDED_MAX: Final = 10_000
"""Keyed runs that have ended and are kept."""
KEYED_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of their results together."""

DUE_SPARE: Final = 64

LaunchStatus = Literal["active", "completed", "dead", "cancelled"]


class Launch(Struct, array_like=True, frozen=True):
    """The run that holds a key."""

    run: int
    task: str
    key: str
    window_ns: int = 0
    status: LaunchStatus = "active"
    ended_at_ns: int = 0
    result: bytes | None = None
    error: str | None = None
    blob: bytes | None = None
    """Where the result is, if it is too large to be kept here."""

    @property
    def until_ns(self) -> int:
        """When its key is free again, once it has ended."""
        return self.ended_at_ns + self.window_ns


class Launches:
    """The keys that are held, by task and key."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Launch] = {}
        self._ended: dict[int, Launch] = {}
        """By run, in the order of their ends."""
        self._bytes = 0
        self._due: list[tuple[int, int]] = []
        """``(until_ns, run)`` of those that have ended, as a heap; some are out of date."""

    def __len__(self) -> int:
        return len(self._by_key)

    def find(self, task: str, key: str, at_ns: int) -> Launch | None:
        """Return who holds *key* of *task* at log time *at_ns*."""
        held = self._by_key.get((task, key))
        if held is None or (held.status != "active" and at_ns >= held.until_ns):
            return None
        return held

    def ended(self, run: int, at_ns: int) -> Launch | None:
        """Return what came of a keyed run, if it is kept and its window is not over."""
        launch = self._ended.get(run)
        return None if launch is None or at_ns >= launch.until_ns else launch

    def hold(self, launch: Launch, at_ns: int) -> None:
        """Let a new run, or one that goes on, hold its key."""
        self._expire(at_ns)
        before = self._by_key.get((launch.task, launch.key))
        if before is not None:
            self._forget(before)
        self._by_key[launch.task, launch.key] = launch

    def end(
        self,
        place: tuple[str, str],
        status: LaunchStatus,
        *,
        at_ns: int,
        result: Raw | None,
        error: str | None,
        blob: bytes | None = None,
    ) -> None:
        """Note what came of the run that holds the key of *place*, a task and a key."""
        self._expire(at_ns)
        launch = self._by_key[place]
        if not launch.window_ns:
            del self._by_key[place]
            return
        launch = msgspec.structs.replace(
            launch,
            status=status,
            ended_at_ns=at_ns,
            result=None if result is None else bytes(result),
            error=error,
            blob=blob,
        )
        self._keep(launch)
        while len(self._ended) > KEYED_ENDED_MAX or self._bytes > KEYED_BYTES_MAX:
            self._forget(next(iter(self._ended.values())))

    def _keep(self, launch: Launch) -> None:
        self._by_key[launch.task, launch.key] = launch
        self._ended[launch.run] = launch
        self._bytes += len(launch.result or b"")
        heapq.heappush(self._due, (launch.until_ns, launch.run))
        if len(self._due) > 2 * len(self._ended) + DUE_SPARE:
            # Most are of launches that had to make room, long before their windows are over.
            self._due = [(one.until_ns, one.run) for one in self._ended.values()]
            heapq.heapify(self._due)

    def _expire(self, at_ns: int) -> None:
        while self._due and self._due[0][0] <= at_ns:
            until_ns, run = heapq.heappop(self._due)
            launch = self._ended.get(run)
            if launch is not None and launch.until_ns == until_ns:
                self._forget(launch)

    def _forget(self, launch: Launch) -> None:
        if self._ended.pop(launch.run, None) is not None:
            self._bytes -= len(launch.result or b"")
        held = self._by_key.get((launch.task, launch.key))
        if held is not None and held.run == launch.run:
            del self._by_key[launch.task, launch.key]

    def blobs(self) -> set[bytes]:
        """Return the digests of the results that are kept elsewhere."""
        return {launch.blob for launch in self._ended.values() if launch.blob is not None}

    def _entries(self) -> list[Launch]:
        active = [launch for launch in self._by_key.values() if launch.status == "active"]
        return [*sorted(active, key=lambda launch: launch.run), *self._ended.values()]

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        return list(self._entries())

    def write_out(self) -> ListWriting[Launch]:
        """Begin to write all out."""
        return ListWriting(self._entries(), lambda launch: Raw(ENCODE(launch)))

    def load(self, entries: list[Raw]) -> None:
        """Take in what was written out."""
        for raw in entries:
            launch = _decode(raw)
            if launch.status == "active":
                self._by_key[launch.task, launch.key] = launch
            else:
                self._keep(launch)


_decode = msgspec.msgpack.Decoder(Launch).decode
