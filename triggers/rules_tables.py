"""Tables of a rules file: each value is read with what it has to be.

What is wrong becomes a problem with its place, and reading goes on, so that all problems of
a file are found at once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fractions import Fraction
from functools import lru_cache
from math import inf
from typing import Any, Final

from headrace.engine.errors import Problem
from headrace.triggers.condition import Condition, FieldReader
from headrace.triggers.expression import parse_condition, parse_field
from headrace.triggers.expression_error import ExpressionError
from headrace.triggers.field import Field
from headrace.triggers.key_text import key_of, parse_key
from headrace.triggers.keys import KEY_EXPECTED, is_key, plain_key
from headrace.triggers.rules_places import Path, Places

SHOWN_CHARS_MAX: Final = 60
SECONDS_MAX: Final = 10**9
WHOLE_END: Final = 2**63
"""No number of a file reaches it."""

_SPAN: Final = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) *(ns|us|ms|s|m|h|d)")
_SECONDS: Final = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
    "d": Fraction(86400),
}
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


class Report:
    """All that is wrong with a file."""

    def __init__(self, places: Places) -> None:
        """*places* knows where things stand in it."""
        self._places = places
        self.problems: list[Problem] = []

    def at_key(self, path: Path, message: str) -> None:
        """Say that the key itself at *path* is wrong."""
        self.problems.append(Problem(*self._places.of_key(path), dotted(path), message))

    def at_value(self, path: Path, message: str) -> None:
        """Say that what stands at *path* is wrong."""
        self.problems.append(Problem(*self._places.of_value(path), dotted(path), message))

    def in_text(self, path: Path, error: ExpressionError) -> None:
        """Say that the text at *path* is wrong, and where in it."""
        place = self._places.inside(path, error.text, error.line, error.column)
        self.problems.append(Problem(*place, dotted(path), error.problem))


class Table:
    """One table, of which the known keys can be asked for.  Each gives ``None`` if it is bad."""

    def __init__(self, report: Report, path: Path, values: Any, known: Collection[str]) -> None:
        """Report all keys that are not *known*, and *values* if they are no table."""
        self.report = report
        self.path = path
        self._first = len(report.problems)
        self._values: dict[str, Any] = values if isinstance(values, dict) else {}
        self._meant: set[str] = set()
        """Keys that those which are not known look like."""
        if not isinstance(values, dict):
            report.at_value(path, f"expected a table, found {shown(values)}")
        for key in self._values:
            if key not in known:
                meant = did_you_mean(key, known)
                expected = "a known key" if meant else one_of(known)
                report.at_key((*path, key), f"expected {expected}, found {key!r}{meant}")
                self._meant.update(name for name in known if repr(name) in meant)

    def __contains__(self, key: str) -> bool:
        """Say whether it has *key*."""
        return key in self._values

    def has_problem(self) -> bool:
        """Say whether there is a problem in it, or in what was read since it."""
        return len(self.report.problems) > self._first

    def get(self, key: str) -> Any:
        """Return what stands at *key*, whatever it is."""
        return self._values.get(key)

    def entries(self) -> list[tuple[str, Any]]:
        """Return its keys and values, in their order."""
        return list(self._values.items())

    def fail(self, key: str, message: str) -> None:
        """Report that the value at *key* is wrong; that of the table, if there is none."""
        if key in self._values:
            self.report.at_value((*self.path, key), message)
        else:
            self.report.at_value(self.path, message)

    def lacks(self, key: str, message: str) -> bool:
        """Say whether there is no *key*, and report that as *message*, unless it is misspelt."""
        if key not in self._values and key not in self._meant:
            self.report.at_value(self.path, message)
        return key not in self._values

    def expected(self, key: str, what: str) -> None:
        """Report that *what* was expected at *key*."""
        self.fail(key, f"expected {what}, found {shown(self._values[key])}")

    # ------------------------------------------------------------ plain values

    def text(self, key: str, what: str = "a text") -> str | None:
        """Return a text."""
        value = self.get(key)
        if isinstance(value, str):
            return value
        if key in self:
            self.expected(key, what)
        return None

    def flag(self, key: str) -> bool | None:
        """Return true or false."""
        value = self.get(key)
        if isinstance(value, bool):
            return value
        if key in self:
            self.expected(key, "true or false")
        return None

    def whole(self, key: str, *, unbounded: bool = False) -> Any:
        """Return a whole number from 1, or inf if it may be *unbounded*."""
        value = self.get(key)
        if (type(value) is int and 1 <= value < WHOLE_END) or (unbounded and value == inf):
            return value
        if key in self:
            self.expected(key, f"a whole number of at least 1{', or inf' * unbounded}")
        return None

    def number(self, key: str) -> float | None:
        """Return a finite number."""
        value = self.get(key)
        if type(value) in (int, float) and abs(value) < WHOLE_END:
            number: float = value
            return number
        if key in self:
            self.expected(key, "a number")
        return None

    def choice(self, key: str, *choices: str, also: str = "") -> str | None:
        """Return one of *choices*; *also* says what else would do."""
        value = self.get(key)
        if isinstance(value, str) and value in choices:
            return value
        if key in self:
            meant = did_you_mean(value, choices)
            expected = f"{one_of(map(repr, choices))}{also}"
            self.fail(key, f"expected {expected}, found {shown(value)}{meant}")
        return None

    def span(self, key: str, *, unbounded: bool = False, zero: bool = False) -> float | None:
        """Return a duration in seconds; inf if it may be *unbounded*, and is."""
        value = self.get(key)
        if isinstance(value, str):
            return self._span_in(key, value, zero=zero)
        if type(value) in (int, float):
            if (0 < value < SECONDS_MAX) or (unbounded and value == inf) or (zero and value == 0):
                number: float = value
                return number
            least = "0" if zero else "more than 0"
            self.expected(key, f"{least} and less than 1e9 seconds{', or inf' * unbounded}")
        elif key in self:
            self.expected(key, "seconds, or a text such as '250ms', '30s', '5m', '2h', '1d'")
        return None

    def _span_in(self, key: str, text: str, *, zero: bool) -> float | None:
        seconds = seconds_in(text)
        if seconds is None:
            self.expected(key, "a number and its unit such as '250ms', '30s', '5m', '2h', '1d'")
        elif seconds >= SECONDS_MAX or (seconds == 0 and not zero):
            self.expected(key, "more than 0 and less than 1e9 seconds")
        else:
            return seconds
        return None

    def texts(self, key: str, what: str) -> list[tuple[Path, str]] | None:
        """Return a text or a list of texts as a list, each with its path; *what* they are."""
        value = self.get(key)
        path = (*self.path, key)
        if isinstance(value, str):
            return [(path, value)]
        if not isinstance(value, list) or not value:
            if key in self:
                self.expected(key, f"{what} or a list of them")
            return None
        bad = [number for number, item in enumerate(value) if not isinstance(item, str)]
        for number in bad:
            found = shown(value[number])
            self.report.at_value((*path, number), f"expected {what}, found {found}")
        return None if bad else [((*path, number), item) for number, item in enumerate(value)]

    # ------------------------------------------------------------ what is written as text

    def conditions(self, key: str) -> list[Condition]:
        """Return the conditions at *key*, a text or a list of texts."""
        conditions: list[Condition] = []
        for path, text in self.texts(key, "a condition such as 'celsius > 90'") or ():
            try:
                conditions.append(parse_condition(text))
            except ExpressionError as error:
                self.report.in_text(path, error)
        return conditions

    def field(self, key: str) -> Field | None:
        """Return the field that a text names."""
        text = self.text(key, "the path of a field such as 'place.name'")
        if text is None:
            return None
        try:
            return parse_field(text)
        except ExpressionError as error:
            self.report.in_text((*self.path, key), error)
        return None

    def event_key(self, key: str) -> FieldReader | None:
        """Return what gives an event's key: a text, or a list of texts for a tuple."""
        readers: list[FieldReader] = []
        texts = self.texts(key, "a key such as 'subject.1' or 'device.id'")
        for path, text in texts or ():
            try:
                readers.append(parse_key(text))
            except ExpressionError as error:
                self.report.in_text(path, error)
        if texts is None or len(readers) < len(texts):
            return None
        if isinstance(self.get(key), str):
            return readers[0]
        try:
            return key_of(readers)
        except ValueError as error:
            self.fail(key, str(error))
        return None

    def keys_listed(self, key: str) -> list[Any] | None:
        """Return a list of keys; a list in it is a tuple."""
        value = self.get(key)
        if not isinstance(value, list):
            if key in self:
                self.expected(key, "a list of keys such as ['t1', 't2']")
            return None
        keys: list[Any] = []
        for number, item in enumerate(value):
            made = tuple(item) if isinstance(item, list) else item
            if is_key(made):
                keys.append(plain_key(made))
            else:
                path = (*self.path, key, number)
                self.report.at_value(path, f"{KEY_EXPECTED}, found {shown(item)}")
        return keys


@lru_cache(maxsize=1024)
def seconds_in(text: str) -> float | None:
    """Return the seconds that a text such as ``250ms`` says; ``None`` if it says none."""
    found = _SPAN.fullmatch(text)
    if found is None:
        return None
    seconds = Fraction(found[1]) * _SECONDS[found[2]]
    return int(seconds) if seconds.denominator == 1 else float(seconds)


def dotted(path: Path) -> str:
    """Return *path* as TOML writes it, with the numbers of items in brackets."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _BARE_KEY.fullmatch(part) else repr(part)
            text += f".{name}" if text else name
    return text


def one_of(words: Iterable[str]) -> str:
    """Return ``a, b or c``."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def did_you_mean(found: object, known: Iterable[str]) -> str:
    """Return a question about the one of *known* that *found* looks like, or nothing."""
    close = get_close_matches(str(found), list(known), n=1) if isinstance(found, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """Return a value of the file in short, in TOML's words."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an empty list" if not value else "a list"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of over 64 bits"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[: SHOWN_CHARS_MAX - 1]}…"
