"""What a rule says of its runs: modes such as `queue`, and firings that were missed."""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct

from headrace.engine.decider import Queue, RunMode
from headrace.triggers.checks import Seconds, check_choice, check_whole, duration_ns

MODES = ("parallel", "single", "restart", "latest")


class FireWithin(Struct, frozen=True):
    """See `fire_within`."""

    late_ns: int


OnMissed = Literal["fire", "skip"] | FireWithin


def queue(max: int = 10, overflow: Literal["drop_new", "drop_old"] = "drop_new") -> Queue:
    """Let firings wait while a run of the same rule and key is active, in their order.

    At most *max* of them; what comes then is dropped (``drop_new``), or the oldest that
    waits is (``drop_old``).
    """
    check_whole("queue", "max", max)
    check_choice("queue", "overflow", overflow, "drop_new", "drop_old")
    return Queue(max, overflow)


def fire_within(seconds: Seconds) -> FireWithin:
    """Let a timer that was due while nothing ran fire only if it is late by less than this."""
    return FireWithin(duration_ns("fire_within", "seconds", seconds))


def check_mode(mode: Any) -> RunMode:
    """Return *mode* as a rule keeps it; ``"queue"`` is that of `queue` without arguments.

    Raises:
        ValueError: there is no such mode.
    """
    if isinstance(mode, Queue):
        return mode
    if mode == "queue":
        return Queue()
    if mode not in MODES:
        raise ValueError(f"rule(mode={mode!r}): expected one of {', '.join(MODES)} or queue(…)")
    checked: RunMode = mode
    return checked


def late_ns_of(on_missed: Any) -> int | None:
    """Return by how much a timer of a downtime may be late: ``None`` for any time.

    Raises:
        ValueError: *on_missed* says nothing of it.
    """
    if isinstance(on_missed, FireWithin):
        return on_missed.late_ns
    if on_missed not in ("fire", "skip"):
        raise ValueError(
            f"rule(on_missed={on_missed!r}): expected 'fire', 'skip' or fire_within(seconds)"
        )
    return 0 if on_missed == "skip" else None
