"""When a rule that goes by event time lets its events go."""

from __future__ import annotations

from typing import NamedTuple

from tests.reference.happened import Seen, ns
from tests.reference.spec import EventTime


class Released(NamedTuple):
    """What a rule makes of its events before anything else."""

    times: dict[int, int]
    """Event time by number, of those that are let go."""
    watermark: int | None
    """After the last of them."""
    late: list[int]
    watermarks: dict[int, int]
    """After each event that came in time, by its number."""

    def arrival(self, at: int, number: int) -> int:
        """Return the event with which what is due *at* happens; *number*: itself, if it is one."""
        first = min(n for n, watermark in self.watermarks.items() if watermark >= at)
        return max(first, number)


def released(arriving: list[int], seen: list[Seen], spec: EventTime) -> Released:
    """Events wait until the watermark has come to them; those that come after it are late."""
    times: dict[int, int] = {}
    late: list[int] = []
    watermarks: dict[int, int] = {}
    newest: int | None = None
    for number in arriving:
        time = time_of(seen[number], spec)
        if time is None:
            continue
        watermark = None if newest is None else newest - ns(spec.lateness)
        if watermark is not None and time <= watermark:
            late.append(number)
            if spec.late == "as_now":
                times[number] = watermark
        else:
            times[number] = time
            newest = time if newest is None else max(newest, time)
            watermarks[number] = newest - ns(spec.lateness)
    final = None if newest is None else newest - ns(spec.lateness)
    let_go = {n: time for n, time in times.items() if final is not None and time <= final}
    return Released(let_go, final, late, watermarks)


def time_of(seen: Seen, spec: EventTime) -> int | None:
    """Return the event time; what has none, or raises, is not for this rule."""
    try:
        time = spec.time(seen)
    except ValueError:
        return None
    return None if time is None else ns(time)
