"""What operators can stand behind what: checks of a pattern as a whole, when it is written."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from headrace.triggers import nodes as n
from headrace.triggers.nodes_clock import ScheduleNode
from headrace.triggers.nodes_joined import AnyNode, SequenceNode


def check_has_event(place: str, node: n.Node) -> None:
    """Refuse a function of the event behind what may fire without any.

    Raises:
        ValueError: names *place* and the operator.
    """
    found = _without_event(node)
    if found is not None:
        raise ValueError(
            f"{node.text()}.{place}(…): {found} may fire when there is no event; "
            f"put .{place}(…) on the pattern inside"
        )


def _without_event(node: n.Node) -> str | None:
    if isinstance(node, ScheduleNode):
        return node.text()
    if isinstance(node, n.SilentNode) and node.expect:
        return "silent(expect=…)"
    if isinstance(node, n.WindowNode) and node.emit_empty:
        return "a window with emit_empty=True"
    return next(filter(None, map(_without_event, node.sources)), None)


def has_key(node: n.Node) -> bool:
    """Say whether there is a ``.key`` anywhere before."""
    return isinstance(node, n.KeyNode) or any(map(has_key, node.sources))


def check_hold(node: n.Node) -> None:
    """Refuse `.hold` without a condition that could end.

    Raises:
        ValueError: there is none next to it.
    """
    while isinstance(node, n.KeyNode):
        node = node.source
    if not isinstance(node, n.WhereNode):
        raise ValueError(  # noqa: TRY004 (the value is of the right type)
            f"{node.text()}.hold(…): expected a condition that can be true for a while; "
            f"put .where(…) before it"
        )


def check_aggregate(node: n.Node) -> None:
    """Refuse `.aggregate` where there is nothing but single events.

    Raises:
        ValueError: there is no window, count or the like before it.
    """
    if not _has_several(node):
        raise ValueError(
            f"{node.text()}.aggregate(…): expected several events, found one at a time; "
            f"put a window such as .tumbling(60) or a .count(…) before it"
        )


_ONE_EACH = (n.FilterNode, n.WhereNode, n.KeyNode, n.EventTimeNode, AnyNode)


def _has_several(node: n.Node) -> bool:
    return not isinstance(node, _ONE_EACH) or any(map(_has_several, node.sources))


def check_event_time(node: n.Node) -> None:
    """Refuse `.event_time` behind anything but ``on``, ``.where`` and ``.key``.

    Raises:
        ValueError: there is something else before it.
    """
    inner = node
    while isinstance(inner, (n.WhereNode, n.KeyNode)):
        if isinstance(inner, n.WhereNode) and inner.is_relative:
            raise ValueError(
                f"{node.text()}.event_time(…): .where({n.name_of(inner.condition)}) takes two "
                f"arguments; put it behind .event_time(…): before it events are not in the order "
                f"in which a step takes them"
            )
        inner = inner.source
    if not isinstance(inner, n.FilterNode):
        raise ValueError(  # noqa: TRY004 (as above)
            f"{node.text()}.event_time(…): expected it on each on(…), before anything but "
            f".where and .key"
        )


def check_not_relative(place: str, node: n.Node) -> None:
    """Refuse conditions of two arguments outside of a step.

    Raises:
        ValueError: there is one.
    """
    for inner in nodes_of(node):
        if isinstance(inner, n.WhereNode) and inner.is_relative:
            raise ValueError(
                f"{place}: .where({n.name_of(inner.condition)}) takes two arguments: the second, "
                f"the events taken so far, is there only in a step of a sequence"
            )


def check_whole_pattern(node: n.Node) -> None:
    """Refuse what can be seen only of a rule's pattern as a whole.

    Raises:
        ValueError: some of its ``on(…)`` go by event time and others do not, or not in the
            same way; or a condition of two arguments is outside of a sequence.
    """
    check_not_relative("rule", node)
    times = list(_event_times(node))
    ways = {
        None if time is None else (time.lateness_ns, time.idle_ns, time.late, time.partials_max)
        for time in times
    }
    if len(ways) > 1:
        raise ValueError(
            f"{node.text()}: expected .event_time(…) with the same lateness, idle and late on "
            f"each on(…) of a rule, or on none"
        )


def event_time_of(node: n.Node) -> n.EventTimeNode | None:
    """Return how a rule's pattern goes by event time, or ``None``."""
    return next(_event_times(node), None)


def _event_times(node: n.Node) -> Iterator[n.EventTimeNode | None]:
    """Yield for each ``on(…)``, and what else begins a chain, how it goes by event time."""
    if isinstance(node, n.EventTimeNode):
        yield node
    elif isinstance(node, (n.FilterNode, ScheduleNode)):
        yield None
    for source in node.sources if not isinstance(node, n.EventTimeNode) else ():
        yield from _event_times(source)


def nodes_of(node: n.Node) -> Iterator[n.Node]:
    """Yield *node* and all before it, but for the conditions that belong to steps."""
    yield node
    for source in node.sources:
        yield from nodes_of(without_relative(source) if isinstance(node, SequenceNode) else source)


def without_relative(node: n.Node) -> n.Node:
    """Return the pattern of a step without its conditions on the events taken so far."""
    if isinstance(node, n.WhereNode):
        source = without_relative(node.source)
        return source if node.is_relative else n.WhereNode(source, node.condition)
    if isinstance(node, n.KeyNode):
        return n.KeyNode(without_relative(node.source), node.key, node.keys_max)
    return node


def relative_conditions(node: n.Node) -> list[n.WhereNode]:
    """Return the conditions of a step's pattern on the events taken so far, in their order."""
    if isinstance(node, n.WhereNode):
        found = relative_conditions(node.source)
        return [*found, node] if node.is_relative else found
    return relative_conditions(node.source) if isinstance(node, n.KeyNode) else []


def clearing(node: n.Node) -> n.Node:
    """Return *node* as one that also says when what it told of has ended.

    Raises:
        ValueError: its last operator tells of a moment, which has no end.
    """
    is_edge = isinstance(node, n.CountNode) and node.mode == "edge"
    if not isinstance(node, (n.CrossesNode, n.HoldNode, n.SilentNode)) and not is_edge:
        raise ValueError(
            f"rule({node.text()}, on_clear=…): expected a pattern whose condition ends: its last "
            f"operator .crosses, .hold, .count(mode='edge') or silent(…)"
        )
    return replace(node, clears=True)


def with_timeouts(node: n.Node) -> n.Node:
    """Return *node*, a sequence, as one that also fires when a partial match runs out of time.

    Raises:
        ValueError: it is no sequence, or has no time to run out of.
    """
    if not isinstance(node, SequenceNode):
        raise ValueError(  # noqa: TRY004 (as above)
            f"rule({node.text()}, on_timeout=…): expected a sequence(…) with nothing behind it"
        )
    if node.within_ns is None and node.within_gap_ns is None:
        raise ValueError(
            f"rule({node.text()}, on_timeout=…): expected within=, or nothing runs out"
        )
    return replace(node, on_timeout=True)
