"""The engine's state at a place in a log, for the commands that look back."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from headrace.cli.errors import RecordNotFound, RecordUnreadable
from headrace.cli.logs import decoded
from headrace.cli.text import safe
from headrace.cli.times import sequence_upto

if TYPE_CHECKING:
    from headrace.engine.decider import Decider
    from headrace.engine.inspect.walk import Walk
    from headrace.engine.log import LogReader


def sequence_of(reader: LogReader, place: str | None, option: str = "--at") -> int:
    """Return the record that *place* names: a sequence or a time; without, the last one.

    Raises:
        Usage: it is neither.
        RecordNotFound: the log has no such record.
    """
    last = reader.refresh()
    if place is None:
        return last
    sequence = sequence_upto(reader, place, option)
    first = reader.first_sequence
    if not first <= sequence <= last:
        there = f"a sequence from {first} to {last}" if last else "a log that has records"
        raise RecordNotFound(
            f"{option} {safe(place)}: expected {there}, found none of these; "
            f"`headrace log info {safe(reader.path)}` says what there is"
        )
    return sequence


def walk_to(
    reader: LogReader, decider: Decider, sequence: int, *, begin_before: int | None = None
) -> Walk:
    """Return a walk through the log that can go on to *sequence*.

    It begins at the nearest snapshot, or at the nearest one before *begin_before*.

    Raises:
        LogMismatch: the beginning of the log is gone, and there is no snapshot so early.
        RecordUnreadable: there was one, and it is damaged.
    """
    from headrace.engine.errors import SnapshotUnusable
    from headrace.engine.inspect.walk import Walk

    before = sequence if begin_before is None else begin_before
    try:
        return Walk(reader, decider, before=before, decode_record=partial(decoded, reader))
    except SnapshotUnusable as error:
        raise RecordUnreadable(str(error)) from error


def keys_named(text: str | None) -> tuple[Any, ...]:
    """Return the keys that *text* may name: as JSON, and as it is; none: all are wanted."""
    if text is None:
        return ()
    from headrace.engine.record import thaw

    try:
        parsed = thaw(msgspec.json.decode(text))
        hash(parsed)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, TypeError):
        return (text,)
    return (text,) if parsed == text else (parsed, text)


def damage_note(walk: Walk) -> str | None:
    """Return what to say of damage that *walk* has met; ``None``: it met none."""
    if walk.damage is None:
        return None
    return f"{walk.damage}; what is said is about its state after {walk.kernel.sequence}"
