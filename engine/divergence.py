"""Both sides of a `Diverged`: what the log holds at a place of a run, and what its code asked for.

Digests are compared, so the recorded values are read from the log only for the error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw

from headrace.engine.errors import LogError
from headrace.engine.log.protocol import EventLog
from headrace.engine.reading import reading
from headrace.engine.record import EventStored, RunLaunched, StepRequested, decode
from headrace.engine.run_state import Step, digest_of, with_key

VALUE_CHARS_MAX: Final = 120
_MISSING: Final = object()


def both_sides(
    log: EventLog, steps: Mapping[int, Step], step: Step, asked: tuple[str, str, Any, str | None]
) -> tuple[str, str]:
    """Return what is recorded as *step*, and what was *asked*: kind, name, data and key.

    Raises:
        OSError: the disk failed.
    """
    kind, name, raw, key = asked
    before = _recorded(log, step)
    if before is None:
        recorded_text = f"{step.kind} {step.name} (with what, cannot be said any more)".strip()
        return recorded_text, _text(kind, name, _plain(raw), key)
    args, recorded_key = before
    asked_args = _plain(raw)
    if (step.kind, step.name) == (kind, name):
        differ = _differing(args, asked_args)
        recorded_text = _text(step.kind, step.name, args, recorded_key, only=differ)
        return recorded_text, _text(kind, name, asked_args, key, only=differ)
    asked_text = _text(kind, name, asked_args, key)
    same = [
        ordinal
        for ordinal, other in steps.items()
        if raw is not None
        and (other.kind, other.name) == (kind, name)
        and other.digest == digest_of(with_key(raw, key))
    ]
    if same:
        asked_text += f", which it recorded as call {same[0]}"
    return _text(step.kind, step.name, args, recorded_key), asked_text


def _recorded(log: EventLog, step: Step) -> tuple[Any, str | None] | None:
    """Return the arguments or the data, and the key, as the log has them."""
    if step.kind in ("sleep", "receive", "wait"):
        return _MISSING, None
    try:
        with reading(log, after=(step.asked or step.sequence) - 1) as batches:
            found = next(batches, None)
    except LogError:
        return None  # retention has removed it, or it is not durable yet
    record = None if found is None else decode(found[1][0])
    if isinstance(record, EventStored):
        return _plain(record.data), None
    if isinstance(record, (StepRequested, RunLaunched)):
        key = record.key if isinstance(record, RunLaunched) else None
        # In an old log it may be that of the run that held the key, with other arguments.
        is_it = digest_of(with_key(record.args, key)) == step.digest
        return (_plain(record.args), key) if is_it else None
    return None


def _plain(raw: bytes | Raw | None) -> Any:
    return _MISSING if raw is None else msgspec.msgpack.decode(raw)


def _differing(recorded: Any, asked: Any) -> set[str] | None:
    """Return the arguments that differ; ``None``: all counts, as it is not given by name."""
    if not isinstance(recorded, dict) or not isinstance(asked, dict):
        return None
    names = {*recorded, *asked}
    return {n for n in names if recorded.get(n, _MISSING) != asked.get(n, _MISSING)} or None


def _text(kind: str, name: str, value: Any, key: str | None, only: set[str] | None = None) -> str:
    text = f"{kind} {name}".strip()
    if value is _MISSING:
        return text
    if kind == "emit" or not isinstance(value, dict):
        return f"{text} with {_short(value)}"
    shown = [f"{n}={_short(v)}" for n, v in value.items() if only is None or n in only]
    if only is not None and len(shown) < len(value):
        shown.append("…")
    return f"{text}({', '.join(shown)})" + ("" if key is None else f" under the key {key!r}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_CHARS_MAX else f"{text[:VALUE_CHARS_MAX]}…"
