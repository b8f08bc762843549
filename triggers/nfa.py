"""How a `sequence` matches: partial matches of one key, and what an event makes of them.

The states are made by `headrace.triggers.nfa_compile`.  A *partial* is a state and the last
`Node` of what it has taken; nodes point to the one before, so that partials which have the
same beginning share it, and each that takes an event costs one node.  An event is a set of
*bits*: which steps it meets, seen alone, and which loops it ends.  What a state does with
given bits is looked up; it is worked out the first time.

Answers are those of Apache Flink CEP 1.20, in its order.  Flink keeps partials in priority
queues by the event of their start and goes through them in the order in which they lie in
the queue's array; `Queue` is one that lies in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from headrace.triggers.hit import EVENTS_MAX, Hit
from headrace.triggers.nodes_joined import Skip, StepNode

Test = tuple[int, int]
"""Bits that matter, and those of them that must be set."""

FINAL: Final = -1
"""The state in which the pattern is met."""
IGNORED: Final = -1
"""In place of a step: none takes the event."""
LENGTH_MAX: Final = EVENTS_MAX
"""Events that a partial takes before it is complete."""
MOVES_MAX: Final = 4096
"""Kinds of events for which a state remembers what it does."""

Move = tuple[int, int]
"""The step that takes the event, or `IGNORED`, and the next state."""


class Node(Struct, frozen=True):
    """An event that a partial has taken.

    Not without garbage collection: only what takes part in it can be freed in long chains.
    """

    hit: Hit
    step: int
    turn: int
    """Which of the key's events it is."""
    parent: Node | None
    """What was taken before."""
    start: int
    """The turn of the first event of the partial."""
    start_ns: int
    length: int


class Partial(Struct, frozen=True, gc=False):
    """A match that is not complete yet, or waits to be handed on."""

    state: int
    node: Node


NOTHING: Final = Hit(None, 0, (), (), 0, 0)
START: Final = Partial(0, Node(NOTHING, IGNORED, 0, None, 1 << 62, 0, 0))
"""What begins a new partial with each event that starts one; by its start it is the last."""

Queue = list[Partial]


class Edge(Struct, frozen=True):
    """A way from a state to another."""

    test: Test
    step: int
    """The step that takes the event, or `IGNORED`."""
    target: int
    is_stop: bool
    """Whether it leads to the end of the partial."""
    finals: tuple[Test, ...]
    """Tests any of which lets the pattern be met, too."""


class State:
    """A state: what a partial that is in it does with an event."""

    __slots__ = ("care", "edges", "is_pending", "moves", "number", "stays", "wakes")

    def __init__(self, number: int, edges: tuple[Edge, ...], *, is_pending: bool) -> None:
        self.number = number
        self.is_pending = is_pending
        """Whether the pattern is met when its time is over."""
        self.edges = edges
        self.moves: dict[int, tuple[Move, ...]] = {}
        """What it does, by the bits that matter to it."""
        self.stays: tuple[Move, ...] = ((IGNORED, number),)
        self.care = 0
        """The bits that matter."""
        self.wakes = 0
        """Bits of which one must be set, or it stays as it is; -1: it may change with any event."""
        for edge in edges:
            self.care |= edge.test[0]
            for care, _ in edge.finals:
                self.care |= care

    def moved(self, bits: int) -> tuple[Move, ...]:
        """Return what it does with an event of *bits*, of those that matter to it."""
        moves = self.moves.get(bits)
        if moves is None:
            moves = self._moved(bits)
            if len(self.moves) < MOVES_MAX:
                self.moves[bits] = moves
        return moves

    def _moved(self, bits: int) -> tuple[Move, ...]:
        moves: list[Move] = []
        is_stopped = False
        for edge in self.edges:
            care, want = edge.test
            if bits & care != want:
                continue
            if edge.is_stop:
                is_stopped = True
                continue
            if self.number or edge.step != IGNORED:
                moves.append((edge.step, edge.target))
            if any(bits & care == want for care, want in edge.finals):
                moves.append((edge.step, FINAL))
        if is_stopped:
            moves = [move for move in moves if move[1] == FINAL]
        if self.number == START.state:
            moves.append((IGNORED, START.state))
        made = tuple(moves)
        return self.stays if made == self.stays else made


class Nfa:
    """The automaton of a sequence."""

    def __init__(self, states: tuple[State, ...], steps: tuple[StepNode, ...]) -> None:
        self.states = states
        self.steps = steps
        endings = ~0 << len(steps)
        self.needs_stream = False
        """Whether events that meet no step matter, too."""
        for state in states:
            if state.number == START.state:
                state.wakes = state.care & ~endings
            elif state.care & endings or state.moved(0) is not state.stays:
                state.wakes = -1
                self.needs_stream = True
            else:
                state.wakes = state.care
        self.wakes = states[START.state].wakes
        """Bits of the steps that a match begins with."""

    def wakes_of(self, partials: Queue) -> int:
        """See `Progress.wakes`."""
        wakes = 0
        for partial in partials:
            if partial is not START:
                wakes |= self.states[partial.state].wakes
        return wakes


Bits = Callable[[int, Node], int]
"""Settles bits that hang on what a partial has taken: those that matter, its last node."""


class Progress(Struct, gc=False):
    """What an event, or time, makes of the partials of a key."""

    partials: Queue
    completed: Queue
    """Those that have met the pattern."""
    wakes: int = 0
    """Bits of which one must be set for any of *partials* but `START` to change; -1: any may."""
    lost: int = 0
    """How many would have become too long."""
    over: list[Node] = []
    """The last nodes of those that ran out of time, in order."""

    @property
    def size(self) -> int:
        """How many there are; `START` is among the partials."""
        return len(self.partials) - 1 + len(self.completed)


def advance(
    nfa: Nfa,
    partials: Queue,
    bits: int,
    *,
    turn: int,
    hits: Mapping[int, Hit],
    settle: Bits | None,
    others_wake: int = -1,
) -> Progress | None:
    """Return what an event makes of *partials*; ``None``: it changes nothing.

    *hits* is what the event is to each step that it meets; *turn* is its number.
    *others_wake* is `Progress.wakes` as it was; if the event is none of these, then only
    `START` is asked.
    """
    states = nfa.states
    made: Queue = []
    complete: Queue = []
    wakes = lost = 0
    has_changed = False
    if others_wake != -1 and not bits & others_wake:
        place = len(partials) - 1
        while partials[place] is not START:
            place -= 1
        wakes, made, partials = others_wake, partials[:place], partials[place:]
    for partial in partials:
        state = states[partial.state]
        of_state = bits & state.care if settle is None else settle(state.care, partial.node)
        moves = state.moved(of_state)
        if moves is state.stays:
            if partial is not START:
                wakes |= state.wakes
            offer(made, partial)
            continue
        has_changed = True
        last = None if partial is START else partial.node
        taken: dict[int, Node] = {}
        for step, target in moves:
            if step == IGNORED:
                moved = partial if target == partial.state else Partial(target, partial.node)
            else:
                node = taken.get(step)
                if node is None:
                    node = taken[step] = node_after(last, hits[step], step, turn)
                if node.length > LENGTH_MAX and target != FINAL:
                    lost += 1
                    continue
                moved = Partial(target, node)
            if target == FINAL:
                offer(complete, moved)
                continue
            if moved is not START:
                wakes |= states[target].wakes
            offer(made, moved)
    return Progress(made, complete, wakes, lost) if has_changed else None


def node_after(last: Node | None, hit: Hit, step: int, turn: int) -> Node:
    """Return the node of an event that is taken after *last*."""
    if last is None:
        return Node(hit, step, turn, None, turn, hit.at_ns, 1)
    return Node(hit, step, turn, last, last.start, last.start_ns, last.length + 1)


def expire(nfa: Nfa, partials: Queue, is_over: Callable[[Partial], bool]) -> Progress:
    """Return what time makes of *partials*; those that wait for it have met the pattern."""
    progress = Progress([], [], over=[])
    for partial in partials:
        if partial is START or not is_over(partial):
            offer(progress.partials, partial)
        elif nfa.states[partial.state].is_pending:
            offer(progress.completed, partial)
        else:
            progress.over.append(partial.node)
    return progress


def release(
    progress: Progress, skip: Skip, steps: Sequence[StepNode], *, waits: bool
) -> list[Node]:
    """Take out what is a match now, oldest start first; return the last nodes.

    A match lets others go, as *skip* says.  With *waits*, none is handed on while there is
    a partial that began earlier.
    """
    partials, completed = progress.partials, progress.completed
    matches: list[Node] = []
    while completed:
        match = completed[0].node
        if waits and match.start > partials[0].node.start:
            break
        poll(completed)
        if skip != "none":
            upto = skipped(match, skip, steps)
            drop(partials, upto)
            drop(completed, upto)
        matches.append(match)
    return matches


def skipped(match: Node, skip: Skip, steps: Sequence[StepNode]) -> int:
    """Return up to which turn the others that began there go, once *match* is handed on."""
    if skip == "to_next":
        return match.start
    if skip == "past_last":
        return match.turn
    assert not isinstance(skip, str), skip
    kind, name = skip
    turns = [node.turn for node in nodes_of(match) if steps[node.step].name == name]
    if not turns:
        return -1
    return (min(turns) if kind == "to_first" else max(turns)) - 1


def nodes_of(last: Node) -> Iterator[Node]:
    """Yield what a partial has taken, the newest first."""
    node: Node | None = last
    while node is not None:
        yield node
        node = node.parent


# ---------------------------------------------------------------- queues


def offer(queue: Queue, partial: Partial) -> None:
    """Put *partial* into the queue."""
    place = len(queue)
    queue.append(partial)
    start = partial.node.start
    while place:
        above = (place - 1) >> 1
        if start >= queue[above].node.start:
            break
        queue[place] = queue[above]
        place = above
    queue[place] = partial


def poll(queue: Queue) -> Partial:
    """Take out the one with the oldest start."""
    first, last = queue[0], queue.pop()
    if queue:
        queue[0] = last
        _sift_down(queue, 0)
    return first


def drop(queue: Queue, upto: int) -> None:
    """Take out all that began at or before a turn."""
    if not queue or queue[0].node.start > upto:
        return
    queue[:] = [partial for partial in queue if partial.node.start > upto]
    for place in range(len(queue) // 2 - 1, -1, -1):
        _sift_down(queue, place)


def _sift_down(queue: Queue, place: int) -> None:
    partial, size = queue[place], len(queue)
    while (below := 2 * place + 1) < size:
        if below + 1 < size and queue[below].node.start > queue[below + 1].node.start:
            below += 1
        if partial.node.start <= queue[below].node.start:
            break
        queue[place] = queue[below]
        place = below
    queue[place] = partial
