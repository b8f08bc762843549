"""What `debounce`, `session`, `batch`, `tumbling` and `hopping` make of one key's hits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from tests.reference.happened import Happened, Place, Stage, combined, ns
from tests.reference.spec import Batch, Debounce, Session, Windows

DAY = ns(86_400)
EPOCH = date(1970, 1, 1)


def bursts(
    hits: list[Happened], quiet: float, max_wait: float | None, stage: Stage
) -> list[tuple[list[Happened], Place]]:
    """Hits of which each comes before the quiet after the one before it is over."""
    made: list[tuple[list[Happened], Place]] = []
    for hit in hits:
        goes_on = made and hit.place < made[-1][1]
        burst = [*made.pop()[0], hit] if goes_on else [hit]
        due = hit.at + ns(quiet)
        if max_wait is not None:
            due = min(due, burst[0].at + ns(max_wait))
        made.append((burst, stage.timer(due, hit)))
    return made


def debounced(hits: list[Happened], spec: Debounce, stage: Stage) -> list[Happened]:
    """The first of each burst, or at its end all of it, or both."""
    made = []
    for burst, end in bursts(hits, spec.quiet, spec.max_wait, stage):
        if spec.edge == "trailing":
            made.append(combined(burst, end[0], end))
        elif spec.edge == "leading":
            made.append(burst[0])
        else:
            made.append(burst[0]._replace(reason="leading"))
            if len(burst) > 1:
                made.append(combined(burst[1:], end[0], end, reason="trailing"))
    return made


def sessions(hits: list[Happened], spec: Session, stage: Stage) -> list[Happened]:
    """Debounce that keeps all."""
    return [combined(burst, end[0], end) for burst, end in bursts(hits, spec.gap, spec.max, stage)]


def batched(hits: list[Happened], spec: Batch, stage: Stage, timeline: list[Any]) -> list[Happened]:
    """Open at the first; flush at n, at so many bytes, or at the end of the time."""
    made: list[Happened] = []
    batch: list[Happened] = []
    end: Place | None = None
    following: list[Happened | None] = [*hits, None]
    for hit in following:
        if batch and end is not None and (hit is None or end < hit.place):
            made.append(combined(batch, end[0], end, reason="time"))
            batch = []
        if hit is None:
            break
        if not batch:
            end = None if spec.within is None else stage.timer(hit.at + ns(spec.within), hit)
        batch.append(hit)
        size = sum(encoded_bytes(timeline[event].data) for x in batch for event in x.events)
        if spec.n is not None and len(batch) >= spec.n:
            made.append(combined(batch, hit.at, hit.place, reason="n"))
            batch = []
        elif spec.bytes_max is not None and size >= spec.bytes_max:
            made.append(combined(batch, hit.at, hit.place, reason="bytes"))
            batch = []
    return made


def encoded_bytes(data: Any) -> int:
    """The size of an event's data in the log."""
    return len(msgspec.msgpack.encode(data))


def windowed(hits: list[Happened], spec: Windows, stage: Stage) -> list[Happened]:
    """Each hit is in each window that contains its time; a timer at each end."""
    grid = Grid(spec)
    contents: dict[int, list[Happened]] = {}
    for hit in hits:
        for start, end in grid.around(hit.at):
            if start <= hit.at < end:
                contents.setdefault(end, []).append(hit)
    ends = grid.ends(hits[0].at, stage.until) if spec.emit_empty else sorted(contents)
    places: list[Place] = []
    for end in ends:
        # One timer at a time: it is set anew when it fires, or by the first hit after that.
        first = hits[0] if spec.emit_empty else contents[end][0]
        is_set_anew = places and first.place < places[-1]
        armed = stage.next_timer(end, places[-1]) if is_set_anew else stage.timer(end, first)
        places.append(armed)
    made = []
    for place in places:
        inside = contents.get(place[0], [])
        empty = Happened(place[0], place, hits[0].key, (), None)
        made.append(combined(inside, place[0], place) if inside else empty)
    return made


class Grid:
    """All windows, numbered: aligned to the epoch, and whole days to local midnights."""

    def __init__(self, spec: Windows) -> None:
        self.size, self.every = ns(spec.size), ns(spec.every)
        self.zone = ZoneInfo(spec.tz)
        self.is_local = self.size % DAY == 0
        assert not self.is_local or self.every % DAY == 0, spec

    def window(self, number: int) -> tuple[int, int]:
        """Return the start and the end of window *number*."""
        start, end = number * self.every, number * self.every + self.size
        if self.is_local:
            return self.midnight(start // DAY), self.midnight(end // DAY)
        return start, end

    def midnight(self, day: int) -> int:
        """Return when local day *day* since the epoch begins."""
        on_that_day = EPOCH + timedelta(days=day)
        local = datetime(on_that_day.year, on_that_day.month, on_that_day.day, tzinfo=self.zone)
        return ns(
            (local.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
        )

    def around(self, at: int) -> Iterator[tuple[int, int]]:
        """Yield all windows that may contain *at*, and some more."""
        for number in range((at - self.size) // self.every - 2, at // self.every + 3):
            yield self.window(number)

    def ends(self, after: int, until: int) -> list[int]:
        """Return the ends in ``(after, until]``."""
        first = (after - self.size) // self.every - 2
        last = until // self.every + 3
        ends = [self.window(number)[1] for number in range(first, last)]
        return [end for end in ends if after < end <= until]
