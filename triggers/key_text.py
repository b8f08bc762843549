"""Keys that are written as text: ``subject.1``, a field such as ``device.id``, or both."""

from __future__ import annotations

import re
from typing import Any, Final

from headrace.engine.event import Event
from headrace.triggers.condition import FieldReader
from headrace.triggers.expression import parse_field
from headrace.triggers.expression_error import ExpressionError
from headrace.triggers.keys import KEY_PARTS_MAX

_TOKEN: Final = re.compile(r"subject\.(-?[0-9]{1,3})")


class SubjectReader(FieldReader):
    """A function of an event that reads its subject, or a token of it, ``None`` if it has none."""

    __slots__ = ("_index",)

    def __init__(self, index: int | None) -> None:
        """*index* is that of a token, from 0 or from -1 backwards; ``None``: all of the subject."""
        self.path = ()
        self._index = index
        self.structure = ("subject",) if index is None else ("subject", str(index))

    def __call__(self, event: Event[Any]) -> Any:
        """Return what the subject of *event* has there."""
        if self._index is None:
            return event.subject
        tokens = event.subject.split(".")
        return tokens[self._index] if -len(tokens) <= self._index < len(tokens) else None

    def __repr__(self) -> str:
        """Return the text that makes it."""
        return repr(".".join(self.structure))


class TupleReader(FieldReader):
    """A function of an event that reads several things as one key: ``None`` if one is missing."""

    __slots__ = ("_readers",)

    def __init__(self, readers: tuple[FieldReader, ...]) -> None:
        """Take what reads the parts."""
        self.path = ()
        self._readers = readers
        self.structure = ("tuple", *map(repr, readers))

    def __call__(self, event: Event[Any]) -> Any:
        """Return the key of *event*."""
        key = tuple(read(event) for read in self._readers)
        return None if None in key else key

    def __repr__(self) -> str:
        """Return what makes it."""
        return repr(self._readers)


def parse_key(text: str) -> FieldReader:
    """Return the function that *text* says: ``subject``, ``subject.1`` or a field.

    Raises:
        ExpressionError: it says none.
    """
    if text == "subject":
        return SubjectReader(None)
    token = _TOKEN.fullmatch(text)
    if token is not None:
        return SubjectReader(int(token[1]))
    if text.startswith("subject."):
        raise ExpressionError(
            text, 1, 9, f"expected the number of a token, from 0, found {text[8:]!r}"
        )
    return parse_field(text).reader()


def key_of(readers: list[FieldReader]) -> FieldReader:
    """Return the function that gives what *readers* give as one key, a tuple.

    Raises:
        ValueError: they are too many, or none.
    """
    if not 0 < len(readers) <= KEY_PARTS_MAX:
        raise ValueError(f"expected 1 to {KEY_PARTS_MAX} parts of a key, found {len(readers)}")
    return TupleReader(tuple(readers))
