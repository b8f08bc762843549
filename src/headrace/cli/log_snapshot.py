"""``headrace log snapshot``: write the state down, so that the next start has little to fold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.cli.errors import OK, Usage
from headrace.cli.logs import check_there
from headrace.cli.output import Output, write_document
from headrace.cli.text import safe

if TYPE_CHECKING:
    from headrace.app import App

TIMEOUT_S = 3600.0
"""An engine writes its snapshot beside its work: a large state takes its time."""


def snapshot(log: Path, app: App | None, output: Output) -> int:
    """Have the engine that runs over *log* write a snapshot; if none runs, with *app*.

    Raises:
        Usage: no engine runs, and there is no *app* whose rules would give the state.
        EngineUnreachable, CommandRefused: the engine did not.
        LogCorrupt, LogMismatch, LogUnusable, SnapshotUnusable: it could not be made.
    """
    from headrace.engine.control_client import ControlClient
    from headrace.engine.errors import EngineUnreachable

    check_there(log)
    try:
        client = ControlClient(log, timeout_s=TIMEOUT_S)
    except EngineUnreachable as unreachable:
        if app is None:
            raise Usage(
                f"log snapshot {safe(str(log))}: expected an engine that runs over it, found "
                f"none ({safe(str(unreachable))}); name the app whose rules give the state: "
                "`--app plant.py:app`"
            ) from unreachable
        sequence, is_online = _write(log, app), False
    else:
        with client:
            sequence, is_online = client.ask("snapshot")["sequence"], True
    document: dict[str, Any] = {"log": str(log), "sequence": sequence, "online": is_online}
    write_document(document, output, lambda: f"snapshot at {sequence}")
    return OK


def _write(log: Path, app: App) -> int:
    """Fold a log that no engine holds and write the snapshot; return its sequence."""
    from headrace.engine.errors import LogUnusable
    from headrace.engine.log import FileLog
    from headrace.engine.restore import restore
    from headrace.engine.snapshot import Snapshot, check_rules
    from headrace.engine.snapshotter import tidy_up

    held = FileLog(log)
    held.open(lambda: None)
    try:
        kernel = restore(held, app.decider(), clock=None)
        check_rules(kernel)
        sequence = kernel.sequence
        found = held.fetch([sequence])
        if not found:
            raise Usage(f"log snapshot {safe(str(log))}: expected records, found none")
        writing = Snapshot(kernel)
        file = held.snapshots.begin(sequence)
        try:
            for part in writing.parts():
                file.write([part])
            file.finish(oldest_sequence=writing.oldest_sequence, record=found[sequence])
        except BaseException:
            file.abort()
            raise
        tidy_up(held, kernel.state.held_blobs(), None)  # the snapshot knows of all
    except OSError as error:
        raise LogUnusable(
            f"{safe(str(log))}: expected to write a snapshot, found {error}; the log is as it was"
        ) from error
    finally:
        held.close()
    return sequence
