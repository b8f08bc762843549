"""What an automaton holds by key: open partial matches, windows, periods, watches, meters.

Read from its stages, never changed.  Each operator has a few lines of its own here, in the
order of the alphabet; sequences, of which there is more to say, are in a file of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from msgspec import Struct

from headrace.engine.table import OrderedTable
from headrace.triggers import nodes as n
from headrace.triggers.absent import Absent
from headrace.triggers.all_of import AllOf
from headrace.triggers.automaton import Automaton
from headrace.triggers.batch import Batch
from headrace.triggers.count import ClearingCount, Count, PlainCount
from headrace.triggers.dedupe import Dedupe
from headrace.triggers.explain.operators import own_text, stages_of
from headrace.triggers.explain.partials import plain_partials, sequence_partials
from headrace.triggers.hit import Hit
from headrace.triggers.level import BEYOND, FIRED, Crosses, Hold
from headrace.triggers.nodes_joined import AbsentNode, AllNode
from headrace.triggers.pace import Debounce, LeadingThrottle, Throttle
from headrace.triggers.rate_limit import RateLimit
from headrace.triggers.sequence import SequenceStage
from headrace.triggers.sequence_plain import PlainSequence
from headrace.triggers.silent import Silent
from headrace.triggers.windows import Windows


class Holding(Struct, frozen=True):
    """What one operator holds for one key: a partial match, or what stands in for one."""

    operator: str
    """As the user wrote it."""
    key: Any
    has: str
    """What there is, in words."""
    waits_for: str
    """What it takes for the pattern to go on."""
    events: list[int] = []
    """Sequences of the events that it is made of, oldest first."""
    steps: dict[str, list[int]] | None = None
    """Of a sequence: the events by step."""
    since_ns: int | None = None
    until_ns: int | None = None
    """When it ends, by a timer or because its time has run out."""


def holdings(automaton: Automaton, node: n.Node, at_ns: int, key: Any = None) -> Iterator[Holding]:
    """Yield what *automaton*, made of *node*, holds; of one key if it is given as ``(key,)``.

    What has run out by *at_ns* is left out: some operators drop it only with a later event.
    """
    for inner, stage in stages_of(automaton, node):
        describe = _DESCRIBE[type(stage)]
        for of, state in _entries(stage, key):
            for holding in describe(stage, inner, of, state, at_ns):
                if holding.until_ns is None or holding.until_ns > at_ns:
                    yield holding


def keys_of(automaton: Automaton, node: n.Node) -> list[tuple[str, int]]:
    """Return each operator that keeps state, and for how many keys it does."""
    return [(own_text(inner), len(stage)) for inner, stage in stages_of(automaton, node)]


def _entries(stage: Any, key: Any) -> Iterable[tuple[Any, Any]]:
    table: OrderedTable[Any, Any] = stage._table
    if key is None:
        return table.items()
    (of,) = key
    if isinstance(stage, Dedupe):  # by what is compared, too
        return ((both, until) for both, until in table.items() if both[0] == of)
    state = table.peek(of)
    return () if state is None else ((of, state),)


# ------------------------------------------------------------ one operator after the other


def _absent(_stage: Absent, node: AbsentNode, key: Any, hit: Hit, _at_ns: int) -> Iterator[Holding]:
    due_ns = hit.at_ns + node.within_ns
    waits_for = f"no {node.source.text()} until then: it fires"
    yield Holding(own_text(node), key, "armed", waits_for, [*hit.events], None, hit.at_ns, due_ns)


def _all_of(
    _stage: AllOf, node: AllNode, key: Any, state: list[list[Hit]], at_ns: int
) -> Iterator[Holding]:
    if node.within_ns is not None:
        after_ns = at_ns - node.within_ns
        state = [[hit for hit in hits if hit.at_ns > after_ns] for hits in state]
    if not any(state):
        return
    steps = {
        name: [s for hit in hits for s in hit.events]
        for name, hits in zip(node.names, state, strict=True)
    }
    present = [hit for hits in state for hit in hits]
    missing = [branch.text() for branch, hits in zip(node.branches, state, strict=True) if not hits]
    first_ns = min((hit.at_ns for hit in present), default=None)
    until_ns = None
    if node.within_ns is not None:
        # The branch whose newest hit runs out first decides.
        until_ns = min(hits[-1].at_ns for hits in state if hits) + node.within_ns
    yield Holding(
        own_text(node),
        key,
        f"{len(state) - len(missing)} of {len(state)}",
        f"{' and '.join(missing)}",
        sorted({s for hit in present for s in hit.events}),
        steps,
        first_ns,
        until_ns,
    )


def _batch(stage: Batch, node: n.BatchNode, key: Any, state: Any, _at_ns: int) -> Iterator[Holding]:
    hits: list[Hit] = state.hits
    waits = [f"{stage._n - len(hits)} more"] if node.n is not None else []
    waits += [f"{node.bytes_max - state.size_bytes} more bytes"] if node.bytes_max else []
    waits += ["the end of its time"] if node.within_ns is not None else []
    until_ns = None if node.within_ns is None else stage._place.due_ns(key)
    yield Holding(
        own_text(node),
        key,
        f"{len(hits)} in the parcel",
        " or ".join(waits),
        _events(hits),
        None,
        hits[0].at_ns,
        until_ns,
    )


def _count(
    _stage: Count | PlainCount, node: n.CountNode, key: Any, state: Any, at_ns: int
) -> Iterator[Holding]:
    times, events, is_armed = count_state(state)
    if node.within_ns is not None:
        gone = sum(one <= at_ns - node.within_ns for one in times[:-1])
        times, events = times[gone:], events[gone:]
        is_armed = is_armed or len(times) < node.n
    size = len(times)
    if size < node.n or node.mode == "every":
        waits_for = f"{max(1, node.n - size)} more"
    elif is_armed:
        waits_for = "1 more"
    else:
        waits_for = f"fewer than {node.n}: it has fired, and re-arms then (mode='edge')"
    until_ns = None if node.within_ns is None else times[0] + node.within_ns
    yield Holding(
        own_text(node), key, f"{size} of {node.n}", waits_for, events, None, times[0], until_ns
    )


def count_state(state: Any) -> tuple[list[int], list[int], bool]:
    """Return the times and events of a count's window, and whether it may fire."""
    if hasattr(state, "hits"):
        return [hit.at_ns for hit in state.hits], _events(state.hits), state.armed
    return [*state[1::2]], [*state[2::2]], bool(state[0])


def _crosses(
    stage: Crosses, node: n.CrossesNode, key: Any, state: int, _at_ns: int
) -> Iterator[Holding]:
    side = "above" if node.is_above else "below"
    back = stage._sign * stage._rearm
    other = "below" if node.is_above else "above"
    if state in (BEYOND, FIRED):
        has = f"{side} {node.threshold!r}" + (
            ", fired" if state == FIRED else ", from the first on"
        )
        waits_for = f"a value {other} {back:.15g}, which re-arms it"
    else:
        has, waits_for = f"not {side} {node.threshold!r}", f"a value {side} {node.threshold!r}"
    yield Holding(own_text(node), key, has, waits_for)


def _debounce(
    stage: Debounce, node: n.DebounceNode, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    hits: list[Hit] = state.hits
    yield Holding(
        own_text(node),
        key,
        f"a burst of {len(hits)}" if hits else "a burst whose first has fired",
        "quiet until then" if hits else "its end, which fires nothing",
        _events(hits),
        None,
        state.first_ns,
        stage._place.due_ns(key),
    )


def _dedupe(
    _stage: Dedupe, node: n.DedupeNode, key: Any, until_ns: int, _at_ns: int
) -> Iterator[Holding]:
    of, identity = key
    has = "one was accepted" if node.key is None else f"{identity!r} was accepted"
    waits_for = "its time to end: equal ones are dropped before"
    yield Holding(own_text(node), of, has, waits_for, [], None, until_ns - node.ttl_ns, until_ns)


def _hold(stage: Hold, node: n.HoldNode, key: Any, state: Any, _at_ns: int) -> Iterator[Holding]:
    first, latest = state.first, state.latest
    if first is None:
        yield Holding(own_text(node), key, "true, and fired", "the condition to be false")
        return
    events = _events([first] if first is latest else [first, latest])
    yield Holding(
        own_text(node),
        key,
        "true",
        "the condition to stay true until then",
        events,
        None,
        first.at_ns,
        stage._place.due_ns(key),
    )


def _leading(
    _stage: LeadingThrottle, node: n.ThrottleNode, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    yield Holding(
        own_text(node),
        key,
        "a period that has fired",
        "the end of the period: all before it are suppressed",
        [],
        None,
        state.end_ns - node.period_ns,
        state.end_ns,
    )


def _throttle(
    _stage: Throttle, node: n.ThrottleNode, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    events = [] if state.last is None else [*state.last.events]
    ends = "which fires its last event" if events else "which fires nothing"
    yield Holding(
        own_text(node),
        key,
        "a period",
        f"the end of the period, {ends}",
        events,
        None,
        state.end_ns - node.period_ns,
        state.end_ns,
    )


def _rate_limit(
    stage: RateLimit, node: n.RateLimitNode, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    waiting: list[Hit] = [*state.waiting]
    free_ns = stage._turn_ns(state)
    waits_for = f"its turn: {len(waiting)} wait" if waiting else "nothing: it only measures"
    until_ns = stage._place.due_ns(key) if waiting else free_ns
    since_ns = waiting[0].at_ns if waiting else None
    yield Holding(
        own_text(node),
        key,
        f"{len(waiting)} waiting",
        waits_for,
        _events(waiting),
        None,
        since_ns,
        until_ns,
    )


def _silent(
    stage: Silent, node: n.SilentNode, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    last: Hit = state.last
    has = "silent, and told" if state.is_told else "a watch"
    due_ns = stage._place.due_ns(key)
    waits_for = "no event until then: it fires" if due_ns is not None else "an event"
    since_ns = last.at_ns or (None if due_ns is None else due_ns - node.for_ns)
    yield Holding(own_text(node), key, has, waits_for, [*last.events], None, since_ns, due_ns)


def _windows(
    stage: Windows, node: n.WindowNode, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    hits: list[Hit] = state.hits
    yield Holding(
        own_text(node),
        key,
        f"{len(hits)} in windows that have not ended",
        "the end of the first of them",
        _events(hits),
        None,
        state.start_ns,
        stage._place.due_ns(key),
    )


def _sequence(
    stage: SequenceStage, node: Any, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    for one in sequence_partials(stage, node, state):
        yield Holding(
            own_text(node),
            key,
            one.has,
            one.waits_for,
            one.events,
            one.steps,
            one.since_ns,
            one.until_ns,
        )


def _plain(
    _stage: PlainSequence, node: Any, key: Any, state: Any, _at_ns: int
) -> Iterator[Holding]:
    for one in plain_partials(node, state.partials):
        yield Holding(
            own_text(node),
            key,
            one.has,
            one.waits_for,
            one.events,
            one.steps,
            one.since_ns,
            one.until_ns,
        )


def _events(hits: Iterable[Hit]) -> list[int]:
    return [sequence for hit in hits for sequence in hit.events]


_Describe = Callable[[Any, Any, Any, Any, int], Iterator[Holding]]
_DESCRIBE: Final[dict[type[Any], _Describe]] = {
    Absent: _absent,
    AllOf: _all_of,
    Batch: _batch,
    Count: _count,
    ClearingCount: _count,
    PlainCount: _count,
    Crosses: _crosses,
    Debounce: _debounce,
    Dedupe: _dedupe,
    Hold: _hold,
    LeadingThrottle: _leading,
    Throttle: _throttle,
    RateLimit: _rate_limit,
    Silent: _silent,
    Windows: _windows,
    SequenceStage: _sequence,
    PlainSequence: _plain,
}
