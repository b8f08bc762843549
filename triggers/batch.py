"""`.batch`: parcels by number, size or time."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.triggers import nodes as n
from headrace.triggers.checks import WAITING_MAX
from headrace.triggers.hit import Hit, Need, joined, oldest_of, packed, slim, unpacked
from headrace.triggers.stage import Place, Stage, TimerStage


class _Parcel(Struct, gc=False):
    hits: list[Hit]
    size_bytes: int = 0


class Batch(TimerStage[_Parcel]):
    """The state of a key is its open parcel."""

    def __init__(self, place: Place, node: n.BatchNode, then: Stage) -> None:
        super().__init__(place)
        self._then = then
        # One that has no bound of its own is sent off at this one: so nothing is lost.
        self._n = WAITING_MAX if node.n is None else node.n
        self._within_ns = node.within_ns
        self._bytes_max = node.bytes_max
        self._keeps = then.need
        self.need = then.need if node.bytes_max is None else Need.ALL

    def push(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Stage`."""
        key = hit.key
        parcel = self._table.touch(key)
        if parcel is None:
            parcel = _Parcel([])
            self.keep(key, parcel, out)
            if self._within_ns is not None:
                self._place.arm(key, hit.at_ns + self._within_ns)
        parcel.hits.append(slim(hit, self._keeps))
        if self._bytes_max is not None:
            parcel.size_bytes += sum(len(seen.record.data) for seen in hit.seen)
        if len(parcel.hits) >= self._n:
            self._flush(hit, "n", out)
        elif self._bytes_max is not None and parcel.size_bytes >= self._bytes_max:
            self._flush(hit, "bytes", out)

    def _flush(self, hit: Hit, reason: str, out: list[Verdict]) -> None:
        """Send off what *hit* has filled; that it came by a timer is not by ours."""
        if self._within_ns is not None:
            self._place.disarm(hit.key)
        self._send(hit.key, hit.at_ns, hit.due_ns, reason, out)

    def _send(
        self, key: Any, at_ns: int, due_ns: int | None, reason: str, out: list[Verdict]
    ) -> None:
        parcel = self._table.pop(key)
        assert parcel is not None, "only what is open is sent"
        hits = parcel.hits
        self._then.push(joined(hits, last=hits[-1], at_ns=at_ns, due_ns=due_ns, reason=reason), out)

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        self._send(key, due_ns, due_ns, "time", out)

    def packed(self, key: Any, state: _Parcel) -> tuple[list[Any], int | None]:
        """See `KeyedStage`."""
        return [key, list(map(packed, state.hits)), state.size_bytes], oldest_of(state.hits)

    def unpacked(self, key: Any, fields: list[Any]) -> _Parcel:
        """See `KeyedStage`."""
        hits, size_bytes = fields
        return _Parcel([unpacked(hit, key, self._place.recall) for hit in hits], size_bytes)
