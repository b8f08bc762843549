"""Annotations as what a file can say: the part of a type that TOML has values for."""

from __future__ import annotations

import re
from collections import abc
from enum import Enum
from functools import reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from headrace.triggers.rules_tables import one_of

_WORDS: Final[dict[Any, str]] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    list: "a list",
    dict: "a table",
    Any: "a value",
}
_LISTS: Final = (list, set, frozenset, abc.Sequence, abc.Iterable, abc.Collection, abc.Set)
_TABLES: Final = (dict, abc.Mapping, abc.MutableMapping)
_STEP: Final = re.compile(r"\[(\d+)\]|\.([A-Za-z0-9_-]+)")


class Mismatch(ValueError):
    """A value is not of its type."""

    def __init__(self, path: list[str | int]) -> None:
        """Say where in the value."""
        super().__init__(path)
        self.path = path


def plain(hint: Any) -> Any | None:
    """Return the part of a type that a file can say; ``None``: there is none.

    ``str | bytes | Callable[[], str]`` is ``str``, and a sequence is a list.
    """
    if hint in (str, int, float, bool, Any, Path, list, dict):
        return hint
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return plain(inner[0])
    if origin is Literal:
        return hint
    if origin in (Union, UnionType):
        parts = [part for one in inner if (part := plain(one)) is not None]
        return reduce(or_, parts) if parts else None
    if origin is tuple and inner[-1:] == (Ellipsis,):
        item = plain(inner[0])
        return None if item is None else tuple[item, ...]  # type: ignore[valid-type]
    if origin in _LISTS:
        item = plain(inner[0])
        return None if item is None else list[item]  # type: ignore[valid-type]
    if origin in _TABLES:
        value = plain(inner[1])
        return None if value is None else dict[str, value]  # type: ignore[valid-type]
    if isinstance(hint, type) and issubclass(hint, (Struct, Enum)):
        return hint
    return None


def taken(value: Any, hint: Any, *, is_text: bool = False) -> Any:
    """Return *value* as the type takes it.

    With *is_text* it comes from where everything is text, such as the environment: ``"80"``
    will do as a number.

    Raises:
        Mismatch: it is of another type.
    """
    kind = plain(hint)
    try:
        return msgspec.convert(value, kind, strict=not is_text)
    except msgspec.ValidationError as error:
        place = str(error).rpartition(" - at `$")[2] if " - at `$" in str(error) else ""
        steps = [int(number) if number else name for number, name in _STEP.findall(place)]
        raise Mismatch(steps) from None
    except TypeError:  # a type that msgspec cannot tell from another: the connector will look
        return value


def said(hint: Any) -> str:
    """Return what a type is in words."""
    kind = plain(hint)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return one_of([repr(value) for value in inner])
    if origin in (Union, UnionType):
        return one_of(dict.fromkeys(said(one) for one in inner if one is not NoneType))
    if origin in (list, tuple):
        return f"a list, each {said(inner[0])}" if inner else "a list"
    if origin is dict:
        return "a table"
    return _WORDS.get(kind, "a table" if isinstance(kind, type) else "a value")
