"""Lifecycle events: what happens to runs and rules, as events that a rule can react to.

``run.completed.<task>``, ``run.failed.<task>``, ``run.cancelled.<task>``,
``rule.fired.<rule>``, ``rule.mismatch.<rule>``, ``rule.error.<rule>``.
They are stored only if a rule wants them, and as later inputs, never inside the unit that
made them.  Until then they wait here, in the kernel's state, so a crash loses none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from headrace.engine.payload import BLOB_BYTES_MIN
from headrace.engine.record import EventStored
from headrace.engine.run_state import RunState, RunStatus

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Lifecycle:
    """The lifecycle events that are owed to the log, oldest first."""

    def __init__(self, wants: Callable[[str], bool]) -> None:
        """Owe only those whose subject *wants* accepts."""
        self.wants = wants
        """Whether an event on a subject would be stored."""
        self.stored = 0
        """How many were paid."""
        self.owed: deque[tuple[str, bytes, int, int, int]] = deque()

    def owe(self, subject: str, *, run: int, trace: int, hops: int, data: dict[str, Any]) -> None:
        """Put one in the queue, if any rule wants it."""
        if self.wants(subject):
            self.owed.append((subject, _encode(data), run, trace, hops))

    def next(self, at_ns: int) -> EventStored | None:
        """Return the record that pays the oldest debt; it stays owed until `paid`."""
        if not self.owed:
            return None
        subject, data, run, trace, hops = self.owed[0]
        return EventStored(at_ns, subject, Raw(data), run=run, trace=trace, hops=hops)

    def paid(self, subject: str) -> None:
        """Note that the event on *subject* was stored."""
        if self.owed and self.owed[0][0] == subject:
            self.owed.popleft()
            self.stored += 1

    def dump(self) -> list[Any]:
        """Return the whole state as data that msgspec encodes."""
        return [list(owed) for owed in self.owed]

    def load(self, dumped: list[Any]) -> None:
        """Take in what `dump` returned, but for what no rule wants any more."""
        self.owed = deque(owed for owed in map(tuple, dumped) if self.wants(owed[0]))


def data_of_end(
    run: RunState, status: RunStatus, result: Raw | None, blob: bytes | None
) -> dict[str, Any]:
    """Return what the event about the end of *run* says; its size is bounded.

    The result of one that is completed, if that is not in a file of its own, which is named
    then; and the input of one that failed, if that is no larger than such a result.
    """
    data: dict[str, Any] = {
        "run": run.id,
        "task": run.task,
        "status": status,
        "rule": run.rule,
        "key": run.key,
        "attempt": run.attempt,
        "error": run.error,
        "parent": run.parent,
    }
    if status == "completed":
        data["result"] = None if blob is not None else result
        data["blob"] = None if blob is None else blob.hex()
    elif status in ("failed", "dead"):
        fits = run.args is not None and len(bytes(run.args)) <= BLOB_BYTES_MIN
        data["input"] = run.args if fits else None
    return data
