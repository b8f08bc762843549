"""The commands that every engine takes over its control socket.

They are status, emit, cancel, redrive, signal, pause, acknowledge, snapshot, hold and release.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec import Raw

from headrace.engine.backend import current_backend, in_own_thread
from headrace.engine.control import ControlSocket
from headrace.engine.control_wire import (
    DECODE_ERRORS,
    AcknowledgeArguments,
    CancelArguments,
    EmitArguments,
    HoldArguments,
    PauseArguments,
    RedriveArguments,
    ReleaseArguments,
    SignalArguments,
)
from headrace.engine.emission import Emission
from headrace.engine.errors import EventRefused, LogUnusable
from headrace.engine.log.file import FileLog
from headrace.engine.log.protocol import EventLog
from headrace.engine.views import StateView

_decode = msgspec.msgpack.Decoder().decode


class Commanded(Protocol):
    """What the commands need of an engine."""

    log: EventLog

    def state(self) -> StateView:
        """See `Engine.state`."""
        ...

    async def emit_many(self, events: Iterable[Emission]) -> list[int]:
        """See `Engine.emit_many`."""
        ...

    async def cancel(self, run_id: int, reason: str) -> int:
        """See `Engine.cancel`."""
        ...

    async def redrive(self, run_id: int, *, from_start: bool) -> int:
        """See `Engine.redrive`."""
        ...

    async def signal(self, run_id: int, name: str, data: Any) -> int:
        """See `Engine.signal`."""
        ...

    async def pause(self, rule: str, reason: str) -> int:
        """See `Engine.pause`."""
        ...

    async def resume(self, rule: str, reason: str) -> int:
        """See `Engine.resume`."""
        ...

    async def acknowledge(self, rule: str, key: Any, *, by: str, note: str) -> int:
        """See `Engine.acknowledge`."""
        ...

    async def snapshot(self) -> int:
        """See `Engine.snapshot`."""
        ...


def register(control: ControlSocket, engine: Commanded, *, version: str) -> None:
    """Let clients of *control* ask *engine*."""

    async def status(_: dict[str, Any]) -> Any:
        log = engine.log
        return {
            "version": version,
            "pid": os.getpid(),
            "log_id": log.log_id.hex(),
            "committed_sequence": log.committed_sequence,
            "durable_sequence": log.durable_sequence,
            "pending_bytes": log.pending_bytes,
            "state": engine.state(),
        }

    async def emit(arguments: EmitArguments) -> Any:
        events = [
            Emission(
                event.subject,
                checked_raw(event.data, event.subject),
                event.id,
                event.source,
                key=event.key,
                time_ns=event.time_ns,
                headers=event.headers,
            )
            for event in arguments.events
        ]
        return {"sequences": await engine.emit_many(events)}

    async def cancel(arguments: CancelArguments) -> Any:
        return {"sequence": await engine.cancel(arguments.run, arguments.reason)}

    async def redrive(arguments: RedriveArguments) -> Any:
        return {"sequence": await engine.redrive(arguments.run, from_start=arguments.from_start)}

    async def signal(arguments: SignalArguments) -> Any:
        data = checked_raw(arguments.data, arguments.name, what="signal")
        return {"sequence": await engine.signal(arguments.run, arguments.name, data)}

    async def snapshot(_: dict[str, Any]) -> Any:
        try:
            return {"sequence": await engine.snapshot()}
        except OSError as error:
            raise LogUnusable(f"expected to write a snapshot, found {error}") from error

    control.register("snapshot", snapshot)
    control.register("status", status)
    control.register("emit", emit, EmitArguments)
    control.register("cancel", cancel, CancelArguments)
    control.register("redrive", redrive, RedriveArguments)
    control.register("signal", signal, SignalArguments)
    _register_rules(control, engine)
    if isinstance(engine.log, FileLog):
        _register_holds(control, engine.log)


def _register_rules(control: ControlSocket, engine: Commanded) -> None:
    async def pause(arguments: PauseArguments) -> Any:
        change = engine.pause if arguments.paused else engine.resume
        return {"sequence": await change(arguments.rule, arguments.reason)}

    async def acknowledge(arguments: AcknowledgeArguments) -> Any:
        sequence = await engine.acknowledge(
            arguments.rule, arguments.key, by=arguments.by, note=arguments.note
        )
        return {"sequence": sequence}

    control.register("pause", pause, PauseArguments)
    control.register("acknowledge", acknowledge, AcknowledgeArguments)


def _register_holds(control: ControlSocket, log: FileLog) -> None:
    async def hold(arguments: HoldArguments) -> Any:
        change = partial(log.hold, arguments.name, arguments.sequence)
        await in_own_thread(current_backend(), change)
        return {}

    async def release(arguments: ReleaseArguments) -> Any:
        change = partial(log.release, arguments.name)
        return {"released": await in_own_thread(current_backend(), change)}

    control.register("hold", hold, HoldArguments)
    control.register("release", release, ReleaseArguments)


def checked_raw(data: Raw, subject: str, *, what: str = "event") -> Raw:
    """Return msgpack that somebody else encoded, if everybody can decode it.

    Raises:
        EventRefused: not everybody can.
    """
    try:
        _decode(data)
    except DECODE_ERRORS as error:
        raise EventRefused(
            f"{what} {subject[:80]!r}: expected data as msgpack that can be decoded, found: {error}"
        ) from error
    return Raw(bytes(data))
