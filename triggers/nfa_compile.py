"""Turns a sequence into a non-deterministic automaton: `compile_sequence`.

The automaton is that of Apache Flink CEP 1.20, state for state, since the order of results
depends on it.  It is made from the last step to the first: each part of the sequence is
compiled with its *sink*, the state that comes behind it.  An edge takes the event, ignores
it, or proceeds to another state with the same event; what decides is a `Test`.

Where Flink passes over something that is written down, this does not:

- a loop that is the first step of a group goes by its own ``inner``, not by the group's;
- a group that is the first member of a group has the contiguity of that group to the step
  before, and not always ``strict``;
- all negations between two steps count, also a relaxed one before a strict one, and all of
  several at the end;
- a strict negation at the end fires, as a relaxed one does, when ``within`` is over; Flink
  fires with the next event, and not at all if there is none;
- a negation at the end behind a loop or an optional step fires, too, if no event has come
  since; Flink needs one to leave the loop.

And a negation may stand behind an optional step, which Flink refuses: it counts from the step
before if that one is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.triggers.nfa import FINAL, IGNORED, START, Edge, Nfa, State, Test
from headrace.triggers.nfa_made import (
    ALWAYS,
    Action,
    Kind,
    Made,
    both,
    closure,
    copies_without,
    copy,
    harden,
    ways_to_final,
)
from headrace.triggers.nodes_joined import (
    Contiguity,
    GroupNode,
    Quantifier,
    SequenceNode,
    StepNode,
)


class Part:
    """A member of a sequence or group, and where it stands."""

    def __init__(self, node: StepNode | GroupNode, place: int, outer: Part | None) -> None:
        self.node = node
        self.place = place
        self.outer = outer
        self.siblings: list[Part] = []
        self.members: list[Part] = []
        self.number = IGNORED
        self.is_entry = True
        """Of a group: whether the copy is being made by which it is entered."""

    @property
    def quantifier(self) -> Quantifier:
        """How often it is taken."""
        return self.node.quantifier

    @property
    def is_not(self) -> bool:
        """Whether it is a negation."""
        return isinstance(self.node, StepNode) and self.node.is_not

    @property
    def is_strict(self) -> bool:
        """Whether it says what the very next event must be, or not be."""
        return self.node.contiguity == "strict"

    @property
    def heads_optional_group(self) -> bool:
        """Whether it is where an optional group is entered."""
        outer = self.outer
        return (
            self.place == 0 and outer is not None and outer.is_entry and outer.quantifier.optional
        )


class Compiler:
    """Makes the states of one sequence."""

    def __init__(self, node: SequenceNode) -> None:
        self.node = node
        self.steps: list[StepNode] = []
        self.final = Made(Kind.FINAL)
        self.originals: dict[int, Made] = {}
        """By sink of a greedy loop with an end: that sink as it was before it was hardened."""
        self.order: list[Made] = []
        """The states by their numbers."""
        self._stops: dict[int, Made] = {}

    def compiled(self) -> Nfa:
        """Return the automaton."""
        parts = self.parts_of(self.node.members, None)
        last = len(parts)
        while last and parts[last - 1].is_not:
            last -= 1
        sink = self.end(parts[last:]) if last < len(parts) else self.final
        self.order.append(self.chain(parts[:last], sink))
        return self._finished()

    def parts_of(self, nodes: Iterable[StepNode | GroupNode], outer: Part | None) -> list[Part]:
        """Return *nodes* with their places; steps are numbered in written order."""
        parts = [Part(node, place, outer) for place, node in enumerate(nodes)]
        for part in parts:
            part.siblings = parts
            if isinstance(part.node, GroupNode):
                part.members = self.parts_of(part.node.members, part)
            else:
                part.number = len(self.steps)
                self.steps.append(part.node)
        return parts

    def _finished(self) -> Nfa:
        """Return the automaton that starts with the one state in `order`; add all it leads to.

        Edges that only proceed are resolved.
        """
        order = self.order
        numbers = {id(order[0]): START.state}
        closures: list[list[tuple[Action, Made, Test, int]]] = []
        for state in order:  # grows meanwhile
            closures.append(closure(state))
            for _, target, _, _ in closures[-1]:
                if target.kind is not Kind.FINAL and id(target) not in numbers:
                    numbers[id(target)] = len(order)
                    order.append(target)
        finals = {id(state): ways_to_final(state) for state in order}
        states: list[State] = []
        for number, (state, found) in enumerate(zip(order, closures, strict=True)):
            edges = tuple(
                Edge(
                    test,
                    step if action is Action.TAKE else IGNORED,
                    FINAL if target.kind is Kind.FINAL else numbers[id(target)],
                    target.kind is Kind.STOP,
                    finals.get(id(target), ()) if action is Action.TAKE else (),
                )
                for action, target, test, step in found
            )
            states.append(State(number, edges, is_pending=self.is_pending(state)))
        return Nfa(tuple(states), tuple(self.steps))

    # ------------------------------------------------------------ what is written

    def contiguity(self, part: Part) -> Contiguity:
        """Return what may lie between *part* and the step before."""
        if part.place:
            return part.node.contiguity
        outer = part.outer
        if outer is None:
            return "strict"  # nothing is before it
        return self.contiguity(outer) if outer.is_entry else outer.quantifier.inner

    def inner(self, part: Part) -> Contiguity:
        """Return what may lie between two turns of the loop that *part* is."""
        return part.quantifier.inner

    def nots_before(self, part: Part) -> list[Part]:
        """Return what must not come before *part*, the nearest first.

        Optional steps are looked behind, since they may have been left out.
        """
        found: list[Part] = []
        for before in part.siblings[: part.place][::-1]:
            if before.is_not:
                if not before.is_strict:
                    found.append(before)
            elif not before.quantifier.optional:
                break
        return found

    def nots_after(self, part: Part) -> list[Part]:
        """Return what must not come once *part* is over."""
        following = part.siblings[part.place + 1 :]
        if not following:
            return [] if part.outer is None else self.nots_after(part.outer)
        found: list[Part] = []
        for after in following:
            if not after.is_not:
                break
            if not after.is_strict:
                found.append(after)
        return found

    def is_pending(self, state: Made) -> bool:
        """Whether the pattern is met when the time of a partial in *state* is over."""
        reached, seen = [state], {id(state)}
        for one in reached:  # grows meanwhile
            if one.kind is Kind.PENDING:
                return True
            for action, target, _ in one.edges:
                if action is Action.PROCEED and id(target) not in seen:
                    seen.add(id(target))
                    reached.append(target)
        return False

    # ------------------------------------------------------------ tests

    def met(self, part: Part) -> Test:
        """Return the test whether the event meets a step."""
        bit = 1 << part.number
        return bit, bit

    def missed(self, part: Part) -> Test:
        """Return the test whether it does not."""
        return 1 << part.number, 0

    def passed_by(self, part: Part, contiguity: Contiguity) -> Test | None:
        """Return the test whether a partial that waits for *part* may ignore the event."""
        if contiguity == "strict":
            return None
        return self.missed(part) if contiguity == "relaxed" else ALWAYS

    def ended(self, part: Part) -> tuple[Test, Test] | None:
        """Return the tests whether the loop's ``until`` holds, and whether it does not."""
        if not isinstance(part.node, StepNode) or part.node.until is None:
            return None
        bit = 1 << (len(self.steps) + part.number)
        return (bit, bit), (bit, 0)

    # ------------------------------------------------------------ negations

    def stop(self, part: Part) -> Made:
        """Return the state of those that have met a negation."""
        made = self._stops.get(part.number)
        if made is None:
            made = self._stops[part.number] = Made(Kind.STOP)
            made.take(made, self.met(part))
        return made

    def add_stops(self, state: Made, nots: Iterable[Part]) -> None:
        """Let *nots* end what waits in *state*."""
        for part in nots:
            state.proceed(self.stop(part), self.met(part))

    def negation(self, part: Part, sink: Made) -> Made:
        """Make a negation between two steps: a relaxed one has no state of its own."""
        if not part.is_strict:
            return sink
        state = Made()
        state.proceed(sink, self.missed(part))
        state.proceed(self.stop(part), self.met(part))
        return state

    def end(self, nots: Sequence[Part]) -> Made:
        """Make the states that wait for time to be over."""
        relaxed = [part for part in nots if not part.is_strict]
        strict = [part for part in nots if part.is_strict]
        waiting = Made(Kind.PENDING)
        self.add_stops(waiting, relaxed)
        waiting.ignore(waiting, both(*map(self.missed, relaxed)))
        if not strict:
            return waiting
        first = Made(Kind.PENDING)
        self.add_stops(first, nots)
        first.ignore(waiting, both(*map(self.missed, nots)))
        return first

    def stripped(self, sink: Made, part: Part) -> Made:
        """Return *sink* for those that have taken the optional *part*.

        The negations before it are over for them, so it is a copy without.
        """
        nots = self.nots_before(part) if part.quantifier.optional else []
        if not nots:
            return sink
        over = {self._stops[one.number] for one in nots if one.number in self._stops}
        return copies_without(sink, over)[0]

    def spared(self, beyond: Made, part: Part) -> Made:
        """Return *beyond* for those that may leave the optional *part* out.

        A negation that follows ends only their way past it: for the others it is not yet time.
        So it does not stop them, but is a condition of that way, which is a copy.
        """
        nots = []
        for after in part.siblings[part.place + 1 :]:
            if not after.is_not:
                break
            nots.append(after)
        if not nots:
            return beyond
        stops = {self._stops[one.number] for one in nots if one.number in self._stops}
        copies = copies_without(beyond, stops)
        for one in nots:
            if not one.is_strict:
                for copied in copies:
                    harden(copied, self.met(one))
        return copies[0]

    # ------------------------------------------------------------ steps

    def chain(self, parts: Sequence[Part], sink: Made) -> Made:
        """Make the states of *parts*; return the one by which they are entered."""
        for part in reversed(parts):
            sink = self.negation(part, sink) if part.is_not else self.part(part, sink)
        return sink

    def part(self, part: Part, sink: Made) -> Made:
        """Make the states of a step or a group, however often it is taken."""
        quantifier = part.quantifier
        least, most = quantifier.least, quantifier.most
        last = beyond = sink
        if most is None:
            last = self.endless_group(part, sink) if part.members else self.endless(part, sink)
        elif most > least and quantifier.greedy and not part.members:
            harden(sink, self.met(part))
        for _ in range(least, least if most is None else most):
            last = self.once(part, last, beyond, is_entry=False, optional=True)
            self.add_stops(last, self.nots_after(part))
        for _ in range(1, least):
            last = self.once(part, last, None, is_entry=False, optional=False)
            self.add_stops(last, self.nots_after(part))
        entry = self.once(part, last, beyond, is_entry=True, optional=quantifier.optional)
        self.add_stops(entry, self.nots_before(part))
        return entry

    def once(
        self, part: Part, sink: Made, beyond: Made | None, *, is_entry: bool, optional: bool
    ) -> Made:
        """Make one turn of a step or a group; one that is *optional* may go *beyond*."""
        if part.members:
            part.is_entry = is_entry
            head = self.chain(part.members, sink)
            part.is_entry = True
            if optional and beyond is not None:
                head.proceed(self.spared(beyond, part) if is_entry else beyond)
            return head
        contiguity = self.contiguity(part) if is_entry else self.inner(part)
        ignored = self.passed_by(part, contiguity)
        taken: Test | None = self.met(part)
        ended = self.ended(part)
        if ended is not None:
            taken = both(ended[1], taken)
            ignored = ignored if is_entry else both(ended[1], ignored)
        state = Made(step=part.number)
        behind = self.stripped(sink, part)
        state.take(behind, taken)
        if optional and beyond is not None:
            original = self.originals.get(id(beyond), beyond)
            if is_entry:
                original, beyond = self.spared(original, part), self.spared(beyond, part)
            if ended is not None and part.quantifier.greedy:
                state.proceed(original, ended[0])
                state.proceed(beyond, ended[1])
            else:
                state.proceed(beyond)
        if ignored is not None:
            resting = state
            if optional or part.heads_optional_group:
                # Who has ignored an event here does not leave the step out any more: the
                # one that left it out has ignored the event, too.
                resting = Made(step=part.number)
                resting.take(behind, taken)
                resting.ignore(resting, ignored)
                self.add_stops(resting, self.nots_before(part))
            state.ignore(resting, ignored)
        return state

    def endless(self, part: Part, sink: Made) -> Made:
        """Make the state of a loop without bound that has had its turns."""
        behind = self.stripped(sink, part)
        ended = self.ended(part)
        taken: Test | None = self.met(part)
        ignored = self.passed_by(part, self.inner(part))
        loop = Made(step=part.number)
        if part.quantifier.greedy:
            if ended is not None:
                original = copy(behind)
                self.originals[id(behind)] = original
                loop.proceed(original, ended[0])
                loop.proceed(behind, ended[1])
            else:
                loop.proceed(behind)
            harden(behind, self.met(part))
        else:
            loop.proceed(behind)
        if ended is not None:
            taken, ignored = both(ended[1], taken), both(ended[1], ignored)
        loop.take(loop, taken)
        nots = self.nots_after(part)
        self.add_stops(loop, nots)
        if ignored is not None:
            resting = Made(step=part.number)
            resting.take(loop, taken)
            resting.ignore(resting, ignored)
            loop.ignore(resting, ignored)
            self.add_stops(resting, nots)
        return loop

    def endless_group(self, part: Part, sink: Made) -> Made:
        """Make the states of a group without bound that has had its turns."""
        again = Made()
        part.is_entry = False
        head = self.chain(part.members, again)
        part.is_entry = True
        head.proceed(self.stripped(sink, part))
        again.proceed(head)
        return head


def compile_sequence(node: SequenceNode) -> Nfa:
    """Return the automaton of a sequence.

    The numbers of its states are in snapshots, so for one node they must stay what they are.

    Raises:
        ValueError: it would be too large.
    """
    return Compiler(node).compiled()
