"""What users write: `on`, `any_of`, `silent`, and the operators that follow a pattern.

A `Pattern` is an immutable value; each operator returns a new one.  What can never work is
refused here, when it is written, with the place and the reason.  What a pattern does at
runtime is `headrace.triggers.stages`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime, timedelta
from math import isnan
from typing import Any, Final, Generic, Literal, TypeVar, cast, overload

import msgspec
from msgspec import Struct

from headrace.engine.clock import seconds_to_ns
from headrace.engine.event import Event
from headrace.engine.subject import check_pattern
from headrace.triggers.condition import Condition

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
U = TypeVar("U")

KEYS_MAX: Final = 100_000
"""Keys that one operator of a rule tracks; the one unheard of for longest goes first."""
PARTIALS_MAX: Final = 1000
"""Events that one operator holds for one key."""

CountMode = Literal["reset", "edge", "every"]
Repeat = Literal["once", "every"]
CatchUp = Literal["all", "last", "none"]
Seconds = float | timedelta


class FilterNode(Struct, frozen=True):
    """Events on a subject, decoded as a type."""

    subject: str
    type: Any


class WhereNode(Struct, frozen=True):
    """Those of *source* for which *condition* holds."""

    source: Node
    condition: Callable[[Any], object]


class KeyNode(Struct, frozen=True):
    """*source* with an automaton of its own for each key."""

    source: Node
    key: Callable[[Any], Hashable]


class CountNode(Struct, frozen=True):
    """*n* of *source* within a sliding window."""

    source: Node
    n: int
    within_ns: int | None
    mode: CountMode


class SilentNode(Struct, frozen=True):
    """No *source* for some time."""

    source: Node
    for_ns: int
    repeat: Repeat
    expect: tuple[Any, ...]


class AnyNode(Struct, frozen=True):
    """Any of several; one event counts once."""

    branches: tuple[Node, ...]


class EveryNode(Struct, frozen=True):
    """The clock, in equal steps."""

    period_ns: int
    catch_up: CatchUp = "last"


class CronNode(Struct, frozen=True):
    """The clock, by a cron expression in a time zone."""

    expression: str
    tz: str
    catch_up: CatchUp


class AtNode(Struct, frozen=True):
    """The clock, once."""

    at_ns: int
    catch_up: CatchUp


ScheduleNode = EveryNode | CronNode | AtNode
Node = FilterNode | WhereNode | KeyNode | CountNode | SilentNode | AnyNode | ScheduleNode


class Pattern(Generic[T_co]):
    """What a rule waits for.  Made by `on`, `any_of` and `silent`; never changed."""

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        """Wrap *node*; users start with `on`."""
        self.node = node

    def where(self, condition: Callable[[Event[T_co]], object]) -> Pattern[T_co]:
        """Keep events for which *condition* holds: a function, or what `field` makes.

        It must depend on nothing but the event (law L4).  One that raises means no match
        and a recorded ``rule.error``; other rules are not affected.
        """
        _check_function("where", condition)
        _check_has_event("where", self.node)
        return Pattern(WhereNode(self.node, condition))

    def key(self, key: Callable[[Event[T_co]], Hashable]) -> Pattern[T_co]:
        """Give each value of *key* automata, timers and limits of its own.

        A key is a string, number, bytes, bool or a tuple of these.  ``None`` means that
        the event does not take part; it is counted as unkeyed.
        """
        _check_function("key", key)
        _check_has_event("key", self.node)
        return Pattern(KeyNode(self.node, key))

    def count(self, n: int, *, within: Seconds | None, mode: CountMode = "reset") -> Pattern[T_co]:
        """Fire when *n* have come within *within* seconds (half-open: not at exactly that).

        ``reset`` fires with the whole window, then begins anew; ``edge`` fires on reaching
        *n* and again only after the number has fallen below *n*; ``every`` fires for each
        that comes while there are at least *n*.
        """
        if type(n) is not int or n < 1:
            raise ValueError(f"count({n!r}): expected a whole number of at least 1")
        if n > PARTIALS_MAX:
            raise ValueError(f"count({n}): at most {PARTIALS_MAX} events are held for a key")
        if mode not in ("reset", "edge", "every"):
            raise ValueError(f"count(mode={mode!r}): expected 'reset', 'edge' or 'every'")
        if within is None and mode == "edge":
            raise ValueError("count(within=None, mode='edge') fires once for ever; give within=")
        within_ns = None if within is None else duration_ns("count", "within", within)
        return Pattern(CountNode(self.node, n, within_ns, mode))

    def __repr__(self) -> str:
        """Return what the user wrote, as far as it can be said."""
        return text_of(self.node)


@overload
def on(subject: str) -> Pattern[Any]: ...
@overload
def on(subject: str, type: type[T]) -> Pattern[T]: ...
def on(subject: str, type: Any = Any) -> Pattern[Any]:
    """Match events on *subject*, which may have the wildcards ``*`` and ``>``.

    *type* is what their data is decoded as: anything that msgspec decodes.  An event whose
    data does not fit is kept and recorded as ``rule.mismatch``.

    Raises:
        ValueError: *subject* is no valid pattern; the message says where.
        TypeError: msgspec cannot decode *type*.
    """
    if not isinstance(subject, str):
        raise TypeError(f"on({subject!r}): expected a subject such as 'sensors.*.temperature'")
    check_pattern(subject)
    try:
        msgspec.msgpack.Decoder(type)
    except TypeError as error:
        raise TypeError(f"on({subject!r}, {type!r}): msgspec cannot decode it: {error}") from error
    return Pattern(FilterNode(subject, type))


def any_of(*patterns: Pattern[T]) -> Pattern[T]:
    """Match what any of *patterns* matches; an event that several match counts once."""
    for pattern in patterns:
        _check_pattern_value("any_of", pattern)
    if not patterns:
        raise ValueError("any_of() needs at least one pattern")
    return Pattern(AnyNode(tuple(pattern.node for pattern in patterns)))


def silent(
    pattern: Pattern[T],
    *,
    for_: Seconds,
    repeat: Repeat = "once",
    expect: Iterable[Hashable] = (),
) -> Pattern[T]:
    """Fire when *pattern* has not been met for *for_* seconds: a watchdog for each key.

    It watches a key from its first event on; those in *expect* from the activation of the
    rule.  ``once`` fires once until the next event, ``every`` again each *for_* seconds.
    """
    _check_pattern_value("silent", pattern)
    for_ns = duration_ns("silent", "for_", for_)
    if repeat not in ("once", "every"):
        raise ValueError(f"silent(repeat={repeat!r}): expected 'once' or 'every'")
    if isinstance(expect, str):
        raise TypeError(f"silent(expect={expect!r}): expected a list of keys, found one string")
    keys = tuple(expect)
    for key in keys:
        if not is_key(key):
            raise TypeError(f"silent(expect=…): {key!r} cannot be a key; {KEY_EXPECTED}")
    return Pattern(SilentNode(pattern.node, for_ns, repeat, plain_key(keys)))


KEY_CHARS_MAX: Final = 500
KEY_PARTS_MAX: Final = 16
KEY_EXPECTED: Final = (
    f"expected str, bytes (up to {KEY_CHARS_MAX}), int, float, bool or a tuple of these"
)


def is_key(key: object) -> bool:
    """Say whether *key* can name an automaton: hashable, and the same after a restart."""
    kind = type(key)
    if kind is str:
        return len(text := cast("str", key)) <= KEY_CHARS_MAX and _has_encoding(text)
    if kind is bytes:
        return len(cast("bytes", key)) <= KEY_CHARS_MAX
    if kind is bool:
        return True
    if kind is int:
        return -(2**63) <= cast("int", key) < 2**64  # what msgpack can hold
    if kind is float:
        return not isnan(cast("float", key))  # not equal to itself: each would be a new key
    if kind is not tuple:
        return False
    parts = cast("tuple[object, ...]", key)
    return len(parts) <= KEY_PARTS_MAX and all(
        type(part) is not tuple and is_key(part) for part in parts
    )


def plain_key(key: Any) -> Any:
    """Return the one form of all keys that are equal to *key*: a whole number as an ``int``.

    For Python ``True``, ``1`` and ``1.0`` are one key of a dict.  So they are one here, and
    look the same whichever came first, also after a restart.
    """
    kind = type(key)
    if kind is bool:
        return int(key)
    if kind is float and key.is_integer() and -(2**63) <= key < 2**64:
        return int(key)
    return tuple(map(plain_key, key)) if kind is tuple else key


def _has_encoding(text: str) -> bool:
    # Half a character, as of a file name that is no UTF-8, cannot be stored.
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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


def text_of(node: Node) -> str:
    """Return *node* in the words in which users write it."""
    if isinstance(node, FilterNode):
        kind = "" if node.type is Any else f", {getattr(node.type, '__name__', node.type)}"
        return f"on({node.subject!r}{kind})"
    if isinstance(node, WhereNode):
        return f"{text_of(node.source)}.where({_name_of(node.condition)})"
    if isinstance(node, KeyNode):
        return f"{text_of(node.source)}.key({_name_of(node.key)})"
    if isinstance(node, CountNode):
        within = None if node.within_ns is None else node.within_ns / 1e9
        mode = "" if node.mode == "reset" else f", mode={node.mode!r}"
        return (
            f"{text_of(node.source)}.count({node.n}, within={within:g}{mode})"
            if (within is not None)
            else f"{text_of(node.source)}.count({node.n}, within=None{mode})"
        )
    if isinstance(node, SilentNode):
        repeat = "" if node.repeat == "once" else f", repeat={node.repeat!r}"
        expect = f", expect={list(node.expect)!r}" if node.expect else ""
        return f"silent({text_of(node.source)}, for_={node.for_ns / 1e9:g}{repeat}{expect})"
    if isinstance(node, ScheduleNode):
        return _schedule_text(node)
    return f"any_of({', '.join(text_of(branch) for branch in node.branches)})"


def _schedule_text(node: ScheduleNode) -> str:
    catch_up = "" if node.catch_up == "last" else f", catch_up={node.catch_up!r}"
    if isinstance(node, EveryNode):
        return f"every({node.period_ns / 1e9:g}{catch_up})"
    if isinstance(node, CronNode):
        return f"cron({node.expression!r}, tz={node.tz!r}{catch_up})"
    at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=node.at_ns // 1000)
    return f"at({at.isoformat().replace('+00:00', 'Z')!r}{catch_up})"


def parts_of(node: Node) -> list[object]:
    """Return all that decides what *node* matches: plain data and functions (law L8)."""
    if isinstance(node, FilterNode):
        return ["on", node.subject, _shape_of(node.type)]
    if isinstance(node, WhereNode):
        return [*parts_of(node.source), "where", node.condition]
    if isinstance(node, KeyNode):
        return [*parts_of(node.source), "key", node.key]
    if isinstance(node, CountNode):
        return [*parts_of(node.source), "count", node.n, node.within_ns, node.mode]
    if isinstance(node, SilentNode):
        return [*parts_of(node.source), "silent", node.for_ns, node.repeat, list(node.expect)]
    if isinstance(node, EveryNode):
        # What is not said is not there: rules of before are to stay what they were.
        catch_up = [] if node.catch_up == "last" else [node.catch_up]
        return ["every", node.period_ns, *catch_up]
    if isinstance(node, CronNode):
        return ["cron", node.expression, node.tz, node.catch_up]
    if isinstance(node, AtNode):
        return ["at", node.at_ns, node.catch_up]
    parts: list[object] = ["any_of"]
    for branch in node.branches:
        parts += ["branch", *parts_of(branch)]
    return [*parts, "end"]  # or what follows any_of would look like a part of its last branch


def _shape_of(kind: Any) -> object:
    """Return what *kind* decodes, as data: two structs with the same fields are the same."""
    try:
        return msgspec.json.schema(kind)
    except TypeError:  # a type that has no JSON schema
        return str(kind)


def _name_of(function: Callable[..., Any]) -> str:
    if isinstance(function, Condition):
        return str(function)
    name: str = getattr(function, "__name__", type(function).__name__)
    return "…" if name == "<lambda>" else name


def _check_function(place: str, function: object) -> None:
    if not callable(function):
        condition = " or a condition such as field('celsius') > 90" * (place == "where")
        raise TypeError(f".{place}({function!r}): expected a function of the event{condition}")
    call = getattr(function, "__call__", None)  # noqa: B004 (an object with async __call__)
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        name = getattr(function, "__name__", function)
        raise TypeError(f".{place}({name}): expected an ordinary function, found an async one")


def _check_pattern_value(place: str, pattern: object) -> None:
    if not isinstance(pattern, Pattern):
        raise TypeError(f"{place}({pattern!r}): expected a pattern such as on('a.b')")


def _check_has_event(place: str, node: Node) -> None:
    """Refuse a function of the event behind a pattern that fires by timer."""
    if isinstance(node, SilentNode | ScheduleNode):
        raise ValueError(  # noqa: TRY004 (the value is of the right type)
            f"{text_of(node)}.{place}(…): it fires when there is no event; "
            f"put .{place}(…) on the pattern inside"
        )
    if isinstance(node, AnyNode):
        for branch in node.branches:
            _check_has_event(place, branch)
    elif not isinstance(node, FilterNode):
        _check_has_event(place, node.source)
