"""`Watermark`: how far the event time of a rule has come, as its sources tell.

A source is what brings events: a connector, or the program itself.  Each has seen events up
to some time, and is expected to bring none that is older than that by more than the lateness.
The rule's watermark is where the slowest of them is.  It never goes back.

A source that was not heard of for some time of the log is idle and is not waited for, until
its next event.  While all of them are idle the watermark goes as fast as log time.  Both are
decided by a timer of the kernel, which is a record, so a fold of the log decides the same.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class _Source(Struct):
    newest_ns: int
    """The newest event time that it brought."""
    heard_ns: int
    """Log time of its last event, or what counts as that."""
    is_idle: bool = False


class Watermark:
    """The watermark of one rule and of each of its sources.

    There are as many as the program has connectors, so they are written out in one go.
    """

    def __init__(self, lateness_ns: int, idle_ns: int | None) -> None:
        self._lateness_ns = lateness_ns
        self._idle_ns = idle_ns
        self._sources: dict[str, _Source] = {}
        self._since_ns: int | None = None  # log time of `at_ns`, while all sources are idle
        self.at_ns: int | None = None
        """Where it is; ``None`` before the first event."""

    def __len__(self) -> int:
        return 0  # no keys

    def hear(self, name: str, newest_ns: int, log_ns: int) -> None:
        """Take from source *name*, at *log_ns*, an event whose time is *newest_ns*."""
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = _Source(newest_ns, log_ns)
        elif newest_ns > source.newest_ns:
            source.newest_ns = newest_ns
        source.heard_ns = log_ns
        source.is_idle = False
        self._since_ns = None
        self._follow()

    def _follow(self) -> None:
        """Come to where the slowest of the sources is that are not idle."""
        at_ns = min([source.newest_ns for source in self._active()]) - self._lateness_ns
        if self.at_ns is None or at_ns > self.at_ns:
            self.at_ns = at_ns

    def wake_ns(self, next_ns: int | None) -> int | None:
        """Return the log time of the next step that it takes if no event comes, or ``None``.

        *next_ns* is the event time that something waits for.  Steps that lead to nothing are
        left out: while all sources are idle it goes from one such time to the next, and a
        source that is alone is idle only once something waits.
        """
        if self._idle_ns is None or self.at_ns is None:
            return None
        if self._since_ns is not None:
            return None if next_ns is None else self._since_ns + max(0, next_ns - self.at_ns)
        if next_ns is None and len(self._sources) == 1:
            return None
        return min(source.heard_ns for source in self._active()) + self._idle_ns

    def _active(self) -> list[_Source]:
        return [source for source in self._sources.values() if not source.is_idle]

    def wake(self, due_ns: int, started_ns: int) -> None:
        """Take that step: `wake_ns` was *due_ns*, and the engine has run since *started_ns*.

        A step that was due while no engine ran is put off, for nobody could hear the sources
        then: they have the idle time to be heard of again.  What they have to tell of that
        time would be late otherwise.
        """
        idle_ns = self._idle_ns
        assert idle_ns is not None
        assert self.at_ns is not None
        if self._since_ns is not None:
            if due_ns < started_ns:
                self._since_ns += started_ns + idle_ns - due_ns
            else:
                self.at_ns += due_ns - self._since_ns
                self._since_ns = due_ns
            return
        for source in self._active():
            if source.heard_ns + idle_ns < started_ns:
                source.heard_ns = started_ns
            else:
                source.is_idle = source.heard_ns + idle_ns <= due_ns
        if self._active():
            self._follow()
        else:
            self._since_ns = due_ns

    # ------------------------------------------------------------ state

    def clear(self) -> None:
        """Begin empty."""
        self._sources.clear()
        self._since_ns = None
        self.at_ns = None

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes: itself, and then its sources."""
        if self.at_ns is None:
            return []
        sources = [
            [name, source.newest_ns, source.heard_ns, source.is_idle]
            for name, source in sorted(self._sources.items())
        ]
        return [[self.at_ns, self._since_ns], *sources]

    def write_out(self) -> _Written:
        """See `KeyedStage`."""
        return _Written(self.dump())

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        (self.at_ns, self._since_ns), *sources = entries
        self._sources = {name: _Source(*fields) for name, *fields in sources}


class _Written:
    """A part of the state that was small enough to be written out at once."""

    oldest: int | None = None

    def __init__(self, entries: list[Any]) -> None:
        self._entries = entries

    def step(self, count: int) -> list[Any]:
        """See `Writing`."""
        entries, self._entries = self._entries, []
        return entries

    def stop(self) -> None:
        """See `Writing`."""
        self._entries = []

    def settle(self, count: int) -> bool:
        """See `Writing`."""
        return True
