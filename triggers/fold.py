"""`Fold`: the end of a projection's pattern: what arrives goes into the state of its key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from headrace.engine.decider import Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored
from headrace.triggers import nodes as n
from headrace.triggers.hit import Hit, Need
from headrace.triggers.keys import is_key, plain_key
from headrace.triggers.stage import KeyedStage, Place, Stage, asked

STATE_BYTES_MAX: Final = 64 * 1024
"""Of one key's state, encoded: it is encoded anew with each event."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Fold(KeyedStage[bytes]):
    """By key: the state, encoded.

    Not as the user's objects: what a function that raises has begun to change, or what a
    reader changes, is not the state; and the state after a restart is the same, byte for byte.
    """

    need = Need.LAST

    def __init__(self, place: Place, node: n.FoldNode, _then: Stage) -> None:
        """Take no stage behind: it hands nothing on."""
        super().__init__(place)
        self._function = node.function
        self._initial = node.initial
        self._forgets = node.forgets
        self._expected = str(getattr(node.type, "__name__", node.type))
        self._decode: Callable[[bytes], Any] = msgspec.msgpack.Decoder(node.type).decode

    def take(
        self, key: Any, event: Event[Any], _record: EventStored, _entry: int, out: list[Verdict]
    ) -> None:
        """See `EventStage`."""
        stored = self._table.peek(key)
        if stored is None:
            stored = self._initial
        folded, changed = asked(self._rule, "fold", self._next, event, out, stored)
        if not folded:
            return
        if changed is None:
            self._table.pop(key)
        else:
            self.keep(key, changed, out)

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        seen = hit.seen[-1]
        self.take(hit.key, seen.event, seen.record, seen.entry, out)

    def _next(self, event: Event[Any], stored: bytes | None) -> bytes | None:
        """Return the state encoded, if it is one that the next event can be folded into."""
        state = self._function(None if stored is None else self._decode(stored), event)
        if state is None:
            if self._forgets:
                return None
            raise TypeError(f"expected the function to return {self._expected}, found None")
        changed = _encode(state)
        if len(changed) > STATE_BYTES_MAX:
            raise ValueError(
                f"expected a state of at most {STATE_BYTES_MAX} bytes, found {len(changed)}"
            )
        self._decode(changed)
        return changed

    # ------------------------------------------------------------ looked at

    def has(self, key: object) -> bool:
        """See `Folded`."""
        return self._stored(key) is not None

    def find(self, key: object) -> Any:
        """See `Folded`."""
        stored = self._stored(key)
        return None if stored is None else self._decode(stored)

    def _stored(self, key: object) -> bytes | None:
        if key is not None and not is_key(key):
            return None
        return self._table.peek(plain_key(key))

    def entries(self) -> list[tuple[Any, bytes]]:
        """See `Folded`."""
        return list(self._table.items())

    def decoded(self, stored: bytes) -> Any:
        """See `Folded`."""
        return self._decode(stored)

    # ------------------------------------------------------------ written out

    def _forget_timers(self, key: Any) -> None:
        """There are none."""

    def packed(self, key: Any, state: bytes) -> tuple[list[Any], int | None]:
        """See `KeyedStage`; the state refers to no record."""
        return [key, state], None

    def unpacked(self, key: Any, fields: list[Any]) -> bytes:
        """See `KeyedStage`."""
        stored: bytes = fields[0]
        return stored
