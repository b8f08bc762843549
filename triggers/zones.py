"""Time zones by name, and their days: what windows of days and longer are aligned to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import Final

from headrace.engine.clock import NS
from headrace.triggers.nodes import WindowNode, seconds

EPOCH_DAY: Final = date(1970, 1, 1).toordinal()
DAY_NS: Final = 86_400 * NS
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def check_zone(place: str, tz: str, node: WindowNode) -> None:
    """Refuse a time zone that there is not, or that windows of this size do not go by.

    Raises:
        TypeError, ValueError: names *place*.
    """
    if not isinstance(tz, str):
        raise TypeError(f"{place}(tz={tz!r}): expected the name of a time zone: 'Europe/Berlin'")
    zone_of(tz, place)
    for name, duration_ns in (("size", node.size_ns), ("every", node.every_ns)):
        if duration_ns % DAY_NS:
            raise ValueError(
                f"{place}({name}={seconds(duration_ns)}, tz={tz!r}): only windows of whole days "
                f"(multiples of 86400 s) go by a time zone; leave tz= out"
            )


def zone_of(tz: str, place: str) -> tzinfo:
    """Return the time zone *tz*, an argument of *place*; UTC needs no database.

    Raises:
        ValueError: there is no such zone, or no database; says what to do.
    """
    import zoneinfo

    if tz == "UTC":
        return timezone.utc  # noqa: UP017 (the word is wanted)
    # Not what stands for another zone on each machine, nor one with leap seconds.
    if tz != "localtime" and not tz.startswith(("posix/", "right/")):
        try:
            return zoneinfo.ZoneInfo(tz)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
            pass  # which of them it is depends on the text and on the version of Python
    known = zoneinfo.available_timezones()
    if not known:
        raise ValueError(
            f"{place}(tz={tz!r}): this system has no time zone database; install one (pip install "
            f"tzdata, or the system's package tzdata), or use tz='UTC'"
        )
    import difflib

    near = difflib.get_close_matches(tz, sorted(known), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{place}(tz={tz!r}): expected a time zone such as 'Europe/Berlin'{hint}")


class Days:
    """The days of one zone, by number from that of the epoch on."""

    def __init__(self, tz: str) -> None:
        """Take the name of a zone that there is."""
        self._zone = zone_of(tz, "window")

    def day_of(self, at_ns: int) -> int:
        """Return the number of the local day at *at_ns*."""
        local = datetime.fromtimestamp(at_ns // NS, self._zone)
        day = local.toordinal() - EPOCH_DAY
        # Where clocks are put back over midnight the day has begun once, and is over again.
        return day if at_ns >= self.start_ns(day) else day - 1

    def start_ns(self, day: int) -> int:
        """Return when local day *day* begins."""
        return _start_ns(day, self._zone)


@lru_cache(maxsize=4096)
def _start_ns(day: int, zone: tzinfo) -> int:
    """Return the time of the midnight at which *day* begins.

    One that is left out, as clocks are put forward over it, is the moment at which they
    are; of one that is there twice it is the second, after which all is of that day.
    """
    local = datetime.combine(date.fromordinal(EPOCH_DAY + day), datetime.min.time(), zone)
    times = [local.replace(fold=fold) for fold in (0, 1)]
    first, second = [(time - _EPOCH) // timedelta(seconds=1) * NS for time in times]
    return max(first, second)
