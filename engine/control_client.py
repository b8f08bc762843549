"""`ControlClient`: asks a running engine, from another process.  Blocks; for the command line."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec import Raw

from headrace.engine import errors
from headrace.engine.control_wire import (
    DECODE_ERRORS,
    LENGTH_BYTES,
    MESSAGE_BYTES_MAX,
    NAME,
    VERSION,
    AcknowledgeArguments,
    Answer,
    CancelArguments,
    EmitArguments,
    PauseArguments,
    RedriveArguments,
    Request,
    SignalArguments,
    WireEvent,
    addressable,
    packed,
)
from headrace.engine.emission import Emission, checked, time_ns_of
from headrace.engine.errors import CommandRefused, EngineUnreachable, HeadraceError
from headrace.engine.payload import ENCODE_ERRORS
from headrace.engine.waiting import encoded_signal

TIMEOUT_S: Final = 60.0
BATCH_COUNT: Final = 1000
BATCH_BYTES: Final = 1024 * 1024

_KINDS: Final = (
    errors.DurabilityLost,
    errors.EngineClosed,
    errors.EventRefused,
    errors.LogClosed,
    errors.LogFull,
    errors.LogUnusable,
    errors.RedriveRefused,
    errors.RuleNotFound,
    errors.RunNotFound,
    errors.SignalRefused,
    errors.SnapshotUnusable,
)
"""Errors that are raised here as they were there."""


class ControlClient:
    """A connection to the engine that runs over a log.  Use it with ``with``.

    Raises:
        EngineUnreachable: no engine answers there.
    """

    def __init__(self, folder: str | os.PathLike[str], *, timeout_s: float = TIMEOUT_S) -> None:
        """Connect.  *timeout_s* bounds the wait for each answer."""
        self._folder = os.path.abspath(folder)  # noqa: PTH100  resolve() asks the disk
        self._timeout_s = timeout_s
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            with addressable(self._folder) as short:
                self._socket.connect(f"{short}/{NAME}")
        except OSError as error:
            self._socket.close()
            raise EngineUnreachable(
                f"{self._folder}: expected an engine that answers on {NAME}, found: "
                f"{error.strerror or error}; is it running, as this user, and with control=True?"
            ) from error

    def __enter__(self) -> Self:
        """Use the connection."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it."""
        self._socket.close()

    def ask(self, command: str, arguments: Any = None) -> Any:
        """Return what the engine answers.

        Raises:
            EngineUnreachable: it did not; whether the command was carried out is unknown.
            CommandRefused, EventRefused, RunNotFound, RuleNotFound …: it was not.
            DurabilityLost, LogFull: it may or may not have been.
        """
        try:
            encoded = msgspec.msgpack.encode({} if arguments is None else arguments)
            message = packed(Request(VERSION, command, Raw(encoded)))
        except ENCODE_ERRORS as error:
            raise CommandRefused(f"{command}: {error}") from error
        try:
            # Who is turned away has its answer before it has asked.
            with contextlib.suppress(BrokenPipeError):
                self._socket.sendall(message)
            answer = _decode_answer(self._receive())
        except (OSError, *DECODE_ERRORS) as error:
            raise EngineUnreachable(
                f"{self._folder}: expected an answer to {command!r}, found: {error}; it is not "
                f"known whether it was carried out: look into the log"
            ) from error
        if answer.error is not None:
            raise _error_of(answer.error.kind, f"{self._folder}: {answer.error.message}")
        return msgspec.msgpack.decode(answer.result)

    def _receive(self) -> bytes:
        length = int.from_bytes(self._read(LENGTH_BYTES), "big")
        if length > MESSAGE_BYTES_MAX:
            raise OSError(f"an answer of {length} bytes")
        return self._read(length)

    def _read(self, length: int) -> bytes:
        body = bytearray()
        while len(body) < length:
            part = self._socket.recv(min(65536, length - len(body)))
            if not part:
                raise OSError("the end of the connection")
            body += part
        return bytes(body)

    def emit_many(self, events: Iterable[Emission]) -> list[int]:
        """Have *events* stored; return their sequences once they are durable.

        All are checked before the first is sent; a batch of up to 1 000 is stored whole or
        not at all.

        Raises:
            ValueError, TypeError, EventRefused: as `Engine.emit_many`; nothing was stored.
            Others as `ask`.
        """
        wired = [_wired(event) for event in events]
        sequences: list[int] = []
        for batch in _batches(wired):
            sequences += self.ask("emit", EmitArguments(batch))["sequences"]
        return sequences

    def cancel(self, run_id: int, reason: str) -> int:
        """Ask for a run to be cancelled; return the request's sequence once it is durable.

        Raises:
            As `ask`.
        """
        sequence: int = self.ask("cancel", CancelArguments(run_id, reason))["sequence"]
        return sequence

    def redrive(self, run_id: int, *, from_start: bool) -> int:
        """Let a dead letter go on; return the record's sequence once it is durable.

        Raises:
            As `ask`.
        """
        sequence: int = self.ask("redrive", RedriveArguments(run_id, from_start))["sequence"]
        return sequence

    def signal(self, run_id: int, name: str, data: Any) -> int:
        """Send a signal to an open run; return its sequence once it is durable.

        Raises:
            TypeError, ValueError, EventRefused: as `Engine.signal`; nothing was stored.
            Others as `ask`.
        """
        arguments = SignalArguments(run_id, name, encoded_signal(name, data))
        sequence: int = self.ask("signal", arguments)["sequence"]
        return sequence

    def pause(self, rule: str, reason: str, *, paused: bool) -> int:
        """Pause a rule, or resume it; return the record's sequence, 0 if it was so already.

        Raises:
            As `ask`.
        """
        sequence: int = self.ask("pause", PauseArguments(rule, reason, paused))["sequence"]
        return sequence

    def acknowledge(self, rule: str, key: Any, *, by: str, note: str) -> int:
        """Say that *by* knows of an alarm that stands; return the record's sequence.

        Raises:
            As `ask`.
        """
        arguments = AcknowledgeArguments(rule, key, by, note)
        sequence: int = self.ask("acknowledge", arguments)["sequence"]
        return sequence


_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def _wired(event: Emission) -> WireEvent:
    subject, payload, full = checked(event)
    headers: Any = None if full is None else full.headers
    return WireEvent(
        subject, payload, event.id, event.source, time_ns_of(event), event.key, headers
    )


def _batches(events: list[WireEvent]) -> Iterator[list[WireEvent]]:
    batch: list[WireEvent] = []
    size = 0
    for event in events:
        more = len(bytes(event.data))
        if event.headers is not None:
            more += sum(len(name) + len(value) for name, value in event.headers.items())
        if batch and (len(batch) == BATCH_COUNT or size + more > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += more
    if batch:
        yield batch


def _error_of(kind: str, message: str) -> HeadraceError:
    for known in _KINDS:
        if known.__name__ == kind:
            return known(message)
    return CommandRefused(message)
