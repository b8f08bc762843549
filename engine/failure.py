"""`Failure`: a run that was given up, as data for the task that follows."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Failure(Struct, frozen=True):
    """A run that was given up after its last attempt."""

    run: int
    """Its id."""
    task: str
    error: str
    """``Type: message`` of the last attempt."""
    attempt: int = 1
    """How many attempts there were."""
    input: dict[str, Any] | None = None
    """Its arguments by name, as plain data; ``None``: it is a rule's action, which has none,
    or they are over 64 KiB."""
