"""What a condition asks of one field: find its value, compare it, in three-valued logic.

Values have kinds: null, bool, number, text, bytes, and others.  Values of different kinds
are never equal, and none is greater than the other: that is unknown.  An enum counts as
what is stored of it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from keyword import iskeyword
from typing import Any, Final

from msgspec import UNSET

Test = Callable[[Any], bool | None]
"""Takes an event, or a value; ``None`` is unknown."""

SYMBOLS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_EQUALITY: Final = ("==", "!=", "is_in")
_PLAIN: Final = frozenset(
    (type(None), bool, int, float, str, bytes, list, tuple, dict, set, frozenset)
)
_INDEX: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")


def compiled(path: tuple[str, ...], name: str, operands: tuple[Any, ...]) -> Test:
    """Return what asks an event whether the field at *path* fulfils *name* with *operands*."""
    if name == "exists":
        return lambda event: read(path, event.data) is not UNSET
    compare, operand = _comparison(name, operands)
    kinds = _kinds_of(operands)
    if name in _EQUALITY:
        judge = _equality(operands, negated=name == "!=")
    else:
        judge = _order(compare, operand, kinds)

    def ask(event: Any) -> bool | None:
        return judge(read(path, event.data))

    if len(path) != 1 or not _is_attribute(path[0]):
        return ask
    symbol = name if name in SYMBOLS else ""
    unordered = False if name in _EQUALITY else None
    made: Test = _quick(path[0], symbol)(kinds, compare, operand, unordered, ask)
    return made


_QUICK: Final = """
def make(kinds, compare, operand, unordered, ask):
    def test(event):
        data = event.data
        try:
            value = data[{token!r}] if data.__class__ is dict else data.{token}
        except (AttributeError, KeyError):
            return ask(event)
        if value.__class__ in kinds:
            return {comparison} or (unordered if value != value else False)
        return ask(event)
    return test
"""


@lru_cache(maxsize=1024)
def _quick(token: str, symbol: str) -> Callable[..., Test]:
    """Return what makes the test of the usual case: one field, with a value of its kind.

    Whatever else there is it leaves to ``ask``.  It is written out, as a named tuple is,
    since an attribute that the code names is found faster than one that is looked up;
    *token* is one for which `_is_attribute` holds, and so nothing else than a name.
    NaN, which is not equal to itself, is neither more nor less than anything: unknown.
    """
    comparison = f"value {symbol} operand" if symbol else "compare(value, operand)"
    made: dict[str, Any] = {}
    exec(_QUICK.format(token=token, comparison=comparison), made)  # noqa: S102 (a name)
    factory: Callable[..., Test] = made["make"]
    return factory


def read(path: tuple[str, ...], data: Any) -> Any:
    """Return what *data* holds at *path*; `msgspec.UNSET` if nothing."""
    for token in path:
        if type(data) is dict and token in data:
            data = data[token]
        elif (data := _part(data, token)) is UNSET:
            break
    return data


def _part(data: Any, token: str) -> Any:
    """Return the entry, item or attribute *token* of *data*; `msgspec.UNSET` if it has none."""
    index = _index_of(token)
    if isinstance(data, dict):
        found = data.get(token, UNSET)
        return found if found is not UNSET or index is None else data.get(index, UNSET)
    if isinstance(data, (list, tuple)) and index is not None:
        return data[index] if -len(data) <= index < len(data) else UNSET
    if type(data) in _PLAIN or token.startswith("__"):
        return UNSET
    found = getattr(data, token, UNSET)
    return UNSET if callable(found) else found  # a method is no data


@lru_cache(maxsize=1024)
def _index_of(token: str) -> int | None:
    return int(token) if _INDEX.fullmatch(token) else None


def _is_attribute(token: str) -> bool:
    """Say whether *token* can be written as an attribute, and is one of no plain data."""
    is_name = token.isascii() and token.isidentifier() and not iskeyword(token)
    known = any(hasattr(kind, token) for kind in _PLAIN)
    return is_name and not known and not token.startswith("__")


def _kinds_of(operands: tuple[Any, ...]) -> tuple[type, ...]:
    """Return the types of values that can be compared with *operands* as Python does it."""
    kinds = {type(operand) for operand in operands}
    if kinds & {int, float}:
        if bool in kinds:  # Python has True equal to 1
            return ()
        kinds |= {int, float}
    return tuple(kinds)


def _comparison(name: str, operands: tuple[Any, ...]) -> tuple[Callable[[Any, Any], bool], Any]:
    """Return a function of a value and of what else it takes."""
    if name == "between":
        return _is_between, operands
    if name == "is_in":
        return _is_in, frozenset(operands)
    if name == "matches":
        return _is_found, re.compile(operands[0])
    return SYMBOLS[name], operands[0]


def _is_between(value: Any, bounds: Any) -> bool:
    return bool(bounds[0] <= value <= bounds[1])


def _is_in(value: Any, constants: frozenset[Any]) -> bool:
    return value in constants


def _is_found(value: Any, regex: re.Pattern[str]) -> bool:
    return regex.search(value) is not None


def _order(compare: Callable[[Any, Any], bool], operand: Any, kinds: tuple[type, ...]) -> Test:
    """Return what judges any value by a comparison that only some kinds can be put to."""

    def judge(value: Any) -> bool | None:
        if type(value) not in kinds:
            if isinstance(value, Enum):
                return judge(value.value)
            if value is UNSET or type(value) in _PLAIN:
                return None
        try:  # a Decimal, a subclass of str, …
            return bool(compare(value, operand)) or (None if value != value else False)  # noqa: PLR0124
        except (TypeError, ArithmeticError):  # of another kind; a Decimal that is no number
            return None

    return judge


def _equality(operands: tuple[Any, ...], *, negated: bool) -> Test:
    """Return what judges whether any value is equal to one of *operands*."""

    def judge(value: Any) -> bool | None:
        if value is UNSET:
            return None
        if isinstance(value, Enum):
            value = value.value
        return any(_is_equal(value, operand) for operand in operands) is not negated

    return judge


def _is_equal(value: Any, constant: Any) -> bool:
    if (type(value) is bool) is not (type(constant) is bool):
        return False
    try:
        return bool(value == constant)
    except ArithmeticError:  # a Decimal that is no number
        return False
