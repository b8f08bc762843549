"""The way into a log for a command that writes: by its engine, or past it if none runs."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from headrace.cli.logs import check_there
from headrace.engine.errors import EngineUnreachable, LogLocked

if TYPE_CHECKING:
    from headrace.engine.control_client import ControlClient
    from headrace.engine.emission import Emission
    from headrace.engine.offline import OfflineLog

PATIENCE_S: Final = 2.0
"""How long to wait for the socket of an engine that has the lock: it may just be starting."""
PAUSE_S: Final = 0.05


class Door(Protocol):
    """Where a command puts what it writes.  Blocks until that is durable."""

    is_online: bool
    """Whether an engine takes it at once; else the next start acts on it."""

    def emit(self, events: Sequence[Emission]) -> list[int]:
        """Hand in *events*; return the sequences of what was stored for them."""
        ...

    def cancel(self, run_id: int, reason: str) -> int:
        """Ask for a run to be cancelled; return the request's sequence."""
        ...

    def redrive(self, run_id: int, *, from_start: bool) -> int:
        """Let a dead letter go on; return the record's sequence."""
        ...

    def signal(self, run_id: int, name: str, data: object) -> int:
        """Send a signal to an open run; return its sequence."""
        ...

    def pause(self, rule: str, reason: str, *, paused: bool) -> int:
        """Pause a rule, or resume it; return the record's sequence, 0 if it was so already."""
        ...

    def acknowledge(self, rule: str, key: object, *, by: str, note: str) -> int:
        """Say that *by* knows of an alarm that stands; return the record's sequence."""
        ...


class _Online:
    is_online = True

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    def emit(self, events: Sequence[Emission]) -> list[int]:
        return self._client.emit_many(events)

    def cancel(self, run_id: int, reason: str) -> int:
        return self._client.cancel(run_id, reason)

    def redrive(self, run_id: int, *, from_start: bool) -> int:
        return self._client.redrive(run_id, from_start=from_start)

    def signal(self, run_id: int, name: str, data: object) -> int:
        return self._client.signal(run_id, name, data)

    def pause(self, rule: str, reason: str, *, paused: bool) -> int:
        return self._client.pause(rule, reason, paused=paused)

    def acknowledge(self, rule: str, key: object, *, by: str, note: str) -> int:
        return self._client.acknowledge(rule, key, by=by, note=note)


class _Offline:
    is_online = False

    def __init__(self, log: OfflineLog) -> None:
        self._log = log

    def emit(self, events: Sequence[Emission]) -> list[int]:
        return self._log.offer(events)

    def cancel(self, run_id: int, reason: str) -> int:
        return self._log.cancel(run_id, reason)

    def redrive(self, run_id: int, *, from_start: bool) -> int:
        return self._log.redrive(run_id, from_start=from_start)

    def signal(self, run_id: int, name: str, data: object) -> int:
        return self._log.signal(run_id, name, data)

    def pause(self, rule: str, reason: str, *, paused: bool) -> int:
        return self._log.pause(rule, reason, paused=paused)

    def acknowledge(self, rule: str, key: object, *, by: str, note: str) -> int:
        return self._log.acknowledge(rule, key, by=by, note=note)


@contextmanager
def door(log: Path, *, create: bool = False) -> Generator[Door]:
    """Open the way into the log at *log*, which is made first if it may be.

    Raises:
        LogNotFound: there is none.
        EngineUnreachable: somebody holds it who does not answer.
        LogUnusable, LogCorrupt, LogVersion: it cannot be written.
    """
    from headrace.engine.control_client import ControlClient
    from headrace.engine.log import FileLog
    from headrace.engine.offline import OfflineLog

    if not (create and not log.exists()):
        check_there(log)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client = ControlClient(log)
        except EngineUnreachable as unreachable:
            offline = OfflineLog(FileLog(log))
            try:
                offline.open()
            except LogLocked as locked:
                if time.monotonic() >= deadline:
                    raise EngineUnreachable(
                        f"{locked}; to write into it, an engine has to answer: {unreachable}"
                    ) from locked
                time.sleep(PAUSE_S)
                continue
            with offline:
                yield _Offline(offline)
                return
        with client:
            yield _Online(client)
            return
