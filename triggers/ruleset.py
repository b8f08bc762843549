"""`RuleSet`: all rules of an app as the engine's `Decider`.

Finds the rules that an event concerns (subject index), decodes it as each rule's type and
drives the rule's stages.  An event that no rule's subject matches costs one dict lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from headrace.engine.decider import RunMode, Verdict
from headrace.engine.event import Event
from headrace.engine.record import EventStored, RuleError, RuleMismatch
from headrace.engine.subject import matches
from headrace.engine.subject_index import SubjectIndex
from headrace.engine.table import Writing
from headrace.engine.timers import Timers
from headrace.triggers import pattern as p
from headrace.triggers.condition import test_of
from headrace.triggers.schedules import schedule_of
from headrace.triggers.stages import (
    AnyOf,
    Branch,
    Count,
    Hit,
    Key,
    Silent,
    Sink,
    Stage,
    TimedStage,
    Where,
    key_of,
    last_line,
    where_holds,
)

RECENT_MAX: Final = 16_384
"""Matched events that are kept in memory for the runs that they lead to."""


class Rule(Struct, frozen=True):
    """A rule as it was declared, without its action."""

    name: str
    pattern: p.Pattern[Any]
    mode: RunMode
    version: str | None = None
    """Stands for the functions of the pattern, if they cannot be digested."""

    def fingerprint(self) -> str:
        """Return the digest of all that decides when the rule fires (law L8)."""
        from headrace.triggers.fingerprint import fingerprint

        return fingerprint(*p.parts_of(self.pattern.node), self.mode, version=self.version)


class Entry:
    """Where events enter a rule: a subject, a type, and the conditions and key next to it."""

    __slots__ = ("automaton", "decode", "head", "subject", "then")

    def __init__(self, automaton: Automaton, node: p.FilterNode, then: Stage) -> None:
        self.automaton = automaton
        self.subject = node.subject
        self.decode: Callable[[Raw], Any] = decoder_of(node.type)
        # (is it a key, function), in written order.  Kept here so that an event that does
        # not pass costs no more than the calls of these.
        head: list[tuple[bool, Callable[[Any], Any]]] = []
        while isinstance(then, (Where, Key)):
            head.append((True, then.key) if isinstance(then, Key) else (False, then.condition))
            then = then.then
        self.head = tuple(head)
        self.then = then

    def push(self, event: Event[Any], record: EventStored, out: list[Verdict]) -> None:
        """Take an event whose subject and type fit."""
        automaton = self.automaton
        key = None
        for is_key, function in self.head:
            if is_key:
                key = key_of(automaton.name, function, event, out)
                if key is None:
                    automaton.unkeyed += 1
                    return
            else:
                # `where_holds` written out: most events end here, and a call is dear.
                try:
                    if not function(event):
                        return
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # noqa: BLE001 (user code: law L4)
                    out.append(RuleError(automaton.name, event.sequence, "where", last_line(error)))
                    return
        sequence = event.sequence
        automaton.remember(sequence, record)
        trace = record.trace or sequence
        hit = Hit(event, key, record.at_ns, (sequence,), trace, record.hops)
        self.then.push(hit, out)

    def accepts(self, event: Event[Any]) -> bool:
        """Say whether *event* passes the conditions and has a key here."""
        name, out = self.automaton.name, list[Verdict]()
        return all(
            key_of(name, function, event, out) is not None
            if is_key
            else where_holds(name, function, event, out)
            for is_key, function in self.head
        )


class Automaton:
    """One rule at work: its entries, its stages with state, and its timers' slots."""

    def __init__(
        self, rule: Rule, timers: Timers, remember: Callable[[int, EventStored], None]
    ) -> None:
        self.name = rule.name
        self.active = False
        self.unkeyed = 0
        """Events whose key was ``None``, since activation."""
        self.remember = remember
        self.entries: list[Entry] = []
        self._timers = timers
        self._timed: list[TimedStage] = []
        self._stateful: list[Count | Silent] = []
        self.joins: list[AnyOf] = []  # inner ones first
        self._build(rule.pattern.node, Sink(rule.name, rule.mode))

    def _build(self, node: p.Node, then: Stage) -> None:
        if isinstance(node, p.FilterNode):
            self.entries.append(Entry(self, node, then))
        elif isinstance(node, p.WhereNode):
            self._build(node.source, Where(self.name, test_of(node.condition), then))
        elif isinstance(node, p.KeyNode):
            self._build(node.source, Key(self.name, node.key, then, self._count_unkeyed))
        elif isinstance(node, p.CountNode):
            count = Count(self.name, node, then)
            self._stateful.append(count)
            self._build(node.source, count)
        elif isinstance(node, p.SilentNode):
            silent = Silent(
                (self.name, len(self._timed)),
                self._timers,
                then,
                for_ns=node.for_ns,
                repeats=node.repeat == "every",
                expect=node.expect,
            )
            self._timed.append(silent)
            self._stateful.append(silent)
            self._build(node.source, silent)
        elif isinstance(node, p.ScheduleNode):
            place = (self.name, len(self._timed))
            self._timed.append(schedule_of(node, place, self._timers, then))
        else:
            join = AnyOf(then)
            for number, branch in enumerate(node.branches):
                self._build(branch, Branch(join, number))
            self.joins.append(join)

    def _count_unkeyed(self) -> None:
        self.unkeyed += 1

    def activate(self, at_ns: int) -> None:
        """Begin empty and take events."""
        self.active = True
        for stage in self._timed:
            stage.start(at_ns)

    def deactivate(self) -> None:
        """Take no more events; forget everything."""
        self.active = False
        self.unkeyed = 0
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

    def missed(self, slot: int, due_ns: int, until_ns: int) -> int:
        """See `TimedStage.missed`."""
        return self._timed[slot].missed(due_ns, until_ns)

    def resume(self, unkeyed: int) -> None:
        """Take events again as if never stopped; `stages` are loaded next."""
        self.active = True
        self.unkeyed = unkeyed

    @property
    def stages(self) -> list[Count | Silent]:
        """The stages that have state of their own, in an order that the pattern gives."""
        return self._stateful

    def keys_count(self) -> int:
        """Return how many keys have state."""
        return sum(len(stage) for stage in self._stateful)

    def dump(self) -> list[Any]:
        """Return the state as data that msgspec encodes."""
        return [self.active, self.unkeyed, *(stage.dump() for stage in self._stateful)]


class RuleSet:
    """Implements `headrace.engine.decider.Decider` for declared rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Take *rules* in the order of their declaration; none is active yet."""
        self._rules = list(rules)
        self._fingerprints: dict[str, str] | None = None
        self._automata: dict[str, Automaton] = {}
        self._index: SubjectIndex[Entry] = SubjectIndex()
        self._sources: list[str] = []
        self._recent: dict[int, EventStored] = {}

    def attach(self, timers: Timers, sources: list[str]) -> None:
        """See `Decider`."""
        self._sources = sources
        self._index = SubjectIndex()
        self._recent = {}
        self._automata = {}
        for rule in self._rules:
            automaton = self._automata[rule.name] = Automaton(rule, timers, self._remember)
            for entry in automaton.entries:
                self._index.add(entry.subject, entry)

    def fingerprints(self) -> dict[str, str]:
        """See `Decider`."""
        if self._fingerprints is None:
            self._fingerprints = {rule.name: rule.fingerprint() for rule in self._rules}
        return self._fingerprints

    def activate(self, rule: str, at_ns: int) -> None:
        """See `Decider`."""
        self._automata[rule].activate(at_ns)

    def deactivate(self, rule: str) -> None:
        """See `Decider`."""
        self._automata[rule].deactivate()

    def on_event(self, sequence: int, event: EventStored) -> Sequence[Verdict]:
        """See `Decider`."""
        entries = self._index.lookup(event.subject)
        if not entries:
            return ()
        out: list[Verdict] = []
        decode = None
        seen: Event[Any] | None = None
        automaton = entries[0].automaton
        for entry in entries:
            if entry.automaton is not automaton:
                if automaton.joins:
                    automaton.flush(out)
                automaton = entry.automaton
            if not automaton.active:
                continue
            if entry.decode is not decode or seen is None:
                seen = self._decoded(entry, sequence, event, out)
                if seen is None:
                    continue
                decode = entry.decode
            entry.push(seen, event, out)
        if automaton.joins:
            automaton.flush(out)
        return out

    def _decoded(
        self, entry: Entry, sequence: int, event: EventStored, out: list[Verdict]
    ) -> Event[Any] | None:
        try:
            data = entry.decode(event.data)
        except Exception as error:  # noqa: BLE001 (a type's __post_init__ is user code: law L4)
            out.append(RuleMismatch(entry.automaton.name, sequence, last_line(error)))
            return None
        return self._seen(sequence, event, data)

    def _seen(self, sequence: int, event: EventStored, data: Any) -> Event[Any]:
        return Event(
            sequence,
            event.subject,
            data,
            event.at_ns,
            event.time_ns,
            event.id,
            event.key,
            self._sources[event.source - 1] if event.source else "",
            event.run,
        )

    def on_timer(
        self, rule: str, slot: int, key: Any, *, due_ns: int, missed: int
    ) -> Sequence[Verdict]:
        """See `Decider`."""
        return self._automata[rule].fire(slot, key, due_ns=due_ns, missed=missed)

    def missed(self, rule: str, slot: int, *, due_ns: int, until_ns: int) -> int:
        """See `Decider`."""
        automaton = self._automata.get(rule)
        return 0 if automaton is None else automaton.missed(slot, due_ns, until_ns)

    def wants(self, subject: str) -> bool:
        """See `Decider`."""
        return any(entry.automaton.active for entry in self._index.lookup(subject))

    def counters(self) -> dict[str, dict[str, int]]:
        """See `Decider`."""
        return {
            name: {"keys": automaton.keys_count(), "unkeyed": automaton.unkeyed}
            for name, automaton in self._automata.items()
        }

    def dump(self) -> Any:
        """See `Decider`."""
        return {name: automaton.dump() for name, automaton in self._automata.items()}

    def write_out(self) -> tuple[dict[str, int], dict[tuple[str, int], Writing]]:
        """See `Decider`."""
        active = {name: automaton for name, automaton in self._automata.items() if automaton.active}
        writings = {
            (name, number): stage.write_out()
            for name, automaton in active.items()
            for number, stage in enumerate(automaton.stages)
        }
        return {name: automaton.unkeyed for name, automaton in active.items()}, writings

    def resume(self, rule: str, unkeyed: int) -> None:
        """See `Decider`."""
        self._automata[rule].resume(unkeyed)

    def load(self, rule: str, stage: int, entries: list[Any]) -> None:
        """See `Decider`."""
        self._automata[rule].stages[stage].load(entries)

    # ------------------------------------------------------------ events of firings

    def _remember(self, sequence: int, event: EventStored) -> None:
        recent = self._recent
        recent[sequence] = event
        if len(recent) > 2 * RECENT_MAX:
            # Half at once: the first entry of a dict is slow to find after deletions.
            for old in sorted(recent)[:RECENT_MAX]:
                del recent[old]

    def recent(self, sequence: int) -> EventStored | None:
        """Return a matched event if it is still in memory: a cache, not state."""
        return self._recent.get(sequence)

    def view(self, rule: str, sequence: int, event: EventStored) -> Event[Any] | None:
        """Return *event* with the type that *rule* reads it as; ``None`` if it fits none."""
        automaton = self._automata.get(rule)
        entries = [] if automaton is None else automaton.entries
        fallback: Event[Any] | None = None
        for entry in entries:
            if not matches(entry.subject, event.subject):
                continue
            try:
                data = entry.decode(event.data)
            except Exception:  # noqa: BLE001, S112 (as above: the next may fit)
                continue
            seen = self._seen(sequence, event, data)
            if len(entries) == 1 or entry.accepts(seen):
                return seen
            fallback = fallback or seen
        return fallback


@lru_cache(maxsize=1024)
def decoder_of(kind: Any) -> Callable[[Raw], Any]:
    """Return one decoder for each type, so that rules of one type share the decoding."""
    return msgspec.msgpack.Decoder(kind).decode
