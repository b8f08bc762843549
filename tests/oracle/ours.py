"""Turns a case of the oracle into a `sequence`, and plays it as Flink's operator plays it.

`node_of` and `pattern_of` make the same pattern; the first asks no checks, so that it can also
say what `sequence` refuses.  `Compiler` gives the states that headrace uses, `FlinkCompiler` those
of Flink, with what it passes over: so all of the corpus can be compared, and that the two make
the same states says that headrace's answers are Flink's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import groupby
from typing import Any

from msgspec import Raw

from headrace import group, not_, on, sequence, step
from headrace.engine.event import Event
from headrace.engine.record import EventStored
from headrace.triggers.hit import Hit, Seen
from headrace.triggers.nfa import (
    START,
    Nfa,
    Node,
    Partial,
    Progress,
    advance,
    expire,
    nodes_of,
    offer,
    release,
)
from headrace.triggers.nfa_compile import Compiler, Part, compile_sequence
from headrace.triggers.nfa_made import Kind, Made
from headrace.triggers.nodes import WhereNode
from headrace.triggers.nodes_joined import (
    Contiguity,
    GroupNode,
    Quantifier,
    SequenceNode,
    StepNode,
)
from headrace.triggers.pattern import Match, Pattern
from headrace.triggers.reach import without_relative
from headrace.triggers.step_conditions import StepConditions

MS = 1_000_000


def condition_of(cond: dict[str, Any]) -> Callable[..., bool]:
    """What the event alone must be."""
    m, r = cond.get("vmod", (1, 0))
    return lambda e: e.data["k"] in cond["k"] and e.data["v"] % m == r


def relation_of(cond: dict[str, Any]) -> Callable[[Event[Any], Match], bool] | None:
    """What the event must be to those that were taken before, if anything."""
    if not cond.keys() & {"gt_first", "ge_last", "sum_lt"}:
        return None

    def holds(e: Event[Any], m: Match) -> bool:
        def taken(name: str) -> list[int]:
            return [event.data["v"] for event in m.get(name, [])]

        v = e.data["v"]
        if "gt_first" in cond and not any(v > first for first in taken(cond["gt_first"])[:1]):
            return False
        if "ge_last" in cond and any(v < last for last in taken(cond["ge_last"])[-1:]):
            return False
        name, limit = cond.get("sum_lt", ("", None))
        return limit is None or sum(taken(name)) + v < limit

    return holds


def source_of(cond: dict[str, Any]) -> Pattern[Any]:
    """The pattern of a step."""
    pattern = on("e").where(condition_of(cond))
    relation = relation_of(cond)
    return pattern if relation is None else pattern.where(relation)


def until_of(cond: dict[str, Any]) -> Callable[..., bool]:
    """What ends a loop."""
    plain, relation = condition_of(cond), relation_of(cond)
    if relation is None:
        return plain
    return lambda e, m: plain(e) and relation(e, m)


# ---------------------------------------------------------------- as users write it


def pattern_of(pattern: dict[str, Any], **options: Any) -> Pattern[Any]:
    """The sequence; raises `ValueError` or `Inexpressible` if it is none."""
    skip = pattern["skip"]
    given = {name: pattern[name] / 1000 for name in ("within", "within_gap") if pattern[name]}
    return sequence(
        *members_of(pattern["steps"]),
        skip=tuple(skip) if isinstance(skip, list) else skip,
        **given,
        **options,
    )


class Inexpressible(ValueError):
    """There is no way to write it."""


def members_of(steps: list[dict[str, Any]]) -> list[Any]:
    """The members of a sequence or a group."""
    return [member_of(each, is_first=place == 0) for place, each in enumerate(steps)]


def member_of(each: dict[str, Any], *, is_first: bool) -> Any:
    """A step, a group or a negation."""
    contiguity = None if is_first else each["contiguity"]
    times, greedy = each["times"], each["greedy"]
    if each.get("not"):
        if times or each["optional"] or greedy or each["until"]:
            raise Inexpressible("a negation has no quantifier")
        return not_(source_of(each["cond"]), contiguity=each["contiguity"])
    if not times and (greedy or each["inner"] != "relaxed"):
        raise Inexpressible("only loops are greedy or have an inside")
    optional = each["optional"]
    if times and times[0] == 0:
        if optional or times[1] is None:
            raise Inexpressible("said twice")
        times, optional = [1, times[1]], True
    member: Any
    if "group" in each:
        if greedy:
            raise Inexpressible("groups are not greedy")
        member = group(each["name"], *members_of(each["group"]), contiguity=contiguity)
        member = member.times(*times, inner=each["inner"]) if times else member
    else:
        member = step(each["name"], source_of(each["cond"]), contiguity=contiguity)
        if times:
            member = member.times(*times, inner=each["inner"], greedy=greedy)
        if each["until"]:
            member = member.until(until_of(each["until"]))
    return member.optional() if optional else member


# ---------------------------------------------------------------- as nodes, unchecked


def node_of(pattern: dict[str, Any]) -> SequenceNode:
    """The node of the sequence, whatever the checks would say."""
    skip = pattern["skip"]
    return SequenceNode(
        nodes_in(pattern["steps"]),
        pattern["within"] and pattern["within"] * MS,
        pattern["within_gap"] and pattern["within_gap"] * MS,
        "relaxed",
        tuple(skip) if isinstance(skip, list) else skip,
        replaces_start=False,
        on_timeout=True,
        waits=skip != "none",
    )


def nodes_in(steps: list[dict[str, Any]]) -> tuple[StepNode | GroupNode, ...]:
    """The nodes of the members of a sequence or a group."""
    return tuple(map(member_node, steps))


def member_node(each: dict[str, Any]) -> StepNode | GroupNode:
    """The node of a step, a group or a negation."""
    least, most = each["times"] or (1, 1)
    optional = each["optional"] or least == 0
    quantifier = Quantifier(max(least, 1), most, each["inner"], each["greedy"], optional)
    if "group" in each:
        return GroupNode(each["name"], nodes_in(each["group"]), each["contiguity"], quantifier)
    until = until_of(each["until"]) if each["until"] else None
    return StepNode(
        each["name"],
        source_of(each["cond"]).node,
        each["contiguity"],
        quantifier,
        until,
        until_is_relative=until is not None and relation_of(each["until"]) is not None,
        is_not=each["not"],
    )


def loops_in(steps: list[dict[str, Any]]) -> set[str]:
    """The names of the steps that are repeated, in groups too."""
    inside = [loops_in(each.get("group", [])) for each in steps]
    return set().union(*inside, (each["name"] for each in steps if each["times"]))


# ---------------------------------------------------------------- Flink's states


class FlinkCompiler(Compiler):
    """Passes over what Flink passes over."""

    def __init__(self, node: SequenceNode, loops: Collection[str]) -> None:
        super().__init__(node)
        self.loops = loops
        """Names of the steps that have `times`, even if that is once."""
        self.bounded: list[Made] = []
        """The states in which `within_gap` counts: none of loops."""

    def contiguity(self, part: Part) -> Contiguity:
        """A group that is the first member of a group is always strict."""
        outer = part.outer
        if part.place or outer is None or part.members:
            return super().contiguity(part)
        if not outer.is_entry:
            return outer.quantifier.inner
        return outer.node.contiguity if outer.place else "strict"

    def inner(self, part: Part) -> Contiguity:
        """The first step of a group goes by the group's inner, not by its own."""
        if part.place == 0 and part.outer is not None and not part.members:
            return part.outer.quantifier.inner
        return super().inner(part)

    def nots_before(self, part: Part) -> list[Part]:
        """Those before a strict one are not seen."""
        found = []
        for before in part.siblings[: part.place][::-1]:
            if before.is_not and before.is_strict:
                break
            if before.is_not:
                found.append(before)
            elif not before.quantifier.optional:
                break
        return found

    def nots_after(self, part: Part) -> list[Part]:
        """Only the nearest is seen."""
        following = part.siblings[part.place + 1 :]
        if not following:
            return [] if part.outer is None else self.nots_after(part.outer)
        after = following[0]
        return [after] if after.is_not and not after.is_strict else []

    def end(self, nots: Sequence[Part]) -> Made:
        """A strict one is over with the next event; of several relaxed ones the last counts."""
        return self.chain(nots, self.final)

    def is_pending(self, state: Made) -> bool:
        """A loop has to be left first, by an event."""
        return state.kind is Kind.PENDING

    def negation(self, part: Part, sink: Made) -> Made:
        """See `end`; also at the end of a group that is last."""
        node = self.node
        has_end = node.within_ns is not None or node.within_gap_ns is not None
        if not part.is_strict and sink.kind is Kind.FINAL and has_end:
            made = super().end([part])
        elif part.is_strict and sink.kind is Kind.FINAL:
            made = Made()
            made.ignore(sink, self.missed(part))
            made.proceed(self.stop(part), self.met(part))
        else:
            made = super().negation(part, sink)
        if made is not sink:
            self.bounded.append(made)
        return made

    def part(self, part: Part, sink: Made) -> Made:
        """See `bounded`."""
        made = super().part(part, sink)
        if not part.members and part.node.name not in self.loops:
            self.bounded.append(made)
        return made


def shape(nfa: Nfa) -> list[Any]:
    """What two automata have in common if they give the same answers."""
    return [(state.edges, state.is_pending) for state in nfa.states]


# ---------------------------------------------------------------- as Flink's operator plays it


class Play:
    """One automaton on its way through the events of a case.

    With *exact*, time stops wherever a partial runs out, as an engine's timers do; otherwise only
    where events come, as the recorded answers have it.
    """

    def __init__(
        self,
        case: dict[str, Any],
        node: SequenceNode,
        nfa: Nfa,
        bounded: Collection[int],
        *,
        exact: bool,
    ) -> None:
        self.case = case
        self.nfa = nfa
        self.bounded = bounded
        """Numbers of the states in which `within_gap` counts."""
        self.exact = exact
        self.node = node
        self.conditions = StepConditions(self.node, "case")
        self.tests = [without_relative(each.source) for each in self.node.steps]
        self.progress = Progress([START], [])
        self.matches: list[dict[str, Any]] = []
        self.timeouts: list[dict[str, Any]] = []
        self.dues_max = 0
        """How many times at which partials ran out were passed in one go, at most."""

    @staticmethod
    def of_flink(case: dict[str, Any]) -> Play:
        """Play *case* with Flink's states."""
        node = node_of(case["pattern"])
        compiler = FlinkCompiler(node, loops_in(case["pattern"]["steps"]))
        nfa = compiler.compiled()
        order = enumerate(compiler.order)
        bounded = {n for n, made in order if any(made is one for one in compiler.bounded)}
        return Play(case, node, nfa, bounded, exact=False).through()

    @staticmethod
    def of_headrace(case: dict[str, Any]) -> Play:
        """Play *case* with headrace's states."""
        node = node_of(case["pattern"])
        nfa = compile_sequence(node)
        return Play(case, node, nfa, range(len(nfa.states)), exact=True).through()

    def through(self) -> Play:
        """Play all of it."""
        numbered = enumerate(self.case["events"])
        for t, events in groupby(numbered, key=lambda one: one[1]["t"]):
            self.advance(t)
            for number, event in events:
                self.take(number, event)
            self.advance(t)
        if self.case["until"] is not None:
            self.advance(self.case["until"])
        return self

    def take(self, number: int, event: dict[str, Any]) -> None:
        record = EventStored(event["t"] * MS, "e", Raw(b""))
        seen = Seen(Event(number, "e", event, event["t"] * MS), record, 0)
        hit = Hit(None, event["t"] * MS, (number,), (seen,), 0, 0)
        hits: dict[int, Hit] = {}
        for each, source in enumerate(self.tests):
            assert isinstance(source, WhereNode), source
            if source.condition(seen.event):
                hits[each] = hit
        bits = sum(1 << each for each in hits)
        settle = self.conditions.about(bits, hit, hits, [])
        partials = self.progress.partials
        made = advance(self.nfa, partials, bits, turn=number, hits=hits, settle=settle)
        if made is not None:
            self.go_on(made, number)

    def due(self, partial: Partial) -> int | None:
        """When a partial runs out of time, in ms."""
        within, gap = self.node.within_ns, self.node.within_gap_ns
        node = partial.node
        dues = []
        if within is not None:
            dues.append(node.start_ns + within)
        if gap is not None and partial.state in self.bounded:
            dues.append(node.hit.at_ns + gap)
        return min(dues) // MS if dues and partial is not START else None

    def advance(self, t: int) -> None:
        dues = {self.due(partial) for partial in self.progress.partials} - {None}
        passed = sorted(due for due in dues if due is not None and due <= t)
        self.dues_max = max(self.dues_max, len(passed))
        while self.exact and passed and passed[0] < t:
            self.expire(passed[0])
            dues = {self.due(partial) for partial in self.progress.partials} - {None}
            passed = sorted(due for due in dues if due is not None and due <= t)
        self.expire(t)

    def expire(self, t: int) -> None:
        partials = self.progress.partials
        dues: list[int] = []

        def is_over(partial: Partial) -> bool:
            due = self.due(partial)
            gap = self.node.within_gap_ns
            if due is None or due > t:
                return False
            if gap is not None and partial.state in self.bounded:
                # Of two reasons, Flink names this one.
                of_gap = (partial.node.hit.at_ns + gap) // MS
                due = of_gap if of_gap <= t else due
            if not self.nfa.states[partial.state].is_pending:
                dues.append(due)
            return True

        made = expire(self.nfa, partials, is_over)
        for due, node in zip(dues, made.over, strict=True):
            self.timeouts.append({"t": due, "steps": self.steps(node)})
        self.go_on(made, f"t:{t}")

    def go_on(self, made: Progress, at: int | str) -> None:
        complete, made.completed = made.completed, self.progress.completed
        for partial in complete:
            offer(made.completed, partial)
        self.progress = made
        node = self.node
        for match in release(made, node.skip, node.steps, waits=node.waits):
            self.matches.append({"at": at, "steps": self.steps(match)})

    def steps(self, last: Node) -> dict[str, list[int]]:
        steps: dict[str, list[int]] = {}
        for node in reversed(list(nodes_of(last))):
            steps.setdefault(self.node.steps[node.step].name, []).append(node.hit.events[0])
        return steps
