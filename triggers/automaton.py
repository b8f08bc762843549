"""`Automaton`: one rule at work: its entries, its stages with state, and its timers' slots."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from headrace.engine.decider import Policy, Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored, decode
from headrace.engine.table import Writing
from headrace.engine.timers import Timers
from headrace.triggers import nodes as n
from headrace.triggers.checks import KEYS_MAX
from headrace.triggers.condition import test_of
from headrace.triggers.entry import Entry
from headrace.triggers.hit import Seen
from headrace.triggers.joins import AnyOf, Branch, Join
from headrace.triggers.nodes_clock import AtNode, CronNode, EveryNode
from headrace.triggers.nodes_joined import AbsentNode, AllNode, AnyNode, SequenceNode
from headrace.triggers.reach import event_time_of, without_relative
from headrace.triggers.stage import Counters, Moments, Place, Stage, TimedStage
from headrace.triggers.stages import Aggregate, Key, Sink, Where

if TYPE_CHECKING:
    from headrace.triggers.event_time import EventClock, Stepwise

MakeEvent = Callable[[int, EventStored, Any], Event[Any]]


class StatefulStage(Protocol):
    """A stage whose state is written to snapshots."""

    def __len__(self) -> int: ...

    def clear(self) -> None:
        """Begin empty."""
        ...

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        ...

    def write_out(self) -> Writing:
        """Begin to write the state out."""
        ...

    def load(self, entries: list[Any]) -> None:
        """Take in what was written out."""
        ...


class Level(Enum):
    """Which conditions before an operator tell it of what they turn down."""

    NONE = "none"
    NEAREST = "those next to it, keys aside"
    REST = "the rest of those next to it"
    ALL = "all of the chain"


class Automaton:
    """One rule at work."""

    def __init__(
        self,
        name: str,
        node: n.Node,
        policy: Policy,
        timers: Timers,
        *,
        remember: Callable[[int, EventStored], None],
        make_event: MakeEvent,
        moments: Moments,
    ) -> None:
        self.name = name
        self.active = False
        self.remember = remember
        self.counters: Counters = {}
        """What is counted since activation and not recorded, such as ``unkeyed``."""
        self.entries: list[Entry] = []
        self.joins: list[Stepwise] = []  # the clock of event time, then inner ones first
        self._make_event = make_event
        self._moments = moments
        self._timers = timers
        self._timed: list[TimedStage] = []
        self._stateful: list[StatefulStage] = []
        self._clock: EventClock | None = None
        if (gate := event_time_of(node)) is not None:
            self._clock = self._make_clock(gate)
        self._build(node, Sink(name, policy, by_event_time=self._clock is not None))

    def let_go(self) -> None:
        """Be of no use any more: what is made of it holds it, and would not be freed with it."""
        self.active = False
        for part in (self.entries, self.joins, self._timed, self._stateful):
            part.clear()
        self._clock = None

    # ------------------------------------------------------------ build

    def _build(self, node: n.Node, then: Stage, level: Level = Level.NONE) -> None:
        """Make the stages of *node*, which hand on to *then*: the last operator first."""
        _BUILD[type(node)](self, node, then, level)

    def _build_filter(self, node: n.FilterNode, then: Stage, level: Level) -> None:
        self.entries.append(Entry(self, node, then, number=len(self.entries)))

    def _build_where(self, node: n.WhereNode, then: Stage, level: Level) -> None:
        is_level = level is not Level.NONE
        stage = Where(self.name, test_of(node.condition), then, is_level=is_level)
        self._build(node.source, stage, Level.REST if level is Level.NEAREST else level)

    def _build_key(self, node: n.KeyNode, then: Stage, level: Level) -> None:
        stage = Key(self.name, node.key, then, self.note_unkeyed)
        self._build(node.source, stage, Level.NONE if level is Level.REST else level)

    def _build_aggregate(self, node: n.AggregateNode, then: Stage, level: Level) -> None:
        self._build(node.source, Aggregate(self._place(node), node.fold, then))

    def _build_any(self, node: AnyNode, then: Stage, level: Level) -> None:
        self._build_join(AnyOf(then), node.branches)

    def _build_join(
        self, join: Join, branches: tuple[n.Node, ...], level: Level = Level.NONE
    ) -> None:
        for number, branch in enumerate(branches):
            self._build(branch, Branch(join, number), level)
        self.joins.append(join)

    def _build_sequence(self, node: SequenceNode, then: Stage, level: Level) -> None:
        from headrace.triggers.sequence import sequence_of

        stage = sequence_of(self._place(node), node, then)
        self._stateful.append(stage)
        self._timed.append(cast("TimedStage", stage))
        branches = tuple(without_relative(step.source) for step in node.steps)
        self._build_join(stage, branches, Level.ALL if stage.needs_stream else Level.NONE)

    def _build_schedule(self, node: n.Node, then: Stage, level: Level) -> None:
        from headrace.triggers.schedules import schedule_of

        schedule = schedule_of(cast("Any", node), self._place(node), then)
        self._timed.append(schedule)

    def _build_keyed(self, node: n.Node, then: Stage, level: Level) -> None:
        """Make a stage that has state."""
        stage = _stage_of(node, self._place(node), then)
        self._stateful.append(stage)
        if hasattr(stage, "fire"):
            self._timed.append(cast("TimedStage", stage))
        if isinstance(stage, Join):
            self._build_join(stage, node.sources)
        else:
            is_hold = isinstance(node, n.HoldNode)
            self._build(node.sources[0], stage, Level.NEAREST if is_hold else Level.NONE)

    def _make_clock(self, node: n.EventTimeNode) -> EventClock:
        from headrace.triggers.event_time import EventClock

        clock = EventClock(self._place(node), node, self._timed, self.joins)
        self._timed.append(cast("TimedStage", clock))
        self._stateful += clock.parts
        self.joins.append(clock)
        return clock

    def _build_event_time(self, node: n.EventTimeNode, then: Stage, level: Level) -> None:
        assert self._clock is not None
        self._build(node.source, self._clock.gate(node, then))

    def _place(self, node: n.Node) -> Place:
        clock = self._clock
        return Place(
            self.name,
            len(self._timed),
            self._timers if clock is None else clock.timers,
            keys_max_of(node),
            self._recall,
            self.counters,
            self._moments if clock is None else clock.moments,
        )

    def _recall(self, entry: int, sequence: int, raw: bytes) -> Seen:
        """Make the event again that a stage has written out."""
        record = decode(raw)
        assert isinstance(record, EventStored), record
        data = self.entries[entry].decode(record.data)
        return Seen(self._make_event(sequence, record, data), record, entry)

    # ------------------------------------------------------------ work

    def note_unkeyed(self) -> None:
        """Count an event that has no key."""
        self.counters["unkeyed"] = self.counters.get("unkeyed", 0) + 1

    def activate(self, at_ns: int) -> None:
        """Begin empty and take events."""
        self.active = True
        for stage in self._timed:
            stage.start(at_ns)

    def deactivate(self) -> None:
        """Take no more events; forget everything."""
        self.active = False
        self.counters.clear()
        self._timers.disarm_owner(self.name)
        for stage in self._stateful:
            stage.clear()

    def flush(self, out: list[Verdict]) -> None:
        """End the step of one event or timer: it counts once (law L5)."""
        for join in self.joins:
            join.flush(out)

    def fire(self, slot: int, key: Any, *, due_ns: int, missed: int) -> list[Verdict]:
        """Take a timer of this rule that was due."""
        out: list[Verdict] = []
        self._timed[slot].fire(key, due_ns=due_ns, missed=missed, out=out)
        self.flush(out)
        return out

    def missed(self, slot: int, key: Any, due_ns: int, until_ns: int) -> int:
        """See `TimedStage.missed`."""
        return self._timed[slot].missed(key, due_ns, until_ns)

    def resume(self, counters: Counters) -> None:
        """Take events again as if never stopped; `stages` are loaded next."""
        self.active = True
        self.counters.clear()
        self.counters.update(counters)

    @property
    def stages(self) -> list[StatefulStage]:
        """The stages that have state of their own, in an order that the pattern gives."""
        return self._stateful

    def keys_count(self) -> int:
        """Return how many keys have state."""
        return sum(len(stage) for stage in self._stateful)

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        counters = sorted(self.counters.items())
        return [self.active, counters, *(stage.dump() for stage in self._stateful)]


def keys_max_of(node: n.Node) -> int:
    """Return how many keys an operator may have: as the nearest ``.key`` before it says."""
    if isinstance(node, n.KeyNode):
        return node.keys_max
    return max(map(keys_max_of, node.sources), default=KEYS_MAX)


def _stage_of(node: n.Node, place: Place, then: Stage) -> Any:
    """Return the stage of an operator; its module is loaded only now."""
    import importlib

    module, name = _STAGES[type(node)]
    make = getattr(importlib.import_module(f"headrace.triggers.{module}"), name)
    return make(place, node, then)


_STAGES: Final[dict[type[n.Node], tuple[str, str]]] = {
    n.BatchNode: ("batch", "Batch"),
    n.CountNode: ("count", "count_of"),
    n.CrossesNode: ("level", "Crosses"),
    n.DebounceNode: ("pace", "Debounce"),
    n.DedupeNode: ("dedupe", "Dedupe"),
    n.FoldNode: ("fold", "Fold"),
    n.HoldNode: ("level", "Hold"),
    n.RateLimitNode: ("rate_limit", "RateLimit"),
    n.SilentNode: ("silent", "Silent"),
    n.ThrottleNode: ("pace", "throttle_of"),
    n.WindowNode: ("windows", "Windows"),
    AbsentNode: ("absent", "Absent"),
    AllNode: ("all_of", "AllOf"),
}
"""Where the stage of an operator is, and what makes it: ``(place, node, then)``."""

_Build = Callable[[Automaton, Any, Stage, Level], None]
_BUILD: Final[dict[type[n.Node], _Build]] = {
    n.FilterNode: Automaton._build_filter,
    n.WhereNode: Automaton._build_where,
    n.KeyNode: Automaton._build_key,
    n.EventTimeNode: Automaton._build_event_time,
    n.AggregateNode: Automaton._build_aggregate,
    AnyNode: Automaton._build_any,
    SequenceNode: Automaton._build_sequence,
    **dict.fromkeys((EveryNode, CronNode, AtNode), Automaton._build_schedule),
    **dict.fromkeys(_STAGES, Automaton._build_keyed),
}
