"""`LookBack`: lets waits for patterns see what the log has of before they were opened.

Many runs may be at a wait at once, after a start above all.  So the log is read once for all
that are behind, and not once for each of them.  One of their runs reads; when it has what it
wanted, or is cancelled, another one goes on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from anyio.lowlevel import checkpoint

from headrace.engine.backend import in_own_thread
from headrace.engine.errors import LogError, SegmentGone
from headrace.engine.log.index import log_time_ns
from headrace.engine.reading import reading
from headrace.engine.record import EventStored, decode
from headrace.engine.signal import Signal
from headrace.engine.subject_index import SubjectIndex
from headrace.engine.watching import Storing, Watch

READ_AT_ONCE: Final = 1000
"""Records that are read without a thread of their own."""
CHUNK: Final = 20_000
"""Records that a thread reads before the loop has its turn."""

_EVENT_TAG: Final = b"\x01"
"""The second byte of an event's record."""

_Wanted = tuple[int, int, EventStored | None, tuple[Watch, ...]]
"""A record, its log time if patterns begin there, the event in it, and who wants that."""
_Chunk = tuple[int, list[_Wanted]]
"""The last record that was read, and what is wanted of those up to it."""


class LookBack:
    """What is behind in one life of the kernel."""

    def __init__(self, pipeline: Storing, settle: Callable[[Watch], None]) -> None:
        """Call *settle* for each wait that has seen all, or was met."""
        self._pipeline = pipeline
        self._settle = settle
        self._behind: dict[Watch, None] = {}
        self._is_reading = False
        self._turn = Signal()

    async def catch_up(self, watch: Watch) -> None:
        """Let *watch* see what was stored since its beginning, then what came meanwhile.

        Raises:
            SegmentGone, LogCorrupt: the log does not have that any more.
            DurabilityLost, LogFull: the log has failed.
        """
        self._behind[watch] = None
        try:
            if watch.position >= self._pipeline.kernel.sequence:
                self._finish(watch)
            while watch in self._behind:
                if self._is_reading:
                    await self._turn.wait()
                else:
                    await self._lead(watch)
        finally:
            self._behind.pop(watch, None)

    async def _lead(self, watch: Watch) -> None:
        self._is_reading = True
        try:
            await checkpoint()  # others come in the same turn, such as after a start
            watches = list(self._behind)
            try:
                await self._read(watch, watches)
            except LogError:
                # What one of them wants may be gone, which is no matter of the others.
                if len(watches) == 1 or self._pipeline.failure is not None:
                    raise
                await self._read(watch, [watch])
        finally:
            self._is_reading = False
            self._turn.send()

    async def _read(self, leader: Watch, watches: list[Watch]) -> None:
        """Let *watches* see what is stored by now, as long as *leader* has not seen enough."""
        pipeline = self._pipeline
        upto = pipeline.kernel.sequence
        await pipeline.committed(upto)
        watches = sorted(watches, key=lambda watch: watch.position)
        after = watches[0].position
        try:
            # One record before, for its time.
            with reading(pipeline.log, after=max(0, after - 1)) as batches:
                chunks = _chunks(batches, upto, watches)
                take = partial(next, chunks, (upto, []))
                while leader in self._behind:
                    if upto - after <= READ_AT_ONCE:
                        reached, chunk = take()
                    else:
                        reached, chunk = await in_own_thread(pipeline.backend, take)
                        await checkpoint()  # that thread was not to be interrupted
                    self._feed(chunk)
                    self._note(watches, reached, is_all=reached == upto)
        except OSError as error:
            what = f"what run {leader.run_id} waits for, after record {leader.position}"
            raise pipeline.unreadable(what, error) from error

    def _feed(self, chunk: list[_Wanted]) -> None:
        behind = self._behind
        for sequence, at_ns, event, watches in chunk:
            for watch in watches:
                if watch not in behind or not watch.sees(sequence):
                    continue
                if event is None:
                    watch.activate(at_ns)
                elif sequence > watch.position:
                    watch.feed(sequence, event)

    def _note(self, watches: list[Watch], reached: int, *, is_all: bool) -> None:
        for watch in watches:
            if watch in self._behind:
                watch.position = max(watch.position, reached)
                if is_all or watch.met is not None:
                    self._finish(watch)
        self._turn.send()

    def _finish(self, watch: Watch) -> None:
        del self._behind[watch]
        for sequence, event in watch.backlog:
            if sequence > watch.position and watch.met is None:
                watch.feed(sequence, event)
        watch.backlog = []
        watch.is_live = True
        if watch.takes:
            watch.advance(self._pipeline.kernel.state.at_ns)
        self._settle(watch)


def _chunks(
    batches: Iterator[tuple[int, list[bytes]]], upto: int, watches: list[Watch]
) -> Iterator[_Chunk]:
    """Yield the events that *watches*, in the order of their beginnings, are to see.

    Before them, for each, the first record from its beginning on that has a time.
    """
    index: SubjectIndex[Watch] = SubjectIndex()
    for watch in watches:
        for subject in dict.fromkeys(watch.watched.subjects):
            index.add(subject, watch)
    to_begin = deque((watch.position, watch) for watch in watches)
    wanted: list[_Wanted] = []
    count, expected = 0, max(1, watches[0].position)
    for first, batch in batches:
        if first > expected:  # who reads from the beginning gets what there is
            raise SegmentGone("the log", wanted=expected, first_sequence=first)
        expected = first + len(batch)
        last = min(upto, first + len(batch) - 1)
        for sequence, raw in zip(range(first, last + 1), batch, strict=False):
            if to_begin and to_begin[0][0] <= sequence and (at_ns := log_time_ns(raw)):
                begin: list[Watch] = []
                while to_begin and to_begin[0][0] <= sequence:
                    begin.append(to_begin.popleft()[1])
                wanted.append((sequence, at_ns, None, tuple(begin)))
            event = decode(raw) if raw[1:2] == _EVENT_TAG else None
            if isinstance(event, EventStored) and (concerned := index.lookup(event.subject)):
                # It may match by several of one's subjects.
                wanted.append((sequence, 0, event, tuple(dict.fromkeys(concerned))))
        count += len(batch)
        if count >= CHUNK and last < upto:
            yield last, wanted
            wanted, count = [], 0
        if last >= upto:
            break
    yield upto, wanted
