"""``headrace runs signal``: an answer for a run that waits for it."""

from __future__ import annotations

from pathlib import Path

from headrace.cli.door import door
from headrace.cli.emit import parsed, say_if_offline, state_for
from headrace.cli.errors import OK, Usage
from headrace.cli.output import Output, write_document
from headrace.cli.text import safe


def send(log: Path, run: int, name: str, data: str | None, output: Output) -> int:
    """Send a signal to an open run and print its sequence.

    Raises:
        Usage: an argument is no part of a signal; nothing was stored.
        RunNotFound, SignalRefused: the run does not take it.
    """
    from headrace.engine.errors import EventRefused
    from headrace.engine.waiting import encoded_signal

    value = parsed(data)
    try:
        encoded_signal(name, value)
    except (ValueError, EventRefused) as error:
        raise Usage(f"runs signal: {safe(str(error))}") from error
    with door(log) as way:
        sequence = way.signal(run, name, value)
        say_if_offline(log, way)
        document = {
            "log": str(log),
            "run": run,
            "signal": name,
            "sequence": sequence,
            "state": state_for(way),
        }
    write_document(document, output, lambda: str(sequence))
    return OK
