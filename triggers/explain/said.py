"""What an operator made of an event or a timer, in a sentence.

Each operator has a few lines of its own, in the order of the alphabet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.triggers import nodes as n
from headrace.triggers.absent import AFTER
from headrace.triggers.explain.clauses import ClauseSeen, clause_of, shown, text_of
from headrace.triggers.explain.lacking import lacked, left
from headrace.triggers.explain.notes import Note
from headrace.triggers.explain.operators import own_text, step_text
from headrace.triggers.explain.partials import Open, open_partial, plain_partials
from headrace.triggers.level import FIRED
from headrace.triggers.nfa import START
from headrace.triggers.nodes_joined import AbsentNode, AllNode, SequenceNode
from headrace.triggers.sequence import Partials
from headrace.triggers.stage import asked

NS: Final = 1_000_000_000


class Said(Struct, frozen=True):
    """What an operator made of what came to it."""

    operator: str
    verdict: str
    """``passes``, ``holds`` (keeps it for later), ``stops`` or ``suppresses``."""
    text: str
    wish: str = ""
    """What would have had to be otherwise for it to pass, if it did not."""
    clause: ClauseSeen | None = None


def said(rule: str, note: Note) -> Said:
    """Return what the operator of *note* made of what came to it."""
    node = note.node
    if isinstance(node, (n.WhereNode, n.KeyNode)):
        assert note.hit is not None, note
        seen = clause_of(rule, node, note.hit.event)
        verdict = "passes" if note.passed else "stops"
        return Said(own_text(node), verdict, seen.line, "" if note.passed else seen.wish, seen)
    if isinstance(node, n.AggregateNode):
        if note.passed:
            return Said(own_text(node), "passes", f"value {shown(note.passed[0].value)}")
        return Said(own_text(node), "stops", f"{text_of(node.fold)} raised an error")
    if note.hit is None:
        return _timer(note)
    verdict, text, wish = _SAY[type(node)](rule, node, note)
    return Said(own_text(node), verdict, text, wish)


Saying = tuple[str, str, str]
"""Verdict, text, wish."""


def time_text(at_ns: int) -> str:
    """Return a time as people read it."""
    seconds, rest = divmod(at_ns, NS)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}{f'.{rest:09d}'.rstrip('0') if rest else ''}Z"


def _timer(note: Note) -> Said:
    operator, at = own_text(note.node), time_text(note.at_ns)
    if note.passed:
        events = [event for hit in note.passed for event in hit.events]
        of = f", with {_numbered(events)}" if events else ""
        return Said(operator, "passes", f"its timer was due at {at}: it fires{of}")
    if isinstance(note.node, SequenceNode):
        return Said(operator, "stops", f"the time of a partial match was over at {at}")
    return Said(operator, "holds", f"its timer was due at {at}: nothing fires by it")


def _absent(_rule: str, node: AbsentNode, note: Note) -> Saying:
    due = time_text(note.at_ns + node.within_ns)
    if AFTER not in note.met:
        if note.before is None:
            return "stops", "nothing was armed that it could disarm", ""
        wish = f"#{_newest(note)} had not come before {time_text(_armed_until(node, note.before))}"
        return "stops", f"disarmed: what #{note.before.events[-1]} had armed", wish
    if note.before is not None and node.rearm != "restart" and note.met == (AFTER,):
        until = time_text(_armed_until(node, note.before))
        return "holds", f"armed already, until {until}: a further start is ignored", ""
    wish = f"no {node.source.text()} had come before {due}"
    return "holds", f"armed: it fires at {due} if no {node.source.text()} comes before", wish


def _armed_until(node: AbsentNode, hit: Any) -> int:
    return int(hit.at_ns) + node.within_ns


def _all_of(_rule: str, node: AllNode, note: Note) -> Saying:
    names = ", ".join(node.names[number] for number in note.met)
    if note.passed:
        return "passes", f"{names} came, and all {len(node.names)} are there: it fires", ""
    missing = [
        (name, branch)
        for name, branch, hits in zip(node.names, node.branches, note.after or [], strict=False)
        if not hits
    ]
    there = len(node.names) - len(missing)
    waits = " and ".join(f"{name} ({branch.text()})" for name, branch in missing)
    text = f"{names} came: {there} of {len(node.names)}, waits for {waits}"
    return "holds", text, f"{waits} had come too{_within(node.within_ns)}"


def _batch(_rule: str, node: n.BatchNode, note: Note) -> Saying:
    if note.passed:
        return "passes", f"the parcel is full: {note.passed[0].count} are sent off", ""
    size, _ = note.after
    ends = [f"{node.n - size} more had come"] if node.n is not None else []
    text = f"{size} in the parcel" + (f" of {node.n}" if node.n is not None else "")
    if node.within_ns is not None:
        ends.append("its time had been over")
        text += f", sent at the latest {n.seconds(node.within_ns)} s after its first"
    return "holds", text, " or ".join(ends)


def _count(_rule: str, node: n.CountNode, note: Note) -> Saying:
    size, _, _, gone, _ = note.before or (0, True, [], 0, 0)
    now = size - gone + 1
    evicted = any(one.what == "event" for one in note.evicted)
    now -= evicted
    within = "" if node.within_ns is None else f" within {n.seconds(node.within_ns)} s"
    lost = f" ({gone} had run out of the window)" if gone else ""
    if note.passed:
        return "passes", f"{now} of {node.n}{within}{lost}: it fires", ""
    if now < node.n:
        more = node.n - now
        text = f"{now} of {node.n}{within}{lost}: {more} more to come"
        return "holds", text, f"{more} more had come{within}"
    text = (
        f"{now} of {node.n}{within}{lost}, and it has fired already: it re-arms when there are "
        f"fewer (mode='edge')"
    )
    return "holds", text, f"there had been fewer than {node.n}{within} since the last firing"


def _crosses(rule: str, node: n.CrossesNode, note: Note) -> Saying:
    assert note.hit is not None, note
    out: list[Verdict] = []
    _, value = asked(rule, "crosses", node.value, note.hit.event, out)
    side = "above" if node.is_above else "below"
    limit = f"{side} {node.threshold!r}"
    seen = f"{text_of(node.value)} = {shown(value)}"
    back = node.threshold + (-node.hysteresis if node.is_above else node.hysteresis)
    if note.passed:
        return "passes", f"{seen} goes {limit}: it fires", ""
    if out or isinstance(value, bool) or not isinstance(value, (int, float)):
        return "stops", f"{seen} is no number: no observation", f"it had been a number {limit}"
    if note.before is None and note.after:
        return (
            "holds",
            f"{seen} is {limit}, but the first of all is no transition",
            (f"there had been a value before that was not {limit}"),
        )
    if note.after:
        has = "has fired" if note.after == FIRED else "was so from the first on"
        other = "below" if node.is_above else "above"
        text = f"{seen}: it {has}, and re-arms strictly {other} {back:.15g}"
        return "holds", text, f"a value {other} {back:.15g} had come before"
    return "holds", f"{seen} is not {limit}", f"{text_of(node.value)} had been {limit} ({seen})"


def _debounce(_rule: str, node: n.DebounceNode, note: Note) -> Saying:
    first_ns, size = note.after or (note.at_ns, 0)
    due_ns = note.at_ns + node.quiet_ns
    if node.max_wait_ns is not None:
        due_ns = min(due_ns, first_ns + node.max_wait_ns)
    due = time_text(due_ns)
    if note.passed:
        return "passes", f"the first of a burst (edge={node.edge!r}); the burst ends at {due}", ""
    if node.edge == "leading":
        text = f"suppressed: in a burst that has fired, and ends at {due} if it is quiet"
        return "suppresses", text, f"it had been quiet for {n.seconds(node.quiet_ns)} s before"
    text = f"{size} in the burst: it fires at {due} if nothing comes before"
    return "holds", text, f"nothing else had come for {n.seconds(node.quiet_ns)} s"


def _dedupe(rule: str, node: n.DedupeNode, note: Note) -> Saying:
    assert note.hit is not None, note
    equal = "one"
    if node.key is not None:
        _, identity = asked(rule, "dedupe", node.key, note.hit.event, [])
        equal = f"{text_of(node.key)} = {shown(identity)}"
    if note.passed:
        return "passes", f"{equal}: none equal within {n.seconds(node.ttl_ns)} s", ""
    if note.before is None:
        return "stops", f"{equal}: it raised, or is no key", ""
    until = time_text(note.before)
    text = f"suppressed: {equal} was accepted less than {n.seconds(node.ttl_ns)} s before"
    return (
        "suppresses",
        f"{text}; equal ones pass again from {until}",
        f"it had come at {until} or later",
    )


def _hold(_rule: str, node: n.HoldNode, note: Note) -> Saying:
    as_long = f"for {n.seconds(node.for_ns)} s"
    if note.is_miss:
        if note.passed:
            return "passes", "the condition has ended: it says that it is clear", ""
        if note.before is None:
            return (
                "stops",
                "the condition is false, and was",
                f"the condition had been true {as_long}",
            )
        if note.before.first is None:
            return "stops", "the condition is false: it is armed again", ""
        since = time_text(note.before.first.at_ns)
        wish = f"the condition had stayed true {as_long} from {since} on"
        return "stops", f"the condition is false: it had been true since {since} only", wish
    if note.after is not None and note.after.first is not None:
        since_ns = note.after.first.at_ns
        due = time_text(since_ns + node.for_ns)
        text = f"true since {time_text(since_ns)}: it fires at {due} if it still is"
        return "holds", text, f"the condition had still been true at {due}"
    return (
        "holds",
        "true, and has fired: it re-arms when the condition is false",
        f"the condition had been false, and then true {as_long}",
    )


def _rate_limit(_rule: str, node: n.RateLimitNode, note: Note) -> Saying:
    rate = f"{node.n} in {n.seconds(node.per_ns)} s"
    if note.passed:
        return "passes", f"within the rate of {rate}", ""
    waiting, _, turn_ns = note.after
    turn = time_text(turn_ns)
    if node.overflow == "drop":
        text = f"suppressed: over the rate of {rate} (overflow='drop'); the next may pass at {turn}"
        return "suppresses", text, f"it had come at {turn} or later"
    text = f"over the rate of {rate}: {waiting} wait, the first until {turn}"
    return "holds", text, "fewer had come before it"


def _sequence(_rule: str, node: SequenceNode, note: Note) -> Saying:
    steps = node.steps
    met = [steps[number] for number in note.met]
    names = ", ".join(step_text(step) for step in met) or "no step"
    if note.passed:
        events = [event for hit in note.passed for event in hit.events]
        return "passes", f"meets {names}: complete with {_numbered(events)}", ""
    before, after = _sizes(note.before), _sizes(note.after)
    if note.before is note.after or note.before == note.after:
        return "stops", f"meets {names}: no partial match takes it", lacked(note)
    if after < before:
        return "stops", f"meets {names}: {_ended(before - after)} of {before} ended by it", ""
    does = "begins a partial match" if _has_begun(note) else "takes a partial match on"
    newest = _newest_open(node, note)
    text = f"meets {names}: {does}; {after} open"
    if newest is None:
        return "holds", text, ""
    text += f", waits for {newest.waits_for}"
    if not newest.names and newest.until_ns is not None:
        return "holds", text, f"nothing had ended it before {time_text(newest.until_ns)}"
    return "holds", text, f"{left(note, newest)} had come too{_within(node.within_ns)}"


def _has_begun(note: Note) -> bool:
    """Say whether the event is the first of a partial match."""
    assert note.hit is not None, note
    if isinstance(note.after, Partials):
        firsts = [one.node for one in note.after.partials if one.node.parent is None]
        return any(node.hit.events == note.hit.events for node in firsts)
    return any(events == note.hit.events for _, *rest in note.after for events in [tuple(rest)])


def _ended(count: int) -> str:
    return "1 partial match" if count == 1 else f"{count} partial matches"


def _newest_open(node: SequenceNode, note: Note) -> Open | None:
    """Return the newest partial match."""
    if isinstance(note.after, Partials):
        found = [one for one in note.after.partials if one is not START]
        newest = max(found, key=lambda one: (one.node.turn, one.node.start), default=None)
        return None if newest is None else open_partial(note.stage, node, newest)
    *_, last = plain_partials(node, note.after)
    return last


def _sizes(state: Any) -> int:
    if state is None:
        return 0
    if isinstance(state, Partials):
        return len(state.partials) - 1 + len(state.completed)
    return len(state)


def _silent(_rule: str, node: n.SilentNode, note: Note) -> Saying:
    if note.passed:
        return "passes", "the silence has ended: it says that it is clear", ""
    due = time_text(note.at_ns + node.for_ns)
    return (
        "holds",
        f"winds the watch up: it fires at {due} if none comes before",
        (f"none had come before {due}"),
    )


def _throttle(_rule: str, node: n.ThrottleNode, note: Note) -> Saying:
    period = n.seconds(node.period_ns)
    if note.passed:
        return "passes", f"begins a period of {period} s", ""
    if note.before is None:
        end = time_text(note.at_ns + node.period_ns)
        return "holds", f"begins a period of {period} s: its last fires at {end}", ""
    end = time_text(note.before.end_ns)
    if node.edge == "leading":
        text = f"suppressed: in a period of {period} s that has fired, and ends at {end}"
        return "suppresses", text, f"it had come at {end} or later"
    return "holds", f"the last so far of a period of {period} s: it fires at {end}", ""


def _window(_rule: str, _node: n.WindowNode, note: Note) -> Saying:
    if note.after is None:
        return "stops", "between two windows: it is in none", "it had come within a window"
    _, size = note.after
    return "holds", f"{size} in windows that have not ended: they fire at their ends", ""


def _within(within_ns: int | None) -> str:
    return "" if within_ns is None else f" within {n.seconds(within_ns)} s"


def _newest(note: Note) -> int:
    assert note.hit is not None, note
    return note.hit.events[-1] if note.hit.events else 0


def _numbered(events: Sequence[int]) -> str:
    shown_ones = [f"#{event}" for event in events]
    if len(shown_ones) > 8:
        shown_ones = [*shown_ones[:6], f"… {len(shown_ones) - 7} more …", shown_ones[-1]]
    return ", ".join(shown_ones)


_Say = Callable[[str, Any, Note], Saying]
_SAY: Final[dict[type[n.Node], _Say]] = {
    AbsentNode: _absent,
    AllNode: _all_of,
    n.BatchNode: _batch,
    n.CountNode: _count,
    n.CrossesNode: _crosses,
    n.DebounceNode: _debounce,
    n.DedupeNode: _dedupe,
    n.HoldNode: _hold,
    n.RateLimitNode: _rate_limit,
    SequenceNode: _sequence,
    n.SilentNode: _silent,
    n.ThrottleNode: _throttle,
    n.WindowNode: _window,
}
