"""`RuleSet`: all rules of an app as the engine's `Decider`.

Finds the rules that an event concerns (subject index), decodes it as each rule's type and
drives the rule's stages.  An event that no rule's subject matches costs one dict lookup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from msgspec import Struct
from msgspec.structs import replace

from headrace.engine.decider import Policy, Queue, RunMode, Verdict, Watched
from headrace.engine.emission import Checked
from headrace.engine.errors import RuleNotFound
from headrace.engine.event import Event
from headrace.engine.projected import Folded, is_projection, own_name, recorded_name
from headrace.engine.record import EventStored, RuleMismatch
from headrace.engine.subject import is_reserved, matches
from headrace.engine.subject_index import SubjectIndex
from headrace.engine.table import Writing
from headrace.engine.timers import Timers
from headrace.triggers.automaton import Automaton
from headrace.triggers.entry import Entry
from headrace.triggers.hit import last_line
from headrace.triggers.nodes import FoldNode
from headrace.triggers.pattern import Pattern, pattern_in
from headrace.triggers.stage import Moments

WAIT: Final = "wait"
"""The name of the rule that a pattern is while a run waits for it."""
RECENT_MAX: Final = 4096
RECENT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Matched events, and their data, that are kept in memory for the runs that they lead to: twice
so many at most.  A run that comes later has them read from the log, which takes some 10 us."""


class Rule(Struct, frozen=True):
    """A rule as it was declared, without its action."""

    name: str
    pattern: Pattern[Any]
    mode: RunMode
    version: str | None = None
    """Stands for the functions of the pattern, if they cannot be digested."""
    late_ns: int | None = None
    """See `Policy`."""
    tasks: dict[str, str] = {}
    """See `Policy`."""
    warm: bool = False
    """Whether it is not to begin empty when it is new or changed."""

    def fingerprint(self) -> str:
        """Return the digest of all that decides when the rule fires (law L8)."""
        from headrace.triggers.fingerprint import fingerprint

        mode = self.mode
        parts: list[object] = [
            ["queue", mode.max, mode.overflow] if isinstance(mode, Queue) else mode
        ]
        # What is not said is not in it: rules of before are to stay what they were.
        if self.late_ns is not None:
            parts += ["late", self.late_ns]
        if self.tasks:
            parts += ["tasks", sorted(self.tasks.items())]
        return fingerprint(*self.pattern.node.parts(), *parts, version=self.version)

    def policy(self) -> Policy:
        """Return what it says of its runs."""
        return Policy(self.mode, self.late_ns, self.tasks)


class RuleSet:
    """Implements `headrace.engine.decider.Decider` for declared rules."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Take *rules* in the order of their declaration; none is active yet."""
        self._rules = {rule.name: rule for rule in rules}
        self._timers = Timers()
        self._fingerprints: dict[str, str] | None = None
        self._automata: dict[str, Automaton] = {}
        self._index: SubjectIndex[Entry] = SubjectIndex()
        self._sources: list[str] = []
        self._recent: dict[int, EventStored] = {}
        self._before: dict[int, EventStored] = {}
        self._recent_bytes = 0
        self._moments = Moments()
        self.wants_own = False
        """See `Decider`: whether any was declared that names them."""
        # Of rules that were removed or replaced, for the runs that they have left.
        self._retired: dict[str, list[Entry]] = {}

    def attach(self, timers: Timers, sources: list[str]) -> None:
        """See `Decider`."""
        self.let_go()
        self._timers = timers
        self._sources = sources
        self._recent, self._before, self._recent_bytes = {}, {}, 0
        self._automata = {}
        for rule in self._rules.values():
            self._build(rule)

    def _build(self, rule: Rule) -> None:
        automaton = self._automata[rule.name] = Automaton(
            rule.name,
            rule.pattern.node,
            rule.policy(),
            self._timers,
            # What a projection makes of an event is all that anybody wants of it.
            remember=_forget if is_projection(rule.name) else self._remember,
            make_event=self._seen,
            moments=self._moments,
        )
        for entry in automaton.entries:
            self._index.add(entry.subject, entry)
            self.wants_own = self.wants_own or is_reserved(entry.subject)

    def fingerprints(self) -> dict[str, str]:
        """See `Decider`."""
        if self._fingerprints is None:
            self._fingerprints = {name: rule.fingerprint() for name, rule in self._rules.items()}
        return self._fingerprints

    def warm(self) -> set[str]:
        """See `Decider`."""
        return {name for name, rule in self._rules.items() if rule.warm}

    def alone(self, rule: str) -> RuleSet:
        """See `Decider`."""
        return RuleSet([self._rules[rule]])

    def only(self, rule: Any) -> RuleSet:
        """See `Decider`."""
        assert isinstance(rule, Rule), rule
        return RuleSet([rule])

    def declare(self, rule: Any) -> str:
        """See `Decider`."""
        assert isinstance(rule, Rule), rule
        fingerprint = rule.fingerprint()
        self.retract(rule.name)
        self._rules[rule.name] = rule
        self.fingerprints()[rule.name] = fingerprint
        self._build(rule)
        return fingerprint

    def retract(self, rule: str) -> None:
        """See `Decider`."""
        self._rules.pop(rule, None)
        self.fingerprints().pop(rule, None)
        automaton = self._automata.pop(rule, None)
        if automaton is not None:
            assert not automaton.active, rule
            self._retired[rule] = automaton.entries
            for entry in automaton.entries:
                self._index.remove(entry)

    def watched(self, pattern: Any) -> Watched:
        """See `Decider`."""
        rule = Rule(WAIT, Pattern(pattern_in("wait", pattern)), "parallel")
        try:
            digest = rule.fingerprint()
        except TypeError:  # then what it says has to do
            digest = replace(rule, version=WAIT).fingerprint()
        found = RuleSet([rule])
        found.attach(Timers(), [])
        subjects = [entry.subject for entry in found._automata[WAIT].entries]
        return Watched(found, WAIT, subjects, pattern.node.text(), bytes.fromhex(digest))

    def let_go(self) -> None:
        """See `Decider`."""
        for automaton in self._automata.values():
            automaton.let_go()
        self._automata.clear()
        self._index = SubjectIndex()

    def activate(self, rule: str, at_ns: int) -> None:
        """See `Decider`."""
        self._automata[rule].activate(at_ns)

    def deactivate(self, rule: str) -> None:
        """See `Decider`."""
        self._automata[rule].deactivate()

    def on_event(self, sequence: int, event: EventStored) -> Sequence[Verdict]:
        """See `Decider`."""
        entries = self._index.lookup(event.subject)
        if len(entries) != 1:
            return self._on_several(entries, sequence, event) if entries else ()
        # The most frequent case, without what several need.
        entry = entries[0]
        automaton = entry.owner
        if not automaton.active:
            return ()
        try:  # `_decoded` written out: a call is dear where most events go through
            data = entry.decode(event.data)
        except Exception as error:  # noqa: BLE001 (a type's __post_init__ is user code: law L4)
            return (RuleMismatch(automaton.name, sequence, last_line(error)),)
        seen = Event(
            sequence,
            event.subject,
            data,
            event.at_ns,
            event.time_ns,
            event.id,
            event.key,
            self._sources[event.source - 1] if event.source else "",
            event.run,
            None,
            event.headers,
        )
        out: list[Verdict] = []
        if entry.filter is None:
            entry.push(seen, event, out)
        else:  # `push` written out for what has one condition: most events end here
            try:
                passes = entry.filter(seen)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 (user code: law L4)
                out.append(entry.error_of(seen, "where", error))
            else:
                if passes:
                    entry.hand_on(None, seen, event, out)
        if automaton.joins:
            automaton.flush(out)
        return out

    def on_plain(
        self, sequence: int, at_ns: int, events: Sequence[Checked], start: int
    ) -> tuple[int, Sequence[Verdict]]:
        """See `Decider`."""
        last: str | None = None
        entry: Entry | None = None
        ahead = sequence - start
        for place in range(start, len(events)):
            subject, raw, _ = events[place]
            if subject != last:
                last, entry = subject, self._lone_filter(subject)
            if entry is None:
                verdicts = self.on_event(ahead + place, EventStored(at_ns, subject, raw))
                if verdicts:
                    return place - start + 1, verdicts
                continue
            # `on_event` written out for a rule of one condition: it turns down most events.
            try:
                data = entry.decode(raw)
            except Exception as error:  # noqa: BLE001 (a type's __post_init__ is user code: law L4)
                amiss = RuleMismatch(entry.owner.name, ahead + place, last_line(error))
                return place - start + 1, (amiss,)
            seen = Event(ahead + place, subject, data, at_ns)
            try:
                passes = entry.filter(seen)  # type: ignore[misc]
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 (user code: law L4)
                return place - start + 1, (entry.error_of(seen, "where", error),)
            if passes:
                out: list[Verdict] = []
                entry.hand_on(None, seen, EventStored(at_ns, subject, raw), out)
                if out:
                    return place - start + 1, out
        return len(events) - start, ()

    def _lone_filter(self, subject: str) -> Entry | None:
        """Return the one entry that takes *subject*, if all it has before it is a condition."""
        entries = self._index.lookup(subject)
        if len(entries) != 1 or entries[0].filter is None:
            return None
        owner = entries[0].owner
        return entries[0] if owner.active and not owner.joins else None

    def _on_several(
        self, entries: Sequence[Entry], sequence: int, event: EventStored
    ) -> Sequence[Verdict]:
        out: list[Verdict] = []
        seen: Event[Any] | None = None
        automaton, decode = entries[0].owner, None
        for entry in entries:
            if entry.owner is not automaton:
                if automaton.joins:
                    automaton.flush(out)
                automaton = entry.owner
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
            out.append(RuleMismatch(entry.owner.name, sequence, last_line(error)))
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
            None,
            event.headers,
        )

    def on_timer(
        self, rule: str, slot: int, key: Any, *, due_ns: int, missed: int
    ) -> Sequence[Verdict]:
        """See `Decider`."""
        return self._automata[rule].fire(slot, key, due_ns=due_ns, missed=missed)

    def missed(self, rule: str, slot: int, key: Any, *, due_ns: int, until_ns: int) -> int:
        """See `Decider`."""
        automaton = self._automata.get(rule)
        return 0 if automaton is None else automaton.missed(slot, key, due_ns, until_ns)

    def note_start(self, at_ns: int) -> None:
        """See `Decider`."""
        self._moments.started_ns = at_ns

    def wants(self, subject: str) -> bool:
        """See `Decider`."""
        entries = self._index.lookup(subject)
        return bool(entries) and any(entry.owner.active for entry in entries)

    def counters(self) -> dict[str, dict[str, int]]:
        """See `Decider`."""
        return {
            name: {"keys": automaton.keys_count(), **automaton.counters}
            for name, automaton in self._automata.items()
        }

    def dump(self) -> Any:
        """See `Decider`."""
        return {name: automaton.dump() for name, automaton in self._automata.items()}

    def write_out(self) -> tuple[dict[str, dict[str, int]], dict[tuple[str, int], Writing]]:
        """See `Decider`."""
        active = {name: automaton for name, automaton in self._automata.items() if automaton.active}
        writings = {
            (name, number): stage.write_out()
            for name, automaton in active.items()
            for number, stage in enumerate(automaton.stages)
        }
        return {name: dict(automaton.counters) for name, automaton in active.items()}, writings

    def resume(self, rule: str, counters: dict[str, int]) -> None:
        """See `Decider`."""
        self._automata[rule].resume(counters)

    def load(self, rule: str, stage: int, entries: list[Any]) -> None:
        """See `Decider`."""
        self._automata[rule].stages[stage].load(entries)

    # ------------------------------------------------------------ projections

    def projection(self, which: Any) -> str:
        """See `Decider`."""
        own = [rule for rule in self._rules.values() if is_projection(rule.name)]
        for rule in own:
            node = rule.pattern.node
            assert isinstance(node, FoldNode), node
            if node.function is which or recorded_name(str(which)) == rule.name:
                return rule.name
        known = ", ".join(own_name(rule.name) for rule in own) or "none"
        if isinstance(which, str):
            raise RuleNotFound(f"expected a projection of the app ({known}), found {which!r}")
        found = getattr(which, "__qualname__", repr(which))
        raise TypeError(
            f"expected a projection of the app ({known}), found {found}; declare it with "
            f"@app.projection"
        )

    def folded(self, rule: str) -> Folded[Any]:
        """See `Decider`."""
        (stage,) = self._automata[rule].stages
        return cast("Folded[Any]", stage)

    # ------------------------------------------------------------ events of firings

    def _remember(self, sequence: int, event: EventStored) -> None:
        recent = self._recent
        recent[sequence] = event
        self._recent_bytes += len(event.data)
        if len(recent) >= RECENT_MAX or self._recent_bytes >= RECENT_BYTES_MAX:
            # Two halves, of which the older goes as a whole: nothing is looked for.
            self._before, self._recent, self._recent_bytes = recent, {}, 0

    def recent(self, sequence: int) -> EventStored | None:
        """Return a matched event if it is still in memory: a cache, not state."""
        return self._recent.get(sequence) or self._before.get(sequence)

    def view(self, rule: str, sequence: int, event: EventStored) -> Event[Any] | None:
        """Return *event* with the type that *rule* reads it as; ``None`` if it fits none."""
        automaton = self._automata.get(rule)
        present = [] if automaton is None else automaton.entries
        if len(present) == 1 and present[0].subject == event.subject:
            try:
                return self._seen(sequence, event, present[0].decode(event.data))
            except Exception:  # noqa: BLE001, S110 (as above: an older version may fit)
                pass
        seen = self._fitting(present, sequence, event)
        # Else it may be of a run that was left by the version before.
        return seen or self._fitting(self._retired.get(rule, []), sequence, event)

    def _fitting(
        self, entries: list[Entry], sequence: int, event: EventStored
    ) -> Event[Any] | None:
        """Return *event* as the first of *entries* reads it that takes it, or else can read it."""
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


def _forget(sequence: int, event: EventStored) -> None:
    """Keep nothing of an event."""
