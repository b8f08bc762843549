"""What arguments of patterns are checked for when they are written, and how it is said."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Final

from headrace.engine.clock import seconds_to_ns

KEYS_MAX: Final = 100_000
"""Keys that one operator of a rule tracks; the one unheard of for longest goes first."""
PARTIALS_MAX: Final = 1000
"""Events that one operator holds for one key."""
WAITING_MAX: Final = 100_000
"""Events that a window or a queue holds for one key."""

Seconds = float | timedelta


def duration_ns(place: str, name: str, value: Seconds) -> int:
    """Return *value* in whole nanoseconds.

    Raises:
        TypeError, ValueError: it is no number of seconds above 0; names *place* and *name*.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise TypeError(f"{place}({name}={value!r}): expected seconds or a timedelta")
    if not 0 < seconds < 1e9:
        raise ValueError(
            f"{place}({name}={value!r}): expected more than 0 and less than 1e9 seconds"
        )
    return max(1, seconds_to_ns(seconds))


def check_choice(place: str, name: str, value: object, *choices: str) -> None:
    """Refuse what is none of *choices*.

    Raises:
        ValueError: names *place* and *name*.
    """
    if value not in choices:
        *first, last = map(repr, choices)
        raise ValueError(f"{place}({name}={value!r}): expected {', '.join(first)} or {last}")


def check_whole(place: str, name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no whole number of at least *least*.

    Raises:
        ValueError: names *place*, and *name* unless it is empty.
    """
    if type(value) is not int or value < least:
        given = f"{name}={value!r}" if name else repr(value)
        raise ValueError(f"{place}({given}): expected a whole number of at least {least}")


def check_bool(place: str, name: str, value: object) -> None:
    """Refuse what is neither ``True`` nor ``False``.

    Raises:
        TypeError: names *place* and *name*.
    """
    if type(value) is not bool:
        raise TypeError(f"{place}({name}={value!r}): expected True or False")


def check_function(place: str, function: object, *, also: str = "") -> None:
    """Refuse what cannot be called, or would have to be awaited.

    Raises:
        TypeError: names *place*; *also* says what else would do.
    """
    if not callable(function):
        raise TypeError(f".{place}({function!r}): expected a function of the event{also}")
    call = getattr(function, "__call__", None)  # noqa: B004 (an object with async __call__)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        name = getattr(function, "__name__", function)
        raise TypeError(f".{place}({name}): expected an ordinary function, found an async one")


def takes_match(condition: object) -> bool:
    """Say whether *condition* takes a second argument: the events taken so far."""
    try:
        parameters = inspect.signature(condition).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):  # a built-in function that does not say
        return False
    needed = [
        parameter
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 2
