"""`field`: where conditions begin.  What cannot work is refused here, when it is written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from headrace.triggers.condition import Condition, FieldReader, Leaf, text_of_field

Constant = bool | int | float | str | bytes | Enum | None
Ordered = int | float | str | bytes
_CONSTANTS: Final = (type(None), bool, int, float, str, bytes)


class Field:
    """A place in an event's data, made by `field`; comparing it makes a `Condition`."""

    __slots__ = ("_path",)

    def __init__(self, path: tuple[str, ...]) -> None:
        """Take the parts of a path that `field` has checked."""
        self._path = path

    def __gt__(self, other: Ordered) -> Condition:
        return Leaf(self._path, ">", self._ordered(">", other))

    def __ge__(self, other: Ordered) -> Condition:
        return Leaf(self._path, ">=", self._ordered(">=", other))

    def __lt__(self, other: Ordered) -> Condition:
        return Leaf(self._path, "<", self._ordered("<", other))

    def __le__(self, other: Ordered) -> Condition:
        return Leaf(self._path, "<=", self._ordered("<=", other))

    def __eq__(self, other: Constant) -> Condition:  # type: ignore[override]
        return Leaf(self._path, "==", self._constant("==", other))

    def __ne__(self, other: Constant) -> Condition:  # type: ignore[override]
        return Leaf(self._path, "!=", self._constant("!=", other))

    __hash__ = None  # type: ignore[assignment]

    def reader(self) -> FieldReader:
        """Return a function of an event that reads the field: for `.key` and the like."""
        return FieldReader(self._path)

    def between(self, low: Ordered, high: Ordered) -> Condition:
        """Ask whether ``low <= value <= high``: both ends are inside."""
        first, last = self._ordered("between", low), self._ordered("between", high)
        numbers = isinstance(first, (int, float)) + isinstance(last, (int, float))
        if numbers == 1 or (not numbers and type(first) is not type(last)):
            raise TypeError(f"{self}.between({low!r}, {high!r}): expected two of one kind")
        if first > last:
            raise ValueError(f"{self}.between({low!r}, {high!r}): expected the lower one first")
        return Leaf(self._path, "between", first, last)

    def matches(self, regex: str) -> Condition:
        """Ask whether *regex* is found anywhere in a text; ``^`` and ``$`` are its ends."""
        if type(regex) is not str:
            raise TypeError(
                f"{self}.matches({regex!r}): expected a regular expression as text; "
                f"its flags go inside, as in '(?i)warm'"
            )
        try:
            re.compile(regex)
        except (re.error, OverflowError, RecursionError) as error:
            raise ValueError(f"{self}.matches({regex!r}): no regular expression: {error}") from None
        return Leaf(self._path, "matches", regex)

    def is_in(self, constants: Iterable[Constant]) -> Condition:
        """Ask whether the value is equal to one of *constants*."""
        if isinstance(constants, (str, bytes)) or not isinstance(constants, Iterable):
            raise TypeError(f"{self}.is_in({constants!r}): expected a list of constants")
        listed = [self._constant("is_in", constant) for constant in constants]
        if isinstance(constants, (set, frozenset)):
            listed.sort(key=repr)  # its own order is another one in each process
        if not listed:
            raise ValueError(f"{self}.is_in({constants!r}): nothing is in an empty list")
        return Leaf(self._path, "is_in", *listed)

    def exists(self) -> Condition:
        """Ask whether there is a value, be it null.  This is never unknown."""
        return Leaf(self._path, "exists")

    def __repr__(self) -> str:
        """Return the expression that makes it."""
        return text_of_field(self._path)

    def __bool__(self) -> bool:
        raise TypeError(f"{self} has no truth value: compare it, or ask {self}.exists()")

    def _ordered(self, name: str, value: object) -> Any:
        constant = self._constant(name, value)
        if constant is None or type(constant) is bool:
            raise TypeError(f"{self} {name} {value!r}: expected a number, text or bytes")
        return constant

    def _constant(self, name: str, value: object) -> Any:
        constant = value.value if isinstance(value, Enum) else value
        if isinstance(value, Field):
            raise TypeError(
                f"{self} {name} {value}: two fields cannot be compared; use a function of the event"
            )
        if type(constant) not in _CONSTANTS:
            raise TypeError(
                f"{self} {name} {value!r}: expected a number, text, bytes, bool or None; "
                f"for anything else use a function of the event"
            )
        if constant != constant:  # noqa: PLR0124 (only NaN)
            raise ValueError(f"{self} {name} {value!r}: nothing can be compared with NaN")
        if type(constant) is int and not -(2**63) <= constant < 2**64:
            raise ValueError(f"{self} {name} …: no event holds a whole number of over 64 bits")
        return constant

    if not TYPE_CHECKING:  # to a checker these are mistakes without our saying so

        def _refused(self, other: object = None) -> Condition:
            raise TypeError(
                f"{self} is no condition: compare it, and put each comparison next to & | ~ in "
                f"parentheses, as in ({self} > 1) & ({self} < 5)"
            )

        __and__ = __rand__ = __or__ = __ror__ = __invert__ = _refused


def field(path: str = ".") -> Field:
    """Name a place in an event's data, to be compared: ``field("celsius") > 90``.

    *path* has a dot between the names of entries and attributes and the numbers of items,
    from 0, or from -1 backwards: ``field("readings.0.celsius")``.  Without it, the data
    itself is compared.

    Raises:
        TypeError, ValueError: *path* is no such text.
    """
    if type(path) is not str:
        raise TypeError(f"field({path!r}): expected a path such as 'readings.0.celsius'")
    tokens = () if path == "." else tuple(path.split("."))
    if not all(tokens):
        raise ValueError(
            f"field({path!r}): expected names with dots between them, such as "
            f"'readings.0.celsius'; field() is the data itself"
        )
    return Field(tokens)
