"""What a task declares beyond its retries: `Rate`, `Breaker`, and all of it as `Limits`.

Durations are checked here, where they are written, so that nothing fails at night.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final, Literal, TypedDict

from msgspec import Struct

from headrace.engine.breakers import FAILURES_MAX
from headrace.engine.clock import seconds_to_ns
from headrace.engine.retry import seconds_of

UNITS: Final = {"ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_RATE: Final = re.compile(r"\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)?\s*(ms|s|min|h|d)\s*")
PRIORITY_MAX: Final = 1000


class Rate(Struct, frozen=True):
    """How many attempts of a task begin: *n* in *per* seconds, evenly, after a burst.

    In any stretch of time no more begin than `burst` and n/per for its length.  That holds
    over restarts, so after a crash the first waits as long as it would after a burst.
    """

    n: int
    per: float | timedelta = 1.0
    burst: int = 1
    """How many may begin at once after a pause."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, where it is written."""
        for name in ("n", "burst"):
            _check_whole("Rate", name, getattr(self, name), least=1)
        _positive_ns("Rate", "per", self.per)

    @property
    def per_ns(self) -> int:
        """`per` in nanoseconds."""
        return seconds_to_ns(seconds_of(self.per))


class Breaker(Struct, frozen=True, kw_only=True):
    """When a task that goes on failing is left alone for a while: a circuit breaker.

    After `failures` failed attempts within `within` seconds the circuit is open: no attempt
    begins for `open_for` seconds.  Then one is tried: if it succeeds, the circuit is closed
    and all go on; if it fails, it is open again.  All that is in the log, so a restart changes
    nothing.
    """

    failures: int = 5
    """Failed attempts that open it."""
    within: float | timedelta = 60.0
    """Seconds within which they have to come."""
    open_for: float | timedelta = 30.0
    """Seconds until one attempt is tried."""
    while_open: Literal["wait", "fail"] = "wait"
    """What new attempts do: ``wait``, or ``fail`` at once with `CircuitOpen`."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, where it is written."""
        _check_whole("Breaker", "failures", self.failures, least=1)
        if self.failures > FAILURES_MAX:
            raise ValueError(
                f"Breaker(failures={self.failures!r}): expected at most {FAILURES_MAX}"
            )
        _positive_ns("Breaker", "within", self.within)
        _positive_ns("Breaker", "open_for", self.open_for)
        if self.while_open not in ("wait", "fail"):
            raise ValueError(f"Breaker(while_open={self.while_open!r}): expected 'wait' or 'fail'")

    @property
    def within_ns(self) -> int:
        """`within` in nanoseconds."""
        return seconds_to_ns(seconds_of(self.within))

    @property
    def open_for_ns(self) -> int:
        """`open_for` in nanoseconds."""
        return seconds_to_ns(seconds_of(self.open_for))


class LimitOptions(TypedDict, total=False):
    """The limits of a task as they are declared; see `App.task`."""

    deadline: float | timedelta | None
    heartbeat: float | timedelta | None
    concurrency: int | None
    concurrency_per_key: int | None
    rate: str | Rate | None
    priority: int
    breaker: Breaker | None


class Limits(Struct, frozen=True):
    """The limits of a task as they were checked."""

    deadline_ns: int | None = None
    heartbeat_ns: int | None = None
    concurrency: int | None = None
    concurrency_per_key: int | None = None
    rate: Rate | None = None
    priority: int = 0
    breaker: Breaker | None = None

    @property
    def holds_back(self) -> bool:
        """Whether attempts may have to wait before they begin."""
        return not (
            self.concurrency is None
            and self.concurrency_per_key is None
            and self.rate is None
            and self.breaker is None
        )


def limits_of(name: str, options: LimitOptions) -> Limits | None:
    """Return the limits that *options* declare for task *name*; ``None``: there are none.

    Raises:
        TypeError, ValueError: they cannot work; says which part and why.
    """
    place = f"task {name!r}: "
    unknown = sorted(options.keys() - LimitOptions.__annotations__.keys())
    if unknown:
        known = ", ".join(LimitOptions.__annotations__)
        raise TypeError(f"{place}expected one of {known}, found {unknown[0]!r}")
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    if not given:
        return None
    limits: dict[str, Any] = {}
    for key in ("deadline", "heartbeat"):
        if key in given:
            limits[f"{key}_ns"] = _positive_ns(place, key, given[key])
    for key in ("concurrency", "concurrency_per_key"):
        if key in given:
            _check_whole(place, key, given[key], least=1)
            limits[key] = given[key]
    if "priority" in given:
        _check_whole(place, "priority", given["priority"], least=-PRIORITY_MAX)
        if given["priority"] > PRIORITY_MAX:
            raise ValueError(
                f"{place}priority={given['priority']!r}: expected at most {PRIORITY_MAX}"
            )
        limits["priority"] = given["priority"]
    if "rate" in given:
        limits["rate"] = _rate_of(place, given["rate"])
    if "breaker" in given:
        if not isinstance(given["breaker"], Breaker):
            raise TypeError(f"{place}breaker={given['breaker']!r}: expected Breaker(...)")
        limits["breaker"] = given["breaker"]
    return Limits(**limits)


def _rate_of(place: str, rate: object) -> Rate:
    if isinstance(rate, Rate):
        return rate
    if not isinstance(rate, str):
        raise TypeError(f"{place}rate={rate!r}: expected Rate(...) or a text such as '100/s'")
    found = _RATE.fullmatch(rate)
    if found is None:
        raise ValueError(
            f"{place}rate={rate!r}: expected a text such as '100/s', '5/min' or '10/30s', with "
            f"one of {', '.join(UNITS)}"
        )
    n, count, unit = found.groups()
    return Rate(int(n), float(count or 1) * UNITS[unit])


def _check_whole(place: str, name: str, value: object, *, least: int) -> None:
    if type(value) is not int or value < least:
        raise ValueError(
            f"{_said(place, name, value)}: expected a whole number of at least {least}"
        )


def _positive_ns(place: str, name: str, value: Any) -> int:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{_said(place, name, value)}: expected seconds or a timedelta")
    if not 0 < seconds < 1e9:
        raise ValueError(
            f"{_said(place, name, value)}: expected more than 0 and less than 1e9 seconds"
        )
    return max(1, seconds_to_ns(seconds))


def _said(place: str, name: str, value: object) -> str:
    return f"{place}{name}={value!r}" if place.endswith(" ") else f"{place}({name}={value!r})"
