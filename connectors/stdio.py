"""Standard input and output, for pipes: `Stdin` brings in JSON lines, `StdoutSink` prints them.

Time needs no connector: `App.every` and `App.cron` are rules.
"""

from __future__ import annotations

import os
import select
from types import TracebackType
from typing import Any, Final, Self

import anyio
import msgspec
from anyio import to_thread
from msgspec import Struct

from headrace.connectors.checks import check_number
from headrace.connectors.intake import Intake
from headrace.connectors.jsonl import LINE_BYTES_MAX, STDIN, JsonLines, _Refused
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import SinkRefused
from headrace.engine.emission import Emission

WAIT_S: Final = 0.2
"""How long a thread waits for input before it looks whether it is still wanted."""
READ_BYTES: Final = 64 * 1024
OUT_FD: Final = 1


class Stdin:
    """Brings in the JSON lines of a pipe until its end.

    Promise: at most once: what was read from a pipe is not there any more.
    """

    promise: Promise = "at most once"

    def __init__(self, *, name: str = "stdin", fd: int = 0) -> None:
        """Read from *fd*, by default standard input; nothing is read yet.

        Raises:
            TypeError, ValueError: a setting cannot work.
        """
        self.name = name
        self._fd = check_number(f"Stdin {name!r}", "fd", fd, 0, 1_000_000)

    async def run(self, intake: Intake) -> None:
        """Bring lines in until the end of the input, or until cancelled."""
        reads = JsonLines(STDIN)
        reads.name = self.name
        intake.connected()
        left, at_end = b"", False
        while not at_end:
            data = await to_thread.run_sync(self._read)
            if data is None:
                continue
            at_end = not data
            *lines, left = (left + (data or b"\n")).split(b"\n")
            if len(left) > LINE_BYTES_MAX:
                lines, left = [*lines, left], b""
            events = [self._event(reads, line, intake) for line in lines if line.strip()]
            if events:
                await intake.put(events)

    def _read(self) -> bytes | None:
        """Return what there is, nothing at the end; ``None``: nothing has come yet."""
        if not select.select([self._fd], [], [], WAIT_S)[0]:
            return None
        return os.read(self._fd, READ_BYTES)

    def _event(self, reads: JsonLines, line: bytes, intake: Intake) -> Emission:
        try:
            reads._check_length(line)
            return reads._event(line, 0)
        except _Refused as refused:
            expected, found = refused.args
            return intake.refusal(line, f"expected {expected}, found {found}", place="stdin")


class LineMessage(Struct, frozen=True):
    """What `StdoutSink` prints as a line."""

    subject: str = ""
    data: Any = None


class StdoutSink:
    """Prints each message as a JSON line, with its ``subject``, ``data`` and ``id``.

    After a crash a line may be there twice, with the same ``id``.
    """

    message_type: Any = LineMessage
    result_type: Any = None

    def __init__(self, *, name: str = "stdout", fd: int = OUT_FD) -> None:
        """Write to *fd*, by default standard output.

        Raises:
            TypeError, ValueError: a setting cannot work.
        """
        self.name = name
        self._place = f"StdoutSink {name!r}"
        self._fd = check_number(self._place, "fd", fd, 0, 1_000_000)
        self._writing = anyio.Lock()

    async def __aenter__(self) -> Self:
        """Get ready."""
        self._writing = anyio.Lock()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the output open."""

    def message_of(self, subject: str, data: Any) -> LineMessage:
        """Return the message that forwards an event."""
        return LineMessage(subject, data)

    async def send(self, message: LineMessage, *, key: str) -> None:
        """Print *message*."""
        line = {"subject": message.subject, "data": message.data, "id": key}
        text = msgspec.json.encode(line) + b"\n"
        async with self._writing:  # one whole line after the other
            try:
                await to_thread.run_sync(self._write, text)
            except BrokenPipeError as error:
                raise SinkRefused(
                    f"{self._place}: expected somebody to read the output, found that its reader "
                    f"has gone; start that again, and redrive"
                ) from error

    def _write(self, text: bytes) -> None:
        while text:
            text = text[os.write(self._fd, text) :]
