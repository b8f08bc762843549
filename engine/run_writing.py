"""How the runs that have not ended stand in a snapshot: one by one, the fresh ones together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.fresh import Batch, fresh_in, is_fresh, is_unread
from headrace.engine.record import thaw
from headrace.engine.run_state import RunState, oldest_needed
from headrace.engine.table import ENCODE

FRESH_MIN: Final = 64
"""Fresh runs of one task and key from which on they are written down together."""
FRESH_PER_RUN: Final = 16
"""How many of them take as long as one other run."""

Place = tuple[str, str, Any, int]
"""What fresh runs that are written down together have in common: task, rule, key, crashes."""


class Stretch(Struct, array_like=True, gc=False):
    """Fresh runs of one task and key, oldest first."""

    task: str
    rule: str
    key: Any
    crashes: int
    oldest: int
    """The oldest record that one of them needs."""
    ids: list[int]
    times: list[tuple[int, int]]
    """Log times of their firings, each with how many in a row have it."""

    def batches(self) -> Iterator[tuple[list[int], Batch]]:
        """Yield those that were made at the same time."""
        key, first = thaw(self.key), 0
        for at_ns, count in self.times:
            ids = self.ids[first : first + count]
            yield ids, Batch(self.task, self.rule, key, self.crashes, at_ns, self.oldest)
            first += count
        if first != len(self.ids):
            raise ValueError(f"expected a time for each of {len(self.ids)} runs, found {first}")


_STRETCH_MARK: Final = 0x90 | len(Stretch.__struct_fields__)
"""How one begins as msgpack; the entry of a single run, of three parts, begins otherwise."""
_decode_stretch = msgspec.msgpack.Decoder(Stretch).decode
_decode_entry = msgspec.msgpack.Decoder(tuple[RunState, bytes | None, dict[int, bytes]]).decode


def stretch_of(place: Place, runs: list[tuple[int, int, int]]) -> Stretch:
    """Return *runs* as a stretch: of each its id, the time of its firing and what it needs."""
    times = [(at_ns, len(list(same))) for at_ns, same in groupby(run[1] for run in runs)]
    return Stretch(*place, min(run[2] for run in runs), [run[0] for run in runs], times)


def unpacked_entry(raw: Raw) -> RunState | Stretch:
    """Return what one entry of a snapshot stands for."""
    if memoryview(raw)[0] == _STRETCH_MARK:
        return _decode_stretch(raw)
    run = unpacked_run(raw)
    if is_unread(run) and run.cancelling is None:  # by now the log may be mended
        place = (run.task, run.rule, run.key, run.crashes)
        return stretch_of(place, [(run.id, run.created_at_ns, oldest_needed(run))])
    return run


def unpacked_run(raw: bytes | Raw) -> RunState:
    """Return the run that `packed_run` wrote down."""
    run, args, results = _decode_entry(raw)
    if type(run.key) is list:
        run.key = thaw(run.key)
    if args is not None:
        run.args = Raw(args)
    for ordinal, result in results.items():
        run.steps[ordinal].result = Raw(result)
    return run


def packed_run(run: RunState) -> Raw:
    """Write *run* down; what is raw in it apart, since a field that may be so does not decode."""
    steps = run.steps
    results = {n: bytes(step.result) for n, step in steps.items() if step.result is not None}
    if results:
        steps = {n: msgspec.structs.replace(step, result=None) for n, step in steps.items()}
    args = None if run.args is None else bytes(run.args)
    if args is not None or results:
        run = msgspec.structs.replace(run, args=None, steps=steps)
    return Raw(ENCODE((run, args, results)))


class RunsWriting:
    """`headrace.engine.table.Writing` of the runs that have not ended."""

    def __init__(self, runs: dict[int, RunState], done: Callable[[], None]) -> None:
        """Begin to write down *runs*; *done* is called when no change matters any more."""
        self.oldest: int | None = None
        self._runs = runs
        self._done = done
        ids = sorted(runs)
        self._ids = iter(ids)
        self._last = ids[-1] if ids else 0
        self._saved: dict[int, Raw] = {}

    def save(self, run: RunState) -> None:
        """Encode *run*, for it is about to change."""
        if run.id <= self._last and run.id not in self._saved:
            self._saved[run.id] = packed_run(run)
            self._note(oldest_needed(run))

    def _note(self, oldest: int) -> None:
        if self.oldest is None or oldest < self.oldest:
            self.oldest = oldest

    def step(self, count: int) -> list[Any]:
        """See `Writing`."""
        entries: list[Any] = []
        together: dict[Place, list[tuple[int, int, int]]] = {}
        unread = fresh_in(self._runs)
        left = count * FRESH_PER_RUN
        while left > 0 and (run_id := next(self._ids, None)) is not None:
            saved = self._saved.pop(run_id, None)
            batch = None if saved is not None else unread.get(run_id)
            left -= 1
            if batch is not None:
                place = (batch.task, batch.rule, batch.key, batch.crashes)
                together.setdefault(place, []).append((run_id, batch.at_ns, batch.oldest))
            elif saved is None and is_fresh(run := self._runs[run_id]):
                place = (run.task, run.rule, run.key, run.crashes)
                fresh = (run_id, run.created_at_ns, oldest_needed(run))
                together.setdefault(place, []).append(fresh)
            else:
                left -= FRESH_PER_RUN - 1
                entries.append(self._packed(run_id) if saved is None else saved)
        for place, runs in together.items():
            if len(runs) >= FRESH_MIN or runs[0][0] in unread:
                stretch = stretch_of(place, runs)
                self._note(stretch.oldest)
                entries.append(stretch)
            else:
                entries += [self._packed(run[0]) for run in runs]
        return entries

    def _packed(self, run_id: int) -> Raw:
        run = self._runs[run_id]
        self._note(oldest_needed(run))
        return packed_run(run)

    def stop(self) -> None:
        """See `Writing`."""

    def settle(self, count: int) -> bool:
        """See `Writing`."""
        self._done()
        return True
