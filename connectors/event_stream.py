"""The format of server-sent events, as the WHATWG has it: from bytes as they come to events.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

RETRY_DIGITS_MAX: Final = 9
_BOM: Final = b"\xef\xbb\xbf"


class ServerEvent(Struct, frozen=True):
    """One event."""

    type: str
    data: str
    last_id: str
    """The id that was set last: its own, or that of an event before it."""
    has_id: bool
    """Whether it is its own."""


class TooLong(ValueError):
    """An event, or a line of one, is longer than what is taken."""


class EventStream:
    """Reads one connection.  What is not ended by a blank line is no event."""

    def __init__(self, *, bytes_max: int, last_id: str = "") -> None:
        """Go on after *last_id*; an event has at most *bytes_max* bytes."""
        self.last_id = last_id
        self.retry_s: float | None = None
        """When the server wants to be asked again, if it has said so."""
        self._bytes_max = bytes_max
        self._left = b""
        self._ended_with_cr = False
        self._is_first = True
        self._id = last_id
        self._has_id = False
        self._type = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Return the events that *chunk* completes.

        Raises:
            TooLong: one is too long; the stream cannot be read any further.
        """
        data = self._left + chunk
        if self._is_first:
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._left = data
                return []
            data, self._is_first = data.removeprefix(_BOM), False
        if self._ended_with_cr and data:
            data = data.removeprefix(b"\n")
            self._ended_with_cr = False
        # A line ends with \r\n, \n or \r; of the first two the end may be in the next chunk.
        self._ended_with_cr = data.endswith(b"\r")
        lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._left = lines.pop()
        events: list[ServerEvent] = []
        for line in lines:
            event = self._line(line)
            if event is not None:
                events.append(event)
        if self._size + len(self._left) > self._bytes_max:
            raise TooLong(f"expected events of at most {self._bytes_max} bytes, found a longer one")
        return events

    def _line(self, raw: bytes) -> ServerEvent | None:
        if not raw:
            return self._dispatched()
        self._size += len(raw)
        if self._size > self._bytes_max:
            raise TooLong(f"expected events of at most {self._bytes_max} bytes, found a longer one")
        name, _, value = raw.decode("utf-8", "replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._type = value
        elif name == "id" and "\0" not in value:
            self._id, self._has_id = value, True
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_s = int(value[:RETRY_DIGITS_MAX]) / 1000
        return None

    def _dispatched(self) -> ServerEvent | None:
        self.last_id, self._size = self._id, 0
        has_id, self._has_id = self._has_id, False
        type, self._type = self._type or "message", ""
        if not self._data:
            return None
        data, self._data = "\n".join(self._data), []
        return ServerEvent(type, data, self.last_id, has_id)
