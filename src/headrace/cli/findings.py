"""What ``headrace doctor`` finds."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

State = Literal["ok", "warn", "fail"]


class Finding(Struct, frozen=True):
    """One thing that was looked at."""

    check: str
    """What was looked at."""
    state: State
    """``warn``: it works, and not as it should.  ``fail``: it does not."""
    found: str
    mend: str = ""
    """What to do; empty: nothing."""
    is_connection: bool = False
    """Whether it is about something that others run."""


def ok(check: str, found: str) -> Finding:
    """Say that all is well."""
    return Finding(check, "ok", found)


def warn(check: str, found: str, mend: str) -> Finding:
    """Say that something is not as it should be."""
    return Finding(check, "warn", found, mend)


def fail(check: str, found: str, mend: str = "", *, is_connection: bool = False) -> Finding:
    """Say that something does not work."""
    return Finding(check, "fail", found, mend, is_connection)
