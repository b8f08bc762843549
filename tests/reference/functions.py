"""What users write in rules, for the engine and the model: conditions, keys, values, folds."""

from __future__ import annotations

from typing import Any


def number(e: Any) -> int:
    """The data, or where it has an event time the first part of it."""
    value: int = e.data[0] if isinstance(e.data, list) else e.data
    return value


def time_of(e: Any) -> float | None:
    """Now and then there is none, or it raises."""
    return None if e.data[1] is None else float(e.data[1])


def is_even(e: Any) -> bool:
    return number(e) % 2 == 0


def is_small(e: Any) -> bool:
    return number(e) < 3


def divides_six(e: Any) -> bool:
    """Raises for 0."""
    return 6 % number(e) == 0


def is_much(e: Any) -> bool:
    return e.value is not None and e.value > 4


def by_three(e: Any) -> int | None:
    """Four in six have a key."""
    return None if number(e) % 3 == 0 else number(e) % 3


def by_parity(e: Any) -> str:
    return "even" if number(e) % 2 == 0 else "odd"


def known_number(e: Any) -> float | str | None:
    """Now and then no observation."""
    unknown: dict[int, float | str | None] = {1: None, 3: "three", 5: float("nan")}
    return unknown.get(number(e), number(e))


def total(events: list[Any]) -> int:
    return sum(number(e) for e in events)


def not_less(e: Any, m: Any) -> bool:
    return number(e) >= number(m["s1"][0])


def other_than_first(e: Any, m: Any) -> bool:
    return number(e) != number(m["s1"][-1])
