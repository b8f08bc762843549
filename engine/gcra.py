"""The generic cell rate algorithm (GCRA, ITU-T I.371, "virtual scheduling"), as pure functions.

A theoretical arrival time (TAT) moves on by per/n with each cell that passes; one that comes
more than (burst - 1) * per/n before it does not conform.  All is counted in n-ths of a
nanosecond, so that nothing is rounded but the time at which something that waits may pass.
"""

from __future__ import annotations


def tolerance(burst: int, per_ns: int) -> int:
    """Return by how much before its TAT a cell conforms, in n-ths of a nanosecond."""
    return (burst - 1) * per_ns


def passed(tat: int, at: int, per_ns: int) -> int:
    """Return the TAT after a cell has passed at *at*; both in n-ths of a nanosecond."""
    return (at if at > tat else tat) + per_ns  # noqa: FURB136 (a call is dear)


def turn_ns(tat: int, tolerance: int, n: int) -> int:
    """Return the first whole nanosecond at which a cell conforms."""
    return -(-(tat - tolerance) // n)
