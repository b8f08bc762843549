"""Conditions that can never be true together, such as ``x > 5`` and ``x < 3``.

Only what is certain is found: comparisons of one field that stand next to each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any, Final

from headrace.engine.event import Event
from headrace.triggers import nodes as n
from headrace.triggers.comparison import compiled
from headrace.triggers.condition import Condition, Leaf
from headrace.triggers.reach import nodes_of

Said = tuple[str, tuple[str, ...], tuple[Any, ...]]
"""What is asked, of which field, with which constants."""

_SETS: Final = ("==", "is_in")
_ORDERS: Final = (">", ">=", "<", "<=", "between")


def contradictions(node: n.Node) -> Iterator[tuple[Condition, Condition]]:
    """Yield two conditions of each place in a rule's pattern where no event fulfils both."""
    behind: dict[int, n.Node] = {}  # by identity; kept, so that none is taken for another
    for inner in nodes_of(node):
        if not isinstance(inner, n.WhereNode) or id(inner) in behind:
            continue
        conditions: list[Condition] = []
        at: n.Node = inner
        while isinstance(at, (n.WhereNode, n.KeyNode)):
            if isinstance(at, n.WhereNode):
                behind[id(at)] = at
                if isinstance(at.condition, Condition):
                    conditions.insert(0, at.condition)
            at = at.source
        found = first_contradiction(conditions)
        if found is not None:
            yield found


def first_contradiction(
    conditions: Sequence[Condition],
) -> tuple[Condition, Condition] | None:
    """Return two comparisons of which no event fulfils both, if all *conditions* have to hold."""
    leaves = [leaf for condition in conditions for leaf in _needed(condition)]
    for one, other in combinations(leaves, 2):
        if one.structure[1] == other.structure[1] and _exclude(_said(one), _said(other)):
            return one, other
    return None


def _needed(condition: Condition) -> list[Leaf]:
    """Return the comparisons that are true whenever *condition* is."""
    if isinstance(condition, Leaf):
        return [condition]
    if condition.structure[0] == "&":
        parts: Sequence[Condition] = getattr(condition, "parts", ())
        return [leaf for part in parts for leaf in _needed(part)]
    return []


def _said(leaf: Leaf) -> Said:
    name, path, *constants = leaf.structure
    return name, path, tuple(constants)


def _exclude(one: Said, other: Said) -> bool:
    for (name, _, constants), (asked, _, bounds) in ((one, other), (other, one)):
        if name in _SETS:
            ask = compiled((), asked, bounds)
            return not any(ask(Event(0, "", constant, 0)) is True for constant in constants)
    kinds = {_kind(name, constants) for name, _, constants in (one, other)} - {""}
    if len(kinds) > 1:
        return True
    if one[0] not in _ORDERS or other[0] not in _ORDERS:
        return False
    ends = [_bounds(name, constants) for name, _, constants in (one, other)]
    lows = [low for low, _ in ends if low is not None]
    highs = [high for _, high in ends if high is not None]
    return any(
        low > high or (low == high and not (has_low and has_high))
        for low, has_low in lows
        for high, has_high in highs
    )


def _kind(name: str, constants: tuple[Any, ...]) -> str:
    """Return what a value has to be for the comparison to be true; empty if that is open."""
    if name == "matches":
        return "text"
    if name not in _ORDERS:
        return ""
    if isinstance(constants[0], str):
        return "text"
    return "bytes" if isinstance(constants[0], bytes) else "number"


Bound = tuple[Any, bool] | None
"""A constant, and whether it is itself inside."""


def _bounds(name: str, constants: tuple[Any, ...]) -> tuple[Bound, Bound]:
    if name == "between":
        return (constants[0], True), (constants[1], True)
    bound = (constants[0], name.endswith("="))
    return (bound, None) if name.startswith(">") else (None, bound)
