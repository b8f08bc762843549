"""What is said of a projection, checked, as the rule that it is to the log."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from headrace.engine.projected import recorded_name
from headrace.triggers import nodes as n
from headrace.triggers.fold import STATE_BYTES_MAX
from headrace.triggers.nodes_joined import AnyNode
from headrace.triggers.pattern import Pattern
from headrace.triggers.reach import check_not_relative, has_key, nodes_of
from headrace.triggers.ruleset import Rule

_FOLDED = (n.FilterNode, n.WhereNode, n.KeyNode, AnyNode)
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def projection_of(
    pattern: Any,
    function: Callable[..., Any],
    name: str,
    *,
    initial: Any = None,
    key: Any = None,
    keys_max: int | None = None,
    version: str | None = None,
) -> Rule:
    """Return the projection *name*: events of *pattern* folded by *function*.

    Raises:
        TypeError, ValueError: it cannot work; says which part and why.
    """
    node = _keyed(name, pattern, key, keys_max).node
    kind, forgets = _state_type(name, function)
    decode = _decoder(name, kind)
    packed: bytes | None = None
    if initial is not None:
        try:
            packed = _encode(initial)
            decode(packed)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:
            raise TypeError(
                f"projection {name!r}: initial={initial!r}: expected {_said(kind)}, which the "
                f"function returns, found {type(initial).__name__}: {error}"
            ) from error
        if len(packed) > STATE_BYTES_MAX:
            raise ValueError(
                f"projection {name!r}: initial: expected at most {STATE_BYTES_MAX} bytes, found "
                f"{len(packed)}"
            )
    fold = n.FoldNode(node, function, packed, kind, forgets)
    return Rule(recorded_name(name), Pattern(fold), "parallel", version, warm=True)


def _keyed(name: str, pattern: Any, key: Any, keys_max: int | None) -> Pattern[Any]:
    """Return *pattern* with *key*, if all that it says is which events there are."""
    if not isinstance(pattern, Pattern):
        raise TypeError(
            f"projection {name!r}: expected a pattern such as on('a.b'), found {pattern!r}"
        )
    for node in nodes_of(pattern.node):
        if not isinstance(node, _FOLDED):
            raise TypeError(
                f"projection {name!r}: {node.text()}: expected nothing but on(…), any_of(…), "
                f".where and .key: events are folded, not firings; let a rule emit one for each "
                f"firing, and fold those"
            )
    check_not_relative(f"projection {name!r}", pattern.node)
    if key is None:
        if keys_max is not None:
            raise ValueError(f"projection {name!r}: keys_max={keys_max!r}: expected key=, too")
        return pattern
    if has_key(pattern.node):
        raise ValueError(
            f"projection {name!r}: expected one key, found key= and .key(…); leave one out"
        )
    return pattern.key(key) if keys_max is None else pattern.key(key, keys_max=keys_max)


def _state_type(name: str, function: Any) -> tuple[Any, bool]:
    """Return the type of the states that *function* returns, and whether ``None`` is one."""
    if not callable(function):
        raise TypeError(
            f"projection {name!r}: expected a function of a state and an event, found {function!r}"
        )
    written = function.func if isinstance(function, partial) else function
    if not isinstance(written, type) and not hasattr(written, "__name__"):
        written = type(written).__call__  # an object that can be called
    if inspect.iscoroutinefunction(written):
        raise TypeError(f"projection {name!r}: expected an ordinary function, found an async one")
    try:
        takes = inspect.signature(function)
    except ValueError as error:  # a built-in function that does not say
        raise TypeError(
            f"projection {name!r}: {error}; wrap it in a function of a state and an event"
        ) from error
    try:
        takes.bind(None, None)
    except TypeError as error:
        raise TypeError(
            f"projection {name!r}: expected a function of a state and an event, found "
            f"{getattr(function, '__name__', name)}{takes}"
        ) from error
    # Of the others it may be that only type checkers know them.
    returns = {"return": getattr(written, "__annotations__", {}).get("return")}
    try:
        kind = get_type_hints(
            types.SimpleNamespace(__annotations__=returns),
            getattr(written, "__globals__", None),
            include_extras=True,
        )["return"]
    except NameError as error:
        raise TypeError(
            f"projection {name!r}: an annotation cannot be resolved: {error}; import its type at "
            f"module level, not under TYPE_CHECKING"
        ) from error
    kinds = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    left = [one for one in kinds if one is not type(None)]
    if not left:
        raise TypeError(
            f"projection {name!r}: expected the type of the state behind ->: it is what a restart "
            f"makes the state of"
        )
    if len(left) == len(kinds):
        return kind, False
    return (left[0] if len(left) == 1 else reduce(or_, left)), True


def _decoder(name: str, kind: Any) -> Callable[[bytes], Any]:
    expected = f"projection {name!r}: expected a state that msgspec encodes, found {_said(kind)}"
    try:
        info = msgspec.inspect.type_info(kind)
        decode = msgspec.msgpack.Decoder(kind).decode
    except TypeError as error:
        raise TypeError(f"{expected}: {error}") from error
    if isinstance(info, msgspec.inspect.CustomType):
        raise TypeError(f"{expected}; make it a msgspec.Struct or a dataclass")
    return decode


def _said(kind: Any) -> str:
    return str(getattr(kind, "__name__", kind))
