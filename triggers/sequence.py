"""`sequence` at work: steps that are met one after the other, for each key."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import Struct

from headrace.engine.decider import Verdict
from headrace.engine.record import RuleEvicted
from headrace.triggers.hit import Hit, Need, joined, oldest_of, packed, slim, unpacked
from headrace.triggers.joins import Join
from headrace.triggers.nfa import (
    FINAL,
    START,
    Node,
    Partial,
    Progress,
    Queue,
    advance,
    expire,
    node_after,
    nodes_of,
    offer,
    poll,
    release,
)
from headrace.triggers.nfa_compile import compile_sequence
from headrace.triggers.nodes_joined import SequenceNode, Skip
from headrace.triggers.sequence_plain import PlainSequence, is_plain
from headrace.triggers.stage import Place, Stage, TimerStage
from headrace.triggers.step_conditions import StepConditions

TIMEOUT: Final = "timeout"


def sequence_of(place: Place, node: SequenceNode, then: Stage) -> SequenceStage | PlainSequence:
    """Return the stage that does what *node* says."""
    make = PlainSequence if is_plain(node, then.need) else SequenceStage
    return make(place, node, then)


class Partials(Struct, frozen=True):
    """The state of a key: its partial matches.  Its lists are never changed."""

    turn: int
    """Number of the last event that changed them."""
    partials: Queue
    """With `START` among them."""
    completed: Queue
    """Matches that wait for partials which began earlier."""
    wakes: int
    """See `Progress.wakes`."""
    due_ns: int | None
    """When the first runs out of time."""


class SequenceStage(Join, TimerStage[Partials]):
    """The branches are the steps, in written order, with those that must not be met.

    One timer a key: it is due when the first of its partials runs out of time.
    """

    def __init__(self, place: Place, node: SequenceNode, then: Stage) -> None:
        Join.__init__(self)
        TimerStage.__init__(self, place)
        self._then = then
        self._nfa = compile_sequence(node)
        self.needs_stream = self._nfa.needs_stream
        """Whether it is to be told of the events that conditions of steps turn down."""
        self._within_ns = node.within_ns
        self._gap_ns = node.within_gap_ns
        self._skip: Skip = node.skip
        self._waits = node.waits
        self._replaces_start = node.replaces_start
        self._on_timeout = node.on_timeout
        self._partials_max = node.partials_max
        self._conditions = StepConditions(node, self._rule)
        self._keeps = max(then.need, self._conditions.keeps)
        self.need = max(self._keeps, self._conditions.need)
        self._nothing = Partials(0, [START], [], 0, None)

    # ------------------------------------------------------------ events

    def flush(self, out: list[Verdict]) -> None:
        """See `Join`; nearly always there is one hit."""
        hits = self._hits
        if len(hits) == 1 and not self._misses:
            self._hits = []
            self.step(hits[0][1].key, hits, out)
        elif hits or self._misses:
            super().flush(out)

    def step(self, key: Any, met: list[tuple[int, Hit]], out: list[Verdict]) -> None:
        """See `Join`; of several hits of one branch the first counts (law L5)."""
        bits = 0
        hits: dict[int, Hit] = {}
        for branch, hit in met:
            if branch not in hits:
                hits[branch] = hit
                bits |= 1 << branch
        self._take(key, bits, hits, met[0][1], out)

    def pass_by(self, hit: Hit, out: list[Verdict]) -> None:
        """See `Join`."""
        self._take(hit.key, 0, {}, hit, out)

    def _take(
        self, key: Any, bits: int, hits: dict[int, Hit], hit: Hit, out: list[Verdict]
    ) -> None:
        """Take an event that meets the steps *bits*; *hit* is any of *hits*, if there are."""
        state = self._table.peek(key)
        while state is not None and state.due_ns is not None and state.due_ns <= hit.at_ns:
            # Its timer comes first, unless this is of a timer that was armed earlier.
            self._expire(key, state, state.due_ns, out)
            state = self._table.peek(key)
        known = self._nothing if state is None else state
        if not (bits & (known.wakes | self._nfa.wakes) or known.wakes == -1):
            return
        progress = advance(
            self._nfa,
            known.partials,
            bits,
            turn=known.turn + 1,
            hits=hits if self._keeps is Need.ALL else self._kept(hits),
            settle=self._conditions.about(bits, hit, hits, out),
            others_wake=known.wakes,
        )
        if progress is None:
            return
        if self._replaces_start and bits & self._nfa.wakes:
            _replace_starts(progress.partials, known.turn + 1)
        matches = self._released(known, progress)
        if progress.lost or progress.size > self._partials_max:
            matches += self._evicted(key, progress, out)
        self._store(key, state, known.turn + 1, progress, out)
        for match in matches:
            self._then.push(self._made(match, hit.at_ns, hit.due_ns), out)

    def _kept(self, hits: dict[int, Hit]) -> dict[int, Hit]:
        """Return *hits* as they are kept."""
        return {branch: slim(hit, self._keeps) for branch, hit in hits.items()}

    def _evicted(self, key: Any, progress: Progress, out: list[Verdict]) -> list[Node]:
        """Let the oldest go, and say so once; return what has waited for them."""
        partials, states = progress.partials, self._nfa.states
        woken = 0  # by those that go and not by the next
        while len(partials) > 1 and progress.size > self._partials_max:
            gone = poll(partials)
            woken |= states[gone.state].wakes & ~states[partials[0].state].wakes
        if woken:
            progress.wakes = self._nfa.wakes_of(partials)
        out.append(RuleEvicted(self._rule, key, "partial"))
        return self._release(progress)

    def _released(self, before: Partials, progress: Progress) -> list[Node]:
        """Return what is handed on now, of what waited before and is complete now."""
        if before.completed:
            complete, progress.completed = progress.completed, [*before.completed]
            for partial in complete:
                offer(progress.completed, partial)
        return self._release(progress) if progress.completed else []

    def _release(self, progress: Progress) -> list[Node]:
        matches = release(progress, self._skip, self._nfa.steps, waits=self._waits)
        if matches:
            progress.wakes = self._nfa.wakes_of(progress.partials)
        return matches

    def _store(
        self,
        key: Any,
        before: Partials | None,
        turn: int,
        progress: Progress,
        out: list[Verdict],
    ) -> None:
        partials, completed = progress.partials, progress.completed
        armed_ns = None if before is None else before.due_ns
        if progress.size == 0:
            if before is not None:
                self._table.pop(key)
            if armed_ns is not None:
                self._place.disarm(key)
            return
        due_ns = self._due_ns(partials)
        self.keep(key, Partials(turn, partials, completed, progress.wakes, due_ns), out)
        if due_ns != armed_ns:
            if due_ns is None:
                self._place.disarm(key)
            else:
                self._place.arm(key, due_ns)

    # ------------------------------------------------------------ time

    def _due_ns(self, partials: Queue) -> int | None:
        """Return when the first of *partials* runs out of time."""
        within_ns, gap_ns = self._within_ns, self._gap_ns
        first = partials[0]
        if first is START:
            return None
        due_ns = None if within_ns is None else first.node.start_ns + within_ns
        if gap_ns is not None:
            latest_ns = min(one.node.hit.at_ns for one in partials if one is not START) + gap_ns
            due_ns = latest_ns if due_ns is None else min(due_ns, latest_ns)
        return due_ns

    def fire(self, key: Any, *, due_ns: int, missed: int, out: list[Verdict]) -> None:
        """See `TimedStage`."""
        state = self._table.peek(key)
        assert state is not None, "a timer is of a key that has partials"
        self._expire(key, state, due_ns, out)

    def _expire(self, key: Any, state: Partials, now_ns: int, out: list[Verdict]) -> None:
        within_ns, gap_ns = self._within_ns, self._gap_ns

        def is_over(partial: Partial) -> bool:
            node = partial.node
            return (within_ns is not None and node.start_ns + within_ns <= now_ns) or (
                gap_ns is not None and node.hit.at_ns + gap_ns <= now_ns
            )

        progress = expire(self._nfa, state.partials, is_over)
        progress.wakes = self._nfa.wakes_of(progress.partials)
        matches = self._released(state, progress)
        self._store(key, state, state.turn, progress, out)
        for match in matches:
            self._then.push(self._made(match, now_ns, now_ns), out)
        if self._on_timeout:
            for last in progress.over:
                self._then.push(self._made(last, now_ns, now_ns, TIMEOUT), out)

    # ------------------------------------------------------------ matches

    def _made(self, last: Node, at_ns: int, due_ns: int | None, reason: str | None = None) -> Hit:
        nodes = list(nodes_of(last))[::-1]
        by_step: dict[int, list[int]] = {}
        newest, in_order = 0, True
        for node in nodes:
            events = node.hit.events
            by_step.setdefault(node.step, []).extend(events)
            for sequence in events:
                in_order = in_order and sequence > newest
                newest = sequence
        steps = self._nfa.steps
        made = joined(
            [node.hit for node in nodes],
            last=last.hit,
            at_ns=at_ns,
            due_ns=due_ns,
            reason=reason,
            steps=tuple([(steps[step].name, tuple(by_step[step])) for step in sorted(by_step)]),
            in_order=not in_order,
        )
        return made if in_order else _each_seen_once(made)

    # ------------------------------------------------------------ state

    def packed(self, key: Any, state: Partials) -> tuple[list[Any], int | None]:
        """See `KeyedStage`; a node that several partials share is there once."""
        numbers: dict[int, int] = {}
        nodes: list[list[Any]] = []
        hits: list[Hit] = []

        def number_of(last: Node) -> int:
            new: list[Node] = []
            for node in nodes_of(last):
                if id(node) in numbers:
                    break
                new.append(node)
            for node in reversed(new):
                parent = -1 if node.parent is None else numbers[id(node.parent)]
                numbers[id(node)] = len(nodes)
                nodes.append([parent, node.step, node.turn, packed(node.hit)])
                hits.append(node.hit)
            return numbers[id(last)]

        partials = [
            None if one is START else [one.state, number_of(one.node)] for one in state.partials
        ]
        completed = [number_of(one.node) for one in state.completed]
        return [key, state.turn, nodes, partials, completed], oldest_of(hits)

    def unpacked(self, key: Any, fields: list[Any]) -> Partials:
        """See `KeyedStage`."""
        turn, packed_nodes, packed_partials, packed_completed = fields
        nodes: list[Node] = []
        for number, step, of_turn, packed_hit in packed_nodes:
            hit = unpacked(packed_hit, key, self._place.recall)
            parent = None if number < 0 else nodes[number]
            nodes.append(node_after(parent, hit, step, of_turn))
        partials = [
            START if one is None else Partial(one[0], nodes[one[1]]) for one in packed_partials
        ]
        completed = [Partial(FINAL, nodes[number]) for number in packed_completed]
        return Partials(
            turn, partials, completed, self._nfa.wakes_of(partials), self._due_ns(partials)
        )


def _each_seen_once(hit: Hit) -> Hit:
    """Return *hit* without what several steps have seen; its last event stays the last."""
    if not hit.seen:
        return hit
    *others, last = hit.seen
    once = {one.event.sequence: one for one in others}
    once.pop(last.event.sequence, None)
    seen = (*(once[sequence] for sequence in sorted(once)), last)
    return msgspec.structs.replace(hit, seen=seen)


def _replace_starts(partials: Queue, turn: int) -> None:
    """Let a partial that began in *turn* take the place of those that have only their start."""
    kept = [one for one in partials if one.node.length != 1 or one.node.turn == turn]
    if len(kept) < len(partials) and any(one.node.start == turn for one in kept):
        partials.clear()
        for one in kept:
            offer(partials, one)
